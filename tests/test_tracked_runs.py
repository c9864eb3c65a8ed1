"""W&B runs that trials start, with W&B itself offline: they are told the series' names, and are the trials' runs."""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from research_steps.evidence.table import Trial, row_of
from research_steps.journal.experiment_ids import NoOthers
from research_steps.journal.journal import Journal
from research_steps.journal.store import open_store
from research_steps.publish.publisher import Published, publish
from research_steps.publish.terminal.records import record_lines
from research_steps.publish.wandb.runs_on_disk import address_of, folder_of, runs_in
from research_steps.publish.wandb.surface import WandbSurface
from research_steps.records.encoding import Stored
from research_steps.records.model import TrialRecord
from research_steps.trial.directory import directory_of
from research_steps.trial.tracked import files_of, runs_in_directory

from tests.support import scratch_logbook
from tests.support.scratch_logbook import SERIES, Desk
from tests.support.toy_thread import Repository
from tests.support.wandb_files import RunContents, read
from tests.support.wandb_server import server

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
from experiments.toy.marin_steps import own_path, step
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
    return run(step("toy/train", work, Training(out=own_path())))
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


# -- the surface ------------------------------------------------------------------------------------------------------


def measured(desk: Desk, log: str, **special: Any) -> tuple[Stored[TrialRecord], str]:
    """A step with one trial, in whose directory W&B's own client has left a run; the trial, and the run's ID."""
    key = os.urandom(32).hex()
    directory = directory_of(str(desk.store), "toy", key)
    directory.mkdir(parents=True)
    environment = {**os.environ, "WANDB_MODE": "offline", "WANDB_DIR": str(directory), "WANDB_PROJECT": "toy"}
    subprocess.run([sys.executable, "-c", log], env=environment, check=True)
    id = desk.journal.ids.reserve("TOY", f"toy/{key}", NoOthers())
    record = msgspec.structs.replace(
        scratch_logbook.trial(f"{id}.01", key), runs=runs_in_directory(directory), label="work=1", **special
    )
    trial = desk.journal.attempts.finish("trial", record)
    rows = (scratch_logbook.row(trial),)
    desk.journal.attempts.finish("entry", scratch_logbook.entry(id, rows=rows, label="work"))
    return trial, record.runs[0].id if record.runs else ""


LOG = """
import wandb
run = wandb.init(config={"lr": 0.1, "baseline": "theirs", "api_key": "hunter2-or-so"}, name="my-name", tags=["mine"])
for step in range(5):
    run.log({"loss": 1.0 / (step + 1), "eval": {"loss": float("nan")}}, step=10 * step)
run.summary["best"] = 3
"""


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    for name in [name for name in os.environ if name.startswith("WANDB_") or name == "NETRC"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return Desk.make(tmp_path)


def show(desk: Desk) -> Published:
    return publish(desk.journal, [WandbSurface(desk.checkout, desk.journal, SERIES)])


def test_what_a_record_says_is_added_to_the_run_of_its_trial(desk: Desk) -> None:
    """Verdict, commit, configuration and hash beside the tracker's own names, steps and curves; there is no second run,
    and no secret."""
    trial, id = measured(desk, LOG)
    assert show(desk).problems == ()
    files = runs_in(folder_of(desk.checkout, "toy"))
    assert len(files) == 2 and id in files and trial.sha256[:16] not in files
    added = read(files[id])
    assert (added.run.run_id, added.run.display_name, added.run.project) == (id, "my-name", "toy")
    assert added.run.run_group == "TOY-001 work"
    assert list(added.run.tags) == ["mine", "TOY", "toy", "sweep", "ok"]
    assert [row["_step"] for row in added.history] == [0, 10, 20, 30, 40]
    assert [row["loss"] for row in added.history] == [1.0 / (step + 1) for step in range(5)]
    assert math.isnan(added.history[0]["eval"]["loss"])
    assert (added.config["lr"], added.config["baseline"]) == (0.1, "theirs")
    assert added.config["research/baseline"] == {"work": 2} and added.config["from"]["commit"] == "c" * 40
    assert (added.summary["best"], added.summary["status"], added.summary["sha256"]) == (3, "ok", trial.sha256)
    assert b"hunter2" not in files[id].read_bytes()
    before = files[id].read_bytes()
    assert show(desk) == Published() and files[id].read_bytes() == before


def test_the_run_of_a_trial_is_sent_once(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """With all that its tracker logged and all that was added, under its own ID."""
    with server() as here:
        monkeypatch.setenv("WANDB_BASE_URL", here.url)
        monkeypatch.setenv("WANDB_API_KEY", "0123456789" * 4)
        _, id = measured(desk, LOG)
        assert show(desk).problems == ()
        sent = here.runs[id]
        assert len(here.runs) == 2 and sent.complete and sent.exit_code == 0
        assert [row["loss"] for row in sent.history] == [1.0 / (step + 1) for step in range(5)]
        assert sent.variables["displayName"] == "my-name" and sent.variables["groupName"] == "TOY-001 work"
        assert (sent.summary["best"], sent.summary["status"]) == (3, "ok")
        assert address_of(runs_in(folder_of(desk.checkout, "toy"))[id]) == f"{here.url}/ada/toy/runs/{id}"
        before = len(here.requests)
        assert show(desk) == Published() and len(here.requests) == before


def test_a_run_that_was_resumed_is_one_run(desk: Desk) -> None:
    """As Levanter resumes its own: by its ID, in a folder for each time. What was killed has no end, and is read as far
    as it goes."""
    twice = LOG.replace('name="my-name"', 'id="again", resume="allow"')
    later = twice.replace("10 * step", "50 + step") + "run.finish()\n"
    trial, id = measured(desk, f"{twice}run.finish()\nimport time; time.sleep(1.1)\n{later}")
    assert [run.id for run in trial.record.runs or ()] == ["again", "again"]
    files = files_of(str(desk.store), trial.record)["again"]
    files[0].write_bytes(files[0].read_bytes()[:-400])
    assert show(desk).problems == ()
    steps = [row["_step"] for row in read(runs_in(folder_of(desk.checkout, "toy"))[id]).history]
    assert steps in ([0, 10, 20, 30, 40, *range(50, 55)], [0, 10, 20, 30, *range(50, 55)])


def test_a_run_on_another_machine_is_not_made_again(desk: Desk) -> None:
    """Its record names it; what W&B has there is not written over."""
    trial, id = measured(desk, LOG)
    shutil.rmtree(directory_of(str(desk.store), "toy", trial.record.key))
    assert show(desk).problems == ()
    files = runs_in(folder_of(desk.checkout, "toy"))
    assert len(files) == 1 and id not in files and trial.sha256[:16] not in files
    assert row_of(Trial(trial, True), {}).note == f"W&B run toy/{id}"
    assert f"  W&B run toy/{id}, written to wandb/offline-run-" in "\n".join(record_lines(trial.record, SERIES))


def test_what_another_user_left_there_is_not_sent(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store may be shared: whoever writes to it chooses neither what is sent nor which run that is."""
    _, id = measured(desk, LOG)
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert show(desk).problems == ()
    assert id not in runs_in(folder_of(desk.checkout, "toy"))
