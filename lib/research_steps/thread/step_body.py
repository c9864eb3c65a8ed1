"""What the executor runs in place of a step's function: a research step, inside the driver.

A step's configuration arrives with every placeholder resolved. A step writes records and returns the reference to its
entry, which is how later steps find what it measured. The journal is asked first, so that a driver that was killed
between the entry and the executor's own status adds nothing when it is started again.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from research_steps.errors import FailedElsewhere, LauncherError, StepFailed, StoreError, lacking
from research_steps.evidence.standing import fixed_cases
from research_steps.journal.entries import About, Finding, write_entry
from research_steps.journal.progress import plan
from research_steps.records.configurations import CODE, plain, step_names
from research_steps.records.encoding import Stored
from research_steps.records.model import EntryRecord, Ref
from research_steps.records.step_kinds import BaselineMeasurement, Details, Interaction, Ran, Replication, Sweep
from research_steps.remote.worker import refs_of
from research_steps.thread import rules
from research_steps.thread.configs import StepConfig, step_key
from research_steps.thread.marin import binding
from research_steps.thread.step_bodies import BODIES
from research_steps.thread.table_trials import measure, points_wanted
from research_steps.trial.context import Session, current
from research_steps.trial.provenance import describe_error


def run_step(config: StepConfig) -> dict[str, Any] | list[Any]:
    """Run one research step inside the session of its run, and return the reference to its entry; of a shard, what it
    measured."""
    session = current()
    config = _with_step_names(config, session.journal.store.url)
    inputs = _inputs(session, config)
    config = replace(config, private=config.private or any(bool(entry.record.private) for entry in inputs))
    if config.kind == "shard":
        return _run_shard(session, config)
    config = _with_code_named(session, config, inputs)
    forced = rules.check(session, config)
    about = About(
        kind=config.kind,
        step_key=step_key(config.output_path, session.journal),
        label=config.label,
        hypothesis=session.hypothesis(config.hypothesis),
        details=_details(config, forced),
        inputs=tuple(entry.ref for entry in inputs),
        private=config.private,
    )
    entry = record_step(session, about, lambda id: BODIES[config.kind](session, config, inputs, id))
    if entry.record.status == "failed":
        raise StepFailed(f"{entry.record.id} ({entry.record.label}) failed: {entry.record.result}")
    reference: dict[str, Any] = msgspec.to_builtins(entry.ref)
    return reference


def record_step(
    session: Session, about: About, body: Callable[[str], Finding], *, is_kept: Callable[[], bool] = lambda: True
) -> Stored[EntryRecord]:
    """The entry of a step: the one that it has, unless that failed, or is made again, or what it made beside the entry
    is not kept any more; else what `body` makes of it.

    An exception of the body is recorded as the step's failure, then raised again.
    """
    failure: Exception | None = None

    def attempt(id: str) -> Finding:
        nonlocal failure
        failure = None
        try:
            return body(id)
        except (LauncherError, StoreError):
            # What is not measured, or could not be written, can't be said to have failed.
            raise
        except Exception as error:  # whatever it is, it is raised again once it is recorded
            if why := lacking(error):
                raise LauncherError(f"The machine could not do it: {why}.") from error
            failure = error
            if isinstance(error, FailedElsewhere):
                described = error.described
            else:
                described = describe_error(error, "step", Path.cwd())
            return Finding(result=f"failed: {described.type}: {described.message}", error=described)

    entry = write_entry(
        session.journal,
        session.series,
        session.captured,
        session.numbers,
        about,
        attempt,
        accept=lambda record: record.status == "ok" and about.step_key not in session.redo and is_kept(),
        say=session.say,
    )
    session.changed()
    if failure is not None:
        raise failure
    return entry


def _run_shard(session: Session, config: StepConfig) -> list[Any]:
    """Measure a part of a sweep, under the experiment ID of the sweep."""
    sweep, label = session.shard_of[config.output_path]
    entry = session.journal.ids.latest_entry(sweep) if sweep not in session.redo else None
    id = entry.record.id if entry else session.journal.ids.reserve(session.series.prefix, sweep, session.numbers)
    wanted = points_wanted(config, id, config.points)
    plan(session.journal, id, label, len(config.points) * len(config.what.repetitions))
    trials = measure(session, config, id, wanted)
    references: list[Any] = msgspec.to_builtins(refs_of(trials))
    return references


def _inputs(session: Session, config: StepConfig) -> list[Stored[EntryRecord]]:
    artifacts = [*config.rests_on, *(binding.read_artifact(path) for path in config.inputs)]
    # What shards measured is no entry: it is read where the sweep is put together.
    return [session.journal.load("entry", msgspec.convert(ref, Ref)) for ref in artifacts if isinstance(ref, dict)]


def _with_step_names(config: StepConfig, prefix: str) -> StepConfig:
    """The step with what it measures told by the names of the steps that put it out, not by where that lies here."""
    parts = ("points", "axes", "candidate", "across", "tuned_over", "fields")
    named: dict[str, Any] = {name: step_names(getattr(config, name), prefix) for name in parts}
    if config.measured is not None:
        named["measured"] = replace(config.measured, prefix=prefix)
    return replace(config, **named)


def _with_code_named(session: Session, config: StepConfig, inputs: Sequence[Stored[EntryRecord]]) -> StepConfig:
    """The step with the name that its baseline's code has in claims, where that was moved to other code."""
    if config.measured is None or config.measured.baseline_version or CODE in config.case:
        return config
    if config.kind == "baseline":
        name = rules.name_of_code(session, config)
    else:
        name = next((str(fixed.case.get(CODE, "")) for fixed in fixed_cases(inputs[:1]).values()), "")
    return replace(config, measured=replace(config.measured, baseline_version=name))


def _details(config: StepConfig, forced: Sequence[str]) -> Details:
    """What the entry records of the step."""
    if config.kind == "outcome":
        return Ran(function=config.function, config=plain(config.fields, config.label))
    if config.measured is None:
        return Details()
    over = dict([config.measured.over]) if config.measured.over is not None else {}
    parts: dict[str, Any] = {"measure": config.measured.name, "over": over}
    parts["baseline_case"] = config.measured.named(config.case)
    match config.kind:
        case "baseline":
            return BaselineMeasurement(**parts, replicates=len(config.replicates), digest=config.measured.digest)
        case "sweep":
            points = tuple(plain(point, config.label) for point in config.points)
            axis = config.axis or next(iter(config.points[0]))
            return Sweep(**parts, points=points, axis=axis, tuned_over=config.tuned_over)
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
