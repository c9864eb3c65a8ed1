"""Projections of the journal, and who drives them: each surface shows every record that it should, once in the end.

A surface's own markers are its receipts. Surfaces never import each other. What one could not do is collected and told;
it never reaches a measurement. The driver runs a `Publisher` beside its steps; `research sync` makes one pass from any
checkout.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

from research_steps.errors import ResearchError
from research_steps.journal.journal import Journal
from research_steps.journal.snapshot import Snapshot
from research_steps.records.redaction import redact

# How often the journal is looked at for what other drivers and workers recorded.
LOOK_EVERY_S = 5.0


@dataclass(frozen=True)
class Change:
    """One thing that a surface did: for which experiment ID, or for the series where that is its topic, and what."""

    id: str
    what: str


@dataclass(frozen=True)
class Published:
    """What one pass of the surfaces did, what it could not do, and what it left out though nothing is wrong with it, in
    sentences."""

    done: tuple[Change, ...] = ()
    problems: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(done.id for done in self.done)


class Surface(Protocol):
    """One that a `Publisher` drives. `final` is the last pass of a run: whatever was put off is done now.

    It yields what it did, and in a sentence what it could not do and goes on without.
    """

    def publish(self, entries: Snapshot, final: bool) -> Iterator[Change | str]: ...


def publish(journal: Journal, surfaces: Sequence[Surface], final: bool = True) -> Published:
    """One pass over all surfaces. A surface that fails is a problem in the answer; the others go on."""
    entries = journal.entries()
    done: list[Change] = []
    problems = list(entries.problems)
    for surface in surfaces:
        try:
            for told in surface.publish(entries, final):
                if isinstance(told, Change):
                    done.append(told)
                else:
                    problems.append(told)
        except ResearchError as error:
            problems.append(str(error))
        except Exception as error:  # noqa: BLE001  # whatever a surface's library raises, the others go on
            problems.append(f"{type(surface).__name__} failed with {type(error).__name__}: {redact(str(error))}")
    # A surface that comes twice in a pass may say the same twice.
    return Published(tuple(done), tuple(dict.fromkeys(problems)), tuple(entries.newer))


class Publisher:
    """Publishes in the background for as long as the block around it lasts, and once more at its end.

    `problems` are those of the last pass: earlier ones have been made good by then, or are still among them.
    """

    def __init__(self, journal: Journal, surfaces: Sequence[Surface], say: Callable[[str], None]) -> None:
        self.done: list[Change] = []
        self.problems: tuple[str, ...] = ()
        self._left_out: tuple[str, ...] = ()
        self._journal = journal
        self._sinks = surfaces
        self._say = say
        self._wake = threading.Event()
        self._ending = False
        self._thread = threading.Thread(target=self._work, name="research-publisher", daemon=True)

    def __enter__(self) -> "Publisher":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ending = True
        self._wake.set()
        self._thread.join()
        self._pass(final=True)

    def changed(self) -> None:
        """Look at the journal soon: something was recorded."""
        self._wake.set()

    def _work(self) -> None:
        while not self._ending:
            self._wake.wait(LOOK_EVERY_S)
            self._wake.clear()
            if not self._ending:
                self._pass(final=False)

    def _pass(self, final: bool) -> None:
        try:
            published = publish(self._journal, self._sinks, final)
        except ResearchError as error:
            published = Published(problems=(str(error),))
        for problem in published.problems:
            if problem not in self.problems:
                self._say(f"not published yet: {problem}")
        for text in published.left_out:
            if text not in self._left_out:
                self._say(f"left out: {text}")
        self._left_out = published.left_out
        for done in published.done:
            self._say(f"{done.id}: {done.what}")
        self.done += published.done
        self.problems = published.problems
