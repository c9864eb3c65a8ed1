"""The parent of trials, a process of its own that `client` starts.

One thread, one loop over file descriptors. For each connection it forks a child, keeps its time limit, collects its
result, and answers with how it ended. A connection that closes early kills its child; when standard input ends (its
owner is gone) everything ends. It imports libraries on request, never the experiment, and starts no backend.
"""

import importlib
import os
import resource
import selectors
import signal
import socket
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, NoReturn

import msgspec
import psutil

from research_steps.launcher import child
from research_steps.launcher.protocol import Ended, Request, Result

OUTPUT_TAIL = 4096
READY = b"ready\n"
STALE = b"stale\n"


@dataclass
class _Trial:
    connection: socket.socket
    pid: int
    result: int
    output: IO[bytes]
    deadline: float
    received: bytearray = field(default_factory=bytearray)
    timed_out: bool = False


class Parent:
    """The loop, and the children it has."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._pid = os.getpid()
        self._selector = selectors.DefaultSelector()
        self._trials: dict[int, _Trial] = {}
        self._sources: dict[Path, int] = {}
        self._tried: set[str] = set()
        woken, wake = socket.socketpair()
        woken.setblocking(False)
        wake.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake.fileno())
        self._wake, self._woken = wake, woken
        for watched in (listener, woken, sys.stdin):
            self._selector.register(watched, selectors.EVENT_READ)

    def serve(self) -> None:
        """Serve until standard input ends."""
        while True:
            soonest = min((trial.deadline for trial in self._trials.values()), default=None)
            timeout = None if soonest is None else max(0.0, soonest - time.monotonic())
            for key, _ in self._selector.select(timeout):
                if key.fileobj is sys.stdin:
                    return
                if key.fileobj is self._listener:
                    self._accept()
                elif key.fileobj is self._woken:
                    self._woken.recv(4096)
                else:
                    self._read(key.fd, key.data)
            self._reap()
            for trial in self._trials.values():
                if time.monotonic() >= trial.deadline and not trial.timed_out:
                    trial.timed_out = True
                    self._kill(trial)

    def close(self) -> None:
        for trial in self._trials.values():
            self._kill(trial)

    # -- one trial ---------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        with connection.makefile("rb") as lines:
            line = lines.readline()
        if not line:
            connection.close()
            return
        request = msgspec.json.decode(line, type=Request)
        if self._stale():
            connection.sendall(STALE)
            connection.close()
            return
        self._preload(request.libraries)
        read_end, write_end = os.pipe()
        output = tempfile.TemporaryFile()  # noqa: SIM115  # closed when the trial has ended
        pid = os.fork()
        if pid == 0:
            self._become_child(request, write_end, output)
        os.close(write_end)
        os.set_blocking(read_end, False)
        with suppress(ProcessLookupError, PermissionError):
            os.setpgid(pid, pid)
        trial = _Trial(connection, pid, read_end, output, time.monotonic() + request.time_limit_s)
        self._trials[pid] = trial
        self._selector.register(read_end, selectors.EVENT_READ, trial)
        self._selector.register(connection, selectors.EVENT_READ, trial)

    def _become_child(self, request: Request, write_end: int, output: IO[bytes]) -> NoReturn:
        status = 1
        try:
            os.setpgid(0, 0)
            child.die_with_parent(self._pid)
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
            self._selector.close()
            self._listener.close()
            for trial in self._trials.values():
                trial.connection.close()
            null = os.open(os.devnull, os.O_RDONLY)
            os.dup2(null, 0)
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
            result = msgspec.json.encode(child.run(request))
            sys.stdout.flush()
            sys.stderr.flush()
            with os.fdopen(write_end, "wb") as pipe:
                pipe.write(result)
            status = 0
        finally:
            # Never return into the parent's loop, and never run its exit handlers.
            os._exit(status)

    def _read(self, descriptor: int, trial: _Trial) -> None:
        if descriptor == trial.result:
            self._drain(trial)
            return
        # The client says nothing more, so anything to read here is the end of its connection.
        self._selector.unregister(trial.connection)
        self._kill(trial)

    def _drain(self, trial: _Trial) -> None:
        with suppress(BlockingIOError):
            while data := os.read(trial.result, 1 << 16):
                trial.received += data
            # End of file: nothing more can come. The child itself is reaped by its own signal.
            if trial.result in self._selector.get_map():
                self._selector.unregister(trial.result)

    def _reap(self) -> None:
        for pid in list(self._trials):
            ended, status, usage = os.wait4(pid, os.WNOHANG)
            if ended:
                self._finish(self._trials.pop(pid), status, usage)

    def _finish(self, trial: _Trial, status: int, usage: resource.struct_rusage) -> None:
        self._drain(trial)
        # Grandchildren may live on in the child's process group; they must not disturb the next trial.
        self._kill(trial)
        trial.output.seek(0, os.SEEK_END)
        trial.output.seek(max(0, trial.output.tell() - OUTPUT_TAIL))
        code = os.waitstatus_to_exitcode(status)
        ended = Ended(
            result=_result(bytes(trial.received)) if code == 0 else None,
            exit=f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}",
            timed_out=trial.timed_out,
            parent_pid=self._pid,
            parent_threads=psutil.Process().num_threads(),
            preloaded_modules=len(sys.modules),
            child_pid=trial.pid,
            cpu_s=usage.ru_utime + usage.ru_stime,
            peak_rss_bytes=usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
            output_tail=trial.output.read().decode("utf-8", "replace"),
        )
        for registered in (trial.result, trial.connection):
            with suppress(KeyError):
                self._selector.unregister(registered)
        os.close(trial.result)
        trial.output.close()
        # The client may be gone; then nobody is left to tell.
        with suppress(OSError), trial.connection:
            trial.connection.sendall(msgspec.json.encode(ended) + b"\n")

    def _kill(self, trial: _Trial) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(trial.pid, signal.SIGKILL)

    # -- what is imported --------------------------------------------------------------------------------------

    def _preload(self, libraries: tuple[str, ...]) -> None:
        new = [name for name in libraries if name not in self._tried]
        if not new:
            return
        self._tried.update(new)
        for name in new:
            # Names of a library that are no module, and libraries that don't import: the child gives the true error.
            with suppress(Exception):
                importlib.import_module(name)
        for module in list(sys.modules.values()):
            source = getattr(module, "__file__", None)
            if source and "site-packages" not in source and not source.startswith(sys.base_prefix):
                with suppress(OSError):
                    self._sources[Path(source)] = os.stat(source).st_mtime_ns

    def _stale(self) -> bool:
        for path, mtime in self._sources.items():
            try:
                if os.stat(path).st_mtime_ns != mtime:
                    return True
            except OSError:
                return True
        return False


def _result(data: bytes) -> Result | None:
    try:
        return msgspec.json.decode(data, type=Result)
    except msgspec.MsgspecError:
        return None


def main() -> None:
    """Listen on the socket that the command line names, say so on standard output, serve until standard input ends."""
    # Ctrl-C in the terminal is for the driver, which ends this process by closing its standard input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(sys.argv[1])
        listener.listen()
        served = Parent(listener)
        sys.stdout.buffer.write(READY)
        sys.stdout.buffer.flush()
        # Nobody reads standard output from here on; a library that prints while it is imported must not block on it.
        os.dup2(2, 1)
        try:
            served.serve()
        finally:
            served.close()
