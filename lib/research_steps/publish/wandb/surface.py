"""The W&B surface: runs made from records, written offline at the end of a run, and sent when there is a key. To a run
that a trial has started itself is added what the one from its record would say, and there is no other one.

A run lies in `research-steps/wandb/<topic>/` of the git directory once it is whole; that is its receipt, and W&B's own
`.synced` beside it is the receipt of sending. There nobody else can bring one: what is sent was written here. W&B itself
runs only in the child process that sends, with bounded time: what it does there, hangs or crashes reaches neither the
driver nor a measurement. Everything here can be deleted and is made again from the journal.
"""

import os
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from research_steps.errors import StoreError, SurfaceError
from research_steps.evidence.visibility import is_public
from research_steps.git import Checkout
from research_steps.journal.journal import Journal
from research_steps.journal.logbook_place import logbook_of
from research_steps.journal.snapshot import Snapshot
from research_steps.journal.wandb_project import is_installed, project_of
from research_steps.publish.lock import locked
from research_steps.publish.publisher import Change
from research_steps.publish.wandb import run_file
from research_steps.publish.wandb.runs import Place, of_entry, of_tracked, of_trial, run_id
from research_steps.publish.wandb.runs_on_disk import address_of, folder_of, is_sent, runs_in
from research_steps.publish.wandb.sync import NO_KEY, may_have_key, send, take_up
from research_steps.records.encoding import Stored
from research_steps.records.model import EntryRecord, Row
from research_steps.records.objects import IssueLink
from research_steps.records.redaction import redact
from research_steps.records.series import Series
from research_steps.records.step_kinds import STEP_KINDS
from research_steps.trial.tracked import files_of
from research_steps.trial.wandb_log import read_run

# A run that there should be: of a row's trial, or of the entry itself; and the files of one that the trial started.
_Wanted = tuple[Stored[EntryRecord], Row | None, Sequence[Path]]


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
        wanted = self._wanted(entries) if final and mode != "disabled" else {}
        if not wanted or not is_installed():
            return
        no_run = " No W&B run was written."
        with locked(self._checkout, f"{self._series.topic}.wandb", self._folder, SurfaceError, no_run):
            yield from self._begin()
            run_file.clear(self._folder)
            take_up(self._folder)
            in_place = runs_in(self._folder)
            wanted = self._with_started(wanted, in_place)
            yield from self._write([run for id, run in wanted.items() if id not in in_place and _is_here(run)])
            waiting = [path for id, path in runs_in(self._folder).items() if id in wanted and not is_sent(path)]
            if waiting and mode not in ("offline", "dryrun") and may_have_key():
                yield from self._send(waiting)

    def _begin(self) -> Iterator[Change]:
        """Make the folder; tells of the one that an older version used, which anybody's commit could hold."""
        before = Path(".agents", "wandb", self._series.topic)
        if not self._folder.exists() and os.path.lexists(self._checkout.root / before):
            told = f"its W&B runs are made again in {self._where}; {before} is not read any more and can be deleted"
            yield Change(self._series.topic, told)
        self._folder.mkdir(parents=True, exist_ok=True)

    @property
    def _where(self) -> Path:
        """The folder as people find it: the git directory of another work tree lies outside of it."""
        root = self._checkout.root
        return self._folder.relative_to(root) if self._folder.is_relative_to(root) else self._folder

    def _wanted(self, entries: Snapshot) -> dict[str, _Wanted]:
        """The runs that there should be, by ID, if no trial started any. A trial belongs to the first entry that names
        it."""
        wanted: dict[str, _Wanted] = {}
        for entry in entries.in_order:
            if is_public(entry.record, self._series):
                for row in _measured(entry.record):
                    wanted.setdefault(run_id(row.trial.sha256), (entry, row, ()))
                if STEP_KINDS[entry.record.step].has_trials:
                    wanted[run_id(entry.sha256)] = entry, None, ()
        return wanted

    def _with_started(self, wanted: dict[str, _Wanted], in_place: Container[str]) -> dict[str, _Wanted]:
        """The same, with the runs that a trial started itself in place of the one from its record. A run that several
        trials have gone on with is the first one's."""
        asked = [row.trial for id, (_, row, _) in wanted.items() if row is not None and id not in in_place]
        trials = self._journal.trials_of(asked, logbook_of(self._checkout, self._series.topic).records).trials
        runs: dict[str, _Wanted] = {}
        for id, (entry, row, _) in wanted.items():
            trial = trials.get(row.trial.sha256) if row is not None else None
            started = files_of(self._journal.store.url, trial.record) if trial is not None else {}
            own: dict[str, _Wanted] = {name: (entry, row, paths) for name, paths in started.items() if name not in runs}
            runs |= own or {id: (entry, row, ())}
        return runs

    def _write(self, missing: Sequence[_Wanted]) -> Iterator[Change | str]:
        """Write runs; what was done for each entry, and why others are not in place, each reason once."""
        if not missing:
            return
        place = self._place()
        written: Counter[str] = Counter()
        failed: dict[str, list[str]] = {}
        for entry, row, files in missing:
            try:
                rows = [row] if row else _measured(entry.record)
                trials = [self._journal.load("trial", row.trial) for row in rows]
                run = of_trial(trials[0], entry.record, place) if row else of_entry(entry, trials, place)
                run = of_tracked(run, read_run(files)) if files else run
                run_file.write(self._folder, run)
            except (StoreError, SurfaceError, OSError, ValueError) as error:
                id = row.trial.id if row else entry.record.id
                failed.setdefault(getattr(error, "strerror", None) or str(error), []).append(id)
            else:
                written[entry.record.id] += 1
        yield from (Change(entry, f"{_runs(number)} for W&B in {self._where}") for entry, number in written.items())
        for reason, ids in failed.items():
            yield (
                f"{_runs(len(ids))} could not be written for W&B, {ids[0]} first: {reason}. The records are "
                f"safe in the journal; 'research sync {self._series.topic}' tries again."
            )

    def _place(self) -> Place:
        link = self._journal.decided("issue", IssueLink)
        place = logbook_of(self._checkout, self._series.topic)
        records = place.name.removesuffix(".md") if place.kind != "none" else "sealed tags"
        url = self._journal.url
        return Place(
            series=self._series,
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
        if sent:
            yield Change(topic, f"{_runs(len(sent))} sent to W&B: {_project(sent)}")
        if left and why != NO_KEY:
            yield (
                f"{_runs(left)} of {topic} did not get to W&B: {why}. They wait in {self._where}, and 'research sync "
                f"{topic}' sends them."
            )


def url_of(checkout: Checkout, topic: str, sha256: str = "") -> str:
    """Where W&B shows the run of a record, else the series' project; empty while nothing was sent from this checkout."""
    paths = runs_in(folder_of(checkout, topic))
    path = paths.get(run_id(sha256))
    return (address_of(path) if path else "") or _project(paths.values())


def _project(paths: Iterable[Path]) -> str:
    return next((address.rpartition("/runs/")[0] for path in paths if (address := address_of(path))), "")


def _measured(entry: EntryRecord) -> list[Row]:
    """The rows of an entry that have a result: an interrupted trial has none, and is no run."""
    return [row for row in entry.rows if row.status != "interrupted"]


def _is_here(wanted: _Wanted) -> bool:
    """Whether what a run is made of is here. One that a trial started on another machine is not written again: it lies
    there, or W&B has it, with the series' names. What another user has put there is not sent by this one."""
    with suppress(OSError):
        return all(path.lstat().st_uid == os.getuid() for path in wanted[2])
    return False


def _runs(number: int) -> str:
    return f"{number} run{'' if number == 1 else 's'}"
