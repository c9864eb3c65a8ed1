"""The recipe `docs/recipes/extract_production.md`, as somebody types it: its own commands, in a real repository."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.scratch_logbook import git
from tests.support.toy_thread import HERE, Repository, research

RECIPE = HERE / "docs" / "recipes" / "extract_production.md"
OLD, NEW = "def work():\n    return sum(range(2000))\n", "def work():\n    return sum(range(1000))\n"
PULL = "https://github.com/o/r/pull/7"
# What the recipe has somebody fill in.
OURS = {
    "topic": "toy",
    "tag": "toy/TOY-005",
    "branch": "less-work",
    "web": "https://github.com/o/r",
    "paths": "(lib/fast.py lib/gone.py)",
    "subject": '"Do less work"',
    "pull": PULL,
    "evidence": "TOY-003.01",
}


def script(**changes: str) -> str:
    """The recipe's commands, one block after the other, with our names instead of its examples."""
    text = "\n".join(re.findall(r"(?ms)^```bash\n(.*?)^```$", RECIPE.read_text()))
    for name, value in {**OURS, **changes}.items():
        text, count = re.subn(rf"(?m)^{name}=.*$", lambda match, line=f"{name}={value}": line, text)
        assert count == 1, f"the recipe sets {name} {count} times"
    return text


def typed(where: Path, text: str) -> "subprocess.CompletedProcess[str]":
    """What a shell that stops at the first failure makes of it."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "WANDB_MODE": "disabled"}
    command = ["bash", "-euo", "pipefail", "-c", text]
    return subprocess.run(command, cwd=where, env=environment, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A thread on its research branch, sealed, and a remote that knows the default branch only; the folder of both."""
    folder = tmp_path_factory.mktemp("sealed")
    repository = Repository(folder / "checkout")
    root = repository.root
    (root / "lib").mkdir()
    (root / "lib" / "fast.py").write_text(OLD)
    (root / "lib" / "gone.py").touch()
    (root / "lib" / "other.py").touch()
    repository.commit()
    git(folder, "init", "--quiet", "--bare", "--initial-branch=main", "remote.git")
    repository.git("remote", "add", "origin", str(folder / "remote.git"))
    repository.git("push", "--quiet", "origin", "main")
    assert research(root, "kickoff", "toy").returncode == 0
    (root / "lib" / "fast.py").write_text(NEW)
    (root / "lib" / "gone.py").unlink()
    (root / "lib" / "other.py").write_text("# tried here\n")
    (root / "experiments" / "toy" / "variants.py").write_text("# scratch\n")
    repository.commit()
    done = repository.run("--seal", "true")
    assert done.code == 0, done.output
    assert repository.git("tag").split() == [OURS["tag"]]
    return folder


@pytest.fixture
def repository(made: Path, tmp_path: Path) -> Repository:
    """A copy of that thread, with a remote of its own."""
    shutil.copytree(made, tmp_path, symlinks=True, dirs_exist_ok=True)
    repository = object.__new__(Repository)
    repository.root = tmp_path / "checkout"
    repository.experiment = repository.root / "experiments" / "toy"
    repository.git("remote", "set-url", "origin", str(tmp_path / "remote.git"))
    return repository


def test_the_recipe_makes_a_branch_of_the_production_files_only(repository: Repository, tmp_path: Path) -> None:
    """One commit on the default branch, with the tag's files, a link to the tag's logbook and no logbook; decision and
    the issue name the pull request until that is given up. The research checkout stays as it was."""
    root, remote = repository.root, tmp_path / "remote.git"
    state = ("status", "--porcelain", "--branch", "--", ".", ":(exclude).agents")
    before = repository.git(*state), repository.git("stash", "list")
    done = typed(root, script())
    assert done.returncode == 0, done.stdout + done.stderr

    assert git(remote, "log", "--format=%s", "main..less-work").splitlines() == ["Do less work"]
    assert git(remote, "diff", "--name-status", "main", "less-work").split() == ["M", "lib/fast.py", "D", "lib/gone.py"]
    assert git(remote, "show", "less-work:lib/fast.py") == NEW
    assert ".agents" not in git(remote, "ls-tree", "-r", "--name-only", "less-work")
    message = git(remote, "log", "-1", "--format=%B", "less-work")
    assert "research verify toy --tag toy/TOY-005" in message and "research reproduce toy/TOY-005" in message
    link = re.search(r"https://github.com/o/r/blob/([0-9a-f]{40})/(\S+)", message)
    assert link is not None and "TOY-004" in git(remote, "show", f"{link[1]}:{link[2]}")
    assert link[1] == git(remote, "rev-parse", "toy/TOY-005^{commit}").strip()

    assert (repository.git(*state), repository.git("stash", "list")) == before
    assert not (tmp_path / "less-work").exists()
    assert repository.ids[-1] == "TOY-006" and f"production_pr `{PULL}`" in repository.logbook
    issue = root / ".agents" / "issues" / "toy.md"
    assert f"- Production PR: <{PULL}>" in issue.read_text()
    assert research(root, "retract", "TOY-006", "given up").returncode == 0
    assert "- Production PR: none yet" in issue.read_text()


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("experiments/toy/variants.py", ""),
        (".agents/logbooks/toy.md", ""),
        ("lib/fast.py", "from experiments.toy.measure import measure\n"),
        ("lib/fast.py", "import research_steps\n"),
    ],
)
def test_the_recipe_stops_before_research_gets_into_production(
    repository: Repository, tmp_path: Path, path: str, content: str
) -> None:
    """Named by mistake, or imported by what was named: nothing is committed and nothing is pushed. The last line that is
    printed tells the file, and where it imports."""
    if content:
        (repository.root / path).write_text(content)
        repository.commit()
        repository.git("tag", "toy/TOY-900")
    tag = "toy/TOY-900" if content else OURS["tag"]
    done = typed(repository.root, script(paths=f"(lib/fast.py {path})", tag=tag))
    assert done.returncode != 0
    assert done.stdout.splitlines()[-1] == (f"{path}:1:{content.rstrip()}" if content else path)
    assert git(tmp_path / "remote.git", "branch", "--format=%(refname:short)").split() == ["main"]
    assert repository.git("rev-parse", "less-work") == repository.git("rev-parse", "main")
