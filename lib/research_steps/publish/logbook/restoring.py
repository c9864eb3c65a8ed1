"""Beside a logbook: what its entries rest on, and was deleted, cut off or changed there, put back from the store."""

from collections.abc import Callable, Container, Iterator
from pathlib import Path

from research_steps.errors import NewerObject, StoreError, UnreadableObject
from research_steps.files import opened_in, read, write_aside
from research_steps.journal.journal import Journal
from research_steps.journal.logbook_place import LogbookPlace
from research_steps.journal.snapshot import Snapshot
from research_steps.publish.logbook.file import refuse_sparse
from research_steps.publish.logbook.format import record_lines
from research_steps.publish.publisher import Change
from research_steps.records.encoding import Stored, sha256
from research_steps.records.model import EntryRecord


def restore(
    place: LogbookPlace,
    journal: Journal,
    entries: Snapshot,
    shown: Container[str],
    keep: Callable[[Stored[EntryRecord]], None],
) -> Iterator[Change | str]:
    """Have the records of the entries that the logbook shows, as far as this store holds them; `keep` adds those of one
    that are missing. The caller holds the logbook's lock.

    A line that is in the way, because it is no whole record or another version of one that belongs there, goes to the
    git directory, with all of the file.
    """
    folder = place.records
    lines = {sha256(line) for _, file in opened_in(folder, ".jsonl") for line in record_lines(file.readall())}
    damaged = [
        stored
        for stored in entries.in_order
        if stored.sha256 in shown
        and not lines.issuperset((stored.sha256, *(row.trial.sha256 for row in stored.record.rows)))
    ]
    if damaged:
        refuse_sparse(place)
        published = journal.published(folder, entries).entries.values()
        wanted = {row.trial.sha256 for stored in published for row in stored.record.rows if stored.sha256 in shown}
    for stored in damaged:
        try:
            _take_out(
                place,
                journal,
                folder / f"{stored.record.id}.jsonl",
                stored,
                lambda sha: sha in shown or sha in wanted,
            )
            keep(stored)
            yield Change(stored.record.id, "its records are put back beside the logbook")
        except StoreError as error:
            yield f"the records of {stored.record.id} can't be put back beside the logbook: {error}"


def _take_out(
    place: LogbookPlace, journal: Journal, path: Path, entry: Stored[EntryRecord], belongs: Callable[[str], bool]
) -> None:
    """Take out of a record file what is no record, and other versions of those of this entry that nothing rests on."""
    data = read(path) or b""
    own = {(entry.record.key, entry.record.attempt), *((row.trial.key, row.trial.attempt) for row in entry.record.rows)}

    def stays(line: bytes) -> bool:
        try:
            record = journal.objects.record(line, str(path)).record
        except UnreadableObject as error:
            return isinstance(error, NewerObject)
        return (record.key, record.attempt) not in own or belongs(sha256(line))

    lines = record_lines(data)
    kept = [line for line in lines if stays(line)]
    if len(kept) < len(lines):
        write_aside(place.checkout.private / f"{place.topic}.{path.stem}.before-rebuild.jsonl", data)
        write_aside(path, b"".join(line + b"\n" for line in kept))
