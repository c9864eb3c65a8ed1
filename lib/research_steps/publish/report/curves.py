"""The curves of a report: what trials told while they ran, candidates beside their baseline; shown, and never judged.

They come from where the tracker wrote them, the log of a W&B run in the trial's directory, or, for what a trial told by
`progress` or Levanter's JSON logger, from its record, which holds that.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from research_steps.errors import SurfaceError
from research_steps.evidence.claim_text import changes_text
from research_steps.evidence.standing import claims_in
from research_steps.evidence.state import ThreadState
from research_steps.journal.snapshot import Snapshot
from research_steps.records.encoding import Stored
from research_steps.records.model import EntryRecord, TrialRecord
from research_steps.trial.progress import Curve, numbers_in, thinned
from research_steps.trial.tracked import files_of
from research_steps.trial.wandb_log import some_rows

# Points of all lines together, and of one; trials whose lines are drawn, and metrics that are drawn of them.
POINTS, MOST, LEAST = 20_000, 200, 50
TRIALS, NAMES = 100, 4
# How much of W&B's files is read for one report (bytes).
READ = 30_000_000
BASELINE = "baseline"


@dataclass(frozen=True)
class Curves:
    """`lines` are by the trial's ID and the metric, of these `names`; `entries` have the trials of each entry, and what
    each of them is. `left_out` says of what is not drawn why."""

    names: tuple[str, ...]
    lines: dict[str, dict[str, Curve]]
    entries: dict[str, list[tuple[str, str]]]
    left_out: tuple[str, ...]


def curves(state: ThreadState, known: Snapshot, store: str) -> Curves:
    """Those of the newest entries first, until there are enough; W&B's files lie below the store with this address."""
    asked = {entry.record.id: _sides(entry.record, state, known) for entry in reversed(state.entries)}
    trials = {trial.sha256: trial.record for sides in asked.values() for trial, _ in sides if _tells(trial.record)}
    reader = _Reader(store)
    newest = list(trials.values())[:TRIALS]
    rows = max(LEAST, min(MOST, POINTS // (NAMES * len(newest) or 1)))
    told = {record.id: reader.told(record, rows) for record in newest}
    names = _names(state, told.values())
    lines = {id: drawn for id, of in told.items() if (drawn := _drawn(of, names, rows))}
    entries = {}
    for id, sides in asked.items():
        own = [(trial.record.id, what) for trial, what in sides if trial.record.id in lines]
        # Beside what an entry is about, its baseline alone is no comparison.
        if any(what != BASELINE for _, what in own):
            entries[id] = own
    return Curves(tuple(names), lines, entries, tuple(reader.left_out(len(trials))))


def _drawn(told: dict[str, Curve], names: Iterable[str], most: int) -> dict[str, Curve]:
    """Of these metrics, as many points and digits as a plot can show."""
    curves = {name: thinned(told[name], most) for name in names if name in told}
    return {name: [(step, float(f"{value:.4g}")) for step, value in curve] for name, curve in curves.items()}


def _tells(record: TrialRecord) -> bool:
    return bool(record.curves or record.runs)


def _sides(entry: EntryRecord, state: ThreadState, known: Snapshot) -> list[tuple[Stored[TrialRecord], str]]:
    """The trials of an entry, each with what it changes, and those of the baseline that it was compared with."""
    own = {row.trial: changes_text(row.changes) or "baseline case" for row in entry.rows}
    claim = next(iter(claims_in(entry)), None)
    baseline = dict.fromkeys(known.floor_trials(claim) if claim is not None else (), BASELINE)
    sides = {ref: what for ref, what in {**baseline, **own}.items() if ref.sha256 not in state.retracted}
    return [(known.trials[ref.sha256], what) for ref, what in sides.items() if ref.sha256 in known.trials]


def _names(state: ThreadState, told: Iterable[dict[str, Curve]]) -> list[str]:
    """The metrics that are drawn: those of the series, then losses, then what most trials told."""
    counts = Counter(name for lines in told for name in lines)
    metrics = [metric.name for metric in state.series.metrics]
    order = sorted(counts, key=lambda name: (name not in metrics, "loss" not in name, -counts[name], name))
    return order[:NAMES]


class _Reader:
    """Reads what trials told, as long as it is little enough, and keeps what it left."""

    def __init__(self, store: str) -> None:
        self._store, self._left = store, READ
        self._away: list[tuple[TrialRecord, Path]] = []
        self._large: list[TrialRecord] = []

    def told(self, record: TrialRecord, most: int) -> dict[str, Curve]:
        lines = dict(record.curves or {})
        for files in files_of(self._store, record).values():
            try:
                size = sum(file.stat().st_size for file in files)
                if size > self._left:
                    self._large.append(record)
                    continue
                self._left -= size
                lines |= _of_rows(some_rows(files, most))
            except (OSError, SurfaceError):
                self._away.append((record, files[0]))
        return lines

    def left_out(self, trials: int) -> Iterable[str]:
        """What is not drawn of so many trials, a sentence for each reason."""
        if self._away:
            record, file = self._away[0]
            # Below the store, whose own address is nobody else's business.
            where, others = "/".join(file.parent.parts[-5:]), _others(self._away)
            yield f"The W&B run of {record.id}{others} is not on this machine: it was looked for in {where}."
        if self._large:
            first = self._large[0].id
            yield f"The W&B run of {first}{_others(self._large)} is left out: more than {READ // 10**6} MB are not read."
        if trials > TRIALS:
            yield f"Drawn are the {TRIALS} newest trials of {trials}."


def _others(left: Sequence[object]) -> str:
    return f" (and {len(left) - 1} more)" if len(left) > 1 else ""


def _of_rows(rows: Iterable[dict[str, Any]]) -> dict[str, Curve]:
    """Each metric of a W&B run by its step; the last, of a step that was done again."""
    points: dict[str, dict[int, float]] = {}
    for row in rows:
        step = row.get("_step")
        if isinstance(step, int):
            for name, value in numbers_in(row):
                if not name.startswith("_") and math.isfinite(value):
                    points.setdefault(name, {})[step] = value
    return {name: sorted(curve.items()) for name, curve in points.items()}
