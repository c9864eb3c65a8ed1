"""A project in a folder of its git repository is refused at once, by whatever would run its thread."""

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
