"""A driver that finds Marin's locks on its steps: who is waited for is told, and nobody is waited for too long."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from research_steps.journal.journal import Journal
from research_steps.journal.store import open_store
from research_steps.thread import lock_watch

from tests.support.clocks import faked
from tests.support.ray_cluster import eventually
from tests.support.untimed_thread import Command, UntimedThread

TOLD = re.compile(r"another driver has toy/\S+ \(Marin's lock of \S+\): waiting for it; if it is gone, for (\d+) more")


@pytest.fixture
def repository(tmp_path: Path) -> UntimedThread:
    made = UntimedThread(tmp_path / "checkout")
    made.write("    steps.baseline(measure, Config())\n")
    (made.root / "hold").write_text("0")
    return made


def killed_driver(repository: UntimedThread, clock: str) -> Path:
    """A driver, with its clock so far off, that is killed in mid-trial: the lock that it leaves."""
    environment = {**os.environ, "WANDB_MODE": "disabled", **faked(clock)}
    command = [sys.executable, "-m", "experiments.toy"]
    with subprocess.Popen(command, cwd=repository.root, env=environment, stderr=subprocess.DEVNULL) as driver:
        eventually(lambda: len(repository.measured) > 0, 120)
        driver.kill()
    (repository.root / "hold").unlink()
    (lock,) = (repository.root / "local_store").rglob(".executor_status.lock")
    return lock


@contextmanager
def driver(repository: UntimedThread) -> Iterator[Command]:
    """Another driver, which is there no more after the block."""
    command = Command(repository, (), "experiments.toy")
    try:
        yield command
    finally:
        if not command.is_over:
            os.kill(command.pid, signal.SIGKILL)
            command.ended()


def age(lock: Path, seconds: float) -> None:
    """Have the lock written so long ago by the clock of its store."""
    written = time.time() - seconds
    os.utime(lock, (written, written))


def test_a_lock_dated_ahead_is_waited_for_as_any_other(repository: UntimedThread) -> None:
    """A driver whose clock was 50 minutes ahead was killed: the next one has its step 90 s after it last wrote."""
    lock = killed_driver(repository, "+3000s")
    assert json.loads(lock.read_bytes())["timestamp"] > time.time() + 2000
    age(lock, 80)
    with driver(repository) as waiting:
        waiting.wait_for("the logbook is")
        output = waiting.ok()
    told = [int(left) for left in TOLD.findall(output)]
    assert told and told[0] <= 10, output
    assert repository.ids == ["TOY-001"]


def test_who_is_waited_for_is_told_again_and_again(repository: UntimedThread) -> None:
    """At once and then every 15 s; one that refreshes its lock, which lies ahead, keeps it and is told no more."""
    lock = killed_driver(repository, "+3000s")
    age(lock, 20)
    with driver(repository) as waiting:
        eventually(lambda: len(TOLD.findall(waiting.output)) == 2, 60)
        # What the killed one had begun has ended by now.
        measured = repository.measured
        first, second = (int(left) for left in TOLD.findall(waiting.output))
        assert 60 <= first <= 70 and 14 <= first - second <= 17
        # As its driver would, if it were there.
        age(lock, 0)
        time.sleep(17)
        assert len(TOLD.findall(waiting.output)) == 2
        assert lock.exists() and repository.measured == measured
        age(lock, 100)
        waiting.wait_for("the logbook is")
        waiting.ok()


def test_a_lock_of_another_process_by_the_same_name_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Marin names a worker by its host and thread, and drivers that were forked from one process share such names.
    Nobody refreshes it, so it is released; what is refreshed is this process's own, and stays."""
    monkeypatch.setattr(lock_watch, "EVERY_S", 0.2)
    monkeypatch.setattr(lock_watch, "STALE", timedelta(seconds=1.0))
    journal = Journal(open_store(str(tmp_path / "store")), "toy")
    folder = f"{journal.store.url}/toy/sweep"
    plan: Any = SimpleNamespace(steps=[SimpleNamespace(name="toy/sweep")], output_path=lambda step: folder)
    watch = lock_watch.LockWatch(journal, plan, print)
    lock = Path(folder, ".executor_status.lock")
    lock.parent.mkdir(parents=True)
    name = f"{os.uname().nodename}-{threading.get_ident()}"
    lock.write_text(json.dumps({"worker_id": name, "timestamp": time.time() + 3000}))
    with watch.watching():
        until = time.monotonic() + 3.0
        while time.monotonic() < until:
            os.utime(lock)
            time.sleep(0.1)
        assert lock.exists()
        eventually(lambda: not lock.exists(), 20)
