"""The issue surface: milestones as comments, the managed sections of the body, the heartbeat, and the end.

Each milestone has one comment, named by its record's hash in the first line. Before every try to post it the comments
are looked at, and it counts as posted once they show it; so whatever was lost, killed or done twice, the issue converges
to one comment a record, in the order in which they were recorded. Of two that slipped through, the later one is deleted.
Its second line names the link of the record's entry in the logbook, where nobody can change it together with the file.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec

from research_steps.errors import StoreError, SurfaceAway, SurfaceError, SurfaceRefused, UnreadableObject
from research_steps.evidence.state import thread_state
from research_steps.evidence.visibility import is_public
from research_steps.files import read, write_aside
from research_steps.git import Checkout
from research_steps.journal.journal import Journal
from research_steps.journal.leases import machine, this_process
from research_steps.journal.logbook_place import logbook_of
from research_steps.journal.snapshot import Snapshot
from research_steps.publish.issue import heartbeat as issue_heartbeat
from research_steps.publish.issue import text as issue_text
from research_steps.publish.issue.comment import Comment, chained, marked
from research_steps.publish.issue.github import DEADLINE_S, SETTLE_S, Clock, GitHub
from research_steps.publish.issue.github_issue import GitHubIssue
from research_steps.publish.issue.linked_issue import linked_issue, unsaid
from research_steps.publish.issue.links import Links
from research_steps.publish.issue.local_file import IssueFile
from research_steps.publish.logbook import format as logbook_format
from research_steps.publish.publisher import Change
from research_steps.records.encoding import Stored
from research_steps.records.model import EntryRecord, Owner
from research_steps.records.objects import Closed, IssueLink, Posting, Seal
from research_steps.records.series import Series
from research_steps.records.times import parse_utc, utc
from research_steps.trial.provenance import current_actor

# How long one pass goes on trying, and the longest wait that it takes on itself (seconds).
PATIENCE_S = 20.0
# After a pass that failed, the next ones come at growing distances (seconds).
BACK_OFF_S = (5.0, 600.0)
# GitHub lifts a limit after an hour at most (seconds).
LONGEST_LIMIT_S = 3600.0
# How long a command waits for others that write on the same issue, and how often it looks (seconds).
TURN_S, TURN_EVERY_S = 120.0, 0.5
BODY_EVERY_S = 60.0
BEAT_EVERY_S = 60.0
# GitHub's status for a text that it never takes.
UNPROCESSABLE = 422
T = TypeVar("T")
Tracker = GitHubIssue | IssueFile
_Entries = Sequence[Stored[EntryRecord]]


class IssueSurface:
    """One series' issue, on GitHub when one is linked, else in the checkout.

    `runs` tells where W&B shows the run of the record with a hash, or else the project, once it was sent.
    """

    def __init__(
        self,
        checkout: Checkout,
        journal: Journal,
        series: Series,
        runs: Callable[[str], str],
        clock: Clock | None = None,
    ) -> None:
        self._checkout = checkout
        self._journal = journal
        self._series = series
        self._runs = runs
        self._clock = clock or Clock()
        self._records = logbook_of(checkout, series.topic).records
        self._failures = 0
        self._beat_due = 0.0
        self._begin(IssueFile(checkout, series.topic), None)

    def _begin(self, tracker: Tracker, link: IssueLink | None) -> None:
        """Publish there from now on; what it shows is not known yet."""
        self._tracker, self._link = tracker, link
        self._shown: set[str] = set()
        # How many entries the body tells of.
        self._in_body = 0
        self._body_due = self._not_before = 0.0
        # Whether two publishers, or a try of unknown outcome, may have left a comment twice; until when it may come.
        self._untidy, self._doubtful_until = True, 0.0
        # What was posted and not seen there yet: its name in the journal, by marker.
        self._unseen: dict[str, tuple[str, Posting]] = {}

    def publish(self, entries: Snapshot, final: bool) -> Iterator[Change | str]:
        """Post what is not shown yet, oldest first. Whatever GitHub answers, what is left waits for the next pass."""
        if self._series.private:
            return
        if self._link is None:
            # A link may be made while the thread runs.
            link = linked_issue(self._checkout, self._journal)
            why = unsaid(self._checkout, self._series.topic, link)
            yield from [why] if why else []
            if link is not None:
                if why:
                    return
                self._begin(GitHubIssue(GitHub(link.repository, self._clock), self._journal, link), link)
        if isinstance(self._tracker, IssueFile):
            self._shown = _shown_in(self._tracker)
        name, entries = self._tracker.name, self._known(entries, final)
        public, waiting = self._public(entries)
        beat = self._heartbeat(public, final)
        if not (waiting or beat or self._body_changed(public, final) or self._unclosed(public)):
            return
        not_before = max(self._not_before, self._limited_until())
        left_s = not_before - self._clock.monotonic()
        if left_s > 0:
            until = utc(self._now() + timedelta(seconds=left_s))
            left = f"{len(waiting)} milestones wait" if waiting else "the issue is not up to date"
            yield f"{name} is tried again after {until}; {left}."
            return
        with self._turn(final) as other:
            if other is None:
                # While it waited for its turn others recorded more, and the body tells of all that there is.
                yield from self._update(self._known(self._journal.entries(), final) if final else entries, beat, final)
            elif final:
                yield f"{name} is being written to by process {other.pid} on {other.host}."

    def _known(self, entries: Snapshot, final: bool) -> Snapshot:
        """The entries that are to be shown. Git carries what other stores posted in the file, too, and may have taken it
        away."""
        is_whole = not isinstance(self._tracker, IssueFile) or (self._shown and not final)
        if is_whole or not (final or self._public(entries)[1]):
            return entries
        return self._journal.published(self._records, entries)

    def _public(self, entries: Snapshot) -> tuple[_Entries, _Entries]:
        """The entries that may be shown, and those of them that wait for their comment."""
        public = [stored for stored in entries.in_order if is_public(stored.record, self._series)]
        return public, [stored for stored in public if self._waits(stored)]

    @contextmanager
    def _turn(self, final: bool) -> Iterator[Owner | None]:
        """As the tracker's; the last pass of a run waits for it."""
        until = self._clock.monotonic() + (TURN_S if final else 0.0)
        while True:
            with self._tracker.turn() as other:
                if other is None or self._clock.monotonic() >= until:
                    yield other
                    return
            self._clock.sleep(TURN_EVERY_S)

    def _update(self, entries: Snapshot, beat: tuple[str, str] | None, final: bool) -> Iterator[Change | str]:
        name = self._tracker.name
        public, waiting = self._public(entries)
        try:
            for stored in waiting:
                try:
                    if self._post_once(_marker(stored), partial(self._comment, stored, public, entries)):
                        yield Change(stored.record.id, f"posted on {name}")
                except SurfaceRefused as error:
                    if (error.verb, error.status) != ("POST", UNPROCESSABLE):
                        raise
                    # It is about this text, and no reason to hold back another one.
                    yield f"{stored.record.id} is not on {name}, and later milestones are: {error}"
            if isinstance(self._tracker, IssueFile):
                # What was posted late stands where it belongs; on GitHub it can't.
                self._tracker.arrange([_marker(stored) for stored in public])
            if beat is not None and self._post_once(beat[0], lambda: beat[1]):
                yield Change(self._series.topic, f"heartbeat posted on {name}")
            if self._untidy or self._unseen or final:
                if final and (left := self._doubtful_until - self._clock.monotonic()) > 0:
                    # Nobody may come after this pass.
                    self._clock.sleep(left)
                self._retrying(self._tidy)
                self._untidy = False
            if isinstance(self._tracker, GitHubIssue) and (finish := self._unclosed(public)) is not None:
                self._retrying(self._tracker.close)
                self._journal.decide(f"closed/{finish.sha256}", Closed(closed_at=utc()))
                yield Change(self._series.topic, f"closed {name}")
            if self._body_changed(public, final):
                self._write_body(entries, public)
            self._failures = 0
        except (SurfaceError, StoreError) as error:
            self._untidy = True
            self._failures += 1
            self._shown -= self._unseen.keys()
            self._unseen.clear()
            wait = error.after_s if isinstance(error, SurfaceAway) else 0.0
            if wait:
                self._limit(self._clock.monotonic() + min(wait, LONGEST_LIMIT_S))
            self._not_before = self._clock.monotonic() + max(wait, min(BACK_OFF_S[0] * 2**self._failures, BACK_OFF_S[1]))
            left = sum(_marker(stored) not in self._shown for stored in waiting)
            what = f"{left} milestones wait for {name}" if left else f"{name} is not up to date"
            yield f"{what}: {error}"

    @property
    def _limit_file(self) -> Path:
        return self._checkout.private / f"{self._series.topic}.github-limit"

    def _limit(self, until: float) -> None:
        """Keep until when GitHub wants nothing more, for the next command in this checkout."""
        write_aside(self._limit_file, f"{math.ceil(until)} {machine()}\n".encode())

    def _limited_until(self) -> float:
        said = (read(self._limit_file) or b"").decode("utf-8", "replace") if self._link is not None else ""
        until, _, by = said.strip().partition(" ")
        # Another machine, and this one since it was started anew, counts otherwise.
        return float(until) if until.isdigit() and by == machine() else 0.0

    def _waits(self, stored: Stored[EntryRecord]) -> bool:
        record = stored.record
        if record.step not in self._series.milestones or _marker(stored) in self._shown:
            return False
        # Its comment names the tag, so it waits for it.
        return record.step != "seal" or bool(self._seals([record.id]))

    def _seals(self, ids: Iterable[str]) -> list[Seal]:
        """Those of the entries that have their tag."""
        return [seal for id in ids if (seal := self._journal.decided(f"seals/{id}", Seal)) is not None]

    def _comment(self, stored: Stored[EntryRecord], public: _Entries, entries: Snapshot) -> str:
        record = stored.record
        rests_on = [entry.record for entry in entries.below(stored)]
        measured = [entry.record for entry in public if entry.record.step == "baseline" and entry.record.status == "ok"]
        baselines = [entry for entry in (*rests_on, record) if entry in measured] or measured
        # The snapshot that an update is about: its own, or the one that the end or a reproduction rests on.
        tells_of_one = record.step in ("seal", "finish", "reproduction")
        seals = self._seals((record.id, *(ref.id for ref in record.inputs)) if tells_of_one else ())[:1]
        rows = [row for entry in (record, *rests_on) for row in entry.rows]
        trials = self._journal.trials_of((row.trial for row in rows), self._records)
        links = self._links(self._runs(stored.sha256), seals)
        seal = seals[0] if seals else None
        text = issue_text.comment(record, rests_on, baselines, self._series, seal, links, trials)
        return chained(self._chain_link(stored.sha256), text)

    def _chain_link(self, sha256: str) -> str:
        """What later entries of the logbook in this checkout name a record's entry by; empty while it has none."""
        place = logbook_of(self._checkout, self._series.topic)
        # Of one that nobody else has, no comment could be held against it.
        entries = logbook_format.parse(read(place.path) or b"").entries if place.kind != "none" else []
        return next((entry.link for entry in entries if entry.record == sha256), "")

    def _links(self, runs: str, seals: Sequence[Seal]) -> Links:
        return Links(self._checkout, self._journal, self._link, runs, seals)

    def _heartbeat(self, public: _Entries, final: bool) -> tuple[str, str] | None:
        if not final and self._clock.monotonic() < self._beat_due:
            return None
        self._beat_due = self._clock.monotonic() + BEAT_EVERY_S
        poster = partial(current_actor, self._checkout)
        return issue_heartbeat.due(self._series, self._journal, public, self._now(), self._shown, poster)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock.now(), UTC)

    def _post_once(self, marker: str, text: Callable[[], str]) -> bool:
        """Have the comment there; False when it was there already."""

        def attempt() -> bool:
            if self._link is None:
                # In a file nothing shows up later, and what git took away was deleted by nobody.
                known = any(comment.marker == marker for comment in self._tracker.comments())
                return not known and bool(self._tracker.post(marked(marker, text())))
            name = f"postings/{self._link.number}-{marker.replace(' ', '-').replace(':', '')}"
            doubtful = False
            try:
                before = self._journal.noted(name, Posting)
            except UnreadableObject:
                # It is not written durably: a power cut left it broken, and the comments tell what became of the try.
                before, self._untidy = None, True
            if before is not None:
                # What was there and is gone was deleted by people, who had a reason.
                if before.comment is not msgspec.UNSET:
                    return False
                self._untidy = True
                doubtful = True
                age = self._clock.now() - parse_utc(before.tried_at).timestamp()
                if 0 <= age < SETTLE_S:
                    self._clock.sleep(SETTLE_S - age)
            there = next((comment for comment in self._tracker.comments() if comment.marker == marker), None)
            tried = Posting(marker=marker, tried_at=utc(self._now()), by=this_process())
            if there is not None:
                self._journal.note(name, msgspec.structs.replace(tried, comment=there.id))
                return False
            self._journal.note(name, tried)
            self._tracker.post(marked(marker, text()))
            self._unseen[marker] = name, tried
            if doubtful:
                # What was sent before and nobody heard of may still arrive.
                self._doubtful_until = self._clock.monotonic() + DEADLINE_S
            return True

        posted = self._retrying(attempt)
        self._shown.add(marker)
        return posted

    def _tidy(self) -> None:
        """Take note of the comments that are there, and delete those that are there twice."""
        first: dict[str, Comment] = {}
        for comment in self._tracker.comments():
            earliest = first.setdefault(comment.marker, comment)
            if comment.marker and earliest.id != comment.id and comment.repeats(earliest):
                self._tracker.delete(comment)
        for marker in self._unseen.keys() & first.keys():
            name, tried = self._unseen.pop(marker)
            self._journal.note(name, msgspec.structs.replace(tried, comment=first[marker].id))
        if self._unseen:
            raise SurfaceAway(
                f"{self._tracker.name} does not show {len(self._unseen)} comments that it accepted; the next sync posts "
                "them again unless it does by then."
            )

    def _write_body(self, entries: Snapshot, public: _Entries) -> None:
        # What other checkouts published, with stores of their own, is in git.
        published = self._journal.with_trials(self._records, entries).only(
            lambda entry: is_public(entry.record, self._series)
        )
        seals = self._seals(entry.record.id for entry in published.in_order if entry.record.step == "seal")
        state, links = thread_state(self._series, published), self._links(self._runs(""), seals)

        def merged(body: str) -> str:
            """With sections as long as what people wrote leaves room for."""
            for longest in (*issue_text.SECTION_LENGTHS, 0):
                wanted = issue_text.merged(body, issue_text.sections(state, links, longest))
                if len(wanted) <= issue_text.LONGEST:
                    return wanted
            raise SurfaceError(f"{self._tracker.name} has no room for the managed sections in its body: shorten it.")

        self._retrying(partial(self._tracker.rewrite_body, merged))
        self._in_body = len(public)
        self._body_due = self._clock.monotonic() + BODY_EVERY_S

    def _body_changed(self, public: _Entries, final: bool) -> bool:
        return final or (self._in_body != len(public) and self._clock.monotonic() >= self._body_due)

    def _unclosed(self, public: _Entries) -> Stored[EntryRecord] | None:
        """The final entry that the issue is still open for. Who opens it again is left alone; a file is never closed."""
        finish = next((stored for stored in reversed(public) if stored.record.step == "finish"), None)
        if self._link is None or finish is None or _marker(finish) not in self._shown:
            return None
        return None if self._journal.decided(f"closed/{finish.sha256}", Closed) is not None else finish

    def _retrying(self, action: Callable[[], T]) -> T:
        """Try until it works, as long as this pass may take. Raises the last SurfaceError."""
        import tenacity

        began = self._clock.monotonic()
        longer = tenacity.wait_exponential(multiplier=1.0, max=20.0) + tenacity.wait_random(0.0, 1.0)

        def wait(state: tenacity.RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome else None
            return max(longer(state), error.after_s if isinstance(error, SurfaceAway) else 0.0)

        return tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(SurfaceAway),
            wait=wait,
            stop=lambda state: self._clock.monotonic() - began + state.upcoming_sleep > PATIENCE_S,
            sleep=self._clock.sleep,
            reraise=True,
        )(action)


def _marker(stored: Stored[EntryRecord]) -> str:
    return f"record {stored.sha256}"


def _shown_in(file: IssueFile) -> set[str]:
    """The markers of the updates that the file holds by now; none where git damaged it, so that all are posted again."""
    if any(file.damage()):
        with file.turn():
            file.clear()
    return {comment.marker for comment in file.comments() if comment.marker}
