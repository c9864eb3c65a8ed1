"""A child that stays, with the backend that it has started, for trials that are run in process."""

import asyncio
import os
from contextlib import suppress
from dataclasses import dataclass
from typing import IO

import msgspec

from research_steps.trial.launcher.protocol import Used, line
from research_steps.trial.launcher.running_trial import RunningTrial


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
        with suppress(OSError, asyncio.IncompleteReadError):
            used = msgspec.json.decode(await self.replies.readuntil(), type=Used)
            trial.end(0, Used(used.cpu_s - self.used_s, used.peak_rss_bytes))
            self.used_s = used.cpu_s
