"""What the plots of a report show, as plain data: the climb, the samples of each trial, and curves.

Numbers have as many digits as a plot can show; the tables have the others.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from research_steps.evidence.claim_text import changes_text, claim_text
from research_steps.evidence.climb import Attempt, climb
from research_steps.evidence.state import ThreadState
from research_steps.journal.snapshot import Snapshot
from research_steps.publish.markdown import one_line
from research_steps.publish.report.curves import Curves
from research_steps.records.model import EntryRecord, TrialRecord
from research_steps.records.step_kinds import Sweep

# Samples of all trials together, and of one side of one trial.
SAMPLES, MOST, LEAST = 80_000, 200, 10


def plots(state: ThreadState, known: Snapshot, curves: Curves) -> dict[str, Any]:
    """All of it, as JSON takes it."""
    primary = state.series.primary
    way = climb(state)
    attempts = [_attempt(number, attempt) for number, attempt in enumerate(way.attempts, 1)]
    steps = [
        {
            "case": one_line(step.case),
            "n": step.attempt,
            "y": _short(step.claim.estimate),
            "says": claim_text(step.claim),
        }
        for step in way.steps
    ]
    return {
        "metric": primary.name,
        "direction": primary.direction,
        "estimand": way.estimand,
        "attempts": attempts,
        "steps": steps,
        "samples": dict(_samples(state, known)),
        "names": curves.names,
        "lines": curves.lines,
        "curves": {id: [(trial, one_line(what)) for trial, what in own] for id, own in curves.entries.items()},
    }


def _attempt(number: int, attempt: Attempt) -> dict[str, Any]:
    told = {
        "n": number,
        "id": attempt.row.trial.id,
        "kind": attempt.outcome,
        "case": one_line(attempt.case),
        "what": one_line(changes_text(attempt.row.changes)),
        "date": attempt.entry.finished_at[:10],
        "entry": attempt.entry.id,
        "y": _short(attempt.estimate),
        "low": _short(attempt.low),
        "high": _short(attempt.high),
        "x": _axis_value(attempt.entry, attempt.row.changes),
    }
    return {name: value for name, value in told.items() if value is not None}


def _axis_value(entry: EntryRecord, changes: dict[str, Any]) -> float | None:
    """The value of the one axis that a sweep varies, where that is a number."""
    axis = entry.details.axis if isinstance(entry.details, Sweep) else ""
    value = changes.get(axis) if set(changes) == {axis} else None
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _samples(state: ThreadState, known: Snapshot) -> Iterator[tuple[str, dict[str, Any]]]:
    """Those on the primary metric of each trial that is shown, evenly spaced, by the trial's ID."""
    refs = {row.trial.id: row.trial for entry in reversed(state.entries) for row in entry.record.rows}
    most = max(LEAST, min(MOST, SAMPLES // (2 * len(refs) or 1)))
    metric = state.series.primary.name
    for trial in known.trials_of(refs.values()):
        record: TrialRecord = trial.record
        candidate = record.samples.candidate.get(metric, []) if record.samples else []
        if record.samples and candidate:
            each = -(-len(candidate) // most)
            told: dict[str, Any] = {"of": len(candidate), "each": each, "candidate": _thinned(candidate, each)}
            if record.samples.paired:
                told["baseline"] = _thinned(record.samples.baseline.get(metric, []), each)
            ratio = record.ratios.get(metric)
            if ratio is not None and ratio.pairs:
                told["ratio"] = [_short(ratio.median), _short(ratio.low), _short(ratio.high)]
            yield record.id, told


def _thinned(values: Sequence[float], each: int) -> list[float | None]:
    return [_short(value) for value in values[::each]]


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")
