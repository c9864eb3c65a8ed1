"""The journal of a series: intents, records and claimed experiment IDs, one immutable object each, in its store.

Where an attempt stands is derived from which objects exist, never stored:

    <store>/journal/<topic>/claims/000007.json              who holds MOE-HC-007
                            trials/intents/<key>-<n>.json   attempt n of a trial began
                            trials/leases/<key>-<n>.json    its lease, when it was extended
                            trials/records/<key>-<n>.json   its standing record
                            trials/late/<key>-<n>-<sha>.json
                            entries/…                       the same for steps; their key is the experiment ID
                            patches/<sha256>.patch          what a dirty work tree differed in
                            seals/<experiment ID>.json      the commit that a seal's tag names

Attempts of one key are numbered, and creating an intent or record is exclusive. So a trial that two processes want is
measured by one of them, and of two ends of one attempt the first stands and the other is kept as late. `finish` is
the only way to end an attempt, for its owner and for whoever finds it orphaned.
"""

import os
import re
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from research_steps.errors import JournalProblem, StoreError, UnreadableObject
from research_steps.record import (
    SCHEMA,
    ClaimedID,
    EntryRecord,
    Intent,
    InterruptedRecord,
    Lease,
    Owner,
    Record,
    Ref,
    Seal,
    Stored,
    TrialRecord,
    canonical,
    decode,
    decode_record,
    encode,
    parse_utc,
    store_record,
    utc,
)
from research_steps.series import Series, format_id
from research_steps.store import Store

LEASE_S = 60.0
POLL_S = 0.5

T = TypeVar("T")
Subject = Literal["trial", "entry"]
_FOLDERS: dict[Subject, str] = {"trial": "trials", "entry": "entries"}
_CLAIM = re.compile(r"/(\d{6,9})\.json$")


@dataclass(frozen=True)
class OpenAttempt:
    """An attempt that has begun and has no record yet."""

    intent: Intent
    lease_until: datetime

    def orphaned(self) -> bool:
        """True when nobody will finish it: its lease ran out, or its process on this machine is gone."""
        if self.lease_until <= datetime.now(UTC):
            return True
        owner = self.intent.owner
        return owner.machine == machine() and not _alive(owner.pid, owner.process_started)


# An attempt that can't be read is told by the error; it has ended, and satisfies nobody.
Attempt = OpenAttempt | Stored[Record] | UnreadableObject


@dataclass(frozen=True)
class Claim:
    """An experiment ID, and the step that holds it."""

    number: int
    id: str
    step_key: str


@dataclass
class Snapshot:
    """What the journal holds, store and repository together. `problems` names what could not be read."""

    entries: dict[str, Stored[EntryRecord]] = field(default_factory=dict)
    trials: dict[str, Stored[TrialRecord]] = field(default_factory=dict)
    interrupted: dict[str, Stored[InterruptedRecord]] = field(default_factory=dict)
    open: list[OpenAttempt] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def add(self, stored: Stored[Any]) -> None:
        match stored.record:
            case EntryRecord():
                self.entries[stored.sha256] = stored
            case TrialRecord():
                self.trials[stored.sha256] = stored
            case InterruptedRecord():
                self.interrupted[stored.sha256] = stored

    def find(self, experiment_id: str) -> list[Stored[Any]]:
        """Every record that carries this ID, entries first, then by attempt; several where two branches used one."""
        everything: list[Stored[Any]] = [*self.entries.values(), *self.trials.values(), *self.interrupted.values()]
        return [stored for stored in everything if stored.record.id == experiment_id]


class Journal:
    """One series' journal in one store. Safe to use from several threads."""

    def __init__(self, store: Store, topic: str) -> None:
        self.topic = topic
        self.store = store
        self._base = f"journal/{topic}"
        self._cache: dict[str, Any] = {}
        self._claiming = threading.Lock()
        self._holding = threading.Lock()
        self._held: set[str] = set()
        self._keeper: threading.Thread | None = None

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
        while True:
            attempts = self.attempts(subject, key)
            if not attempts:
                return 0
            match attempts[-1]:
                case Stored() as stored:
                    return stored if accept(stored) else len(attempts)
                case UnreadableObject() as error:
                    progress(str(error))
                    return len(attempts)
                case OpenAttempt() as attempt if attempt.orphaned():
                    self.interrupt(attempt, "its process ended, or its lease ran out, before it was finished")
                case OpenAttempt(intent=intent):
                    if not told:
                        progress(
                            f"{intent.id}: waiting for process {intent.owner.pid} on {intent.owner.host}, which is at it"
                        )
                        told = True
                    time.sleep(POLL_S)

    @contextmanager
    def begin(
        self, subject: Subject, key: str, attempt: int, *, id: str, label: str, config: dict[str, Any]
    ) -> Iterator[bool]:
        """Write the intent of an attempt and hold its lease inside the block. Yields False when it was taken."""
        started = datetime.now(UTC)
        intent = Intent(
            schema=SCHEMA,
            series=self.topic,
            subject=subject,
            key=key,
            attempt=attempt,
            id=id,
            label=label,
            started_at=utc(started),
            lease_until=utc(started + timedelta(seconds=LEASE_S)),
            owner=this_process(),
            nonce=secrets.token_hex(8),
            config=config,
        )
        if not self.store.create(self._name(subject, "intents", key, attempt), encode(intent) + b"\n"):
            yield False
            return
        lease = self._name(subject, "leases", key, attempt)
        self._hold(lease)
        try:
            yield True
        finally:
            self._held.discard(lease)

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

    def claims(self) -> list[Claim]:
        """All claimed experiment IDs in order."""
        found = []
        for name, claimed in self._objects(f"{self._base}/claims", partial(decode, ClaimedID)).items():
            match = _CLAIM.search(name)
            if match is None:
                continue
            # The number of one that can't be read is taken all the same, by a step that can't be told.
            id, step_key = ("", "") if isinstance(claimed, UnreadableObject) else (claimed.id, claimed.step_key)
            found.append(Claim(int(match[1]), id, step_key))
        return found

    def claim(self, prefix: str, step_key: str, used: Iterable[int]) -> str:
        """The next free experiment ID for a step: the one that it holds unfinished, else a new one.

        `used` are numbers taken outside the store (the logbook, other branches). Only drivers claim.
        """
        with self._claiming:
            taken = max(used, default=0)
            while True:
                claims = self.claims()
                held = [claim for claim in claims if claim.step_key == step_key]
                if held and not self._ended(held[-1].id):
                    return held[-1].id
                number = max([taken, *(claim.number for claim in claims)]) + 1
                claim = ClaimedID(
                    schema=SCHEMA, id=format_id(prefix, number), step_key=step_key, claimed_at=utc(), by=this_process()
                )
                if self.store.create(f"{self._base}/claims/{number:06d}.json", encode(claim) + b"\n"):
                    return claim.id
                taken = number

    def latest_entry(self, step_key: str) -> Stored[EntryRecord] | None:
        """The standing entry of the newest ID that a step claimed, or None while that one is unfinished."""
        held = [claim for claim in self.claims() if claim.step_key == step_key]
        return self._ended(held[-1].id) if held else None

    # -- the series itself --------------------------------------------------------------------------------------

    def declare(self, series: Series) -> None:
        """Keep the series as its thread declares it now, for whoever has the store and not the thread."""
        self.store.put(f"{self._base}/series.json", canonical(asdict(series)) + b"\n")

    def series(self) -> Series:
        """The series as it was last declared. Raises StoreError when this store holds none."""
        name = f"{self._base}/series.json"
        data = self.store.read(name)
        if data is None:
            raise StoreError(
                f"{self.store.url} holds no series {self.topic!r}: name the store that the thread ran with (--prefix, "
                "or MARIN_PREFIX), or run the thread."
            )
        try:
            return msgspec.json.decode(data, type=Series)
        except msgspec.MsgspecError as error:
            raise UnreadableObject(
                f"{self.store.url}/{name} is not a series ({error}): run the thread again."
            ) from error

    # -- seals -------------------------------------------------------------------------------------------------

    def seal(self, id: str) -> Seal | None:
        """How an entry was sealed, None while it is not."""
        name = f"{self._base}/seals/{id}.json"
        data = self.store.read(name)
        return None if data is None else decode(Seal, data, f"{self.store.url}/{name}")

    def decide_seal(self, seal: Seal) -> Seal:
        """Make this the seal of its entry, unless somebody was first; returns the one that counts."""
        self.store.create(f"{self._base}/seals/{seal.id}.json", encode(seal) + b"\n")
        return self.seal(seal.id) or seal

    # -- patches -----------------------------------------------------------------------------------------------

    def keep_patch(self, sha: str, patch: bytes) -> None:
        self.store.create(f"{self._base}/patches/{sha}.patch", patch)

    def patch(self, sha: str) -> bytes | None:
        return self.store.read(f"{self._base}/patches/{sha}.patch")

    # -- reading -----------------------------------------------------------------------------------------------

    def entries(self) -> Snapshot:
        """Only the standing records of steps: what the publisher needs to see what is new."""
        found = Snapshot()
        self._add(found, self._records("entries/records").values())
        return found

    def scan(self, repository: Path | None = None) -> Snapshot:
        """Everything in the store and, given the folder of published records, in the repository."""
        found = Snapshot()
        for subject, folder in _FOLDERS.items():
            # Intents first: an attempt that ends while this reads has its record among those read next.
            intents = self._objects(f"{self._base}/{folder}/intents", partial(decode, Intent))
            records = self._records(f"{folder}/records")
            self._add(found, records.values())
            self._add(found, self._records(f"{folder}/late").values())
            ended = {name.rsplit("/", 1)[-1] for name in records}
            for name, intent in intents.items():
                if name.rsplit("/", 1)[-1] in ended:
                    continue
                if isinstance(intent, UnreadableObject):
                    found.problems.append(str(intent))
                else:
                    found.open.append(OpenAttempt(intent, self._lease(subject, intent)))
        if repository is not None:
            for path in sorted(repository.glob("*.jsonl")):
                for number, line in enumerate(path.read_bytes().splitlines(), 1):
                    try:
                        found.add(decode_record(line, f"{path}:{number}"))
                    except UnreadableObject as error:
                        found.problems.append(str(error))
        return found

    # -- inside ------------------------------------------------------------------------------------------------

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
        name = self._name(subject, "leases", intent.key, intent.attempt)
        extended = self.store.read(name)
        if extended is None:
            return first
        try:
            return parse_utc(decode(Lease, extended, f"{self.store.url}/{name}").lease_until)
        except UnreadableObject:
            # A lease is not written durably; one that a power cut broke was held by nobody who is still there.
            return first

    def _hold(self, lease: str) -> None:
        """Have a lease renewed until it is taken out of `_held`; one thread does it for all of them."""
        with self._holding:
            self._held.add(lease)
            if self._keeper is None:
                self._keeper = threading.Thread(target=self._keep, daemon=True, name="research-leases")
                self._keeper.start()

    def _keep(self) -> None:
        while True:
            time.sleep(LEASE_S / 3)
            with self._holding:
                if not self._held:
                    self._keeper = None
                    return
                held = list(self._held)
            until = utc(datetime.now(UTC) + timedelta(seconds=LEASE_S))
            for name in held:
                # A store that is away for a while ends the lease at worst; the record is then kept as late.
                with suppress(StoreError):
                    self.store.put(name, encode(Lease(schema=SCHEMA, lease_until=until)) + b"\n")

    def _add(self, found: Snapshot, records: Iterable[Stored[Record] | UnreadableObject]) -> None:
        for record in records:
            if isinstance(record, UnreadableObject):
                found.problems.append(str(record))
            else:
                found.add(record)

    def _objects(self, folder: str, read: Callable[[bytes, str], T]) -> dict[str, T | UnreadableObject]:
        """What a folder holds, by name. Objects never change, so each is read and decoded once."""
        names = self.store.names(folder)
        new = self.store.read_many(name for name in names if name not in self._cache)
        for name, data in new.items():
            try:
                self._cache[name] = read(data, f"{self.store.url}/{name}")
            except UnreadableObject as error:
                self._cache[name] = error
        return {name: self._cache[name] for name in names if name in self._cache}

    def _records(self, folder: str) -> dict[str, Stored[Record] | UnreadableObject]:
        return self._objects(f"{self._base}/{folder}", decode_record)

    def _must_read(self, name: str) -> bytes:
        data = self.store.read(name)
        if data is None:
            raise JournalProblem(
                f"{self.store.url}/{name} is gone, but another record rests on it. Restore it from a copy."
            )
        return data


@cache
def machine() -> str:
    """This machine since its last boot, as seen from this PID namespace."""
    parts = [socket.gethostname()]
    if sys.platform == "linux":
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")]
    else:
        import psutil

        parts.append(f"{psutil.boot_time():.0f}")
    return "/".join(parts)


def this_process() -> Owner:
    return Owner(
        machine=machine(), host=socket.gethostname(), pid=os.getpid(), process_started=_started(os.getpid()) or 0.0
    )


def _alive(pid: int, started: float) -> bool:
    found = _started(pid)
    return found is not None and abs(found - started) < 1.0


def _started(pid: int) -> float | None:
    """When a process started, in seconds; None when it is gone or only waits to be reaped.

    Linux counts from boot, which setting the clock doesn't move; psutil elsewhere.
    """
    if sys.platform != "linux":
        import psutil

        try:
            process = psutil.Process(pid)
            return None if process.status() == psutil.STATUS_ZOMBIE else float(process.create_time())
        except psutil.NoSuchProcess:
            return None
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19]) / os.sysconf("SC_CLK_TCK")
