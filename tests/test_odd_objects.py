"""One bad object, one wrong clock: what is in the store or beside the logbook and is none of ours is named and skipped,
and nothing waits for it, stops for it or takes long over it."""

import json
import os
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from research_steps.git import Checkout
from research_steps.journal.attempts import Attempts
from research_steps.journal.journal import Journal
from research_steps.journal.leases import this_process
from research_steps.journal.store import open_store
from research_steps.publish.logbook import format as logbook_format
from research_steps.publish.logbook.numbers import CheckoutNumbers
from research_steps.records.objects import Intent, PublisherLease
from research_steps.records.times import utc

from tests.support.toy_thread import RESEARCH, Repository

SOON_S = 120.0
FAR = "2099-01-01T00:00:00.000Z"


class Desk(Repository):
    """A checkout with a series and an entry in it, TOY-001, in a store and a logbook."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.ok("kickoff", "toy", "--branch", ".")
        self.store = root / "local_store" / "journal" / "toy"
        self.beside = root / ".agents" / "logbooks" / "toy"

    def research(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """What a command says; one that waits fails the test."""
        environment = {**os.environ, "WANDB_MODE": "disabled"}
        pipe = subprocess.PIPE
        return subprocess.run(
            [*RESEARCH, *arguments], cwd=self.root, env=environment, stdout=pipe, stderr=pipe, text=True, timeout=SOON_S
        )

    def ok(self, *arguments: str) -> str:
        done = self.research(*arguments)
        assert done.returncode == 0 and "Traceback" not in done.stderr, done.stdout + done.stderr
        return done.stdout + done.stderr

    def decide(self, text: str) -> str:
        """The ID of a decision, which is published."""
        told: dict[str, str] = json.loads(self.research("decide", "toy", text, "--json").stdout)
        return told["entry"]

    @property
    def journal(self) -> Journal:
        return Journal(open_store(str(self.root / "local_store")), "toy")


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path / "checkout")


# -- names -------------------------------------------------------------------------------------------------------------


def test_files_and_folders_of_other_names_are_named_and_skipped(desk: Desk) -> None:
    """A README beside the logbooks, odd folders and files in the store: each command goes on with the series."""
    readme = desk.beside.with_name("README.md")
    readme.write_text("# What these are\n")
    odd = desk.store.with_name("Odd Folder")
    (odd / "entries" / "records").mkdir(parents=True)
    desk.store.with_name("notes.txt").write_text("mine")
    for command in (["status"], ["show", "TOY-001"], ["note", "TOY-001", "--next", "Go on."]):
        told = desk.ok(*command)
        for path in (readme, odd, desk.store.with_name("notes.txt")):
            assert f"skipped: {path} has a name that no series has" in told
    assert desk.decide("Go on.") == "TOY-003"


# -- what is no file ---------------------------------------------------------------------------------------------------


def pipe(path: Path) -> None:
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.mkdir()


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def circle(path: Path) -> None:
    path.symlink_to(path)


@pytest.mark.parametrize("put", [pipe, folder, device, circle])
def test_what_is_no_file_is_named_and_skipped(desk: Desk, put: Callable[[Path], None]) -> None:
    """In the place of a record, an intent, a lease and a reservation: nothing waits for it."""
    for kind in ("trials", "entries"):
        for part in ("intents", "records", "leases", "late"):
            (desk.store / kind / part).mkdir(parents=True, exist_ok=True)
            put(desk.store / kind / part / "TOY-009-0.json")
    put(desk.store / "claims" / "000009.json")
    told = desk.ok("status", "toy")
    assert f"{desk.store}/trials/records/TOY-009-0.json is no file; it was skipped and left as it is" in told
    assert "TOY-001" in desk.ok("show", "TOY-001")
    assert desk.decide("Go on.") == "TOY-010"
    assert "TOY-010" in desk.logbook
    checked = desk.research("verify", "toy")
    assert "Traceback" not in checked.stderr and "is no file" in checked.stdout


def test_a_pipe_beside_a_logbook_holds_nobody_up(desk: Desk) -> None:
    """Who looks is told and goes on; who would write or decide by what lies there stops with a sentence."""
    pipe(desk.beside / "TOY-009.jsonl")
    assert f"{desk.beside}/TOY-009.jsonl is a FIFO" in desk.ok("status", "toy")
    done = desk.research("decide", "toy", "Go on.")
    assert done.returncode == 1 and f"error: {desk.beside}/TOY-009.jsonl is a FIFO" in done.stderr


def test_a_pipe_in_the_place_of_a_logbook_holds_nobody_up(desk: Desk) -> None:
    """It is told in a sentence; the records are safe."""
    path = desk.beside.with_name("toy.md")
    path.unlink()
    os.mkfifo(path)
    assert "toy" in desk.ok("status")
    done = desk.research("sync", "toy")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert f"{path} is a FIFO" in done.stdout + done.stderr


# -- times -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["2026-13-01T09:30:00.123Z", "2026-02-30T09:30:00.123Z", "2026-05-21T24:30:00.123Z"])
def test_a_record_of_a_time_that_there_is_not_is_named_and_skipped(desk: Desk, when: str) -> None:
    """The logbook goes on without it."""
    (written,) = (desk.store / "entries" / "records").iterdir()
    text = written.read_text().replace("TOY-001", "TOY-009")
    record = json.loads(text)
    odd = written.with_name(written.name.replace("TOY-001", "TOY-009"))
    odd.write_text(text.replace(record["started_at"], when).replace(record["finished_at"], when))
    assert f"{odd} is not a record" in desk.ok("status", "toy")
    id = desk.decide("Go on.")
    assert id in desk.logbook and "TOY-009 " not in desk.logbook
    assert f"{odd} is not a record" in desk.research("verify", "toy").stdout


@pytest.mark.parametrize("extended", [FAR, "2026-13-01T00:00:00.000Z"])
def test_a_lease_of_another_century_is_waited_for_by_nobody(desk: Desk, extended: str) -> None:
    """Leases have a cap, whatever a clock said: the attempt is orphaned, and another one begins."""
    owner = this_process()
    stranger = type(owner)(machine="elsewhere", host="elsewhere", pid=1, process_started=0.0)
    far = extended if extended == FAR else utc(datetime.now(UTC) - timedelta(days=1))
    intent = Intent(
        series="toy", subject="trial", key="a" * 64, attempt=0, id="TOY-002.01", label="x", started_at=utc(),
        lease_until=far, owner=stranger, nonce="0" * 16, config={},
    )  # fmt: skip
    journal = desk.journal
    journal.objects.create(journal.objects.attempt("trial", "intents", intent.key, 0), intent)
    lease = desk.store / "trials" / "leases" / f"{intent.key}-0.json"
    lease.parent.mkdir(parents=True, exist_ok=True)
    lease.write_text(json.dumps({"lease_until": extended, "schema": 1}))
    (told,) = json.loads(desk.research("status", "toy", "--json").stdout)
    assert [attempt["orphaned"] for attempt in told["open"]] == [True]
    began = time.monotonic()
    assert Attempts.next(journal.attempts, "trial", intent.key, lambda stored: False, print) == 1
    assert time.monotonic() - began < SOON_S


def test_a_publisher_of_another_century_holds_nobody_up(desk: Desk) -> None:
    """The turn is the next one's."""
    journal = desk.journal
    owner = this_process()
    stranger = type(owner)(machine="elsewhere", host="elsewhere", pid=1, process_started=0.0)
    for surface in ("github", "wandb", "logbook"):
        turn = PublisherLease(by=stranger, lease_until=FAR, nonce="0" * 16)
        journal.objects.create(journal.objects.path(f"turns/{surface}/000009.json"), turn)
        with journal.leases.of_publisher(surface) as other:
            assert other is None
    assert desk.decide("Go on.") in desk.logbook


# -- numbers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("heading", ["TOY-999999999", "TOY-99999999", "TOY-9" + "9" * 5000])
def test_a_heading_of_any_number_leaves_a_step_its_id(desk: Desk, heading: str) -> None:
    """An unfinished step has the same ID every time, and the next one another."""
    path = desk.beside.with_name("toy.md")
    path.write_bytes(b"# By hand\n\n## " + heading.encode() + b": an idea\n")
    desk.ok("adopt", "toy", "--id-prefix", "TOY")
    numbers = CheckoutNumbers(Checkout.find(desk.root), "toy", "TOY")
    ids = [desk.journal.ids.reserve("TOY", "a step", numbers) for _ in range(3)]
    assert len(set(ids)) == 1
    assert len(ids[0]) <= len("TOY-999999999")
    assert desk.decide("Go on.") not in ("", *ids)


def test_a_reservation_of_the_last_number_is_named(desk: Desk) -> None:
    """Nothing counts on for ever."""
    last = desk.store / "claims" / "999999999.json"
    last.write_text("{}")
    done = desk.research("decide", "toy", "Go on.")
    assert done.returncode == 1
    assert f"{last} takes the last number of an experiment ID: remove it" in done.stderr


# -- size --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("above", [b"", b"```\n"])
def test_stale_adoption_markers_take_time_in_proportion(above: bytes) -> None:
    """Thousands of them, in the open or in a fence: twice as many take no more than about twice as long."""
    block = b"a line that people wrote\n" * 20 + b"<!-- research-steps adopted topic=toy prefix=TOY sha256=%b -->\n"

    def cpu_s(count: int) -> float:
        data = above + b"".join(block % (b"%064x" % number) for number in range(count))
        began = time.process_time()
        logbook_format.is_ours(data)
        return time.process_time() - began

    few, many = min(cpu_s(2000) for _ in range(3)), min(cpu_s(16000) for _ in range(2))
    assert few < 1.0
    assert many < 3 * 8 * few, "as many times as there are more, not the square of that"
