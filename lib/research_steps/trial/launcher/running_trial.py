"""A trial that runs in a child, as the parent of that child sees it: its time limit, its output, and how it ended; and
a child that stays, with the backend that it has started, for trials that are run in process."""

import asyncio
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import msgspec
import psutil

from research_steps.records.model import Error, Launch
from research_steps.records.redaction import LONGEST, redact_end, redactor
from research_steps.trial import progress
from research_steps.trial.launcher.processes import ENDED_BY_OTHERS, killed_for_memory
from research_steps.trial.launcher.protocol import ChildResult, Progress, Request, Silent, TrialOutcome, Used, line
from research_steps.trial.tracked import runs_in_directory

OUTPUT_TAIL = 4096
LAST_WORDS = 400
# From when on a trial that neither tells nor prints anything is said to be silent (seconds).
SILENT_S = 600.0


@dataclass
class RunningTrial:
    """`client` has asked for it, `pid` is its child's, `others` are the processes of the parent that are none of the
    trial's. Its output begins at `start` in the file, behind that of earlier attempts. Once it has `ended`, that holds
    the exit code and what the child used."""

    request: Request
    client: asyncio.StreamWriter
    pid: int
    output: IO[bytes]
    others: set[int]
    start: int = 0
    ended: "asyncio.Future[tuple[int, Used]]" = field(default_factory=asyncio.Future)
    timed_out: bool = False
    killed_before: int = field(default_factory=killed_for_memory)
    began: float = field(default_factory=time.time)
    # How far it was and how much it had printed, since when that is so, and from when on that is silence (seconds).
    seen: tuple[progress.Reached | None, int] = (None, 0)
    since: float = field(default_factory=time.monotonic)
    patience_s: float = field(default_factory=lambda: SILENT_S)

    def __post_init__(self) -> None:
        self.shown = self.start

    def kill(self) -> None:
        # It may be gone and not reaped yet, or reaped by whoever ends this parent.
        with suppress(ProcessLookupError):
            if not self.ended.done():
                os.kill(self.pid, signal.SIGKILL)

    def end(self, code: int, used: Used) -> None:
        if not self.ended.done():
            self.ended.set_result((code, used))

    def time_out(self) -> None:
        self.timed_out = True
        self.kill()

    def news(self) -> Progress | Silent | None:
        """How far it is, if that is new; that it is silent, once it was for SILENT_S, and then for twice as long."""
        reached = progress.reached(Path(self.request.directory, "candidate"), self.began)
        before, self.seen = self.seen, (reached, self._size())
        if self.seen != before:
            self.since, self.patience_s = time.monotonic(), SILENT_S
            return Progress(reached) if reached is not None and reached != before[0] else None
        if (silent_s := time.monotonic() - self.since) < self.patience_s:
            return None
        self.patience_s *= 2
        return Silent(silent_s, self._output_tail()[-LAST_WORDS:])

    def _size(self) -> int:
        return os.fstat(self.output.fileno()).st_size

    def new_output(self) -> Iterator[str]:
        """What it has printed since this was last asked for."""
        while new := os.pread(self.output.fileno(), 1 << 20, self.shown):
            self.shown += len(new)
            yield new.decode("utf-8", "replace")

    def outcome(self, written: bytes, launcher_cpu_s: float) -> TrialOutcome:
        """How it ended, by what its child has `written` as its result."""
        code, used = self.ended.result()
        exit = f"signal {_signal_name(-code)}" if code < 0 else f"exit code {code}"
        if code == os.EX_IOERR:
            told = self._output_tail()[-LAST_WORDS:].strip() or f"is {tempfile.gettempdir()} full?"
            result = ChildResult(interrupted=f"Its process could not report what it did: {told}")
        elif -code in ENDED_BY_OTHERS and not self.timed_out and killed_for_memory() == self.killed_before:
            result = ChildResult(interrupted=f"Its process was ended by {exit}, as by the system or a person.")
        else:
            result = ChildResult(error=self._lost(exit))
        with suppress(msgspec.MsgspecError):
            # Nothing, when it ended itself.
            result = msgspec.json.decode(written, type=ChildResult) if code == 0 else result
        error = result.error and msgspec.structs.replace(result.error, output_tail=self._output_tail())
        return TrialOutcome(
            **{**msgspec.structs.asdict(result), "error": error},
            launch=Launch(
                how="in-process" if self.request.in_process else "forked",
                parent_pid=os.getpid(),
                parent_threads=psutil.Process().num_threads(),
                preloaded_modules=len(sys.modules),
                child_pid=self.pid,
                exit=exit,
                import_s=result.import_s,
                setup_s=result.setup_s,
                sampling_s=result.sampling_s,
                cpu_s=used.cpu_s,
                peak_rss_bytes=used.peak_rss_bytes,
            ),
            launcher_cpu_s=launcher_cpu_s,
            runs=runs_in_directory(Path(self.request.directory)) if self.request.tracker else (),
        )

    def _lost(self, exit: str) -> Error:
        """The error of a trial whose child gave no result."""
        if self.timed_out:
            limit = f"{self.request.series.time_limit_s:g} s"
            kind, message = (
                "TimeLimit",
                f"it ran longer than its limit of {limit}, the series' time_limit_s, and was killed",
            )
        elif exit.startswith("signal"):
            why = "; the system ran out of memory meanwhile" if exit == "signal SIGKILL" else ""
            kind, message = "Crash", f"the process was ended by {exit}{why}"
        else:
            kind, message = "Exit", f"the process ended with {exit} before it gave a result"
        return Error(type=kind, message=message, frames=(), where="child", output_tail="")

    def _output_tail(self) -> str:
        output, seen = self.output.fileno(), OUTPUT_TAIL + 2 * LONGEST
        end = os.pread(output, seen, max(self.start, self._size() - seen))
        # What it printed are the secrets of its own environment, which the driver may not have.
        return redact_end(end, OUTPUT_TAIL, redactor(self.request.env))


@dataclass
class PersistentChild:
    """`used_s` is the CPU time of the trials that it has finished."""

    pid: int
    replies: asyncio.StreamReader
    orders: asyncio.StreamWriter
    output: IO[bytes]
    used_s: float = 0.0

    async def run(self, trial: RunningTrial) -> None:
        """Have it run a trial, and tell when it has; what the last one printed is forgotten."""
        os.ftruncate(self.output.fileno(), 0)
        # The child's standard output shares this offset.
        os.lseek(self.output.fileno(), 0, os.SEEK_SET)
        self.orders.write(line(trial.request))
        # Where it dies, that is told by its exit.
        with suppress(OSError, asyncio.IncompleteReadError):
            used = msgspec.json.decode(await self.replies.readuntil(), type=Used)
            trial.end(0, Used(used.cpu_s - self.used_s, used.peak_rss_bytes))
            self.used_s = used.cpu_s


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)
