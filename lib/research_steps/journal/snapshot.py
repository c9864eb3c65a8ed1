"""What a journal holds, read at once: the records of store and repository together, and the attempts that are open."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from io import BufferedReader, FileIO
from pathlib import Path
from typing import Any

from research_steps.errors import NewerObject, UnreadableObject, UsageError
from research_steps.files import opened_in
from research_steps.journal.leases import AT_WORK, goes_on
from research_steps.journal.store import READ_AT_ONCE
from research_steps.records.encoding import Stored, ToldTrial, decode_record, decode_told, line_of, sha256
from research_steps.records.model import (
    Claim,
    EntryRecord,
    InterruptedRecord,
    Record,
    Ref,
    Samples,
    Status,
    TrialRecord,
)
from research_steps.records.names import by_hash, named
from research_steps.records.objects import Intent
from research_steps.records.series import number_of
from research_steps.records.step_kinds import STEP_KINDS


@dataclass(frozen=True)
class OpenAttempt:
    """An attempt that has begun and has no record yet."""

    intent: Intent
    lease_until: datetime

    def orphaned(self) -> bool:
        """True when nobody will finish it: its process is one of this machine that is gone, or this one and at it no
        more, because a disk was full; or is elsewhere or stopped, and its lease ran out."""
        going_on = goes_on(self.intent.owner)
        if going_on and self.intent.owner.pid == os.getpid():
            return self.intent.nonce not in AT_WORK
        return self.lease_until <= datetime.now(UTC) if going_on is None else not going_on


@dataclass
class Snapshot:
    """What the journal holds, store and repository together. `problems` names what is broken, `newer` what a later
    version of this package wrote. Where only entries were asked for, `unread` are the hashes of what else is published,
    and `named` the trials that were read because a claim names them."""

    entries: dict[str, Stored[EntryRecord]] = field(default_factory=dict)
    trials: dict[str, Stored[TrialRecord]] = field(default_factory=dict)
    interrupted: dict[str, Stored[InterruptedRecord]] = field(default_factory=dict)
    open: list[OpenAttempt] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    newer: list[str] = field(default_factory=list)
    unread: set[str] = field(default_factory=set)
    named: dict[str, Stored[Any]] = field(default_factory=dict)

    def copy(self) -> "Snapshot":
        """One that others may add to."""
        parts = (dict(self.entries), dict(self.trials), dict(self.interrupted))
        lists = (list(self.open), list(self.problems), list(self.newer))
        return Snapshot(*parts, *lists, set(self.unread), dict(self.named))

    def add(self, stored: Stored[Any]) -> None:
        match stored.record:
            case EntryRecord():
                self.entries[stored.sha256] = stored
            case TrialRecord():
                self.trials[stored.sha256] = stored
            case InterruptedRecord():
                self.interrupted[stored.sha256] = stored

    def take(
        self,
        data: bytes | UnreadableObject,
        where: str,
        decode: Callable[[bytes, str], Stored[Record]] = decode_record,
    ) -> None:
        """Add a record by its bytes unless it is here already, or say why it can't be read."""
        if isinstance(data, UnreadableObject):
            self.leave_out(data)
            return
        if self._settled(data, sha256(line_of(data))):
            return
        try:
            self.add(decode(data, where))
        except UnreadableObject as error:
            self.leave_out(error)

    def leave_out(self, error: UnreadableObject) -> None:
        """Name what can't be read."""
        (self.newer if isinstance(error, NewerObject) else self.problems).append(str(error))

    def _settled(self, data: bytes, sha: str) -> bool:
        return sha in self.trials or sha in self.entries or sha in self.interrupted

    def repeats(self, id: str, file: FileIO) -> bool:
        """Whether a published file of an entry is known to hold nothing new; else it is still at its beginning."""
        return False

    def find(self, name: str) -> list[Stored[Any]]:
        """Every record that carries this ID, entries first, then by attempt; several where two branches used one. For
        'ID@hash' that one of them."""
        id, sha = named(name)
        return [stored for stored in self.everything if stored.record.id == id and stored.sha256.startswith(sha)]

    def measured(self, name: str) -> list[Stored[TrialRecord]]:
        """The trials that carry this ID, or one below it; for 'ID@hash' that trial, or those of that entry's table."""
        id, sha = named(name)
        if not sha:
            return [
                trial for trial in self.trials.values() if id in (trial.record.id, trial.record.id.partition(".")[0])
            ]
        found = self.find(name)
        rows = (row.trial for stored in found if isinstance(stored.record, EntryRecord) for row in stored.record.rows)
        return [*(stored for stored in found if isinstance(stored.record, TrialRecord)), *self.trials_of(rows)]

    @property
    def everything(self) -> list[Stored[Any]]:
        """Every record, entries first."""
        return [*self.entries.values(), *self.trials.values(), *self.interrupted.values()]

    @property
    def hashes(self) -> set[str]:
        """Those of the records of trials that are known to be in the store or in git."""
        return {*self.trials, *self.interrupted, *self.named, *self.unread}

    def trials_of(self, refs: Iterable[Ref]) -> list[Stored[TrialRecord]]:
        """The trials that these name, as far as they have ended and are known."""
        return [self.trials[ref.sha256] for ref in refs if ref.sha256 in self.trials]

    def samples(self, ref: Ref) -> Samples | None:
        """What a trial measured; None where it failed or is not known here."""
        trial = self.trials.get(ref.sha256)
        return trial.record.samples if trial is not None else None

    @property
    def read_trials(self) -> dict[str, Stored[Any]]:
        """Every trial that has ended and was read, by its hash."""
        return {**self.named, **self.interrupted, **self.trials}

    def ended_of(self, refs: Iterable[Ref]) -> list[Stored[Any]]:
        """Those of them that these name."""
        trials, interrupted, named = self.trials, self.interrupted, self.named
        found = ((trials.get(sha) or interrupted.get(sha) or named.get(sha)) for sha in (ref.sha256 for ref in refs))
        return [ended for ended in found if ended is not None]

    def floor_trials(self, claim: Claim) -> tuple[Ref, ...]:
        """The trials of the baseline that a claim rests on: those of its table; or those of the baseline's entry; or,
        when dev mode has measured a noise floor that no entry has, those beside its first one."""
        ref = claim.baseline
        if claim.floor:
            return claim.floor
        if ref.sha256 in self.entries:
            return tuple(row.trial for row in self.entries[ref.sha256].record.rows)
        if ref.sha256 not in self.trials:
            return ()
        owner = ref.id.rpartition(".")[0]
        return tuple(trial.ref for trial in self.trials.values() if trial.record.id.rpartition(".")[0] == owner)

    def machine_of(self, baseline: Ref) -> str:
        """The kind of machine that a baseline was measured on, so that every claim against it is of that; empty where no
        trial of it was read."""
        entry = self.entries.get(baseline.sha256)
        refs = [row.trial for row in entry.record.rows] if entry else [baseline]
        trials = (ended.record for ended in self.ended_of(refs))
        return next((trial.device_class for trial in trials if isinstance(trial, TrialRecord | ToldTrial)), "")

    def is_private(self, id: str) -> bool:
        """Whether what carries this ID belongs to an entry that is private, finished or not."""
        owner = id.partition(".")[0]
        entries: list[EntryRecord | Intent] = [stored.record for stored in self.entries.values()]
        entries += [attempt.intent for attempt in self.open if attempt.intent.subject == "entry"]
        return any(bool(entry.private) for entry in entries if entry.id == owner)

    @property
    def in_order(self) -> list[Stored[EntryRecord]]:
        """The entries that stand, in the order of their numbers."""
        return numbered_order(stored for stored in self.entries.values() if not stored.record.late)

    @property
    def retracted(self) -> frozenset[str]:
        """The hashes of the records that count no more."""
        return retracted(self.in_order)

    @property
    def counting(self) -> list[Stored[EntryRecord]]:
        """The entries that stand and were not retracted, in the order of their numbers."""
        taken_back = self.retracted
        return [stored for stored in self.in_order if stored.sha256 not in taken_back]

    def only(self, wanted: Callable[[Stored[EntryRecord]], bool]) -> "Snapshot":
        """The same without the entries that are not wanted."""
        return replace(self, entries={sha: entry for sha, entry in self.entries.items() if wanted(entry)})

    def about(self, sha: str) -> list[Stored[EntryRecord]]:
        """The notes, attachments, corrections and retractions of the record with this hash, oldest first."""
        concerning = (entry for entry in self.in_order if STEP_KINDS[entry.record.step].concerns)
        return [entry for entry in concerning if any(ref.sha256 == sha for ref in entry.record.inputs)]

    def doubts(self, sha: str) -> list[str]:
        """What the entry with this hash rests on, through others too, and was retracted."""
        entry = self.entries.get(sha)
        if entry is None or entry.record.step == "retraction":
            return []
        retractions = [other.record for other in self.in_order if other.record.step == "retraction"]
        by = {ref.sha256: retraction.id for retraction in retractions for ref in retraction.inputs}
        behind = (entry, *self.below(entry))
        refs = {ref.sha256: ref for below in behind for ref in rests_on(below.record) if ref.sha256 in by}
        return [f"{ref.id}, which {by[sha]} retracted" for sha, ref in refs.items()]

    def below(self, stored: Stored[EntryRecord]) -> list[Stored[EntryRecord]]:
        """Everything that an entry rests on, through others too, in the order of their numbers."""
        return self.behind(stored.record.inputs)

    def behind(self, refs: Iterable[Ref]) -> list[Stored[EntryRecord]]:
        """The entries that these name, and everything that they rest on, in the order of their numbers."""
        entries: dict[str, Stored[EntryRecord]] = {}
        pending = list(refs)
        while pending:
            ref = pending.pop()
            entry = self.entries.get(ref.sha256)
            if entry is not None and ref.sha256 not in entries:
                entries[ref.sha256] = entry
                pending += entry.record.inputs
        return numbered_order(entries.values())


@dataclass
class Outline(Snapshot):
    """A snapshot that leaves out each trial whose end a row tells, and keeps only that, in `ended`.

    Whoever made the row had read the trial's record, and the hash in the row tells that these are the same bytes. What
    those measured that tell something of claims is among the `named`. `in_tables` are all that a row tells of.
    """

    topic: str = ""
    ended: dict[str, Status] = field(default_factory=dict)
    in_tables: dict[str, Status] = field(default_factory=dict)
    _telling: set[str] = field(default_factory=set)
    _read: dict[str, bytes] = field(default_factory=dict)
    _by_id: dict[str, Stored[EntryRecord]] = field(default_factory=dict)

    def add(self, stored: Stored[Any]) -> None:
        super().add(stored)
        if isinstance(stored.record, EntryRecord):
            self._by_id[stored.record.id] = stored
            self.in_tables |= {row.trial.sha256: row.status for row in stored.record.rows}
            self._telling |= telling([stored.record])

    def repeats(self, id: str, file: FileIO) -> bool:
        """The same, where it holds the entry and its trials as they were read in the store, and nothing else: so it was
        written, and to look into each of its lines takes longer than all else."""
        entry = self._by_id.get(id)
        if entry is None:
            return False
        own = dict.fromkeys(row.trial.sha256 for row in entry.record.rows if row.trial.id.partition(".")[0] == id)
        expected = b"".join([entry.line, b"\n", *(self._read[sha] for sha in own if sha in self._read)])
        if file.read(len(expected) + 1) == expected:
            return True
        file.seek(0)
        return False

    def _settled(self, data: bytes, sha: str) -> bool:
        if super()._settled(data, sha):
            return True
        if sha not in self.in_tables:
            return False
        if sha in self._telling and sha not in self.named:
            measured = decode_told(data, self.topic)
            if measured is None:
                return False
            self.named[sha] = measured
        self.ended[sha] = self.in_tables[sha]
        self._read[sha] = data
        self.unread.add(sha)
        return True


def add_published(
    snapshot: Snapshot,
    repository: Path,
    wanted: Callable[[bytes], bool] = lambda line: True,
    decode: Callable[[bytes, str], Stored[Record]] = decode_record,
) -> Snapshot:
    """The snapshot, with the records in a folder of published ones whose lines are wanted. Raises RepositoryError."""
    for path, file in opened_in(repository, ".jsonl"):
        if snapshot.repeats(path.stem, file):
            continue
        with BufferedReader(file, READ_AT_ONCE) as lines:
            for number, line in enumerate(lines, 1):
                if wanted(line):
                    snapshot.take(line.rstrip(b"\r\n"), f"{path}:{number}", decode)
                else:
                    snapshot.unread.add(sha256(line.rstrip(b"\r\n")))
    return snapshot


def entries_of(snapshot: Snapshot) -> list[EntryRecord]:
    """The records of the entries that stand, in the order of their numbers."""
    return [entry.record for entry in snapshot.in_order]


def telling(entries: Iterable[EntryRecord]) -> set[str]:
    """The hashes of the trials by which an improvement is known to be of what was measured, and a baseline of which
    machine."""
    told = set()
    for entry in entries:
        claims = entry.claims or ()
        told |= {ref.sha256 for claim in claims if claim.verdict == "improved" for ref in claim.trials}
        told |= {(claim.floor[0] if claim.floor else claim.baseline).sha256 for claim in claims}
        told |= {row.trial.sha256 for row in entry.rows[:1] if entry.step == "baseline"}
    return told


def numbered_order(entries: Iterable[Stored[EntryRecord]]) -> list[Stored[EntryRecord]]:
    """Entries in the order of their numbers, which were reserved one after the other: what an entry names has a lower
    one, and no machine's clock moves it. Two of one number, from two branches, are in the order of their ends."""
    return sorted(entries, key=lambda entry: (number_of(entry.record.id), entry.record.finished_at, entry.sha256))


def retracted(entries: Iterable[Stored[EntryRecord]]) -> frozenset[str]:
    """The hashes of the records that these entries take back."""
    return frozenset(ref.sha256 for entry in entries if entry.record.step == "retraction" for ref in entry.record.inputs)


def rests_on(entry: EntryRecord) -> tuple[Ref, ...]:
    """What an entry names as its own evidence: other records, and the trials of its table."""
    return (*entry.inputs, *(row.trial for row in entry.rows))


def find(snapshot: Snapshot, id: str) -> Stored[Any]:
    """The one record of the series that carries an ID, as evidence. Raises UsageError."""
    records = snapshot.find(id)
    if not records:
        raise UsageError(f"{id!r} is no record of this series: expected an ID such as MOE-HC-007.03.")
    # Of a trial that was measured again, because it was disturbed or retracted, the last attempt is meant.
    kind = type(records[0].record)
    alike = [stored for stored in records if type(stored.record) is kind and not stored.record.late] or records
    newest: dict[str, int] = {}
    for stored in alike:
        newest[stored.record.key] = max(stored.record.attempt, newest.get(stored.record.key, 0))
    latest = {stored.sha256: stored for stored in alike if stored.record.attempt == newest[stored.record.key]}
    if len(latest) > 1:
        several = (f"{by_hash(latest[sha].record.id, sha)} ({latest[sha].record.label})" for sha in sorted(latest))
        raise UsageError(
            f"{id!r} is the ID of {len(latest)} records, because two branches used it: name one by its "
            f"hash, {' or '.join(several)}."
        )
    return next(iter(latest.values()))


def find_all(snapshot: Snapshot, ids: Iterable[str]) -> tuple[Ref, ...]:
    """What something rests on. Raises UsageError for what is no record."""
    return tuple(find(snapshot, id).ref for id in dict.fromkeys(ids))
