"""What the files of a pull request can make the software do for whoever checks them out: nothing. Each test has a
person's clone of a branch into which somebody else committed whatever they liked, and the commands as that person types
them."""

import os
import shutil
from pathlib import Path

import pytest
from research_steps.git import Checkout
from research_steps.publish.wandb import run_file
from research_steps.publish.wandb.runs import Place, of_entry, run_id
from research_steps.publish.wandb.surface import folder_of

from tests.support.scratch_logbook import SERIES, Desk, git
from tests.support.toy_thread import research
from tests.support.wandb_server import server

PRIVATE = "a line of a file that is the user's own"


@pytest.fixture
def private(tmp_path: Path) -> Path:
    """A file of the user's, outside of every checkout."""
    path = tmp_path / "private"
    path.write_text(f"{PRIVATE}\n")
    return path


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """Where a series was measured and published, and where somebody else commits next."""
    desk = Desk.make(tmp_path)
    desk.journal.declare(SERIES)
    desk.record("work", trials=1)
    desk.publish()
    return desk


def cloned(desk: Desk, where: Path) -> Path:
    """The person's clone of all that the desk's work tree holds now."""
    desk.git("add", "--all", "--force")
    desk.git("commit", "--quiet", "--message", "a pull request")
    git(where, "clone", "--quiet", str(desk.root), str(where / "clone"))
    return where / "clone"


@pytest.mark.parametrize("has_git", [True, False])
def test_what_others_committed_is_not_sent_to_wandb(
    desk: Desk, tmp_path: Path, private: Path, monkeypatch: pytest.MonkeyPatch, has_git: bool
) -> None:
    """A run in the folder of older versions, with a link to a private file as its table, stays where it is; in an
    archive of the branch too. The person is told that this folder is not read any more, once, and their own runs are
    sent."""
    (entry,) = desk.journal.entries().entries.values()
    trial = desk.journal.load("trial", entry.record.rows[0].trial)
    planted = run_file.Run(**{**vars(of_entry(entry, [trial], Place("toy", (), ""))), "notes": "planted"})
    for place in (".agents/wandb/toy", ".agents/research-steps/wandb/toy"):
        (desk.root / place).mkdir(parents=True)
        run_file.write(desk.root / place, planted)
        (table,) = (desk.root / place).glob(f"offline-run-*/{run_file.TABLE}")
        table.unlink()
        table.symlink_to(private)
        (table.parent / "files" / "kept").touch()
    clone = cloned(desk, tmp_path)
    if not has_git:
        shutil.rmtree(clone / ".git")
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    with server() as wandb:
        environment = {"WANDB_MODE": "", "WANDB_BASE_URL": wandb.url, "WANDB_API_KEY": "0123456789" * 4}
        done = research(clone, "sync", "toy", "--prefix", str(desk.store), **environment)
        assert done.returncode == 0, done.stderr
        sent = b"".join(body for _, _, body in wandb.requests) + b"".join(wandb.files.values())
        assert wandb.runs.keys() == {run_id(entry.sha256), run_id(trial.sha256)}
    assert PRIVATE.encode() not in sent and b"planted" not in sent
    assert done.stdout.count(".agents/wandb/toy is not read any more and can be deleted") == 1
    assert folder_of(Checkout.find(clone), "toy").is_dir()
    assert not [path for path in (clone / ".agents").rglob("*") if path.name.endswith((".synced", "address"))]
    again = research(clone, "sync", "toy", "--prefix", str(desk.store))
    assert again.stdout == "toy: nothing new\n"
