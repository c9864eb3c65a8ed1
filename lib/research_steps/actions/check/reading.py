"""What the checklists are held against, read once: the store, the checkout and git. And a line of a checklist.

What was retracted is left out, because no entry can be changed: a bad one is measured again and retracted.
"""

from collections.abc import Sequence, Sized
from dataclasses import dataclass
from functools import cached_property

import msgspec

from research_steps.evidence.standing import standing
from research_steps.git import Checkout
from research_steps.journal.journal import Journal
from research_steps.journal.snapshot import Snapshot, retracted
from research_steps.publish.issue.local_file import IssueFile
from research_steps.publish.logbook import format as logbook_format
from research_steps.publish.logbook.surface import path_of
from research_steps.publish.surface import is_public
from research_steps.records.encoding import Stored
from research_steps.records.model import Claim, EntryRecord
from research_steps.records.objects import IssueLink, Posting, Seal
from research_steps.records.series import Series

NAMED = 3
AGAIN = "'research retract' the entry and measure it again"

Entry = Stored[EntryRecord]


@dataclass(frozen=True)
class CheckLine:
    """One line of a checklist: what was found and, where that is not `ok`, how to mend it."""

    group: str
    name: str
    ok: bool
    found: str
    mend: str


@dataclass(frozen=True)
class Facts:
    """What was read.

    `entries` stand and are not retracted, oldest first. `shown` are the records that the logbook shows, `sealed` those
    below one of the `seals`, `tags` git's own with their commits. `issue_file` is the body of the embedded issue,
    `markers` are those of its comments.
    """

    checkout: Checkout
    journal: Journal
    series: Series
    found: Snapshot
    logbook: bytes
    shown: set[str]
    entries: Sequence[Entry]
    seals: Sequence[Entry]
    sealed: set[str]
    tags: dict[str, str]
    issue: IssueLink | None
    issue_file: str
    markers: frozenset[str]

    @property
    def topic(self) -> str:
        return self.series.topic

    @property
    def measured(self) -> list[Entry]:
        return [stored for stored in self.entries if stored.record.rows]

    @cached_property
    def public(self) -> list[Entry]:
        """What others are to see by now: a seal waits for its tag."""
        waiting = {stored.sha256 for stored in self.of_step("seal")} - {stored.sha256 for stored in self.seals}
        return [s for s in self.entries if is_public(s.record, self.series) and s.sha256 not in waiting]

    @cached_property
    def claims(self) -> list[Claim]:
        """What counts now."""
        return standing([stored.record for stored in self.entries])

    @property
    def milestones(self) -> list[Entry]:
        return [stored for stored in self.public if stored.record.step in self.series.milestones]

    @property
    def finish(self) -> Entry | None:
        return next(reversed(self.of_step("finish")), None)

    def of_step(self, kind: str) -> list[Entry]:
        return [stored for stored in self.entries if stored.record.step == kind]


def read(checkout: Checkout, journal: Journal, series: Series) -> Facts:
    """Everything that the checklists are held against. Raises ResearchError where it can't be read."""
    path = path_of(checkout, series.topic)
    logbook = path.read_bytes() if path.is_file() else b""
    shown = logbook_format.parse(logbook).records
    found = journal.scan(path.with_suffix(""))
    # A record that somebody changed in its file is told as such, and is no entry of its own.
    held = journal.entries().entries.keys() | shown
    entries = [stored for sha, stored in found.entries.items() if sha in held and not stored.record.late]
    entries.sort(key=lambda stored: (stored.record.finished_at, stored.record.id))
    gone = retracted(entries)
    entries = [stored for stored in entries if stored.sha256 not in gone]
    # The entry of a seal is shown once it has its tag; so one in the logbook was sealed, perhaps with another store.
    seals = [
        stored
        for stored in entries
        if stored.record.step == "seal" and (stored.sha256 in shown or seal_of(journal, stored) is not None)
    ]
    issue = IssueFile(checkout, series.topic)
    return Facts(
        checkout=checkout,
        journal=journal,
        series=series,
        found=found,
        logbook=logbook,
        shown=shown,
        entries=entries,
        seals=seals,
        sealed={below.sha256 for seal in seals for below in found.below(seal)},
        tags=checkout.tags(series.topic),
        issue=journal.decided("issue", IssueLink),
        issue_file=issue.body(),
        markers=frozenset(comment.marker for comment in issue.comments()),
    )


def line(group: str, name: str, asked: Sized, wrong: Sequence[str], mend: str) -> CheckLine:
    """A line about all that was `asked` about, of which `wrong` names what fails it."""
    more = f" and {len(wrong) - NAMED} more" if len(wrong) > NAMED else ""
    good = f"{len(asked)} checked" if len(asked) else "nothing to check yet"
    return CheckLine(group, name, not wrong, f"{len(wrong)}: {'; '.join(wrong[:NAMED])}{more}" if wrong else good, mend)


def is_posted(known: Facts, stored: Entry) -> bool:
    """Whether the issue was given the comment of an entry; if people deleted it since, it stays away."""
    place = known.issue.number if known.issue else "file"
    posting = known.journal.noted(f"postings/{place}-record-{stored.sha256}", Posting)
    posted = posting is not None and posting.comment is not msgspec.UNSET
    return posted or (known.issue is None and f"record {stored.sha256}" in known.markers)


def seal_of(journal: Journal, stored: Entry) -> Seal | None:
    return journal.decided(f"seals/{stored.record.id}", Seal)
