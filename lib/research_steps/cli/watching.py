"""How far the steps of a series are, for people: a line for each, and a view that follows them until nothing runs.

On a terminal the view is a table that is drawn again; elsewhere it is a line whenever something has changed.
"""

import signal
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from research_steps.journal.journal import Journal
from research_steps.journal.progress import StepProgress, under_way
from research_steps.journal.snapshot import OpenAttempt
from research_steps.publish.markdown import one_line
from research_steps.records.model import EntryRecord
from research_steps.records.objects import Intent
from research_steps.records.times import duration, parse_utc

if TYPE_CHECKING:
    from rich.console import RenderableType

LOOK_S = 1.5
# Between two steps nothing runs for a second or two.
QUIET_LOOKS = 4
HOSTS_SHOWN = 5
GONE = "its driver is gone: start it again to go on"


@dataclass(frozen=True)
class View:
    """What is to be seen of some series at one moment: the steps that measure, all attempts that are open, and the
    entries of steps that were to be seen before."""

    plans: tuple[StepProgress, ...]
    open: tuple[OpenAttempt, ...]
    ended: tuple[EntryRecord, ...]

    @property
    def quiet(self) -> bool:
        """Whether nothing runs, and nobody is about to begin."""
        return all(one.orphaned() for one in self.open) and all(one.driver_gone for one in self.plans)


def told(one: StepProgress) -> str:
    """A step in one line."""
    among = [f"{one.failed} failed"] if one.failed else []
    among += [f"{one.held} from the journal"] if one.held else []
    parts = [f"{one.done} of {one.total} done" + (f" ({', '.join(among)})" if among else "")]
    parts += [f"{len(one.running)} running on {_hosts(one.running)}"] if one.running else []
    if one.queued:
        parts.append(f"{one.queued} queued" + (f" ({len(one.orphaned)} orphaned)" if one.orphaned else ""))
    parts += [f"about {duration(one.left_s)} left"] if one.left_s is not None else []
    return one_line(f"{one.id} {one.label}: {', '.join(parts)}" + (f"; {GONE}" if one.driver_gone else ""))


def attempt_told(one: OpenAttempt) -> str:
    """An open attempt in one line."""
    intent = one.intent
    state = "orphaned" if one.orphaned() else "running"
    where = f"process {intent.owner.pid} on {intent.owner.host}"
    return one_line(f"{state}: {intent.id} {intent.label}, {where}, since {intent.started_at}")


def watch(journals: Sequence[Journal]) -> None:
    """Follow some series until nothing runs any more, Ctrl-C or SIGTERM."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    last, quiet = View((), (), ()), 0
    with ExitStack() as stack, suppress(KeyboardInterrupt):
        show = stack.enter_context(_Table()) if sys.stdout.isatty() else _Lines()
        while quiet < QUIET_LOOKS:
            began = time.monotonic()
            last = _look(journals, last)
            show(last)
            quiet = quiet + 1 if last.quiet else 0
            # A long series in an object store takes seconds to list, and is left alone for as long.
            time.sleep(max(LOOK_S, time.monotonic() - began))


def _look(journals: Sequence[Journal], last: View) -> View:
    plans: list[StepProgress] = []
    attempts: list[OpenAttempt] = []
    ended: list[EntryRecord] = []
    seen = {one.id for one in last.plans}
    for journal in journals:
        found = journal.recent()
        plans += under_way(journal, found)
        attempts += found.open
        ended += [one.record for one in found.entries.values() if one.record.id in seen and not one.record.late]
    return View(tuple(plans), tuple(attempts), tuple(ended))


class _Lines:
    """Prints what has changed since the last view."""

    def __init__(self) -> None:
        self._shown: dict[str, Any] = {}

    def __call__(self, view: View) -> None:
        measured = {one.id for one in view.plans}
        # How long it still takes changes always.
        now: dict[str, tuple[Any, str]] = {one.id: (replace(one, left_s=None), told(one)) for one in view.plans}
        now |= {one.id: (one, _ended(one)) for one in view.ended}
        for attempt in view.open:
            id = attempt.intent.id
            if id not in measured and id.rpartition(".")[0] not in measured:
                now[attempt.intent.nonce] = (attempt.orphaned(), attempt_told(attempt))
        for key, (state, text) in now.items():
            if self._shown.get(key) != state:
                click.echo(text)
        self._shown = {key: state for key, (state, _) in now.items()}


class _Table:
    """Draws the view in one place of the terminal, inside the block."""

    def __init__(self) -> None:
        from rich.live import Live

        self._live = Live(auto_refresh=False)

    def __enter__(self) -> "_Table":
        self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.stop()

    def __call__(self, view: View) -> None:
        from rich.text import Text

        for one in view.ended:
            self._live.console.print(Text(_ended(one)))
        self._live.update(_drawn(view), refresh=True)


def _drawn(view: View) -> "RenderableType":
    from rich import box
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    steps = Table("step", "", "done", "failed", "running on", "left", box=box.SIMPLE)
    for one in view.plans:
        left = GONE if one.driver_gone else "" if one.left_s is None else f"about {duration(one.left_s)}"
        bar = ProgressBar(total=one.total, completed=one.done, width=20)
        cells = _texts(f"{one.done}/{one.total}", one.failed or "", _hosts(one.running), left)
        steps.add_row(*_texts(f"{one.id} {one.label}"), bar, *cells)
    attempts = Table("running", "", "process", "for", box=box.SIMPLE)
    measured = {one.id for one in view.plans}
    for attempt in view.open:
        intent = attempt.intent
        if intent.id not in measured:
            age = (datetime.now(UTC) - parse_utc(intent.started_at)).total_seconds()
            spent = "orphaned" if attempt.orphaned() else duration(max(0.0, age))
            attempts.add_row(*_texts(intent.id, intent.label, f"{intent.owner.pid} on {intent.owner.host}", spent))
    tables = [table for table in (steps, attempts) if table.row_count]
    return Group(*tables) if tables else Text("Nothing runs.")


def _texts(*cells: object) -> Iterable[Any]:
    from rich.text import Text

    return [Text(one_line(str(cell))) for cell in cells]


def _ended(record: EntryRecord) -> str:
    return one_line(f"{record.id} {record.label}: {record.status}, {record.result}")


def _hosts(running: Iterable[Intent]) -> str:
    hosts = sorted({intent.owner.host for intent in running})
    more = len(hosts) - HOSTS_SHOWN
    return ", ".join(hosts[:HOSTS_SHOWN]) + (f" and {more} more" if more > 0 else "")
