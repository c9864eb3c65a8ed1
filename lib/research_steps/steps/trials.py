"""One trial, from the question whether the journal has it to its record.

The journal is the cache: a trial is what `TrialSpec.key` says it is, and one that the journal holds is not measured
again. Trials with a timed metric take turns on a machine, because two at once would time each other, and wait until
others leave it quiet.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from research_steps import contention
from research_steps.code import Code
from research_steps.comparison import paired_ratios
from research_steps.errors import LauncherError, UnreadableObject
from research_steps.holdings import OpenAttempt
from research_steps.launcher import Ended, Request
from research_steps.provenance import conditions_here, device_class
from research_steps.record import (
    SCHEMA,
    Error,
    InterruptedRecord,
    Launch,
    Stored,
    TrialRecord,
    canonical,
    sha256,
    utc,
)
from research_steps.steps.session import Session

# A trial whose launcher died is begun again so often before its interruption is left as it is.
LAUNCHER_TRIES = 2
# A trial that others disturbed is measured so often at most, as long as there is time to wait for a quiet machine.
QUIET_TRIES = 3
POLL_S = 0.5


@dataclass(frozen=True)
class TrialSpec:
    """What is measured: plain configurations, the code as it was when the run started, and which replicate it is."""

    code: Code
    config_type: str
    config: dict[str, Any]
    baseline_config: dict[str, Any]
    replicate: int = 0

    @property
    def key(self) -> str:
        return sha256(
            canonical(
                {
                    "config": self.config,
                    "baseline": self.baseline_config,
                    "code": self.code.digest,
                    "conditions": conditions_here(),
                    "replicate": self.replicate,
                }
            )
        )


@dataclass(frozen=True)
class Trial:
    """A trial's standing record; `measured_here` is False when the journal had it already. `note` is for its row."""

    stored: Stored[Any]
    measured_here: bool
    note: str = ""


def measure_trial(session: Session, spec: TrialSpec, *, id: str, label: str, must_succeed: bool = False) -> Trial:
    """The trial's record, measured now unless the journal has it. A failure of the measure function is a record too.

    With `must_succeed` a failure in the journal is measured again. Raises LauncherError only when the run is ending.
    """
    key = spec.key
    disturbed: frozenset[str] = frozenset()

    def satisfied(stored: Stored[Any]) -> bool:
        record = stored.record
        if isinstance(record, InterruptedRecord) or stored.sha256 in disturbed | session.retracted:
            return False
        if key in session.measured:
            return True
        if record.status == "failed":
            return not must_succeed and "failed" not in session.retry
        return not (record.contended and "contended" in session.retry)

    tries = 0
    patience = _Patience(session, id)
    while True:
        found = session.journal.next_attempt("trial", key, satisfied, session.say)
        if isinstance(found, Stored):
            return Trial(found, key in session.measured)
        with (
            patience.turn() as others,
            session.journal.begin("trial", key, found, id=id, label=label, config=spec.config) as begun,
        ):
            if not begun:
                continue
            began = time.monotonic()
            try:
                record = _measure(session, spec, key=key, attempt=found, id=id, label=label, others=others)
            except LauncherError as error:
                tries += 1
                stored = _interrupted(session, key, found, str(error))
                if session.launcher.closed:
                    raise
                if tries < LAUNCHER_TRIES:
                    session.say(f"{id}: {error} It is begun again.")
                    continue
                return Trial(stored, True)
            stored = session.journal.finish("trial", record)
            once_more = patience.once_more(record, time.monotonic() - began)
        if stored.record.late:
            continue
        session.measured.add(key)
        if not once_more:
            return Trial(stored, True)
        disturbed |= {stored.sha256}


class _Patience:
    """What one trial puts up with from others on its machine: it waits for quiet, and is measured again when disturbed.

    Both are paid for from the series' `contention_wait_s`, in which waiting for the device lock does not count.
    """

    def __init__(self, session: Session, id: str) -> None:
        self._id, self._say, self._launcher = id, session.say, session.launcher
        self._timed = any(metric.timed for metric in session.series.metrics)
        self._left_s = session.series.contention_wait_s
        self._measured = 0
        self._told = False

    @contextmanager
    def turn(self) -> Iterator[list[str] | None]:
        """Keep other trials from the machine inside the block, and wait for quiet first; yields what disturbs still.

        It is None for a series without a timed metric, which nothing disturbs.
        """
        if not self._timed:
            yield None
            return
        with contention.device_lock(contention.HERE, self._id, lambda: self._launcher.closed, self._say):
            yield self._wait()

    def once_more(self, record: TrialRecord, took_s: float) -> bool:
        """Whether to measure again what was disturbed, now that it has become quiet."""
        self._measured += 1
        if self._measured > 1:
            self._left_s -= took_s
        if record.status != "ok" or not record.contended or self._measured == QUIET_TRIES:
            return False
        if self._left_s <= 0 or self._wait() or self._left_s <= 0:
            return False
        self._say(f"{self._id}: {record.contended}; it is measured again")
        return True

    def _wait(self) -> list[str]:
        while True:
            began = time.monotonic()
            found = contention.HERE.disturbances()
            # Load that can't be waited for any more is seen during the trial, for as long as it lasts.
            passing = [one for one in found if one.passes] or (contention.HERE.load() if self._left_s > 0 else [])
            if self._left_s <= 0 or not passing:
                return [one.what for one in found]
            if self._launcher.closed:
                raise LauncherError(f"The run is ending while {self._id} waits for a quiet machine.")
            if not self._told:
                who = "; ".join(one.what for one in passing)
                self._say(f"{self._id}: waiting up to {self._left_s:.0f} s for a quiet machine: {who}")
                self._told = True
            time.sleep(max(0.0, min(POLL_S, self._left_s)))
            self._left_s -= time.monotonic() - began


def _measure(
    session: Session, spec: TrialSpec, *, key: str, attempt: int, id: str, label: str, others: list[str] | None
) -> TrialRecord:
    series = session.series
    started = utc()
    watch = contention.CpuWatch()
    ended = session.launcher.run(
        Request(
            measure=spec.code.name,
            root=str(spec.code.root),
            cwd=str(Path.cwd()),
            code=spec.code.digest,
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
    )
    load = watch.contended(ended.launcher_cpu_s, contention.HERE.load_cores)
    contended = "" if others is None else "; ".join([*others, *([load] if load else [])])
    result = ended.result
    samples = result.samples if result else None
    return TrialRecord(
        schema=SCHEMA,
        series=series.topic,
        key=key,
        attempt=attempt,
        id=id,
        label=label,
        started_at=started,
        finished_at=utc(),
        status="ok" if samples else "failed",
        mode="executor",
        measure=spec.code.name,
        code=spec.code.digest,
        config_type=spec.config_type,
        config=spec.config,
        baseline_config=spec.baseline_config,
        device_class=device_class(),
        replicate=spec.replicate,
        devices=result.devices if result else (),
        samples=samples,
        ratios=paired_ratios(samples) if samples else {},
        error=None if samples else _error(ended, series.time_limit_s),
        contended=contended,
        launch=Launch(
            how="forked",
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
        provenance=session.captured.provenance,
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


def _interrupted(session: Session, key: str, number: int, reason: str) -> Stored[Any]:
    attempt = session.journal.attempts("trial", key)[number]
    if isinstance(attempt, OpenAttempt):
        return session.journal.interrupt(attempt, reason)
    if isinstance(attempt, UnreadableObject):
        raise attempt
    return attempt
