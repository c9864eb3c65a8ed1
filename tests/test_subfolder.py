"""A project in a folder of its git repository, or in another one, is refused at once by what would run its thread."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.toy_thread import Repository, research


@pytest.fixture
def below(tmp_path: Path) -> Repository:
    """A thread in a folder of another repository."""
    repository = Repository(tmp_path / "whole" / "project")
    (repository.root / ".git").rename(tmp_path / "whole" / ".git")
    return repository


def test_the_thread_of_a_subfolder_is_refused(below: Repository) -> None:
    """Nothing is written, neither there nor at the top; what is told to do works."""
    top = below.root.parent
    expected = f"error: The thread experiments/toy lies in {below.root}, a folder of the repository {top}: expected"
    for told in (below.run().output, research(below.root, "dev", "toy").stderr):
        assert expected in told and f"or run 'git init' in {below.root}" in told, told
    assert not (top / ".agents").exists() and not (below.root / ".agents").exists()
    assert not (top / "local_store").exists() and not (below.root / "local_store").exists()
    below.git("init", "--quiet")
    below.git("config", "user.name", "A Person")
    below.git("config", "user.email", "person@example.org")
    below.commit()
    done = below.run()
    assert done.code == 0, done.output
    assert below.ids


def test_the_thread_of_another_checkout_is_refused(tmp_path: Path) -> None:
    """Its records would name the commit of the checkout that one stands in, and a seal would lack the code."""
    repository, other = Repository(tmp_path / "one"), Repository(tmp_path / "other")
    environment = {**os.environ, "PYTHONPATH": str(repository.root), "WANDB_MODE": "disabled"}
    shutil.rmtree(other.root / "experiments")
    done = subprocess.run(
        [sys.executable, "-m", "experiments.toy"], cwd=other.root, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 1, done.stderr
    assert f"The thread lies in {repository.root}" in done.stderr and f"the checkout {other.root}" in done.stderr
    assert not (other.root / ".agents").exists() and not (other.root / "local_store").exists()
