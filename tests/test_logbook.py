"""The logbook as it is written: appended to, never changed, whole again after whatever killed or refused a publisher."""

import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from research_steps.git import Checkout
from research_steps.journal.journal import Journal
from research_steps.publish.logbook.surface import LogbookSurface
from research_steps.publish.publisher import publish
from research_steps.records.encoding import sha256

from tests.support.scratch_logbook import SERIES, Desk

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk.make(tmp_path)


def log(data: bytes) -> bytes:
    """Everything from the first entry on."""
    return data[data.index(b"<!-- research-steps entry ") :]


def headings(data: bytes) -> list[str]:
    """The top-level headings of the third level, as a Markdown reader sees them."""
    tokens = MarkdownIt().parse(data.decode())
    return [
        tokens[index + 1].content
        for index, token in enumerate(tokens)
        if token.type == "heading_open" and token.tag == "h3" and token.level == 0
    ]


def publish_apart(desk: Desk, before: str) -> int:
    """Publish in a process of its own, after it ran `before`; returns how it ended."""
    code = (
        "import os, resource, signal, sys\n"
        "from pathlib import Path\n"
        "from tests.support.scratch_logbook import Desk\n"
        "desk = Desk(Path(sys.argv[1]), Path(sys.argv[2]))\n"
        f"{before}\n"
        "print(*desk.publish().problems, sep='\\n')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(desk.root), str(desk.store)], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert not done.stderr, done.stderr
    print(done.stdout)
    return done.returncode


def test_entries_are_appended_and_no_old_byte_changes(desk: Desk) -> None:
    """Each pass adds what is new behind what was there; a pass with nothing new changes no byte of the file."""
    before = b""
    for number in range(4):
        for label in ("one", "two")[: 1 + number % 2]:
            desk.record(f"{number} {label}")
        assert desk.publish().problems == ()
        assert log(desk.data).startswith(before)
        before = log(desk.data)
    unchanged = desk.data, desk.path.stat()
    assert desk.publish().ids == ()
    assert (desk.data, desk.path.stat()) == unchanged
    assert desk.labels == ["0 one", "1 one", "1 two", "2 one", "3 one", "3 two"]
    assert desk.problems() == []


def test_an_entry_names_its_record_and_its_records_lie_in_git(desk: Desk) -> None:
    """The file beside the logbook holds the very bytes of the journal: the entry's record and those of its trials."""
    stored = desk.record("a sweep", trials=3)
    desk.publish()
    lines = desk.records("TOY-001")
    assert lines[0] == stored.line
    assert [sha256(line) for line in lines[1:]] == [row.trial.sha256 for row in stored.record.rows]
    assert f"end TOY-001 record={stored.sha256} ".encode() in desk.data


def test_entries_that_wait_are_appended_in_the_order_of_their_numbers(desk: Desk) -> None:
    """Steps that ended before the first pass stand as they were begun, whatever clock tells when they ended."""
    for number, second in enumerate((30, 10, 20)):
        desk.record(f"at {second}", finished_at=f"2026-01-01T00:00:{second}.00{number}Z")
    desk.publish()
    assert desk.labels == ["at 30", "at 10", "at 20"]


def test_a_trial_that_another_entry_holds_is_not_kept_twice(desk: Desk) -> None:
    """A sweep that shows a trial measured for an earlier entry rests on that entry's record file."""
    first = desk.record("measures it", trials=2)
    desk.record("shows it again", trials=0, rows=first.record.rows)
    desk.publish()
    assert len(desk.records("TOY-001")) == 3
    assert len(desk.records("TOY-002")) == 1
    assert desk.problems() == []


def test_the_summary_is_rewritten_without_touching_an_entry(desk: Desk) -> None:
    """What holds now is told at the head; everything outside that block stays byte for byte."""
    desk.record("a baseline", step="baseline")
    desk.publish()
    before, mark = desk.data, b"<!-- research-steps end of living part -->"
    desk.record("a failure", trials=0, status="failed", result="no such kernel")
    desk.publish()
    head, _, rest = desk.data.partition(mark)
    assert b"`a failure` failed (TOY-002): `no such kernel`" in head
    assert rest.startswith(before.partition(mark)[2])
    assert head.partition(b"<!-- research-steps living")[0] == before.partition(b"<!-- research-steps living")[0]


def test_the_summary_is_not_rewritten_with_every_entry(desk: Desk) -> None:
    """A publisher that goes on rewrites the head at most once a minute, and at its end."""
    for number in range(3):
        desk.record(f"{number}", step="baseline")
        publish(desk.journal, [desk.surface], final=False)
    assert b"Baseline numbers" in desk.data.partition(b"## Experiment Log")[0]
    assert b"- TOY-003" not in desk.data.partition(b"## Experiment Log")[0]
    publish(desk.journal, [desk.surface], final=True)
    assert b"- TOY-003" in desk.data.partition(b"## Experiment Log")[0]


def test_people_may_write_around_entries(desk: Desk) -> None:
    """Notes in the scope, between and after entries stay where they are, and nothing is said to be wrong."""
    for number in range(2):
        desk.record(f"{number}")
        desk.publish()
        with desk.path.open("ab") as file:
            file.write(b"\nA note of a person\n\n## Notes\r\n\r\n- with CRLF, and no line break at its end")
    desk.path.write_bytes(desk.data.replace(b"- Constraints: ", b"- Constraints: a person wrote this; "))
    desk.record("2")
    desk.publish()
    assert desk.data.count(b"## Notes\r\n\r\n- with CRLF, and no line break at its end") == 2
    assert b"a person wrote this" in desk.data
    assert headings(desk.data) == [line.decode()[4:] for line in desk.data.splitlines() if line.startswith(b"### ")]
    assert desk.problems() == []


@pytest.mark.parametrize(
    "note", ["```\ncode", "<!-- a comment", "<details>\n\nfolded", "~~~~\n```\n", "a < b <pre>\n\n"]
)
def test_a_note_that_is_left_open_hides_no_later_entry(desk: Desk, note: str) -> None:
    """A fence, comment or folded section that a person forgot to close is closed before the next entry."""
    desk.record("before")
    desk.publish()
    with desk.path.open("a") as file:
        file.write(f"\n{note}")
    desk.record("after")
    desk.publish()
    assert [heading.rpartition(" ")[2] for heading in headings(desk.data)] == ["before", "after"]
    assert f"\n{note}" in desk.data.decode()
    assert desk.problems() == []


def test_an_entry_cut_at_any_byte_is_whole_after_the_next_pass(desk: Desk) -> None:
    """However little of an entry a killed publisher wrote, the next one leaves the very file that one would have."""
    desk.record("stays")
    desk.publish()
    desk.record("is cut")
    desk.publish()
    whole = desk.data
    begin = whole.index(b"\n<!-- research-steps entry TOY-002")
    for end in range(begin, len(whole) - 1):
        desk.path.write_bytes(whole[:end])
        assert desk.publish().ids == ("TOY-002",)
        assert desk.data == whole, f"cut at {end - begin}"
    # Without its line break the entry is whole.
    desk.path.write_bytes(whole[:-1])
    assert desk.publish().ids == ()
    desk.record("follows")
    assert desk.publish().ids == ("TOY-003",)
    assert desk.problems() == []


def test_an_unfinished_entry_is_finished_before_anything_follows_it(desk: Desk) -> None:
    """Records that were finished earlier but seen later don't keep a torn entry from being made whole."""
    desk.record("torn", finished_at="2026-01-01T00:00:10.000Z")
    desk.publish()
    whole = desk.data
    desk.path.write_bytes(whole[:-100])
    assert any("TOY-001 was begun and not finished" in problem for problem in desk.problems())
    desk.record("earlier", finished_at="2026-01-01T00:00:05.000Z")
    assert desk.publish().ids == ("TOY-001", "TOY-002")
    assert desk.data.count(b"torn") == whole.count(b"torn")
    assert desk.problems() == []


def test_a_publisher_killed_in_the_middle_of_an_append_is_made_good(desk: Desk) -> None:
    """The kernel kills a publisher (SIGXFSZ) with half an entry on disk; the next pass leaves it whole, once."""
    desk.record("before")
    desk.publish()
    desk.record("torn", trials=0)
    size = len(desk.data) + 500
    limit = (
        f"signal.signal(signal.SIGXFSZ, signal.SIG_DFL)\nresource.setrlimit(resource.RLIMIT_CORE, (0, 0))\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))"
    )
    assert publish_apart(desk, limit) == -signal.SIGXFSZ
    assert len(desk.data) == size
    assert desk.ids == ["TOY-001"]
    assert desk.publish().ids == ("TOY-002",)
    assert desk.labels == ["before", "torn"]
    assert desk.problems() == []


def test_a_publisher_killed_between_records_and_entry_is_made_good(desk: Desk) -> None:
    """Killed (-9) when it opens the logbook to append: the records are in git, the entry follows with the next pass."""
    desk.record("before")
    desk.publish()
    before = desk.data
    desk.record("later", trials=2)
    kill = (
        "def kill(event, arguments):\n"
        "    if event == 'open' and str(arguments[0]).endswith('toy.md') and arguments[2] & os.O_RDWR:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "sys.addaudithook(kill)"
    )
    assert publish_apart(desk, kill) == -signal.SIGKILL
    assert desk.data == before
    assert len(desk.records("TOY-002")) == 3
    assert any("no entry rests on record" in problem for problem in desk.problems())
    assert desk.publish().ids == ("TOY-002",)
    assert len(desk.records("TOY-002")) == 3
    assert desk.problems() == []


@pytest.mark.parametrize("room", [0, 1, 300])
def test_a_write_that_fails_leaves_the_file_as_it_was(desk: Desk, capfd: pytest.CaptureFixture[str], room: int) -> None:
    """With no room for the whole entry the logbook keeps its bytes, and one sentence says what to do."""
    desk.record("before")
    desk.publish()
    before = desk.data
    desk.record("has no room", trials=0)
    size = len(before) + room
    assert publish_apart(desk, f"resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))") == 0
    (sentence,) = capfd.readouterr().out.split("\n\n")[0].splitlines()
    assert sentence.startswith(f"{desk.path} could not be appended to: File too large. TOY-002 is safe in the journal")
    assert desk.data == before
    assert desk.publish().ids == ("TOY-002",)
    assert desk.problems() == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    where = tmp_path / "small"
    where.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(where)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("a file system can be mounted only by root")
    yield where
    subprocess.run(["umount", "--lazy", str(where)], check=True)


def test_a_full_disk_is_told_once_and_nothing_is_lost(desk: Desk, small_disk: Path) -> None:
    """The disk of the checkout is full: nothing changes there; with room again the next pass catches up."""
    root = small_disk / "checkout"
    root.mkdir()
    small = Desk(root, desk.store)
    small.checkout = Checkout(root, None)
    desk.record("fits")
    assert small.publish().ids == ("TOY-001",)
    (small_disk / "fill").write_bytes(b"x" * 100_000)
    with (small_disk / "fill").open("ab", buffering=0) as fill, pytest.raises(OSError):
        while True:
            fill.write(b"x" * 4096)
    before = small.data
    desk.record("too much", trials=40)
    for _ in range(2):
        published = small.publish()
        assert published.ids == ()
        (problem,) = published.problems
        assert "No space left on device" in problem
        assert small.data == before
    (small_disk / "fill").unlink()
    assert small.publish().ids == ("TOY-002",)
    assert small.problems() == []
    beside = {path.name for path in small.path.with_suffix("").iterdir()}
    assert beside == {"TOY-001.jsonl", "TOY-002.jsonl", "series.json"}


def test_what_can_not_be_used_is_told_in_a_sentence(desk: Desk) -> None:
    """A logbook that is a directory, a lock that can't be made: a sentence, no traceback, and the journal stays."""
    desk.record("waits")
    desk.path.mkdir(parents=True)
    (problem,) = desk.publish().problems
    assert problem == (
        f"{desk.path} is a folder, and a commit of others could have put it there: expected a file. Nothing is read or "
        "written through it; put a file there, or take it away."
    )
    desk.path.rmdir()
    private = desk.checkout.private
    private.rename(private.with_name("moved"))
    private.write_text("in the way")
    (problem,) = desk.publish().problems
    assert problem == f"{private} could not be used: File exists."
    private.unlink()
    assert desk.publish().ids == ("TOY-001",)


def test_a_logbook_that_people_wrote_is_refused_until_it_is_adopted(desk: Desk) -> None:
    """No byte is written to a file that was not made or adopted by this tool, even one that quotes its markers."""
    other = desk.with_store("other")
    other.record("quoted")
    other.publish()
    quoted = other.data
    desk.path.unlink()
    desk.path.with_suffix("").rename(desk.root / "moved")
    for old in (b"# Notes\n", b"# Notes\n\n```\n" + quoted + b"```\n"):
        desk.path.write_bytes(old)
        if not desk.journal.ids.reserved():
            desk.record("waits")
        (problem,) = desk.publish().problems
        assert f"{desk.path} was written by hand: run 'research adopt toy" in problem
        assert desk.data == old


def test_a_conflicted_logbook_is_refused_and_left_alone(desk: Desk) -> None:
    """With git's conflict markers in it, nothing is appended and the sentence names the way out."""
    desk.record("before")
    desk.publish()
    conflicted = desk.data.replace(b"# toy: Research", b"<<<<<<< HEAD\n# toy: Research\n=======\n>>>>>>> other\n", 1)
    desk.path.write_bytes(conflicted)
    desk.record("waits")
    (problem,) = desk.publish().problems
    assert "has conflict markers of a git merge: run 'research sync toy'" in problem
    assert desk.data == conflicted


def test_one_record_that_can_not_be_published_holds_up_no_other(desk: Desk) -> None:
    """A trial that was changed in the store keeps back its own entry, and is named."""
    stored = desk.record("rests on a changed trial")
    desk.record("is fine")
    ref = stored.record.rows[0].trial
    path = desk.store / "journal" / "toy" / "trials" / "records" / f"{ref.key}-{ref.attempt}.json"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().replace(b'"status":"ok"', b'"status":"failed"'))
    published = desk.publish()
    assert published.ids == ("TOY-002",)
    (problem,) = published.problems
    assert problem.startswith("TOY-001 is not published: ") and "was changed after it was written" in problem


@pytest.mark.parametrize("id", ["../../outside", "lower-case", "A B", "A -->", ""])
def test_a_record_with_no_usable_id_is_not_published(desk: Desk, id: str) -> None:
    """An ID that is none can't name a file elsewhere or break a marker."""
    stored = desk.record("fine")
    desk.journal.store.create(
        f"journal/toy/entries/records/{'f' * 8}-0.json", stored.line.replace(b'"id":"TOY-001"', f'"id":"{id}"'.encode())
    )
    before = {path for path in desk.root.rglob("*") if ".git/" not in str(path)}
    published = desk.publish()
    assert published.ids == ("TOY-001",)
    (problem,) = published.problems
    assert "is not a record (Expected text of another form" in problem and "`$.id`" in problem
    names = {path.name for path in desk.root.rglob("*") if ".git/" not in str(path)} - {path.name for path in before}
    assert names <= {".agents", "logbooks", "toy.md", "toy", "TOY-001.jsonl", "series.json"}


def test_a_deleted_logbook_is_made_again_from_the_journal(desk: Desk) -> None:
    """The logbook is a projection: what the journal holds is shown again, once."""
    for number in range(3):
        desk.record(f"{number}")
    desk.publish()
    before = desk.data
    desk.path.unlink()
    assert desk.publish().ids == ("TOY-001", "TOY-002", "TOY-003")
    assert desk.data == before


@pytest.mark.parametrize("seed", range(4))
def test_a_running_publisher_notices_what_others_do_to_the_file(desk: Desk, seed: int) -> None:
    """Two publishers that go on for long, people who edit in place or replace the file, and commits that are checked
    out: every record is shown once, in the end, and verify finds nothing."""
    dice = random.Random(seed)
    running = [LogbookSurface(desk.checkout, Journal(desk.journal.store, "toy"), SERIES) for _ in range(2)]
    expected = 0

    def edit(data: bytes) -> bytes:
        match dice.randrange(3):
            case 0:
                return data.replace(b"- Goal: ", b"- Goal: " + b"very " * dice.randrange(1, 400), 1)
            case 1:
                return data.replace(b"very ", b"")
            case _:
                return data + b"\na note\n" * dice.randrange(1, 30)

    publish(desk.journal, running)
    for _ in range(40):
        action = dice.randrange(6)
        if action < 3:
            for _ in range(dice.randrange(1, 3)):
                desk.record("a step", trials=0)
                expected += 1
            publish(desk.journal, [running[action % 2]], final=dice.random() < 0.3)
        elif action == 3:
            changed = edit(desk.data)
            with desk.path.open("r+b") as file:
                file.write(changed)
                file.truncate()
        elif action == 4:
            aside = desk.path.with_suffix(".new")
            aside.write_bytes(edit(desk.data))
            aside.rename(desk.path)
        else:
            desk.commit()
            desk.record("elsewhere", trials=0)
            expected += 1
            publish(desk.journal, [running[0]])
            desk.git("checkout", "--quiet", "HEAD", "--", ".agents")
    publish(desk.journal, running)
    assert sorted(desk.ids) == [f"TOY-{number:03d}" for number in range(1, expected + 1)]
    assert desk.problems() == []


def test_an_append_waits_for_whoever_holds_the_lock(desk: Desk) -> None:
    """While another process is at the logbook nothing is written; it follows as soon as that one is done."""
    desk.record("waits", trials=0)
    hold = (
        "import sys\nfrom research_steps.git import Checkout\nfrom research_steps.publish.logbook.file import lock\n"
        "from research_steps.journal.logbook_place import logbook_of\nfrom pathlib import Path\n"
        "with lock(logbook_of(Checkout.find(Path(sys.argv[1])), 'toy')):\n"
        "    print('held', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(desk.root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None and holder.stdin is not None
        assert holder.stdout.readline() == "held\n"
        publisher = threading.Thread(target=desk.publish)
        publisher.start()
        time.sleep(0.3)
        assert not desk.path.exists()
        holder.stdin.close()
        publisher.join()
    assert desk.ids == ["TOY-001"]


def test_another_store_keeps_what_the_head_says(desk: Desk) -> None:
    """A clone with a store of its own adds to the summary, and takes nothing out of it."""
    config = {"owner": "me", "scope": False}
    desk.record("a decision", trials=0, step="decision", result="Keep it.", config=config)
    desk.publish()
    other = desk.with_store("other")
    other.record("another", trials=0, step="decision", result="Keep this too.", config=config)
    other.publish()
    head = other.data.decode().partition("## Experiment Log")[0]
    assert "Keep it." in head and "Keep this too." in head
