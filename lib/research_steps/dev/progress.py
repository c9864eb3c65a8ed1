"""What a person sees while a command waits: nothing for a second, then what it waits for."""

import sys
import threading
import time
from types import TracebackType
from typing import Any

import click

from research_steps.launcher.protocol import Message, Output, Said, Waiting

QUIET_S = 1.0


class Progress:
    """Shows what a helper says, inside the block. On a terminal what is waited for stands in a line that goes again."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._what = ""
        self._since = 0.0
        self._line: Any = None
        self._thread = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self) -> "Progress":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()
        self._clear()

    def hear(self, message: Message) -> None:
        with self._lock:
            match message:
                case Waiting(what):
                    self._what, self._since = what, time.monotonic()
                case Said(text):
                    self._clear()
                    click.echo(text)
                case Output(text):
                    self._clear()
                    click.echo(text, nl=False, err=True)

    def _tick(self) -> None:
        while not self._ended.wait(QUIET_S / 4):
            with self._lock:
                if self._what and time.monotonic() - self._since >= QUIET_S:
                    self._show(self._what)
                    self._what = ""

    def _show(self, what: str) -> None:
        if not sys.stderr.isatty():
            click.echo(f"… {what}", err=True)
            return
        from rich.console import Console

        if self._line is None:
            self._line = Console(stderr=True).status(what)
            self._line.start()
        self._line.update(what)

    def _clear(self) -> None:
        if self._line is not None:
            self._line.stop()
            self._line = None
