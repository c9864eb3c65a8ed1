"""A child that stays, with the backend that it has started, for trials that are run in process."""

import asyncio
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil

from research_steps.trial.launcher.protocol import line
from research_steps.trial.launcher.running_trial import RunningTrial

DONE = b"."


@dataclass
class PersistentChild:
    """As its parent sees it. `used_s` is the CPU time of the trials that it has finished."""

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
        with suppress(OSError, asyncio.IncompleteReadError, psutil.Error):
            await self.replies.readexactly(len(DONE))
            trial.end(0, *self.usage())

    def usage(self) -> tuple[float, int]:
        """The CPU time of its last trial in seconds, and the most memory that it ever used in bytes."""
        times = psutil.Process(self.pid).cpu_times()
        total = times.user + times.system
        last, self.used_s = total - self.used_s, total
        return last, _peak_rss(self.pid)


def _peak_rss(pid: int) -> int:
    with suppress(OSError, StopIteration, ValueError):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * 1024
    return int(psutil.Process(pid).memory_info().rss)
