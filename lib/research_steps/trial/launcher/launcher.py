"""Runs trials in the processes of a parent: how a parent is started, and one that lives as long as its owner."""

import os
import shutil
import subprocess
import sys
import threading
from contextlib import AbstractContextManager, closing, suppress
from pathlib import Path
from typing import IO

from research_steps.errors import LauncherError
from research_steps.trial.launcher.conversation import Conversation, Hear
from research_steps.trial.launcher.processes import kill_session
from research_steps.trial.launcher.protocol import SOCKET, ParentConfig, Request, TrialOutcome, line

STOP_S = 5.0


def start_parent(config: ParentConfig, log: IO[bytes] | None = None) -> "tuple[subprocess.Popen[bytes], Path]":
    """Start a parent, and wait until it listens in the folder that is returned; what it prints goes to its `log`, or
    where this process's errors go. It ends with its standard input, unless it is kept. Raises LauncherError."""
    process = subprocess.Popen(
        # -P: the experiment in the working directory must not be importable here, only in the children.
        # -u: what a trial printed must not be lost with it.
        [sys.executable, "-P", "-u", "-c", "from research_steps.trial.launcher.parent import main; main()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        env={**os.environ, **config.env},
        # A session of its own: Ctrl-C is for the driver, and what a lost parent leaves can be found.
        start_new_session=True,
    )
    assert process.stdin is not None and process.stdout is not None, "both are pipes"
    with process.stdout, suppress(BrokenPipeError):
        process.stdin.write(line(config))
        process.stdin.flush()
        if folder := process.stdout.readline().rstrip(b"\n"):
            if config.idle_s is not None:
                process.stdin.close()
            return process, Path(os.fsdecode(folder))
    with suppress(OSError):
        process.stdin.close()
    raise LauncherError(
        f"The parent process of trials did not start (exit code {process.wait()}): its message is "
        f"{f'in {log.name}' if log else 'above'}; check that research_steps imports in this Python."
    )


class Launcher(AbstractContextManager["Launcher"]):
    """The trials of a parent of its own, which is started when the first of them needs it and ends with the block. Safe
    to use from several threads. `family` is the process below which they and what else is ours are."""

    def __init__(self) -> None:
        self.closed = False
        self.family = os.getpid()
        self._lock = threading.Lock()
        self._parent: tuple[subprocess.Popen[bytes], Path] | None = None

    def __exit__(self, *raised: object) -> None:
        self.close()

    def run(self, request: Request, hear: Hear = lambda message: None) -> TrialOutcome:
        """Run one trial and wait for it. Raises LauncherError when the parent died: the trial has no outcome then."""
        while True:
            try:
                process, folder = self._started()
                with closing(Conversation(folder / SOCKET)) as conversation:
                    answer = conversation.ask(request, hear)
            except OSError as error:
                raise LauncherError(f"The launcher failed: {error}. The trial has no result.") from error
            if isinstance(answer, TrialOutcome):
                return answer
            # Stale: a library that is being edited changed on disk after the parent had imported it.
            code = self._end(process, folder)
            if self.closed:
                raise _closed()
            if answer is None:
                raise LauncherError(
                    f"The launcher's parent process {process.pid} is gone (exit code {code}): the trial has no result."
                )

    def close(self) -> None:
        """End the parent and whatever it runs; trials that are asked for later are refused."""
        self.closed = True
        with self._lock:
            parent = self._parent
        if parent is not None:
            self._end(*parent)

    def _started(self) -> "tuple[subprocess.Popen[bytes], Path]":
        with self._lock:
            if self.closed:
                raise _closed()
            if self._parent is None:
                self._parent = start_parent(ParentConfig(root=os.getcwd(), env={}))
            return self._parent

    def _end(self, process: "subprocess.Popen[bytes]", folder: Path) -> int:
        """End a parent by the end of its input, and what it could not end because it was killed; its exit code."""
        with self._lock:
            if self._parent == (process, folder):
                self._parent = None
            assert process.stdin is not None, "stdin is a pipe"
            with suppress(OSError):
                process.stdin.close()
            try:
                code = process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                code = process.wait()
            kill_session(process.pid)
            shutil.rmtree(folder, ignore_errors=True)
            return code


def _closed() -> LauncherError:
    return LauncherError("The launcher was closed because the run is ending: the trial has no result.")
