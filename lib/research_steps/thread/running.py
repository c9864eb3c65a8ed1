"""What the executor runs: a research step, in the driver or where the executor sends it.

A step's configuration arrives with every placeholder resolved. A step writes records and returns the reference to its
entry, which is how later steps find what it measured.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from research_steps.errors import StepFailed
from research_steps.journal.entries import About
from research_steps.journal.progress import plan
from research_steps.records.configurations import plain
from research_steps.records.encoding import Stored
from research_steps.records.model import EntryRecord, Ref
from research_steps.records.step_kinds import Baseline, Details, Interaction, Replication, Sweep
from research_steps.remote.worker import told
from research_steps.thread import rules
from research_steps.thread.configs import StepConfig
from research_steps.thread.entries import run_entry
from research_steps.thread.marin.executor_steps import read_artifact
from research_steps.thread.measuring import measure, step_key
from research_steps.thread.step_kinds import BODIES, points_wanted
from research_steps.trial.context import Session, current


def run_step(config: StepConfig) -> dict[str, Any] | list[Any]:
    """Run one research step inside the session of its run, and return the reference to its entry; of a shard, what it
    measured."""
    session = current()
    inputs = _inputs(session, config)
    if config.kind == "shard":
        sweep, label = session.shard_of[config.output_path]
        held = session.journal.ids.latest_entry(sweep) if sweep not in session.redo else None
        id = held.record.id if held else session.journal.ids.reserve(session.series.prefix, sweep, session.used_numbers)
        plan(session.journal, id, label, len(config.points))
        trials = measure(session, config, id, points_wanted(config, id, config.points))
        measured: list[Any] = msgspec.to_builtins(told(trials))
        return measured
    forced = rules.check(session, config)
    about = About(
        kind=config.kind,
        step_key=step_key(config.output_path, session),
        label=config.label,
        hypothesis=session.hypothesis(config.hypothesis),
        details=_details(config, forced),
        inputs=tuple(entry.ref for entry in inputs),
        private=config.private or any(bool(entry.record.private) for entry in inputs),
    )
    stored = run_entry(session, about, lambda id: BODIES[config.kind](session, config, inputs, id))
    if stored.record.status == "failed":
        raise StepFailed(f"{stored.record.id} ({stored.record.label}) failed: {stored.record.result}")
    found: dict[str, Any] = msgspec.to_builtins(stored.ref)
    return found


def _inputs(session: Session, config: StepConfig) -> list[Stored[EntryRecord]]:
    found = [*config.rests_on, *(read_artifact(path) for path in config.inputs)]
    # What shards measured is no entry: it is read where the sweep is put together.
    return [session.journal.load("entry", msgspec.convert(one, Ref)) for one in found if isinstance(one, dict)]


def _details(config: StepConfig, forced: Sequence[str]) -> Details:
    """What the entry records of the step."""
    if config.measured is None:
        return Details()
    parts: dict[str, Any] = {"measure": config.measured.name, "baseline_case": config.case}
    match config.kind:
        case "baseline":
            return Baseline(**parts, replicates=len(config.replicates))
        case "sweep":
            points = tuple(plain(point, config.label) for point in config.points)
            return Sweep(**parts, points=points, axis=next(iter(config.points[0])))
        case "replicate":
            across = {config.across[0]: config.across[1]} if config.across is not None else {}
            return Replication(
                **parts,
                replicates=len(config.replicates),
                candidate=config.candidate,
                confirms=config.confirms,
                across=across,
            )
        case _:
            return Interaction(**parts, top=config.top, axes=dict(config.axes), forced=tuple(forced))
