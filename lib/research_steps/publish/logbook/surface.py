"""The logbook surface: entries appended to the logbook of a series, wherever that lies, their records beside it.

For each entry first its records are made to last in `<topic>/<ID>.jsonl`, then the entry is appended. A publisher that
is killed in between leaves a records file that the next one finds. `<topic>/series.json` is the series itself, and
`<topic>/forest.svg` what is claimed now, made anew with the summary. One publisher at a time for each work tree, by a
lock in its git directory; what is already there is told by the logbook's own markers.
"""

import json
import re
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
from research_steps.journal.logbook_place import LogbookPlace, logbook_of, named, settle
from research_steps.journal.snapshot import Snapshot, numbered_order
from research_steps.publish import rendering
from research_steps.publish.forest import FOREST, forest
from research_steps.publish.logbook import format as logbook_format
from research_steps.publish.logbook.file import LogbookFile, lock, refuse_sparse
from research_steps.publish.logbook.restoring import restore
from research_steps.publish.markdown import prose
from research_steps.publish.publisher import Change
from research_steps.records.encoding import Stored, sha256
from research_steps.records.model import EntryRecord, TrialRecord
from research_steps.records.objects import IssueLink, Seal
from research_steps.records.series import HERE, Series
from research_steps.records.step_kinds import Attachment
from research_steps.terminal import visible

SUMMARY_EVERY_S = 60.0


# What lies in the folder of a series is named like this.
_PUBLISHED = (series_file.NAME, "X.jsonl", "X.patch", "X.csv", "X.md", "X.svg", "attachments/X.csv")
_TRACKED = b"# What is published here is tracked, whatever else this repository ignores.\n!*\n.*.tmp\n"


class LogbookSurface:
    """The logbook of one series, as one checkout knows it."""

    def __init__(self, checkout: Checkout, journal: Journal, series: Series) -> None:
        self.series = series
        self.journal = journal
        self._declared = series_file.published(series)
        self._checkout = checkout
        self._take(logbook_of(checkout, series.topic))
        self._rewritten = float("-inf")
        self._stale, self._is_tracked = True, False
        # What the last pass found missing, and how many entries it looked at.
        self._waiting: dict[str, Stored[EntryRecord]] = {}
        self._seen = 0

    def publish(self, entries: Snapshot, final: bool) -> Iterator[Change | str]:
        """Append what the logbook does not hold yet, in the order in which it was finished."""
        if why := self._not_begun():
            yield why
            return
        with lock(self.place):
            if self.series.private:
                name = re.sub(r"([\\*?\[])", r"\\\1", self.place.name.removesuffix(".md"))
                self.place.checkout.exclude(f"/{name}.md", f"/{name}/")
            if not is_there(self.path) or self.path.stat().st_size == 0:
                refuse_sparse(self.place)
                write_aside(self.path, self._last_staged() or self._scaffold(entries))
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
                yield from restore(self.place, self.journal, entries, self._file.records, self._keep_records)
            if self._stale and (final or time.monotonic() - self._rewritten >= SUMMARY_EVERY_S):
                self._rewrite_summary(entries)

    def _take(self, place: LogbookPlace) -> None:
        self.place, self.path, self.records = place, place.path, place.records
        self._file = LogbookFile(place)

    def _not_begun(self) -> str:
        """What is to be done before the logbook can be written at all; empty where nothing is."""
        topic, declared = self.series.topic, self.series.logbook
        if self.place.kind == "here" and declared is None:
            # That names no place, so the store may say it.
            settle(self._checkout, self.series)
            self._take(logbook_of(self._checkout, topic))
        elif self.place.kind == "here" and declared != HERE:
            return (
                f"The thread of {topic} keeps its logbook in {declared}, which nobody has said here: run the thread, or "
                f"'research sync {topic} --logbook FOLDER'. Its records are safe in the journal."
            )
        if self.place.kind == "elsewhere":
            link = self.journal.decided("issue", IssueLink)
            place = named(self._checkout, topic, link.number if link else 0 if self.series.private else None)
            if place is None:
                return (
                    f"The logbook of {topic} in {self.path.parent} is named after its issue, and none is linked: "
                    f"'research sync {topic} --issue NUMBER' does that. Its records are safe in the journal until then."
                )
            if place != self.place:
                self._take(place)
            # Raises where somebody else's series lies there.
            series_file.read_published(self.records, topic)
        return ""

    def _have_tracked(self) -> Iterator[str]:
        """See to it that git tracks what is published here, whatever else the repository ignores."""
        self._is_tracked = True
        published = [self.path, *(self.records / name for name in _PUBLISHED)]
        if self.series.private or not self.place.checkout.ignores(*published):
            return
        # In a folder of ours, and before what people ignore there.
        path = (self.path.parent if self.place.kind == "here" else self.records) / ".gitignore"
        theirs = read(path) or b""
        if _TRACKED not in theirs:
            write_aside(path, _TRACKED + theirs)
        if self.place.checkout.ignores(*published):
            yield (
                f"git ignores {self.path.parent.relative_to(self.place.checkout.root)} as a whole, so nobody else gets "
                "what is recorded here: take it out of the .gitignore above it ('git check-ignore -v' names the rule)"
            )

    def _last_staged(self) -> bytes:
        """The logbook that git would commit, for one that was removed or emptied in the work tree: beside what is in the
        store it has what people wrote, and the entries of others."""
        if self.place.checkout.git_dir is None:
            return b""
        staged = self.place.checkout.file_at("", self.place.name)
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
        style = rendering.OF_LOGBOOKS if self.place.kind == "elsewhere" else rendering.TEMPLATE
        text = rendering.entry(record, self.series, seal, trials, self.place.beside, style)
        self._file.append(record.id, entry.sha256, text)
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

    def _scaffold(self, entries: Snapshot) -> bytes:
        """A new logbook: front matter, Scope, the summary, and the log without entries. In another checkout its head
        says what that asks for, too."""
        series, matter = self.series, {"topic": self.series.topic}
        if self.place.kind == "elsewhere":
            issue = self.journal.decided("issue", IssueLink)
            author = next((entry.record.provenance.actor.name for entry in entries.in_order), "")
            matter["issue"] = str(issue.number) if issue else "none"
            matter |= {"description": _quoted(series.goal), "author": _quoted(author)}
        matter |= {"prefix": series.prefix, "tags": _quoted(list(series.shared_tags(None)))}
        metrics = ", ".join(f"{metric.name} ({metric.direction})" for metric in series.metrics if not metric.budget)
        lines = [
            logbook_format.front_matter(**matter),
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
        nothing = summary(series, Snapshot(), (), None, self.place.beside)
        return "\n".join(lines).encode() + logbook_format.log_part(nothing, logbook_format.HEADINGS[0])

    def _rewrite_summary(self, entries: Snapshot) -> None:
        # What was published from other stores is in git, and holds as well.
        published = self.journal.with_trials(self.records, entries)
        issue = self.journal.decided("issue", IssueLink)
        state = _state(self.series, published, self._file.records)
        drawn = forest(state).encode()
        # The summary shows it, so it comes first.
        if drawn and read(self.records / FOREST) != drawn:
            write_aside(self.records / FOREST, drawn)
        self._file.replace_summary(rendering.summary(state, issue, self.place.beside))
        self._rewritten, self._stale = time.monotonic(), False


def summary(series: Series, entries: Snapshot, shown: Container[str], issue: IssueLink | None, beside: str) -> str:
    """The summary of a logbook that shows the entries with these hashes; `beside` is how links lead to their records."""
    return rendering.summary(_state(series, entries, shown), issue, beside)


def _state(series: Series, entries: Snapshot, shown: Container[str]) -> ThreadState:
    return thread_state(series, entries.only(lambda entry: entry.sha256 in shown))


def _quoted(value: str | list[str]) -> str:
    """As YAML spells it in quotes, too."""
    return visible(json.dumps(value, ensure_ascii=False))


def _lines(path: Path) -> list[bytes]:
    return (read(path) or b"").splitlines()
