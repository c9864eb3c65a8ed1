"""Starts the parent process when the first trial needs it, and asks it for trials."""

import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol

import msgspec

from research_steps.errors import LauncherError
from research_steps.trial.launcher.processes import kill_session
from research_steps.trial.launcher.protocol import SOCKET, Ended, Message, Request, Stale, line

STOP_S = 5.0
Tell = Callable[[Message], None]


class Trials(Protocol):
    """Whoever runs trials. `family` is the process below which they and what else is ours are."""

    closed: bool
    family: int

    def run(self, request: Request, tell: Tell) -> Ended:
        """Run one trial and wait for it. Raises LauncherError when it has no result, for no fault of its own."""
        ...


class Launcher:
    """A parent process, for as long as the block around it lasts. Safe to use from several threads."""

    def __init__(self) -> None:
        self.closed = False
        self.family = os.getpid()
        self._lock = threading.Lock()
        self._parent: _Parent | None = None

    def __enter__(self) -> "Launcher":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def run(self, request: Request, tell: Tell = lambda message: None) -> Ended:
        """Run one trial and wait for it. Raises LauncherError when the parent died: the trial has no result then."""
        while True:
            try:
                parent = self._started()
                answer = ask(parent.folder, request, tell)
            except OSError as error:
                raise LauncherError(f"The launcher failed: {error}. The trial has no result.") from error
            if isinstance(answer, Ended):
                return answer
            # Stale: a library that is being edited changed on disk after the parent had imported it.
            code = self._stop(parent)
            if self.closed:
                raise _closed()
            if answer is None:
                raise LauncherError(
                    f"The launcher's parent process {parent.process.pid} is gone (exit code {code}): the trial has no "
                    "result."
                )

    def close(self) -> None:
        """End the parent and whatever it runs; trials that are asked for later are refused."""
        self.closed = True
        with self._lock:
            parent = self._parent
        if parent is not None:
            self._stop(parent)

    def _started(self) -> "_Parent":
        with self._lock:
            if self.closed:
                raise _closed()
            if self._parent is None:
                self._parent = _Parent.start()
            return self._parent

    def _stop(self, parent: "_Parent") -> int:
        with self._lock:
            if self._parent is parent:
                self._parent = None
            return parent.stop()


def ask(folder: Path, asked: msgspec.Struct, tell: Tell) -> Ended | Stale | None:
    """The answer of the parent that listens in a folder; None when it died, or is not there."""
    with socket.socket(socket.AF_UNIX) as connection:
        with suppress(OSError):
            connection.connect(str(folder / SOCKET))
            connection.sendall(line(asked))
            with connection.makefile("rb") as lines:
                for received in lines:
                    if not received.endswith(b"\n"):
                        break
                    message: Message = msgspec.json.decode(received, type=Message)
                    if isinstance(message, Ended | Stale):
                        return message
                    tell(message)
    return None


@dataclass(frozen=True)
class _Parent:
    process: "subprocess.Popen[bytes]"
    folder: Path

    @staticmethod
    def start() -> "_Parent":
        process = subprocess.Popen(
            # -P: the experiment in the working directory must not be importable here, only in the children.
            # -u: what a trial printed must not be lost with it.
            [sys.executable, "-P", "-u", "-c", "from research_steps.trial.launcher.parent import main; main()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # A session of its own: Ctrl-C is for the driver, and what a lost parent leaves can be found.
            start_new_session=True,
        )
        assert process.stdin is not None and process.stdout is not None, "both are pipes"
        with process.stdout:
            folder = os.fsdecode(process.stdout.readline().rstrip(b"\n"))
        if not folder:
            process.stdin.close()
            raise LauncherError(
                f"The launcher's parent process did not start (exit code {process.wait()}): its message is above; check "
                "that research_steps imports in this Python."
            )
        return _Parent(process, Path(folder))

    def stop(self) -> int:
        """End the parent, and what it could not end itself because it was killed. Returns its exit code."""
        assert self.process.stdin is not None, "stdin is a pipe"
        with suppress(OSError):
            self.process.stdin.close()
        try:
            code = self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        kill_session(self.process.pid)
        shutil.rmtree(self.folder, ignore_errors=True)
        return code


def _closed() -> LauncherError:
    return LauncherError("The launcher was closed because the run is ending: the trial has no result.")
