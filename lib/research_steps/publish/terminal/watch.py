"""How far the steps of a series are: a line for each, and a view that follows them until nothing runs.

On a terminal the view is a table that is drawn again; elsewhere it is a line whenever something has changed.
"""

import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from research_steps.journal.journal import Journal
from research_steps.journal.progress import StepProgress, under_way
from research_steps.journal.snapshot import OpenAttempt
from research_steps.publish.markdown import one_line
from research_steps.records.model import EntryRecord
from research_steps.records.objects import Intent
from research_steps.records.times import duration, parse_utc
from research_steps.terminal import cells, print_lines

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

LOOK_S = 1.5
# Between two steps nothing runs for a second or two.
QUIET_LOOKS = 4
HOSTS_SHOWN = 5
TOLD_SHOWN = 2
GONE = "its driver is gone: start it again to go on"


@dataclass(frozen=True)
class View:
    """What is to be seen of some series at one moment: the steps that measure, all attempts that are open, and the
    entries of steps that were to be seen before."""

    steps: tuple[StepProgress, ...] = ()
    open: tuple[OpenAttempt, ...] = ()
    ended: tuple[EntryRecord, ...] = ()

    @property
    def quiet(self) -> bool:
        """Whether nothing runs, and nobody is about to begin."""
        return all(attempt.orphaned() for attempt in self.open) and all(step.driver_gone for step in self.steps)


def step_line(step: StepProgress) -> str:
    """How far a step is, in one line."""
    among = [f"{step.failed} failed"] if step.failed else []
    among += [f"{step.held} from the journal"] if step.held else []
    parts = [f"{step.done} of {step.total} done" + (f" ({', '.join(among)})" if among else "")]
    parts += [f"{len(step.running)} running on {_hosts(step.running)}"] if step.running else []
    if step.queued:
        parts.append(f"{step.queued} queued" + (f" ({len(step.orphaned)} orphaned)" if step.orphaned else ""))
    parts += [f"about {duration(step.left_s)} left"] if step.left_s is not None else []
    parts += [f"{told.id} at {told.text}" for told in step.told[:TOLD_SHOWN]]
    return one_line(f"{step.id} {step.label}: {', '.join(parts)}" + (f"; {GONE}" if step.driver_gone else ""))


def attempt_line(attempt: OpenAttempt, steps: Sequence[StepProgress] = ()) -> str:
    """An open attempt in one line. That of one of these steps of which no trial runs waits, for a machine say."""
    intent = attempt.intent
    waits = any(step.id == intent.id and step.queued and not step.running for step in steps)
    state = "orphaned" if attempt.orphaned() else "waiting" if waits else "running"
    where = f"process {intent.owner.pid} on {intent.owner.host}"
    return one_line(f"{state}: {intent.id} {intent.label}, {where}, since {intent.started_at}")


def watch(journals: Sequence[Journal]) -> None:
    """Follow some series until nothing runs any more, Ctrl-C or SIGTERM."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    view, quiet = View(), 0
    with ExitStack() as stack, suppress(KeyboardInterrupt):
        show = _table(stack) if sys.stdout.isatty() else _Lines()
        while quiet < QUIET_LOOKS:
            began = time.monotonic()
            view = _look(journals, view)
            show(view)
            quiet = quiet + 1 if view.quiet else 0
            # A long series in an object store takes seconds to list, and is left alone for as long.
            time.sleep(max(LOOK_S, time.monotonic() - began))


def _look(journals: Sequence[Journal], before: View) -> View:
    steps: list[StepProgress] = []
    attempts: list[OpenAttempt] = []
    entries: list[EntryRecord] = []
    for journal in journals:
        snapshot = journal.recent()
        steps += under_way(journal, snapshot)
        attempts += snapshot.open
        entries += [stored.record for stored in snapshot.entries.values() if not stored.record.late]
    seen = {step.id for step in before.steps}
    return View(tuple(steps), tuple(attempts), tuple(entry for entry in entries if entry.id in seen))


@dataclass(frozen=True)
class StepRow:
    """How far a step is, in one row of a table. `now` is what stands below the heading of that name."""

    name: str
    done: int
    total: int
    failed: int
    now: str
    left: str


def step_table(rows: Iterable[StepRow], now: str) -> "Table":
    """Steps with their bars. What is too long for the terminal is cut, and each step stays in one line."""
    from rich import box
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    table = Table("step", "", "done", now, "left", box=box.SIMPLE, show_edge=False)
    for row in rows:
        name, doing, left = cells(row.name, row.now, row.left)
        for text in (name, doing, left):
            text.no_wrap, text.overflow = True, "ellipsis"
        bar = ProgressBar(total=row.total, completed=row.done, width=10)
        (counts,) = cells(f"{row.done}/{row.total}" + (f", {row.failed} failed" if row.failed else ""))
        table.add_row(name, bar, counts, doing, left)
    for column in table.columns[1:3]:
        column.no_wrap = True
    return table


class _Lines:
    """Prints what has changed since the last view."""

    def __init__(self) -> None:
        self._shown: dict[str, Any] = {}

    def __call__(self, view: View) -> None:
        measuring = {step.id for step in view.steps}
        # How long it still takes changes always.
        lines: dict[str, tuple[Any, str]] = {
            step.id: (replace(step, left_s=None), step_line(step)) for step in view.steps
        }
        lines |= {entry.id: (entry, _entry_line(entry)) for entry in view.ended}
        for attempt in view.open:
            if not {attempt.intent.id, attempt.intent.id.rpartition(".")[0]} & measuring:
                lines[attempt.intent.nonce] = (attempt.orphaned(), attempt_line(attempt))
        for key, (state, text) in lines.items():
            if self._shown.get(key) != state:
                print_lines(text)
        self._shown = {key: state for key, (state, _) in lines.items()}


def _table(stack: ExitStack) -> Callable[[View], None]:
    """Draws each view in one place of the terminal, until the stack is closed."""
    from rich.live import Live

    live = stack.enter_context(Live(auto_refresh=False))

    def show(view: View) -> None:
        for entry in view.ended:
            live.console.print(*cells(_entry_line(entry)))
        live.update(_drawn(view), refresh=True)

    return show


def _drawn(view: View) -> "RenderableType":
    from rich import box
    from rich.console import Group
    from rich.table import Table

    steps = step_table(map(_row, view.steps), "running on")
    attempts = Table("running", "", "process", "for", box=box.SIMPLE)
    measuring = {step.id for step in view.steps}
    for attempt in view.open:
        intent = attempt.intent
        if intent.id not in measuring:
            age = (datetime.now(UTC) - parse_utc(intent.started_at)).total_seconds()
            spent = "orphaned" if attempt.orphaned() else duration(max(0.0, age))
            attempts.add_row(*cells(intent.id, intent.label, f"{intent.owner.pid} on {intent.owner.host}", spent))
    tables = [table for table in (steps, attempts) if table.row_count]
    return Group(*tables) if tables else "Nothing runs."


def _row(step: StepProgress) -> StepRow:
    left = GONE if step.driver_gone else "" if step.left_s is None else f"about {duration(step.left_s)}"
    now = [_hosts(step.running), *(f"{told.id} at {told.text}" for told in step.told[:TOLD_SHOWN])]
    return StepRow(f"{step.id} {step.label}", step.done, step.total, step.failed, "; ".join(now), left)


def _entry_line(entry: EntryRecord) -> str:
    return one_line(f"{entry.id} {entry.label}: {entry.status}, {entry.result}")


def _hosts(running: Iterable[Intent]) -> str:
    hosts = sorted({intent.owner.host for intent in running})
    more = len(hosts) - HOSTS_SHOWN
    return ", ".join(hosts[:HOSTS_SHOWN]) + (f" and {more} more" if more > 0 else "")
