"""A repository that ignores what is published here, as Marin's does, and one whose files are cleaned away."""

import shutil
from pathlib import Path

import pytest

from tests.support.toy_thread import STEADY, Repository, research

BODY = """
    base = steps.baseline(measure, Config())
    steps.interpret(base, steps.sweep(base, ("work", [1000])))
"""


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    repository = Repository(tmp_path / "checkout")
    repository.measure(STEADY)
    repository.thread(BODY)
    return repository


def _run(repository: Repository, ignored: str) -> str:
    (repository.root / ".gitignore").write_text(ignored)
    repository.commit()
    done = repository.run()
    assert done.code == 0, done.output
    return done.output


def test_a_clone_has_every_record_whatever_the_repository_ignores(repository: Repository, tmp_path: Path) -> None:
    """Marin's own rules among them: what is published is committed by 'git add' like any file."""
    _run(repository, "*.jsonl\n**/*.jsonl\n*.csv\n*.patch\nlocal_store/\n")
    repository.commit()
    clone = tmp_path / "clone"
    repository.git("clone", "--quiet", str(repository.root), str(clone))
    verified = research(clone, "verify", "toy")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    shown = research(clone, "show", "TOY-002.01")
    assert shown.returncode == 0 and "work=1000" in shown.stdout
    assert not (repository.root / ".agents" / "logbooks" / "toy" / "TOY-001.tmp").exists()


def test_a_folder_that_is_ignored_as_a_whole_is_told(repository: Repository) -> None:
    """Git looks at no rule below it, so that nobody else would get a record."""
    output = _run(repository, ".agents/\n")
    assert "git ignores .agents/logbooks as a whole, so nobody else gets what is recorded here" in output


def test_a_repository_that_ignores_nothing_gets_no_rules(repository: Repository) -> None:
    _run(repository, "local_store/\n")
    assert not (repository.root / ".agents" / "logbooks" / ".gitignore").exists()


def test_what_git_cleans_away_comes_back_from_the_store(repository: Repository) -> None:
    """The store's journal ignores itself: 'git clean -fd' leaves it, and the logbook is made again from it."""
    _run(repository, "")
    before = repository.logbook
    assert "local_store/journal" not in repository.git("status", "--porcelain", "--untracked-files=all")
    repository.git("clean", "-fd", "--quiet")
    assert not (repository.root / ".agents").exists()
    synced = research(repository.root, "sync", "toy")
    assert synced.returncode == 0, synced.stderr
    assert [line for line in repository.logbook.splitlines() if line.startswith("### ")] == [
        line for line in before.splitlines() if line.startswith("### ")
    ]


def test_a_clone_without_any_record_is_told_as_that(repository: Repository) -> None:
    """It is no tampering."""
    _run(repository, "local_store/\n")
    shutil.rmtree(repository.root / "local_store")
    for path in (repository.root / ".agents" / "logbooks" / "toy").glob("*.jsonl"):
        path.unlink()
    verified = research(repository.root, "verify", "toy")
    assert verified.returncode == 1
    assert verified.stdout.count("TOY-00") == 0
    assert "none of the records that its 3 entries name is here" in verified.stdout
