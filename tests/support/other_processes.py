"""Other processes on the machine: none of ours, neither started this one nor were started by it."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil

SPIN = [sys.executable, "-c", "while True: pass"]
HOLD = """
import fcntl, sys, time
file = open(sys.argv[1], "a")
if sys.argv[2] == "locked":
    fcntl.lockf(file, fcntl.LOCK_EX)
print("holding", flush=True)
time.sleep(600)
"""


@contextmanager
def holding(path: Path, locked: bool = False) -> Iterator[psutil.Process]:
    """A process that has this file open inside the block, or has it locked as libtpu locks its own."""
    # The shell that starts it ends at once, so that it is nobody's child here.
    shell = ["sh", "-c", 'echo $$; "$@" & echo $!', "sh", sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen([*shell, "locked" if locked else "open"], stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None
        lines = [started.stdout.readline().strip() for _ in range(3)]
        process = psutil.Process(int(lines[1 if lines[1] != "holding" else 2]))
        try:
            yield process
        finally:
            with suppress(psutil.NoSuchProcess):
                process.kill()
            gone(process)


def gone(process: psutil.Process) -> None:
    """Wait until a process that is no child of ours has ended; whoever adopted it may leave it a zombie."""
    with suppress(psutil.NoSuchProcess):
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)


@contextmanager
def busy_cores() -> Iterator[None]:
    """Other processes inside the block that keep twice as many cores busy as would be load, on any machine."""
    with ExitStack() as others:
        for _ in range(1 + (os.cpu_count() or 1) // 4):
            others.callback(others.enter_context(subprocess.Popen(SPIN)).kill)
        yield
