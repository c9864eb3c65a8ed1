"""Rows: what an entry's table says of each trial."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from research_steps.evidence.effects import medians, unpaired_ratios
from research_steps.evidence.judgement import CONTENDED, ROUTINE_NOTE, is_routine
from research_steps.records.encoding import Stored
from research_steps.records.model import InterruptedRecord, Row


@dataclass(frozen=True)
class Trial:
    """A trial's standing record; `measured_here` is False when the journal had it already. `note` is for its row."""

    stored: Stored[Any]
    measured_here: bool
    note: str = ""


def row_of(trial: Trial, changes: dict[str, Any], baseline: Mapping[str, float] | None = None) -> Row:
    """The row of a trial with these `changes` to the baseline case, whose values stand in where nothing was paired."""
    record = trial.stored.record
    if isinstance(record, InterruptedRecord):
        return Row(
            trial=trial.stored.ref, changes=changes, replicate=0, status="interrupted", values={}, ratios={},
            note=record.reason, contended=False, measured_here=trial.measured_here,
        )  # fmt: skip
    values = medians(record.samples.candidate) if record.samples else {}
    ratios = record.ratios
    if record.samples and not record.samples.paired and baseline is not None:
        ratios = unpaired_ratios(values, baseline)
    notes = [trial.note, f"{CONTENDED}: {record.contended}" if record.contended else ""]
    notes += [f"interrupted {record.interruptions} times before"] if record.interruptions else []
    notes += [f"no {name}: it was {what}" for name, what in (record.without or {}).items()]
    notes += [f"W&B run {name}" for name in record.run_names]
    if record.error is not None:
        side = "in the baseline: " if record.error.where == "baseline" and changes else ""
        routine = ROUTINE_NOTE if is_routine(record) else ""
        notes = [trial.note, f"{routine}{side}{record.error.line}"]
    return Row(
        trial=trial.stored.ref,
        changes=changes,
        replicate=record.replicate,
        status=record.status,
        values=values,
        ratios=ratios,
        note="; ".join(filter(None, notes)),
        contended=bool(record.contended),
        measured_here=trial.measured_here,
    )


def noted(row: Row, note: str) -> Row:
    return msgspec.structs.replace(row, note=f"{row.note}; {note}" if row.note else note)
