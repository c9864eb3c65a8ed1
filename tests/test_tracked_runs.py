"""W&B runs that trials start, with W&B itself offline: they are told the series' names, and are the trials' runs."""

import json
from pathlib import Path

import pytest
from research_steps.journal.journal import Journal
from research_steps.journal.store import open_store
from research_steps.records.encoding import Stored
from research_steps.records.model import TrialRecord
from research_steps.trial.directory import directory_of
from research_steps.trial.tracked import runs_in_directory

from tests.support.toy_thread import Repository
from tests.support.wandb_files import RunContents, read

MEASURE = """
import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Config:
    lr: float = 0.1
    how: str = "plain"


def measure(config):
    import wandb
    own = {"own": {"project": "mine", "name": "my-name", "group": "my-group", "tags": ["mine"]}}
    run = wandb.init(config={"learning_rate": config.lr}, **own.get(config.how, {}))
    for step in range(5):
        run.log({"loss": config.lr / (step + 1), "eval": {"loss": 2.0 * config.lr}}, step=step)
    if config.how != "left open":
        run.finish()
    return {"loss": config.lr}
"""
LEVANTER = """
from dataclasses import dataclass
from levanter.tracker.wandb import WandbConfig
from marin.execution.types import ExecutorStep, this_output_path
from research_steps import run


@dataclass(frozen=True)
class Config:
    lr: float = 0.1


@dataclass(frozen=True)
class Training:
    tracker: tuple = (WandbConfig(project="training", save_code=False, background=False),)
    out: str = ""


def work(config):
    tracker = config.tracker[0].init("levanters-id")
    for step in range(3):
        tracker.log({"train/loss": 3.0 - step}, step=step)
    tracker.finish()
    return {"loss": 1.0}


def measure(config):
    return run(ExecutorStep(name="toy/train", fn=work, config=Training(out=this_output_path())))
"""


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "checkout")


def run(repository: Repository, measure: str, body: str, of_series: str = "") -> None:
    """Run a thread with W&B offline."""
    repository.measure(measure)
    repository.thread(body)
    main = repository.experiment / "__main__.py"
    text = main.read_text().replace('Metric("time_s", "min")', 'Metric("loss", "min", timed=False)')
    main.write_text(text.replace('topic="toy",', f'topic="toy", {of_series}'))
    home = repository.root.parent / "home"
    done = repository.run(WANDB_MODE="offline", WANDB_SILENT="true", HOME=str(home), JAX_PLATFORMS="cpu")
    assert done.code == 0, done.output


def trials(repository: Repository) -> list[Stored[TrialRecord]]:
    snapshot = Journal(open_store(str(repository.root / "local_store")), "toy").scan()
    return sorted(snapshot.trials.values(), key=lambda stored: stored.record.id)


def contents(repository: Repository, trial: Stored[TrialRecord]) -> RunContents:
    """The one run that a trial's record names, read by W&B's own definitions where it says it is."""
    (run,) = trial.record.runs or ()
    folder = directory_of(str(repository.root / "local_store"), "toy", trial.record.key) / "wandb" / run.folder
    return read(folder / f"run-{run.id}.wandb")


def test_a_run_that_a_measure_begins_is_told_the_series_names(repository: Repository) -> None:
    """Project, group, name and tags, as a run made from records; one that is left open is ended; what the code names
    itself stands. The record says which run it is."""
    body = """
    base = steps.baseline(measure, Config(), label="start")
    steps.sweep(base, ("how", ["own", "left open"]))
"""
    run(repository, MEASURE, body)
    plain, own, left = trials(repository)
    began = contents(repository, plain).run
    assert (began.project, began.run_group, began.display_name) == ("toy", "TOY-001 start", "TOY-001.01 start")
    assert list(began.tags) == ["TOY", "toy"]
    (named,) = plain.record.runs or ()
    assert (named.id, named.project) == (began.run_id, "toy")
    began = contents(repository, own).run
    assert (began.project, began.run_group, began.display_name) == ("mine", "my-group", "my-name")
    assert json.loads(own.line)["runs"][0]["project"] == "mine"
    ended = contents(repository, left)
    assert ended.run.display_name == "TOY-002.02 how=left open"
    assert (ended.kinds[-1], len(ended.history)) == ("exit", 5)


def test_a_run_of_levanters_tracker_is_told_them_too(repository: Repository) -> None:
    """Which gives W&B an empty list of tags, in place of those of the environment; its own ID and project stand."""
    run(repository, LEVANTER, '    steps.baseline(measure, Config(), label="start")\n')
    (trial,) = trials(repository)
    began = contents(repository, trial).run
    assert (began.run_id, began.project) == ("levanters-id", "training")
    assert (began.run_group, began.display_name) == ("TOY-001 start", "TOY-001.01 start")
    assert list(began.tags) == ["TOY", "toy"]


@pytest.mark.parametrize(
    ("of_series", "of_base", "of_sweep"),
    [("private=True,", "", ""), ("", ", private=True", ", shards=2"), ("", "", ", shards=2, private=True")],
)
def test_what_is_private_puts_nothing_on_the_runs_of_its_trials(
    repository: Repository, of_series: str, of_base: str, of_sweep: str
) -> None:
    """They go where the measure sends them, and nothing there names the series; what is measured by a shard too."""
    body = f"""
    base = steps.baseline(measure, Config(){of_base})
    steps.sweep(base, ("lr", [0.2, 0.3]){of_sweep})
"""
    run(repository, MEASURE, body, of_series)
    hidden = [read(path) for path in repository.root.glob("wandb/*run-*/*.wandb")]
    assert len(hidden) == (2 if of_sweep.endswith("private=True") else 3)
    for began in (each.run for each in hidden):
        assert (began.run_group, began.display_name, list(began.tags)) == ("", "", [])
        assert began.project == "checkout"
    assert [bool(trial.record.runs) for trial in trials(repository)] == [len(hidden) == 2, False, False]


def test_a_record_names_runs_as_nothing_but_names(tmp_path: Path) -> None:
    """What lies in a trial's directory and leads elsewhere, or isn't the run that it is called, is none of its runs."""
    folder = tmp_path / "wandb"
    folder.mkdir()
    for name in ("offline-run-20260101_000000-a b", "offline-run-2026-x", "run-20260101_000000-plain"):
        (folder / name).mkdir()
    (folder / "run-20260101_000000-plain" / "run-plain.wandb").write_bytes(b":W&B\xe1\xbe\x00")
    (folder / "run-20260101_000000-linked").symlink_to(folder / "run-20260101_000000-plain")
    assert runs_in_directory(tmp_path) == ()
