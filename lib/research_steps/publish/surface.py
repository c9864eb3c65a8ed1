"""Projections of the journal: each surface shows every record that it should, once in the end, whatever failed.

A surface's own markers are its receipts. Surfaces never import each other.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from research_steps.journal.snapshot import Snapshot


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
