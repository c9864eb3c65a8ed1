"""What a record's patch and a seal hold: what the thread is made of, in checkouts as people have them."""

import os
import time
from pathlib import Path

import pytest
from research_steps.git import LARGEST_FILE, Checkout
from research_steps.trial.provenance import capture

from tests.support.toy_thread import Repository, cli, research

HELPED = "from lab import helper\nfrom experiments.shared.shapes import SHAPE\n"


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "checkout")


def written(root: Path, *names: str, text: str = "x = 1\n") -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def held(repository: Repository, tmp_path: Path) -> tuple[set[str], str]:
    """The files that differ from the commit in the patch of a record, and its note."""
    checkout = Checkout.find(repository.root)
    captured = capture(checkout, ["x"], "toy")
    shown = checkout.git("apply", "--numstat", "-z", input=captured.patch or b"").decode().split("\0")
    return {line.split("\t")[2] for line in shown if line}, captured.provenance.patch_note


def test_a_patch_holds_what_the_thread_is_made_of(repository: Repository, tmp_path: Path) -> None:
    """Its folder, and what that imports, tracked or not. Other people's files are named; trackers and environments
    are not even that."""
    root = repository.root
    repository.measure(HELPED + (repository.experiment / "measure.py").read_text())
    written(root, "lab/__init__.py", "lab/helper.py", "experiments/shared/shapes.py", "experiments/toy/notes.txt")
    written(root, "experiments/toy/broken.py", text="def (\n")
    # Imported, in a folder named as one of a tracker's.
    written(root, "experiments/toy/more.py", text="import runs.plan\n")
    written(root, "runs/plan.py", "runs/events.out", "mlruns/0/meta.yaml", "outputs/2026-11-30/config.yaml")
    written(root, *(f"wandb/run-1/files/{number}.txt" for number in range(300)), ".agents/wandb/toy/run.wandb")
    written(root, "experiments/toy/wandb/run-2/output.log", "experiments/toy/env/lib/site.py")
    written(root, "experiments/toy/env/pyvenv.cfg", "old venv/pyvenv.cfg", "old venv/lib/python3.11/site.py")
    written(root, *(f"experiments/other/{number:02d}.py" for number in range(12)), "lab/unused.py")
    names, note = held(repository, tmp_path)
    assert names == {
        *("experiments/toy/measure.py", "experiments/toy/notes.txt", "experiments/toy/broken.py"),
        *("experiments/toy/more.py", "experiments/shared/shapes.py", "lab/__init__.py", "lab/helper.py", "runs/plan.py"),
    }
    shown = ", ".join(f"experiments/other/{number:02d}.py" for number in range(10))
    assert note == f"untracked, and not of this thread: {shown} and 3 more"


def test_other_peoples_files_leave_a_record_whole(repository: Repository, tmp_path: Path) -> None:
    """Its code can be had again by its commit, whatever lies beside it."""
    written(repository.root, "experiments/other/__main__.py", "wandb/debug.log")
    captured = capture(Checkout.find(repository.root), ["x"], "toy")
    assert captured.patch is None and captured.provenance.patch is None
    assert captured.provenance.version == (captured.provenance.commit, None)


def test_code_of_packages_edited_in_the_checkout_is_held(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a library that is installed to be edited a new module counts, and no other file."""
    monkeypatch.syspath_prepend(str(repository.root / "lib/kernels/src"))
    written(repository.root, "lib/kernels/src/kernels/new.py", "lib/kernels/src/kernels/profile.json")
    assert held(repository, tmp_path) == (
        {"lib/kernels/src/kernels/new.py"}, "untracked, and not of this thread: lib/kernels/src/kernels/profile.json",
    )  # fmt: skip


@pytest.mark.parametrize("change", ["edited", "staged", "cut", "removed", "added"])
def test_changes_of_large_files_are_named(repository: Repository, tmp_path: Path, change: str) -> None:
    """20 MB that git tracks took a minute each time, and twice as much of the repository. The rest is held."""
    root, table = repository.root, repository.root / "data.csv"
    rows = b"".join(os.urandom(20).hex().encode() + b"\n" for _ in range(250_000))
    small = change == "added"
    table.write_bytes(b"" if small else rows * 2)
    if not small:
        repository.commit()
    written(root, "experiments/toy/measure.py")
    {
        "edited": lambda: table.write_bytes(rows + rows[::-1]),
        "staged": lambda: table.write_bytes(rows),
        "cut": lambda: table.write_bytes(b"1,2\n"),
        "removed": table.unlink,
        "added": lambda: table.write_bytes(rows),
    }[change]()
    if change in ("staged", "added"):
        repository.git("add", "data.csv")
    began = time.monotonic()
    names, note = held(repository, tmp_path)
    assert time.monotonic() - began < 10
    assert names == {"experiments/toy/measure.py"}
    assert note == f"not in the patch, changes of files over {LARGEST_FILE} bytes: data.csv"
    assert capture(Checkout.find(root), ["x"], "toy").provenance.version is None


def test_a_large_change_is_not_sealed_and_has_a_way_out(repository: Repository) -> None:
    """The number rests on what no record holds, so the seal, and the check before posting, say so."""
    table = repository.root / "data.csv"
    table.write_bytes(bytes(LARGEST_FILE + 1))
    repository.commit()
    table.write_bytes(bytes(LARGEST_FILE + 2))
    done = repository.run("--seal", "true")
    assert done.code == 0, done.output
    why = f"is not whole (not in the patch, changes of files over {LARGEST_FILE} bytes: data.csv)"
    assert f"TOY-004 is not sealed: the patch of TOY-001, TOY-002, TOY-003 {why}" in done.output
    assert "the patch of TOY-001 is not whole" in cli(repository, "check", "toy")[1]
    repository.commit()
    for id in ("TOY-001", "TOY-002", "TOY-003"):
        assert research(repository.root, "retract", id, "its data was not committed").returncode == 0
    assert repository.run().code == 0
    done = repository.run("--seal", "true")
    assert "not sealed" not in done.output and repository.git("tag", "--list") != "", done.output


def test_an_edit_inside_a_submodule_is_not_sealed(repository: Repository, tmp_path: Path) -> None:
    """No patch of this repository can hold it."""
    library = Repository(tmp_path / "library")
    allowed = ("-c", "protocol.file.allow=always")
    repository.git(*allowed, "submodule", "--quiet", "add", str(library.root), "vendor/library")
    repository.commit()
    written(repository.root / "vendor/library", "experiments/toy/measure.py")
    done = repository.run("--seal", "true")
    assert done.code == 0, done.output
    assert "is not whole (not in the patch, changes inside submodules: vendor/library)" in done.output
    assert repository.git("tag", "--list") == ""


def test_a_seal_holds_no_tracker_and_no_environment(repository: Repository) -> None:
    """Though they lie in the experiment's folder; what else is new in there is sealed."""
    made = ("experiments/toy/wandb/run-1/output.log", "experiments/toy/env/pyvenv.cfg", "experiments/toy/env/lib/a.py")
    written(repository.root, *made, "experiments/toy/new.txt", "experiments/other/theirs.py")
    done = repository.run("--seal", "true")
    assert done.code == 0, done.output
    (tag,) = repository.git("tag", "--list").split()
    names = set(repository.git("ls-tree", "-r", "--name-only", tag).splitlines())
    assert "experiments/toy/new.txt" in names
    assert not names & {*made, "experiments/other/theirs.py"}
