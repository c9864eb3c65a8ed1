"""The parent of trials, a process of its own that `client` starts.

One thread, one loop over file descriptors, none of which it blocks on. Whoever connects asks for one trial; trials
take turns, in the order of their requests. For each the parent forks a child, keeps its time limit, collects its
result, kills whatever it left behind, and answers with how it ended. A connection that closes early gives up its
trial; when standard input ends (the owner is gone) everything ends. The parent imports libraries on request, never the
experiment, and starts no backend.
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
import sysconfig
import tempfile
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, NoReturn

import msgspec
import psutil

from research_steps.launcher import child
from research_steps.launcher.processes import adopt_orphans, die_with_parent, kill_descendants
from research_steps.launcher.protocol import SOCKET, STALE, Ended, Request, Result

OUTPUT_TAIL = 4096
LARGEST_REQUEST = 64 << 20
# The path of a socket has at most 103 bytes on some systems.
LONGEST_BASE = 60


@dataclass
class _Trial:
    connection: socket.socket
    pid: int
    output: IO[bytes]
    deadline: float
    timed_out: bool = False


class Parent:
    """The loop. `folder` holds its socket, is open to its user alone, and goes when the loop ends."""

    def __init__(self, listener: socket.socket, folder: Path) -> None:
        self._listener = listener
        self._folder = folder
        self._result = folder / "result"
        self._pid = os.getpid()
        self._waiting: list[tuple[socket.socket, Request]] = []
        self._trial: _Trial | None = None
        self._sources: dict[Path, int] = {}
        self._tried: set[str] = set()
        self._told_cpu_s = 0.0
        self._woken, self._wake = socket.socketpair()
        for connection in (listener, self._woken, self._wake):
            connection.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake.fileno())
        adopt_orphans()
        self._selector = selectors.DefaultSelector()
        self._selector.register(sys.stdin, selectors.EVENT_READ)
        self._selector.register(listener, selectors.EVENT_READ, self._accept)
        self._selector.register(self._woken, selectors.EVENT_READ, partial(self._woken.recv, 4096))

    def serve(self) -> None:
        """Serve until standard input ends, then leave no process and no file behind."""
        while True:
            for key, _ in self._selector.select(self._patience()):
                if key.fileobj is sys.stdin:
                    kill_descendants()
                    shutil.rmtree(self._folder, ignore_errors=True)
                    return
                key.data()
            self._reap()
            if self._trial is not None and self._patience() == 0.0:
                self._trial.timed_out = True
                os.kill(self._trial.pid, signal.SIGKILL)
            while self._trial is None and self._waiting:
                self._start(*self._waiting.pop(0))

    def _patience(self) -> float | None:
        if self._trial is None or self._trial.timed_out:
            return None
        return max(0.0, self._trial.deadline - time.monotonic())

    # -- connections -------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        # The client may be gone again, or there are too many.
        with suppress(OSError):
            connection, _ = self._listener.accept()
            connection.setblocking(False)
            self._selector.register(connection, selectors.EVENT_READ, partial(self._receive, connection, bytearray()))

    def _receive(self, connection: socket.socket, received: bytearray) -> None:
        try:
            data = connection.recv(1 << 16)
            received += data
            if data and not data.endswith(b"\n") and len(received) <= LARGEST_REQUEST:
                return
            request = msgspec.json.decode(received, type=Request)
        except (OSError, msgspec.MsgspecError):
            # Gone before it had asked, or none of ours.
            self._leave(connection)
            return
        self._waiting.append((connection, request))
        # It has nothing more to say, so anything to read is its end.
        self._selector.modify(connection, selectors.EVENT_READ, partial(self._leave, connection))

    def _answer(self, connection: socket.socket, answer: bytes) -> None:
        self._selector.modify(connection, selectors.EVENT_WRITE, partial(self._send, connection, memoryview(answer)))

    def _send(self, connection: socket.socket, unsent: memoryview) -> None:
        try:
            unsent = unsent[connection.send(unsent) :]
        except OSError:
            # Nobody is left to tell.
            unsent = unsent[:0]
        if unsent:
            self._selector.modify(connection, selectors.EVENT_WRITE, partial(self._send, connection, unsent))
        else:
            self._leave(connection)

    def _leave(self, connection: socket.socket) -> None:
        self._selector.unregister(connection)
        connection.close()
        self._waiting = [waiting for waiting in self._waiting if waiting[0] is not connection]
        if self._trial is not None and self._trial.connection is connection:
            os.kill(self._trial.pid, signal.SIGKILL)

    # -- one trial ---------------------------------------------------------------------------------------------

    def _start(self, connection: socket.socket, request: Request) -> None:
        if self._stale():
            self._answer(connection, STALE)
            return
        self._preload(request.libraries)
        # Files, because pipes are held open by others and fill up; by name, because the child may close everything.
        self._result.write_bytes(b"")
        output = tempfile.TemporaryFile()  # noqa: SIM115  # closed when the trial has ended
        pid = os.fork()
        if pid == 0:
            self._become_child(request, output)
        self._trial = _Trial(connection, pid, output, time.monotonic() + request.time_limit_s)

    def _become_child(self, request: Request, output: IO[bytes]) -> NoReturn:
        status = 1
        try:
            die_with_parent(self._pid)
            # A measure function may signal its own process group.
            os.setpgid(0, 0)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._wake.close()
            for key in self._selector.get_map().values():
                if isinstance(key.fileobj, socket.socket):
                    key.fileobj.close()
            self._selector.close()
            with open(os.devnull) as nothing:
                os.dup2(nothing.fileno(), 0)
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
            child.serve(request, self._result)
            status = 0
        except BaseException:  # noqa: BLE001  # into the output's tail; nothing else would tell why there is no result
            traceback.print_exc()
        finally:
            # Never return into the parent's loop, and never run its exit handlers.
            os._exit(status)

    def _reap(self) -> None:
        if self._trial is None:
            return
        pid, status, usage = os.wait4(self._trial.pid, os.WNOHANG)
        if pid:
            trial, self._trial = self._trial, None
            # What the child started may live on; it must not disturb the next trial.
            kill_descendants()
            with trial.output:
                ended = self._ended(trial, os.waitstatus_to_exitcode(status), usage)
            if trial.connection.fileno() >= 0:
                self._answer(trial.connection, msgspec.json.encode(ended) + b"\n")

    def _ended(self, trial: _Trial, code: int, usage: resource.struct_rusage) -> Ended:
        output = trial.output.fileno()
        tail = os.pread(output, OUTPUT_TAIL, max(0, os.fstat(output).st_size - OUTPUT_TAIL))
        used, told = _cpu_s(), self._told_cpu_s
        self._told_cpu_s = used
        return Ended(
            result=_result(self._result.read_bytes()) if code == 0 else None,
            exit=f"signal {_signal_name(-code)}" if code < 0 else f"exit code {code}",
            timed_out=trial.timed_out,
            parent_pid=self._pid,
            parent_threads=psutil.Process().num_threads(),
            preloaded_modules=len(sys.modules),
            child_pid=trial.pid,
            cpu_s=usage.ru_utime + usage.ru_stime,
            launcher_cpu_s=used - told,
            peak_rss_bytes=usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
            output_tail=tail.decode("utf-8", "replace"),
        )

    # -- what is imported --------------------------------------------------------------------------------------

    def _preload(self, libraries: tuple[str, ...]) -> None:
        new = [name for name in libraries if name not in self._tried]
        self._tried.update(new)
        for name in new:
            # Names of a library that are no module, and libraries that don't import: the child gives the true error.
            with suppress(Exception, SystemExit):
                importlib.import_module(name)
        if new:
            # The children collect no garbage among what is imported here, and so share its memory.
            gc.freeze()
            self._sources = {path: mtime for path in _edited() if (mtime := _mtime(path)) is not None}

    def _stale(self) -> bool:
        return any(_mtime(path) != mtime for path, mtime in self._sources.items())


def _edited() -> set[Path]:
    """The files of imported modules that people edit: all but those of installed packages and the standard library."""
    sources = {getattr(module, "__file__", None) or "" for module in list(sys.modules.values())} - {""}
    fixed = tuple(sysconfig.get_path(name) for name in ("stdlib", "platstdlib"))
    return {
        Path(source)
        for source in sources
        if "site-packages" not in source and "dist-packages" not in source and not source.startswith(fixed)
    }


def _mtime(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None


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
        parent = Parent(listener, folder)
        # If the owner is gone by now, standard input has ended too.
        with suppress(BrokenPipeError):
            os.write(1, os.fsencode(folder) + b"\n")
        # Nobody reads standard output from here on; a library that prints while it is imported must not block on it.
        os.dup2(2, 1)
        parent.serve()
    # The exit handlers of the libraries have nothing here to end.
    os._exit(0)
