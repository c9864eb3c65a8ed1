"""A command, a run and a seal, killed (-9) before each thing that they do to files, and then given again."""

import errno
import os
import random
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from research_steps.journal.journal import Journal
from research_steps.journal.store import open_store
from research_steps.publish.logbook.format import parse

from tests.support.file_operations import before_each, killed_before
from tests.support.toy_thread import age_locks, fork, research, started

# Of a seal, which does about a hundred things, and of a run only so many moments are taken, at random.
SEED, OF_SEAL, OF_RUN = 20261130, 24, 6
DECIDE = ("research_steps", "decide", "toy", "Keep the baseline.")
SYNC = ("research_steps", "sync", "toy")
SEAL = ("research_steps", "seal", "toy")
RUN = ("experiments.toy",)
THREAD = """
    base = steps.baseline(measure, Config())
    steps.interpret(base, steps.sweep(base, ("work", [1000]), hypothesis="H1"))
"""


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with a thread that ran, and a decision that is in the store and on no surface yet."""
    repository = started(tmp_path_factory.mktemp("killed") / "checkout")
    repository.thread(THREAD)
    repository.commit()
    assert repository.run().code == 0
    repository.commit()
    return repository.root


def concerned(path: str) -> bool:
    """What is ours: the journal, what is published, the private folder and git's own."""
    return any(place in path for place in ("/journal/", ".agents/", "/.git/", "research-steps"))


def does(where: Path, command: tuple[str, ...], before: Callable[[], None]) -> int:
    """The exit code of a command there; `before` is called in its process first."""
    with open(os.devnull, "wb") as nothing:
        environment = {"WANDB_MODE": "disabled"}
        pid = fork(where, command[0], command[1:], nothing.fileno(), nothing.fileno(), environment, before)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def copies(where: Path, source: Path) -> Iterator[Path]:
    for number in range(1_000):
        shutil.copytree(source, where / str(number) / "checkout", symlinks=True)
        yield where / str(number) / "checkout"


def operations(where: Path, command: tuple[str, ...]) -> int:
    """How many a command does there."""
    counted = where.parent / "counted"
    assert does(where, command, lambda: before_each(concerned, lambda number, path: _note(counted, number))) == 0
    return len(counted.read_bytes())


def _note(counted: Path, number: int) -> None:
    file = os.open(counted, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(file, b".")
    os.close(file)


def killed_and_given_again(where: Path, command: tuple[str, ...], number: int, decisions: int = 0) -> None:
    assert does(where, command, killed_before(number, concerned)) == -signal.SIGKILL, number
    age_locks(where / "local_store")
    assert does(where, command, lambda: None) == 0, number
    whole(where, decisions)


def whole(where: Path, decisions: int) -> None:
    """Everything is there once, in the journal, the logbook and the issue, and verify agrees."""
    scan = Journal(open_store(str(where / "local_store")), "toy").scan()
    assert scan.problems == [] and scan.open == []
    standing = [stored for stored in scan.entries.values() if not stored.record.late]
    assert sum(stored.record.step == "decision" for stored in standing) == decisions
    assert max(Counter(stored.record.step_key for stored in standing).values()) == 1
    shown = Counter(entry.record for entry in parse((where / ".agents" / "logbooks" / "toy.md").read_bytes()).entries)
    assert shown == Counter(stored.sha256 for stored in standing)
    issue = (where / ".agents" / "issues" / "toy.md").read_text()
    for stored in standing:
        if stored.record.step in ("decision", "interpret"):
            assert issue.count(f"<!-- research-steps record {stored.sha256} -->") == 1
    done = research(where, "verify", "toy")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_command_killed_before_each_of_its_operations(measured: Path, tmp_path: Path) -> None:
    """Given again it is there once, whatever it had done by then."""
    folders = copies(tmp_path, measured)
    count = operations(next(folders), DECIDE)
    assert count > 10
    for number, where in zip(range(1, count + 1), folders, strict=False):
        killed_and_given_again(where, DECIDE, number, 1)
        shutil.rmtree(where)


def test_what_was_killed_and_is_not_given_again_is_ended_by_a_run(measured: Path, tmp_path: Path) -> None:
    """It is interrupted; given again after all it is there once."""
    where = next(copies(tmp_path, measured))

    def end(number: int, path: str) -> None:
        if "/entries/records/" in path:
            os.kill(os.getpid(), signal.SIGKILL)

    assert does(where, DECIDE, lambda: before_each(concerned, end)) == -signal.SIGKILL
    journal = Journal(open_store(str(where / "local_store")), "toy")
    (left,) = journal.scan().open
    assert does(where, RUN, lambda: None) == 0
    (ended,) = journal.scan().interrupted.values()
    assert ended.record.id == left.intent.id
    whole(where, 0)
    assert does(where, DECIDE, lambda: None) == 0
    whole(where, 1)


def test_a_sync_killed_before_each_of_its_operations(measured: Path, tmp_path: Path) -> None:
    """Of a work tree from which everything published was taken away."""
    source = tmp_path / "source"
    shutil.copytree(measured, source, symlinks=True)
    shutil.rmtree(source / ".agents")
    folders = copies(tmp_path, source)
    count = operations(next(folders), SYNC)
    assert count > 10
    for number, where in zip(range(1, count + 1), folders, strict=False):
        killed_and_given_again(where, SYNC, number)
        shutil.rmtree(where)


def test_a_seal_killed_before_some_of_its_operations(measured: Path, tmp_path: Path) -> None:
    """Its tag is there once, and says what it seals."""
    folders = copies(tmp_path, measured)
    count = operations(next(folders), SEAL)
    for number, where in zip(random.Random(SEED).sample(range(1, count + 1), OF_SEAL), folders, strict=False):
        killed_and_given_again(where, SEAL, number)
        tags = subprocess.run(["git", "tag"], cwd=where, capture_output=True, text=True, check=True).stdout.split()
        assert len(tags) == 1
        shutil.rmtree(where)


def test_a_run_killed_before_some_of_its_operations(tmp_path: Path) -> None:
    """Run again it completes, and has everything once."""
    repository = started(tmp_path / "source")
    repository.thread(THREAD)
    repository.commit()
    folders = copies(tmp_path, repository.root)
    count = operations(next(folders), RUN)
    for number, where in zip(random.Random(SEED).sample(range(1, count + 1), OF_RUN), folders, strict=False):
        killed_and_given_again(where, RUN, number)
        shutil.rmtree(where)


SHARED = """
    base = steps.baseline(measure, Config())
    steps.interpret(base, *(steps.sweep(base, ("work", [4000]), label=name) for name in ("one", "two")))
"""


def test_a_full_disk_keeps_no_other_step_of_the_run_waiting(tmp_path: Path) -> None:
    """Two sweeps of one run want the same trial, and the record of the one that measures it can't be written: that step
    fails, the other one measures it, and the next run completes."""
    repository = started(tmp_path / "checkout")
    repository.thread(SHARED)
    refused = tmp_path / "refused"

    def is_full(number: int, path: str) -> None:
        if "/trials/records/" in path and b'"work":4000' in Path(path).read_bytes() and not refused.exists():
            refused.touch()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    def fails_once() -> None:
        # A run that waits for itself ends by this, and nothing else.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(60)
        before_each(lambda path: "/trials/records/" in path and os.path.exists(path), is_full)

    assert does(repository.root, RUN, fails_once) == 1
    assert refused.exists()
    assert does(repository.root, RUN, lambda: None) == 0
    whole(repository.root, 0)
