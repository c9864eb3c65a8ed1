"""The command that `research record` runs: its output passes through to the terminal as it is, signals go on to it, and
it waits for nothing that its record needs. So little is imported here that it can begin before all else is.
"""

import os
import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import FrameType

from research_steps.trial.process import Process

# The options of 'research record', each of which takes a value.
OPTIONS = ("--set", "--metrics", "--label", "--hypothesis", "--prefix")
# So much output is held at most until somebody takes it (bytes); the command then waits to print more.
HELD = 8 << 20
Take = Callable[[str, bytes], None]


class RecordedCommand:
    """One that has begun. Raises OSError where there is no such program, or it can't be run."""

    def __init__(self, argv: Sequence[str]) -> None:
        self.argv = list(argv)
        self.signals: list[int] = []
        self._held: list[tuple[str, bytes]] = []
        self._size, self._take = 0, threading.Condition()
        self._taker: Take | None = None
        self._process: Process | None = None
        asked = [s for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if signal.getsignal(s) != signal.SIG_IGN]
        self._before = {number: signal.signal(number, self._pass_on) for number in asked}
        self._process = Process(self.argv, self._hear)
        for received in self.signals:
            self._process.signal(received)

    def give_to(self, taker: Take) -> None:
        """What was printed so far and what is from now on goes to the taker as well."""
        with self._take:
            for part in self._held:
                taker(*part)
            self._held, self._taker = [], taker
            self._take.notify_all()

    def wait(self) -> tuple[int, float]:
        """Its exit code as a shell tells it, once it has ended, and how long it took (seconds)."""
        assert self._process is not None, "it has begun"
        return self._process.wait()

    def let_go(self) -> None:
        """Signals are for this process again."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _hear(self, stream: str, data: bytes) -> None:
        left = memoryview(data)
        # Where nobody reads it any more, the command is told so by its own pipe, as it would be without us.
        while left:
            left = left[os.write(1 if stream == "stdout" else 2, left) :]
        with self._take:
            self._take.wait_for(lambda: self._taker is not None or self._size < HELD)
            if self._taker is not None:
                self._taker(stream, data)
            else:
                self._held.append((stream, data))
                self._size += len(data)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        self.signals.append(number)
        # A terminal sends its Ctrl-C to the command as well.
        if self._process is not None and (number != signal.SIGINT or not _in_foreground()):
            self._process.signal(number)


_begun: RecordedCommand | None = None


def begin_early(given: Sequence[str]) -> None:
    """Begin what stands behind '--' in the arguments of 'research record', where these are plainly right: its series has
    a folder here, and each option is one. All else is left for the command line to tell."""
    global _begun
    if "--" not in given:
        return
    at = list(given).index("--")
    before, argv = list(given[:at]), list(given[at + 1 :])
    topics = []
    while before:
        word = before.pop(0)
        if not word.startswith("-"):
            topics.append(word)
        elif word not in OPTIONS or not before or (word == "--set" and "=" not in before[0]):
            return
        else:
            before.pop(0)
    here = os.getcwd()
    # As many as it lies below, and without pathlib, which takes long to import.
    above = [os.path.join(here, *[os.pardir] * steps) for steps in range(here.count(os.sep) + 1)]
    folders = [os.path.join(folder, below) for folder in above for below in ("experiments", ".agents/logbooks")]
    if argv and len(topics) == 1 and any(os.path.isdir(os.path.join(folder, topics[0])) for folder in folders):
        # What can't be run is told where it is begun again.
        with suppress(OSError):
            _begun = RecordedCommand(argv)


def begun_early() -> RecordedCommand | None:
    return _begun


def _in_foreground() -> bool:
    """Whether this is what a terminal's Ctrl-C reaches, with all that it has started."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    finally:
        os.close(terminal)
