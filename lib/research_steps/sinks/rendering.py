"""An entry of the logbook, and its living part, as Markdown made from records.

Pure functions: the same records give the same bytes. Entries follow the research logbook's template: Hypothesis,
Command, Config, Result, Interpretation, Next action, then Commit Hash and Links.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from research_steps.comparison import better, ranked
from research_steps.record import EntryRecord, Provenance, Ratio, Row, Seal, parse_utc
from research_steps.series import Series
from research_steps.sinks.markdown import block, code, prose, table

INDENT = "  "
NOTHING_YET = "## TL;DR\n- Nothing was recorded yet."


def entry(record: EntryRecord, series: Series, seal: Seal | None) -> str:
    """One entry, from its heading to its last line, without markers and without a final LF."""
    when = parse_utc(record.started_at).strftime("%Y-%m-%d %H:%M")
    lines = [
        f"### {when} - {record.id} {prose(record.label)}".rstrip(),
        "",
        f"- Hypothesis: {prose(record.hypothesis) or '–'}",
        f"- Command: {code(record.provenance.command)}",
        f"- Config: {_config(record)}",
        f"- Result: {'**failed**: ' if record.status == 'failed' else ''}{prose(record.result)}",
    ]
    if record.rows:
        lines += ["", _rows(record.rows, series.primary.name), ""]
    if record.error is not None:
        lines += [
            "",
            block("\n".join([f"{record.error.type}: {record.error.message}", *record.error.frames]), INDENT),
            "",
        ]
    lines += [
        f"- Interpretation: {prose(record.interpretation) or '–'}",
        f"- Next action: {prose(record.next_action) or '–'}",
        f"- Commit Hash: {_commit(record.provenance)}",
        f"- Links: {_links(record, series.topic, seal)}",
    ]
    return "\n".join(lines)


def living(series: Series, entries: Sequence[EntryRecord]) -> str:
    """The managed block at the head: what holds now. `entries` in the order they finished."""
    done = [entry for entry in entries if entry.status == "ok"]
    lines = ["## TL;DR", f"- {_best(series, done)}"]
    interpreted = [entry for entry in done if entry.step == "interpret"]
    if interpreted:
        last = interpreted[-1]
        lines += [f"- {last.id}: {prose(last.interpretation)}", f"- Next: {prose(last.next_action)}"]
    lines += ["", "## Baseline", *_baselines(done, series.primary.name), "", "## Hypothesis queue"]
    lines += [f"- {hypothesis.id} (active): {prose(hypothesis.text)}" for hypothesis in series.hypotheses] or ["- none"]
    lines += ["", "## Failures", *_failures(entries)]
    return "\n".join(lines)


def _best(series: Series, entries: Sequence[EntryRecord]) -> str:
    name = series.primary.name
    rows = [row for entry in entries if entry.step in ("sweep", "interact") for row in entry.rows]
    found = [row for row in ranked(series.primary, rows) if name in row.ratios and row.changes]
    if not found or not better(series.primary, found[0].ratios[name].median, 1.0):
        return "Nothing measured yet is better than the baseline."
    row = found[0]
    what = f"{row.ratios[name].median:.3f} × the baseline's {prose(name)}"
    return f"Best so far: {code(_changes(row))} with {what} ({row.trial.id})."


def _baselines(entries: Sequence[EntryRecord], primary: str) -> list[str]:
    lines = []
    for entry in entries:
        if entry.step == "baseline":
            values = entry.rows[0].values if entry.rows else {}
            numbers = ", ".join(f"{name} {values[name]:.6g}" for name in _primary_first(values, primary))
            lines += [
                f"- {entry.id} {prose(entry.label)}",
                f"  - Date: {entry.started_at[:10]}",
                f"  - Code refs: {code(str(entry.config.get('measure')))} at {_commit(entry.provenance)}",
                f"  - Baseline numbers: {prose(numbers)}",
            ]
    return lines or ["- none yet"]


def _failures(entries: Sequence[EntryRecord]) -> list[str]:
    lines = {}
    for entry in entries:
        for row in entry.rows:
            if row.status == "failed":
                lines[row.trial.id] = f"- {row.trial.id} {code(_changes(row))}: {code(row.note)}"
        if entry.status == "failed":
            lines[entry.id] = f"- {entry.id} {prose(entry.label)}: {prose(entry.result)}"
    return list(lines.values()) or ["- none"]


def _config(record: EntryRecord) -> str:
    parts = [f"{prose(name)} {code(_spelled(value))}" for name, value in record.config.items()]
    return "; ".join(parts) or "–"


def _spelled(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{name}={_spelled(item)}" for name, item in value.items())
    if isinstance(value, list):
        return ", ".join(_spelled(item) for item in value)
    return str(value)


def _rows(rows: Sequence[Row], primary: str) -> str:
    metrics = _primary_first({name for row in rows for name in row.values}, primary)
    header = ["trial", "changed", f"{prose(primary)} ÷ baseline", *map(prose, metrics), "note"]
    lines = []
    for row in rows:
        cells = [row.trial.id, code(_changes(row)), _ratio(row.ratios.get(primary))]
        cells += [f"{row.values[name]:.6g}" if name in row.values else "–" for name in metrics]
        note = f"{row.status}: {row.note}" if row.status != "ok" else row.note
        if not row.measured_here:
            note = f"measured before; {note}" if note else "measured before"
        lines.append([*cells, code(note) if note else ""])
    return table(header, lines, INDENT)


def _primary_first(names: Iterable[str], primary: str) -> list[str]:
    """Metric names, the primary one first; without it when nothing was measured."""
    return sorted(names, key=lambda name: (name != primary, name))


def _changes(row: Row) -> str:
    changes = " ".join(f"{name}={_spelled(value)}" for name, value in row.changes.items()) or "baseline case"
    return f"{changes} #{row.replicate}" if row.replicate else changes


def _ratio(ratio: Ratio | None) -> str:
    if ratio is None:
        return "–"
    if ratio.pairs == 0:
        return f"{ratio.median:.3f} (unpaired)"
    return f"{ratio.median:.3f} ({ratio.low:.3f} to {ratio.high:.3f}, {ratio.pairs} pairs)"


def _commit(provenance: Provenance) -> str:
    text = code(provenance.commit) if provenance.commit else "none"
    if provenance.branch:
        text += f" on {code(provenance.branch)}"
    if provenance.patch:
        text += f", with patch {code(provenance.patch)}"
    if provenance.patch_note:
        text += f" ({prose(provenance.patch_note)})"
    return text


def _links(record: EntryRecord, topic: str, seal: Seal | None) -> str:
    parts = [f"records [{record.id}.jsonl]({topic}/{record.id}.jsonl)"]
    if record.inputs:
        parts.append(f"rests on {', '.join(ref.id for ref in record.inputs)}")
    if seal is not None:
        parts.append(f"tag {code(seal.tag)} at {code(seal.commit)}")
    parts.append(f"output {code(record.step_key)} in the store")
    parts.append(f"by {prose(record.provenance.actor.name)} ({record.provenance.actor.kind})")
    return "; ".join(parts)
