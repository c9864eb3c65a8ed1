"""One trial, from the question whether the journal has it to its record.

The journal is the cache: a trial is what `TrialSpec.key` says it is, and one that the journal holds is not measured
again. Trials with a timed metric take turns on a machine, because two at once would time each other, and wait until
others leave it quiet.
"""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from research_steps.errors import LauncherError
from research_steps.evidence.effects import paired_ratios
from research_steps.evidence.table import Trial
from research_steps.journal.leases import this_process
from research_steps.journal.snapshot import OpenAttempt
from research_steps.records.encoding import Stored
from research_steps.records.model import InterruptedRecord, Provenance, Record, TrialRecord, Version
from research_steps.records.objects import Intent
from research_steps.records.redaction import redact
from research_steps.records.times import parse_utc
from research_steps.records.wandb_names import named
from research_steps.trial.code import Code
from research_steps.trial.context import Session
from research_steps.trial.directory import changed_at, directory_of
from research_steps.trial.launcher.conversation import Hear
from research_steps.trial.launcher.host import Turn
from research_steps.trial.launcher.protocol import Request, TrialOutcome
from research_steps.trial.listening import Listening
from research_steps.trial.measured import TrialSpec

# A trial whose process was killed, or its launcher died, is begun again so often before its interruption is left as it
# is; one that got on meanwhile, by what it keeps in its directory, more often.
LAUNCHER_TRIES, MOST_TRIES = 2, 20
# One that was cut off so often in one run, with the process that had begun it, and did not get on, is left so: it may be
# what ends it.
CUT_OFF_TRIES = 5
# A trial that others disturbed is measured so often at most, as long as there is time to wait for a quiet machine.
QUIET_TRIES = 3


def measure_trial(
    session: Session,
    spec: TrialSpec,
    *,
    id: str,
    label: str,
    must_succeed: bool = False,
    wait: bool = True,
    tracker: Mapping[str, str] = {},
    hear: Hear = lambda message: None,
) -> Trial | None:
    """The trial's record, measured now unless the journal has it. A failure of the measure function is a record too.

    With `must_succeed` a failure in the journal is measured again. A trial that somebody else is at is waited for, or
    told by None. `tracker` are variables for the W&B runs of its step. Raises LauncherError only when the run is ending.
    """
    key = spec.key(session.host.facts(spec.code.variables).conditions)
    # Another timed metric is left out where others disturbed it: for that alone, nothing is waited for or done again.
    timed = session.series.primary.timed
    # For a quiet machine, and to measure again what was disturbed; waiting for the device lock does not count.
    left_s = session.series.contention_wait_s
    disturbed: list[Stored[Any]] = []

    def satisfied(stored: Stored[Any]) -> bool:
        record = stored.record
        if isinstance(record, InterruptedRecord) or stored.sha256 in session.retracted:
            return False
        if stored.sha256 in {earlier.sha256 for earlier in disturbed}:
            return False
        if record.status == "failed":
            again = must_succeed or "failed" in session.retry
        else:
            again = bool(record.contended) and "contended" in session.retry
        return not again or record.attempt >= session.seen_open.get(key, math.inf) or _is_of(session, record)

    # Interruptions in this call, and those since something was last written to the trial's directory.
    begun = lost = 0
    while True:
        attempt = session.journal.attempts.look("trial", key, satisfied, session.say)
        if isinstance(attempt, OpenAttempt):
            session.seen_open.setdefault(key, attempt.intent.attempt)
            if not wait:
                return None
            attempt = session.journal.attempts.next("trial", key, satisfied, session.say)
        if isinstance(attempt, Stored):
            return Trial(attempt, False)
        cut_off = _cut_off(session, key) if attempt >= CUT_OFF_TRIES else []
        if len(cut_off) >= CUT_OFF_TRIES:
            return Trial(cut_off[-1], True)
        with _ended_by_ctrl_c(session, key, attempt), session.host.turn(id, timed, left_s, session.say) as turn:
            if disturbed and not turn.is_quiet:
                return Trial(disturbed[-1], True)
            if disturbed:
                session.say(f"{id}: {disturbed[-1].record.contended}; it is measured again")
            began = time.monotonic()
            stored = _attempt(
                session, spec, turn, key=key, attempt=attempt, id=id, label=label, tracker=tracker, hear=hear
            )
        # What is measured again pays for that, too.
        left_s = turn.left_s - (time.monotonic() - began if disturbed else 0.0)
        if stored is None or stored.record.late:
            continue
        if isinstance(stored.record, InterruptedRecord):
            begun, lost = begun + 1, 0 if _got_on(session, stored.record) else lost + 1
            if lost == LAUNCHER_TRIES or begun == MOST_TRIES:
                return Trial(stored, True)
            session.say(f"{id}: {stored.record.reason} It is begun again.")
        elif (
            not timed
            or not stored.record.contended
            or not stored.record.samples
            or left_s <= 0
            or len(disturbed) == QUIET_TRIES - 1
        ):
            return Trial(stored, True)
        else:
            disturbed.append(stored)


def _attempt(
    session: Session,
    spec: TrialSpec,
    turn: Turn,
    *,
    key: str,
    attempt: int,
    id: str,
    label: str,
    tracker: Mapping[str, str],
    hear: Hear,
) -> Stored[Any] | None:
    """What became of an attempt; None when somebody else has begun it. Raises LauncherError when the run is ending."""
    attempts = session.journal.attempts
    begin = partial(attempts.begin, private=session.private, run=session.run)
    with begin("trial", key, attempt, id=id, label=label, config=spec.config) as begun:
        if begun is None:
            return None
        # The order within pairs is from the trial's identity: another replicate gets another one, the same the same.
        store = session.journal.store.url
        request = Request(
            spec=spec,
            series=session.series,
            directory=str(_directory(session, key)),
            tracker={**tracker, "WANDB_NAME": redact(named(id, label))} if tracker else {},
            prefix=store,
            cwd=str(Path.cwd()),
            seed=int(key[:8], 16),
        )
        try:
            outcome = turn.run(request, Listening(session, begun.intent, hear))
        except LauncherError as error:
            stored = attempts.interrupt(begun, str(error))
            if session.host.closed:
                raise
            return stored
        if outcome.interrupted:
            return attempts.interrupt(begun, outcome.interrupted)
        return attempts.finish("trial", _record(session, spec, begun.intent, outcome))


def _record(session: Session, spec: TrialSpec, intent: Intent, outcome: TrialOutcome) -> TrialRecord:
    facts, samples = session.host.facts(spec.code.variables), outcome.samples
    timed = any(metric.timed for metric in session.series.metrics)
    return TrialRecord(
        series=intent.series,
        key=intent.key,
        attempt=intent.attempt,
        id=intent.id,
        label=intent.label,
        started_at=outcome.started_at,
        finished_at=outcome.finished_at,
        status="ok" if samples else "failed",
        mode=session.mode,
        measure=spec.code.name,
        code=spec.code.digest,
        config_type=spec.config_type,
        config=spec.config,
        baseline_config=spec.baseline_config,
        device_class=facts.device_class,
        replicate=spec.replicate,
        devices=outcome.devices,
        samples=samples,
        ratios=paired_ratios(samples) if samples else {},
        error=outcome.error,
        contended=outcome.contended if timed else "",
        without=outcome.without or msgspec.UNSET,
        launch=outcome.launch,
        command=outcome.command or msgspec.UNSET,
        baseline_version=_version(spec.baseline_code),
        curves=outcome.curves or msgspec.UNSET,
        runs=outcome.runs or msgspec.UNSET,
        interruptions=_interruptions(session, intent) or msgspec.UNSET,
        provenance=msgspec.structs.replace(
            _provenance(session, spec.code),
            host=facts.host,
            python=facts.python,
            packages=facts.packages,
            env=facts.env,
            environment=msgspec.UNSET,
        ),
    )


def _provenance(session: Session, code: Code) -> Provenance:
    """Where the code that was measured comes from: the checkout as it was when the run began, or a version of it."""
    provenance = session.captured.provenance
    if code.tree is None:
        return provenance
    commit, patch = code.tree.version
    return msgspec.structs.replace(provenance, commit=commit, branch=None, patch=patch, patch_note="")


def _version(code: Code | None) -> Version | msgspec.UnsetType:
    if code is None or code.tree is None:
        return msgspec.UNSET
    commit, patch = code.tree.version
    return Version(commit=commit, patch=patch, code=code.digest)


def _cut_off(session: Session, key: str) -> list[Stored[Any]]:
    """The attempts of this run that were interrupted, since the last that was not, or that got on."""
    interrupted: list[Stored[Any]] = []
    for attempt in session.journal.attempts.of("trial", key):
        match attempt:
            case Stored(record=InterruptedRecord() as record) if _is_of(session, record):
                interrupted = [] if _got_on(session, record) else [*interrupted, attempt]
            case _:
                interrupted = []
    return interrupted


def _directory(session: Session, key: str) -> Path:
    return directory_of(session.journal.store.url, session.series.topic, key)


def _got_on(session: Session, record: InterruptedRecord) -> bool:
    """Whether the attempt, or a later one, wrote something to the trial's directory."""
    return changed_at(_directory(session, record.key)) >= parse_utc(record.started_at).timestamp()


def _interruptions(session: Session, intent: Intent) -> int:
    """How often the trial was interrupted before this attempt, since it last ended otherwise."""
    count = 0
    for attempt in session.journal.attempts.of("trial", intent.key)[: intent.attempt] if intent.attempt else ():
        is_one = isinstance(attempt, Stored) and isinstance(attempt.record, InterruptedRecord)
        count = count + 1 if is_one else 0
    return count


def _is_of(session: Session, record: Record) -> bool:
    """Whether this run began the attempt, on whichever of its machines."""
    intent = session.journal.attempts.begun("trial", record)
    return intent is not None and intent.run == session.run


@contextmanager
def _ended_by_ctrl_c(session: Session, key: str, number: int) -> Iterator[None]:
    """An attempt of this process, if it has begun, ends with the block when Ctrl-C ends that, wherever it is then."""
    try:
        yield
    except KeyboardInterrupt:
        for attempt in session.journal.attempts.of("trial", key)[number:]:
            if isinstance(attempt, OpenAttempt) and attempt.intent.owner == this_process():
                session.journal.attempts.interrupt(attempt, "It was stopped by Ctrl-C.")
        raise
