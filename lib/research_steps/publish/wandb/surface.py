"""The W&B surface: runs made from records, written offline at the end of a run, and sent when there is a key.

A run lies in `.agents/wandb/<topic>/` once it is whole; that is its receipt, and W&B's own `.synced` beside it is the
receipt of sending. W&B itself runs only in the child process that sends, with bounded time: what it does there,
hangs or crashes reaches neither the driver nor a measurement. Everything here can be deleted and is made again from the
journal.
"""

import importlib.util
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from research_steps.errors import StoreError, SurfaceError, UsageError
from research_steps.evidence.visibility import is_public
from research_steps.git import Checkout
from research_steps.journal.journal import Journal
from research_steps.journal.snapshot import Snapshot
from research_steps.publish.surface import Change
from research_steps.publish.wandb import run_file
from research_steps.publish.wandb.run_file import address_of, is_sent, runs_in
from research_steps.publish.wandb.runs import Place, of_entry, of_trial, run_id
from research_steps.publish.wandb.sync import NO_KEY, may_have_key, send
from research_steps.records.encoding import Stored
from research_steps.records.model import EntryRecord, Row
from research_steps.records.objects import IssueLink, Project
from research_steps.records.redaction import redact
from research_steps.records.series import Series
from research_steps.records.step_kinds import STEP_KINDS
from research_steps.records.times import utc

LOCK_WAIT_S = 120.0
LONGEST_PROJECT = 128
_NOT_IN_PROJECTS = "/\\#?%:"


@dataclass(frozen=True)
class _Wanted:
    """A run that there should be: of a row's trial, or of the entry itself."""

    id: str
    entry: Stored[EntryRecord]
    row: Row | None


class WandbSurface:
    """One series' W&B runs in one checkout."""

    def __init__(self, checkout: Checkout, journal: Journal, series: Series) -> None:
        self._checkout = checkout
        self._journal = journal
        self._series = series
        self._folder = folder_of(checkout, series.topic)

    def publish(self, entries: Snapshot, final: bool) -> Iterator[Change | str]:
        """Write the runs that are missing, and send those that wait. Only when nothing is measured any more."""
        mode = os.environ.get("WANDB_MODE", "")
        wanted = {run.id: run for run in self._wanted(entries)} if final and mode != "disabled" else {}
        if not wanted or not _installed():
            return
        with self._locked():
            run_file.clear(self._folder)
            in_place = runs_in(self._folder)
            yield from self._write([run for id, run in wanted.items() if id not in in_place])
            waiting = [path for id, path in runs_in(self._folder).items() if id in wanted and not is_sent(path)]
            if waiting and mode not in ("offline", "dryrun") and may_have_key():
                yield from self._send(waiting)

    def _wanted(self, entries: Snapshot) -> Iterator[_Wanted]:
        """A trial belongs to the first entry that names it."""
        seen = set()
        for entry in entries.in_order:
            if not is_public(entry.record, self._series):
                continue
            for row in _measured(entry.record):
                if row.trial.sha256 not in seen:
                    seen.add(row.trial.sha256)
                    yield _Wanted(run_id(row.trial.sha256), entry, row)
            if STEP_KINDS[entry.record.step].has_trials:
                yield _Wanted(run_id(entry.sha256), entry, None)

    def _write(self, missing: Sequence[_Wanted]) -> Iterator[Change | str]:
        """Write runs; what was done for each entry, and why others are not in place, each reason once."""
        if not missing:
            return
        place = self._place()
        written: Counter[str] = Counter()
        failed: dict[str, list[_Wanted]] = {}
        for wanted in missing:
            entry = wanted.entry
            try:
                rows = [wanted.row] if wanted.row else _measured(entry.record)
                trials = [self._journal.load("trial", row.trial) for row in rows]
                run = of_trial(trials[0], entry.record, place) if wanted.row else of_entry(entry, trials, place)
                run_file.write(self._folder, run)
            except (StoreError, OSError, ValueError) as error:
                failed.setdefault(getattr(error, "strerror", None) or str(error), []).append(wanted)
            else:
                written[entry.record.id] += 1
        where = self._folder.relative_to(self._checkout.root)
        yield from (Change(entry, f"{_runs(number)} for W&B in {where}") for entry, number in written.items())
        for reason, those in failed.items():
            yield (
                f"{_runs(len(those))} could not be written for W&B, {_name(those[0])} first: {reason}. The records are "
                f"safe in the journal; 'research sync {self._series.topic}' tries again."
            )

    def _place(self) -> Place:
        link = self._journal.decided("issue", IssueLink)
        records = f".agents/logbooks/{self._series.topic}"
        url = self._journal.url
        return Place(
            project=project_of(self._journal, self._series),
            tags=self._series.shared_tags(link.number if link else None),
            # The path of a store on this machine says nothing to anybody else.
            elsewhere=f"the samples are in {records}" + (f" and {redact(url)}" if "://" in url else ""),
        )

    def _send(self, waiting: Sequence[Path]) -> Iterator[Change | str]:
        """Send runs that wait; what was done, and why some still wait."""
        topic = self._series.topic
        with self._journal.leases.of_publisher("wandb") as other:
            if other is not None:
                yield f"Process {other.pid} on {other.host} is sending the runs of {topic} to W&B already."
                return
            try:
                why = send(waiting)
            except OSError as error:
                # Of sending alone: what was written is told all the same.
                why = str(error)
        sent = [path for path in waiting if is_sent(path)]
        left = len(waiting) - len(sent)
        project = next((url.rpartition("/runs/")[0] for path in sent if (url := address_of(path))), "")
        if sent:
            yield Change(topic, f"{_runs(len(sent))} sent to W&B: {project}")
        if left and why != NO_KEY:
            yield (
                f"{_runs(left)} of {topic} did not get to W&B: {why}. They wait in "
                f"{self._folder.relative_to(self._checkout.root)}, and 'research sync {topic}' sends them."
            )

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Holds off other publishers of this work tree. A system error inside is told as a SurfaceError."""
        try:
            self._checkout.private.mkdir(parents=True, exist_ok=True)
            self._folder.mkdir(parents=True, exist_ok=True)
            _ignore(self._folder.parent)
            lock = FileLock(self._checkout.private / f"{self._series.topic}.wandb.lock", timeout=LOCK_WAIT_S)
            with lock.acquire(poll_interval=0.02):
                yield
        except Timeout as error:
            raise SurfaceError(
                f"{self._folder} has been held by another process for {LOCK_WAIT_S:.0f} s (the lock is "
                f"{error.lock_file}): run 'research sync {self._series.topic}' when it is done."
            ) from error
        except OSError as error:
            raise SurfaceError(
                f"{error.filename or self._folder} could not be used: {error.strerror}. No W&B run was written."
            ) from error


def folder_of(checkout: Checkout, topic: str) -> Path:
    return checkout.root / ".agents" / "wandb" / topic


def run_url(checkout: Checkout, topic: str, sha256: str) -> str | None:
    """Where W&B shows the run of a record, None while it was not sent from this checkout."""
    path = runs_in(folder_of(checkout, topic)).get(run_id(sha256))
    return address_of(path) or None if path is not None and is_sent(path) else None


def project_url(checkout: Checkout, topic: str) -> str | None:
    """Where W&B shows the series' project, None while nothing was sent from this checkout."""
    sent = (path for path in runs_in(folder_of(checkout, topic)).values() if is_sent(path))
    return next((url.rpartition("/runs/")[0] for path in sent if (url := address_of(path))), None)


def project_of(journal: Journal, series: Series) -> str:
    """The W&B project of a series, decided for good now if it wasn't. Raises UsageError as `check_project` does."""
    decided = journal.decided("project", Project)
    if decided is not None:
        return decided.name
    wanted = Project(name=_checked(series, _named(journal, series) or series.topic), decided_at=utc())
    return journal.decide("project", wanted).name


def check_project(journal: Journal, series: Series) -> None:
    """Raise UsageError when the series names another project than was decided, or one that W&B would not take."""
    named = _named(journal, series)
    if named is None:
        return
    _checked(series, named)
    decided = journal.decided("project", Project)
    if decided is not None and decided.name != named:
        raise UsageError(
            f"Series {series.topic!r} names the W&B project {named!r}, but {decided.name!r} was decided at "
            f"{decided.decided_at}, and runs can't be moved: name {decided.name!r}, or start a series of another topic."
        )


def _named(journal: Journal, series: Series, below: frozenset[str] = frozenset()) -> str | None:
    """The project that a series asks for by name, or by its parent's; None when it takes its own topic."""
    if series.wandb_project or not series.parent or series.parent in below | {series.topic}:
        return series.wandb_project or None
    parent = Journal(journal.store, series.parent)
    declared = parent.declared()
    if declared is not None and declared.private:
        # Its name reaches no public surface, and nobody may look where its runs would be.
        return None
    decided = parent.decided("project", Project)
    if decided is not None:
        return decided.name
    return (_named(parent, declared, below | {series.topic}) if declared else None) or series.parent


def _checked(series: Series, name: str) -> str:
    """The name itself, once it is known to be one of a W&B project."""
    if not name.strip() or len(name) > LONGEST_PROJECT or any(c in _NOT_IN_PROJECTS for c in name):
        raise UsageError(
            f"Series {series.topic!r} has the W&B project {name[:80]!r}: expected 1 to {LONGEST_PROJECT} characters "
            f"without any of {_NOT_IN_PROJECTS}."
        )
    return name


def _ignore(folder: Path) -> None:
    """Have git see nothing of a folder. Publishers of other series may be at it, too."""
    path = folder / ".gitignore"
    if not path.exists() or path.stat().st_size == 0:
        path.write_bytes(b"*\n")


def _measured(entry: EntryRecord) -> list[Row]:
    """The rows of an entry that have a result: an interrupted trial has none, and is no run."""
    return [row for row in entry.rows if row.status != "interrupted"]


def _name(wanted: _Wanted) -> str:
    return wanted.row.trial.id if wanted.row else wanted.entry.record.id


def _runs(number: int) -> str:
    return f"{number} run{'' if number == 1 else 's'}"


def _installed() -> bool:
    # A folder of this name, which W&B makes wherever it is used, is a package without a file.
    spec = importlib.util.find_spec("wandb")
    return spec is not None and spec.origin is not None
