"""Jobs on a real Iris cluster, submitted as a person does, from a git work tree."""

import json
import sys
from pathlib import Path

import pytest

from tests.support import iris_cluster
from tests.support.scratch_logbook import git
from tests.support.toy_thread import Repository, told

KID = """
import json, os
from pathlib import Path


def work(number):
    if number == 0:
        raise ValueError("no such number")
    print("working on", number, flush=True)
    names = ("JAX_PLATFORMS", "KID_ONLY", "MARIN_PREFIX")
    found = {name: os.environ.get(name) for name in names} | {"tree": sorted(os.listdir())}
    (Path(os.environ["MARIN_PREFIX"]) / "answer").write_text(json.dumps(found))
"""

# A worker sends what a task printed each second, and the last of it after it has told that the task has ended. The CLI
# waits for that a second longer, and leaves out what comes later. So tasks go on for a while after their last line.
DRIVER = """
import time
from functools import partial

import kid
from fray.current_client import current_client
from fray.types import Entrypoint, JobRequest, ResourceConfig, create_environment


def request(name, number):
    return JobRequest(
        name=name, entrypoint=Entrypoint.from_callable(partial(kid.work, number)),
        resources=ResourceConfig.with_cpu(cpu=0.5, ram="1g", disk="1g"),
        environment=create_environment(env_vars={"KID_ONLY": "1"}),
    )


jobs = {name: current_client().submit(request(name, number)) for name, number in (("good", 7), ("bad", 0))}
for name, job in jobs.items():
    print(name, job.wait(raise_on_failure=False), flush=True)
time.sleep(5)
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A work tree with tracked, new and ignored files."""
    root = tmp_path / "tree"
    root.mkdir()
    (root / ".gitignore").write_text("ignored\n")
    (root / "ignored").touch()
    (root / "driver.py").write_text(DRIVER)
    git(root, "init", "--quiet")
    git(root, "add", "--all")
    (root / "kid.py").write_text(KID)
    return root


def test_a_command_runs_in_a_copy_of_the_work_tree(controller: iris_cluster.Controller, tree: Path) -> None:
    """It sees tracked and new files, no ignored ones and no repository, and the Python of the environment; its output is
    printed, and when it fails, the CLI does too and tells its exit code."""
    # Today's Iris has a folder of its own beside it.
    script = (
        "import os, sys, time; print(sorted({*os.listdir()} - {'.iris-outputs'})); print(sys.executable, flush=True)"
    )
    script += "; time.sleep(5); sys.exit(7)"
    done = controller.iris(tree, "job", "run", "--job-name", "one", "--", "python", "-c", script)
    assert done.returncode == 1, done.stderr
    assert iris_cluster.printed(done, "one/0") == [str([".gitignore", "driver.py", "kid.py"]), sys.executable]
    assert "Exit code: 7" in done.stderr


def test_a_job_submits_jobs_through_frays_current_client(
    controller: iris_cluster.Controller, tree: Path, shared: Path
) -> None:
    """A child runs a function of the same tree, with the variables that its parent was submitted with and its own, on
    the platform of its resources; its output is told with that of its parent, and a failure is its own."""
    variables = ("-e", "MARIN_PREFIX", str(shared))
    done = controller.iris(tree, "job", "run", *variables, "--job-name", "two", "--", "python", "driver.py")
    assert done.returncode == 0, done.stderr
    assert iris_cluster.printed(done, "two/0") == ["good succeeded", "bad failed"]
    assert iris_cluster.printed(done, "two/good/0") == ["working on 7"]
    assert "ValueError: no such number" in iris_cluster.printed(done, "two/bad/0")

    answer = json.loads((shared / "answer").read_text())
    assert {".gitignore", "driver.py", "kid.py"} <= set(answer.pop("tree"))
    assert answer == {"JAX_PLATFORMS": "cpu", "KID_ONLY": "1", "MARIN_PREFIX": str(shared)}


def test_a_thread_leaves_the_same_records_on_iris(
    controller: iris_cluster.Controller, tmp_path: Path, shared: Path
) -> None:
    """Submitted with Iris's own command line, each step a job of its own; what the driver can't see of git comes with
    RESEARCH_ORIGIN. A checkout catches up from the store."""
    here, there = Repository(tmp_path / "here"), Repository(tmp_path / "there")
    for repository in (here, there):
        repository.spread()
        repository.commit()
    # Iris tells it to the jobs of a CPU, and what is compiled may depend on it.
    assert here.run(JAX_PLATFORMS="cpu").code == 0
    store = str(shared)
    origin = iris_cluster.research(there, "origin", "toy", "--prefix", store).strip()
    given = {"RESEARCH_ORIGIN": origin, "MARIN_PREFIX": store, "JAX_PLATFORMS": "cpu"}
    variables = [word for name, value in given.items() for word in ("-e", name, value)]
    command = ["--job-name", "toy", *variables, "--", "python", "-m", "experiments.toy"]
    done = controller.iris(there.root, "job", "run", *command)
    assert done.returncode == 0, done.stderr
    assert told(Path(store)) == told(here.root / "local_store")
    iris_cluster.research(there, "sync", "toy", "--prefix", store)
    assert there.ids == here.ids
    assert f"Commit Hash: `{there.git('rev-parse', 'HEAD').strip()[:7]}" in there.logbook
