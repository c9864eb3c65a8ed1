"""Who tampers with a sealed history: one thing at a time, at random, and what has to be named for it."""

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from research_steps.publish.logbook import format as logbook_format
from research_steps.records.encoding import sha256

from tests.support.sealed_logbook import Piece, SealedDesk, pieces, rechained


class Attack:
    """One tampering with a history. `named` are words of which a problem has to hold one."""

    def __init__(self, desk: SealedDesk, dice: random.Random) -> None:
        self.desk, self.dice = desk, dice
        self.data = desk.data
        self.pieces, self.rest = pieces(self.data)
        self.entries = logbook_format.parse(self.data).entries

    def _write(self, data: bytes, *named: str) -> tuple[str, ...]:
        assert data != self.data
        self.desk.path.write_bytes(data)
        return named

    def _one(self) -> int:
        return self.dice.randrange(len(self.entries))

    def a_byte(self) -> tuple[str, ...]:
        entry = self.entries[self._one()]
        at = self.dice.randrange(entry.start, entry.end - 1)
        byte = self.dice.choice([other for other in b"0a#\n -" if other != self.data[at]])
        return self._write(self.data[:at] + bytes([byte]) + self.data[at + 1 :], entry.id)

    def a_line(self) -> tuple[str, ...]:
        entry = self.entries[self._one()]
        lines = self.data[entry.start : entry.end].splitlines(keepends=True)
        at = self.dice.randrange(1, len(lines) - 1)
        lines[at : at + 1] = self.dice.choice([[], [lines[at], b"- And: more\n"], [lines[at], lines[at]]])
        return self._write(self.data[: entry.start] + b"".join(lines) + self.data[entry.end :], entry.id)

    def an_entry_moved(self) -> tuple[str, ...]:
        order = list(self.pieces)
        was = self._one()
        moved = order.pop(was)
        # Of two neighbours that changed places, either may be told.
        near = [piece.id for piece in self.pieces[max(0, was - 1) : was + 2]]
        at = self.dice.choice([at for at in range(len(self.pieces)) if at != was])
        order.insert(at, moved)
        head = self.pieces[0].gap
        texts = {
            piece.id: self.data[entry.start : entry.end] for piece, entry in zip(self.pieces, self.entries, strict=True)
        }
        return self._write(head + b"\n".join(texts[piece.id] for piece in order) + self.rest, *near)

    def a_marker_copied(self) -> tuple[str, ...]:
        source, other = self.entries[self._one()], self.entries[self._one()]
        whole = self.data[source.start : source.end]
        marker = self.dice.choice([whole.splitlines(keepends=True)[0], whole.splitlines(keepends=True)[-1], whole])
        at = self.dice.choice([other.start, other.end])
        line = self.data.count(b"\n", 0, at)
        near = [f"line {line + shift}:" for shift in range(3)]
        return self._write(self.data[:at] + marker + self.data[at:], source.id, *near)

    def a_record_altered(self) -> tuple[str, ...]:
        path = self.dice.choice(sorted(self.desk.beside.glob("*.jsonl")))
        lines = path.read_bytes().splitlines(keepends=True)
        at = self.dice.randrange(len(lines))
        lines[at] = lines[at].replace(b'"status":"ok"', b'"status":"failed"', 1)
        path.write_bytes(b"".join(lines))
        return (path.stem,)

    def a_record_of_the_store_altered(self) -> tuple[str, ...]:
        folder = self.desk.store / "journal" / "toy" / self.dice.choice(["entries", "trials"]) / "records"
        path = self.dice.choice(sorted(folder.iterdir()))
        record = json.loads(path.read_bytes())
        record["started_at"] = "2020-01-01T00:00:00.000Z"
        record["status"] = "failed"
        path.write_bytes(json.dumps(record, sort_keys=True, separators=(",", ":")).encode() + b"\n")
        return (record["id"],)

    def a_cut_tail(self) -> tuple[str, ...]:
        """With the records and the comments, as if it had never been."""
        at = self.dice.randrange(1, len(self.pieces) - 1)
        gone = self.pieces[at:]
        for piece in gone:
            (self.desk.beside / f"{piece.id}.jsonl").unlink()
        text = self.desk.issue.read_text().partition("<!-- research-steps comment ")[0]
        self.desk.issue.write_text(text)
        return self._write(self.data[: self.entries[at].start], gone[0].id)

    def a_cut_tail_and_the_tags(self) -> tuple[str, ...]:
        """The milestones still name what was there."""
        ours = [piece for piece in self.pieces if piece.record.encode() in self.desk.issue.read_bytes()]
        for tag in self.desk.git("tag", "--list").split():
            self.desk.git("tag", "--delete", tag)
        shutil.rmtree(self.desk.store / "journal" / "toy" / "seals")
        at = self.dice.randrange(1, len(self.pieces))
        gone = self.pieces[at:]
        for piece in gone:
            (self.desk.beside / f"{piece.id}.jsonl").unlink()
        return self._write(self.data[: self.entries[at].start], *(piece.record[:12] for piece in ours if piece in gone))

    def an_edit_and_the_chain(self) -> tuple[str, ...]:
        piece = self.pieces[self.dice.randrange(len(self.pieces) - 1)]
        edited = replace(piece, text=piece.text.replace(b"- Result: ", b"- Result: not "))
        return self._write(
            rechained(self.data, lambda chain: [edited if p is piece else p for p in _same(chain, piece, edited)]),
            piece.id,
        )

    def a_record_with_its_entry_and_the_chain(self) -> tuple[str, ...]:
        """The record changed in git and store, and every hash made to fit."""
        piece = self.dice.choice([p for p in self.pieces if b"- Result: result" in p.text])
        path = self.desk.beside / f"{piece.id}.jsonl"
        line = next(line for line in path.read_bytes().splitlines() if sha256(line) == piece.record)
        new = line.replace(b'"result":"result', b'"result":"better result')
        path.write_bytes(path.read_bytes().replace(line, new))
        store = self.desk.store / "journal" / "toy" / "entries" / "records" / f"{piece.id}-0.json"
        store.write_bytes(new + b"\n")
        edited = replace(piece, record=sha256(new), text=piece.text.replace(b"- Result: ", b"- Result: better "))
        return self._write(rechained(self.data, lambda chain: _same(chain, piece, edited)), piece.id)

    def an_entry_removed_and_the_chain(self) -> tuple[str, ...]:
        piece = self.pieces[self.dice.randrange(len(self.pieces) - 1)]
        (self.desk.beside / f"{piece.id}.jsonl").unlink()
        return self._write(rechained(self.data, lambda chain: [p for p in chain if p.link != piece.link]), piece.id)

    def entries_swapped_and_the_chain(self) -> tuple[str, ...]:
        at = self.dice.randrange(1, len(self.pieces) - 2)
        piece, other = self.pieces[at], self.pieces[at + 1]
        swapped = {piece.link: replace(other, gap=piece.gap), other.link: replace(piece, gap=other.gap)}
        return self._write(
            rechained(self.data, lambda chain: [swapped.get(p.link, p) for p in chain]), piece.id, other.id
        )

    def a_tag_moved(self) -> tuple[str, ...]:
        tag, other = self.dice.sample(["toy/TOY-004", "toy/TOY-009"], 2)
        to = self.dice.choice([other, "HEAD~0", self._forged(tag)])
        self.desk.git("tag", "--annotate", "--force", "--message", "sealed", tag, f"{to}^{{commit}}")
        return (f"tag {tag}",) if self.desk.git("rev-parse", f"{tag}^{{commit}}").strip() else ()

    def _forged(self, tag: str) -> str:
        """A commit like that of the tag, with another record."""
        tree = self.desk.git("rev-parse", f"{tag}^{{tree}}").strip()
        return self.desk.git("commit-tree", tree, "-p", f"{tag}^{{commit}}", "-m", "forged").strip()

    def a_file_that_belongs_to_a_record(self) -> tuple[str, ...]:
        files = [*self.desk.beside.glob("*.patch"), *self.desk.beside.glob("attachments/*")]
        path = self.dice.choice(sorted(files))
        path.write_bytes(path.read_bytes() + b"+ more\n")
        return (path.name[:12],)

    def the_adopted_part(self) -> tuple[str, ...]:
        end = logbook_format.adopted_end(self.data)
        if not end:
            return self.a_byte()
        above = self.data[: self.data.rindex(b"<!-- research-steps adopted", 0, end)].replace(b"Result: 1", b"Result: 2")
        return self._write(
            above + logbook_format.adoption_marker(above, "toy", "TOY").rstrip(b"\n") + self.data[end:], "adopted"
        )

    def a_comment(self) -> tuple[str, ...]:
        text = self.desk.issue.read_text()
        lines = [line for line in text.splitlines() if " chain " in line]
        line = self.dice.choice(lines)
        self.desk.issue.write_text(text.replace(line, line[:-10] + ("0" if line[-10] != "0" else "1") + line[-9:]))
        return (f"comment {lines.index(line) + 1} of",)


def _same(chain: list[Piece], original: Piece, edited: Piece) -> list[Piece]:
    return [edited if piece.link == original.link else piece for piece in chain]


ATTACKS: list[Callable[[Attack], tuple[str, ...]]] = [
    attack for name, attack in vars(Attack).items() if not name.startswith("_") and callable(attack)
]


class Kept:
    """The files and tags of a history, brought back after each tampering."""

    def __init__(self, desk: SealedDesk) -> None:
        self.desk = desk
        self.files = {path: path.read_bytes() for path in self._paths()}
        self.tags = dict(
            line.split() for line in self._git("for-each-ref", "--format=%(refname) %(objectname)", "refs/tags")
        )

    def _git(self, *arguments: str) -> list[str]:
        return self.desk.git(*arguments).splitlines()

    def _paths(self) -> list[Path]:
        folders = (self.desk.root / ".agents", self.desk.store)
        return [path for folder in folders for path in folder.rglob("*") if path.is_file()]

    def restore(self) -> None:
        for path in set(self._paths()) - set(self.files):
            path.unlink()
        for path, data in self.files.items():
            if not path.exists() or path.read_bytes() != data:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
        wanted = "".join(f"update {name} {target}\n" for name, target in self.tags.items())
        self.desk.checkout.git("update-ref", "--stdin", input=wanted.encode())
