"""Marin's own steps in processes of their own, side by side: by real threads, W&B offline, signals and kills."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from research_steps.journal.journal import Journal
from research_steps.journal.store import open_store
from research_steps.records.model import EntryRecord

from tests.support.marin_steps import outputs, returned
from tests.support.toy_thread import MEASURE, Repository, fork
from tests.support.wandb_files import read

# What refuses to be set twice in a process, as Levanter's tracker does.
TRAIN = (
    MEASURE
    + """

_tracker = None


def train(config):
    global _tracker
    import wandb

    if _tracker is not None:
        raise RuntimeError("Global tracker is already set")
    _tracker = wandb.init(project="p", id=f"seed-{config['seed']}")
    here = Path(os.environ["HERE"])
    (here / str(config["seed"])).write_text(str(os.getpid()))
    # Until all have begun.
    while len(list(here.iterdir())) < int(os.environ["AT_ONCE"]):
        time.sleep(0.05)
    for step in range(3):
        _tracker.log({"loss": 10.0 * config["seed"] + step})
    print(f"seed {config['seed']} has printed")
    return {"loss": 10.0 * config["seed"] + 2}
"""
)
STEPS = """
    from fray.types import ResourceConfig
    from marin.execution.remote import remote
    from experiments.toy.marin_steps import step
    from experiments.toy.measure import train

    small = ResourceConfig.with_cpu()
    steps.recorded(step("toy/plain", train, {"seed": 1}))
    steps.recorded(step("toy/far", remote(train, resources=small), {"seed": 2}))
    steps.recorded(step("toy/asks", train, {"seed": 3}, small))
"""


def entries(repository: Repository) -> list[EntryRecord]:
    journal = Journal(open_store(str(repository.root / "local_store")), "toy")
    return sorted((stored.record for stored in journal.scan().entries.values()), key=lambda entry: entry.id)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "checkout")


@pytest.mark.parametrize("at_once", [3, 1])
def test_steps_side_by_side_have_what_is_global_to_themselves(repository: Repository, at_once: int) -> None:
    """Each W&B run has its own curve, group and end, as one at a time; so does what Marin saves."""
    repository.measure(TRAIN)
    repository.thread(STEPS)
    here, runs = repository.root.parent / "here", repository.root.parent / "runs"
    here.mkdir()
    runs.mkdir()
    environment = {"HERE": str(here), "AT_ONCE": str(at_once), "WANDB_MODE": "offline", "WANDB_DIR": str(runs)}
    done = repository.run("--max_concurrent", str(at_once), WANDB_SILENT="true", **environment)
    assert done.code == 0, done.output
    contents = {run.run.run_id: run for run in map(read, runs.glob("*/offline-run-*/*.wandb"))}
    assert sorted(contents) == ["seed-1", "seed-2", "seed-3"]
    for seed in (1, 2, 3):
        run = contents[f"seed-{seed}"]
        assert [row["loss"] for row in run.history] == [10.0 * seed + step for step in range(3)]
        # Nobody has finished it but the end of its process.
        assert run.exit_code == 0 and list(run.run.tags) == ["TOY", "toy"]
        assert f"seed {seed} has printed" in done.output
    groups = sorted(run.run.run_group for run in contents.values())
    assert [group.split()[1] for group in groups] != ["toy/plain"] * 3 and len(set(groups)) == 3
    assert len({path.read_text() for path in here.iterdir()}) == 3
    names = ("toy/plain", "toy/far", "toy/asks")
    saved = [returned(output) for name in names for output in outputs(repository.root / "local_store", name)]
    assert saved == [{"loss": 12.0}, {"loss": 22.0}, {"loss": 32.0}]


WORK = """
    import os, signal
    from experiments.toy.marin_steps import step

    def work(config):
        Path = __import__("pathlib").Path
        with Path("ran").open("a") as file:
            file.write(f"{os.getpid()}\\n")
        if Path("ran").read_text().count("\\n") == 1:
            BODY
        return {"answer": 42}

    steps.recorded(step("toy/work", work, {}))
"""


def test_what_a_step_raises_arrives_with_type_message_and_place(repository: Repository) -> None:
    """In its entry and in the run's last line."""
    repository.thread(WORK.replace("BODY", 'raise FloatingPointError("loss is nan")'))
    done = repository.run()
    assert done.code == 1 and "FloatingPointError: loss is nan" in done.output.splitlines()[-1]
    assert "FloatingPointError: loss is nan" in repository.logbook
    (entry,) = entries(repository)
    assert entry.error is not None and entry.error.where == "step"
    assert "__main__.py" in entry.error.frames[-1] and entry.error.frames[-1].endswith("in work")


@pytest.mark.parametrize(
    ("body", "status"), [("os.kill(os.getpid(), signal.SIGKILL)", "none"), ("os._exit(3)", "failed")]
)
def test_a_killed_step_is_no_result_and_goes_on(repository: Repository, body: str, status: str) -> None:
    """Out of memory, say: it is interrupted, and begun again with the same ID. One that ends itself has failed."""
    repository.thread(WORK.replace("BODY", body))
    done = repository.run()
    assert done.code == 1 and ("signal SIGKILL" if status == "none" else "exit code 3") in done.output
    assert [entry.status for entry in entries(repository)] == ([] if status == "none" else ["failed"])
    again = repository.run()
    assert again.code == 0, again.output
    assert [entry.id for entry in entries(repository)][-1] == ("TOY-001" if status == "none" else "TOY-002")


def test_what_does_not_travel_to_another_process_is_told(repository: Repository) -> None:
    repository.thread(
        WORK.replace("def work", "held = __import__('threading').Lock()\n\n    def work").replace("BODY", "held")
    )
    done = repository.run()
    assert done.code == 1 and "toy/work can't run in a process of its own: cannot pickle" in done.output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_the_end_of_a_driver_is_that_of_its_step(repository: Repository, number: int) -> None:
    """By Ctrl-C as by a kill, with what the step has started itself."""
    repository.thread(
        WORK.replace(
            "BODY",
            """subprocess = __import__("subprocess")
            other = subprocess.Popen(["sleep", "1000"], start_new_session=True)
            Path("other").write_text(str(other.pid))
            other.wait()""",
        )
    )
    output = repository.root.parent / "output"
    with output.open("w") as file:
        driver = fork(repository.root, "experiments.toy", [], file.fileno(), file.fileno(), {"WANDB_MODE": "disabled"})
    other = repository.root / "other"
    _wait(lambda: other.exists() and bool(other.read_text()))
    mine = [int(repository.root.joinpath("ran").read_text()), int(other.read_text())]
    os.kill(driver, number)
    os.waitpid(driver, 0)
    _wait(lambda: not any(map(_runs, mine)))
    assert number == signal.SIGKILL or "The run was stopped" in output.read_text()
    assert entries(repository) == []


def _runs(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def _wait(until: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not until():
        assert time.monotonic() < deadline
        time.sleep(0.1)
