"""`research new`: from nothing to a thread with a verdict, which asks for no file that people have to write first."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from research_steps.actions.templates import new_thread
from research_steps.git import Checkout

from tests.support.doc_commands import failing
from tests.support.scratch_logbook import git
from tests.support.toy_thread import HERE, fork, research


@pytest.fixture
def root(tmp_path: Path) -> Path:
    git(tmp_path, "init", "--quiet", "--initial-branch=main")
    git(tmp_path, "config", "user.name", "A Person")
    git(tmp_path, "config", "user.email", "person@example.org")
    return tmp_path


def test_a_new_thread_runs_as_it_is_and_passes_check(root: Path) -> None:
    """Written, committed and run with `--seal true`, it has a claim of its own, and no line of the checklist fails."""
    done = research(root, "new", "sort")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "run it: python -m experiments.sort --seal true"
    (root / ".gitignore").write_text("local_store/\n__pycache__/\n")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", "A thread")
    printed = root / ".git" / "run.log"
    log = os.open(printed, os.O_CREAT | os.O_WRONLY)
    pid = fork(root, "experiments.sort", ["--seal", "true"], log, log, {"WANDB_MODE": "disabled"})
    assert os.waitpid(pid, 0)[1] == 0, printed.read_text()

    checked = research(root, "check", "sort")
    assert "sort: 15 lines" in checked.stdout and failing(checked.stdout) == []
    logbook = (root / ".agents" / "logbooks" / "sort.md").read_text()
    assert "SORT-001 (baseline)" in logbook.partition("## Baseline")[0] and "SORT-004 interpretation" in logbook
    assert "sealed as sort/SORT-005" in printed.read_text()


def test_a_new_thread_is_short_and_passes_the_linter(root: Path) -> None:
    """Under 60 lines, formatted, and with nothing for ruff to say, as the README's code."""
    written = new_thread(Checkout.find(root), "moe_2", dry_run=False)
    assert sum(len(path.read_text().splitlines()) for path in written) < 60
    ruff, rules = [sys.executable, "-m", "ruff"], ["--no-cache", "--config", str(HERE / "pyproject.toml")]
    for arguments in (["format", "--check"], ["check"]):
        done = subprocess.run([*ruff, *arguments, *rules, "."], cwd=root, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    assert 'prefix="MOE-2"' in (root / "experiments" / "moe_2" / "__main__.py").read_text()


@pytest.mark.parametrize("there", ["__init__.py", "__main__.py", "measure.py"])
def test_a_thread_that_is_there_is_not_written_over(root: Path, there: str) -> None:
    """One file of it is enough, and then the others are not written either."""
    folder = root / "experiments" / "sort"
    folder.mkdir(parents=True)
    (folder / there).write_text("mine")
    done = research(root, "new", "sort")
    assert (done.returncode, done.stdout) == (1, "")
    assert f"{there} is there already" in done.stderr
    assert [(path.name, path.read_text()) for path in folder.iterdir()] == [(there, "mine")]


@pytest.mark.parametrize("topic", ["moe-hc", "2d", "class", "../up", "Upper"])
def test_a_topic_that_is_no_module_is_refused(root: Path, topic: str) -> None:
    """The message says what is expected, and where a name is near, gives it."""
    done = research(root, "new", topic)
    assert done.returncode == 1 and done.stderr.startswith("error: Topic")
    assert not (root / "experiments").exists()


def test_a_folder_of_experiments_stays_as_it_is(root: Path) -> None:
    """Only where there is none yet, it becomes a package."""
    (root / "experiments").mkdir()
    assert research(root, "new", "sort").returncode == 0
    assert [path.name for path in (root / "experiments").iterdir()] == ["sort"]
