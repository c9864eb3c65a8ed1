"""A checkout in which dev mode is used as a person does: by the real command, with a kept parent of its own."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from research_steps.journal.journal import Journal
from research_steps.journal.store import open_store
from research_steps.records.model import TrialRecord
from research_steps.trial.launcher.daemon import Daemon

from tests.support.toy_thread import research
from tests.support.untimed_thread import UntimedThread


class DevCheckout(UntimedThread):
    """A thread whose metric is drawn and untimed, so that a verdict does not hang on this machine's load."""

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "WANDB_MODE": "disabled",
            "XDG_CACHE_HOME": str(self.root.parent / "cache"),
        }

    def start(self, *arguments: str, **environment: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "research_steps", *arguments],
            cwd=self.root,
            env={**self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def research(self, *arguments: str, code: int = 0, **environment: str) -> str:
        """What a command says, on both streams."""
        done = research(self.root, *arguments, **{**self.environment, **environment})
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def dev(self, *arguments: str, code: int = 0, **environment: str) -> str:
        """What a command of dev mode says, in a process that has imported nothing before."""
        with self.start("dev", "toy", *arguments, **environment) as process:
            output, told = process.communicate(timeout=120)
        assert process.returncode == code, output + told
        return output + told

    @property
    def journal(self) -> Journal:
        return Journal(open_store(str(self.root / "local_store")), "toy")

    def trials(self) -> list[TrialRecord]:
        """What dev mode measured, but for noise floors, in order."""
        records = [trial.record for trial in self.known().trials.values()]
        return sorted(
            (record for record in records if record.label != "noise floor"), key=lambda record: record.started_at
        )

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = json.loads(self.research("status", "toy", "--json"))[0]
        return status

    @property
    def parent(self) -> int:
        """The process ID of the kept parent."""
        return int(self.research("dev", "--status").partition(": process ")[2].split()[0])


@contextmanager
def checkout(folder: Path) -> Iterator[DevCheckout]:
    """One that leaves no kept parent behind."""
    with _ending(DevCheckout(folder / "checkout")) as made:
        yield made


@contextmanager
def checkout_at(root: Path) -> Iterator[DevCheckout]:
    """A clone or copy of one, which is there already."""
    found = DevCheckout.__new__(DevCheckout)
    found.root, found.experiment = root, root / "experiments" / "toy"
    with _ending(found):
        yield found


@contextmanager
def _ending(made: DevCheckout) -> Iterator[DevCheckout]:
    try:
        yield made
    finally:
        made.research("dev", "--stop")
        shutil.rmtree(Daemon(made.root).folder, ignore_errors=True)
