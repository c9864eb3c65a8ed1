"""Ties the life of one process to another's. Linux only: elsewhere these do nothing, and a lost process lives on."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

# From linux/prctl.h.
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
# What ends a process from outside: a person, a scheduler that takes the machine back, the kernel.
ENDED_BY_OTHERS = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP)
_KILL_ROUNDS = 10
_ROUND_S = 0.5


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


def adopt_orphans() -> None:
    """Have every descendant that loses its parent become a child of this process, in whatever session it is."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)


def killed_for_memory() -> int:
    """How often the kernel has ended a process because memory ran out, in this control group where that tells, else on
    this machine; 0 where neither does."""
    with suppress(OSError):
        group = Path("/proc/self/cgroup").read_text().rpartition("::")[2].strip()
        places = (f"/sys/fs/cgroup{group}/memory.events", "/sys/fs/cgroup/memory.events", "/proc/vmstat")
        for place in places:
            with suppress(OSError):
                counts = dict(line.split() for line in Path(place).read_text().splitlines())
                if "oom_kill" in counts:
                    return int(counts["oom_kill"])
    return 0


def kill_descendants(spare: Collection[int] = ()) -> None:
    """Kill what this process has started and what that has started, and wait until it is gone; but for the processes
    to `spare`, and what those have started."""
    import psutil

    def descendants() -> "list[psutil.Process]":
        started, spared = psutil.Process().children(recursive=True), set(spare)
        for process in started:
            with suppress(psutil.Error):
                # Oldest first, so that a process's parent was looked at before it.
                if process.ppid() in spared:
                    spared.add(process.pid)
        return [process for process in started if process.pid not in spared]

    _kill_all(descendants)


def kill_marked(name: str, value: str) -> None:
    """Kill the processes that were started with this environment variable, and wait until they are gone; those, too,
    that have a session of their own, or whose parent is dead already."""
    import psutil

    def marked() -> "Iterator[psutil.Process]":
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get(name) == value:
                    yield process

    _kill_all(marked)


def _kill_all(find: "Callable[[], Iterable[psutil.Process]]") -> None:
    """Kill what this finds until there is no more. It is left behind when the kernel does not let go of it within
    seconds."""
    import psutil

    for _ in range(_KILL_ROUNDS):
        processes = list(find())
        for process in processes:
            with suppress(psutil.Error):
                process.kill()
        if not processes:
            return
        psutil.wait_procs(processes, timeout=_ROUND_S)


def kill_session(leader: int) -> None:
    """Kill the processes that a session leader, itself dead already, has left in its session."""
    import psutil

    for pid in psutil.pids():
        with suppress(OSError):
            if os.getsid(pid) == leader:
                os.kill(pid, signal.SIGKILL)
