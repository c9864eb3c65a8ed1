"""The journal: every attempt ends in one standing record, whoever is killed when, and every ID is claimed once.

Those that work at the same time are processes; those that die are killed with SIGKILL. A process on another machine is
one in a PID namespace of its own: it can't be seen from here either.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from research_steps import Hypothesis, Metric, Series
from research_steps.errors import JournalProblem, StoreError, UnreadableObject
from research_steps.journal.experiment_ids import NoOthers
from research_steps.journal.journal import Journal
from research_steps.journal.leases import this_process
from research_steps.journal.snapshot import OpenAttempt
from research_steps.journal.store import LocalStore, open_store
from research_steps.publish.logbook.numbers import CheckoutNumbers
from research_steps.records.encoding import Stored, canonical, sha256
from research_steps.records.model import InterruptedRecord, TrialRecord
from research_steps.records.objects import Seal
from research_steps.records.series import HERE
from research_steps.records.times import parse_utc, utc

from tests.support.clocks import faked
from tests.support.object_store import Proxy
from tests.support.records import WHEN, entry, trial
from tests.support.scratch_logbook import Desk

KEYS = 6
# The identity of a trial.
KEY = sha256(b"k")

# Eight drivers want the same trials. Three of them die inside their first attempt, if they begin one, three at any
# moment, two go on.
RACE = """
import os, random, signal, sys, time
import fsspec, s3fs
from research_steps.journal import attempts as module
from research_steps.journal.experiment_ids import NoOthers
from research_steps.journal.journal import Journal
from research_steps.records.encoding import Stored, sha256
from research_steps.journal.store import open_store
from tests.support.records import trial
url, keys = sys.argv[1], int(sys.argv[2])
module.POLL_S = 0.02
drivers = []
for number in range(8):
    driver = os.fork()
    if driver == 0:
        break
    drivers.append(driver)
else:
    for driver in drivers[3:6]:
        time.sleep(random.uniform(0, 0.2))
        os.kill(driver, signal.SIGKILL)
    for _ in drivers:
        status = os.waitstatus_to_exitcode(os.wait()[1])
        assert status in (0, -signal.SIGKILL), status
    sys.exit()
journal = Journal(open_store(url), "moe_hc")
for key in random.sample([sha256(b"%d" % number) for number in range(keys)], keys):
    id = journal.ids.reserve("MOE-HC", key, NoOthers())
    os.write(1, f"claimed {key} {id}\\n".encode())
    while True:
        found = journal.attempts.next("trial", key, lambda stored: stored.record.status == "ok", lambda line: None)
        if isinstance(found, Stored):
            break
        with journal.attempts.begin("trial", key, found, id=id, label="", config={}) as begun:
            if not begun:
                continue
            os.write(1, f"began {key} {found}\\n".encode())
            time.sleep(random.uniform(0, 0.01))
            if number < 3:
                os.kill(os.getpid(), signal.SIGKILL)
            journal.attempts.finish("trial", trial(key=key, attempt=found, id=id))
"""

# Begins an attempt, says so, and finishes it when it is told to.
HOLD = """
import hashlib, sys
from research_steps.journal import leases as module
from research_steps.journal.journal import Journal
from research_steps.journal.store import open_store
from tests.support.records import trial
module.LEASE_S = float(sys.argv[2])
journal = Journal(open_store(sys.argv[1]), "moe_hc")
key = hashlib.sha256(b"k").hexdigest()
with journal.attempts.begin("trial", key, int(sys.argv[3]), id="MOE-HC-001.01", label="held", config={}) as begun:
    print(begun is not None, flush=True)
    sys.stdin.readline()
    stored = journal.attempts.finish("trial", trial(key=key, attempt=int(sys.argv[3]), id="MOE-HC-001.01"))
    print("late" if stored.record.late else "standing", flush=True)
"""


# Whether the one attempt is orphaned, as this process sees it.
LOOK = """
import hashlib, sys
from research_steps.journal.journal import Journal
from research_steps.journal.store import open_store
[attempt] = Journal(open_store(sys.argv[1]), "moe_hc").attempts.of("trial", hashlib.sha256(b"k").hexdigest())
print(attempt.orphaned())
"""


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(LocalStore(tmp_path / "store"), "moe_hc")


@pytest.fixture(autouse=True)
def poll_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("research_steps.journal.attempts.POLL_S", 0.02)


@contextmanager
def holder(
    journal: Journal, attempt: int = 0, lease_s: float = 60.0, elsewhere: bool = False, clock: str = ""
) -> "Iterator[subprocess.Popen[str]]":
    """A process that is at an attempt; `elsewhere` is out of sight. Its `clock` is so far off."""
    command = [sys.executable, "-c", HOLD, journal.store.url, str(lease_s), str(attempt)]
    if elsewhere:
        if os.geteuid() != 0 or sys.platform != "linux":
            pytest.skip("only root can make a PID namespace")
        command = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", *command]
    env = {**os.environ, **(faked(clock) if clock else {})}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env) as process:
        assert said(process) == "True"
        yield process
        process.kill()


def said(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def finish(process: "subprocess.Popen[str]") -> str:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return said(process)


def begin(journal: Journal, key: str = KEY, attempt: int = 0) -> bool:
    with journal.attempts.begin("trial", key, attempt, id="MOE-HC-001.01", label="", config={}) as begun:
        return begun is not None


def wanted(journal: Journal, say: Callable[[str], None] = lambda line: None) -> Any:
    """What a driver that wants trial 'k' to succeed gets from the journal."""
    return journal.attempts.next("trial", KEY, lambda stored: stored.record.status == "ok", say)


def run_race(url: str, keys: int) -> list[list[str]]:
    done = subprocess.run(
        [sys.executable, "-c", RACE, url, str(keys)], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return [line.split() for line in done.stdout.splitlines()]


def interrupted_in_a_race(url: str) -> int:
    """How many attempts a race left as interrupted; whatever it left is right."""
    lines = run_race(url, KEYS)
    journal = Journal(open_store(url), "moe_hc")
    began = Counter((key, number) for what, key, number in lines if what == "began")
    assert set(began.values()) == {1}
    snapshot = journal.scan()
    assert snapshot.problems == []
    assert snapshot.open == []
    ended = [*snapshot.trials.values(), *snapshot.interrupted.values()]
    standing = Counter((stored.record.key, stored.record.attempt) for stored in ended if not stored.record.late)
    assert set(standing.values()) == {1}
    assert set(standing) >= {(key, int(number)) for key, number in began}
    assert sorted(stored.record.key for stored in snapshot.trials.values()) == sorted(
        sha256(b"%d" % number) for number in range(KEYS)
    )
    ids = {(key, id) for what, key, id in lines if what == "claimed"}
    assert sorted(id for _, id in ids) == [f"MOE-HC-{number:03d}" for number in range(1, KEYS + 1)]
    assert len({key for key, _ in ids}) == KEYS
    return len(snapshot.interrupted)


# -- attempts --------------------------------------------------------------------------------------------------------


def test_racing_drivers_that_die_leave_one_standing_record(store_url: str) -> None:
    """Eight processes want the same trials and six are killed: each attempt is begun once and ends once, each trial
    succeeds once, each step has one ID, and no number is left out."""
    for number in range(10):
        if interrupted_in_a_race(f"{store_url}/{number}"):
            return
    pytest.fail("nobody died in an attempt; the test shows nothing")


def test_of_racing_threads_one_holds_the_attempt(journal: Journal) -> None:
    """One driver runs several steps at once, and two of them may want the same trial."""
    for key in range(20):
        together = threading.Barrier(8)
        won: list[bool] = []

        def run(key: int = key, together: threading.Barrier = together, won: list[bool] = won) -> None:
            together.wait()
            won.append(begin(journal, sha256(b"%d" % key)))

        threads = [threading.Thread(target=run) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(won) == [False] * 7 + [True]


def test_an_owner_and_a_finder_that_end_an_attempt_together_agree(journal: Journal) -> None:
    """One end stands; the owner's record is the standing one or is kept as late, never lost."""
    late = 0
    for number in range(40):
        key = sha256(b"%d" % number)
        begin(journal, key)
        [attempt] = journal.attempts.of("trial", key)
        assert isinstance(attempt, OpenAttempt)
        ends: dict[str, Stored[Any]] = {}
        together = threading.Barrier(2)

        def own(key: str = key, ends: dict[str, Stored[Any]] = ends, together: threading.Barrier = together) -> None:
            together.wait()
            ends["owner"] = journal.attempts.finish("trial", trial(key=key))

        owner = threading.Thread(target=own)
        owner.start()
        together.wait()
        ends["finder"] = journal.attempts.interrupt(attempt, "its lease ran out")
        owner.join()
        [standing] = journal.attempts.of("trial", key)
        assert isinstance(standing, Stored)
        assert ends["finder"].sha256 == standing.sha256
        assert ends["owner"].record.late == (ends["owner"].sha256 != standing.sha256)
        late += ends["owner"].record.late
    snapshot = journal.scan()
    assert len(snapshot.trials) == 40
    assert len(snapshot.interrupted) == late


def test_the_attempt_of_a_dead_process_is_ended_at_once(journal: Journal) -> None:
    """Nobody waits for the lease of a process that was killed on this machine; the next attempt may begin."""
    with holder(journal) as process:
        process.kill()
        started = time.monotonic()
        assert wanted(journal) == 1
        process.wait()
        assert wanted(journal) == 1
    assert time.monotonic() - started < 30.0, "a lease is of 60 s"
    [ended] = journal.attempts.of("trial", KEY)
    assert isinstance(ended, Stored)
    assert isinstance(ended.record, InterruptedRecord)
    assert "before it was finished" in ended.record.reason
    assert begin(journal, attempt=1)


def test_a_live_process_is_waited_for_and_its_record_is_taken(journal: Journal) -> None:
    """The one who waits is told once for whom, and measures nothing."""
    told: list[str] = []
    with holder(journal) as process:

        def say(line: str) -> None:
            told.append(line)
            # By then the one who waits has looked several times.
            threading.Timer(0.5, lambda: finish(process)).start()

        outcome = wanted(journal, say)
        assert isinstance(outcome, Stored)
        assert isinstance(outcome.record, TrialRecord)
        assert len(told) == 1
        assert f"waiting for process {process.pid} on " in told[0]


def test_a_process_out_of_sight_lasts_as_long_as_its_lease(journal: Journal) -> None:
    """A killed machine can't say that it is dead."""
    with holder(journal, lease_s=1.5, elsewhere=True) as process:
        process.kill()
        process.wait()
        [attempt] = journal.attempts.of("trial", KEY)
        assert isinstance(attempt, OpenAttempt)
        assert wanted(journal) == 1
        assert datetime.now(UTC) >= attempt.lease_until


def test_a_machine_whose_clock_is_ahead_holds_nothing_longer(journal: Journal) -> None:
    """By nearly an hour: when it dies its attempt is free once its lease ran out, as for every other one."""
    with holder(journal, lease_s=1.5, elsewhere=True, clock="+3500s") as process:
        [attempt] = journal.attempts.of("trial", KEY)
        assert isinstance(attempt, OpenAttempt) and not attempt.orphaned()
        assert parse_utc(attempt.intent.lease_until) > datetime.now(UTC) + timedelta(seconds=3000)
        process.kill()
        process.wait()
        began = time.monotonic()
        assert wanted(journal) == 1
        assert time.monotonic() - began < 60


def test_a_machine_whose_clock_is_behind_keeps_what_it_is_at(journal: Journal) -> None:
    """By more than a lease lasts, so that by its own clock that ran out before it was given."""
    with holder(journal, lease_s=6.0, elsewhere=True, clock="-90s") as process:
        [attempt] = journal.attempts.of("trial", KEY)
        assert isinstance(attempt, OpenAttempt) and not attempt.orphaned()
        assert parse_utc(attempt.intent.lease_until) < datetime.now(UTC)
        threading.Timer(8.0, lambda: finish(process)).start()
        outcome = wanted(journal)
        assert isinstance(outcome, Stored) and isinstance(outcome.record, TrialRecord)


@pytest.mark.parametrize("clock", ["+2h", "-2h"])
def test_a_jump_of_the_clock_ends_nothing_here(journal: Journal, clock: str) -> None:
    """Another process of this machine, whose clock jumped, leaves an attempt to whoever is at it."""
    with holder(journal) as process:
        command = [sys.executable, "-c", LOOK, journal.store.url]
        seen = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **faked(clock)})
        assert seen.stdout == "False\n"
        process.kill()
        process.wait()
        seen = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **faked(clock)})
        assert seen.stdout == "True\n"


def test_a_lease_that_ran_out_while_the_store_was_away_is_given_anew(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store may tell of an attempt, or of a publisher's turn, minutes after it was asked to."""
    create = journal.store.create

    def late(name: str, data: bytes) -> bool:
        monkeypatch.undo()
        return create(name, data)

    def be_late() -> None:
        """Have the next lease run out before the store answers."""
        monkeypatch.setattr("research_steps.journal.leases.LEASE_S", -1.0)
        monkeypatch.setattr(journal.store, "create", late)

    be_late()
    with journal.attempts.begin("trial", KEY, 0, id="MOE-HC-001.01", label="", config={}):
        [attempt] = journal.attempts.of("trial", KEY)
        assert isinstance(attempt, OpenAttempt)
        (lease,) = journal.store.names("journal/moe_hc/trials/leases")
        renewed = json.loads(journal.store.read(lease) or b"")
        assert renewed["lease_until"] > attempt.intent.lease_until and not attempt.orphaned()
    be_late()
    with journal.leases.of_publisher("surface") as first, journal.leases.of_publisher("surface") as second:
        assert first is None and second is not None


def test_a_publisher_that_could_not_give_its_turn_back_loses_it(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store was away when it ended; its process lives on, and has the next turn once that one ran out."""
    monkeypatch.setattr("research_steps.journal.leases.LEASE_S", 1.0)

    def away(name: str, data: bytes) -> None:
        raise StoreError("away")

    with journal.leases.of_publisher("surface") as first:
        assert first is None
        monkeypatch.setattr(journal.store, "put", away)
    monkeypatch.setattr(journal.store, "put", LocalStore(Path(journal.store.url)).put)
    with journal.leases.of_publisher("surface") as second:
        assert second == this_process()
    time.sleep(1.1)
    with journal.leases.of_publisher("surface") as third:
        assert third is None


def test_a_lease_that_is_renewed_is_respected(journal: Journal) -> None:
    """A trial may take longer than its lease, also on another machine."""
    with holder(journal, lease_s=3.0, elsewhere=True) as process:
        [attempt] = journal.attempts.of("trial", KEY)
        assert isinstance(attempt, OpenAttempt)
        threading.Timer(4.5, lambda: finish(process)).start()
        outcome = wanted(journal)
        assert isinstance(outcome, Stored)
        assert isinstance(outcome.record, TrialRecord)
        assert utc() > attempt.intent.lease_until


def test_a_cut_off_process_that_comes_back_is_late(journal: Journal) -> None:
    """It stood still for longer than its lease; what it measured is kept, and counts for nothing."""
    with holder(journal, lease_s=1.0) as process:
        process.send_signal(signal.SIGSTOP)
        assert wanted(journal) == 1
        assert begin(journal, attempt=1)
        process.send_signal(signal.SIGCONT)
        assert finish(process) == "late"
    first, _ = journal.attempts.of("trial", KEY)
    assert isinstance(first, Stored)
    assert isinstance(first.record, InterruptedRecord)
    [late] = journal.scan().trials.values()
    assert late.record.late
    assert late.record.attempt == 0


def test_a_process_number_that_is_used_again_is_not_taken_for_the_owner(journal: Journal) -> None:
    """After the owner died another program may get its number."""
    with journal.attempts.begin("trial", KEY, 0, id="MOE-HC-001.01", label="", config={}):
        [attempt] = journal.attempts.of("trial", KEY)
        assert isinstance(attempt, OpenAttempt)
        assert not attempt.orphaned()
    owner = msgspec.structs.replace(attempt.intent.owner, process_started=attempt.intent.owner.process_started - 60)
    assert OpenAttempt(msgspec.structs.replace(attempt.intent, owner=owner), attempt.lease_until).orphaned()


@pytest.mark.parametrize("what", ["intents", "records"])
def test_what_this_process_could_not_write_keeps_none_of_it_waiting(
    journal: Journal, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """A disk that is full, or an answer that is lost, when an attempt begins or ends: another step of the same process,
    which wants the same trial, waits for nobody."""
    assert isinstance(journal.store, LocalStore)
    create = LocalStore.create

    def failing(store: LocalStore, name: str, data: bytes) -> bool:
        if f"/{what}/" not in name:
            return create(store, name, data)
        if what == "intents":
            create(store, name, data)
        raise StoreError("No space left on device")

    with monkeypatch.context() as patch, pytest.raises(StoreError):
        patch.setattr(LocalStore, "create", failing)
        with journal.attempts.begin("trial", KEY, 0, id="MOE-HC-001.01", label="", config={}):
            journal.attempts.finish("trial", trial(key=KEY))
    assert journal.attempts.look("trial", KEY, lambda stored: False, print) == 1
    assert wanted(journal) == 1
    assert begin(journal, attempt=1)
    assert not journal.attempts.finish("trial", trial(key=KEY, attempt=1)).record.late


def test_a_record_that_is_finished_twice_is_the_same_record(journal: Journal) -> None:
    """Saying the same again changes nothing; saying something else is late."""
    begin(journal)
    first = journal.attempts.finish("trial", trial(key=KEY))
    assert journal.attempts.finish("trial", trial(key=KEY)) == first
    second = journal.attempts.finish("trial", trial(key=KEY, label="another"))
    assert second.record.late
    assert journal.attempts.finish("trial", trial(key=KEY, label="another")).sha256 == second.sha256
    assert len(journal.scan().trials) == 2


@pytest.mark.parametrize("lost", [1, 3])
def test_a_network_that_loses_answers_loses_and_doubles_nothing(
    s3_url: str, s3_port: int, monkeypatch: pytest.MonkeyPatch, lost: int
) -> None:
    """The store took the intent, the record or the ID and its answer was lost: they are ours, once."""
    import s3fs

    proxy = Proxy(s3_port)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3fs.S3FileSystem.clear_instance_cache()
    journal = Journal(open_store(s3_url), "moe_hc")
    proxy.lose_answers(lost)
    assert journal.ids.reserve("MOE-HC", "step", NoOthers()) == "MOE-HC-001"
    assert begin(journal)
    assert not journal.attempts.finish("trial", trial(key=KEY)).record.late
    assert proxy.lost >= min(lost, 3)
    proxy.close()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{s3_port}")
    s3fs.S3FileSystem.clear_instance_cache()
    again = Journal(open_store(s3_url), "moe_hc")
    assert [claim.id for claim in again.ids.reserved()] == ["MOE-HC-001"]
    snapshot = again.scan()
    assert len(snapshot.trials) == 1
    assert snapshot.open == []


# -- what can't be read ----------------------------------------------------------------------------------------------

BROKEN = {
    "cut off": b'{"kind":"trial","schema":1,"att',
    "empty": b"",
    "newer": b'{"kind":"trial","schema":2,"something":"new"}\n',
    "not JSON": b"\x00\xff" * 100,
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("kind", ["intents", "records"])
def test_what_can_not_be_read_is_named_and_left_and_the_thread_goes_on(journal: Journal, kind: str, data: bytes) -> None:
    """The object keeps its bytes, is told with its name, ends its attempt, and the next attempt is made."""
    begin(journal)
    broken = f"journal/moe_hc/trials/{kind}/{KEY}-0.json"
    journal.store.put(broken, data)
    told: list[str] = []
    assert wanted(journal, told.append) == 1
    assert begin(journal, attempt=1)
    stored = journal.attempts.finish("trial", trial(key=KEY, attempt=1))
    assert wanted(journal) == stored
    journal.attempts.finish("trial", trial(key=KEY, attempt=0))
    snapshot = journal.scan()
    for text in (told, snapshot.problems + snapshot.newer) if kind == "records" else (told,):
        assert len(text) == 1
        assert text[0].startswith(f"{journal.store.url}/{broken} ")
        assert "\n" not in text[0]
    assert journal.store.read(broken) == data
    assert stored.sha256 in snapshot.trials


def test_a_claim_that_can_not_be_read_still_takes_its_number(journal: Journal) -> None:
    """A newer version holds it, or a disk broke it: it is not given to anybody else."""
    assert journal.ids.reserve("MOE-HC", "a", NoOthers()) == "MOE-HC-001"
    journal.store.put("journal/moe_hc/claims/000002.json", b"broken")
    assert Journal(journal.store, "moe_hc").ids.reserve("MOE-HC", "b", NoOthers()) == "MOE-HC-003"
    assert journal.store.read("journal/moe_hc/claims/000002.json") == b"broken"


def test_files_that_are_no_objects_disturb_nothing(journal: Journal) -> None:
    """What an editor, a file manager or a killed writer leaves in the folders."""
    journal.ids.reserve("MOE-HC", "a", NoOthers())
    begin(journal)
    assert isinstance(journal.store, LocalStore)
    for folder in ("claims", "trials/intents"):
        for name in (".DS_Store", ".123-abc.tmp"):
            (journal.store.root / "journal/moe_hc" / folder / name).write_bytes(b"x")
    (journal.store.root / "journal/moe_hc/claims/000001.json~").write_bytes(b"x")
    (journal.store.root / "journal/moe_hc/claims/000001 (copy).json").write_bytes(b"x")
    again = Journal(journal.store, "moe_hc")
    assert [claim.id for claim in again.ids.reserved()] == ["MOE-HC-001"]
    assert again.ids.reserve("MOE-HC", "b", NoOthers()) == "MOE-HC-002"
    snapshot = again.scan()
    assert snapshot.problems == []
    assert len(snapshot.open) == 1


def test_a_lease_that_can_not_be_read_counts_as_none(journal: Journal) -> None:
    """A power cut may leave half of one; its holder is gone then too."""
    with holder(journal, lease_s=0.5, elsewhere=True) as process:
        process.kill()
        process.wait()
        journal.store.put(f"journal/moe_hc/trials/leases/{KEY}-0.json", b"half a le")
        assert wanted(journal) == 1


# -- experiment IDs --------------------------------------------------------------------------------------------------


def end(journal: Journal, id: str, **changes: Any) -> Stored[Any]:
    with journal.attempts.begin("entry", id, 0, id=id, label="", config={}) as begun:
        assert begun
        return journal.attempts.finish("entry", entry(key=id, id=id, **changes))


def test_an_unfinished_step_keeps_its_id_and_a_finished_one_gets_another(journal: Journal) -> None:
    """However often the driver is started; an interruption is no end, a failure is one."""
    assert journal.ids.reserve("MOE-HC", "step", NoOthers()) == "MOE-HC-001"
    assert journal.ids.reserve("MOE-HC", "step", NoOthers()) == "MOE-HC-001"
    with journal.attempts.begin("entry", "MOE-HC-001", 0, id="MOE-HC-001", label="", config={}):
        [attempt] = journal.attempts.of("entry", "MOE-HC-001")
        assert isinstance(attempt, OpenAttempt)
        journal.attempts.interrupt(attempt, "the run was stopped")
    assert journal.ids.latest_entry("step") is None
    assert journal.ids.reserve("MOE-HC", "step", NoOthers()) == "MOE-HC-001"
    with journal.attempts.begin("entry", "MOE-HC-001", 1, id="MOE-HC-001", label="", config={}):
        ended = journal.attempts.finish("entry", entry(key="MOE-HC-001", id="MOE-HC-001", attempt=1, status="failed"))
    assert journal.ids.latest_entry("step") == ended
    assert journal.ids.reserve("MOE-HC", "step", NoOthers()) == "MOE-HC-002"
    assert journal.ids.latest_entry("step") is None


def test_numbers_go_on_after_those_that_are_used_elsewhere(journal: Journal, tmp_path: Path) -> None:
    """In the logbook of this checkout, or by another store that it uses; the highest one counts, wherever it is."""
    checkout = Desk.make(tmp_path / "work").checkout
    (logbooks := checkout.root / HERE).mkdir(parents=True)
    numbers = CheckoutNumbers(checkout, "moe_hc", "MOE-HC")
    logbooks.joinpath("moe_hc.md").write_text("# MOE-HC-003\n\n# MOE-HC-041\n")
    assert journal.ids.reserve("MOE-HC", "a", numbers) == "MOE-HC-042"
    other = Journal(open_store(str(tmp_path / "other store")), "moe_hc")
    assert other.ids.reserve("MOE-HC", "b", numbers) == "MOE-HC-043"
    logbooks.joinpath("moe_hc.md").write_text("# MOE-HC-998\n")
    assert journal.ids.reserve("MOE-HC", "a", numbers) == "MOE-HC-042"
    assert journal.ids.reserve("MOE-HC", "c", numbers) == "MOE-HC-999"
    assert other.ids.reserve("MOE-HC", "d", numbers) == "MOE-HC-1000"


def test_an_id_that_another_published_is_given_up(journal: Journal, tmp_path: Path) -> None:
    """An unfinished step whose number came with a merge gets another, and keeps that."""
    checkout = Desk.make(tmp_path / "work").checkout
    (logbooks := checkout.root / HERE).mkdir(parents=True)
    numbers = CheckoutNumbers(checkout, "moe_hc", "MOE-HC")
    assert journal.ids.reserve("MOE-HC", "step", numbers) == "MOE-HC-001"
    logbooks.joinpath("moe_hc.md").write_text("# MOE-HC-001\n")
    assert [journal.ids.reserve("MOE-HC", "step", numbers) for _ in range(2)] == ["MOE-HC-002"] * 2


def test_two_drivers_of_one_step_get_one_number(journal: Journal, tmp_path: Path) -> None:
    """Whoever looks while another one is being given a number waits for that, and sees it."""
    checkout = Desk.make(tmp_path / "work").checkout
    looks = threading.Barrier(2)

    class Slow(CheckoutNumbers):
        def next(self, after: int) -> int:
            with suppress(threading.BrokenBarrierError):
                looks.wait(0.5)
            return super().next(after)

    given: list[str] = []

    def reserve() -> None:
        ids = Journal(journal.store, "moe_hc").ids
        given.append(ids.reserve("MOE-HC", "step", Slow(checkout, "moe_hc", "MOE-HC")))

    threads = [threading.Thread(target=reserve) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert given == ["MOE-HC-001"] * 2


def test_a_seal_is_decided_once(journal: Journal) -> None:
    """Whoever was first decides the commit; everybody tags that one."""
    seal = Seal(schema=1, id="MOE-HC-009", tag="moe_hc/MOE-HC-009", commit="a" * 40, sealed_at=WHEN, host="laptop")
    other = msgspec.structs.replace(seal, commit="b" * 40)
    assert journal.decided("seals/MOE-HC-009", Seal) is None
    assert journal.decide("seals/MOE-HC-009", seal) == seal
    assert journal.decide("seals/MOE-HC-009", other) == seal
    assert journal.decided("seals/MOE-HC-009", Seal) == seal


# -- reading ---------------------------------------------------------------------------------------------------------


def test_store_and_repository_make_one_journal(journal: Journal, tmp_path: Path) -> None:
    """What was published counts with an empty store; what is in both counts once; a broken line is told."""
    folder = tmp_path / "logbooks" / "moe_hc"
    folder.mkdir(parents=True)
    stored = end(journal, "MOE-HC-001")
    other = trial(key=sha256(b"elsewhere"), id="MOE-HC-002.01")
    (folder / "MOE-HC-001.jsonl").write_bytes(stored.line + b"\n")
    (folder / "MOE-HC-002.jsonl").write_bytes(canonical(msgspec.to_builtins(other)) + b"\n{broken\n")
    snapshot = journal.scan(folder)
    assert list(snapshot.entries) == [stored.sha256]
    assert [trial.record for trial in snapshot.trials.values()] == [other]
    [problem] = snapshot.problems
    assert problem.startswith(f"{folder}/MOE-HC-002.jsonl:2 is not a record")
    fresh = Journal(LocalStore(tmp_path / "empty"), "moe_hc").scan(folder)
    assert (fresh.entries, fresh.trials) == (snapshot.entries, snapshot.trials)
    assert [trial.record for trial in snapshot.find("MOE-HC-002.01")] == [other]
    assert Journal(journal.store, "moe_hc").entries().entries == snapshot.entries
    assert Journal(journal.store, "moe_hc").scan(tmp_path / "nowhere").problems == []


def test_a_record_that_another_rests_on_is_checked(journal: Journal) -> None:
    """It was changed in the store, or is gone: the sentence says which, and what to do."""
    stored = end(journal, "MOE-HC-001")
    assert journal.load("entry", stored.ref) == stored
    name = "journal/moe_hc/entries/records/MOE-HC-001-0.json"
    journal.store.put(name, stored.line.replace(b"half the time", b"half the tame"))
    with pytest.raises(JournalProblem, match=rf"{name} should be the record of MOE-HC-001 .*Restore it from a copy"):
        Journal(journal.store, "moe_hc").load("entry", stored.ref)
    assert isinstance(journal.store, LocalStore)
    (journal.store.root / name).unlink()
    with pytest.raises(JournalProblem, match=rf"{name} is gone"):
        Journal(journal.store, "moe_hc").load("entry", stored.ref)


def test_the_series_can_be_read_without_its_thread(journal: Journal) -> None:
    """`research sync` from another checkout needs no experiment code."""
    with pytest.raises(StoreError, match="holds no series 'moe_hc': name the store that the thread ran with"):
        journal.series()
    series = Series(
        topic="moe_hc", prefix="MOE-HC", goal="größer", metrics=(Metric("time_s"), Metric("rate", "max")),
        hypotheses=(Hypothesis("H1", "it is"),), tags=("a",), stop="never", sampling_s=2.5,
    )  # fmt: skip
    journal.declare(series)
    assert journal.series() == series
    journal.store.put("journal/moe_hc/series.json", b"{")
    with pytest.raises(UnreadableObject, match=r"series\.json is not a series .*: run the thread again"):
        journal.series()


def test_a_patch_is_kept_under_its_hash(journal: Journal) -> None:
    """Any bytes, once, however often it is kept."""
    patch = bytes(range(256))
    journal.keep_patch(sha256(patch), patch)
    journal.keep_patch(sha256(patch), patch)
    assert journal.patch(sha256(patch)) == patch
    assert journal.patch("0" * 64) is None


def test_two_series_in_one_store_know_nothing_of_each_other(journal: Journal) -> None:
    """Each has its own sequence of IDs."""
    other = Journal(journal.store, "other")
    assert journal.ids.reserve("MOE-HC", "step", NoOthers()) == "MOE-HC-001"
    assert other.ids.reserve("OTHER", "step", NoOthers()) == "OTHER-001"
    begin(journal)
    assert other.scan().open == []
    assert begin(other)


def test_reading_a_journal_loads_nothing_heavy() -> None:
    """`research status` answers at once: no psutil, no object store's library, no configuration library."""
    code = (
        "import sys; from pathlib import Path; from research_steps.journal.journal import Journal; "
        "from research_steps.journal.store import open_store; "
        "Journal(open_store('/nonexistent'), 'toy').scan(Path('.')); "
        "print(sorted({'psutil', 's3fs', 'fsspec', 'draccus', 'numpy', 'jax', 'asyncio'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_outline_counts_every_trial_once_and_tells_what_a_scan_would(tmp_path: Path) -> None:
    """A trial that a row tells is only counted, wherever it is; one whose bytes were changed is told."""
    journal = Journal(LocalStore(tmp_path / "store"), "moe_hc")
    told, broken = (
        journal.attempts.finish("trial", trial(key=key, id=f"MOE-HC-002.0{n}"))
        for n, key in enumerate((KEY, "b" * 64), 1)
    )
    loose = journal.attempts.finish("trial", trial(key="c" * 64, id="MOE-HC-003.01"))
    row = entry().rows[0]
    rows = tuple(msgspec.structs.replace(row, trial=trial.ref) for trial in (told, broken))
    stored = journal.attempts.finish("entry", entry(rows=rows))
    name = f"journal/moe_hc/trials/records/{'b' * 64}-0.json"
    journal.store.put(name, broken.line.replace(b'"status":"ok"', b'"status":"so"'))
    folder = tmp_path / "published"
    folder.mkdir()
    (folder / "MOE-HC-002.jsonl").write_bytes(b"\n".join([stored.line, told.line, b"{broken"]) + b"\n")
    outline = journal.outline(folder)
    assert (outline.ended, list(outline.trials)) == ({told.sha256: "ok"}, [loose.sha256])
    assert outline.problems == journal.scan(folder).problems
    where = [f"{journal.store.url}/{name}", f"{folder}/MOE-HC-002.jsonl:3"]
    assert [problem.split()[0] for problem in outline.problems] == where
    fresh = Journal(LocalStore(tmp_path / "empty"), "moe_hc").outline(folder)
    assert list(fresh.ended) == [told.sha256]


def test_an_outline_looks_into_a_published_file_that_differs(tmp_path: Path) -> None:
    """One that repeats the store is left alone; where a byte of it was changed, that is told as a scan tells it."""
    journal = Journal(LocalStore(tmp_path / "store"), "moe_hc")
    told = journal.attempts.finish("trial", trial(id="MOE-HC-002.01"))
    row = msgspec.structs.replace(entry().rows[0], trial=told.ref)
    stored = journal.attempts.finish("entry", entry(rows=(row,)))
    folder = tmp_path / "published"
    folder.mkdir()
    file = folder / f"{stored.record.id}.jsonl"
    whole = b"".join(line + b"\n" for line in (stored.line, told.line))
    for data, repeats in ((whole, True), (whole.replace(b'"kind":"trial"', b'"kind":"tribl"'), False), (b"", False)):
        file.write_bytes(data)
        outline = journal.outline(folder)
        with file.open("rb", buffering=0) as published:
            assert outline.repeats(stored.record.id, published) == repeats
            assert repeats or published.tell() == 0
        assert outline.ended == {told.sha256: "ok"}
        assert (outline.problems, outline.newer) == (journal.scan(folder).problems, journal.scan(folder).newer)
        assert bool(outline.newer) == (b"tribl" in data)


def test_an_outline_leaves_samples_where_they_are(tmp_path: Path) -> None:
    """The samples of a trial whose row tells that it is whole are left where they are."""
    journal = Journal(LocalStore(tmp_path / "store"), "moe_hc")
    told = journal.attempts.finish("trial", trial(id="MOE-HC-002.01"))
    row = msgspec.structs.replace(entry().rows[0], trial=told.ref)
    journal.attempts.finish("entry", entry(step="baseline", config={"baseline_case": {}}, rows=(row,)))
    outline = journal.outline(tmp_path / "none")
    assert (outline.trials, outline.problems) == ({}, [])
    read = outline.named[told.sha256].record
    assert (read.id, read.config, read.device_class) == (told.record.id, told.record.config, told.record.device_class)
    assert not hasattr(read, "samples")
