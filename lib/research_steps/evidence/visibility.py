"""Which entries may be shown where. What was late is shown nowhere."""

from research_steps.records.model import EntryRecord
from research_steps.records.series import Series


def is_public(record: EntryRecord, series: Series) -> bool:
    """Whether an entry may be shown outside this machine."""
    return not (record.late or record.private or series.private)


def belongs_in_logbook(record: EntryRecord, series: Series) -> bool:
    """Whether the logbook shows an entry.

    A logbook may be pushed, so what is private has no place in it; that of a private series is kept out of git.
    """
    return not record.late if series.private else is_public(record, series)
