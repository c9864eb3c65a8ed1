"""One trial, from the question whether the journal has it to its record.

The journal is the cache: a trial is what `TrialSpec.key` says it is, and one that the journal holds is not measured
again. Trials take turns on a machine, because two at once would time each other.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from research_steps.code import Code
from research_steps.comparison import paired_ratios
from research_steps.errors import LauncherError, UnreadableObject
from research_steps.journal import OpenAttempt
from research_steps.launcher import Ended, Request
from research_steps.provenance import CpuWatch, conditions_here, device_class
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
# One for all users and all checkouts of the machine, whatever their TMPDIR: they share its cores and its accelerator.
DEVICE_LOCK = Path("/tmp/research-steps-device.lock")
WAIT_TOLD_S = 5.0


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
    """A trial's standing record; `measured_here` is False when the journal had it already."""

    stored: Stored[Any]
    measured_here: bool


def measure_trial(session: Session, spec: TrialSpec, *, id: str, label: str, must_succeed: bool = False) -> Trial:
    """The trial's record, measured now unless the journal has it. A failure of the measure function is a record too.

    With `must_succeed` a failure in the journal is measured again. Raises LauncherError only when the run is ending.
    """
    key = spec.key

    def satisfied(stored: Stored[Any]) -> bool:
        record = stored.record
        if isinstance(record, InterruptedRecord):
            return False
        if key in session.measured:
            return True
        if record.status == "failed":
            return not must_succeed and "failed" not in session.retry
        return not (record.contended and "contended" in session.retry)

    tries = 0
    while True:
        found = session.journal.next_attempt("trial", key, satisfied, session.say)
        if isinstance(found, Stored):
            return Trial(found, key in session.measured)
        with (
            _device(session, id),
            session.journal.begin("trial", key, found, id=id, label=label, config=spec.config) as begun,
        ):
            if not begun:
                continue
            try:
                record = _measure(session, spec, key=key, attempt=found, id=id, label=label)
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
        if stored.record.late:
            continue
        session.measured.add(key)
        return Trial(stored, True)


def _measure(session: Session, spec: TrialSpec, *, key: str, attempt: int, id: str, label: str) -> TrialRecord:
    series = session.series
    started = utc()
    watch = CpuWatch()
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
            max_pairs=series.max_pairs,
            sampling_s=series.sampling_s,
            time_limit_s=series.time_limit_s,
            # From the trial's identity: another replicate gets another order, the same one the same.
            seed=int(key[:8], 16),
        )
    )
    contended = watch.contended(ended.launcher_cpu_s)
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


@contextmanager
def _device(session: Session, id: str) -> Iterator[None]:
    """Hold the device lock inside the block. Raises LauncherError when it can't be had."""
    descriptor = _open_lock()
    try:
        began, told = time.monotonic(), False
        while not _locked(descriptor):
            if session.launcher.closed:
                raise LauncherError(f"The run is ending: {id} was not begun.")
            if not told and time.monotonic() - began > WAIT_TOLD_S:
                session.say(f"{id}: waiting for another trial on this machine")
                told = True
            time.sleep(0.02)
        yield
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _open_lock() -> int:
    # For reading, which is enough to lock it: whoever made it, in a folder where only its maker may write to it.
    flags = os.O_RDONLY | os.O_NOFOLLOW
    try:
        try:
            descriptor = os.open(DEVICE_LOCK, flags | os.O_CREAT | os.O_EXCL, 0o644)
            os.fchmod(descriptor, 0o644)
        except FileExistsError:
            descriptor = os.open(DEVICE_LOCK, flags)
    except OSError as error:
        raise LauncherError(
            f"The device lock {DEVICE_LOCK} can't be opened: {error.strerror}. Trials on this machine take turns by it: "
            "remove it while none is running, or have its owner do so."
        ) from error
    return descriptor
