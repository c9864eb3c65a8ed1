"""Runs trials in the processes of a parent: how a parent is started, and one that lives as long as its owner."""

import os
import shutil
import subprocess
import sys
import threading
from contextlib import AbstractContextManager, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from research_steps.errors import LauncherError
from research_steps.trial.launcher.conversation import Conversation, Hear
from research_steps.trial.launcher.processes import kill_session
from research_steps.trial.launcher.protocol import SOCKET, ParentConfig, Request, TrialOutcome, line

STOP_S = 5.0


@dataclass(frozen=True)
class ParentProcess:
    """A parent that was started, and the folder that its socket lies in."""

    process: "subprocess.Popen[bytes]"
    folder: Path

    @staticmethod
    def start(config: ParentConfig, log: IO[bytes] | None = None) -> "ParentProcess":
        """Start one, and wait until it listens; what it prints goes to its `log`, or where this process's errors go.

        Raises LauncherError.
        """
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
                return ParentProcess(process, Path(os.fsdecode(folder)))
        with suppress(OSError):
            process.stdin.close()
        raise LauncherError(
            f"The parent process of trials did not start (exit code {process.wait()}): its message is "
            f"{f'in {log.name}' if log else 'above'}; check that research_steps imports in this Python."
        )

    def end(self) -> int:
        """End it by the end of its input, and what it could not end itself because it was killed; its exit code."""
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


class Launcher(AbstractContextManager["Launcher"]):
    """The trials of a parent of its own, which is started when the first of them needs it and ends with the block. Safe
    to use from several threads. `family` is the process below which they and what else is ours are."""

    def __init__(self) -> None:
        self.closed = False
        self.family = os.getpid()
        self._lock = threading.Lock()
        self._parent: ParentProcess | None = None

    def __exit__(self, *raised: object) -> None:
        self.close()

    def run(self, request: Request, hear: Hear = lambda message: None) -> TrialOutcome:
        """Run one trial and wait for it. Raises LauncherError when the parent died: the trial has no outcome then."""
        while True:
            try:
                parent = self._started()
                with closing(Conversation(parent.folder / SOCKET)) as conversation:
                    answer = conversation.ask(request, hear)
            except OSError as error:
                raise LauncherError(f"The launcher failed: {error}. The trial has no result.") from error
            if isinstance(answer, TrialOutcome):
                return answer
            # Stale: a library that is being edited changed on disk after the parent had imported it.
            code = self._end(parent)
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
            self._end(parent)

    def _started(self) -> ParentProcess:
        with self._lock:
            if self.closed:
                raise _closed()
            if self._parent is None:
                self._parent = ParentProcess.start(ParentConfig(root=os.getcwd(), env={}))
            return self._parent

    def _end(self, parent: ParentProcess) -> int:
        with self._lock:
            if self._parent is parent:
                self._parent = None
            return parent.end()


def _closed() -> LauncherError:
    return LauncherError("The launcher was closed because the run is ending: the trial has no result.")
