"""A child that stays, with the backend that it has started, for trials that are run in process."""

import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil

from research_steps.trial.launcher.protocol import Request, line

DONE = b"."


@dataclass
class PersistentChild:
    """As its parent sees it. `used_s` is the CPU time of the trials that it has finished."""

    pid: int
    orders: socket.socket
    output: IO[bytes]
    used_s: float = 0.0

    def order(self, request: Request) -> None:
        """Have it run a trial; what the last one printed is forgotten."""
        os.ftruncate(self.output.fileno(), 0)
        # The child's standard output shares this offset.
        os.lseek(self.output.fileno(), 0, os.SEEK_SET)
        # One that is gone says so by its end.
        with suppress(OSError):
            self.orders.sendall(line(request))

    def is_done(self) -> bool:
        """Whether it has finished what it was asked for; if not, it has ended."""
        try:
            return self.orders.recv(len(DONE)) == DONE
        except OSError:
            return False

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
