"""How far the steps of a run are, drawn below its messages while it runs.

On a terminal everything that this process and those below it write to that goes through one pipe: a handler of `logging`
holds the stream of its time, and a process below has descriptors alone. So whole lines go above the table, which is
drawn again below them. Elsewhere nothing is drawn, and the streams stay as they are.
"""

import os
import select
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from research_steps.publish.terminal.watch import StepRow, step_table
from research_steps.records.times import duration
from research_steps.terminal import cells
from research_steps.trial.board import Board, MeasuringStep
from research_steps.trial.contention import HERE

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

# Not oftener, because it is drawn on the machine that times (seconds).
DRAWN_S = 1.0
# From when on a trial that has not begun is said to wait (seconds).
WAITS_S = 1.0
LOOK_S = 0.1


@contextmanager
def drawn(board: Board) -> Iterator[None]:
    """Draw the board inside the block where standard error is a terminal."""
    if not (sys.stderr.isatty() and os.isatty(2)):
        yield
        return
    from rich.console import Console
    from rich.live import Live

    with os.fdopen(os.dup(2), "w", errors="backslashreplace") as terminal:
        console, drawing = Console(file=terminal), _Drawing(board)
        _fit(console)

        def draw() -> "RenderableType":
            _fit(console)
            return drawing.now()

        live = Live(
            console=console,
            get_renderable=draw,
            refresh_per_second=1 / DRAWN_S,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        with live, _lines_above(live.console):
            # It would stay hidden when this process is killed.
            live.console.show_cursor(True)
            board.is_drawn = True
            try:
                yield
            finally:
                board.is_drawn = False


class _Drawing:
    """Makes of a board what is to be seen of it, and remembers since when another process has the machine."""

    def __init__(self, board: Board) -> None:
        self._board, self._holder, self._since = board, "", 0.0

    def now(self) -> "RenderableType":
        from rich.console import Group

        steps = list(self._board.steps)
        if not steps:
            return ""
        rows = (StepRow(f"{s.id} {s.label}", s.done, s.total, s.failed, _doing(s), _left(s)) for s in steps)
        lines = cells(self._who(steps)) if any(map(_waits, steps)) else []
        for line in lines:
            line.no_wrap, line.overflow = True, "ellipsis"
        return Group(step_table(rows, "trial"), *lines)

    def _who(self, steps: list[MeasuringStep]) -> str:
        """Who has the device lock, and for how long."""
        mine = next((step for step in steps if step.running), None)
        if mine is not None:
            return f"  the device lock: {mine.id} {mine.trial} has it for {duration(mine.spent_s)}"
        holder = HERE.lock_holder(HERE.device_lock)
        if holder != self._holder:
            self._holder, self._since = holder, time.monotonic()
        if not holder or f"process {os.getpid()} " in holder:
            return "  the device lock: free; waiting for a quiet machine, or for another driver"
        return f"  the device lock: {holder} has it, seen for {duration(time.monotonic() - self._since)}"


def _waits(step: MeasuringStep) -> bool:
    return bool(step.trial) and not step.running and step.spent_s > WAITS_S


def _doing(step: MeasuringStep) -> str:
    if _waits(step):
        return f"waits {duration(step.spent_s)}: {step.trial}"
    return f"{step.trial}: {step.reached}" if step.reached else step.trial


def _left(step: MeasuringStep) -> str:
    return "" if step.left_s is None else f"about {duration(step.left_s)}"


def _fit(console: "Console") -> None:
    """As wide and high as the terminal is now; rich asks the standard streams, which are a pipe."""
    size = os.get_terminal_size(console.file.fileno())
    if size.columns and size.lines:
        console.size = size


@contextmanager
def _lines_above(console: "Console") -> Iterator[None]:
    """Have what is written to the standard streams that are terminals printed on the console, line by line."""
    read, write = os.pipe()
    streams = {number: os.dup(number) for number in (1, 2) if os.isatty(number)}
    over = threading.Event()
    pump = threading.Thread(target=_pump, args=[console, read, over], daemon=True, name="research-lines")
    pump.start()
    for number in streams:
        os.dup2(write, number)
    os.close(write)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, before in streams.items():
            os.dup2(before, number)
            os.close(before)
        over.set()
        pump.join()
        os.close(read)


def _pump(console: "Console", read: int, over: threading.Event) -> None:
    held = b""
    while True:
        # What this process wrote before the end is there by then; others may keep it open beyond that.
        is_last = over.is_set()
        if select.select([read], [], [], 0 if is_last else LOOK_S)[0]:
            data = os.read(read, 1 << 16)
            if not data:
                break
            *lines, held = (held + data).split(b"\n")
            _print(console, lines)
        elif is_last:
            break
    _print(console, [held] if held else [])


def _print(console: "Console", lines: Iterable[bytes]) -> None:
    for line in lines:
        # As a terminal would show it in the end.
        shown = line.rstrip(b"\r").rpartition(b"\r")[2].decode("utf-8", "replace")
        console.print(*cells(shown), soft_wrap=True)
