"""A user without a home and without a name, as a container's may be: a number alone, made by a user namespace."""

import subprocess
import sys
from pathlib import Path

from tests.support.toy_thread import Repository

NOBODY = ["unshare", "--user", "--map-user=12345", "--map-group=12345", "env", "--ignore-environment"]


def run(repository: Repository, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    given = [
        f"{name}={value}" for name, value in {"WANDB_MODE": "disabled", "PATH": "/usr/bin:/bin", **environment}.items()
    ]
    argv = [*NOBODY, *given, sys.executable, "-m", *arguments]
    return subprocess.run(argv, cwd=repository.root, capture_output=True, text=True, timeout=300)


def test_a_thread_runs_and_is_sealed_and_read(tmp_path: Path) -> None:
    """Dev mode keeps what JAX compiles at home, and says what to set."""
    repository = Repository(tmp_path / "checkout")
    repository.git("config", "--unset", "user.name")
    repository.git("config", "--unset", "user.email")
    done = run(repository, "experiments.toy", "--seal", "true")
    assert done.returncode == 0, done.stderr
    assert repository.ids == ["TOY-001", "TOY-002", "TOY-003", "TOY-004"] and repository.git("tag") == "toy/TOY-004\n"
    assert "uid 12345" in (repository.root / ".agents" / "logbooks" / "toy" / "TOY-001.jsonl").read_text()
    for command in (["show", "TOY-001"], ["status", "toy"], ["verify", "toy"], ["sync", "toy"]):
        done = run(repository, "research_steps", *command)
        assert done.returncode == 0, done.stdout + done.stderr
    refused = run(repository, "research_steps", "dev", "toy", "--set", "work=1000")
    assert refused.returncode == 1 and "This user has no home directory, and XDG_CACHE_HOME is not set" in refused.stderr
    cache = tmp_path / "cache"
    done = run(repository, "research_steps", "dev", "toy", "--set", "work=1000", XDG_CACHE_HOME=str(cache))
    assert done.returncode == 0 and "work=1000" in done.stdout, done.stdout + done.stderr
    assert run(repository, "research_steps", "dev", "--stop", XDG_CACHE_HOME=str(cache)).returncode == 0
