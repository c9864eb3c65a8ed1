"""How far a step is that measures many trials: what `research status` says of it, and what --watch follows.

Drivers and workers are processes that do what they are told on their standard input, and are killed with SIGKILL.
"""

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from research_steps.journal import progress
from research_steps.journal.journal import Journal
from research_steps.journal.store import LocalStore, open_store
from research_steps.records.model import TrialRecord
from research_steps.records.objects import TrialPlan
from research_steps.records.times import utc

from tests.support.object_store import Proxy
from tests.support.records import entry, trial
from tests.support.sweep_actor import STEP, Actor, begin, end, key

RESEARCH = [sys.executable, "-m", "research_steps"]


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(LocalStore(tmp_path / "local_store"), "moe_hc")


@pytest.fixture
def actor(journal: Journal) -> Iterator[Callable[[], Actor]]:
    started: list[Actor] = []

    def start() -> Actor:
        started.append(Actor(journal))
        return started[-1]

    yield start
    for worker in started:
        worker.kill()


def research(where: Path, *arguments: str) -> str:
    done = subprocess.run([*RESEARCH, "status", *arguments], cwd=where, capture_output=True, text=True, check=True)
    return done.stdout


def seen(journal: Journal) -> progress.StepProgress:
    (step,) = progress.under_way(journal, journal.recent())
    return step


def counts(journal: Journal) -> tuple[int, int, int, int, int]:
    step = seen(journal)
    return step.done, step.failed, step.held, len(step.running), step.queued


def test_status_says_how_far_a_step_is_and_what_became_of_its_driver(
    tmp_path: Path, journal: Journal, actor: Callable[[], Actor]
) -> None:
    """Done, failed, held, running and queued add up to what was planned; when the driver and a worker are killed, the
    worker's trial is queued again, and status says that the driver has to be started."""
    driver, worker = actor(), actor()
    driver.do("plan|20|block sizes", "step|0")
    progress.passed(journal, STEP, "1", [f"{STEP}.19", f"{STEP}.20"])
    for number in range(1, 6):
        worker.do(f"begin|{number}", f"end|{number}|{'failed' if number == 3 else 'ok'}")
    worker.do("begin|6", "begin|7")
    shown = research(tmp_path)
    assert f"  {STEP} block sizes: 7 of 20 done (1 failed, 2 from the journal), 2 running on " in shown
    assert ", 11 queued, about " in shown and " left\n" in shown and "driver" not in shown

    worker.kill()
    driver.kill()
    told = "7 of 20 done (1 failed, 2 from the journal), 13 queued (2 orphaned); its driver is gone: start it again"
    assert told in research(tmp_path)
    (series,) = json.loads(research(tmp_path, "--json"))
    (plan,) = series["plans"]
    assert plan == {
        **{"id": STEP, "label": "block sizes", "total": 20, "done": 7, "failed": 1, "held": 2, "queued": 13},
        **{"running": [], "orphaned": [f"{STEP}.06", f"{STEP}.07"], "driver_gone": True, "left_s": None, "told": []},
    }


def test_a_step_that_waits_for_a_machine_is_not_told_to_run(
    tmp_path: Path, journal: Journal, actor: Callable[[], Actor]
) -> None:
    """It runs when one of its trials does."""
    driver = actor()
    driver.do("plan|2|block sizes", "step|0")
    assert f"  waiting: {STEP} " in research(tmp_path) and "running" not in research(tmp_path)
    driver.do("begin|1")
    assert f"  running: {STEP} " in research(tmp_path) and "waiting" not in research(tmp_path)


def test_a_step_whose_entry_is_there_is_no_longer_told(journal: Journal, actor: Callable[[], Actor]) -> None:
    """What has ended stands in the logbook; its plan says nothing any more, also when a trial of it was never made."""
    actor().do("plan|3|block sizes", "step|0", "begin|1", "end|1|ok")
    assert counts(journal) == (1, 0, 0, 0, 2)
    journal.attempts.finish("entry", entry(id=STEP, key=STEP, rows=()))
    assert progress.under_way(journal, journal.scan()) == []


def test_a_trial_counts_once_however_often_it_was_tried(journal: Journal, actor: Callable[[], Actor]) -> None:
    """Interrupted, measured again, disturbed and begun anew, ended late, held before it was measured after all: it is
    one trial in the state of its newest attempt."""
    actor().do("plan|4|block sizes", "step|0")
    progress.passed(journal, STEP, "0", [f"{STEP}.04"])
    with ExitStack() as attempts:
        attempts.enter_context(begin(journal, 1))
        (attempt,) = [attempt for attempt in journal.scan().open if attempt.intent.subject == "trial"]
        journal.attempts.interrupt(attempt, "its machine was lost")
        assert counts(journal) == (2, 1, 1, 0, 2)
        time.sleep(0.002)
        attempts.enter_context(begin(journal, 1, attempt=1))
        assert counts(journal) == (1, 0, 1, 1, 2)
        end(journal, 1, attempt=1)
        end(journal, 1, attempt=0)
        end(journal, 1, attempt=1, status="failed")
        assert counts(journal) == (2, 0, 1, 0, 2)
        time.sleep(0.002)
        attempts.enter_context(begin(journal, 1, attempt=2))
        assert counts(journal) == (1, 0, 1, 1, 2)
        end(journal, 1, attempt=2, status="failed")
        attempts.enter_context(begin(journal, 4))
        end(journal, 4)
        assert counts(journal) == (2, 1, 0, 0, 2)


def test_a_trial_that_another_step_shows_already_is_done(journal: Journal, actor: Callable[[], Actor]) -> None:
    """Two steps that want one configuration share its trial; the one that ends first does not hide it from the other."""
    actor().do("plan|2|block sizes", "step|0", "begin|1", "end|1|ok")
    (stored,) = journal.scan().trials.values()
    row = msgspec.structs.replace(entry().rows[0], trial=stored.ref)
    journal.attempts.finish("entry", entry(id="MOE-HC-032", key="MOE-HC-032", rows=(row,)))
    snapshots = [journal.recent(), journal.outline(Path("none")), journal.scan()]
    assert [len(snapshot.trials) for snapshot in snapshots] == [0, 0, 1]
    assert [step.done for snapshot in snapshots for step in progress.under_way(journal, snapshot)] == [1, 1, 1]


def test_the_next_driver_goes_on_with_the_plan(journal: Journal, actor: Callable[[], Actor]) -> None:
    """After a driver was killed and started again nothing counts twice, whatever it finds in the journal, and the time
    in which nobody measured does not slow the forecast."""
    first = actor().do("plan|9|block sizes", "step|0")
    old = utc(datetime.now(UTC) - timedelta(days=3))
    with begin(journal, 1), begin(journal, 2):
        end(journal, 1, started_at=old, finished_at=old)
        end(journal, 2, started_at=old, finished_at=old)
    first.kill()
    assert seen(journal).driver_gone
    journal.attempts.end_orphaned()
    assert journal.scan().open == []
    assert seen(journal).driver_gone

    second = actor().do("plan|9|block sizes", "step|1")
    progress.passed(journal, STEP, "0", [f"{STEP}.01", f"{STEP}.02"])
    assert counts(journal) == (2, 0, 0, 0, 7)
    step = seen(journal)
    assert not step.driver_gone and step.left_s is None
    second.do("begin|3", "end|3|ok", "begin|4", "end|4|ok")
    step = seen(journal)
    assert step.done == 4 and step.left_s is not None and step.left_s < timedelta(days=1).total_seconds()


def test_a_driver_that_has_not_begun_its_entry_is_known_by_its_process(
    journal: Journal, actor: Callable[[], Actor]
) -> None:
    """A step in shards begins its entry when they have ended; until then its driver on this machine is seen to live."""
    driver = actor().do("plan|2|block sizes")
    assert not seen(journal).driver_gone
    driver.kill()
    assert seen(journal).driver_gone
    actor().do("plan|2|block sizes")
    assert not seen(journal).driver_gone


def test_a_driver_elsewhere_is_gone_when_its_entry_was_interrupted(journal: Journal) -> None:
    """Its process can't be seen from here, but it said that it was stopped; until another driver takes over."""
    if os.geteuid() != 0 or sys.platform != "linux":
        pytest.skip("only root can make a PID namespace")
    with elsewhere(journal) as driver:
        driver.do("plan|2|block sizes", "step|0")
        assert not seen(journal).driver_gone
        journal.attempts.interrupt(journal.recent().open[0], "it was stopped by Ctrl-C")
        assert seen(journal).driver_gone
    assert seen(journal).driver_gone
    with elsewhere(journal) as driver:
        driver.do("plan|2|block sizes")
        assert not seen(journal).driver_gone


@contextmanager
def elsewhere(journal: Journal) -> Iterator[Actor]:
    """A process that is out of sight."""
    driver = Actor(journal, "unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
    yield driver
    driver.kill()


def planned(journal: Journal, ends: list[tuple[float, float]], total: int) -> progress.StepProgress:
    """A step whose trials began and ended so many seconds ago, all since it was planned."""
    now = datetime.now(UTC)
    progress.plan(journal, STEP, "block sizes", total)
    note = journal.noted(f"plans/{STEP}", TrialPlan)
    assert note is not None
    journal.note(f"plans/{STEP}", msgspec.structs.replace(note, planned_at=utc(now - timedelta(days=1))))
    for number, ago in enumerate(ends, 1):
        began, ended = (utc(now - timedelta(seconds=seconds)) for seconds in ago)
        journal.attempts.finish("trial", _ended(number, began, ended))
    return seen(journal)


def _ended(number: int, began: str, ended: str) -> TrialRecord:
    return trial(key=key(number), id=f"{STEP}.{number:02d}", started_at=began, finished_at=ended)


def test_the_forecast_follows_the_machines_that_are_there_now(journal: Journal) -> None:
    """Ten machines made ten trials a minute for ten minutes; then one was left, which makes one: the 60 trials that are
    left take an hour, not the twelve minutes that they would take at the rate since the beginning."""
    many = [(60.0 * minute + 60, 60.0 * minute) for minute in range(30, 40) for _ in range(10)]
    few = [(60.0 * minute + 60, 60.0 * minute) for minute in range(30)]
    step = planned(journal, many + few, 190)
    assert step.left_s is not None
    assert step.left_s == pytest.approx(3600, rel=0.1)


def test_the_forecast_of_trials_that_end_together_counts_whole_rounds(journal: Journal) -> None:
    """Fifty machines that began together end together, within a second of each other: after two rounds of ten minutes,
    two more take twenty minutes."""
    rounds = [(600.0 * (turn + 1), 600.0 * turn + share / 50) for turn in (0, 1) for share in range(50)]
    with ExitStack() as attempts:
        for number in range(201, 251):
            attempts.enter_context(begin(journal, number))
        step = planned(journal, rounds, 200)
    assert step.left_s == pytest.approx(1200, rel=0.1)


def test_there_is_no_forecast_from_one_trial(journal: Journal) -> None:
    """Before two trials have ended nothing is known of the rate."""
    assert planned(journal, [(20.0, 10.0)], 4).left_s is None


def test_a_note_that_a_power_cut_broke_is_named_and_made_again(tmp_path: Path, journal: Journal) -> None:
    """Notes are not written durably: a broken one fails neither status nor the step that goes on."""
    journal.store.put(f"journal/moe_hc/plans/{STEP}.json", b"")
    shown = research(tmp_path)
    assert f"plans/{STEP}.json is not a record" in shown and " done" not in shown
    progress.plan(journal, STEP, "block sizes", 3)
    assert seen(journal).total == 3


def test_a_label_stays_text(tmp_path: Path, journal: Journal) -> None:
    """What a thread calls its step breaks no line, steers no terminal and is no markup."""
    progress.plan(journal, STEP, "a\n[red]b\x1b[2J", 3)
    assert f"  {STEP} a [red]b\ufffd[2J: 0 of 3 done, 3 queued\n" in research(tmp_path)


def test_watch_prints_what_changes_until_nothing_runs(
    tmp_path: Path, journal: Journal, actor: Callable[[], Actor]
) -> None:
    """On a pipe: a line for each change, the outcome of the step, and an end by itself."""
    driver = actor().do("plan|2|block sizes", "step|0", "begin|1")
    command = [*RESEARCH, "status", "moe_hc", "--watch"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(f"{STEP} block sizes: 0 of 2 done, 1 running on ")
        driver.do("end|1|ok")
        assert process.stdout.readline() == f"{STEP} block sizes: 1 of 2 done, 1 queued\n"
        driver.do("begin|2", "end|2|failed")
        line = process.stdout.readline()
        # It may have been seen while it ran.
        line = line if "1 failed" in line else process.stdout.readline()
        assert line == f"{STEP} block sizes: 2 of 2 done (1 failed)\n"
        driver.do("done")
        assert process.stdout.read() == f"{STEP} implementations: ok, one is best\n"
    assert process.returncode == 0


def test_watch_on_a_terminal_draws_a_table_until_ctrl_c(
    tmp_path: Path, journal: Journal, actor: Callable[[], Actor]
) -> None:
    """The step with its bar and the trials that run are drawn again and again; Ctrl-C is no error."""
    driver = actor().do("plan|4|[bold]block sizes", "step|0", "begin|1", "end|1|ok", "begin|2")
    main, side = pty.openpty()
    command, env = [*RESEARCH, "status", "--watch"], {**os.environ, "COLUMNS": "160", "TERM": "xterm"}
    with subprocess.Popen(command, cwd=tmp_path, stdin=side, stdout=side, stderr=side, env=env) as process:
        os.close(side)
        drawn = _until(main, "1/4")
        assert f"{STEP} [bold]block sizes" in drawn and "━" in drawn
        drawn += _until(main, "block=2") if "block=2" not in drawn else ""
        assert f"{driver.process.pid} on " in drawn
        driver.do("end|2|ok")
        _until(main, "2/4")
        process.send_signal(signal.SIGINT)
        _until(main, None)
    os.close(main)
    assert process.returncode == 0


def _until(terminal: int, wanted: str | None) -> str:
    """What is written on a terminal until it holds a text, or until its end."""
    data = b""
    while wanted is None or wanted not in data.decode(errors="replace"):
        assert select.select([terminal], [], [], 60)[0], f"{wanted!r} was not drawn: {data!r}"
        try:
            data += os.read(terminal, 1 << 16)
        except OSError:
            # So Linux tells that nobody writes there any more.
            break
    return data.decode(errors="replace")


def test_looking_again_asks_a_store_only_for_what_is_new(
    s3_port: int, s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a series with finished entries and a step under way on S3, no finished trial is read to see how far it is, and
    one more trial costs one more object."""
    import s3fs

    journal = Journal(open_store(s3_url), "moe_hc")
    old = [
        journal.attempts.finish("trial", trial(key=key(number), id=f"MOE-HC-002.{number}")) for number in range(90, 99)
    ]
    rows = tuple(msgspec.structs.replace(entry().rows[0], trial=stored.ref) for stored in old)
    journal.attempts.finish("entry", entry(rows=rows))
    progress.plan(journal, STEP, "block sizes", 3)
    progress.passed(journal, STEP, "0", [])
    proxy, asked = Proxy(s3_port), []

    def request(data: bytes) -> bytes:
        asked.append(data.split(b" ")[1].decode())
        return data

    proxy.request = request
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
    s3fs.S3FileSystem.clear_instance_cache()
    viewer = Journal(open_store(s3_url), "moe_hc")

    def reads() -> list[str]:
        asked.clear()
        progress.under_way(viewer, viewer.recent())
        return sorted(path.partition("moe_hc/")[2] for path in asked if "?" not in path and "moe_hc/" in path)

    notes = [f"plans/{STEP}.json", f"plans/{STEP}/0.json"]
    assert reads() == ["entries/records/MOE-HC-002-0.json", *notes]
    with begin(journal, 1):
        end(journal, 1)
    assert reads() == [*notes, f"trials/records/{key(1)}-0.json"]
    assert reads() == notes
    proxy.close()
