"""A command as a process: what it prints is taken while it runs, from both streams. Loads next to nothing, because it is
what `research record` begins with."""

import os
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import IO

_PART = 1 << 16
# How long what a command has left running may hold on to its output once it has ended itself (seconds).
_LINGER_S = 1.0


class Process:
    """One that has begun. `hear` is told each part of its output, with 'stdout' or 'stderr'.

    Raises OSError where there is no such program, or it can't be run."""

    def __init__(
        self,
        argv: Sequence[str],
        hear: Callable[[str, bytes], None],
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        stdin: int | None = None,
    ) -> None:
        self.argv, self._hear = list(argv), hear
        self._began = time.perf_counter()
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(self.argv, cwd=cwd, env=env, stdin=stdin, stdout=pipe, stderr=pipe)
        streams = {"stdout": self._process.stdout, "stderr": self._process.stderr}
        self._took_s = 0.0
        self._readers = [threading.Thread(target=self._read, args=each, daemon=True) for each in streams.items()]
        # Its own, because whoever waits may come later than its end.
        self._waiter = threading.Thread(target=self._wait, daemon=True)
        for thread in (*self._readers, self._waiter):
            thread.start()

    def wait(self) -> tuple[int, float]:
        """Its exit code as a shell tells it, once it has ended, and how long it took (seconds)."""
        self._waiter.join()
        for reader in self._readers:
            reader.join(_LINGER_S)
        code = self._process.returncode
        return code if code >= 0 else 128 - code, self._took_s

    def signal(self, number: int) -> None:
        """Pass on a signal; nothing where it has ended."""
        self._process.send_signal(number)

    def _wait(self) -> None:
        self._process.wait()
        self._took_s = time.perf_counter() - self._began

    def _read(self, stream: str, pipe: "IO[bytes]") -> None:
        with pipe:
            while data := os.read(pipe.fileno(), _PART):
                self._hear(stream, data)
