"""The body of the issue on GitHub, which people write too, at the same moment sometimes.

GitHub writes a body unconditionally. So the store says of each write, before it is sent, which body it replaces and by
which: whoever publishes next finds in GitHub's history what came in between, and puts it back.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import msgspec

from research_steps.errors import SurfaceAway, SurfaceError, UnreadableObject
from research_steps.journal.journal import Journal
from research_steps.publish.issue.github import GitHub, field
from research_steps.publish.issue.lost_edits import digest, lost, repaired
from research_steps.records.objects import BodyWrite, BodyWrites, IssueLink
from research_steps.records.times import parse_utc, utc

# How long a write may take to arrive that nobody heard of, and a history to show it (seconds).
LATE_S = 600.0
# GitHub's history is read as far as 100 bodies back, of which ours are some.
WRITES_KEPT = 200
# How often the body is read again because it changed in the meantime.
_ROUNDS = 6


class IssueBody:
    """The body of one issue, in the turn of one publisher."""

    def __init__(self, github: GitHub, journal: Journal, link: IssueLink) -> None:
        self._name = f"{link.repository}#{link.number}"
        self._github = github
        self._journal = journal
        self._number = link.number
        self._path = f"/issues/{link.number}"
        self._note = f"postings/{link.number}-body"

    def rewrite(self, merged: Callable[[str], str]) -> None:
        """Make of the body what `merged(body)` says, and put back what people wrote that an earlier write replaced.

        Raises SurfaceError also where it can't be told whether there is such an edit: the next call looks again.
        """
        for _ in range(_ROUNDS):
            writes, doubt = self._writes(), None
            edits: Sequence[str | None] | None = None
            if not writes.settled:
                try:
                    edits = self._github.edits(self._number)
                except SurfaceError as error:
                    doubt = error
            # After the history and after any waiting: what comes between this and the write is lost for a while.
            body = field(self._github.get(self._path), "body", str | None) or ""
            wanted = merged(repaired(body, lost(edits or (), body, writes.pairs)))
            if wanted == body:
                self._settle(writes, doubt or self._behind(writes, edits, body))
                return
            if self._github.pace():
                continue
            pairs = (*writes.pairs, BodyWrite(replaced=digest(body), written=digest(wanted)))[-WRITES_KEPT:]
            self._journal.note(self._note, BodyWrites(pairs=pairs, written_at=utc(self._now()), settled=False))
            if field(self._github.write("PATCH", self._path, {"body": wanted}), "body", str | None) == body:
                raise SurfaceError(
                    f"{self._name} kept its old body: it is too long with its managed sections; shorten it."
                )
        raise SurfaceAway(f"The body of {self._name} changed {_ROUNDS} times while it was written.")

    def _writes(self) -> BodyWrites:
        try:
            noted = self._journal.noted(self._note, BodyWrites)
        except UnreadableObject:
            # It is not written durably: a power cut left it broken.
            noted = None
        return noted or BodyWrites(pairs=(), written_at=utc(self._now()), settled=True)

    def _behind(self, writes: BodyWrites, edits: Sequence[str | None] | None, body: str) -> SurfaceAway | None:
        """What is wrong with a history that does not end with the body yet, as long as it may come to."""
        if edits is None or self._is_old(writes):
            return None
        newest = edits[0] if edits else None
        ours = digest(body) in {pair.written for pair in writes.pairs}
        shown = digest(newest) == digest(body) if newest is not None else not ours
        return None if shown else SurfaceAway("GitHub's history of it does not show the newest one yet.")

    def _settle(self, writes: BodyWrites, doubt: SurfaceError | None) -> None:
        if doubt is not None:
            told = f"whether an edit of its body was lost is not known, and the next sync looks again: {doubt}"
            if isinstance(doubt, SurfaceAway):
                raise SurfaceAway(told, doubt.after_s)
            raise SurfaceError(told)
        if not writes.settled and self._is_old(writes):
            self._journal.note(self._note, msgspec.structs.replace(writes, settled=True))

    def _is_old(self, writes: BodyWrites) -> bool:
        return self._github.clock.now() - parse_utc(writes.written_at).timestamp() >= LATE_S

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._github.clock.now(), UTC)
