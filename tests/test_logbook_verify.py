"""What `research verify` sees: every change to an entry, its markers, its records; and nothing where all is honest."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from research_steps.publish.logbook import format as logbook_format
from research_steps.publish.logbook.format import Entry
from research_steps.records.encoding import sha256

from tests.support.scratch_logbook import PROVENANCE, Desk

Tamper = Callable[[bytes, list[Entry]], bytes]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """Four entries, TOY-001 to TOY-004, each with two trials."""
    desk = Desk.make(tmp_path)
    for number in range(4):
        desk.record(f"step {number}", trials=2, result=f"result {number}")
        desk.publish()
    assert desk.problems() == []
    return desk


def text(data: bytes, entry: Entry) -> bytes:
    return data[entry.start : entry.end]


def rehashed(entry: bytes) -> bytes:
    """An entry whose marker was made to fit its changed text."""
    body, mark, end = entry.partition(b"<!-- research-steps end ")
    claimed = end.split(b"entry=")[1][:64]
    return body + mark + end.replace(claimed, sha256(body).encode())


TAMPERED: dict[str, tuple[Tamper, str]] = {
    "edited": (lambda data, _: data.replace(b"result 1", b"result 9"), "TOY-002 was edited after it was appended"),
    "a line added": (
        lambda data, _: data.replace(b"- Result: result 1\n", b"- Result: result 1\n- And: more\n"),
        "TOY-002 was edited after it was appended",
    ),
    "removed": (
        lambda data, entries: data.replace(text(data, entries[1]), b""),
        "TOY-003 follows an entry that is missing",
    ),
    "the first removed": (
        lambda data, entries: data.replace(text(data, entries[0]), b""),
        "TOY-002 follows an entry that is missing",
    ),
    "the last removed": (
        lambda data, entries: data.replace(text(data, entries[3]), b""),
        "TOY-004.jsonl: no entry rests on record",
    ),
    "reordered": (
        lambda data, entries: (
            data[: entries[1].start] + text(data, entries[2]) + text(data, entries[1]) + data[entries[2].end :]
        ),
        "TOY-003 stands before an entry that it was appended after",
    ),
    "moved to the end": (
        lambda data, entries: data.replace(text(data, entries[0]), b"") + text(data, entries[0]),
        "TOY-002 stands before an entry that it was appended after",
    ),
    "copied": (lambda data, entries: data + b"\n" + text(data, entries[1]), "TOY-002 stands twice"),
    "copied and chained": (
        lambda data, entries: (
            data
            + b"\n"
            + text(data, entries[1]).replace(f"prev={entries[1].prev[0]}".encode(), f"prev={entries[3].link}".encode())
        ),
        "TOY-002 shows a record that another entry shows",
    ),
    "edited with its hash": (
        lambda data, entries: data.replace(
            text(data, entries[1]), rehashed(text(data, entries[1]).replace(b"result 1", b"result 9"))
        ),
        "TOY-003 follows an entry that is missing, or whose marker was changed",
    ),
    "given another ID": (
        lambda data, entries: data + rehashed(text(data, entries[3]).replace(b"TOY-004", b"TOY-009")),
        "TOY-009: its record",
    ),
    "given another's record": (
        lambda data, entries: data.replace(
            f"end TOY-004 record={entries[3].record}".encode(), f"end TOY-004 record={entries[2].record}".encode()
        ),
        "TOY-004: its record",
    ),
    "begun without an end": (
        lambda data, entries: data.replace(b"<!-- research-steps end TOY-002", b"<!-- research-steps End TOY-002"),
        "an entry begins or ends here, and its other end is missing",
    ),
    "ended without a beginning": (
        lambda data, entries: data.replace(b"<!-- research-steps entry TOY-003 -->\n", b""),
        "an entry begins or ends here, and its other end is missing",
    ),
    "an end marker alone": (
        lambda data, entries: data + text(data, entries[0]).splitlines(keepends=True)[-1],
        "an entry begins or ends here, and its other end is missing",
    ),
    "the text taken away as if shown elsewhere": (
        lambda data, entries: data.replace(text(data, entries[1]), logbook_format.shown_above(text(data, entries[1]))),
        "TOY-002 is said to be shown by another entry, which is missing",
    ),
    "cut in the middle of the last": (
        lambda data, entries: data[: entries[3].start + 300],
        "TOY-004 was begun and not finished",
    ),
    "hidden by a forged adoption": (
        lambda data, entries: (
            data[: entries[2].end]
            + logbook_format.adoption_marker(data[: entries[2].end], "toy", "TOY")
            + data[entries[2].end :]
            + text(data, entries[0])
        ),
        "TOY-001 stands twice",
    ),
    "conflict markers": (
        lambda data, entries: data.replace(b"- Result: result 1\n", b"<<<<<<< HEAD\n- Result: result 1\n=======\n"),
        "a conflict marker of git",
    ),
}


@pytest.mark.parametrize("how", TAMPERED)
def test_a_changed_logbook_is_named(desk: Desk, how: str) -> None:
    """Whatever was done to entries or their markers, verify says to which one, and on which line."""
    tamper, expected = TAMPERED[how]
    changed = tamper(desk.data, logbook_format.parse(desk.data).entries)
    assert changed != desk.data
    desk.path.write_bytes(changed)
    problems = desk.problems()
    assert any(expected in problem for problem in problems), problems


def test_no_byte_of_an_entry_can_change_unseen(desk: Desk) -> None:
    """One other byte anywhere between the first marker of an entry and its last is found, wherever it is."""
    dice = random.Random(1)
    data = desk.data
    for entry in logbook_format.parse(data).entries:
        for offset in dice.sample(range(entry.start, entry.end - 1), 60):
            byte = bytes([dice.choice([other for other in b"0a#\n -" if other != data[offset]])])
            desk.path.write_bytes(data[:offset] + byte + data[offset + 1 :])
            assert desk.problems(journal=False), f"{entry.id}, byte {offset - entry.start}: {data[offset]} to {byte!r}"


def test_line_ends_that_git_changed_are_no_edit(desk: Desk) -> None:
    """A checkout with CRLF line ends is checked as it is, and takes entries."""
    desk.path.write_bytes(desk.data.replace(b"\n", b"\r\n"))
    assert desk.problems() == []
    desk.record("follows", step="baseline")
    desk.publish()
    assert desk.ids[-1] == "TOY-005"
    assert desk.problems() == []
    # Entry and summary have the line ends that all others have.
    assert desk.data.count(b"\n") == desk.data.count(b"\r\n")


RECORDS: dict[str, tuple[Callable[[list[bytes]], list[bytes]], str]] = {
    "an entry's record changed": (
        lambda lines: [lines[0].replace(b"result 1", b"result 9"), *lines[1:]],
        "TOY-002: its record",
    ),
    "an entry's record removed": (lambda lines: lines[1:], "TOY-002: its record"),
    "a trial's record changed": (
        lambda lines: [lines[0], lines[1].replace(b'"work":1', b'"work":7'), lines[2]],
        "TOY-002: the record of its trial TOY-002.01 is missing or was changed",
    ),
    "a trial's record removed": (
        lambda lines: lines[:2],
        "TOY-002: the record of its trial TOY-002.02 is missing or was changed",
    ),
    "a record added": (
        lambda lines: [*lines, lines[1].replace(b'"work":1', b'"work":7')],
        "TOY-002.jsonl: no entry rests on record",
    ),
    "half a record": (lambda lines: [*lines[:2], lines[2][:100]], "is not a record"),
    "conflict markers": (
        lambda lines: [b"<<<<<<< HEAD", *lines, b"=======", b">>>>>>> other"],
        "TOY-002.jsonl has conflict markers of git; 'research sync' puts both sides' records together",
    ),
}


@pytest.mark.parametrize("how", RECORDS)
def test_changed_records_are_named(desk: Desk, how: str) -> None:
    """A record in git that is not the one that the entry shows, or that nothing shows, is named."""
    tamper, expected = RECORDS[how]
    path = desk.path.with_suffix("") / "TOY-002.jsonl"
    path.write_bytes(b"\n".join([*tamper(desk.records("TOY-002")), b""]))
    problems = desk.problems(journal=False)
    assert any(expected in problem for problem in problems), problems
    assert not any("TOY-001" in problem for problem in problems)


def test_a_record_file_that_is_gone_is_named(desk: Desk) -> None:
    """The entry whose records were deleted says so; the others are not accused."""
    (desk.path.with_suffix("") / "TOY-003.jsonl").unlink()
    (problem,) = desk.problems(journal=False)
    assert problem.startswith("TOY-003: its record")


@pytest.mark.parametrize("kind", ["entries", "trials"])
def test_a_record_that_the_journal_holds_differently_is_named(desk: Desk, kind: str) -> None:
    """The store's copy of what was published was changed afterwards: both hashes are told."""
    path = sorted((desk.store / "journal" / "toy" / kind / "records").iterdir())[0]
    path.write_bytes(path.read_bytes().replace(b'"status":"ok"', b'"status":"failed"'))
    (problem,) = desk.problems()
    assert ": the journal holds it with hash" in problem


@pytest.mark.parametrize("kind", ["entries", "trials"])
def test_a_record_that_was_altered_together_with_its_time_is_named(desk: Desk, kind: str) -> None:
    """Another time of its beginning makes it no other record: its end, its rows, or the entry that rests on it tell."""
    path = sorted((desk.store / "journal" / "toy" / kind / "records").iterdir())[0]
    record = {**json.loads(path.read_bytes()), "started_at": "2020-01-01T00:00:00.000Z", "status": "failed"}
    path.write_bytes(json.dumps(record, sort_keys=True, separators=(",", ":")).encode() + b"\n")
    (problem,) = desk.problems()
    assert problem.startswith(f"{record['id']}: the journal holds it with hash")


def test_a_trial_that_the_stores_own_entry_does_not_know_is_named(desk: Desk) -> None:
    """Before anything is published: an entry of the store rests on a trial with another hash than is there."""
    desk.record("waits", trials=1)
    records = desk.store / "journal" / "toy" / "trials" / "records"
    path = next(path for path in records.iterdir() if b"TOY-005.01" in path.read_bytes())
    path.write_bytes(path.read_bytes().replace(b'"work":1', b'"work":7'))
    (problem,) = desk.problems()
    assert problem.startswith("TOY-005.01: the journal holds it with hash") and "TOY-005 of the journal" in problem


def test_a_journal_object_that_is_broken_is_named(desk: Desk) -> None:
    """What can't be read in the store is a problem too, not a thing to pass over."""
    path = desk.store / "journal" / "toy" / "entries" / "records" / "TOY-002-0.json"
    path.write_bytes(path.read_bytes()[:50])
    (problem,) = desk.problems()
    assert "TOY-002-0.json is not a record" in problem


def test_a_changed_patch_is_named(desk: Desk) -> None:
    """A patch is named by its hash; another content under that name is found."""
    patch = b"diff --git a/x b/x\n"
    desk.journal.keep_patch(sha256(patch), patch)
    desk.record("dirty", provenance=msgspec.structs.replace(PROVENANCE, patch=sha256(patch)))
    desk.publish()
    assert desk.problems() == []
    path = desk.path.with_suffix("") / f"{sha256(patch)}.patch"
    assert path.read_bytes() == patch
    path.write_bytes(patch + b"+ more\n")
    assert desk.problems() == [f"{sha256(patch)[:12]}….patch is not what it was"]


def test_a_clone_without_the_store_is_checked_from_git_alone(desk: Desk) -> None:
    """Logbook and record files vouch for each other; an empty store says nothing against them."""
    assert desk.problems(journal=False) == []
    assert desk.with_store("empty").problems() == []


def test_two_stores_may_have_used_one_id(desk: Desk, tmp_path: Path) -> None:
    """A record of the same ID and attempt in another machine's store is another record, no change."""
    assert Desk.make(tmp_path / "other").record("another record").record.id == "TOY-001"
    assert Desk(desk.root, tmp_path / "other" / "store").problems() == []


def test_a_changed_attachment_is_named(desk: Desk) -> None:
    """What people attached is named by its hash; another content under that name is found."""
    plot = b"<svg>1</svg>\n"
    name = f"{sha256(plot)[:12]}-plot.svg"
    desk.journal.keep_attachment(name, plot)
    desk.record("a plot", step="attachment", config={"file": name, "sha256": sha256(plot)})
    desk.publish()
    assert desk.problems() == []
    path = desk.path.with_suffix("") / "attachments" / name
    path.write_bytes(plot.replace(b"\n", b"\r\n"))
    assert desk.problems() == []
    path.write_bytes(plot + b"<!-- more -->\n")
    assert desk.problems() == [f"attachments/{name} is not what it was"]
