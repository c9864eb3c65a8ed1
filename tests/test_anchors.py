"""The logbook held against sealed tags and milestones: real repositories, real seals, and everything done to them."""

import json
import random
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from research_steps.record import sha256
from research_steps.sinks import logbook_file
from research_steps.sinks.logbook import adopt

from tests.logbooks import PROVENANCE
from tests.sealed import Piece, SealedDesk, pieces, rechained

BY_HAND = b"# Toy\n\n## Log\n\n### 2026-01-01 - by hand\n- Result: 1\n"
PATCH = b"diff --git a/x b/x\n"
PLOT = b"<svg>1 2 3</svg>\n"
TAMPERINGS, HISTORIES = 200, 200


def sealed_history(where: Path, branch: str, adopted: bool, committed: bool) -> SealedDesk:
    """Seven entries and two seals: TOY-004, and TOY-009 with everything before it; nothing follows."""
    desk = SealedDesk.make(where)
    if branch != "main":
        desk.git("switch", "--quiet", "--create", branch)
    if adopted:
        desk.path.parent.mkdir(parents=True)
        desk.path.write_bytes(BY_HAND)
        adopt(desk.checkout, "toy", "TOY")
    desk.journal.keep_patch(sha256(PATCH), PATCH)
    plot = f"{sha256(PLOT)[:12]}-plot.svg"
    desk.journal.keep_attachment(plot, PLOT)
    made = msgspec.structs.replace(PROVENANCE, commit=desk.checkout.head(), patch=sha256(PATCH))
    for number, step in enumerate(
        ["baseline", "sweep", "interpret", "", "sweep", "attachment", "interpret", "sweep", ""]
    ):
        if not step:
            desk.seal()
            continue
        changes = {"config": {"file": plot}} if step == "attachment" else {"provenance": made} if number == 1 else {}
        desk.measured(f"step {number}", trials=2, step=step, result=f"result {number}", **changes)
        desk.publish()
        if committed:
            desk.commit()
    if committed:
        desk.commit()
    assert desk.ids == [f"TOY-00{number}" for number in range(1, 10)]
    return desk


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> list[SealedDesk]:
    """Histories on a branch of people and on the research branch, with and without an adopted part or commits."""
    where = tmp_path_factory.mktemp("sealed")
    kinds = [("main", False, True), ("main", True, False), ("research/toy", True, True), ("research/toy", False, False)]
    return [sealed_history(where / str(number), *kind) for number, kind in enumerate(kinds)]


@pytest.fixture
def desk(made: list[SealedDesk], tmp_path: Path) -> SealedDesk:
    """A copy of the first of them, to do anything with."""
    shutil.copytree(made[0].root.parent, tmp_path / "desk", symlinks=True)
    return SealedDesk(tmp_path / "desk" / "checkout", tmp_path / "desk" / "store")


class Attack:
    """One tampering with a history. `named` are words of which a problem has to hold one."""

    def __init__(self, desk: SealedDesk, dice: random.Random) -> None:
        self.desk, self.dice = desk, dice
        self.data = desk.data
        self.pieces, self.rest = pieces(self.data)
        self.entries = logbook_file.parse(self.data).entries

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
        one = order.pop(was)
        # Of two neighbours that changed places, either may be told.
        near = [piece.id for piece in self.pieces[max(0, was - 1) : was + 2]]
        at = self.dice.choice([at for at in range(len(self.pieces)) if at != was])
        order.insert(at, one)
        head = self.pieces[0].gap
        texts = {
            piece.id: self.data[entry.start : entry.end] for piece, entry in zip(self.pieces, self.entries, strict=True)
        }
        return self._write(head + b"\n".join(texts[piece.id] for piece in order) + self.rest, *near)

    def a_marker_copied(self) -> tuple[str, ...]:
        one, other = self.entries[self._one()], self.entries[self._one()]
        whole = self.data[one.start : one.end]
        marker = self.dice.choice([whole.splitlines(keepends=True)[0], whole.splitlines(keepends=True)[-1], whole])
        at = self.dice.choice([other.start, other.end])
        line = self.data.count(b"\n", 0, at)
        near = [f"line {line + shift}:" for shift in range(3)]
        return self._write(self.data[:at] + marker + self.data[at:], one.id, *near)

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
        return self._write(self.data[: self.entries[at].start], *(one.record[:12] for one in ours if one in gone))

    def an_edit_and_the_chain(self) -> tuple[str, ...]:
        one = self.pieces[self.dice.randrange(len(self.pieces) - 1)]
        edited = replace(one, text=one.text.replace(b"- Result: ", b"- Result: not "))
        return self._write(
            rechained(self.data, lambda found: [edited if p is one else p for p in _same(found, one, edited)]), one.id
        )

    def a_record_with_its_entry_and_the_chain(self) -> tuple[str, ...]:
        """The record changed in git and store, and every hash made to fit."""
        one = self.dice.choice([p for p in self.pieces if b"- Result: result" in p.text])
        path = self.desk.beside / f"{one.id}.jsonl"
        line = next(line for line in path.read_bytes().splitlines() if sha256(line) == one.record)
        new = line.replace(b'"result":"result', b'"result":"better result')
        path.write_bytes(path.read_bytes().replace(line, new))
        store = self.desk.store / "journal" / "toy" / "entries" / "records" / f"{one.id}-0.json"
        store.write_bytes(new + b"\n")
        edited = replace(one, record=sha256(new), text=one.text.replace(b"- Result: ", b"- Result: better "))
        return self._write(rechained(self.data, lambda found: _same(found, one, edited)), one.id)

    def an_entry_removed_and_the_chain(self) -> tuple[str, ...]:
        one = self.pieces[self.dice.randrange(len(self.pieces) - 1)]
        (self.desk.beside / f"{one.id}.jsonl").unlink()
        return self._write(rechained(self.data, lambda found: [p for p in found if p.link != one.link]), one.id)

    def entries_swapped_and_the_chain(self) -> tuple[str, ...]:
        at = self.dice.randrange(1, len(self.pieces) - 2)
        one, other = self.pieces[at], self.pieces[at + 1]
        swapped = {one.link: replace(other, gap=one.gap), other.link: replace(one, gap=other.gap)}
        return self._write(rechained(self.data, lambda found: [swapped.get(p.link, p) for p in found]), one.id, other.id)

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
        end = logbook_file.adopted_end(self.data)
        if not end:
            return self.a_byte()
        above = self.data[: self.data.rindex(b"<!-- research-steps adopted", 0, end)].replace(b"Result: 1", b"Result: 2")
        return self._write(
            above + logbook_file.adoption_marker(above, "toy", "TOY").rstrip(b"\n") + self.data[end:], "adopted"
        )

    def a_comment(self) -> tuple[str, ...]:
        text = self.desk.issue.read_text()
        found = [line for line in text.splitlines() if " chain " in line]
        line = self.dice.choice(found)
        self.desk.issue.write_text(text.replace(line, line[:-10] + ("0" if line[-10] != "0" else "1") + line[-9:]))
        return (f"comment {found.index(line) + 1} of",)


def _same(found: list[Piece], one: Piece, edited: Piece) -> list[Piece]:
    return [edited if piece.link == one.link else piece for piece in found]


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
        for name, target in self.tags.items():
            self.desk.git("update-ref", name, target)


@pytest.mark.parametrize("part", range(4))
def test_tamperings_are_found_and_named(made: list[SealedDesk], part: int) -> None:
    """Whatever is done to entries, markers, records, files, tags or comments, and however well the hashes are made to
    fit: verify finds it, and names the entry, record, tag or comment."""
    kept = Kept(made[part])
    dice = random.Random(part)
    untouched = made[part].checked()
    assert (untouched.problems, untouched.tags) == ((), ("toy/TOY-004", "toy/TOY-009")), untouched
    assert untouched.milestones == 5 and untouched.notes == ()
    for number in range(TAMPERINGS // 4):
        attack = ATTACKS[number % len(ATTACKS)]
        named = attack(Attack(made[part], dice))
        problems = made[part].checked().problems
        assert any(word in problem for word in named for problem in problems), (attack.__name__, named, problems)
        kept.restore()
    assert made[part].checked().problems == ()


class Honest:
    """A history in which people and publishers do what they may, at random, in one repository and its clones."""

    def __init__(self, where: Path, dice: random.Random) -> None:
        self.where, self.dice = where, dice
        self.desk = SealedDesk.make(where, dice.choice(["", ".agents/issues/*.md merge=union"]))
        self.home = self.desk
        self.branches = ["main"]
        self.clones = 0
        self.done: list[str] = []
        if dice.random() < 0.3:
            self.desk.path.parent.mkdir(parents=True)
            self.desk.path.write_bytes(BY_HAND)
            adopt(self.desk.checkout, "toy", "TOY")

    def run(self, steps: int) -> None:
        self.measure()
        for _ in range(steps):
            todo = self.dice.choice(
                [self.measure, self.measure, self.seal, self.branch, self.switch, self.merge, self.more]
            )
            self.done.append(todo.__name__)
            todo()

    def measure(self) -> None:
        for _ in range(self.dice.randint(1, 2)):
            kind = self.dice.choice(["sweep", "baseline", "interpret"])
            self.desk.measured(f"{kind} {self.dice.random()}", step=kind, trials=self.dice.randint(0, 2))
        assert self.desk.publish().problems == ()

    def seal(self) -> None:
        if self.desk.store == self.home.store:
            self.desk.seal()
        else:
            # Of two stores that used one ID only one can have the tag of that name.
            self.measure()

    def branch(self) -> None:
        self.desk.commit()
        name = self.dice.choice(["research/toy", f"side-{len(self.branches)}"])
        if name not in self.branches:
            self.desk.git("switch", "--quiet", "--create", name)
            self.branches.append(name)

    def switch(self) -> None:
        """To another branch: with the comments committed, or carried along as they are where git lets them."""
        only_logbook = self.dice.random() < 0.5
        if only_logbook and self.desk.path.exists():
            self.desk.git("add", "--", ".agents/logbooks")
            self.desk.git("commit", "--quiet", "--allow-empty", "--message", "logbook")
        else:
            self.desk.commit()
        other = self.dice.choice(self.branches)
        if subprocess.run(["git", "switch", "--quiet", other], cwd=self.desk.root, capture_output=True).returncode:
            self.desk.commit()
            self.desk.git("switch", "--quiet", other)
        stores = ["store", "store", "other"]
        self.desk = self.home.with_store(self.dice.choice(stores))

    def merge(self) -> None:
        self.desk.commit()
        self._merge(self.dice.choice(self.branches))

    def _merge(self, branch: str) -> None:
        if not self.desk.merge(branch):
            # Of the comments one side is taken, as people do; the logbook is for sync.
            for name in self.desk.git("diff", "--name-only", "--diff-filter=U").split():
                if name.startswith(".agents/issues"):
                    self.desk.git("checkout", self.dice.choice(["--ours", "--theirs"]), "--", name)
        rebuilt, published = self.desk.sync()
        if rebuilt and self.dice.random() < 0.5:
            self.desk.commit("merge")
        assert published.problems in ((),) or all("is not sealed" in one for one in published.problems), published
        self.desk.commit("merge")

    def more(self) -> None:
        self.dice.choice([self._note, self._living, self._clone])()

    def _note(self) -> None:
        """What people write behind an entry is theirs."""
        self.desk.publish()
        with self.desk.path.open("ab") as file:
            file.write(b"\nA note by hand, %d.\n" % self.dice.randrange(1000))

    def _living(self) -> None:
        self.desk.publish()
        data = self.desk.data
        if found := logbook_file.living_part(data):
            self.desk.path.write_bytes(data[: found[0]] + b"## TL;DR\n- Changed.\n" + data[found[1] :])

    def _clone(self) -> None:
        """Somebody goes on in a clone, with this store or an own one, and that is merged here."""
        self.desk.commit()
        self.clones += 1
        clone = self.desk.clone(self.where / f"clone-{self.clones}")
        assert clone.with_store("empty").checked().problems == ()
        if self.dice.random() < 0.5:
            clone = clone.with_store(f"own-{self.clones}")
        clone.measured("in the clone")
        assert clone.publish().problems == ()
        clone.commit()
        assert clone.checked().problems == ()
        self.desk.git("fetch", "--quiet", "--tags", str(clone.root), f"HEAD:refs/heads/clone-{self.clones}")
        assert self.desk.checked().problems == ()
        self._merge(f"clone-{self.clones}")


@pytest.mark.parametrize("part", range(4))
def test_honest_histories_raise_no_alarm(tmp_path: Path, part: int) -> None:
    """Branches, stores, clones, merges with and without conflict, adoption, notes by hand, seals: no problem in any."""
    for number in range(part, HISTORIES, 4):
        where = tmp_path / str(number)
        history = Honest(where, random.Random(number))
        history.run(5)
        assert history.desk.checked().problems == (), (number, history.done, history.desk.checked())
        history.desk.sync()
        history.desk.commit()
        assert history.desk.checked().problems == (), (number, history.done)
        clone = history.desk.clone(where / "reader").with_store("empty")
        assert clone.checked().problems == (), (number, history.done)
        shutil.rmtree(where)
