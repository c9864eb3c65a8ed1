"""What can be said of measured entries by rule, in sentences, and what to do next.

It states what was measured and what is still unknown. It gives no verdict: the medians and quartiles that it cites
describe samples, they test nothing.
"""

from collections.abc import Sequence

from research_steps.comparison import better, ranked
from research_steps.record import EntryRecord, Row
from research_steps.series import Series


def interpret_rows(series: Series, rows: Sequence[Row]) -> tuple[str, str]:
    """The interpretation and the next action of one sweep or interaction, whose rows come best first."""
    top = _compared_rows(series, rows)[:1]
    sentences = [_best(series, top[0])] if top else ["No candidate was measured against the baseline."]
    sentences += _weaknesses(rows)
    if not top:
        return " ".join(sentences), "Mend what failed, or sweep other values."
    if not better(series.primary, top[0].ratios[series.primary.name].median, 1.0):
        return " ".join(sentences), "Nothing beat the baseline: try other values, or stop."
    return " ".join(sentences), f"Replicate {top[0].trial.id} before anything rests on it."


def interpret_entries(series: Series, entries: Sequence[EntryRecord]) -> tuple[str, str]:
    """The interpretation and the next action over several entries."""
    sentences = []
    best: Row | None = None
    replicated: list[dict[str, object]] = []
    name = series.primary.name
    for entry in entries:
        rows = _compared_rows(series, entry.rows)
        if entry.step in ("sweep", "interact") and rows:
            sentences.append(f"{entry.id}: {_best(series, rows[0])}")
            if best is None or better(series.primary, rows[0].ratios[name].median, best.ratios[name].median):
                best = rows[0]
        elif entry.step == "replicate" and rows:
            sentences.append(f"{entry.id}: {_agreement(series, rows)}")
            replicated.append(rows[0].changes)
    sentences += _weaknesses([row for entry in entries for row in entry.rows])
    if best is None:
        return " ".join(sentences) or "Nothing was measured against the baseline.", "Measure candidates in a sweep."
    if not better(series.primary, best.ratios[name].median, 1.0):
        return " ".join(sentences), "Nothing beat the baseline: try other candidates, or stop."
    if best.changes not in replicated:
        return " ".join(sentences), f"Replicate {best.trial.id} ({spelled(best.changes)}) before anything rests on it."
    return " ".join(sentences), f"Check {spelled(best.changes)} at other shapes before moving the baseline to it."


def spelled(changes: dict[str, object]) -> str:
    """A candidate as what it changes in the baseline case."""
    return " ".join(f"{name}={value}" for name, value in changes.items()) or "baseline case"


def _compared_rows(series: Series, rows: Sequence[Row]) -> list[Row]:
    return [row for row in ranked(series.primary, rows) if series.primary.name in row.ratios and row.changes]


def _best(series: Series, row: Row) -> str:
    ratio = row.ratios[series.primary.name]
    how = f"median of {ratio.pairs} pairs" if ratio.pairs else "one unpaired comparison"
    spread = f", middle half {ratio.low:.3f} to {ratio.high:.3f}" if ratio.pairs > 1 else ""
    what = f"{ratio.median:.3f} × the baseline's {series.primary.name}"
    return f"{spelled(row.changes)} is best with {what} ({how}{spread})."


def _agreement(series: Series, rows: Sequence[Row]) -> str:
    medians = sorted(row.ratios[series.primary.name].median for row in rows)
    agree = all(better(series.primary, median, 1.0) for median in medians)
    further = f"{len(medians)} further process{'es' if len(medians) > 1 else ''}"
    range_ = f"{medians[0]:.3f} to {medians[-1]:.3f} × the baseline"
    return f"{spelled(rows[0].changes)} gave {range_} in {further}, {'all' if agree else 'not all'} better than it."


def _weaknesses(rows: Sequence[Row]) -> list[str]:
    sentences = [
        f"{row.trial.id} ({spelled(row.changes)}) failed: {row.note.rstrip('.')}."
        for row in rows
        if row.status == "failed"
    ]
    disturbed = dict.fromkeys(row.trial.id for row in rows if row.status == "ok" and row.contended)
    if disturbed:
        sentences.append(f"Measured beside other load, so weak evidence: {', '.join(disturbed)}.")
    return sentences
