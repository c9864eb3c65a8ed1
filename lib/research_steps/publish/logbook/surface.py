"""The logbook surface: entries appended to `.agents/logbooks/<topic>.md`, their records beside it in git.

For each entry first its records are made to last in `<topic>/<ID>.jsonl`, then the entry is appended. A publisher that
is killed in between leaves a records file that the next one finds. `<topic>/series.json` is the series itself, and
`<topic>/forest.svg` what is claimed now, made anew with the summary. One publisher at a time for each work tree, by a
lock in its git directory; what is already there is told by the logbook's own markers.
"""

import json
import time
from collections.abc import Container, Iterator
from itertools import islice
from pathlib import Path

from research_steps.errors import StoreError
from research_steps.evidence.state import ThreadState, thread_state
from research_steps.evidence.visibility import belongs_in_logbook
from research_steps.files import is_there, read, write_aside
from research_steps.git import Checkout
from research_steps.journal import series_file
from research_steps.journal.journal import Journal
from research_steps.journal.snapshot import Snapshot, numbered_order
from research_steps.publish import rendering
from research_steps.publish.forest import FOREST, forest
from research_steps.publish.logbook import format as logbook_format
from research_steps.publish.logbook.file import LogbookFile, lock, path_of, refuse_sparse
from research_steps.publish.logbook.restoring import restore
from research_steps.publish.markdown import prose
from research_steps.publish.publisher import Change
from research_steps.records.encoding import Stored, sha256
from research_steps.records.model import EntryRecord, TrialRecord
from research_steps.records.objects import IssueLink, Seal
from research_steps.records.series import Series
from research_steps.records.step_kinds import Attachment
from research_steps.terminal import visible

SUMMARY_EVERY_S = 60.0


# What lies in the folder of a series is named like this.
_PUBLISHED = (series_file.NAME, "X.jsonl", "X.patch", "X.csv", "X.md", "X.svg", "attachments/X.csv")
_TRACKED = b"# What is published here is tracked, whatever else this repository ignores.\n!*\n.*.tmp\n"


class LogbookSurface:
    """One series' logbook in one checkout."""

    def __init__(self, checkout: Checkout, journal: Journal, series: Series) -> None:
        self.series = series
        self.journal = journal
        self.path = path_of(checkout, series.topic)
        self.records = self.path.with_suffix("")
        self._declared = series_file.published(series)
        self._checkout = checkout
        self._file = LogbookFile(self.path)
        self._rewritten = float("-inf")
        self._stale, self._is_tracked = True, False
        # What the last pass found missing, and how many entries it looked at.
        self._waiting: dict[str, Stored[EntryRecord]] = {}
        self._seen = 0

    def publish(self, entries: Snapshot, final: bool) -> Iterator[Change | str]:
        """Append what the logbook does not hold yet, in the order in which it was finished."""
        with lock(self._checkout, self.series.topic):
            if self.series.private:
                self._checkout.exclude(
                    f"/.agents/logbooks/{self.series.topic}.md", f"/.agents/logbooks/{self.series.topic}/"
                )
            if not is_there(self.path) or self.path.stat().st_size == 0:
                refuse_sparse(self._checkout, self.series.topic)
                write_aside(self.path, self._last_staged() or _scaffold(self.series))
            if read(self.records / series_file.NAME) != self._declared:
                write_aside(self.records / series_file.NAME, self._declared)
            if not self._is_tracked:
                yield from self._have_tracked()
            if self._file.refresh():
                self._waiting, self._seen = {}, 0
            for stored in self._missing(entries):
                try:
                    if self._append(stored):
                        yield Change(stored.record.id, "appended to the logbook")
                except StoreError as error:
                    yield f"{stored.record.id} is not published: {error}"
            if final:
                yield from restore(
                    self._checkout, self.journal, self.path, entries, self._file.records, self._keep_records
                )
            if self._stale and (final or time.monotonic() - self._rewritten >= SUMMARY_EVERY_S):
                self._rewrite_summary(entries)

    def _have_tracked(self) -> Iterator[str]:
        """See to it that git tracks what is published here, whatever else the repository ignores."""
        self._is_tracked = True
        published = [self.path, *(self.records / name for name in _PUBLISHED)]
        if self.series.private or not self._checkout.ignores(*published):
            return
        write_aside(self.path.parent / ".gitignore", _TRACKED)
        if self._checkout.ignores(*published):
            yield (
                f"git ignores {self.path.parent.relative_to(self._checkout.root)} as a whole, so nobody else gets what "
                "is recorded here: take it out of the .gitignore above it ('git check-ignore -v' names the rule)"
            )

    def _last_staged(self) -> bytes:
        """The logbook that git would commit, for one that was removed or emptied in the work tree: beside what is in the
        store it has what people wrote, and the entries of others."""
        if self._checkout.git_dir is None:
            return b""
        staged = self._checkout.file_at("", self.path.relative_to(self._checkout.root).as_posix())
        return staged if logbook_format.is_ours(staged) else b""

    def _missing(self, entries: Snapshot) -> list[Stored[EntryRecord]]:
        """What the logbook does not hold yet, in the order in which it is to be appended."""
        # A journal's new entries stand at the end, so a pass looks only at those and at what waited before.
        new = list(islice(reversed(entries.entries.items()), max(0, len(entries.entries) - self._seen)))
        self._seen = len(entries.entries)
        self._waiting |= {sha: entry for sha, entry in new if belongs_in_logbook(entry.record, self.series)}
        self._waiting = {sha: entry for sha, entry in self._waiting.items() if sha not in self._file.records}
        # What a killed publisher began comes first: it can be finished only while nothing follows it.
        missing = numbered_order(self._waiting.values())
        return sorted(missing, key=lambda entry: entry.record.id != self._file.unfinished)

    def _append(self, entry: Stored[EntryRecord]) -> bool:
        record = entry.record
        seal = self.journal.decided(f"seals/{record.id}", Seal) if record.step == "seal" else None
        if record.step == "seal" and seal is None:
            # Its entry names the tag, so it waits for it; what holds the tag up is told by who makes it.
            return False
        self._keep_records(entry)
        trials = self.journal.trials_of((row.trial for row in record.rows), self.records)
        self._file.append(record.id, entry.sha256, rendering.entry(record, self.series, seal, trials.samples))
        self._stale = True
        return True

    def _keep_records(self, entry: Stored[EntryRecord]) -> None:
        record = entry.record
        owners = {row.trial.id.partition(".")[0] for row in record.rows} - {record.id}
        elsewhere = {sha256(line) for owner in owners for line in _lines(self.records / f"{owner}.jsonl")}
        trials = [row.trial for row in record.rows if row.trial.sha256 not in elsewhere]
        path = self.records / f"{record.id}.jsonl"
        present = _lines(path)
        measured = [self.journal.load("trial", trial) for trial in trials]
        wanted = [entry.line, *(trial.line for trial in measured)]
        if not set(wanted) <= set(present):
            write_aside(path, b"".join(line + b"\n" for line in dict.fromkeys([*present, *wanted])))
        patches = {record.provenance.patch} if record.provenance.patch is not None else set()
        versions = [trial.record.ran for trial in measured if isinstance(trial.record, TrialRecord)]
        patches |= {patch for sides in versions for _, patch in sides if patch is not None}
        for sha in sorted(patches):
            path = self.records / f"{sha}.patch"
            if not is_there(path) and (patch := self.journal.patch(sha)) is not None:
                write_aside(path, patch)
        if isinstance(record.details, Attachment) and record.details.file:
            self._keep_attachment(record.details)

    def _keep_attachment(self, attached: Attachment) -> None:
        path = self.records / "attachments" / attached.file
        if is_there(path):
            return
        data = self.journal.attachment(attached.file, attached.sha256)
        if data is None:
            raise StoreError(f"the file {attached.file!r} that it attaches is not in the store. Attach it again.")
        write_aside(path, data)

    def _rewrite_summary(self, entries: Snapshot) -> None:
        # What was published from other stores is in git, and holds as well.
        published = self.journal.with_trials(self.records, entries)
        issue = self.journal.decided("issue", IssueLink)
        state = _state(self.series, published, self._file.records)
        drawn = forest(state).encode()
        # The summary shows it, so it comes first.
        if drawn and read(self.records / FOREST) != drawn:
            write_aside(self.records / FOREST, drawn)
        self._file.replace_summary(rendering.summary(state, issue))
        self._rewritten, self._stale = time.monotonic(), False


def summary(series: Series, entries: Snapshot, shown: Container[str], issue: IssueLink | None) -> str:
    """The summary of a logbook that shows the entries with these hashes."""
    return rendering.summary(_state(series, entries, shown), issue)


def _state(series: Series, entries: Snapshot, shown: Container[str]) -> ThreadState:
    return thread_state(series, entries.only(lambda entry: entry.sha256 in shown))


def _lines(path: Path) -> list[bytes]:
    return (read(path) or b"").splitlines()


def _scaffold(series: Series) -> bytes:
    """A new logbook for a series: front matter, Scope, the summary, and the log without entries."""
    metrics = ", ".join(f"{metric.name} ({metric.direction})" for metric in series.metrics)
    # As YAML spells it in quotes, too.
    tags = visible(json.dumps(list(series.shared_tags(None)), ensure_ascii=False))
    lines = [
        logbook_format.front_matter(topic=series.topic, prefix=series.prefix, tags=tags),
        f"# {series.topic}: Research Logbook",
        "",
        "## Scope",
        f"- Goal: {prose(series.goal)}",
        f"- Primary metric(s): {prose(metrics)}",
        f"- Constraints: {prose(series.constraints) or '–'}",
        f"- Stop criteria: {prose(series.stop) or '–'}",
        "",
        "",
    ]
    return "\n".join(lines).encode() + logbook_format.log_part(
        summary(series, Snapshot(), (), None), logbook_format.HEADINGS[0]
    )
