"""What a person sees while a command waits: nothing for a second, then what it waits for."""

import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from research_steps.terminal import cells, pass_on, print_lines, say
from research_steps.trial.launcher.protocol import Message, Output, Progress, Said, Waiting

QUIET_S = 1.0


class ProgressLine:
    """Shows what a helper says, inside the block. On a terminal what is waited for stands in a line that goes again,
    below what `above` then gives for rich to show. What is said goes to `show`."""

    def __init__(self, above: Callable[[], Iterable[Any]] = tuple, show: Callable[[str], None] = print_lines) -> None:
        self._above, self._show_line = above, show
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._what = ""
        self._since = 0.0
        self._due = False
        self._line: Any = None
        self._thread = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self) -> "ProgressLine":
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._ended.set()
        self._thread.join()
        self._clear()

    def hear(self, message: Message) -> None:
        with self._lock:
            match message:
                case Waiting(what):
                    self._wait_for(what)
                case Progress(reached):
                    self._wait_for(f"the trial: {reached}")
                case Said(text):
                    self._clear()
                    self._show_line(text)
                case Output(text):
                    self._clear()
                    pass_on(text, sys.stderr)

    def _wait_for(self, what: str) -> None:
        self._what, self._since, self._due = what, time.monotonic(), True
        if self._line is not None:
            self._show()

    def _tick(self) -> None:
        while not self._ended.wait(QUIET_S / 4):
            with self._lock:
                if self._due and time.monotonic() - self._since >= QUIET_S:
                    self._show()

    def _show(self) -> None:
        self._due = False
        if not sys.stderr.isatty():
            say(f"… {self._what}")
            return
        from rich.console import Console, Group
        from rich.live import Live
        from rich.spinner import Spinner

        if self._line is None:
            self._line = Live(console=Console(stderr=True), transient=True)
            self._line.start()
        self._line.update(Group(*self._above(), Spinner("dots", *cells(self._what))))

    def _clear(self) -> None:
        if self._line is not None:
            self._line.stop()
            self._line = None
            self._wait_for(self._what)
