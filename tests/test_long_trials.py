"""Trials that take hours: they go on where they were killed, tell how far they are, and end by nothing but themselves.

Each runs in the process of a real launcher; what kills it is a signal.
"""

import json
import math
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from research_steps.cli.main import main
from research_steps.errors import BadMetrics, UsageError
from research_steps.evidence.judgement import judge
from research_steps.evidence.table import Trial, row_of
from research_steps.git import Checkout
from research_steps.journal.journal import Journal
from research_steps.journal.progress import plan, under_way
from research_steps.journal.snapshot import OpenAttempt
from research_steps.journal.store import open_store
from research_steps.publish.terminal.records import record_lines
from research_steps.publish.terminal.watch import step_line
from research_steps.records.model import InterruptedRecord
from research_steps.records.series import Metric, Series
from research_steps.trial import contention, listening
from research_steps.trial.code import trace_name
from research_steps.trial.context import Session
from research_steps.trial.directory import directory_of, output_end, trial_directory
from research_steps.trial.launcher.host import LocalHost
from research_steps.trial.launcher.launcher import Launcher
from research_steps.trial.launcher.sampling import numbers
from research_steps.trial.measured import TrialSpec
from research_steps.trial.progress import progress
from research_steps.trial.provenance import capture, facts_here
from research_steps.trial.trials import LAUNCHER_TRIES, MOST_TRIES, measure_trial

from tests.support.other_processes import busy_cores

SOON_S = 60.0
LOSS = Metric("loss", timed=False, diverged_above=100.0)
SERIES = Series(topic="long", prefix="LONG", goal="", metrics=(LOSS,), max_pairs=5, sampling_s=0.1, contention_wait_s=0)
TRAINING = """
import json, logging, math, os, subprocess, sys, time
from pathlib import Path

from research_steps import progress, trial_directory


def measure(config):
    work = config["work"]
    if work == "pair":
        return pair(config)
    if work == "memory":
        Path(config["group"], "cgroup.procs").write_text(str(os.getpid()))
        return {"loss": float(len(bytearray(1 << 30)))}
    if work == "kills itself":
        os.kill(os.getpid(), 9)
    if work == "waits":
        print("about to wait", flush=True)
        while not os.path.exists("go"):
            time.sleep(0.01)
        return {"loss": 1.0}
    if work == "levanter":
        return levanter(config)
    checkpoint = Path(trial_directory(), "step")
    first = int(checkpoint.read_text()) + 1 if checkpoint.exists() else 1
    print("from step", first, flush=True)
    for step in range(first, config["steps"] + 1):
        loss = math.nan if step >= config.get("nan from", math.inf) else 4.0 / step * config.get("times", 1)
        progress(step, config["steps"], loss=loss, tokens=step * 1000)
        if step in config.get("killed at", ()) and not os.path.exists(f"killed at {step}"):
            Path(f"killed at {step}").touch()
            os.kill(os.getpid(), 9)
        checkpoint.write_text(str(step))
        if config.get("raises") and math.isnan(loss):
            raise RuntimeError("Loss is NaN")
        time.sleep(config.get("step_s", 0.0))
    return {"loss": loss, **({"tokens_per_s": 1e5} if config.get("rate") else {})}


def pair(config):
    own = trial_directory()
    child = "import research_steps; print(research_steps.trial_directory())"
    assert subprocess.run([sys.executable, "-c", child], capture_output=True, text=True).stdout.strip() == own
    Path(own, "side").write_text(config["side"])
    while True:
        assert trial_directory() == own and Path(trial_directory(), "side").read_text() == config["side"]
        yield {"loss": 1.0 + len(config["side"])}


def levanter(config):
    log = logging.getLogger("levanter.json_logger")
    log.setLevel(logging.INFO)
    for step in range(4):
        told = {"train/loss": 3.0 - step, "global_step": step, "run_progress": step / 4, "optim": {"lr": 0.1}}
        log.info(json.dumps({"tracker": "json_logger", "event": "log", "step": step, "metrics": told}))
    log.info(json.dumps({"tracker": "json_logger", "event": "finish", "summary": {}}))
    log.info("no JSON at all")
    return {"loss": 0.0}
"""


class Bench:
    """A folder with a training, a store, and what a run of it has said."""

    def __init__(self, root: Path, launcher: Launcher) -> None:
        self.root, self.launcher = root, launcher
        (root / "training.py").write_text(TRAINING)
        self.code = trace_name("training:measure", root)
        self.journal = Journal(open_store(str(root / "store")), SERIES.topic)
        self.captured = capture(Checkout(root, None), ["test"], "long")
        self.messages: list[str] = []

    def spec(self, work: str, **more: Any) -> TrialSpec:
        return TrialSpec(self.code, "dict", {"work": work, **more}, {"work": work, "side": "baseline"})

    def measure(self, work: str = "train", series: Series = SERIES, **more: Any) -> Trial:
        session = Session(
            series=series,
            journal=self.journal,
            host=LocalHost(self.launcher),
            captured=self.captured,
            repository=self.root / "published",
            say=self.messages.append,
        )
        trial = measure_trial(session, self.spec(work, **more), id="LONG-001.01", label=work)
        assert trial is not None
        return trial

    def attempts(self, work: str = "train", **more: Any) -> list[Any]:
        return self.journal.attempts.of("trial", self.key(work, **more))

    def key(self, work: str = "train", **more: Any) -> str:
        return self.spec(work, **more).key(facts_here().conditions)

    def directory(self, work: str = "train", **more: Any) -> Path:
        return directory_of(self.journal.store.url, SERIES.topic, self.key(work, **more))


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(contention, "HERE", contention.Machine(tmp=tmp_path))
    monkeypatch.chdir(tmp_path)
    with Launcher() as launcher:
        yield Bench(tmp_path, launcher)


@pytest.fixture
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The launcher's process looks often how far a trial is, and soon finds it silent."""
    (tmp_path / "sitecustomize.py").write_text(
        "from research_steps.trial.launcher import parent, running_trial\n"
        "parent.NEWS_S, running_trial.SILENT_S = 0.2, 1.0\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


def soon(condition: Callable[[], Any]) -> bool:
    deadline = time.monotonic() + SOON_S
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


KILLED = {"steps": 20, "killed at": [4, 5, 9, 13, 20]}


def test_a_training_killed_five_times_is_one_record(bench: Bench) -> None:
    """Killed by -9, it is begun again and goes on from its checkpoint. Its record has the whole curve, and says how
    often it was interrupted."""
    trial = bench.measure(**KILLED)
    record = trial.stored.record
    assert [attempt.record.status for attempt in bench.attempts(**KILLED)] == [*["interrupted"] * 5, "ok"]
    assert "ended by signal SIGKILL" in bench.attempts(**KILLED)[0].record.reason
    assert (record.status, record.attempt, record.interruptions) == ("ok", 5, 5)
    assert json.loads(trial.stored.line)["curves"]["loss"] == [[step, 4.0 / step] for step in range(1, 21)]
    assert record.samples.candidate == {"loss": [0.2]}
    assert "interrupted 5 times before" in row_of(trial, {}).note
    shown = "\n".join(record_lines(record, SERIES))
    assert "interrupted 5 times before it ended" in shown
    assert "loss while it ran: 4 at step 1 to 0.200 at step 20, 20 points" in shown
    printed = output_end(bench.directory(**KILLED))
    assert printed is not None
    assert printed.split("from step")[1:] == [f" {step}\n" for step in (1, 4, 5, 9, 13, 20)]


def test_what_kills_itself_and_gets_nowhere_is_left(bench: Bench) -> None:
    """Nothing was kept between two attempts, so that a third would be no better; that is no failure of its own."""
    trial = bench.measure("kills itself")
    assert isinstance(trial.stored.record, InterruptedRecord)
    assert len(bench.attempts("kills itself")) == LAUNCHER_TRIES < MOST_TRIES
    assert not bench.directory("kills itself").exists()


def test_what_the_kernel_ends_for_its_memory_has_failed(bench: Bench) -> None:
    """It would do so again: that is a result, told by the kernel's own count."""
    group = Path("/sys/fs/cgroup/memory", f"research-{os.getpid()}")
    try:
        group.mkdir()
    except OSError:
        # Where no group can be made the kernel counts nothing, and the same end is one from outside.
        assert isinstance(bench.measure("kills itself").stored.record, InterruptedRecord)
        return
    try:
        (group / "memory.limit_in_bytes").write_text(str(128 << 20))
        record = bench.measure("memory", group=str(group)).stored.record
        assert soon(lambda: not (group / "cgroup.procs").read_text())
    finally:
        group.rmdir()
    assert (record.status, record.attempt) == ("failed", 0)
    assert record.error.message == "the process was ended by signal SIGKILL; the system ran out of memory meanwhile"


def test_what_a_signal_from_outside_ends_is_interrupted(bench: Bench) -> None:
    """So ends a machine that is taken back. What the trial had printed is at hand while it runs, and outlasts it."""
    with ThreadPoolExecutor() as pool:
        future = pool.submit(bench.measure, "waits")
        log = bench.directory("waits") / "output.log"
        assert soon(lambda: log.exists() and "about to wait" in log.read_text())
        (attempt,) = bench.attempts("waits")
        assert isinstance(attempt, OpenAttempt)
        shown = CliRunner().invoke(main, ["show", "LONG-001.01", "--log", "--prefix", str(bench.root / "store")])
        child = next(line for line in Path("/proc").glob("[0-9]*/fd/1") if _leads_to(line, log))
        os.kill(int(child.parts[2]), signal.SIGTERM)
        (bench.root / "go").touch()
        assert future.result(SOON_S).stored.record.status == "ok"
    assert [attempt.record.status for attempt in bench.attempts("waits")] == ["interrupted", "ok"]
    assert (shown.exit_code, shown.stdout) == (0, "about to wait\n")


def _leads_to(link: Path, file: Path) -> bool:
    try:
        return link.samefile(file)
    except OSError:
        return False


def test_each_side_of_a_pair_has_a_directory_of_its_own(bench: Bench) -> None:
    """Also what a side starts finds that one, by its environment; the two take turns in one process."""
    record = bench.measure("pair", side="candidate").stored.record
    assert (record.status, record.error) == ("ok", None)
    assert sorted(path.name for path in bench.directory("pair", side="candidate").iterdir()) == [
        *("baseline", "candidate", "output.log"),
    ]


def test_no_trial_has_a_directory_outside_of_one() -> None:
    """Whoever asks elsewhere is told where to ask."""
    with pytest.raises(UsageError, match="outside of a trial"):
        trial_directory()
    with pytest.raises(UsageError, match="outside of a trial"):
        progress(1)


def test_what_levanter_logs_as_json_is_the_progress(bench: Bench) -> None:
    """Step, loss and what else it logs, by the tracker that Levanter calls json_logger."""
    curves = json.loads(bench.measure("levanter").stored.line)["curves"]
    assert curves == {"train/loss": [[s, 3.0 - s] for s in range(4)], "optim/lr": [[s, 0.1] for s in range(4)]}
    assert '"of":4' in (bench.directory("levanter") / "candidate" / "progress.jsonl").read_text()


def test_how_far_a_trial_is_is_told_while_it_runs(quick: None, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a line of the run, and from the journal to whoever watches: step, of how many, loss, tokens, rate, time
    left."""
    monkeypatch.setattr(listening, "SAID_S", 0.0)
    monkeypatch.setattr(listening, "NOTED_S", 0.0)
    plan(bench.journal, "LONG-001", "train", 1)
    with ThreadPoolExecutor() as pool:
        future = pool.submit(bench.measure, steps=14, step_s=0.2)
        assert soon(lambda: any(" left" in line for line in bench.messages))
        (step,) = under_way(bench.journal, bench.journal.recent())
        line = step_line(step)
        assert future.result(SOON_S).stored.record.status == "ok"
    said = next(line for line in bench.messages if " left" in line)
    assert said.startswith("LONG-001.01: step ")
    for told in (said, line):
        for part in (" of 14, loss ", ", tokens ", " steps/s, about ", " s left"):
            assert part in told
    assert "LONG-001.01 at step " in line


def test_a_silent_trial_is_told_and_goes_on(quick: None, bench: Bench) -> None:
    """With the end of what it printed, for a person to judge; nothing ends it."""
    with ThreadPoolExecutor() as pool:
        future = pool.submit(bench.measure, "waits")
        assert soon(lambda: bench.messages)
        (bench.root / "go").touch()
        assert future.result(SOON_S).stored.record.status == "ok"
    assert "LONG-001.01: it has told and printed nothing for " in bench.messages[0]
    assert bench.messages[0].endswith("Its last output: about to wait")


def test_a_series_without_a_limit_ends_no_trial() -> None:
    """An hour of training is no failure."""
    assert Series("long", "LONG", "", (LOSS,)).time_limit_s is None


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"steps": 6, "nan from": 4}, "Metric 'loss' is nan: expected 1e+100 at most. It has been so since step 4."),
        ({"steps": 6, "nan from": 4, "raises": True}, "Loss is NaN It has been so since step 4."),
        ({"steps": 3, "times": 1000}, "expected 100 at most, its diverged_above. It has been so since step 1."),
    ],
)
def test_divergence_is_a_result_with_its_step(bench: Bench, config: dict[str, Any], message: str) -> None:
    """NaN in the end, what Levanter raises at NaN, and a loss above the bound of the series."""
    record = bench.measure(**config).stored.record
    assert (record.status, record.error.type, record.error.where) == ("failed", "Diverged", "candidate")
    assert message in record.error.message
    assert not row_of(bench.measure(**config), {}).note.startswith("routine")


def test_a_metric_is_judged_at_a_declared_budget(bench: Bench) -> None:
    """Whatever the training ended with: between the steps that were told by a straight line, of all attempts together,
    and a failure that says so where it did not get there."""
    series = replace(SERIES, metrics=(Metric("loss", timed=False, at=("tokens", 2500)),))
    for more in ({"steps": 4}, {"steps": 8}, {"steps": 8, "killed at": [3]}):
        record = bench.measure(series=series, **more).stored.record
        assert record.samples.candidate["loss"] == [pytest.approx((4.0 / 2 + 4.0 / 3) / 2)], record.error
    record = bench.measure(series=series, steps=2).stored.record
    assert record.error.type == "BadMetrics"
    assert "judged at 2500 tokens, and the trial told it from 1000 to 2000: train so far" in record.error.message
    record = bench.measure(series=series, **{"steps": 4, "nan from": 3}).stored.record
    assert record.error.type == "Diverged" and "since step 3" in record.error.message
    record = bench.measure("levanter", series=series).stored.record
    assert "told no 'loss' by step, but 'train/loss', 'optim/lr': tell it with progress" in record.error.message
    with pytest.raises(BadMetrics, match="takes what a trial tells by step"):
        numbers({}, series)


@pytest.mark.parametrize("at", [("tokens", 0), ("tokens", math.inf), ("", 1), ("tokens",), 1e9])
def test_what_is_no_budget_is_refused(at: Any) -> None:
    with pytest.raises(UsageError, match=re.escape("such as ('tokens', 1e9)")):
        Metric("loss", at=at)


def test_load_keeps_no_training_waiting_whose_speed_is_beside_the_point(bench: Bench) -> None:
    """A timed metric beside an untimed primary one: nothing is waited for, nothing is done twice, and load takes that
    one metric out of the claims alone."""
    speed = Metric("tokens_per_s", "max")
    series = replace(SERIES, metrics=(LOSS, speed), contention_wait_s=60.0)
    with busy_cores():
        began = time.monotonic()
        trials = [bench.measure(series=series, steps=3, rate=True, step_s=0.3, seed=seed).stored for seed in range(2)]
        assert time.monotonic() - began < 30.0
    assert [len(bench.attempts(steps=3, rate=True, step_s=0.3, seed=seed)) for seed in range(2)] == [1, 1]
    assert "cores busy" in trials[0].record.contended
    assert not any("waiting" in line for line in bench.messages)
    slow = judge(speed, trials[:1], trials[1:], 0.05)
    assert slow.verdict == "inconclusive" and slow.why.startswith("contended: ")
    assert "contended" not in judge(LOSS, trials[:1], trials[1:], 0.05).why
