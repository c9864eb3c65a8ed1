"""What disturbs a timing on this machine: other trials, processes on its accelerators, a lock file in the way, load, and
a processor that is throttled.

Trials take turns by the device lock, one for all users and checkouts, because they share the machine's cores and its
accelerators. The rest is looked at before a trial, and load also during it. Looking changes nothing.
"""

import fcntl
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO

import psutil

from research_steps.errors import LauncherError
from research_steps.files import open_file
from research_steps.trial.provenance import nvidia_smi

# Something is always busy for a while: others count as load above a quarter of a core, or above an eighth of the cores
# that the trial itself keeps busy, where that is more.
LOAD_SHARE, LOAD_CORES = 1 / 8, 0.25
LOOK_S = 0.3
GLANCES, GLANCE_S = 5, 0.002
WAIT_TOLD_S = 5.0
_TPU = ("accel*", "vfio/[0-9]*")
_GPU = "nvidia[0-9]*"
_UNSEEN = "a process that can't be seen from here"


@dataclass(frozen=True)
class Disturbance:
    """What disturbs, as a sentence, and how to mend it. One that `passes` may end without anybody's doing."""

    what: str
    mend: str
    passes: bool = True


class Machine:
    """Where its devices, lock files and processors are, and how many cores others may always keep busy."""

    def __init__(
        self,
        dev: Path = Path("/dev"),
        tmp: Path = Path("/tmp"),
        load_cores: float = LOAD_CORES,
        processors: Path = Path("/sys/devices/system/cpu"),
    ) -> None:
        self.dev, self.load_cores, self.processors = dev, load_cores, processors
        self.device_lock = tmp / "research-steps-device.lock"
        self.next_lock = tmp / "research-steps-next.lock"
        self.tpu_lock = tmp / "libtpu_lockfile"

    @cached_property
    def expected(self) -> int:
        """How many accelerator devices there were when they were first asked for."""
        return len(self.devices())

    def devices(self) -> list[Path]:
        return self._nodes(*_TPU, _GPU)

    def disturbances(self, family: int | None = None) -> list[Disturbance]:
        """What is in a trial's way now, other than load. Processes below the process `family` (default: this one) are
        in nobody's way."""
        disturbances = [
            Disturbance(f"{who} holds {what}", "wait until it has ended, or end it")
            for who, what in self._holders(family or os.getpid()).items()
        ]
        count = len(self.devices())
        if count != self.expected:
            what = f"accelerator devices that are there: {count}; expected: {self.expected}, as when the run began"
            mend = "bring them back, or run the thread anew on what is there"
            disturbances.append(Disturbance(what, mend, passes=False))
        owner = self._lock_left_behind()
        if owner:
            what = f"{self.tpu_lock} is held by nobody and belongs to {owner}: a stale lock file"
            disturbances.append(Disturbance(what, f"remove it, as {owner} or root", passes=False))
        return disturbances

    def load(self) -> list[Disturbance]:
        """Others that keep cores busy now. A few milliseconds on a quiet machine, a third of a second on a busy one."""
        return [] if _running() <= self.load_cores else self.load_of(self.others_cores())

    def load_of(self, others: float) -> list[Disturbance]:
        """So many cores that others keep busy, where that is load."""
        load = Disturbance(
            f"other processes keep {_cores(others)} busy", "end them, or wait: 'research doctor' names the busiest"
        )
        return [load] if others > self.load_cores else []

    def busiest(self, count: int) -> list[str]:
        """The processes of others that use most of the cores now, each with how many, by a look of `LOOK_S`."""
        before = _cpu_s_of_others()
        time.sleep(LOOK_S)
        used = {pid: (now - before[pid]) / LOOK_S for pid, now in _cpu_s_of_others().items() if pid in before}
        most = sorted(used, key=lambda pid: -used[pid])[:count]
        return [f"{_named(pid)} {used[pid]:.2f}" for pid in most if used[pid] > 0]

    def others_cores(self) -> float:
        """How many cores others keep busy, by a look of `LOOK_S`."""
        watch = CpuWatch(self)
        time.sleep(LOOK_S)
        return watch.others_cores(0.0)

    def throttled(self) -> int:
        """How often its processors were throttled since they started, as far as they tell."""
        counts = self.processors.glob("cpu[0-9]*/thermal_throttle/*_throttle_count")
        return sum(int(count.read_text()) for count in counts)

    def lock_holder(self, path: Path) -> str:
        """Who has a lock on a file, empty when nobody has."""
        try:
            pid = _lock_owner(path.lstat().st_ino)
            if pid:
                return _named(pid)
            with open(open_file(path, os.O_NOFOLLOW)) as file:
                # In another container, perhaps, whose locks the kernel does not list here.
                return "" if _locked(file) else _UNSEEN
        except OSError:
            return ""

    def _nodes(self, *patterns: str) -> list[Path]:
        """Accelerators that a trial may use: none when JAX is told to leave them alone."""
        if os.environ.get("JAX_PLATFORMS", "").split(",")[0] == "cpu":
            return []
        return sorted(path for pattern in patterns for path in self.dev.glob(pattern))

    def _holders(self, family: int) -> dict[str, str]:
        """Processes that use an accelerator, and by which file they are known; not those that started this one, nor the
        `family`."""
        holders: dict[str, str] = {}
        nodes, gpus = self._nodes(*_TPU), self._nodes(_GPU)
        if nodes and (holder := self.lock_holder(self.tpu_lock)):
            holders[holder] = str(self.tpu_lock)
        if gpus:
            holders |= _compute_apps()
            # Monitors and display servers hold the GPUs' own nodes all the time; who computes holds this one as well,
            # though not of which GPU.
            nodes += [] if "CUDA_VISIBLE_DEVICES" in os.environ else [self.dev / "nvidia-uvm"]
        if nodes:
            holders |= _open_in(nodes)
        mine = psutil.Process()
        for process in [mine, *mine.parents(), *psutil.Process(family).children(recursive=True)] if holders else []:
            holders.pop(_named(process.pid), None)
        return holders

    def _lock_left_behind(self) -> str:
        """Whose libtpu lock file keeps this user from the TPU though nobody holds it.

        One of this user's own does not: libtpu takes it over. Every trial leaves one, because its process ends without
        exit handlers.
        """
        try:
            owner = self.tpu_lock.lstat().st_uid
        except OSError:
            return ""
        if owner == os.geteuid() or not self._nodes(*_TPU) or self.lock_holder(self.tpu_lock):
            return ""
        return f"user {owner}"


# The machine that trials run on.
HERE = Machine()


class CpuWatch:
    """Measures from its creation on how many cores others kept busy, and whether the processor was throttled."""

    def __init__(self, machine: Machine) -> None:
        self._machine, self._throttled = machine, machine.throttled()
        self._busy, self._own, self._wall = _busy_s(), time.process_time(), time.monotonic()

    def others_cores(self, children_cpu_s: float) -> float:
        """`children_cpu_s` is our children's own use."""
        wall = time.monotonic() - self._wall
        own = time.process_time() - self._own + children_cpu_s
        return max(0.0, _busy_s() - self._busy - own) / wall if wall else 0.0

    def contended(self, children_cpu_s: float) -> str:
        """What disturbed the measurement, empty when nothing was seen to."""
        others = self.others_cores(children_cpu_s)
        own = children_cpu_s / (time.monotonic() - self._wall)
        throttled = self._machine.throttled() - self._throttled
        told = [f"other processes kept {_cores(others)} busy"]
        if others <= max(self._machine.load_cores, LOAD_SHARE * own):
            told.clear()
        if throttled > 0:
            told.append(f"the processor was throttled {throttled} times")
        return "; ".join(told)


@contextmanager
def device_lock(machine: Machine, id: str, ended: Callable[[], bool], say: Callable[[str], None]) -> Iterator[None]:
    """Hold the machine's device lock inside the block, for the trial `id`.

    Who waits for it holds another lock, that of the next one, so that nobody has two turns while somebody waits. Raises
    LauncherError when it can't be had, or the run has `ended` before it was.
    """
    with _open_lock(machine.device_lock) as device:
        with _open_lock(machine.next_lock) as following:
            _wait_for((following, device), id, ended, lambda text: say(f"{text}{_by(machine)}"))
        yield


def _by(machine: Machine) -> str:
    holder = machine.lock_holder(machine.device_lock)
    return f": {holder} has it" if holder else ""


def _wait_for(locks: Iterable[IO[str]], id: str, ended: Callable[[], bool], say: Callable[[str], None]) -> None:
    began, is_told = time.monotonic(), False
    for lock in locks:
        while not _locked(lock):
            if ended():
                raise LauncherError(f"The run is ending: {id} was not begun.")
            if not is_told and time.monotonic() - began > WAIT_TOLD_S:
                say(f"{id}: waiting for its turn on this machine")
                is_told = True
            time.sleep(0.02)


def _locked(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _open_lock(path: Path) -> IO[str]:
    # For reading, which is enough to lock it: whoever made it, in a folder where only its maker may write to it.
    try:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL, 0o644)
            os.fchmod(descriptor, 0o644)
        except FileExistsError:
            descriptor = open_file(path, os.O_NOFOLLOW)
        return open(descriptor)
    except OSError as error:
        raise LauncherError(
            f"The device lock {path} can't be opened: {error.strerror}. Trials on this machine take turns by it: "
            "remove it while none is running, or have its owner do so."
        ) from error


def _lock_owner(inode: int) -> int:
    """The process that holds a lock on a file, of whatever kind, as far as the kernel tells."""
    with suppress(OSError):
        for line in Path("/proc/locks").read_text().splitlines():
            fields = line.split()
            # '1: FLOCK ADVISORY WRITE <pid> <major>:<minor>:<inode> 0 EOF'; those who wait have a '->' as well.
            if "->" not in fields and fields[5].rpartition(":")[2] == str(inode):
                return int(fields[4])
    return 0


def _named(pid: int) -> str:
    with suppress(psutil.Error):
        return f"process {pid} ({psutil.Process(pid).name()})"
    return f"process {pid}"


def _open_in(nodes: list[Path]) -> dict[str, str]:
    """Processes that have one of these files open, as far as this user may see."""
    names = {str(node) for node in nodes}
    holders = {}
    for pid in psutil.pids():
        with suppress(OSError):
            # psutil's own list of open files leaves out what is no regular file, as every device is.
            for link in os.scandir(f"/proc/{pid}/fd"):
                with suppress(OSError):
                    if (target := os.readlink(link.path)) in names:
                        holders[_named(pid)] = target
    return holders


def _compute_apps() -> dict[str, str]:
    """Processes that compute on the visible NVIDIA GPUs, other users' among them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    lines = nvidia_smi("--query-compute-apps=pid", *([f"--id={visible}"] if visible else []))
    return {_named(int(line)): "the NVIDIA GPU" for line in lines if line.isdigit()}


def _running() -> float:
    """How many other threads run or want to, on average over a few glances; infinite where the kernel does not tell."""
    running = 0
    with suppress(OSError, IndexError, ValueError):
        for _ in range(GLANCES):
            running += int(Path("/proc/loadavg").read_text().split()[3].partition("/")[0]) - 1
            time.sleep(GLANCE_S)
        return running / GLANCES
    return math.inf


def _cpu_s_of_others() -> dict[int, float]:
    """The CPU time (seconds) of each process but this one."""
    used = {}
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.pid != os.getpid():
                times = process.cpu_times()
                used[process.pid] = float(times.user + times.system)
    return used


def _busy_s() -> float:
    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0)
    # Linux counts guest time within user time already.
    guest = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
    return float(sum(times) - idle - guest)


def _cores(busy: float) -> str:
    return f"{busy:.2f} of {os.cpu_count()} cores"
