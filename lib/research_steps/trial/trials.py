"""One trial, from the question whether the journal has it to its record.

The journal is the cache: a trial is what `TrialSpec.key` says it is, and one that the journal holds is not measured
again. Trials with a timed metric take turns on a machine, because two at once would time each other, and wait until
others leave it quiet.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from research_steps.errors import LauncherError, UnreadableObject
from research_steps.evidence.statistics import paired_ratios
from research_steps.evidence.table import Trial
from research_steps.journal.leases import this_process
from research_steps.journal.snapshot import OpenAttempt
from research_steps.records.encoding import Stored, canonical, sha256
from research_steps.records.model import SCHEMA, Error, InterruptedRecord, Launch, TrialRecord
from research_steps.records.series import Series
from research_steps.trial.code import Code
from research_steps.trial.context import Session
from research_steps.trial.launcher.client import Tell
from research_steps.trial.launcher.local import TrialOutcome, Turn
from research_steps.trial.launcher.protocol import Ended, Request

# A trial whose launcher died is begun again so often before its interruption is left as it is.
LAUNCHER_TRIES = 2
# One that was cut off so often in one run, with the process that had begun it, is left so: it may be what ends it.
CUT_OFF_TRIES = 5
# A trial that others disturbed is measured so often at most, as long as there is time to wait for a quiet machine.
QUIET_TRIES = 3


@dataclass(frozen=True)
class TrialSpec:
    """What is measured: plain configurations, the code as it was when the run started, and which replicate it is.

    Whoever measures the same for another `occasion` measures it anew: dev mode does each time.
    """

    code: Code
    config_type: str
    config: dict[str, Any]
    baseline_config: dict[str, Any]
    replicate: int = 0
    occasion: str = ""

    def key(self, conditions: Mapping[str, str]) -> str:
        """The trial's identity where it runs under these conditions."""
        identity = {
            "config": self.config,
            "baseline": self.baseline_config,
            "code": self.code.digest,
            "conditions": conditions,
            "replicate": self.replicate,
        }
        return sha256(canonical({**identity, **({"occasion": self.occasion} if self.occasion else {})}))


def measure_trial(
    session: Session,
    spec: TrialSpec,
    *,
    id: str,
    label: str,
    must_succeed: bool = False,
    wait: bool = True,
    tell: Tell = lambda message: None,
) -> Trial | None:
    """The trial's record, measured now unless the journal has it. A failure of the measure function is a record too.

    With `must_succeed` a failure in the journal is measured again. A trial that somebody else is at is waited for, or
    told by None. Raises LauncherError only when the run is ending.
    """
    key = spec.key(session.host.facts.conditions)
    disturbed: frozenset[str] = frozenset()

    def satisfied(stored: Stored[Any]) -> bool:
        record = stored.record
        if isinstance(record, InterruptedRecord) or stored.sha256 in disturbed | session.retracted:
            return False
        if record.finished_at >= session.began:
            return True
        if record.status == "failed":
            return not must_succeed and "failed" not in session.retry
        return not (record.contended and "contended" in session.retry)

    tries = 0
    patience = _Patience(session, id)
    while True:
        ask = session.journal.attempts.next if wait else session.journal.attempts.look
        found = ask("trial", key, satisfied, session.say)
        if isinstance(found, OpenAttempt):
            return None
        if isinstance(found, Stored):
            return Trial(found, False)
        cut_off = _cut_off(session, key) if found >= CUT_OFF_TRIES else []
        if len(cut_off) >= CUT_OFF_TRIES:
            return Trial(cut_off[-1], True)
        with (
            _ended_by_ctrl_c(session, key, found),
            session.host.turn(id, patience.timed, patience.left_s, session.say) as turn,
            session.journal.attempts.begin(
                "trial", key, found, id=id, label=label, config=spec.config, private=session.private
            ) as begun,
        ):
            if not begun:
                continue
            began = time.monotonic()
            try:
                outcome = turn.run(_request(session.series, spec, key), tell)
            except LauncherError as error:
                tries += 1
                stored = _interrupted(session, key, found, str(error))
                if session.host.closed:
                    raise
                if tries < LAUNCHER_TRIES:
                    session.say(f"{id}: {error} It is begun again.")
                    continue
                return Trial(stored, True)
            record = _record(session, spec, outcome, key=key, attempt=found, id=id, label=label)
            stored = session.journal.attempts.finish("trial", record)
            once_more = patience.once_more(record, turn, time.monotonic() - began)
        if stored.record.late:
            continue
        if not once_more:
            return Trial(stored, True)
        disturbed |= {stored.sha256}


class _Patience:
    """What one trial puts up with from others on its machine: it waits for quiet, and is measured again when disturbed.

    Both are paid for from the series' `contention_wait_s`, in which waiting for the device lock does not count.
    """

    def __init__(self, session: Session, id: str) -> None:
        self._id, self._say = id, session.say
        self.timed = any(metric.timed for metric in session.series.metrics)
        self.left_s = session.series.contention_wait_s
        self._measured = 0

    def once_more(self, record: TrialRecord, turn: Turn, took_s: float) -> bool:
        """Whether to measure again what was disturbed, now that it has become quiet."""
        self._measured += 1
        self.left_s = turn.left_s - (took_s if self._measured > 1 else 0.0)
        if record.status != "ok" or not record.contended or self._measured == QUIET_TRIES:
            return False
        if self.left_s <= 0 or not turn.wait(self.left_s):
            return False
        self.left_s = turn.left_s
        self._say(f"{self._id}: {record.contended}; it is measured again")
        return True


def _request(series: Series, spec: TrialSpec, key: str) -> Request:
    return Request(
        measure=spec.code.name,
        root=str(spec.code.root),
        cwd=str(Path.cwd()),
        code=spec.code.digest,
        files=tuple(spec.code.files),
        libraries=spec.code.libraries,
        config_type=spec.config_type,
        config=spec.config,
        baseline_config=spec.baseline_config,
        metrics=tuple(metric.name for metric in series.metrics),
        primary=series.primary,
        max_pairs=series.max_pairs,
        sampling_s=series.sampling_s,
        time_limit_s=series.time_limit_s,
        # From the trial's identity: another replicate gets another order, the same one the same.
        seed=int(key[:8], 16),
    )


def _record(
    session: Session, spec: TrialSpec, outcome: TrialOutcome, *, key: str, attempt: int, id: str, label: str
) -> TrialRecord:
    series, ended, facts = session.series, outcome.ended, session.host.facts
    result = ended.result
    samples = result.samples if result else None
    return TrialRecord(
        schema=SCHEMA,
        series=series.topic,
        key=key,
        attempt=attempt,
        id=id,
        label=label,
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
        devices=result.devices if result else (),
        samples=samples,
        ratios=paired_ratios(samples) if samples else {},
        error=None if samples else _error(ended, series.time_limit_s),
        contended=outcome.contended,
        launch=Launch(
            how=ended.how,
            parent_pid=ended.parent_pid,
            parent_threads=ended.parent_threads,
            preloaded_modules=ended.preloaded_modules,
            child_pid=ended.child_pid,
            exit=ended.exit,
            import_s=result.import_s if result else 0.0,
            setup_s=result.setup_s if result else 0.0,
            sampling_s=result.sampling_s if result else 0.0,
            cpu_s=ended.cpu_s,
            peak_rss_bytes=ended.peak_rss_bytes,
        ),
        provenance=msgspec.structs.replace(
            session.captured.provenance,
            host=facts.host,
            python=facts.python,
            packages=facts.packages,
            env=facts.env,
            environment=msgspec.UNSET,
        ),
    )


def _error(ended: Ended, time_limit_s: float) -> Error:
    if ended.result is not None and ended.result.error is not None:
        return msgspec.structs.replace(ended.result.error, output_tail=ended.output_tail)
    if ended.timed_out:
        kind, message = "TimeLimit", f"it ran longer than its limit of {time_limit_s:g} s and was killed"
    elif ended.exit.startswith("signal"):
        why = "; out of memory, perhaps" if ended.exit == "signal SIGKILL" else ""
        kind, message = "Crash", f"the process was ended by {ended.exit}{why}"
    else:
        kind, message = "Exit", f"the process ended with {ended.exit} before it gave a result"
    return Error(type=kind, message=message, frames=(), where="child", output_tail=ended.output_tail)


def _cut_off(session: Session, key: str) -> list[Stored[Any]]:
    """The attempts of this run that were interrupted, since the last that was not."""
    found: list[Stored[Any]] = []
    for attempt in session.journal.attempts.of("trial", key):
        match attempt:
            case Stored(record=InterruptedRecord(finished_at=at)) if at >= session.began:
                found.append(attempt)
            case _:
                found = []
    return found


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


def _interrupted(session: Session, key: str, number: int, reason: str) -> Stored[Any]:
    attempt = session.journal.attempts.of("trial", key)[number]
    if isinstance(attempt, OpenAttempt):
        return session.journal.attempts.interrupt(attempt, reason)
    if isinstance(attempt, UnreadableObject):
        raise attempt
    return attempt
