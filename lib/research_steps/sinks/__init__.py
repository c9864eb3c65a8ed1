"""Projections of the journal: each sink shows every record that it should, once in the end, whatever failed.

A sink's own markers are its receipts. Sinks never import each other.
"""

from dataclasses import dataclass
from typing import Protocol

from research_steps.journal import Snapshot


@dataclass(frozen=True)
class Published:
    """What one pass of a sink did: the IDs it newly holds, and what it could not do, in sentences."""

    ids: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


class Sink(Protocol):
    """`final` is the last pass of a run: whatever was put off is done now."""

    def publish(self, entries: Snapshot, final: bool) -> Published: ...
