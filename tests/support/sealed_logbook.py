"""A desk whose entries are sealed and posted by the real publisher's surfaces, and what somebody does who tampers."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from research_steps.git import Checkout
from research_steps.journal.journal import Journal
from research_steps.journal.store import open_store
from research_steps.publish.issue.surface import IssueSurface
from research_steps.publish.logbook import format as logbook_format
from research_steps.publish.logbook.merge import rebuild
from research_steps.publish.logbook.surface import LogbookSurface
from research_steps.publish.publisher import Published, publish
from research_steps.records.encoding import Stored, sha256
from research_steps.records.model import EntryRecord
from research_steps.seal.sealing import Sealer
from research_steps.seal.verify import Checked, verify

from tests.support.scratch_logbook import PROVENANCE, SERIES, Desk


class SealedDesk(Desk):
    """A desk that measures at a commit of its repository, seals, and posts milestones on the embedded issue."""

    @staticmethod
    def make(where: Path, attributes: str = "") -> "SealedDesk":
        made = Desk.make(where, attributes)
        return SealedDesk(made.root, made.store)

    def with_store(self, name: str) -> "SealedDesk":
        return SealedDesk(self.root, self.store.with_name(name))

    def clone(self, where: Path) -> "SealedDesk":
        """A clone with the same store."""
        self.git("clone", "--quiet", str(self.root), str(where))
        for name, value in (("user.name", "Another Person"), ("user.email", "another@example.org")):
            self.git("-C", str(where), "config", name, value)
        return SealedDesk(where, self.store)

    def measured(self, label: str = "a step", **changes: Any) -> Stored[EntryRecord]:
        """Record a step at the commit that is checked out."""
        made = msgspec.structs.replace(PROVENANCE, commit=self.checkout.head(), branch=self.checkout.branch())
        return self.record(label, **{"provenance": made, **changes})

    def seal(self) -> str:
        """Seal everything that this store holds; returns the tag."""
        entries = [entry for entry in self.journal.entries().entries.values() if entry.record.step != "seal"]
        sealed = self.measured("seal", trials=0, step="seal", inputs=tuple(entry.ref for entry in entries))
        published = self.publish()
        assert published.problems == (), published.problems
        return f"toy/{sealed.record.id}"

    def publish(self, final: bool = True) -> Published:
        checkout, journal = Checkout.find(self.root), Journal(open_store(str(self.store)), SERIES.topic)
        logbook = LogbookSurface(checkout, journal, SERIES)
        issue = IssueSurface(checkout, journal, SERIES, lambda record: None)
        return publish(journal, [logbook, Sealer(checkout, journal, SERIES), logbook, issue], final)

    def sync(self) -> tuple[bool, Published]:
        return rebuild(self.checkout, SERIES.topic), self.publish()

    def checked(self, tag: str | None = None) -> Checked:
        return verify(self.checkout, SERIES.topic, Journal(open_store(str(self.store)), SERIES.topic), tag)

    @property
    def issue(self) -> Path:
        return self.root / ".agents" / "issues" / "toy.md"

    @property
    def beside(self) -> Path:
        return self.path.with_suffix("")


@dataclass(frozen=True)
class Piece:
    """An entry of a logbook taken apart: what stands before it, its text with the first marker, and what it names."""

    gap: bytes
    id: str
    record: str
    text: bytes
    prev: tuple[str, ...]
    link: str


def pieces(data: bytes) -> tuple[list[Piece], bytes]:
    """The entries of a logbook, and what stands behind the last."""
    entries, at = [], 0
    for entry in logbook_format.parse(data).entries:
        text = data[entry.start : data.index(b"<!-- research-steps end ", entry.start)]
        entries.append(Piece(data[at : entry.start], entry.id, entry.record, text, entry.prev, entry.link))
        at = entry.end
    return entries, data[at:]


def rechained(data: bytes, change: Callable[[list[Piece]], list[Piece]]) -> bytes:
    """The logbook with its entries changed, and every hash made to fit: the chain agrees with itself again."""
    entries, rest = pieces(data)
    links: dict[str, str] = {}
    out, last = b"", ""
    order = [piece.link for piece in entries]
    for piece in change(entries):
        there = [links[link] for link in piece.prev if link in links] if piece.link in order else []
        prev = ",".join(there or ([last] if last else [])) or "none"
        marker = (
            f"<!-- research-steps end {piece.id} record={piece.record} entry={sha256(piece.text)} prev={prev} -->"
        ).encode()
        links[piece.link] = last = sha256(marker)
        out += piece.gap + piece.text + marker + b"\n"
    return out + rest
