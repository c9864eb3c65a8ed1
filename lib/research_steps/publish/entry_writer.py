"""Writing an entry that no step measures: what people and agents add to a series from one checkout.

The same thing said twice is one entry, so a command that was killed may simply be given again.
"""

from collections.abc import Callable, Sequence
from typing import Any

from research_steps.errors import UsageError
from research_steps.git import Checkout
from research_steps.journal.entries import About, Finding, write_entry
from research_steps.journal.journal import Journal
from research_steps.journal.logbook_place import logbook_of
from research_steps.journal.snapshot import Snapshot
from research_steps.publish.logbook.numbers import CheckoutNumbers
from research_steps.records.encoding import Stored, canonical, sha256
from research_steps.records.model import EntryRecord, Ref
from research_steps.records.redaction import redact
from research_steps.records.series import Series
from research_steps.records.step_kinds import Details
from research_steps.trial.provenance import capture, command_line

LABEL_LENGTH = 80


class EntryWriter:
    """Adds entries to one series, from one checkout."""

    def __init__(self, checkout: Checkout, journal: Journal, series: Series) -> None:
        self.checkout = checkout
        self.journal = journal
        self.series = series

    def write(
        self,
        known: Snapshot,
        kind: str,
        key: str,
        label: str,
        details: Details,
        finding: Finding | Callable[[str], Finding],
        inputs: tuple[Ref, ...] = (),
        *,
        hypothesis: str = "",
        private: bool = False,
    ) -> Stored[EntryRecord]:
        """The entry of this step key: the one that is known, from whichever store, else a new one. What rests on
        something private is private. The finding may depend on the experiment ID."""
        standing = standing_entry(known, key)
        if standing is not None:
            return standing
        private = private or any(known.is_private(ref.id) for ref in inputs)
        about = About(kind, key, label, hypothesis, details, inputs, private)
        self.journal.declare(self.series)
        numbers = CheckoutNumbers(self.checkout, self.series.topic, self.series.prefix, self.journal.dry_run)
        captured = capture(self.checkout, command_line(), self.series.topic)
        body = finding if callable(finding) else lambda id: finding
        return write_entry(self.journal, self.series, captured, numbers, about, body)

    def scan(self) -> Snapshot:
        """Everything that is known of the series here, in the store and in git."""
        return self.journal.scan(logbook_of(self.checkout, self.series.topic).records)


def standing_entry(known: Snapshot, key: str) -> Stored[EntryRecord] | None:
    entries = known.entries.values()
    return next((entry for entry in entries if entry.record.step_key == key and not entry.record.late), None)


def digest(*parts: Any) -> str:
    return sha256(canonical(parts))[:16]


def key_after(earlier: Sequence[EntryRecord], key: str) -> str:
    """The step key of what may come again after another: that of the last of `earlier` where it says the same."""
    return earlier[-1].step_key if earlier and earlier[-1].step_key.startswith(key) else f"{key}-{len(earlier)}"


def short(text: str) -> str:
    # Of a secret that is cut, what is left looks like none.
    text = redact(text)
    return text if len(text) <= LABEL_LENGTH else f"{text[: LABEL_LENGTH - 1]}…"


def refuse_empty(text: str, what: str, do: str) -> None:
    if not text.strip():
        raise UsageError(f"{what} is empty: {do}.")
