"""Logbooks after merges in git: real branches, real conflicts, real union merges, and what `research sync` makes of
them."""

import random
from pathlib import Path

import pytest
from research_steps.errors import ConflictedLogbook
from research_steps.publish.logbook import format as logbook_format
from research_steps.publish.logbook.adoption import adopt
from research_steps.publish.logbook.merge import rebuild

from tests.support.scratch_logbook import Desk

UNION = ".agents/logbooks/*.md merge=union"
# How git leaves a merge of two branches that both appended: stopped, committed with its markers, or torn by union.
CONFLICT, COMMITTED, TORN = "conflict", "committed with markers", "union"


def make(where: Path, how: str) -> Desk:
    """Two entries on main, and a branch 'other' from there."""
    desk = Desk.make(where, UNION if how == TORN else "")
    for number in range(2):
        desk.record(f"base {number}")
    desk.publish()
    desk.commit()
    desk.git("branch", "other")
    return desk


def diverge(desk: Desk, ours: int = 2, theirs: int = 2, theirs_store: str = "other") -> Desk:
    """Entries on main, and others on the branch, from another machine; main is checked out at the end."""
    other = desk.with_store(theirs_store)
    desk.git("checkout", "--quiet", "other")
    for number in range(theirs):
        other.record(f"theirs {number}", trials=2, result="not like ours")
        other.publish()
    desk.commit()
    desk.git("checkout", "--quiet", "main")
    for number in range(ours):
        desk.record(f"ours {number}")
        desk.publish()
    desk.commit()
    return other


def merge(desk: Desk, how: str, branch: str = "other") -> None:
    clean = desk.merge(branch)
    if how == CONFLICT:
        assert not clean
    else:
        # With union on the logbook only the record files of an ID that both used can conflict.
        desk.commit("merge")


def texts(data: bytes) -> dict[str, bytes]:
    return {entry.link: data[entry.start : entry.end] for entry in logbook_format.parse(data).entries if entry.whole}


def check_grows(desk: Desk) -> None:
    """A further entry can be appended, and everything is as it should be before and after."""
    assert desk.problems() == []
    before = desk.ids
    stored = desk.record("follows")
    assert stored.record.id not in before
    assert desk.publish().ids == (stored.record.id,)
    assert desk.ids == [*before, stored.record.id]
    assert desk.problems() == []


@pytest.mark.parametrize("how", [CONFLICT, COMMITTED, TORN])
def test_sync_rebuilds_the_logbook_from_the_whole_entries_of_both_sides(tmp_path: Path, how: str) -> None:
    """Every entry of both branches is there once and byte for byte, also where both used one ID, and both records."""
    desk = make(tmp_path, how)
    diverge(desk)
    wanted = texts(desk.data) | texts(desk.git("show", "other:.agents/logbooks/toy.md").encode())
    records = {line for ref in ("main", "other") for line in _records(desk, ref, "TOY-003")}
    merge(desk, how)
    assert desk.problems() != []
    assert how == TORN or logbook_format.conflicts(desk.data)

    rebuilt, published = desk.sync()

    assert (rebuilt, published.problems) == (True, ())
    assert texts(desk.data) == wanted
    assert desk.ids == ["TOY-001", "TOY-002", "TOY-003", "TOY-004", "TOY-003", "TOY-004"]
    assert desk.labels == ["base 0", "base 1", "ours 0", "ours 1", "theirs 0", "theirs 1"]
    assert len(records) == 5 and set(desk.records("TOY-003")) == records
    assert desk.sync() == (False, type(published)())
    check_grows(desk)


def _records(desk: Desk, ref: str, id: str) -> list[bytes]:
    return desk.git("show", f"{ref}:.agents/logbooks/toy/{id}.jsonl").encode().splitlines()


def test_until_it_is_rebuilt_a_conflicted_logbook_takes_nothing(tmp_path: Path) -> None:
    """A publisher refuses with a sentence, changes no byte, and publishes what waited after the rebuild."""
    desk = make(tmp_path, CONFLICT)
    diverge(desk)
    merge(desk, CONFLICT)
    conflicted = desk.data
    waiting = desk.record("waits")
    (problem,) = desk.publish().problems
    assert "has conflict markers of a git merge: run 'research sync toy'" in problem
    assert desk.data == conflicted
    rebuilt, published = desk.sync()
    assert (rebuilt, published.ids) == (True, (waiting.record.id,))
    assert desk.problems() == []


@pytest.mark.parametrize("how", [CONFLICT, COMMITTED, TORN])
def test_both_branches_may_have_made_the_first_entry(tmp_path: Path, how: str) -> None:
    """A logbook that each branch began by itself, with the same ID, becomes one logbook."""
    desk = Desk.make(tmp_path, UNION if how == TORN else "")
    desk.git("branch", "other")
    diverge(desk, ours=1, theirs=1)
    merge(desk, how)
    assert desk.sync()[0]
    assert desk.labels == ["ours 0", "theirs 0"]
    assert desk.data.count(b"# toy: Research Logbook") == 1
    assert desk.data.count(b"end of living part") == 1
    check_grows(desk)


@pytest.mark.parametrize("how", [CONFLICT, COMMITTED, TORN])
def test_records_that_both_branches_published_are_shown_once(tmp_path: Path, how: str) -> None:
    """Two checkouts of one store, on two branches: what both appended, in different places, stands once."""
    desk = make(tmp_path, how)
    desk.git("checkout", "--quiet", "other")
    shared = [desk.record(f"shared {number}") for number in range(2)]
    only = desk.with_store("other").record("theirs")
    desk.publish()
    desk.with_store("other").publish()
    desk.commit()
    desk.git("checkout", "--quiet", "main")
    desk.with_store("third").record("ours")
    desk.with_store("third").publish()
    desk.publish()
    desk.commit()
    merge(desk, how)
    assert desk.sync()[0]
    shown = [entry.record for entry in logbook_format.parse(desk.data).entries]
    assert len(shown) == len(set(shown)) == 6
    assert {shared[0].sha256, shared[1].sha256, only.sha256} <= set(shown)
    check_grows(desk)


@pytest.mark.parametrize("how", [CONFLICT, COMMITTED, TORN])
def test_what_people_wrote_on_either_side_stays(tmp_path: Path, how: str) -> None:
    """Scope, notes between and after entries, of both branches, and the bytes before an adoption."""
    desk = Desk.make(tmp_path, UNION if how == TORN else "")
    desk.path.parent.mkdir(parents=True)
    old = b"# By hand\r\n\r\n## Log\n### TOY-007 an old one\n- Result: \xff fast\n"
    desk.path.write_bytes(old)
    adopt(desk.checkout, "toy", "TOY")
    desk.record("base")
    desk.publish()
    desk.commit()
    desk.git("branch", "other")
    for branch, desk_there in (("other", desk.with_store("other")), ("main", desk)):
        desk.git("checkout", "--quiet", branch)
        for number in range(2):
            desk_there.record(f"{branch} {number}")
            desk_there.publish()
            with desk.path.open("a") as file:
                file.write(f"\n## Note {number} on {branch}\n\n- about it\n")
        desk.commit()
    merge(desk, how)
    assert desk.sync()[0]
    assert desk.data.startswith(old)
    for branch in ("main", "other"):
        for number in range(2):
            note = desk.data.index(f"## Note {number} on {branch}\n\n- about it\n".encode())
            assert desk.data.index(f" {branch} {number}\n".encode()) < note
    assert desk.labels == ["base", "main 0", "main 1", "other 0", "other 1"]
    check_grows(desk)


@pytest.mark.parametrize("adopted_on", ["main", "other"])
def test_one_side_may_have_gone_on_by_hand(tmp_path: Path, adopted_on: str) -> None:
    """A logbook adopted on one branch, and added to by hand on the other, before and after a rebuild takes entries."""
    desk = Desk.make(tmp_path)
    desk.path.parent.mkdir(parents=True)
    desk.path.write_bytes(b"# By hand\n\n### TOY-001 an old one\n\n- Result: fast\n")
    desk.commit()
    desk.git("branch", "other")
    for branch in ("other", "main"):
        desk.git("checkout", "--quiet", branch)
        if branch == adopted_on:
            adopt(desk.checkout, "toy", "TOY")
            desk.record("by the tool")
            desk.publish()
        else:
            with desk.path.open("a") as file:
                file.write("\n### TOY-002 by hand\n\n- Result: faster\n")
        desk.commit()
    desk.merge("other")
    assert desk.sync()[0]
    assert b"### TOY-002 by hand\n\n- Result: faster\n" in desk.data
    assert desk.labels == ["by the tool"]
    check_grows(desk)


def test_a_scope_that_both_sides_edited_keeps_both(tmp_path: Path) -> None:
    """Text that both changed is left for people to choose from, the text that one changed is taken."""
    desk = make(tmp_path, CONFLICT)
    other = desk.with_store("other")
    for branch, there in (("other", other), ("main", desk)):
        desk.git("checkout", "--quiet", branch)
        data = desk.data.replace(b"- Constraints: \xe2\x80\x93", f"- Constraints: as {branch} says".encode())
        if branch == "other":
            data = data.replace(b"# toy: Research Logbook", b"# toy: What theirs calls it")
        desk.path.write_bytes(data)
        there.record(branch)
        there.publish()
        desk.commit()
    merge(desk, CONFLICT)
    assert desk.sync()[0]
    assert b"- Constraints: as main says\n- Constraints: as other says\n" in desk.data
    assert b"# toy: What theirs calls it" in desk.data and b"# toy: Research Logbook" not in desk.data
    check_grows(desk)


@pytest.mark.parametrize("how", [COMMITTED, TORN])
def test_a_damaging_merge_is_mended_later_too(tmp_path: Path, how: str) -> None:
    """Commits, entries and a second merge that came after it: the parents are found, what came since stays."""
    desk = make(tmp_path, how)
    other = diverge(desk)
    merge(desk, how)
    if how == TORN:
        # Nothing stops a publisher here: what the merge tore is not shown, so it is appended once more.
        desk.record("appended to a torn logbook")
        assert desk.publish().problems == ()
    desk.commit("later")
    desk.git("branch", "third", "other")
    desk.git("checkout", "--quiet", "third")
    other.record("third")
    other.publish()
    desk.commit()
    desk.git("checkout", "--quiet", "main")
    merge(desk, how, "third")
    wanted = {entry.record for ref in ("main^1", "third", "other") for entry in _entries(desk, ref) if entry.whole}
    assert desk.sync()[0]
    shown = [entry.record for entry in logbook_format.parse(desk.data).entries]
    assert len(shown) == len(set(shown)) and set(shown) >= wanted
    assert {"base 0", "ours 0", "ours 1", "theirs 0", "theirs 1", "third"} <= set(desk.labels)
    check_grows(desk)


def _entries(desk: Desk, ref: str) -> list[logbook_format.Entry]:
    return logbook_format.parse(desk.git("show", f"{ref}:.agents/logbooks/toy.md").encode()).entries


@pytest.mark.parametrize("command", ["rebase", "cherry-pick"])
def test_rebase_and_cherry_pick_conflicts_are_rebuilt(tmp_path: Path, command: str) -> None:
    """Where git replays one commit on another branch, the logbook is mended before it goes on."""
    desk = make(tmp_path, CONFLICT)
    diverge(desk, ours=1, theirs=1)
    desk.git("checkout", "--quiet", "other" if command == "rebase" else "main")
    with pytest.raises(Exception, match="returned non-zero"):
        desk.git(command, "main" if command == "rebase" else "other")
    assert logbook_format.conflicts(desk.data)
    assert desk.sync()[0]
    assert desk.labels == ["base 0", "base 1", "ours 0", "theirs 0"]
    desk.git("add", "--all")
    desk.git("-c", "core.editor=true", command, "--continue")
    check_grows(desk)


def test_a_conflict_in_the_records_alone_is_mended(tmp_path: Path) -> None:
    """A logbook that git merged in peace may still have record files that it could not."""
    desk = make(tmp_path, CONFLICT)
    diverge(desk, ours=1, theirs=1)
    assert not desk.merge("other")
    assert desk.sync()[0]
    desk.git("checkout", "--merge", "--", ".agents/logbooks/toy/TOY-003.jsonl")
    desk.git("add", ".agents/logbooks/toy.md")
    assert any("TOY-003.jsonl has conflict markers" in problem for problem in desk.problems())
    before = desk.data
    assert desk.sync()[0]
    assert desk.data == before
    assert len(desk.records("TOY-003")) == 5
    check_grows(desk)


def test_records_that_git_took_for_binary_are_put_together(tmp_path: Path) -> None:
    """Without conflict markers in it, only the index tells that the file is one side's."""
    desk = Desk.make(tmp_path, "*.jsonl binary")
    desk.git("branch", "other")
    diverge(desk, ours=1, theirs=1)
    assert not desk.merge("other")
    assert len(desk.records("TOY-001")) == 2
    assert desk.sync()[0]
    assert len(desk.records("TOY-001")) == 5
    check_grows(desk)


def test_an_entry_that_one_side_took_out_comes_back(tmp_path: Path) -> None:
    """No entry of either side is left out: one deleted on a branch is in the other's file."""
    desk = make(tmp_path, CONFLICT)
    diverge(desk)
    desk.git("checkout", "--quiet", "other")
    (entry, *_) = logbook_format.parse(desk.data).entries
    desk.path.write_bytes(desk.data[: entry.start] + desk.data[entry.end :])
    desk.commit()
    desk.git("checkout", "--quiet", "main")
    merge(desk, CONFLICT)
    assert desk.sync()[0]
    assert desk.labels == ["base 0", "base 1", "ours 0", "ours 1", "theirs 0", "theirs 1"]
    check_grows(desk)


def test_without_two_sides_the_way_out_is_told(tmp_path: Path) -> None:
    """Conflict markers that no merge explains are left alone, with a sentence on how to restore the file."""
    desk = make(tmp_path, CONFLICT)
    marked = desk.data + b"<<<<<<< HEAD\n=======\n>>>>>>> other\n"
    desk.path.write_bytes(marked)
    with pytest.raises(ConflictedLogbook, match="git has no two sides of a merge to rebuild it from: restore it with"):
        rebuild(desk.checkout, "toy")
    assert desk.data == marked


@pytest.mark.parametrize("cut", [30, 400])
def test_a_torn_end_is_no_damage_of_a_merge(tmp_path: Path, cut: int) -> None:
    """What a killed publisher began is finished by the same sync, also where there were merges before."""
    desk = make(tmp_path, CONFLICT)
    diverge(desk)
    merge(desk, CONFLICT)
    desk.sync()
    desk.commit()
    desk.record("torn")
    desk.publish()
    whole = desk.data
    desk.path.write_bytes(whole[:-cut])
    rebuilt, published = desk.sync()
    assert (rebuilt, published.problems) == (False, ())
    assert desk.data == whole


def test_an_edited_entry_is_not_rebuilt_away(tmp_path: Path) -> None:
    """What somebody edited is for verify to name: sync leaves it, and goes on appending."""
    desk = make(tmp_path, CONFLICT)
    diverge(desk)
    merge(desk, CONFLICT)
    desk.sync()
    desk.commit()
    edited = desk.data.replace(b"not like ours", b"much like ours", 1)
    desk.path.write_bytes(edited)
    desk.record("follows")
    rebuilt, published = desk.sync()
    assert not rebuilt and len(published.ids) == 1
    assert b"much like ours" in desk.data
    assert [problem.partition(": ")[2] for problem in desk.problems()] == ["TOY-003 was edited after it was appended"]


def test_the_file_that_was_replaced_is_kept(tmp_path: Path) -> None:
    """What stood in the conflicted file, notes that a person wrote there included, can be had again."""
    desk = make(tmp_path, CONFLICT)
    diverge(desk)
    merge(desk, CONFLICT)
    with desk.path.open("ab") as file:
        file.write(b"\nwritten into the conflict\n")
    conflicted = desk.data
    desk.sync()
    assert (desk.checkout.private / "toy.before-rebuild.md").read_bytes() == conflicted


@pytest.mark.parametrize("seed", range(6))
def test_branches_may_grow_and_merge_in_any_way(tmp_path: Path, seed: int) -> None:
    """Three branches, two stores, notes, merges of every kind, some mended late: in the end each record that any branch
    published is shown once, and verify finds nothing on the way where nothing was torn."""
    dice = random.Random(seed)
    desk = make(tmp_path, TORN if seed % 2 else CONFLICT)
    stores = [desk, desk.with_store("other")]
    desk.git("branch", "third")
    branches = ["main", "other", "third"]
    published: dict[str, set[str]] = {branch: {entry.record for entry in _entries(desk, branch)} for branch in branches}
    for _ in range(14):
        branch = dice.choice(branches)
        desk.git("checkout", "--quiet", branch)
        if dice.random() < 0.6:
            there = dice.choice(stores)
            for _ in range(dice.randrange(1, 3)):
                there.record(f"{branch}", trials=dice.randrange(2))
            if dice.random() < 0.3:
                with desk.path.open("a") as file:
                    file.write(f"\nnote {dice.random()}\n\n- of a person\n")
            there.publish()
        else:
            merged = dice.choice([name for name in branches if name != branch])
            desk.merge(merged)
            published[branch] |= published[merged]
            if dice.random() < 0.3:
                desk.commit()
            desk.sync()
        assert desk.problems() == []
        shown = [entry.record for entry in logbook_format.parse(desk.data).entries]
        assert len(shown) == len(set(shown))
        assert published[branch] <= set(shown)
        published[branch] = set(shown)
        desk.commit()
