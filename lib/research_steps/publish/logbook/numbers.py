"""The experiment numbers that a checkout knows: one logbook has each of them once, whichever stores its steps use.

They are looked up whenever a number is given, because a merge brings others while a thread runs. What was given here is
also noted in the git directory: another store does not tell of it, and the logbook only once it is published.
"""

import re
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from research_steps.files import files_in, read, write_aside
from research_steps.git import Checkout
from research_steps.journal.logbook_place import logbook_of
from research_steps.publish.logbook import format as logbook_format
from research_steps.publish.logbook.file import lock_numbers
from research_steps.publish.logbook.handwritten import headings

# A number of more digits is taken for none: hardly any would be left after it.
_DIGITS = 8


@dataclass(frozen=True)
class CheckoutNumbers:
    """The numbers of one series that are taken in a checkout, outside of the store that asks. What is given is noted,
    unless this is a `dry_run`."""

    checkout: Checkout
    topic: str
    prefix: str
    dry_run: bool = False

    def shown(self) -> set[int]:
        """Those of record files, entries and the headings that people wrote."""
        place = logbook_of(self.checkout, self.topic)
        names = [file.stem for file in files_in(place.records) if file.suffix == ".jsonl"]
        data = read(place.path)
        if data is not None:
            names += [entry.id for entry in logbook_format.parse(data).entries]
            names += headings(data[: logbook_format.adopted_end(data)] if logbook_format.is_ours(data) else data)
        return self._numbers(names)

    def used(self) -> set[int]:
        """Those, and those of sealed tags: a clone may have them, and a branch without the logbook."""
        return self.shown() | self._numbers(list(self.checkout.tags(self.topic)))

    def turn(self) -> AbstractContextManager[None]:
        there = logbook_of(self.checkout, self.topic).checkout
        return nullcontext() if self.dry_run else lock_numbers(there, self.topic, self._noted)

    def next(self, after: int) -> int:
        """A number above this one and above all that are taken, which no other store is given here. Asked for in a
        turn."""
        number = max(after, int(read(self._noted) or 0), *self.used()) + 1
        if len(str(number)) <= _DIGITS and not self.dry_run:
            write_aside(self._noted, str(number).encode())
        return number

    @property
    def _noted(self) -> Path:
        # With the logbook, which several checkouts may have in common.
        return logbook_of(self.checkout, self.topic).checkout.private / "numbers" / self.topic

    def _numbers(self, names: list[str]) -> set[int]:
        pattern = re.compile(rf"(?<![A-Za-z0-9-]){re.escape(self.prefix)}-(\d{{1,{_DIGITS}}})(?!\d)")
        return {int(number) for name in names for number in pattern.findall(name)}
