"""What was deleted, cut, emptied or forged beside a logbook or in it: sync restores it, and verify is content again."""

from collections.abc import Callable
from pathlib import Path

import pytest
from research_steps.errors import LogbookError
from research_steps.publish.logbook.adoption import adopt

from tests.support.sealed_logbook import SealedDesk


@pytest.fixture
def desk(tmp_path: Path) -> SealedDesk:
    """A desk whose two entries, with their trials, are published and committed."""
    made = SealedDesk.make(tmp_path)
    for number in range(2):
        made.measured(f"sweep {number}", trials=2)
    assert made.publish().problems == ()
    made.commit()
    return made


def deleted(path: Path) -> None:
    path.unlink()


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def edited(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data.replace(b'"label":"TOY-001.01"', b'"label":"TOY-001.99"', 1))


@pytest.mark.parametrize("harm", [deleted, emptied, cut, edited])
def test_a_record_file_is_put_back_from_the_store(desk: SealedDesk, harm: Callable[[Path], None]) -> None:
    """Verify names what is missing and what to do, sync does it, and the file is what it was."""
    path = desk.beside / "TOY-001.jsonl"
    before = path.read_bytes()
    harm(path)
    found = desk.checked().problems
    assert any("'research sync' puts it back" in problem for problem in found), found
    published = desk.publish()
    assert published.problems == () and [change.id for change in published.done] == ["TOY-001"]
    assert sorted(path.read_bytes().splitlines()) == sorted(before.splitlines())
    assert desk.checked().problems == ()
    assert desk.publish().done == ()


def test_another_stores_records_stay_where_one_is_put_back(desk: SealedDesk) -> None:
    """Two stores used one ID: of its file only what is no record, or nobody rests on, goes; a copy is kept."""
    other = desk.with_store("other")
    desk.git("switch", "--quiet", "--detach", "HEAD~1")
    theirs = other.measured("theirs", trials=1).sha256
    assert other.publish().problems == ()
    desk.commit()
    desk.git("switch", "--quiet", "--create", "theirs")
    desk.git("switch", "--quiet", "main")
    desk.merge("theirs")
    assert desk.sync()[1].problems == () and desk.ids.count("TOY-001") == 2
    path = desk.beside / "TOY-001.jsonl"
    whole = path.read_bytes()
    edited(path)
    assert desk.publish().problems == ()
    assert sorted(path.read_bytes().splitlines()) == sorted(whole.splitlines())
    assert theirs in desk.data.decode() and desk.checked().problems == ()
    kept = desk.root / ".git" / "research-steps" / "toy.TOY-001.before-rebuild.jsonl"
    assert b"TOY-001.99" in kept.read_bytes()


@pytest.mark.parametrize("harm", [deleted, emptied])
@pytest.mark.parametrize("by_hand", [False, True], ids=["made here", "adopted"])
def test_a_logbook_that_is_gone_comes_back_whole(tmp_path: Path, harm: Callable[[Path], None], by_hand: bool) -> None:
    """From what git has, with what people wrote there, and what the store holds since."""
    desk = SealedDesk.make(tmp_path)
    if by_hand:
        desk.path.parent.mkdir(parents=True)
        desk.path.write_bytes(b"# Toy\n\nBy hand.\n")
        adopt(desk.checkout, "toy", "TOY")
    desk.measured("committed")
    desk.publish()
    with desk.path.open("ab") as file:
        file.write(b"\nA note.\n")
    desk.commit()
    desk.measured("since then")
    desk.publish()
    before = desk.data
    harm(desk.path)
    assert desk.publish().problems == ()
    assert desk.data == before and desk.checked().problems == ()


def cut_short(data: bytes) -> bytes:
    return data[:20]


def with_a_hole(data: bytes) -> bytes:
    """As an append leaves it that comes while an editor writes the file anew."""
    return bytes(len(data) - 400) + data[-400:]


@pytest.mark.parametrize("harm", [cut_short, with_a_hole])
@pytest.mark.parametrize("committed", [True, False])
def test_what_an_editor_wrote_over_is_made_again(
    tmp_path: Path, harm: Callable[[bytes], bytes], committed: bool
) -> None:
    """It is not taken for one that people wrote: a run says what to do, and sync does it. What was there is kept."""
    desk = SealedDesk.make(tmp_path)
    for number in range(2):
        desk.measured(f"sweep {number}")
        desk.publish()
        if committed:
            desk.commit()
    before = desk.data
    desk.path.write_bytes(harm(before))
    (problem,) = {*desk.publish().problems}
    assert "is spoilt: another program" in problem and "'research sync toy' makes it again" in problem
    rebuilt, published = desk.sync()
    assert rebuilt and published.problems == ()
    assert desk.data == before and desk.checked().problems == ()
    kept = desk.root / ".git" / "research-steps" / "toy.before-rebuild.md"
    assert kept.read_bytes() == harm(before)


SUMMARY, END = b"<!-- research-steps living part", b"<!-- research-steps end of living part -->\n"


def without_end(data: bytes) -> bytes:
    return data.replace(END, b"")


def without_begin(data: bytes) -> bytes:
    return b"".join(line for line in data.splitlines(keepends=True) if not line.startswith(SUMMARY))


def with_end_moved(data: bytes) -> bytes:
    return data.replace(END, b"") + END


@pytest.mark.parametrize(
    "harm", [without_end, without_begin, lambda data: without_begin(without_end(data)), with_end_moved],
    ids=["no end", "no begin", "neither", "end below the entries"],
)  # fmt: skip
def test_a_summary_that_lost_a_marker_is_made_again(desk: SealedDesk, harm: Callable[[bytes], bytes]) -> None:
    """Verify names that; after sync the true one stands between its markers, and no entry has changed."""
    true = desk.data.partition(SUMMARY)[2].partition(END)[0]
    entries = desk.data.partition(b"## Experiment Log")[2]
    desk.path.write_bytes(harm(desk.data))
    assert any("the summary lost a marker" in problem for problem in desk.checked().problems)
    assert desk.publish().problems == ()
    assert desk.data.partition(SUMMARY)[2].partition(END)[0] == true
    assert desk.data.partition(b"## Experiment Log")[2].removesuffix(END) == entries
    assert desk.checked().problems == ()


def test_a_forged_summary_without_its_end_is_gone_after_sync(desk: SealedDesk) -> None:
    desk.path.write_bytes(desk.data.replace(b"## TL;DR", b"## TL;DR\n- A forged finding.").replace(END, b""))
    desk.publish()
    assert b"forged" not in desk.data and desk.checked().problems == ()


def test_a_removed_file_of_a_bundle_is_named(tmp_path: Path) -> None:
    """Each of them, once the tag's commit is in this history, with what brings it back."""
    desk = SealedDesk.make(tmp_path)
    desk.git("switch", "--quiet", "--create", "research/toy")
    desk.commit()
    desk.measured("a sweep")
    tag = desk.seal()
    desk.commit()
    assert desk.checked().problems == ()
    files = sorted(
        path for path in desk.beside.iterdir() if path.name.startswith("TOY-002.") and path.suffix != ".jsonl"
    )
    assert len(files) >= 3
    for path in files:
        path.unlink()
        (problem,) = desk.checked().problems
        assert path.name in problem and tag in problem
        desk.git(*problem.partition("'git ")[2].partition("'")[0].split())
        assert desk.checked().problems == ()


@pytest.mark.parametrize("left_out", [".agents/logbooks/toy/", ".agents/"])
def test_a_sparse_checkout_is_no_tampering(desk: SealedDesk, left_out: str) -> None:
    """It is told what to do, nothing is written in place of what is left out, and all is well when that was done."""
    desk.git("sparse-checkout", "set", "--no-cone", "/*", f"!/{left_out}")
    with pytest.raises(LogbookError, match=r"'git sparse-checkout add [.]agents/logbooks/toy' brings"):
        desk.checked()
    assert [problem for problem in desk.publish().problems if "is a sparse checkout" in problem]
    assert desk.git("status", "--porcelain", "--", ".agents/logbooks") == ""
    desk.git("sparse-checkout", "disable")
    assert desk.publish().problems == () and desk.checked().problems == ()
