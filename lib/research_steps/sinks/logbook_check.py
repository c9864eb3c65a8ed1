"""Whether a logbook, the records beside it and the journal agree."""

from collections.abc import Iterator
from typing import Any

from research_steps.errors import UnreadableObject, UsageError
from research_steps.git import Checkout
from research_steps.holdings import Snapshot
from research_steps.journal import Journal
from research_steps.record import Stored, decode_record, sha256
from research_steps.sinks import logbook_file
from research_steps.sinks.logbook_disk import lock, path_of


def verify(checkout: Checkout, topic: str, journal: Journal | None) -> tuple[int, list[str]]:
    """How many entries were checked, and everything that does not agree: logbook, record files and journal.

    That the end of the logbook was cut off together with its records can't be seen here.
    """
    path = path_of(checkout, topic)
    if not path.is_file():
        raise UsageError(f"There is no logbook {path}: expected one; run the thread, or 'research sync {topic}'.")
    with lock(checkout, topic):
        data = path.read_bytes()
        files = {file.stem: file.read_bytes() for file in sorted(path.with_suffix("").glob("*.jsonl"))}
        patches = {file.stem: file.read_bytes() for file in sorted(path.with_suffix("").glob("*.patch"))}
    entries = logbook_file.parse(data).entries
    lines = {
        stem: {sha256(line): line for line in logbook_file.record_lines(content)} for stem, content in files.items()
    }
    published = Snapshot()
    found = [str(problem) for problem in logbook_file.problems(data)]
    found += [
        f"{stem}.jsonl has conflict markers of git; 'research sync' puts both sides' records together"
        for stem, content in files.items()
        if logbook_file.conflicts(b"\n" + content)
    ]
    found += _read_records(lines, published)
    found += _check_records(entries, lines, published)
    found += [f"{sha[:12]}….patch is not what it was" for sha, content in patches.items() if sha256(content) != sha]
    if journal is not None:
        held = journal.scan()
        found += [*held.problems, *_check_journal(published, held)]
    return len(entries), found


def _read_records(lines: dict[str, dict[str, bytes]], published: Snapshot) -> Iterator[str]:
    for stem, held in lines.items():
        for sha, line in held.items():
            try:
                published.add(decode_record(line, f"{stem}.jsonl, record {sha[:12]}"))
            except UnreadableObject as error:
                yield str(error)


def _check_records(
    entries: list[logbook_file.Entry], lines: dict[str, dict[str, bytes]], published: Snapshot
) -> Iterator[str]:
    everything = {sha for held in lines.values() for sha in held}
    wanted: set[str] = set()
    for entry in entries:
        if entry.record not in lines.get(entry.id, {}):
            yield f"{entry.id}: its record {entry.record[:12]} is not in {entry.id}.jsonl, or was changed there"
            continue
        wanted.add(entry.record)
        record = published.entries.get(entry.record)
        if record is None or record.record.id != entry.id:
            yield f"{entry.id}: the record that its marker names is of something else"
            continue
        for row in record.record.rows:
            wanted.add(row.trial.sha256)
            if row.trial.sha256 not in everything:
                yield f"{entry.id}: the record of its trial {row.trial.id} is missing or was changed"
    for stem, held in lines.items():
        for sha in held.keys() - wanted:
            yield (
                f"{stem}.jsonl: no entry rests on record {sha[:12]}: its entry was removed, or is not appended yet "
                "('research sync' does)"
            )


def _check_journal(published: Snapshot, journal: Snapshot) -> Iterator[str]:
    begun = {
        (stored.record.key, stored.record.attempt, stored.record.started_at): stored.sha256
        for stored in _results(journal)
        if not stored.record.late
    }
    for stored in _results(published):
        record = stored.record
        sha = begun.get((record.key, record.attempt, record.started_at), stored.sha256)
        if sha != stored.sha256:
            yield f"{record.id}: the journal holds it with hash {sha[:12]}, git with {stored.sha256[:12]}"


def _results(snapshot: Snapshot) -> list[Stored[Any]]:
    return [*snapshot.entries.values(), *snapshot.trials.values()]
