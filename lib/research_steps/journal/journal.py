"""The journal of a series: intents, records and reserved experiment IDs, one immutable object each, in its store.

Where an attempt stands is derived from which objects exist, never stored:

    <store>/journal/<topic>/claims/000007.json              the step that reserved MOE-HC-007
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
                            plans/MOE-HC-007.json           how many trials a step asks for (see `progress`)
                            turns/<surface>/000003.json     who publishes there, with a lease

What is asked of one record, attempt or experiment ID stands in `attempts` and `experiment_ids`; here they are put
together, with what is decided once, what is kept beside the records, and the snapshots of everything.
"""

import threading
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from research_steps.errors import JournalProblem, RepositoryError, StoreError, UnreadableObject
from research_steps.files import read
from research_steps.journal import series_file
from research_steps.journal.attempts import Attempts
from research_steps.journal.experiment_ids import ExperimentIDs
from research_steps.journal.leases import Leases
from research_steps.journal.objects import FOLDERS, Objects, Subject
from research_steps.journal.snapshot import Outline, Snapshot, add_published, telling
from research_steps.journal.store import LocalStore, RehearsalStore, Store
from research_steps.records.encoding import (
    Stored,
    canonical,
    decode,
    decode_record,
    decode_series,
    encode,
    sha256,
    verified,
)
from research_steps.records.model import Ref
from research_steps.records.names import named
from research_steps.records.series import Series

# How many objects an outline holds in memory.
TAKEN_AT_ONCE = 500
# What the line of an entry's record has in it, and few others.
_ENTRY = b'"kind":"entry"'
_IGNORED = "journal/.gitignore"

T = TypeVar("T")
S = TypeVar("S", bound=msgspec.Struct)


class Journal:
    """One series' journal in one store. Safe to use from several threads."""

    def __init__(self, store: Store, topic: str) -> None:
        self.topic = topic
        self.store = store
        self.objects = Objects(store, topic)
        self.leases = Leases(self.objects)
        self.attempts = Attempts(self.objects, self.leases, topic)
        self.ids = ExperimentIDs(self.objects, self.attempts)
        self._reading = threading.Lock()
        self._entries, self._seen = Snapshot(), set[str]()

    @property
    def url(self) -> str:
        return self.objects.where(self.objects.folder)

    @property
    def dry_run(self) -> bool:
        """Whether nothing that is written here is to last."""
        return isinstance(self.store, RehearsalStore)

    # -- the series itself --------------------------------------------------------------------------------------

    def declare(self, series: Series) -> None:
        """Keep the series as its thread declares it now, for whoever has the store and not the thread. From then on git
        leaves a journal in a repository alone: 'git clean' removes nothing of it, and nobody commits it."""
        if isinstance(self.store, LocalStore) and self.store.read(_IGNORED) is None:
            self.store.put(_IGNORED, b"*\n")
        name, data = self.objects.path(series_file.NAME), series_file.encoded(series)
        if self.store.read(name) != data:
            self.store.put(name, data)

    def series(self, repository: Path | None = None) -> Series:
        """The series as it was last declared in this store, else as it was published in a repository. Raises StoreError
        when neither holds it."""
        series = self.declared()
        if series is None and repository is not None:
            series = series_file.read_published(repository, self.topic)
        if series is None:
            beside = f", and there is no {repository / series_file.NAME}" if repository is not None else ""
            raise StoreError(
                f"{self.store.url} holds no series {self.topic!r}{beside}: name the store that the thread ran with "
                "(--prefix, or MARIN_PREFIX), or run the thread."
            )
        return series

    def declared(self) -> Series | None:
        """The series as it was last declared, None when this store holds none. Raises StoreError when it can't tell."""
        name = self.objects.path(series_file.NAME)
        data = self.store.read(name)
        return None if data is None else decode_series(data, self.topic, self.objects.where(name))

    # -- what is decided once, and what changes ------------------------------------------------------------------

    def decided(self, name: str, kind: type[T]) -> T | None:
        """What was decided under this name for good, None while nothing was."""
        return self.objects.read(self.objects.path(f"{name}.json"), partial(decode, kind))

    def decide(self, name: str, value: S) -> S:
        """Decide something for good, unless somebody was first; returns what counts."""
        self.objects.create(self.objects.path(f"{name}.json"), value)
        return self.decided(name, type(value)) or value

    def note(self, name: str, value: msgspec.Struct) -> None:
        """Keep something that only the newest state of matters."""
        path = self.objects.path(f"{name}.json")
        self.store.put(path, encode(value) + b"\n")
        self.objects.forget(path)

    def noted(self, name: str, kind: type[T]) -> T | None:
        """The newest state of what was noted under this name."""
        path = self.objects.path(f"{name}.json")
        data = self.store.read(path)
        return None if data is None else decode(kind, data, self.objects.where(path))

    def notes(
        self, folder: str, kind: type[T], wanted: Callable[[str], bool] = lambda name: True
    ) -> dict[str, T | UnreadableObject]:
        """What is noted in a folder, by the names in it that are wanted."""
        listed = (path for path in self.objects.names(folder) if path.endswith(".json"))
        names = {path: path.rpartition("/")[2].removesuffix(".json") for path in listed}
        notes: dict[str, T | UnreadableObject] = {}
        for path, data in self.store.read_many(path for path in names if wanted(names[path])).items():
            notes[names[path]] = self.objects.decoded(data, partial(decode, kind), path)
        return notes

    # -- patches, environments and attachments -----------------------------------------------------------------

    def keep_patch(self, sha: str | None, patch: bytes | None) -> None:
        """Keep what a work tree differed in, where it did."""
        if sha is not None and patch is not None:
            self.store.create(self.objects.path(f"patches/{sha}.patch"), patch)

    def patch(self, sha: str, repository: Path | None = None) -> bytes | None:
        """What a work tree differed in, by its hash; as it was published, given the folder of that, where the store has
        none. Raises UnreadableObject where the bytes are others."""
        data = self._content(f"patches/{sha}.patch", sha)
        if data is None and repository is not None:
            published = repository / f"{sha}.patch"
            data = read(published)
            return None if data is None else verified(data, sha, str(published))
        return data

    def keep_environment(self, packages: bytes) -> None:
        self.store.create(self.objects.path(f"environments/{sha256(packages)}.txt"), packages)

    def environment(self, sha: str) -> bytes | None:
        """The packages that were installed, by the hash of their list. Raises UnreadableObject."""
        return self._content(f"environments/{sha}.txt", sha)

    def keep_attachment(self, name: str, data: bytes) -> None:
        self.store.create(self.objects.path(f"attachments/{name}"), data)

    def attachment(self, name: str, sha: str) -> bytes | None:
        """What was attached, by its name and hash. Raises UnreadableObject."""
        return self._content(f"attachments/{name}", sha)

    def _content(self, name: str, sha: str) -> bytes | None:
        path = self.objects.path(name)
        data = self.store.read(path)
        return None if data is None else verified(data, sha, self.objects.where(path))

    # -- reading -----------------------------------------------------------------------------------------------

    def load(self, subject: Subject, ref: Ref) -> Stored[Any]:
        """The standing record that a reference names. Raises JournalProblem when it is not the one that was meant."""
        path = self.objects.attempt(subject, "records", ref.key, ref.attempt)
        stored = self.objects.needed(path, self.objects.record)
        if stored.sha256 != ref.sha256:
            raise JournalProblem(
                f"{self.objects.where(path)} should be the record of {ref.id} with hash {ref.sha256[:12]}, but its "
                f"bytes have {stored.sha256[:12]}: it was changed after it was written. Restore it from a copy."
            )
        return stored

    def entries(self) -> Snapshot:
        """Only the standing records of steps, in the order in which this process came to know them: those that are new
        since the last time stand at the end."""
        with self._reading:
            paths = (path for path in self.objects.names("entries/records") if path not in self._seen)
            self._seen |= self._add(self._entries, paths)
            return self._entries.copy()

    def published(self, repository: Path, entries: Snapshot | None = None) -> Snapshot:
        """The entries in the store and in the repository: what is known of the series, whoever measured it. `entries`
        are those in the store, where they were read before."""
        entries = self.entries() if entries is None else entries.copy()
        return add_published(entries, repository, lambda line: _ENTRY in line, self.objects.record)

    def with_trials(self, repository: Path, entries: Snapshot | None = None) -> Snapshot:
        """The same with what tells whether the trials that claims name are there. Those of an improvement are read, one
        of each baseline, and of others what does not lie in the repository."""
        snapshot = self.published(repository, entries)
        records = [stored.record for stored in snapshot.entries.values()]
        wanted = telling(records)
        read = self._named(repository, wanted)
        refs = {ref for record in records for claim in record.claims or () for ref in (*claim.trials, *claim.floor)}
        refs |= {row.trial for record in records for row in record.rows if row.trial.sha256 in wanted}
        left = [ref for ref in refs if ref.sha256 not in snapshot.unread]
        self._add(read, [self.objects.attempt("trial", "records", ref.key, ref.attempt) for ref in left])
        snapshot.named = {**read.trials, **read.interrupted}
        return snapshot

    def _named(self, repository: Path, hashes: set[str]) -> Snapshot:
        """The published records with these hashes."""
        if not hashes:
            return Snapshot()
        return add_published(
            Snapshot(), repository, lambda line: sha256(line.rstrip(b"\r\n")) in hashes, self.objects.record
        )

    def trials_of(self, refs: Iterable[Ref], repository: Path) -> Snapshot:
        """Only the trials that these name, as far as this store holds them, or the repository."""
        wanted = {ref.sha256: ref for ref in refs}
        read = Snapshot()
        self._add(read, [self.objects.attempt("trial", "records", ref.key, ref.attempt) for ref in wanted.values()])
        left = wanted.keys() - {stored.sha256 for stored in read.everything}
        for stored in self._named(repository, left).everything:
            read.add(stored)
        return read

    def with_id(self, id: str, repository: Path) -> Snapshot:
        """What is published, and of everything else what carries this ID: no record of another trial is decoded. The ID
        may be one with a hash."""
        snapshot, (id, _) = self.entries(), named(id)
        mark = canonical({"id": id})[1:-1]
        for folder in ("entries/late", "trials/records", "trials/late"):
            paths = self._untold(snapshot, self.objects.names(folder), but=id)
            for path, data in self.store.read_many(paths).items():
                if isinstance(data, bytes) and mark in data:
                    snapshot.take(data, self.objects.where(path), self.objects.record)
        return add_published(snapshot, repository, lambda line: _ENTRY in line or mark in line, self.objects.record)

    def scan(self, repository: Path | None = None) -> Snapshot:
        """Everything in the store and, given the folder of published records, in the repository."""
        snapshot = Snapshot()
        self._scan(snapshot, lambda paths: self._add(snapshot, paths))
        return snapshot if repository is None else add_published(snapshot, repository, decode=self.objects.record)

    def recent(self) -> Snapshot:
        """The entries, what is open, and the trials that no row tells of: little to read, however long the series is.

        Whoever looks again reads only what is new.
        """
        snapshot = Snapshot()
        self._scan(snapshot, lambda paths: self._add(snapshot, self._untold(snapshot, paths)))
        return snapshot

    def outline(self, repository: Path) -> Outline:
        """What a scan finds, without reading again what rows tell, but for what tells something of claims: a look at a
        long series, which is not kept."""
        outline, decode = Outline(topic=self.topic), partial(decode_record, series=self.topic)

        def take(paths: Sequence[str]) -> None:
            for start in range(0, len(paths), TAKEN_AT_ONCE):
                for path, data in self.store.read_many(paths[start : start + TAKEN_AT_ONCE]).items():
                    outline.take(data, self.objects.where(path), decode)

        self._scan(outline, take)
        try:
            add_published(outline, repository, decode=decode)
            # In git what is claimed may stand behind what it is claimed of.
            missing = telling(stored.record for stored in outline.entries.values()) & outline.ended.keys()
            missing -= outline.named.keys()
            outline.named |= self._named(repository, missing).trials
        except RepositoryError as error:
            outline.problems.append(str(error))
        return outline

    def _scan(self, snapshot: Snapshot, read: Callable[[Sequence[str]], object]) -> None:
        for subject, folder in FOLDERS.items():
            # Intents first, as `left_open` needs them.
            intents = self.objects.names(f"{folder}/intents")
            records = self.objects.names(f"{folder}/records")
            read(records)
            for attempt in self.attempts.left_open(subject, intents, records):
                if isinstance(attempt, UnreadableObject):
                    snapshot.leave_out(attempt)
                else:
                    snapshot.open.append(attempt)
            read(self.objects.names(f"{folder}/late"))

    def _add(self, snapshot: Snapshot, paths: Iterable[str]) -> set[str]:
        """Add the records that lie there, or why they can't be read; returns where there was one."""
        records = self.objects.final(paths, self.objects.record)
        for record in records.values():
            if isinstance(record, UnreadableObject):
                snapshot.leave_out(record)
            else:
                snapshot.add(record)
        return set(records)

    def _untold(self, snapshot: Snapshot, paths: Iterable[str], but: str = "") -> list[str]:
        """The paths of records that no row of an entry tells of, and of those that carry one ID."""
        refs = (row.trial for stored in snapshot.entries.values() for row in stored.record.rows)
        in_tables = {self.objects.attempt("trial", "records", ref.key, ref.attempt) for ref in refs if ref.id != but}
        return [path for path in paths if path not in in_tables]
