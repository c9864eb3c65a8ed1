"""Starts the parent process when the first trial needs it, and asks it for one trial at a time."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import msgspec

from research_steps.errors import LauncherError
from research_steps.launcher.parent import READY, STALE
from research_steps.launcher.protocol import Ended, Request

STOP_S = 5.0


class Launcher:
    """A parent process, for as long as the block around it lasts. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: Path | None = None
        self._closed = False

    def __enter__(self) -> "Launcher":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def run(self, request: Request) -> Ended:
        """Run one trial and wait for it. Raises LauncherError when the parent died: the trial has no result then."""
        while True:
            with socket.socket(socket.AF_UNIX) as connection:
                path = self._started()
                try:
                    connection.connect(str(path))
                    connection.sendall(msgspec.json.encode(request) + b"\n")
                    with connection.makefile("rb") as lines:
                        answer = lines.readline()
                except OSError as error:
                    raise LauncherError(self._died(str(error))) from error
            if answer == STALE:
                # A library that is being edited changed on disk after the parent had imported it.
                self._stop()
                continue
            if not answer:
                raise LauncherError(self._died("it closed the connection"))
            return msgspec.json.decode(answer, type=Ended)

    def close(self) -> None:
        """End the parent and whatever it runs; trials that are asked for later are refused."""
        self._closed = True
        self._stop()

    @property
    def closed(self) -> bool:
        return self._closed

    def _stop(self) -> None:
        with self._lock:
            process, folder = self._process, self._folder
            self._process = self._folder = None
        if process is not None and process.stdin is not None:
            with suppress(OSError):
                process.stdin.close()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)

    def _started(self) -> Path:
        with self._lock:
            if self._closed:
                raise LauncherError("The launcher was closed because the run is ending: the trial has no result.")
            if self._process is not None and self._process.poll() is None and self._folder is not None:
                return self._folder / "socket"
            # Created readable by its user alone, which is what guards the socket inside.
            self._folder = self._folder or Path(tempfile.mkdtemp(prefix="research-launcher-"))
            path = self._folder / "socket"
            path.unlink(missing_ok=True)
            # -P: the experiment in the working directory must not be importable here, only in the children.
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", "from research_steps.launcher.parent import main; main()", str(path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
            assert self._process.stdout is not None, "stdout is a pipe"
            if self._process.stdout.readline() != READY:
                raise LauncherError(
                    f"The launcher's parent process did not start (exit code {self._process.wait()}): its message is "
                    "above; check that research_steps imports in this Python."
                )
            return path

    def _died(self, how: str) -> str:
        code = self._process.poll() if self._process is not None else None
        return f"The launcher's parent process is gone ({how}; exit code {code}): the trial has no result."
