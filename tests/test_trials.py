"""Trials and their journal: measured once, told truthfully, and begun again when their process was lost.

The processes of a run are forked from this one, which has imported Marin; each has a launcher of its own.
"""

import fcntl
import math
import os
import re
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest
from research_steps.errors import LauncherError
from research_steps.evidence.table import Trial
from research_steps.git import Checkout
from research_steps.journal.journal import Journal
from research_steps.journal.snapshot import OpenAttempt
from research_steps.journal.store import LocalStore, open_store
from research_steps.records.encoding import Stored
from research_steps.records.model import InterruptedRecord, TrialRecord
from research_steps.records.series import Metric, Series
from research_steps.trial import contention
from research_steps.trial.code import trace_name
from research_steps.trial.context import Session
from research_steps.trial.launcher.host import POLL_S, LocalHost
from research_steps.trial.launcher.launcher import Launcher
from research_steps.trial.measured import TrialSpec
from research_steps.trial.provenance import capture, facts_here
from research_steps.trial.trials import CUT_OFF_TRIES, measure_trial

from tests.support.other_processes import busy_cores, holding

SOON_S = 60.0
SERIES = Series(
    topic="toy", prefix="TOY", goal="see", metrics=(Metric("time_s"),), max_pairs=5, sampling_s=0.1, contention_wait_s=0
)
MEASURE = """
import os, signal, time


def measure(config):
    log = os.open("measured", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    if config.get("side") != "baseline":
        os.write(log, f"{config['work']} {os.getpid()}\\n".encode())
    print("measuring", config["work"])
    match config["work"]:
        case "raise":
            raise ValueError("no such kernel")
        case "exit":
            os._exit(3)
        case "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "kills itself":
            os.kill(os.getpid(), signal.SIGKILL)
        case "hang":
            time.sleep(1000)
        case "gated":
            while not os.path.exists("go"):
                time.sleep(0.01)
        case "one a ticket":
            while not os.path.exists("ticket"):
                time.sleep(0.01)
            os.unlink("ticket")
        case "hang once" if not os.path.exists("hung"):
            open("hung", "w").close()
            time.sleep(1000)
    until = time.perf_counter() + config.get("s", 0.0)
    while time.perf_counter() < until:
        pass
    while True:
        yield {"time_s": 2.0 if config.get("side") == "baseline" else 1.0}
"""


class Bench:
    """A folder with a measure function, a store, and sessions that use them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "kernel.py").write_text(MEASURE)
        self.code = trace_name("kernel:measure", root)
        self.journal = Journal(open_store(str(root / "store")), SERIES.topic)
        self.captured = capture(Checkout(root, None), ["test"], "toy")
        self.messages: list[str] = []

    def session(self, launcher: Launcher, *retry: str, series: Series = SERIES) -> Session:
        return Session(
            series=series,
            journal=self.journal,
            host=LocalHost(launcher),
            captured=self.captured,
            repository=self.root / "published",
            retry=frozenset(retry),
            say=self.messages.append,
            changed=lambda: None,
        )

    def spec(self, work: object, **more: Any) -> TrialSpec:
        return TrialSpec(self.code, "dict", {"work": work, **more}, {"work": "none", "side": "baseline"})

    def measure(self, session: Session, work: object, **more: Any) -> Trial:
        return measure_trial(session, self.spec(work, **more), id="TOY-001.01", label=f"work={work}")

    @property
    def measured(self) -> list[str]:
        """What was measured, one item for each time that a trial's process began."""
        path = self.root / "measured"
        return [line.split()[0] for line in path.read_text().splitlines()] if path.exists() else []

    def attempts(self, work: object) -> list[Any]:
        return self.journal.attempts.of("trial", self.spec(work).key(facts_here().conditions))

    def outcomes(self, work: object) -> list[str]:
        """How each attempt of a trial stands."""
        return ["open" if isinstance(attempt, OpenAttempt) else attempt.record.status for attempt in self.attempts(work)]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A bench whose trials don't wait for others on this machine; the working directory is its own."""
    monkeypatch.setattr(contention, "HERE", contention.Machine(tmp=tmp_path))
    monkeypatch.chdir(tmp_path)
    return Bench(tmp_path)


@pytest.fixture
def launcher() -> Iterator[Launcher]:
    with Launcher() as launcher:
        yield launcher


def forked(work: Callable[[], None]) -> int:
    """Do something in a process of its own, which then ends without anything of this one."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:  # noqa: BLE001  # this is the top of the process
            traceback.print_exc()
        finally:
            os._exit(code)
    return pid


def ended_well(pid: int) -> bool:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def soon(condition: Callable[[], Any]) -> bool:
    deadline = time.monotonic() + SOON_S
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def parent_of_trials() -> psutil.Process:
    """The launcher's parent process that this process has started."""
    return next(
        child
        for child in psutil.Process().children()
        if "research_steps.trial.launcher.parent" in " ".join(child.cmdline())
    )


# -- what is measured, and what is not ---------------------------------------------------------------------------------


def test_a_trial_that_the_journal_holds_is_not_measured_again(bench: Bench, launcher: Launcher) -> None:
    """Neither in the same run nor in the next one; its record stays what it was."""
    first = bench.measure(bench.session(launcher), 1)
    again = bench.measure(bench.session(launcher), 1)
    assert bench.measured == ["1"]
    assert first.measured_here
    assert not again.measured_here
    assert again.stored.line == first.stored.line


def test_what_a_trial_is_is_what_it_measures(bench: Bench) -> None:
    """Another configuration, baseline, code, replicate or occasion is another trial."""
    spec = bench.spec(1)
    (bench.root / "kernel.py").write_text(MEASURE + "# edited\n")
    others = [
        replace(spec, code=trace_name("kernel:measure", bench.root)),
        replace(spec, config={"work": 2}),
        replace(spec, baseline_config={"work": 2}),
        replace(spec, replicate=1),
        replace(spec, occasion="TOY-002.01"),
    ]
    assert len({variant.key(facts_here().conditions) for variant in (spec, *others)}) == 6


@pytest.mark.parametrize("work", ["raise", "exit"])
def test_a_trial_that_failed_is_not_measured_again_unless_asked(bench: Bench, launcher: Launcher, work: str) -> None:
    """A failure is a result. `--retry failed`, or a baseline that others rest on, measures it once more in a run."""
    assert bench.measure(bench.session(launcher), work).stored.record.status == "failed"
    assert not bench.measure(bench.session(launcher), work).measured_here
    assert not bench.measure(bench.session(launcher, "contended", "orphaned"), work).measured_here
    assert bench.measured == [work]

    session = bench.session(launcher, "failed")
    assert bench.measure(session, work).measured_here
    assert bench.measure(session, work).stored.record.attempt == 1
    assert bench.measured == [work] * 2

    must = bench.session(launcher)
    trial = measure_trial(must, bench.spec(work), id="TOY-001", label="baseline", must_succeed=True)
    assert (trial.stored.record.status, trial.stored.record.attempt) == ("failed", 2)
    assert bench.outcomes(work) == ["failed"] * 3


def test_a_disturbed_trial_says_so_and_is_measured_again_on_request(bench: Bench, launcher: Launcher) -> None:
    """While other processes keep cores busy, the record says so; `--retry contended` begins a second attempt."""
    bench.measure(bench.session(launcher), 0)
    with busy_cores():
        disturbed = bench.measure(bench.session(launcher), 1, s=0.5).stored.record
    assert "cores busy" in disturbed.contended
    assert disturbed.status == "ok"
    assert not bench.measure(bench.session(launcher, "failed"), 1, s=0.5).measured_here
    session = bench.session(launcher, "contended")
    assert bench.measure(session, 1, s=0.5).stored.record.attempt == 1
    assert bench.measure(session, 1, s=0.5).stored.record.attempt == 1


# -- what the record says ----------------------------------------------------------------------------------------------


def test_a_record_says_what_was_measured_and_how_it_ran(bench: Bench, launcher: Launcher) -> None:
    """Samples and ratios of a pair, the configuration, the code, and the process that it ran in."""
    record = bench.measure(bench.session(launcher), 1).stored.record
    assert isinstance(record, TrialRecord)
    assert record.samples is not None
    assert record.samples.candidate == {"time_s": [1.0] * 5}
    assert record.samples.baseline == {"time_s": [2.0] * 5}
    assert record.ratios["time_s"].median == 0.5
    assert (record.config, record.baseline_config) == ({"work": 1}, {"work": "none", "side": "baseline"})
    assert record.code == bench.code.digest
    assert record.launch is not None
    assert record.launch.exit == "exit code 0"
    assert f"1 {record.launch.child_pid}" in (bench.root / "measured").read_text()
    assert record.launch.parent_pid == parent_of_trials().pid
    assert record.started_at < record.finished_at


@pytest.mark.parametrize(
    ("work", "kind", "message", "exit"),
    [
        ("raise", "ValueError", "no such kernel", "exit code 0"),
        ("exit", "Exit", "ended with exit code 3 before it gave a result", "exit code 3"),
        ("crash", "Crash", "ended by signal SIGSEGV", "signal SIGSEGV"),
        ("hang", "TimeLimit", "longer than its limit of 3 s", "signal SIGKILL"),
    ],
)
def test_a_failure_says_what_happened(
    bench: Bench, launcher: Launcher, work: str, kind: str, message: str, exit: str
) -> None:
    """Raised, left, crashed, killed or too slow: each is a record, with how the process ended and what it printed."""
    session = bench.session(launcher, series=replace(SERIES, time_limit_s=3.0 if work == "hang" else 30.0))
    record = bench.measure(session, work).stored.record
    assert record.status == "failed"
    assert record.samples is None
    assert record.error.type == kind
    assert message in record.error.message
    assert f"measuring {work}" in record.error.output_tail
    assert record.launch.exit == exit


def test_what_a_run_measured_is_told_by_the_run_and_by_no_clock(bench: Bench, launcher: Launcher) -> None:
    """A job of it that is begun again takes what it had measured. What others measured while this run has begun, and
    before it came to it, is measured once more; what cut off their trials cuts off none here."""
    session, other = bench.session(launcher, "failed"), bench.session(launcher, "failed")
    again = replace(bench.session(launcher, "failed"), run=other.run)
    assert bench.measure(other, "raise").measured_here and not bench.measure(again, "raise").measured_here
    assert bench.measure(session, "raise").measured_here

    key = bench.spec("slow").key(facts_here().conditions)
    for number in range(CUT_OFF_TRIES):
        about: dict[str, Any] = {"id": "TOY-001.01", "label": "", "config": {}, "run": other.run}
        with bench.journal.attempts.begin("trial", key, number, **about) as begun:
            assert begun is not None
            bench.journal.attempts.interrupt(begun, "it was cut off")
    assert bench.measure(other, "slow").stored.record.status == "interrupted"
    assert bench.measure(session, "slow").stored.record.status == "ok"


# -- several processes -------------------------------------------------------------------------------------------------


def test_a_trial_that_two_processes_want_is_measured_once(bench: Bench) -> None:
    """One of them measures it, the other takes its record."""

    def drive() -> None:
        with Launcher() as launcher:
            trial = bench.measure(bench.session(launcher), 1, s=0.3)
            (bench.root / f"result-{os.getpid()}").write_text(f"{trial.stored.sha256} {trial.measured_here}")

    drivers = [forked(drive) for _ in range(3)]
    assert all([ended_well(pid) for pid in drivers])
    results = [(bench.root / f"result-{pid}").read_text().split() for pid in drivers]
    assert len({sha for sha, _ in results}) == 1
    assert sorted(here for _, here in results) == ["False", "False", "True"]
    assert bench.measured == ["1"]


def test_two_processes_never_sample_at_the_same_time(bench: Bench) -> None:
    """By the records' own times: no trial begins before the one before it has finished, whoever runs it."""

    def drive(name: str) -> None:
        with Launcher() as launcher:
            for number in range(4):
                bench.measure(bench.session(launcher), f"{name}{number}", s=0.05)

    drivers = [forked(lambda name=name: drive(name)) for name in "ab"]
    assert all([ended_well(pid) for pid in drivers])
    records = [stored.record for stored in bench.journal.scan().trials.values()]
    records.sort(key=lambda record: record.started_at)
    assert len(records) == 8
    assert len({record.launch.parent_pid for record in records}) == 2
    for record, following in pairwise(records):
        assert record.finished_at <= following.started_at


def test_what_a_killed_run_had_begun_is_ended_and_measured_by_the_next(bench: Bench, launcher: Launcher) -> None:
    """The attempt of a driver that was killed (-9) stands as interrupted; its trial's process is gone."""

    def drive() -> None:
        with Launcher() as own:
            bench.measure(bench.session(own), "hang once")

    driver = forked(drive)
    assert soon((bench.root / "hung").exists)
    child = int((bench.root / "measured").read_text().split()[-1])
    os.kill(driver, signal.SIGKILL)
    os.waitpid(driver, 0)

    trial = bench.measure(bench.session(launcher), "hang once")

    assert bench.outcomes("hang once") == ["interrupted", "ok"]
    assert trial.stored.record.attempt == 1
    assert soon(lambda: not psutil.pid_exists(child))


# -- losses in the middle of a run -------------------------------------------------------------------------------------


def hanging(bench: Bench, launcher: Launcher, pool: ThreadPoolExecutor, work: str) -> "Future[Trial]":
    """A trial that is in the middle of its measurement."""
    before = len(bench.measured)
    future = pool.submit(bench.measure, bench.session(launcher), work)
    assert soon(lambda: len(bench.measured) > before)
    # It hangs once it has noted that it does; killed before that, it would hang again.
    assert work != "hang once" or soon((bench.root / "hung").exists)
    return future


def test_a_trial_whose_launcher_died_is_begun_again(bench: Bench, launcher: Launcher) -> None:
    """The first attempt stands as interrupted with the reason, the second has the result."""
    with ThreadPoolExecutor() as pool:
        future = hanging(bench, launcher, pool, "hang once")
        parent_of_trials().kill()
        trial = future.result(SOON_S)
    assert trial.stored.record.status == "ok"
    assert bench.outcomes("hang once") == ["interrupted", "ok"]
    assert "is gone (exit code -9)" in bench.attempts("hang once")[0].record.reason
    assert any("begun again" in line for line in bench.messages)


def test_a_trial_that_loses_every_launcher_is_left_as_interrupted(bench: Bench, launcher: Launcher) -> None:
    """After two tries the sweep goes on; the next run begins the trial once more."""
    with ThreadPoolExecutor() as pool:
        future = hanging(bench, launcher, pool, "hang")
        parent_of_trials().kill()
        assert soon(lambda: len(bench.measured) == 2)
        parent_of_trials().kill()
        trial = future.result(SOON_S)
        assert isinstance(trial.stored.record, InterruptedRecord)
        assert bench.outcomes("hang") == ["interrupted"] * 2
        assert bench.measure(bench.session(launcher), 1).stored.record.status == "ok"
        future = hanging(bench, launcher, pool, "hang")
        assert bench.outcomes("hang") == ["interrupted", "interrupted", "open"]
        launcher.close()
        assert isinstance(future.exception(SOON_S), LauncherError)


def test_a_run_that_ends_leaves_its_trial_as_interrupted(bench: Bench, launcher: Launcher) -> None:
    """Closing the launcher (Ctrl-C) ends what runs, with a record, and is not tried again."""
    with ThreadPoolExecutor() as pool:
        future = hanging(bench, launcher, pool, "hang")
        launcher.close()
        with pytest.raises(LauncherError, match="closed because the run is ending"):
            future.result(SOON_S)
    assert bench.outcomes("hang") == ["interrupted"]
    assert bench.measured == ["hang"]


@pytest.mark.parametrize("at", ["intents", "records"])
def test_ctrl_c_ends_an_attempt_wherever_it_comes(
    bench: Bench, launcher: Launcher, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    """Right after the attempt was written down, and right before its record is: it does not stay open."""
    create = LocalStore.create

    def pressed(store: LocalStore, name: str, data: bytes) -> bool:
        if f"/{at}/" in name and (at == "intents" or b'"status":"ok"' in data):
            assert at == "records" or create(store, name, data)
            raise KeyboardInterrupt
        return create(store, name, data)

    monkeypatch.setattr(LocalStore, "create", pressed)
    with pytest.raises(KeyboardInterrupt):
        bench.measure(bench.session(launcher), 1)
    (attempt,) = bench.attempts(1)
    assert isinstance(attempt, Stored)
    assert attempt.record.reason == "It was stopped by Ctrl-C."


def test_a_result_that_comes_after_its_attempt_was_ended_is_late(bench: Bench, launcher: Launcher) -> None:
    """Another driver took the attempt for lost: both records are kept, the first stands, and it is measured again."""
    with ThreadPoolExecutor() as pool:
        future = hanging(bench, launcher, pool, "gated")
        (attempt,) = bench.attempts("gated")
        assert isinstance(attempt, OpenAttempt)
        bench.journal.attempts.interrupt(attempt, "its lease ran out")
        (bench.root / "go").touch()
        trial = future.result(SOON_S)
    assert (trial.stored.record.attempt, trial.stored.record.late) == (1, False)
    first, second = bench.attempts("gated")
    assert isinstance(first, Stored)
    assert first.record.reason == "its lease ran out"
    assert second == trial.stored
    late = [stored.record for stored in bench.journal.scan().trials.values() if stored.record.late]
    assert [(record.attempt, record.status) for record in late] == [(0, "ok")]


def test_a_lost_launcher_ends_its_own_attempt_and_nobody_elses(bench: Bench, launcher: Launcher) -> None:
    """When another driver took the attempt for lost and has begun the next one, that one is left alone."""
    with ThreadPoolExecutor() as pool:
        future = hanging(bench, launcher, pool, "hang once")
        key = bench.spec("hang once").key(facts_here().conditions)
        (attempt,) = bench.attempts("hang once")
        bench.journal.attempts.interrupt(attempt, "its lease ran out")
        with bench.journal.attempts.begin("trial", key, 1, id="TOY-001.01", label="other", config={}) as begun:
            assert begun
            parent_of_trials().kill()
            assert soon(lambda: any("waiting for process" in line for line in bench.messages))
            assert bench.outcomes("hang once") == ["interrupted", "open"]
            launcher.close()
            (_, other) = bench.attempts("hang once")
            bench.journal.attempts.interrupt(other, "the end of this test")
        assert isinstance(future.exception(SOON_S), LauncherError)


# -- the device lock ---------------------------------------------------------------------------------------------------


def test_a_run_that_is_ended_while_it_waits_for_the_device_leaves_no_trace(
    bench: Bench, launcher: Launcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waits is told for what; Ctrl-C need not wait for the other's trial, and nothing was begun."""
    monkeypatch.setattr(contention, "WAIT_TOLD_S", 0.1)
    with contention.HERE.device_lock.open("w") as lock, ThreadPoolExecutor() as pool:
        fcntl.flock(lock, fcntl.LOCK_EX)
        future = pool.submit(bench.measure, bench.session(launcher), 1)
        assert soon(lambda: bench.messages)
        launcher.close()
        with pytest.raises(LauncherError, match="was not begun"):
            future.result(SOON_S)
    (told,) = bench.messages
    assert re.fullmatch(r"TOY-001.01: waiting for its turn on this machine: process \d+ \(.+\) has it", told)
    assert bench.attempts(1) == []


def test_a_lock_file_that_may_only_be_read_serves(bench: Bench, launcher: Launcher) -> None:
    """Another user's run has left it: trials take turns by it all the same."""
    contention.HERE.device_lock.touch(0o444)
    assert bench.measure(bench.session(launcher), 1).stored.record.status == "ok"
    assert contention.HERE.device_lock.read_bytes() == b""


def test_a_lock_file_that_can_not_be_opened_is_named(bench: Bench, launcher: Launcher) -> None:
    """A link in its place is not followed, wherever somebody made it point; nothing is measured without the lock."""
    (bench.root / "precious").write_text("data")
    contention.HERE.device_lock.symlink_to(bench.root / "precious")
    with pytest.raises(LauncherError, match=r"device\.lock can't be opened: .*take turns by it: remove it"):
        bench.measure(bench.session(launcher), 1)
    assert (bench.root / "precious").read_text() == "data"
    assert bench.attempts(1) == []


# -- a machine that others disturb -------------------------------------------------------------------------------------

PATIENT = replace(SERIES, contention_wait_s=60.0)


@pytest.fixture
def machine(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> contention.Machine:
    """One with an accelerator, on which nothing counts as load until a test says so."""
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    (bench.root / "dev").mkdir()
    (bench.root / "dev" / "accel0").touch()
    machine = contention.Machine(dev=bench.root / "dev", tmp=bench.root, load_cores=math.inf)
    monkeypatch.setattr(contention, "HERE", machine)
    return machine


def test_a_trial_waits_until_the_machine_is_quiet(bench: Bench, launcher: Launcher, machine: contention.Machine) -> None:
    """Who is waited for is told once; nothing is begun before, and the trial is then an ordinary one."""
    with ThreadPoolExecutor() as pool, holding(machine.dev / "accel0") as other:
        future = pool.submit(bench.measure, bench.session(launcher, series=PATIENT), 1)
        assert soon(lambda: bench.messages)
        time.sleep(2 * POLL_S)
        assert bench.attempts(1) == []
        other.kill()
        record = future.result(SOON_S).stored.record
    assert (record.status, record.contended, record.attempt) == ("ok", "", 0)
    (line,) = bench.messages
    assert line.startswith(f"TOY-001.01: waiting up to 60 s for a quiet machine: process {other.pid} (")
    assert line.endswith(f" holds {machine.dev}/accel0")


def test_a_machine_that_stays_disturbed_is_waited_for_up_to_a_limit(
    bench: Bench, launcher: Launcher, machine: contention.Machine
) -> None:
    """The trial is measured then, once, and says who was there."""
    with holding(machine.dev / "accel0") as other:
        began = time.monotonic()
        session = bench.session(launcher, series=replace(SERIES, contention_wait_s=0.7))
        record = bench.measure(session, 1).stored.record
    assert time.monotonic() - began >= 0.7
    assert record.status == "ok"
    assert record.contended.startswith(f"process {other.pid} (") and record.contended.endswith("accel0")
    assert bench.outcomes(1) == ["ok"]


def test_what_would_not_pass_is_not_waited_for(bench: Bench, launcher: Launcher, machine: contention.Machine) -> None:
    """A device that went away: the trial is measured at once and marked."""
    assert machine.expected == 1
    (machine.dev / "accel0").unlink()
    record = bench.measure(bench.session(launcher, series=PATIENT), 1).stored.record
    assert record.contended == "accelerator devices that are there: 0; expected: 1, as when the run began"
    assert bench.messages == []
    assert bench.outcomes(1) == ["ok"]


@pytest.mark.parametrize("disturbed", [1, 3])
def test_a_trial_that_was_disturbed_is_measured_again(
    bench: Bench, launcher: Launcher, machine: contention.Machine, disturbed: int
) -> None:
    """Once the machine is quiet, at most three times in all: each time is a record, and the last one is the result."""
    machine.processors = bench.root / "processors"
    throttles = machine.processors / "cpu0" / "thermal_throttle" / "core_throttle_count"
    throttles.parent.mkdir(parents=True)
    throttles.write_text("0\n")
    with ThreadPoolExecutor() as pool:
        future = pool.submit(bench.measure, bench.session(launcher, series=PATIENT), "one a ticket")
        for number in range(disturbed):
            assert soon(lambda number=number: len(bench.measured) > number)
            throttles.write_text(f"{number + 1}\n")
            (bench.root / "ticket").touch()
            assert soon(lambda number=number: isinstance(bench.attempts("one a ticket")[number], Stored))
        if disturbed < 3:
            (bench.root / "ticket").touch()
        trial = future.result(SOON_S)
    attempts = bench.attempts("one a ticket")
    assert [bool(attempt.record.contended) for attempt in attempts] == [True] * disturbed + [False] * (disturbed < 3)
    throttled = "the processor was throttled 1 times"
    assert all(attempt.record.contended == throttled for attempt in attempts[:disturbed])
    assert trial.stored == attempts[-1]
    assert trial.measured_here
    assert sum("it is measured again" in line for line in bench.messages) == len(attempts) - 1
    assert not bench.measure(bench.session(launcher, series=PATIENT), "one a ticket").measured_here


def test_a_run_that_is_ended_while_it_waits_for_quiet_leaves_no_trace(
    bench: Bench, launcher: Launcher, machine: contention.Machine
) -> None:
    """Ctrl-C need not wait for others."""
    with ThreadPoolExecutor() as pool, holding(machine.dev / "accel0"):
        future = pool.submit(bench.measure, bench.session(launcher, series=PATIENT), 1)
        assert soon(lambda: bench.messages)
        launcher.close()
        assert isinstance(future.exception(SOON_S), LauncherError)
    assert bench.attempts(1) == []


def test_what_is_not_timed_waits_for_nobody(bench: Bench, launcher: Launcher, machine: contention.Machine) -> None:
    """A loss is the same on a busy machine: such trials run beside others, and nothing disturbs them."""
    untimed = replace(PATIENT, metrics=(Metric("time_s", timed=False),))
    machine.load_cores = -1.0
    with holding(machine.dev / "accel0"), machine.device_lock.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        record = bench.measure(bench.session(launcher, series=untimed), 1).stored.record
    assert (record.status, record.contended) == ("ok", "")
    assert bench.messages == []
