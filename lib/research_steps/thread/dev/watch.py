"""A session of --watch: an attempt, and another one whenever a file that it rests on is saved with other bytes.

The attempts are trials of one experiment ID, so that they can be kept as one entry. Nothing is watched while something
is measured: a save in the middle of an attempt begins the next one right after it. What can't be attempted, such as a
file that does not parse, is told and waited for.
"""

import math
import signal
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from research_steps.errors import ResearchError
from research_steps.git import Checkout
from research_steps.records.encoding import sha256
from research_steps.terminal import cells, print_lines
from research_steps.thread.dev.command import order
from research_steps.thread.dev.messages import Attempted, DevRequest
from research_steps.thread.dev.progress_line import ProgressLine
from research_steps.trial.launcher.protocol import Begun, Message, Said, Waiting

if TYPE_CHECKING:
    from rich.table import Table

# How many attempts the live table shows, so that it fits on a screen; the summary has all.
SHOWN = 8
# A change that the system did not tell of is seen after this time.
LOOK_MS = 1000
WIDE = 200
STYLES = {"improved": "green", "regressed": "red", "failed": "red"}


def watch(checkout: Checkout, request: DevRequest) -> list[Attempted]:
    """Attempt until Ctrl-C or SIGTERM, and sum up; returns what was attempted."""
    attempts: list[Attempted] = []
    done = 0
    files = _Files(checkout.root / "experiments" / request.topic)
    signal.signal(signal.SIGTERM, signal.default_int_handler)

    def hear(message: Message) -> None:
        nonlocal done
        if isinstance(message, Begun):
            done = message.number
        progress.hear(message)

    with ProgressLine(lambda: [_table(attempts, SHOWN)] if attempts else []) as progress, suppress(KeyboardInterrupt):
        while True:
            files.begin()
            try:
                answer = order(
                    checkout, msgspec.structs.replace(request, done=done, watched=True, best=_best(attempts)), hear
                )
            except ResearchError as error:
                if not files.thread.is_dir():
                    raise
                progress.hear(Said(f"not attempted: {error}"))
                files.end((), ok=False)
            else:
                attempts.append(msgspec.json.decode(answer, type=Attempted))
                files.end(attempts[-1].sources, ok=attempts[-1].status == "ok")
            progress.hear(Waiting(f"waiting for another save of {files.named()}; Ctrl-C ends"))
            files.wait()
    if attempts:
        _sum_up(attempts)
    return attempts


class _Files:
    """The files that an attempt rests on, and what they held when it began. After one that failed any module of the
    thread counts, because what it would have imported next is not known."""

    def __init__(self, thread: Path) -> None:
        self.thread = thread
        self._sources: set[Path] = set()
        self._ok = False
        self._began = 0.0
        self._hashes: dict[Path, str] = {}

    def begin(self) -> None:
        """An attempt begins, with the files as they are now."""
        self._began = time.time()
        self._hashes = _digests(self._sources | self._modules())

    def end(self, sources: Iterable[str], *, ok: bool) -> None:
        """It has ended, and had imported these."""
        imported, self._ok = set(map(Path, sources)), ok
        self._sources = imported if ok else imported | self._sources
        # One that was not known before and was saved meanwhile counts as changed.
        self._hashes |= _digests(imported - self._hashes.keys(), before=self._began)

    def wait(self) -> None:
        """Wait until one of them holds something else. Raises KeyboardInterrupt when the session is to end."""
        import watchfiles

        # Folders, because an editor may replace a file by another one.
        folders = {path.parent for path in self._waited() if path.parent.is_dir()}
        events = watchfiles.watch(
            *folders, watch_filter=None, recursive=False, rust_timeout=LOOK_MS, yield_on_timeout=True
        )
        while not self._changed():
            next(events)
        events.close()

    def named(self) -> str:
        own = sorted(path.name for path in self._waited() if path.is_relative_to(self.thread))
        more = len(self._waited()) - len(own)
        return ", ".join(own) + (f" or {more} more files" if more else "")

    def _changed(self) -> bool:
        """A file that is gone or empty is about to come back, so that it is no change."""
        return any(self._hashes.get(path) != digest for path, digest in _digests(self._waited()).items())

    def _waited(self) -> set[Path]:
        return self._sources if self._ok else self._sources | self._modules()

    def _modules(self) -> set[Path]:
        return set(self.thread.rglob("*.py"))


def _digests(paths: Iterable[Path], before: float = math.inf) -> dict[Path, str]:
    """The hash of what each of the files holds that are there, not empty, and were last saved before a time."""
    digests = {}
    for path in paths:
        with suppress(OSError):
            # An editor may empty a file before it writes it.
            if path.stat().st_mtime < before and (data := path.read_bytes()):
                digests[path] = sha256(data)
    return digests


def _best(attempts: Sequence[Attempted]) -> Attempted | None:
    """The attempt that improved most, None while none did."""
    return max((attempt for attempt in attempts if attempt.gain > 0), key=lambda attempt: attempt.gain, default=None)


def _table(attempts: Sequence[Attempted], last: int) -> "Table":
    """The last attempts and the best one."""
    from rich import box
    from rich.table import Table

    best = _best(attempts)
    table = Table("attempt", "edited", "result", "verdict", "", box=box.SIMPLE)
    for number, attempt in enumerate(attempts):
        is_best = attempt is best
        if is_best or number >= len(attempts) - last:
            edited, mark = attempt.edited or "as committed", "best" if is_best else ""
            row = cells(attempt.ids, edited, attempt.told, attempt.verdict, mark)
            table.add_row(*row, style=STYLES.get(attempt.verdict))
    return table


def _sum_up(attempts: Sequence[Attempted]) -> None:
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else WIDE).print(_table(attempts, len(attempts)))
    print_lines(f"{attempts[-1].what}. To make it one entry: research keep {attempts[-1].id} --hypothesis …")
