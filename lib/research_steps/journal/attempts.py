"""Attempts at a trial or an entry: begun by an intent, held by a lease, and ended by one standing record.

Attempts of one key are numbered, and creating an intent or record is exclusive. So a trial that two processes want is
measured by one of them, and of two ends of one attempt the first stands and the other is kept as late. `finish` is
the only way to end an attempt for its owner, `interrupt` for whoever finds it orphaned.
"""

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import msgspec

from research_steps.errors import StoreError, UnreadableObject
from research_steps.journal.leases import AT_WORK, Leases, goes_on, lease_end, this_process
from research_steps.journal.objects import FOLDERS, Objects, Subject
from research_steps.journal.snapshot import OpenAttempt
from research_steps.records.encoding import Stored, decode, store_record
from research_steps.records.model import EntryRecord, InterruptedRecord, Record, TrialRecord
from research_steps.records.objects import Intent
from research_steps.records.times import parse_utc, utc

POLL_S = 0.5
ORPHANED = "its process ended, or its lease ran out, before it was finished"

# An attempt that can't be read is told by the error; it has ended, and satisfies nobody.
Attempt = OpenAttempt | Stored[Record] | UnreadableObject
_INTENT = partial(decode, Intent)


class Attempts:
    """The attempts of one series. `key` is a trial's identity, or an entry's experiment ID."""

    def __init__(self, objects: Objects, leases: Leases, topic: str) -> None:
        self._objects = objects
        self._leases = leases
        self._topic = topic

    def of(self, subject: Subject, key: str) -> list[Attempt]:
        """All attempts of a key, oldest first."""
        attempts: list[Attempt] = []
        while True:
            intent = self._objects.get(self._objects.attempt(subject, "intents", key, len(attempts)), _INTENT)
            if intent is None:
                return attempts
            ended = self._objects.attempt(subject, "records", key, len(attempts))
            attempts.append(self._objects.get(ended, self._objects.record) or self._open(subject, intent))

    def next(
        self, subject: Subject, key: str, accept: Callable[[Stored[Any]], bool], progress: Callable[[str], None]
    ) -> Stored[Any] | int:
        """The newest standing record when `accept` takes it, else the number of the attempt that may begin now.

        An orphaned attempt is ended as interrupted; one that somebody is still at is waited for.
        """
        announced = False
        while isinstance(attempt := self.look(subject, key, accept, progress), OpenAttempt):
            if not announced:
                owner = attempt.intent.owner
                progress(f"{attempt.intent.id}: waiting for process {owner.pid} on {owner.host}, which is at it")
                announced = True
            time.sleep(POLL_S)
        return attempt

    def look(
        self, subject: Subject, key: str, accept: Callable[[Stored[Any]], bool], progress: Callable[[str], None]
    ) -> Stored[Any] | int | OpenAttempt:
        """The next attempt as `next` tells it, or the one that somebody is still at."""
        attempts = self.of(subject, key)
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
        run: str | msgspec.UnsetType = msgspec.UNSET,
    ) -> Iterator[OpenAttempt | None]:
        """Write the intent of an attempt and hold its lease inside the block. Yields None when it was taken."""
        until = lease_end()
        intent = Intent(
            series=self._topic,
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
            run=run,
        )
        AT_WORK.add(intent.nonce)
        try:
            if not self._objects.create(self._objects.attempt(subject, "intents", key, attempt), intent):
                yield None
                return
            with self._leases.renewing(self._objects.attempt(subject, "leases", key, attempt), until):
                yield OpenAttempt(intent, until)
        finally:
            # Whether or not it could be ended, as on a full disk: others of this process don't wait for it.
            AT_WORK.discard(intent.nonce)

    def finish(self, subject: Subject, record: TrialRecord | EntryRecord | InterruptedRecord) -> Stored[Any]:
        """Make the record last. If its attempt has ended already the record is kept as late, and returned so."""
        store = self._objects.store
        stored = store_record(record)
        path = self._objects.attempt(subject, "records", record.key, record.attempt)
        if store.create(path, stored.line + b"\n"):
            return stored
        late = store_record(msgspec.structs.replace(record, late=True))
        name = f"{FOLDERS[subject]}/late/{record.key}-{record.attempt}-{late.sha256[:16]}.json"
        path = self._objects.path(name)
        if not store.create(path, late.line + b"\n"):
            raise StoreError(
                f"{self._objects.where(path)} holds something else; the late record of {record.id} is not kept."
            )
        return late

    def interrupt(self, attempt: OpenAttempt, reason: str) -> Stored[Any]:
        """End an attempt that nobody will finish. If its owner was faster, the owner's record stands."""
        intent = attempt.intent
        record = InterruptedRecord(
            series=self._topic,
            subject=intent.subject,
            key=intent.key,
            attempt=intent.attempt,
            id=intent.id,
            label=intent.label,
            started_at=intent.started_at,
            finished_at=utc(),
            reason=reason,
        )
        path = self._objects.attempt(intent.subject, "records", intent.key, intent.attempt)
        stored = store_record(record)
        if self._objects.store.create(path, stored.line + b"\n"):
            return stored
        return self._objects.needed(path, self._objects.record)

    def intent(self, subject: Subject, key: str, attempt: int) -> Intent:
        """What was written before an attempt began."""
        return self._objects.needed(self._objects.attempt(subject, "intents", key, attempt), _INTENT)

    def begun(self, subject: Subject, record: Record) -> Intent | None:
        """How a record's attempt was begun; None where that is not in this store, or can't be read."""
        intent = self._objects.get(self._objects.attempt(subject, "intents", record.key, record.attempt), _INTENT)
        return intent if isinstance(intent, Intent) else None

    def end_orphaned(self) -> None:
        """End every attempt that nobody will finish. What isn't begun again, which would end it, is a trial of dev mode,
        and an entry of a person who doesn't give the command again."""
        for subject, folder in FOLDERS.items():
            begun, ended = self._objects.names(f"{folder}/intents"), self._objects.names(f"{folder}/records")
            for attempt in self.left_open(subject, begun, ended):
                if isinstance(attempt, OpenAttempt) and attempt.orphaned():
                    self.interrupt(attempt, ORPHANED)

    def never_begun(self, subject: Subject) -> list[str]:
        """The paths of records, late ones too, whose attempt has no intent."""
        folder = FOLDERS[subject]
        begun = {path.rpartition("/")[2] for path in self._objects.names(f"{folder}/intents")}
        late = {path: f"{path.rpartition('-')[0]}.json" for path in self._objects.names(f"{folder}/late")}
        ended = {path: path for path in self._objects.names(f"{folder}/records")} | late
        return [path for path, named in ended.items() if named.rpartition("/")[2] not in begun]

    def left_open(
        self, subject: Subject, intents: Sequence[str], records: Sequence[str]
    ) -> list[OpenAttempt | UnreadableObject]:
        """The attempts that have no record, given the paths of intents and records.

        Intents are to be listed first: an attempt that ends in between then has its record among those listed next.
        """
        ended = {path.rpartition("/")[2] for path in records}
        left = self._objects.final((path for path in intents if path.rpartition("/")[2] not in ended), _INTENT)
        return [self._open(subject, intent) for intent in left.values()]

    def _open(self, subject: Subject, intent: Intent | UnreadableObject) -> OpenAttempt | UnreadableObject:
        if isinstance(intent, UnreadableObject):
            return intent
        given, renewal = (
            self._objects.attempt(subject, kind, intent.key, intent.attempt) for kind in ("intents", "leases")
        )
        until = parse_utc(intent.lease_until)
        if goes_on(intent.owner) is None:
            until = self._leases.until(given, renewal, until, until - parse_utc(intent.started_at))
        return OpenAttempt(intent, until)
