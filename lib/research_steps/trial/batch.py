"""Trials that a step asks for, one after the other, on the machine that this runs on."""

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec

from research_steps.evidence.table import Trial
from research_steps.journal.progress import passed
from research_steps.records.conditions import conditions
from research_steps.records.configurations import differences
from research_steps.records.model import InterruptedRecord, TrialRecord
from research_steps.trial.code import Code
from research_steps.trial.context import Session
from research_steps.trial.progress_bar import progress
from research_steps.trial.trials import TrialSpec, measure_trial

# How often it is noted what the journal had already, for whoever watches (seconds).
NOTED_S = 1.0


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """A trial that a step asks for: of this configuration, against this baseline case, under this ID.

    One that `must_succeed` is measured again when it had failed, and when it fails the trials after it are not begun.
    One that is `new` is told when the series knows it from before.
    """

    id: str
    label: str
    config: dict[str, Any]
    case: dict[str, Any]
    replicate: int = 0
    must_succeed: bool = False
    new: bool = False


def measure_wanted(session: Session, code: Code, config_type: str, id: str, wanted: Sequence[Wanted]) -> list[Trial]:
    """The trials, in the order in which they were asked for; those after a failure that must not be are missing.

    What somebody else is measuring right now is left for the end, and then waited for.
    """
    done: dict[str, Trial] = {}
    held: list[str] = []
    noted = time.monotonic()
    pending, waiting = deque(wanted), 0
    with progress(session, id, len(wanted)) as advance:
        while pending:
            one = pending.popleft()
            spec = TrialSpec(code, config_type, one.config, one.case, one.replicate)
            # Whoever has nothing else left to do waits.
            trial = _measure(session, spec, one, wait=waiting >= len(pending))
            if trial is None:
                pending.append(one)
                waiting += 1
                continue
            waiting = 0
            if trial.stored.record.id == one.id:
                # Measured for this step, though by a process that was killed, perhaps.
                trial = replace(trial, measured_here=True)
            else:
                held.append(one.id)
            done[one.id] = trial
            advance(trial, one.label)
            if held and (not pending or time.monotonic() - noted > NOTED_S):
                passed(session.journal, id, wanted[0].id, held)
                noted = time.monotonic()
            if one.must_succeed and (isinstance(trial.stored.record, InterruptedRecord) or trial.stored.record.error):
                break
    return [done[one.id] for one in wanted if one.id in done]


def _measure(session: Session, spec: TrialSpec, one: Wanted, wait: bool) -> Trial | None:
    if one.new:
        return _measure_unless_known(session, spec, one.id, one.label, wait)
    return measure_trial(session, spec, id=one.id, label=one.label, must_succeed=one.must_succeed, wait=wait)


def _measure_unless_known(session: Session, spec: TrialSpec, id: str, label: str, wait: bool) -> Trial | None:
    """The trial, after telling what is known of its configuration; with --skip_known that is taken in its place."""
    tried = None
    if not session.journal.attempts.of("trial", spec.key(session.host.facts.conditions)):
        tried = session.known.about(spec.config, spec.baseline_config)
    if tried is not None:
        record = tried.stored.record
        told = f"tried before as {record.id}, {tried.outcome} ({_conditions(session, record, spec)})"
        session.say(f"{id} ({label}): {told}")
        if session.skip_known:
            return Trial(tried.stored, False, f"skipped: {told}")
    return measure_trial(session, spec, id=id, label=label, wait=wait)


def _conditions(session: Session, record: TrialRecord, spec: TrialSpec) -> str:
    """What was different then."""
    differ = differences(conditions(record), session.host.facts.conditions)
    parts = [f"{name} {was} then, {now} now" for name, (was, now) in differ.items()]
    parts += [] if record.code == spec.code.digest else ["the measure function's code has changed since"]
    return "; ".join(parts) or f"on {record.device_class}, like now"
