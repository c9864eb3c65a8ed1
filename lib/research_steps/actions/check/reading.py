"""What the checklists are held against, and a line of one.

What was retracted is left out, because no entry can be changed: a bad one is measured again and retracted.
"""

from collections.abc import Sequence, Sized
from dataclasses import dataclass

import msgspec

from research_steps.evidence.founded import founded
from research_steps.evidence.standing import standing
from research_steps.evidence.visibility import is_public
from research_steps.files import is_there
from research_steps.git import Checkout
from research_steps.journal.journal import Journal
from research_steps.journal.logbook_place import logbook_of
from research_steps.publish.issue.local_file import IssueFile
from research_steps.publish.logbook.verify import Files, read
from research_steps.records.encoding import Stored
from research_steps.records.model import EntryRecord
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


class CheckedThread:
    """A thread as store, checkout and git hold it, read once. Raises ResearchError where it can't be read.

    `shown` are the records that the logbook shows, `entries` those that stand and are not retracted, oldest first. Of
    them `seals` have their tag and `waiting` have none yet, `sealed` are below one that has, by hash, and `public` is
    what others see by now.
    """

    def __init__(self, checkout: Checkout, journal: Journal, series: Series) -> None:
        self.checkout, self.journal, self.series, self.topic = checkout, journal, series, series.topic
        self.place = logbook_of(checkout, self.topic)
        self.files = read(checkout, self.topic) if is_there(self.place.path) else Files(self.topic, b"", {})
        self.shown = self.files.contents.records
        self.snapshot = journal.scan(self.place.records)
        # What another store holds is posted from there.
        self.in_store = journal.entries().entries.keys()
        # A record that somebody changed in its file is told as such, and is no entry of its own.
        known = self.in_store | self.shown
        self.entries = self.snapshot.only(lambda stored: stored.sha256 in known).counting
        self.measured = [stored for stored in self.entries if stored.record.rows]
        self.claims = standing(stored.record for stored in founded(self.snapshot, self.entries)[0])
        # The entry of a seal is shown once it has its tag; so one in the logbook was sealed, perhaps with another store.
        asked = self.of_step("seal")
        self.seals = [stored for stored in asked if stored.sha256 in self.shown or self.seal_of(stored) is not None]
        self.waiting = [stored for stored in asked if stored not in self.seals]
        self.sealed = {below.sha256 for seal in self.seals for below in self.snapshot.below(seal)}
        public = (stored for stored in self.entries if is_public(stored.record, series))
        self.public = [stored for stored in public if stored not in self.waiting]
        self.running = [attempt.intent.id for attempt in self.snapshot.open if not attempt.orphaned()]
        self.finish = next(reversed(self.of_step("finish")), None)
        self.tags = checkout.tags(self.topic)
        self.issue = journal.decided("issue", IssueLink)
        self.issue_file = IssueFile(checkout, self.topic)

    def of_step(self, kind: str) -> list[Entry]:
        return [stored for stored in self.entries if stored.record.step == kind]

    def succeeded(self, kind: str) -> list[Entry]:
        return [stored for stored in self.of_step(kind) if stored.record.status == "ok"]

    def seal_of(self, stored: Entry) -> Seal | None:
        return self.journal.decided(f"seals/{stored.record.id}", Seal)

    def is_posted(self, stored: Entry) -> bool:
        """Whether the issue has the comment of an entry; on GitHub, whether it was given it: what people delete there
        stays away."""
        if self.issue is None:
            return any(comment.marker == f"record {stored.sha256}" for comment in self.issue_file.comments())
        posting = self.journal.noted(f"postings/{self.issue.number}-record-{stored.sha256}", Posting)
        return posting is not None and posting.comment is not msgspec.UNSET


def line(group: str, name: str, asked: Sized, wrong: Sequence[str], mend: str) -> CheckLine:
    """A line about all that was `asked` about, of which `wrong` names what fails it."""
    more = f" and {len(wrong) - NAMED} more" if len(wrong) > NAMED else ""
    good = f"{len(asked)} checked" if len(asked) else "nothing to check yet"
    return CheckLine(group, name, not wrong, f"{len(wrong)}: {'; '.join(wrong[:NAMED])}{more}" if wrong else good, mend)
