"""The curves of a report: from real runs of W&B offline and Levanter's real JSON tracker, drawn in a real browser."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from research_steps.evidence.state import thread_state
from research_steps.journal.snapshot import Snapshot
from research_steps.publish.report.curves import MOST, POINTS, TRIALS, Curves, curves
from research_steps.records.encoding import store_record
from research_steps.records.model import TrackedRun
from research_steps.trial.wandb_log import read_run, some_rows

from tests.support import records
from tests.support.browser import look
from tests.support.scratch_logbook import SERIES
from tests.support.toy_thread import Repository, research

MEASURE = """
from dataclasses import dataclass


@dataclass(frozen=True)
class Config:
    lr: float = 0.1
    seed: int = 0


def measure(config):
    loss = [(2.0 + 0.1 * config.seed) / (1 + config.lr * step) for step in range(300)]
    if config.lr == 0.3:
        from levanter.tracker.json_logger import JsonLoggerConfig
        tracker = JsonLoggerConfig().init(None)
        for step, value in enumerate(loss):
            tracker.log({"train": {"loss": value}}, step=step)
        tracker.finish()
    else:
        import wandb
        with wandb.init() as run:
            for step, value in enumerate(loss):
                run.log({"train/loss": value, **({"eval/loss": value + 0.1} if step % 100 == 50 else {})}, step=step)
    return {"loss": loss[-1]}
"""
BODY = """
    base = steps.baseline(measure, Config(), over=("seed", range(2)))
    steps.sweep(base, ("lr", [0.3]))
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """A thread of two learning rates at two seeds: the baseline tells W&B, the candidate Levanter's JSON tracker."""
    repository = Repository(tmp_path_factory.mktemp("curves") / "checkout")
    repository.measure(MEASURE)
    repository.thread(BODY)
    main = repository.experiment / "__main__.py"
    main.write_text(main.read_text().replace('Metric("time_s", "min")', 'Metric("loss", "min", timed=False)'))
    home = str(repository.root.parent / "home")
    done = repository.run(WANDB_MODE="offline", WANDB_SILENT="true", HOME=home, JAX_PLATFORMS="cpu")
    assert done.code == 0, done.output
    return repository


def reported(repository: Repository) -> tuple[Path, dict[str, Any]]:
    """The report of a thread, and what its plots show."""
    done = research(repository.root, "report", "toy")
    assert done.returncode == 0, done.stderr
    path = Path(done.stdout.splitlines()[0])
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', path.read_text(), re.DOTALL)
    assert data is not None
    shown: dict[str, Any] = json.loads(data[1])
    return path, shown


def test_a_report_draws_what_trainings_told(trained: Repository) -> None:
    """Candidate beside baseline, a thin line for each seed, by whichever tracker, and what is told seldom."""
    path, shown = reported(trained)
    base, rate = ["TOY-001.01", "TOY-001.02"], ["TOY-002.01", "TOY-002.02"]
    assert shown["curves"]["TOY-002"] == [*([id, "baseline"] for id in base), *([id, "lr=0.3"] for id in rate)]
    assert shown["names"] == ["train/loss", "eval/loss"]
    for seed, id in enumerate(base):
        lines = shown["lines"][id]
        assert [step for step, _ in lines["eval/loss"]] == [50, 150, 250]
        assert len(lines["train/loss"]) == MOST
        assert lines["train/loss"][-1] == [299, pytest.approx((2 + 0.1 * seed) / 30.9, 1e-3)]
        assert lines["train/loss"][0] == [0, 2 + 0.1 * seed]
    assert shown["lines"][rate[0]]["train/loss"][0] == [0, 2.0]
    found = look(path)
    assert (found["console"], found["requests"], found["dead"], found["violations"]) == ([], [], [], [])
    assert [plot for plot in found["curves"] if plot[0] == "TOY-002"] == [
        ["TOY-002", "Curves of train/loss", 4],
        ["TOY-002", "Curves of eval/loss", 2],
    ]


def test_a_run_that_is_not_here_is_told_in_a_sentence(trained: Repository, tmp_path: Path) -> None:
    """Where it was looked for; everything else is drawn."""
    copy = Repository.__new__(Repository)
    copy.root = tmp_path / "copy"
    shutil.copytree(trained.root, copy.root)
    (gone,) = [path for path in copy.root.glob("local_store/trials/toy/*/wandb") if _is_of(path, "TOY-001.02")]
    shutil.rmtree(gone)
    path, shown = reported(copy)
    said = f"it was looked for in trials/toy/{gone.parent.name}/wandb/offline-run-"
    assert f"The W&amp;B run of TOY-001.02 is not on this machine: {said}" in re.sub(r"\\", "", path.read_text())
    assert str(tmp_path) not in path.read_text()
    assert "TOY-001.02" not in shown["lines"] and len(shown["curves"]["TOY-002"]) == 3


def _is_of(folder: Path, id: str) -> bool:
    return any(read_run([path]).name.startswith(id) for path in folder.glob("offline-run-*/*.wandb"))


def test_what_is_logged_seldom_is_among_some_rows(tmp_path: Path) -> None:
    """Few rows of a long run are read, and a torn one is read as far as it goes."""
    code = """
import wandb
with wandb.init(project="p") as run:
    for step in range(3000):
        run.log({"loss": 1.0 / (step + 1), **({"eval/loss": 2.0} if step in (7, 1501) else {})}, step=step)
"""
    environment = {**os.environ, "WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    (path,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    rows = some_rows([path], 50)
    assert len(rows) <= 111 and rows[0]["_step"] == 0
    assert [row["_step"] for row in rows if "eval/loss" in row] == [7, 1501]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert 1000 < len(read_run([path]).rows) < 2000
    path.write_bytes(b"no run of W&B")
    assert read_run([path]).rows == some_rows([path], 50) == []


def long_thread(trials: int) -> Curves:
    """The curves of an entry with so many trials, each of which told six metrics and began a run elsewhere."""
    known = Snapshot()
    rows = []
    told = {f"m{number}/loss": [(step, 1.0) for step in range(200)] for number in range(6)}
    for number in range(1, trials + 1):
        id = f"TOY-001.{number:04d}"
        run = TrackedRun("abc", "toy", "offline-run-20260101_000000-abc")
        made = records.trial(series="toy", id=id, key=f"{number:064x}", curves=told, runs=(run,))
        stored = store_record(made)
        known.add(stored)
        row = msgspec.structs.replace(records.entry().rows[0], trial=stored.ref, changes={"lr": number})
        rows.append(row)
    known.add(store_record(records.entry(series="toy", id="TOY-001", key="TOY-001", rows=tuple(rows))))
    return curves(thread_state(SERIES, known), known, "/nowhere")


def test_curves_of_a_long_thread_have_a_bound() -> None:
    """So many points as a page can hold, of the newest trials; what is left out is said."""
    drawn = long_thread(120)
    points = sum(len(curve) for lines in drawn.lines.values() for curve in lines.values())
    assert points <= POINTS and len(drawn.lines) == TRIALS and len(drawn.names) == 4
    away, newest = drawn.left_out
    assert "(and 99 more) is not on this machine: it was looked for in trials/toy/" in away
    assert newest == "Drawn are the 100 newest trials of 120."
