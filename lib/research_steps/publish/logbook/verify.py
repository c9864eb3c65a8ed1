"""Whether a logbook, the records beside it and the journal agree, as far as these three can tell.

That the end was cut off, or written anew together with its hashes, only an anchor tells: see `seal.verify`.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import Any

from research_steps.errors import NewerObject, UnreadableObject, UsageError
from research_steps.files import is_there, opened_in
from research_steps.files import read as read_file
from research_steps.git import Checkout
from research_steps.journal.journal import Journal
from research_steps.journal.logbook_place import LogbookPlace, logbook_of
from research_steps.journal.snapshot import Snapshot
from research_steps.publish.logbook import format as logbook_format
from research_steps.publish.logbook.file import lock, refuse_sparse
from research_steps.records.encoding import Stored, decode_record, sha256
from research_steps.records.model import EntryRecord
from research_steps.records.names import ATTACHED_FILE, EXPERIMENT_ID, HASH, by_hash

_PATCH = re.compile(rf"{HASH}\.patch")
_BUNDLE = re.compile(rf"{EXPERIMENT_ID}\.(?:bundle\.json|bundle\.md|table\.csv|requirements\.txt)")
_ATTACHED = "attachments/"
_BACK = "'research sync' puts it back where the store holds it, 'git restore' where a commit does"


@dataclass(frozen=True)
class Files:
    """A logbook and the files beside it, by their names in its folder, as a work tree or a commit has them."""

    topic: str
    logbook: bytes
    beside: Mapping[str, bytes]
    _newer: dict[str, set[str]] = field(default_factory=dict, compare=False)

    @cached_property
    def contents(self) -> logbook_format.LogbookContents:
        return logbook_format.parse(self.logbook)

    @cached_property
    def lines(self) -> dict[str, dict[str, bytes]]:
        """The lines of each record file, by experiment ID and hash."""
        # Not what people attached, which lies in a folder of its own.
        own = {name: data for name, data in self.beside.items() if name.endswith(".jsonl") and "/" not in name}
        files = {name.removesuffix(".jsonl"): data for name, data in own.items()}
        return {id: {sha256(line): line for line in logbook_format.record_lines(data)} for id, data in files.items()}

    @cached_property
    def hashes(self) -> set[str]:
        """The hashes of all records."""
        return {sha for lines in self.lines.values() for sha in lines}

    @cached_property
    def attached(self) -> dict[str, bytes]:
        """What belongs to records and is named by its hash: patches, and what people attached."""
        return {
            name: data
            for name, data in self.beside.items()
            if _PATCH.fullmatch(name)
            or (name.startswith(_ATTACHED) and re.fullmatch(ATTACHED_FILE, name.removeprefix(_ATTACHED)))
        }

    @cached_property
    def bundles(self) -> dict[str, bytes]:
        """What a seal has put here for people and programs to read."""
        return {name: data for name, data in self.beside.items() if _BUNDLE.fullmatch(name)}

    @cached_property
    def records(self) -> Snapshot:
        """The records that can be read; of what can't it says why."""
        records = Snapshot()
        for id, lines in self.lines.items():
            for sha, line in lines.items():
                try:
                    records.add(decode_record(line, f"{id}.jsonl, record {sha[:12]}", self.topic))
                except UnreadableObject as error:
                    records.leave_out(error)
                    if isinstance(error, NewerObject):
                        self._newer.setdefault(id, set()).add(sha)
        return records

    @property
    def newer(self) -> Mapping[str, Collection[str]]:
        """The hashes of records that a later version wrote, by experiment ID."""
        return self._newer if self.records else {}


@dataclass
class Findings:
    """What does not agree, and what is told though it is no fault."""

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read(checkout: Checkout, topic: str) -> Files:
    """The logbook of this work tree with what lies beside it. Raises UsageError when there is none, and LogbookError
    when a sparse checkout leaves out a part of it."""
    place = logbook_of(checkout, topic)
    refuse_sparse(place)
    if not is_there(place.path):
        raise UsageError(f"There is no logbook {place.path}: expected one; run the thread, or 'research sync {topic}'.")
    with lock(place):
        return read_files(place)


def read_files(place: LogbookPlace) -> Files:
    """A logbook with what lies beside it. The caller holds its lock."""
    folder = place.records
    everything = chain(opened_in(folder), opened_in(folder / _ATTACHED))
    beside = {name.relative_to(folder).as_posix(): file.readall() for name, file in everything}
    return Files(place.topic, read_file(place.path) or b"", beside)


def check(files: Files, journal: Journal | None) -> Findings:
    """Logbook, record files and, where there is one, journal against each other."""
    notes = [*files.records.newer, *_used_twice(files)]
    findings = Findings([*check_files(files), *_resting_on_nothing(files)], notes)
    if journal is not None:
        snapshot = journal.scan()
        findings.problems += snapshot.problems
        findings.notes += snapshot.newer
        _check_journal(findings, files.records, snapshot)
    return findings


def check_files(files: Files) -> Iterator[str]:
    """Everything in which the logbook and the files beside it show that they are not as they were written."""
    yield from (f"line {line}: {what}" for line, what in logbook_format.problems(files.logbook))
    for name, data in files.beside.items():
        if name.endswith(".jsonl") and "/" not in name and logbook_format.conflicts(b"\n" + data):
            yield f"{name} has conflict markers of git; 'research sync' puts both sides' records together"
    yield from files.records.problems
    yield from _check_entries(files)
    for name, data in files.attached.items():
        named = name.removeprefix(_ATTACHED)
        # Where git changed line ends the content is the same.
        hashes = map(sha256, (data, logbook_format.lf(data)))
        if not any(named.startswith((sha[:12] + "-", sha + ".")) for sha in hashes):
            yield f"{f'{name[:12]}….patch' if _PATCH.fullmatch(name) else name} is not what it was"


def _check_entries(files: Files) -> Iterator[str]:
    if files.contents.entries and not files.lines:
        yield (
            f"none of the records that its {len(files.contents.entries)} entries name is here: they were never "
            f"committed, or all removed; {_BACK}, in the checkout that ran the thread"
        )
        return
    for entry in files.contents.entries:
        if entry.record not in files.lines.get(entry.id, {}):
            what = f"its record {entry.record[:12]} is not in {entry.id}.jsonl, or was changed there"
            yield f"{entry.id}: {what}; {_BACK}"
            continue
        if entry.record in files.newer.get(entry.id, ()):
            continue
        record = files.records.entries.get(entry.record)
        if record is None or record.record.id != entry.id:
            yield f"{entry.id}: the record that its marker names is of something else"
            continue
        for row in record.record.rows:
            if row.trial.sha256 not in files.hashes:
                yield f"{entry.id}: the record of its trial {row.trial.id} is missing or was changed; {_BACK}"


def _used_twice(files: Files) -> Iterator[str]:
    """The IDs that two stores used, which is no fault: a record is told by its hash."""
    by_id: dict[str, list[str]] = {}
    for entry in files.contents.entries:
        by_id.setdefault(entry.id, []).append(by_hash(entry.id, entry.record))
    for id, several in by_id.items():
        if len(several) > 1:
            yield f"{id} is the ID of {len(several)} entries, of several stores: {' and '.join(several)} name them"


def _resting_on_nothing(files: Files) -> Iterator[str]:
    """Records that no entry shows: not asked of a commit, which may be made while an entry is being appended."""
    wanted = {entry.record for entry in files.contents.entries if entry.record in files.lines.get(entry.id, {})}
    shown = (stored.record for sha, stored in files.records.entries.items() if sha in wanted)
    wanted |= {row.trial.sha256 for record in shown for row in record.rows}
    for id, lines in files.lines.items():
        # Which of them an entry of a later version rests on can't be read.
        for sha in () if id in files.newer else lines.keys() - wanted:
            yield (
                f"{id}.jsonl: no entry rests on record {sha[:12]}: its entry was removed, or is not appended yet "
                "('research sync' does)"
            )


def _check_journal(findings: Findings, published: Snapshot, journal: Snapshot) -> None:
    """The standing records of the store against those in git, and against what the store's own entries name.

    Another store may have used the same ID for the same trial. Its record began and ended at other times, in another
    process; one that was altered still shares one of these with what was published.
    """
    here: dict[tuple[str, int, str], list[Stored[Any]]] = {}
    for stored in _results(published):
        here.setdefault(_identity(stored.record), []).append(stored)
    # The trials that the store's entries rest on: by which entry, and with which hash.
    wanted = {
        _identity(row.trial): (entry.record.id, row.trial.sha256)
        for entry in journal.entries.values()
        if not entry.record.late
        for row in entry.record.rows
    }
    for stored in (stored for stored in _results(journal) if not stored.record.late):
        in_git = here.get(_identity(stored.record), [])
        same = any(other.sha256 == stored.sha256 for other in in_git)
        altered = next((other for other in in_git if not same and _is_attempt_of(stored.record, other.record)), None)
        entry, sha = wanted.get(_identity(stored.record), ("", stored.sha256))
        holds = f"{stored.record.id}: the journal holds it with hash {stored.sha256[:12]}"
        if altered is not None:
            findings.problems.append(f"{holds}, git with {altered.sha256[:12]}")
        elif sha != stored.sha256:
            findings.problems.append(f"{holds}, and {entry} of the journal rests on {sha[:12]}")
        elif in_git and not same:
            findings.notes.append(
                f"{holds}, git with {in_git[0].sha256[:12]}: by all it says, another store used this ID"
            )


def _identity(record: Any) -> tuple[str, int, str]:
    """Which attempt of what a record, or a reference to one, is of."""
    return record.key, record.attempt, record.id


def _is_attempt_of(record: Any, other: Any) -> bool:
    """Whether two records tell of one attempt: what no two attempts have in common is the same in both."""
    process = "rows" if isinstance(record, EntryRecord) else "launch"
    mine, theirs = getattr(record, process), getattr(other, process)
    if record.started_at == other.started_at or record.finished_at == other.finished_at:
        return True
    return bool(mine and mine == theirs)


def _results(snapshot: Snapshot) -> list[Stored[Any]]:
    return [*snapshot.entries.values(), *snapshot.trials.values()]
