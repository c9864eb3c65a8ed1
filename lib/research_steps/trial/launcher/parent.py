"""The parent of trials, a process of its own that `client` or `kept` starts.

One thread, one loop over file descriptors, none of which it blocks on. Whoever connects asks for one trial; trials
take turns, in the order of their requests. For each the parent forks a child, keeps its time limit, collects its
result, kills whatever it left behind, and answers with how it ended. A connection that closes early gives up its
trial. It forks helpers too, which do on the connection what was asked for.

An owned parent ends when its standard input does (the owner is gone); a kept one when it was idle for long, or is told
to. Everything below it ends with it. It imports libraries on request, never the experiment, and starts no backend.
"""

import gc
import importlib
import os
import resource
import selectors
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, NoReturn

import msgspec
import psutil

from research_steps.trial.launcher import child
from research_steps.trial.launcher.connections import Client, Connections
from research_steps.trial.launcher.persistent_worker import Resident
from research_steps.trial.launcher.processes import adopt_orphans, die_with_parent, kill_descendants
from research_steps.trial.launcher.protocol import (
    LONGEST_BASE,
    SOCKET,
    Asked,
    Ended,
    Help,
    Output,
    Request,
    Result,
    Shutdown,
    Stale,
    Waiting,
)
from research_steps.trial.launcher.staleness import Sources, stamp

OUTPUT_TAIL = 4096
# How often a trial's output is looked at for somebody who reads along. Not oftener, because it wakes up a core.
LOOK_S = 0.25


@dataclass
class _Trial:
    client: Client
    request: Request
    pid: int
    output: IO[bytes]
    deadline: float
    others: set[int]
    shown: int = 0
    timed_out: bool = False


@dataclass(frozen=True)
class Keeping:
    """How a parent is kept: for the checkout at `root`, on top of a `base` environment, until idle for `idle_s`."""

    root: Path
    base: Mapping[str, str]
    idle_s: float

    def stamp(self, env: Mapping[str, str]) -> str:
        """What is imported under this environment now, told from what is under another or was before."""
        return stamp(self.root, env)


class Parent:
    """The loop. `folder` is open to its user alone. It ends with `owner`, a descriptor, or is kept."""

    def __init__(
        self,
        listener: socket.socket,
        folder: Path,
        *,
        owner: int | None = None,
        keeping: Keeping | None = None,
    ) -> None:
        self._result = folder / "result"
        self._keeping = keeping
        self._stamp = keeping.stamp(os.environ) if keeping else ""
        self._pid = os.getpid()
        self._waiting: list[tuple[Client, Request]] = []
        self._helpers: set[int] = set()
        self._trial: _Trial | None = None
        self._resident: Resident | None = None
        self._sources = Sources()
        self._tried: set[str] = set()
        self._used_before_s = 0.0
        self._ending = False
        self._retiring = False
        self._woken, self._wake = socket.socketpair()
        # A child says here at what it is. What does not fit is not said.
        self._stages, self._stage = os.pipe()
        for descriptor in (self._woken.fileno(), self._wake.fileno(), self._stages, self._stage):
            os.set_blocking(descriptor, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake.fileno())
        adopt_orphans()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._woken, selectors.EVENT_READ, lambda: self._woken.recv(4096))
        self._selector.register(self._stages, selectors.EVENT_READ, self._tell_stage)
        if owner is not None:
            self._selector.register(owner, selectors.EVENT_READ, self._end)
        self._connections = Connections(self._selector, listener, self._asked, self._left)
        self._idle_since = time.monotonic()

    def serve(self) -> None:
        """Serve until it is over, then leave no process behind."""
        while not self._ending:
            for key, _ in self._selector.select(self._patience()):
                key.data()
            self._reap()
            self._look()
            while self._trial is None and self._waiting and not self._ending:
                self._start(*self._waiting.pop(0))
        kill_descendants()

    def _end(self) -> None:
        self._ending = True

    def _patience(self) -> float | None:
        now = time.monotonic()
        if self._trial is not None and not self._trial.timed_out:
            left = max(0.0, self._trial.deadline - now)
            return min(left, LOOK_S) if self._trial.request.live else left
        if self._keeping is not None and not self._busy():
            return max(0.0, self._idle_since + self._keeping.idle_s - now)
        return None

    def _busy(self) -> bool:
        return bool(self._trial or self._waiting or self._helpers or self._connections.clients)

    def _look(self) -> None:
        """What comes with time: output to show, a trial that ran too long, the end of a parent that nobody needs."""
        now = time.monotonic()
        if self._trial is not None:
            self._show_output(self._trial)
            if not self._trial.timed_out and now >= self._trial.deadline:
                self._trial.timed_out = True
                os.kill(self._trial.pid, signal.SIGKILL)
        if self._retiring and not (self._trial or self._waiting or self._helpers):
            self._ending = True
        if self._busy():
            self._idle_since = now
        elif self._keeping is not None and now - self._idle_since >= self._keeping.idle_s:
            self._ending = True

    # -- what is asked for -------------------------------------------------------------------------------------

    def _asked(self, client: Client, asked: Asked) -> None:
        match asked:
            case Request():
                # What was used before is none of this trial's, but for the start of a parent that it was started for.
                self._used_before_s = _cpu_s() if self._tried else 0.0
                self._waiting.append((client, asked))
            case Help():
                self._help(client, asked)
            case Shutdown(when_done):
                self._retiring = True
                self._ending = not when_done or self._ending

    def _left(self, client: Client) -> None:
        self._waiting = [waiting for waiting in self._waiting if waiting[0] is not client]
        if self._trial is not None and self._trial.client is client:
            os.kill(self._trial.pid, signal.SIGKILL)

    def _help(self, client: Client, wanted: Help) -> None:
        keeping = self._keeping
        if keeping is None:
            self._connections.drop(client)
            return
        env = {**keeping.base, **wanted.env}
        changed = self._sources.changed()
        if not changed and (self._retiring or keeping.stamp(env) != self._stamp):
            changed = "the environment, or what is installed,"
        if changed:
            self._connections.answer(client, Stale(changed))
            return
        if not self._preload(client, wanted.libraries):
            return
        pid = os.fork()
        if pid == 0:
            work = partial(_help, wanted, env, client.connection)
            self._become(work, sys.stderr.fileno(), keep=client.connection)
        self._helpers.add(pid)
        self._connections.drop(client)

    # -- one trial ---------------------------------------------------------------------------------------------

    def _start(self, client: Client, request: Request) -> None:
        if not self._preload(client, request.libraries):
            return
        # A file, because pipes are held open by others and fill up; by name, because a child may close everything.
        self._result.write_bytes(b"")
        deadline = time.monotonic() + request.time_limit_s
        # What a helper has left running, such as a session of ssh, is none of the trial's.
        others = {process.pid for process in psutil.Process().children()} if self._keeping else set()
        resident, self._resident = self._resident, None
        if resident is not None and not request.in_process:
            # It holds the accelerator that this trial's process needs for itself.
            self._end_resident(resident)
        if request.in_process:
            self._resident = resident or self._settle()
            self._resident.order(request)
            self._trial = _Trial(client, request, self._resident.pid, self._resident.output, deadline, others)
            return
        output = tempfile.TemporaryFile()  # noqa: SIM115  # closed when the trial has ended
        pid = os.fork()
        if pid == 0:
            self._become(partial(child.serve, request, self._result, self._stage), output.fileno())
        self._trial = _Trial(client, request, pid, output, deadline, others)

    def _settle(self) -> Resident:
        output = tempfile.TemporaryFile()  # noqa: SIM115  # closed when the resident has ended
        mine, orders = socket.socketpair()
        self._selector.register(mine, selectors.EVENT_READ, self._resident_said)
        pid = os.fork()
        if pid == 0:
            self._become(partial(child.reside, orders, self._result, self._stage), output.fileno())
        orders.close()
        return Resident(pid, mine, output)

    def _become(self, work: Callable[[], None], output: int, keep: socket.socket | None = None) -> NoReturn:
        """Be a child that does this work and then ends."""
        status = 1
        try:
            die_with_parent(self._pid)
            # A measure function may signal its own process group.
            os.setpgid(0, 0)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            with open(os.devnull) as nothing:
                os.dup2(nothing.fileno(), 0)
            os.dup2(output, 1)
            os.dup2(output, 2)
            # Whoever is connected sees the end of the parent only when nobody else holds the connection.
            for key in list(self._selector.get_map().values()):
                if isinstance(key.fileobj, socket.socket) and key.fileobj is not keep:
                    key.fileobj.close()
            self._wake.close()
            self._selector.close()
            work()
            status = 0
        except BaseException:  # noqa: BLE001  # into the output's tail; nothing else would tell why there is no result
            traceback.print_exc()
        finally:
            # Never return into the parent's loop, and never run its exit handlers.
            os._exit(status)

    def _reap(self) -> None:
        """Take note of every child that has ended, also of those that it got from others."""
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            self._helpers.discard(pid)
            trial, resident = self._trial, self._resident
            if resident is not None and pid == resident.pid:
                self._forget_resident(resident)
            if trial is not None and pid == trial.pid:
                before_s = resident.used_s if trial.request.in_process and resident else 0.0
                cpu_s = usage.ru_utime + usage.ru_stime - before_s
                rss = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
                self._finish(trial, os.waitstatus_to_exitcode(status), cpu_s, rss)
                trial.output.close()

    def _resident_said(self) -> None:
        """The resident is done with a trial; or it ended, which its exit tells."""
        resident, trial = self._resident, self._trial
        if resident is None or not resident.is_done():
            if resident is not None:
                self._selector.unregister(resident.orders)
            return
        if trial is not None and trial.pid == resident.pid:
            cpu_s, rss = resident.usage()
            self._finish(trial, 0, cpu_s, rss)

    def _finish(self, trial: _Trial, code: int, cpu_s: float, rss: int) -> None:
        self._trial = None
        # What the child started may live on; it must not disturb the next trial.
        kill_descendants(spare=trial.others | self._helpers | ({self._resident.pid} if self._resident else set()))
        self._show_output(trial)
        output = trial.output.fileno()
        tail = os.pread(output, OUTPUT_TAIL, max(0, os.fstat(output).st_size - OUTPUT_TAIL))
        ended = Ended(
            how="in-process" if trial.request.in_process else "forked",
            result=_result(self._result.read_bytes()) if code == 0 else None,
            exit=f"signal {_signal_name(-code)}" if code < 0 else f"exit code {code}",
            timed_out=trial.timed_out,
            parent_pid=self._pid,
            parent_threads=psutil.Process().num_threads(),
            preloaded_modules=len(sys.modules),
            child_pid=trial.pid,
            cpu_s=cpu_s,
            launcher_cpu_s=_cpu_s() - self._used_before_s + (cpu_s if self._resident else 0.0),
            peak_rss_bytes=rss,
            output_tail=tail.decode("utf-8", "replace"),
        )
        self._connections.answer(trial.client, ended)

    def _end_resident(self, resident: Resident) -> None:
        os.kill(resident.pid, signal.SIGKILL)
        os.waitpid(resident.pid, 0)
        self._forget_resident(resident)

    def _forget_resident(self, resident: Resident) -> None:
        self._resident = None
        with suppress(KeyError):
            self._selector.unregister(resident.orders)
        resident.orders.close()

    # -- what somebody reads along -----------------------------------------------------------------------------

    def _tell_stage(self) -> None:
        for stage in os.read(self._stages, 4096).decode("utf-8", "replace").splitlines():
            if self._trial is not None:
                self._connections.tell(self._trial.client, Waiting(stage))

    def _show_output(self, trial: _Trial) -> None:
        if not trial.request.live:
            return
        while new := os.pread(trial.output.fileno(), 1 << 20, trial.shown):
            trial.shown += len(new)
            self._connections.tell(trial.client, Output(new.decode("utf-8", "replace")))

    # -- what is imported --------------------------------------------------------------------------------------

    def _preload(self, client: Client, libraries: tuple[str, ...]) -> bool:
        """Import what is new of these. False when that is for nothing: the client left, or was told what changed."""
        began = time.time()
        new = [name for name in libraries if name not in self._tried]
        self._tried.update(new)
        for name in new:
            if name not in sys.modules:
                self._connections.tell(client, Waiting(f"importing {name}"))
            # Names of a library that are no module, and libraries that don't import: the child gives the true error.
            with suppress(Exception, SystemExit):
                importlib.import_module(name)
        if new:
            # The children collect no garbage among what is imported here, and so share its memory.
            gc.freeze()
            self._sources.take(began)
        changed = self._sources.changed()
        if changed:
            self._connections.answer(client, Stale(changed))
        return not changed and client in self._connections.clients


def _help(wanted: Help, env: Mapping[str, str], connection: socket.socket) -> None:
    module, _, function = wanted.function.partition(":")
    os.environ.clear()
    os.environ.update(env)
    with connection:
        connection.setblocking(True)
        getattr(importlib.import_module(module), function)(connection, bytes(wanted.order))


def _cpu_s() -> float:
    """What this process and the children that it has seen end have used since it began."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _result(data: bytes) -> Result | None:
    try:
        return msgspec.json.decode(data, type=Result)
    except msgspec.MsgspecError:
        return None


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


def main() -> None:
    """Listen in a folder of its own, say on standard output where that is, serve until standard input ends."""
    base = tempfile.gettempdir()
    # Created for its user alone, which is what guards the socket inside.
    folder = Path(tempfile.mkdtemp(prefix="research-launcher-", dir=base if len(base) < LONGEST_BASE else "/tmp"))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / SOCKET))
        listener.listen()
        parent = Parent(listener, folder, owner=0)
        # If the owner is gone by now, standard input has ended too.
        with suppress(BrokenPipeError):
            os.write(1, os.fsencode(folder) + b"\n")
        # Nobody reads standard output from here on; a library that prints while it is imported must not block on it.
        os.dup2(2, 1)
        parent.serve()
    shutil.rmtree(folder, ignore_errors=True)
    # The exit handlers of the libraries have nothing here to end.
    os._exit(0)
