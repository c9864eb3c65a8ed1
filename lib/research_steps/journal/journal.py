"""The journal of a series: intents, records and reserved experiment IDs, one immutable object each, in its store.

Where an attempt stands is derived from which objects exist, never stored:

    <store>/journal/<topic>/claims/000007.json              who holds MOE-HC-007
                            trials/intents/<key>-<n>.json   attempt n of a trial began
                            trials/leases/<key>-<n>.json    its lease, when it was extended
                            trials/records/<key>-<n>.json   its standing record
                            trials/late/<key>-<n>-<sha>.json
                            entries/…                       the same for steps; their key is the experiment ID
                            patches/<sha256>.patch          what a dirty work tree differed in
                            environments/<sha256>.txt       the packages that were installed
                            attachments/<sha>-<file name>   what people attached to an entry
                            hypotheses/H4.json              which entry added H4 to the queue
                            seals/<experiment ID>.json      the commit that a seal's tag names
                            pushed/<experiment ID>.json     the remote that took that tag
                            issue.json, project.json        where the series is shown, decided once
                            postings/<marker>.json          the last try to post a comment
                            plans/MOE-HC-007.json           how many trials a step asks for (see `plans`)
                            turns/<surface>/000003.json     who publishes there, with a lease

Attempts of one key are numbered, and creating an intent or record is exclusive. So a trial that two processes want is
measured by one of them, and of two ends of one attempt the first stands and the other is kept as late. `finish` is
the only way to end an attempt, for its owner and for whoever finds it orphaned.
"""

import re
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from research_steps.errors import JournalProblem, StoreError, UnreadableObject
from research_steps.journal.leases import Leases, abandoned, lease_end, this_process
from research_steps.journal.snapshot import OpenAttempt, Outline, Snapshot, add_published
from research_steps.journal.store import Store
from research_steps.records.encoding import Stored, canonical, decode, decode_record, encode, store_record
from research_steps.records.model import SCHEMA, EntryRecord, InterruptedRecord, Owner, Record, Ref, TrialRecord
from research_steps.records.objects import IDReservation, Intent, PublisherLease
from research_steps.records.series import Series, format_id
from research_steps.records.times import parse_utc, utc

POLL_S = 0.5
ORPHANED = "its process ended, or its lease ran out, before it was finished"
# How many objects an outline holds in memory.
TAKEN_AT_ONCE = 500

T = TypeVar("T")
S = TypeVar("S", bound=msgspec.Struct)
Subject = Literal["trial", "entry"]
_FOLDERS: dict[Subject, str] = {"entry": "entries", "trial": "trials"}
_NUMBERED = re.compile(r"/(\d{6,9})\.json$")


# An attempt that can't be read is told by the error; it has ended, and satisfies nobody.
Attempt = OpenAttempt | Stored[Record] | UnreadableObject


@dataclass(frozen=True)
class ReservedID:
    """An experiment ID, and the step that holds it."""

    number: int
    id: str
    step_key: str


class Journal:
    """One series' journal in one store. Safe to use from several threads."""

    def __init__(self, store: Store, topic: str) -> None:
        self.topic = topic
        self.store = store
        self._base = f"journal/{topic}"
        self._cache: dict[str, Any] = {}
        self._reserving = threading.Lock()
        self._leases = Leases(store)

    @property
    def url(self) -> str:
        return f"{self.store.url}/{self._base}"

    # -- attempts ----------------------------------------------------------------------------------------------

    def attempts(self, subject: Subject, key: str) -> list[Attempt]:
        """All attempts of a key, oldest first."""
        found: list[Attempt] = []
        while (attempt := self._attempt(subject, key, len(found))) is not None:
            found.append(attempt)
        return found

    def next_attempt(
        self, subject: Subject, key: str, accept: Callable[[Stored[Any]], bool], progress: Callable[[str], None]
    ) -> Stored[Any] | int:
        """The newest standing record when `accept` takes it, else the number of the attempt that may begin now.

        An orphaned attempt is ended as interrupted; one that somebody is still at is waited for.
        """
        told = False
        while isinstance(found := self.look(subject, key, accept, progress), OpenAttempt):
            if not told:
                owner = found.intent.owner
                progress(f"{found.intent.id}: waiting for process {owner.pid} on {owner.host}, which is at it")
                told = True
            time.sleep(POLL_S)
        return found

    def look(
        self, subject: Subject, key: str, accept: Callable[[Stored[Any]], bool], progress: Callable[[str], None]
    ) -> Stored[Any] | int | OpenAttempt:
        """The next attempt as `next_attempt` tells it, or the one that somebody is still at."""
        attempts = self.attempts(subject, key)
        if not attempts:
            return 0
        last = attempts[-1]
        if isinstance(last, OpenAttempt):
            if not last.orphaned():
                return last
            last = self.interrupt(last, ORPHANED)
        if isinstance(last, UnreadableObject):
            progress(str(last))
            return len(attempts)
        return last if accept(last) else len(attempts)

    @contextmanager
    def begin(
        self,
        subject: Subject,
        key: str,
        attempt: int,
        *,
        id: str,
        label: str,
        config: dict[str, Any],
        private: bool = False,
    ) -> Iterator[bool]:
        """Write the intent of an attempt and hold its lease inside the block. Yields False when it was taken."""
        until = lease_end()
        intent = Intent(
            schema=SCHEMA,
            series=self.topic,
            subject=subject,
            key=key,
            attempt=attempt,
            id=id,
            label=label,
            started_at=utc(),
            lease_until=utc(until),
            owner=this_process(),
            nonce=secrets.token_hex(8),
            config=config,
            private=True if private else msgspec.UNSET,
        )
        if not self.store.create(self._name(subject, "intents", key, attempt), encode(intent) + b"\n"):
            yield False
            return
        with self._leases.held(self._name(subject, "leases", key, attempt), until):
            yield True

    def finish(self, subject: Subject, record: TrialRecord | EntryRecord | InterruptedRecord) -> Stored[Any]:
        """Make the record last. If its attempt has ended already the record is kept as late, and returned so."""
        stored = store_record(record)
        if self.store.create(self._name(subject, "records", record.key, record.attempt), stored.line + b"\n"):
            return stored
        late = store_record(msgspec.structs.replace(record, late=True))
        name = f"{self._base}/{_FOLDERS[subject]}/late/{record.key}-{record.attempt}-{late.sha256[:16]}.json"
        if not self.store.create(name, late.line + b"\n"):
            raise StoreError(
                f"{self.store.url}/{name} holds something else; the late record of {record.id} is not kept."
            )
        return late

    def interrupt(self, attempt: OpenAttempt, reason: str) -> Stored[Any]:
        """End an attempt that nobody will finish. If its owner was faster, the owner's record stands."""
        intent = attempt.intent
        record = InterruptedRecord(
            schema=SCHEMA,
            series=self.topic,
            subject=intent.subject,
            key=intent.key,
            attempt=intent.attempt,
            id=intent.id,
            label=intent.label,
            started_at=intent.started_at,
            finished_at=utc(),
            reason=reason,
        )
        name = self._name(intent.subject, "records", intent.key, intent.attempt)
        stored = store_record(record)
        if self.store.create(name, stored.line + b"\n"):
            return stored
        return decode_record(self._must_read(name), f"{self.store.url}/{name}")

    def intent(self, subject: Subject, key: str, attempt: int) -> Intent:
        """What was written before an attempt began."""
        name = self._name(subject, "intents", key, attempt)
        return decode(Intent, self._must_read(name), f"{self.store.url}/{name}")

    def end_orphaned(self) -> None:
        """End every trial that nobody will finish: those of dev mode are not begun again, which would end them."""
        for attempt in self._open("trial"):
            if isinstance(attempt, OpenAttempt) and attempt.orphaned():
                self.interrupt(attempt, ORPHANED)

    def load(self, subject: Subject, ref: Ref) -> Stored[Any]:
        """The standing record that a reference names. Raises JournalProblem when it is not the one that was meant."""
        name = self._name(subject, "records", ref.key, ref.attempt)
        stored = decode_record(self._must_read(name), f"{self.store.url}/{name}")
        if stored.sha256 != ref.sha256:
            raise JournalProblem(
                f"{self.store.url}/{name} should be the record of {ref.id} with hash {ref.sha256[:12]}, but its bytes "
                f"have {stored.sha256[:12]}: it was changed after it was written. Restore it from a copy."
            )
        return stored

    # -- experiment IDs ----------------------------------------------------------------------------------------

    def reserved_ids(self) -> list[ReservedID]:
        """All reserved experiment IDs in order."""
        found = []
        names = self.store.names(f"{self._base}/claims")
        for name, claimed in self._objects(names, partial(decode, IDReservation)).items():
            match = _NUMBERED.search(name)
            if match is None:
                continue
            # The number of one that can't be read is taken all the same, by a step that can't be told.
            id, step_key = ("", "") if isinstance(claimed, UnreadableObject) else (claimed.id, claimed.step_key)
            found.append(ReservedID(int(match[1]), id, step_key))
        return found

    def reserve_id(self, prefix: str, step_key: str, used: Iterable[int]) -> str:
        """The next free experiment ID for a step: the one that it holds unfinished, else a new one.

        `used` are numbers taken outside the store (the logbook, other branches). Only drivers reserve.
        """
        with self._reserving:
            taken = max(used, default=0)
            while True:
                claims = self.reserved_ids()
                held = [claim for claim in claims if claim.step_key == step_key]
                if held and not self._ended(held[-1].id):
                    return held[-1].id
                number = max([taken, *(claim.number for claim in claims)]) + 1
                claim = IDReservation(
                    schema=SCHEMA, id=format_id(prefix, number), step_key=step_key, claimed_at=utc(), by=this_process()
                )
                if self.store.create(f"{self._base}/claims/{number:06d}.json", encode(claim) + b"\n"):
                    return claim.id
                taken = number

    def latest_entry(self, step_key: str) -> Stored[EntryRecord] | None:
        """The standing entry of the newest ID that a step reserved, or None while that one is unfinished."""
        held = [claim for claim in self.reserved_ids() if claim.step_key == step_key]
        return self._ended(held[-1].id) if held else None

    # -- the series itself --------------------------------------------------------------------------------------

    def declare(self, series: Series) -> None:
        """Keep the series as its thread declares it now, for whoever has the store and not the thread."""
        name, data = f"{self._base}/series.json", canonical(asdict(series.without_secrets())) + b"\n"
        if self.store.read(name) != data:
            self.store.put(name, data)

    def series(self) -> Series:
        """The series as it was last declared. Raises StoreError when this store holds none."""
        found = self.declared()
        if found is None:
            raise StoreError(
                f"{self.store.url} holds no series {self.topic!r}: name the store that the thread ran with (--prefix, "
                "or MARIN_PREFIX), or run the thread."
            )
        return found

    def declared(self) -> Series | None:
        """The series as it was last declared, None when this store holds none. Raises StoreError when it can't tell."""
        name = f"{self._base}/series.json"
        data = self.store.read(name)
        if data is None:
            return None
        try:
            return msgspec.json.decode(data, type=Series)
        except msgspec.MsgspecError as error:
            raise UnreadableObject(
                f"{self.store.url}/{name} is not a series ({error}): run the thread again."
            ) from error

    # -- what is decided once, and whose turn it is to publish ---------------------------------------------------

    def decided(self, name: str, kind: type[T]) -> T | None:
        """What was decided under this name, None while nothing was."""
        path = f"{self._base}/{name}.json"
        data = self.store.read(path)
        return None if data is None else decode(kind, data, f"{self.store.url}/{path}")

    def decide(self, name: str, value: S) -> S:
        """Decide something for good, unless somebody was first; returns what counts."""
        self.store.create(f"{self._base}/{name}.json", encode(value) + b"\n")
        return self.decided(name, type(value)) or value

    def note(self, name: str, value: msgspec.Struct) -> None:
        """Keep something that only the newest state of matters."""
        self.store.put(f"{self._base}/{name}.json", encode(value) + b"\n")

    def notes(
        self, folder: str, kind: type[T], wanted: Callable[[str], bool] = lambda name: True
    ) -> dict[str, T | UnreadableObject]:
        """What is noted in a folder, by the names in it that are wanted."""
        listed = (name for name in self.store.names(f"{self._base}/{folder}") if name.endswith(".json"))
        names = {name: name.rsplit("/", 1)[-1].removesuffix(".json") for name in listed}
        found: dict[str, T | UnreadableObject] = {}
        for name, data in self.store.read_many(name for name in names if wanted(names[name])).items():
            try:
                found[names[name]] = decode(kind, data, f"{self.store.url}/{name}")
            except UnreadableObject as error:
                found[names[name]] = error
        return found

    @contextmanager
    def turn(self, surface: str) -> Iterator[Owner | None]:
        """Hold the publisher's lease of a surface inside the block; yields the process that has it, if not this one.

        A publisher that is stopped for longer than its lease may still write: surfaces mend what comes of that.
        """
        folder = f"{self._base}/turns/{surface}"
        while True:
            numbers = [int(match[1]) for name in self.store.names(folder) if (match := _NUMBERED.search(name))]
            last = max(numbers, default=0)
            turn = None
            # What a power cut broke was held by nobody who is still there.
            with suppress(UnreadableObject):
                turn = self.decided(f"turns/{surface}/{last:06d}", PublisherLease)
            if turn is not None:
                until = self._leases.until(f"{folder}/leases/{last:06d}.json", parse_utc(turn.lease_until))
                # Nobody is given a lease for so long: a clock was wrong.
                if not abandoned(turn.by, until) and until < lease_end() + timedelta(hours=1):
                    yield turn.by
                    return
            name = f"{folder}/{last + 1:06d}.json"
            until = lease_end()
            mine = PublisherLease(schema=SCHEMA, by=this_process(), lease_until=utc(until), nonce=secrets.token_hex(8))
            if self.store.create(name, encode(mine) + b"\n"):
                break
        lease = f"{folder}/leases/{last + 1:06d}.json"
        try:
            with self._leases.held(lease, until):
                yield None
        finally:
            self._leases.end(lease)

    # -- patches, environments and attachments -----------------------------------------------------------------

    def keep_patch(self, sha: str, patch: bytes) -> None:
        self.store.create(f"{self._base}/patches/{sha}.patch", patch)

    def patch(self, sha: str) -> bytes | None:
        return self.store.read(f"{self._base}/patches/{sha}.patch")

    def keep_environment(self, sha: str, packages: bytes) -> None:
        self.store.create(f"{self._base}/environments/{sha}.txt", packages)

    def environment(self, sha: str) -> bytes | None:
        return self.store.read(f"{self._base}/environments/{sha}.txt")

    def keep_attachment(self, name: str, data: bytes) -> None:
        self.store.create(f"{self._base}/attachments/{name}", data)

    def attachment(self, name: str) -> bytes | None:
        return self.store.read(f"{self._base}/attachments/{name}")

    # -- reading -----------------------------------------------------------------------------------------------

    def entries(self) -> Snapshot:
        """Only the standing records of steps: what the publisher needs to see what is new."""
        found = Snapshot()
        names = self.store.names(f"{self._base}/entries/records")
        self._add(found, self._objects(names, decode_record).values())
        return found

    def scan(self, repository: Path | None = None) -> Snapshot:
        """Everything in the store and, given the folder of published records, in the repository."""
        found = Snapshot()
        self._scan(found, repository, lambda names: self._add(found, self._objects(names, decode_record).values()))
        return found

    def outline(self, repository: Path) -> Outline:
        """What a scan finds, without reading again what rows tell: a look at a long series, which is not kept."""
        found = Outline()

        def take(names: Sequence[str]) -> None:
            for start in range(0, len(names), TAKEN_AT_ONCE):
                for name, data in self.store.read_many(names[start : start + TAKEN_AT_ONCE]).items():
                    found.take(data, f"{self.store.url}/{name}")

        self._scan(found, repository, take)
        return found

    def recent(self) -> Snapshot:
        """The entries, what is open, and the trials that no row tells of: little to read, however long the series is.

        Whoever looks again reads only what is new.
        """
        found = Snapshot()

        def take(names: Sequence[str]) -> None:
            refs = [row.trial for stored in found.entries.values() for row in stored.record.rows]
            told = {self._name("trial", "records", ref.key, ref.attempt) for ref in refs}
            self._add(found, self._objects([name for name in names if name not in told], decode_record).values())

        self._scan(found, None, take)
        return found

    def published(self, repository: Path) -> Snapshot:
        """The entries in the store and in the repository: what is known of the series, whoever measured it."""
        found = self.entries()
        add_published(found, repository, lambda line: b'"kind":"entry"' in line)
        return found

    # -- inside ------------------------------------------------------------------------------------------------

    def _scan(self, found: Snapshot, repository: Path | None, read: Callable[[Sequence[str]], None]) -> None:
        for subject, folder in _FOLDERS.items():
            for attempt in self._open(subject, read):
                if isinstance(attempt, UnreadableObject):
                    found.leave_out(attempt)
                else:
                    found.open.append(attempt)
            read(self.store.names(f"{self._base}/{folder}/late"))
        if repository is not None:
            add_published(found, repository)

    def _open(
        self, subject: Subject, read: Callable[[Sequence[str]], object] = lambda names: None
    ) -> list[OpenAttempt | UnreadableObject]:
        """The attempts that have no record; `read` is given the names of those that there are."""
        # Intents first: an attempt that ends while this reads has its record among those listed next.
        begun = self.store.names(f"{self._base}/{_FOLDERS[subject]}/intents")
        records = self.store.names(f"{self._base}/{_FOLDERS[subject]}/records")
        read(records)
        ended = {name.rsplit("/", 1)[-1] for name in records}
        left = [name for name in begun if name.rsplit("/", 1)[-1] not in ended]
        intents = self._objects(left, partial(decode, Intent)).values()
        return [
            one if isinstance(one, UnreadableObject) else OpenAttempt(one, self._lease(subject, one)) for one in intents
        ]

    def _name(self, subject: Subject, kind: str, key: str, attempt: int) -> str:
        return f"{self._base}/{_FOLDERS[subject]}/{kind}/{key}-{attempt}.json"

    def _attempt(self, subject: Subject, key: str, number: int) -> Attempt | None:
        intent_name = self._name(subject, "intents", key, number)
        intent_data = self.store.read(intent_name)
        if intent_data is None:
            return None
        record_name = self._name(subject, "records", key, number)
        record_data = self.store.read(record_name)
        try:
            if record_data is not None:
                return decode_record(record_data, f"{self.store.url}/{record_name}")
            intent = decode(Intent, intent_data, f"{self.store.url}/{intent_name}")
        except UnreadableObject as error:
            return error
        return OpenAttempt(intent, self._lease(subject, intent))

    def _ended(self, experiment_id: str) -> Stored[EntryRecord] | None:
        match self.attempts("entry", experiment_id):
            case [*_, Stored(record=EntryRecord() as record, line=line)]:
                return Stored(record, line)
        return None

    def _lease(self, subject: Subject, intent: Intent) -> datetime:
        first = parse_utc(intent.lease_until)
        if first > datetime.now(UTC):
            return first
        return self._leases.until(self._name(subject, "leases", intent.key, intent.attempt), first)

    def _add(self, found: Snapshot, records: Iterable[Stored[Record] | UnreadableObject]) -> None:
        for record in records:
            if isinstance(record, UnreadableObject):
                found.leave_out(record)
            else:
                found.add(record)

    def _objects(self, names: Sequence[str], read: Callable[[bytes, str], T]) -> dict[str, T | UnreadableObject]:
        """What objects hold, by name. They never change, so each is read and decoded once."""
        new = self.store.read_many(name for name in names if name not in self._cache)
        for name, data in new.items():
            try:
                self._cache[name] = read(data, f"{self.store.url}/{name}")
            except UnreadableObject as error:
                self._cache[name] = error
        return {name: self._cache[name] for name in names if name in self._cache}

    def _must_read(self, name: str) -> bytes:
        data = self.store.read(name)
        if data is None:
            raise JournalProblem(
                f"{self.store.url}/{name} is gone, but another record rests on it. Restore it from a copy."
            )
        return data
