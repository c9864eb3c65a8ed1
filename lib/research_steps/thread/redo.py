"""Before a thread runs: which of its steps are made again, although the executor has them."""

from collections.abc import Mapping
from typing import Any

from research_steps.journal.snapshot import rests_on
from research_steps.records.encoding import Stored
from research_steps.records.model import EntryRecord
from research_steps.thread.configs import research_config, step_key
from research_steps.thread.marin.outputs import forget
from research_steps.thread.marin.protocols import Plan
from research_steps.trial.context import Session


def prepare(session: Session, plan: Plan) -> None:
    """Tell shards whose they are, and clear the steps that a retry measures again, that rest on what is retracted, or
    that have sealed what was measured again since."""
    keys: dict[Any, str] = {
        step: step_key(plan.output_path(step), session.journal)
        for step in plan.steps
        if research_config(step) is not None
    }
    for step, key in keys.items():
        for shard in _shards(step):
            session.shard_of[plan.output_path(shard)] = (key, step.config.label)
    session.retracted = session.journal.published(session.repository).retracted
    cleared = [step for step in keys if _is_made_again(session, step, keys)]
    again = plan.dependents([each for step in cleared for each in (step, *_shards(step))])
    for step in again:
        forget(plan.output_path(step))
    again += [step for step in plan.steps if plan.runs_again(step)]
    session.redo = frozenset(step_key(plan.output_path(step), session.journal) for step in again)


def _shards(step: Any) -> list[Any]:
    """The steps that measure the parts of a sweep."""
    return [part for part in step.config.inputs if part.config.kind == "shard"] if step.config.kind == "sweep" else []


def _is_made_again(session: Session, step: Any, keys: Mapping[Any, str]) -> bool:
    kind = step.config.kind
    if kind != "seal" and not session.retry and not session.retracted:
        return False
    entry = session.journal.ids.latest_entry(keys[step])
    if entry is None:
        # Of a sweep that was not put together yet only the shards know what came of its trials.
        return kind == "sweep" and bool(session.retry)
    counts_no_more = session.retracted & {entry.sha256, *(ref.sha256 for ref in rests_on(entry.record))}
    if counts_no_more or _has_outcome(entry, session.retry):
        return True
    inputs = [session.journal.ids.latest_entry(keys[below]) for below in step.config.inputs] if kind == "seal" else []
    return any(newest is not None and newest.ref not in entry.record.inputs for newest in inputs)


def _has_outcome(entry: Stored[EntryRecord], outcomes: frozenset[str]) -> bool:
    statuses = {"interrupted" if name == "orphaned" else name for name in outcomes}
    rows = entry.record.rows
    return any(row.status in statuses or (row.contended and "contended" in statuses) for row in rows)
