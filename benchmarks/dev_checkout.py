"""A checkout with the moe_hc experiment, small, in which the benchmarks of dev mode edit and measure."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from research_steps.git import Checkout
from research_steps.journal.journal import Journal
from research_steps.journal.store import open_store
from research_steps.records.model import TrialRecord
from research_steps.thread.dev.command import new_occasion, order
from research_steps.thread.dev.messages import Attempted, DevRequest
from research_steps.thread.dev.progress_line import ProgressLine
from research_steps.trial.launcher.daemon import Daemon

REPOSITORY = Path(__file__).resolve().parents[1]


class Bench:
    """The checkout, and what is asked of its kept parent. The kernel that is edited is `implementation`."""

    def __init__(self, root: Path, topic: str = "moe_hc") -> None:
        self.root = root
        self.topic = topic
        self.kernels = root / "experiments" / topic / "kernels.py"
        self.checkout = Checkout.find(root)
        self.journal = Journal(open_store(str(root / "local_store")), topic)

    def edit(self, number: int) -> None:
        """Save the kernels with a change that computes the same."""
        with self.kernels.open("a") as file:
            file.write(f"\n# edit {number}\n")

    def order(self, *settings: str, **more: object) -> Attempted:
        """One attempt, from this process, which has imported what a command imports."""
        import msgspec

        asked = DevRequest(
            cwd=str(self.root),
            store=str(self.root / "local_store"),
            topic=self.topic,
            command=("benchmark",),
            occasion=new_occasion(),
            settings=settings,
            **more,  # type: ignore[arg-type]
        )
        with ProgressLine() as progress, open(os.devnull, "w") as nothing:
            out, sys.stdout = sys.stdout, nothing
            try:
                return msgspec.json.decode(order(self.checkout, asked, progress), type=Attempted)
            finally:
                sys.stdout = out

    def command(self, *arguments: str) -> str:
        """`research …` as a process of its own."""
        done = subprocess.run(
            [sys.executable, "-m", "research_steps", *arguments], cwd=self.root, capture_output=True, text=True
        )
        if done.returncode:
            raise SystemExit(done.stdout + done.stderr)
        return done.stdout

    def last(self) -> TrialRecord:
        """The trial that was finished last, but for those of a noise floor."""
        trials = (one.record for one in self.journal.scan().trials.values())
        return max((one for one in trials if one.label != "noise floor"), key=lambda one: one.finished_at)


@contextmanager
def small_moe(folder: Path, sampling_s: float = 0.5) -> Iterator[Bench]:
    """One with this sampling budget for a trial; its kept parent ends with the block."""
    root = folder / "checkout"
    shutil.copytree(REPOSITORY / "experiments", root / "experiments", ignore=shutil.ignore_patterns("__pycache__"))
    thread = root / "experiments" / "moe_hc" / "__main__.py"
    budget = f"sampling_s={sampling_s}, contention_wait_s=0, floor_processes=1"
    thread.write_text(thread.read_text().replace("sampling_s=3.0", budget))
    (root / ".gitignore").write_text("local_store/\n__pycache__/\n")
    commit(root)
    try:
        yield Bench(root)
    finally:
        Daemon(root).stop()


def commit(root: Path) -> None:
    for arguments in (
        ["init", "--quiet", "--initial-branch=main"],
        ["config", "user.name", "A Person"],
        ["config", "user.email", "person@example.org"],
        ["add", "--all"],
        ["commit", "--quiet", "--message", "state"],
    ):
        subprocess.run(["git", *arguments], cwd=root, check=True)
