"""A checkout with one experiment, in which the benchmarks of dev mode edit and measure: moe_hc, or one of no weight."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import msgspec
from research_steps.git import Checkout
from research_steps.journal.journal import Journal
from research_steps.journal.store import open_store
from research_steps.records.model import Samples, TrialRecord
from research_steps.thread.dev.command import new_occasion, order
from research_steps.thread.dev.messages import Attempted, DevRequest
from research_steps.thread.dev.progress_line import ProgressLine
from research_steps.trial.launcher.daemon import Daemon

REPOSITORY = Path(__file__).resolve().parents[1]
# What it yields is drawn, so that a comparison does not hang on what else runs here.
TOY_KERNELS = """
import random


def cost(work):
    return work * random.gauss(1, 0.001)
"""
TOY_MEASURE = """
from experiments.toy.kernels import cost


def measure(config):
    while True:
        yield {"time_s": cost(config["work"])}
"""
TOY_THREAD = """
from experiments.toy.measure import measure
from research_steps import Metric, Series, main

series = Series(topic="toy", prefix="TOY", goal="be measured at once", metrics=(Metric("time_s"),), max_pairs=20,
                sampling_s=0.5, contention_wait_s=0, floor_processes=1)


def thread(steps):
    base = steps.baseline(measure, {"work": 2000})
    steps.sweep(base, ("work", [1000]))


if __name__ == "__main__":
    main(series, thread)
"""
# One trial in a process that has imported nothing before, not recorded: its samples, and its time beside start and
# imports (seconds).
COLD = """
import importlib, json, sys
from contextlib import suppress
sys.path.insert(0, sys.argv[1])
for name in json.loads(sys.argv[3]):
    with suppress(Exception):
        importlib.import_module(name)
import msgspec
from research_steps.trial.launcher.sampling import sample
from experiments.{topic} import measure as subject
from experiments.{topic}.__main__ import series
sampled = sample(subject.measure, {candidate}, {baseline}, series, seed=int(sys.argv[2]))
print(msgspec.json.encode((sampled.samples, sampled.setup_s + sampled.sampling_s)).decode())
"""


@dataclass(frozen=True)
class Subject:
    """What is measured: the `setting` of an experiment that makes its candidate of its baseline, and both of them in
    Python, with the module of the measure function as `subject`."""

    topic: str
    setting: str
    candidate: str
    baseline: str


def moe_hc(implementation: str) -> Subject:
    return Subject(
        "moe_hc", f"implementation={implementation}", f"subject.MoeConfig(implementation={implementation!r})",
        "subject.MoeConfig(implementation='scatter')",
    )  # fmt: skip


TOY = Subject("toy", "work=1000", "{'work': 1000}", "{'work': 2000}")


class Bench:
    """The checkout, and what is asked of its daemon. What is edited are the experiment's kernels."""

    def __init__(self, root: Path, subject: Subject) -> None:
        self.root = root
        self.subject = subject
        self.kernels = root / "experiments" / subject.topic / "kernels.py"
        self.checkout = Checkout.find(root)
        self.journal = Journal(open_store(str(root / "local_store")), subject.topic)

    def edit(self, number: int) -> None:
        """Save the kernels with a change that computes the same."""
        with self.kernels.open("a") as file:
            file.write(f"\n# edit {number}\n")

    def request(self, *settings: str) -> DevRequest:
        """An attempt with these settings, by default the subject's."""
        return DevRequest(
            cwd=str(self.root), store=str(self.root / "local_store"), topic=self.subject.topic, command=("benchmark",),
            occasion=new_occasion(), settings=settings or (self.subject.setting,),
        )  # fmt: skip

    def order(self, *settings: str) -> Attempted:
        """One attempt, from this process, which has imported what a command imports."""
        return self._order(self.request(*settings))

    def order_edit(self, processes: int = 1) -> Attempted:
        """One attempt at what differs from the commit, without settings, in so many processes."""
        return self._order(msgspec.structs.replace(self.request(), settings=(), processes=processes))

    def commit(self, message: str) -> None:
        subprocess.run(["git", "commit", "--quiet", "--all", "--allow-empty", "-m", message], cwd=self.root, check=True)

    def _order(self, request: DevRequest) -> Attempted:
        with ProgressLine() as progress, open(os.devnull, "w") as nothing, redirect_stdout(nothing):
            answer = order(self.checkout, request, progress.hear)
        return msgspec.json.decode(answer, type=Attempted)

    def command(self, *arguments: str) -> str:
        """`research …` as a process of its own."""
        done = subprocess.run(
            [sys.executable, "-m", "research_steps", *arguments], cwd=self.root, capture_output=True, text=True
        )
        if done.returncode:
            raise SystemExit(done.stdout + done.stderr)
        return done.stdout

    def trials(self) -> list[TrialRecord]:
        """What was measured, but for noise floors, in the order in which it ended."""
        records = [stored.record for stored in self.journal.scan().trials.values()]
        return sorted(
            (record for record in records if record.label != "noise floor"), key=lambda record: record.finished_at
        )

    def last(self) -> TrialRecord:
        return self.trials()[-1]

    def cold(self, seed: int = 1, libraries: tuple[str, ...] = ()) -> tuple[Samples, float]:
        """The candidate's samples in a process that has imported nothing before but these libraries, and its time
        beside start and imports (seconds)."""
        subject = self.subject
        script = COLD.format(topic=subject.topic, candidate=subject.candidate, baseline=subject.baseline)
        done = subprocess.run(
            [sys.executable, "-c", script, str(self.root), str(seed), json.dumps(libraries)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return msgspec.json.decode(done.stdout.splitlines()[-1], type=tuple[Samples, float])


@contextmanager
def small_moe(folder: Path, implementation: str, sampling_s: float = 0.5) -> Iterator[Bench]:
    """moe_hc with this candidate and this sampling budget for a trial."""
    root = folder / "checkout"
    shutil.copytree(REPOSITORY / "experiments", root / "experiments", ignore=shutil.ignore_patterns("__pycache__"))
    thread = root / "experiments" / "moe_hc" / "__main__.py"
    budget = f"sampling_s={sampling_s}, contention_wait_s=0, floor_processes=1"
    text, count = re.subn(r"\bsampling_s=[\d.]+", budget, thread.read_text())
    assert count == 1, f"{thread} has {count} sampling budgets; expected one"
    thread.write_text(text)
    with kept(root, moe_hc(implementation)) as bench:
        yield bench


@contextmanager
def toy(folder: Path, measure: str = TOY_MEASURE, thread: str = TOY_THREAD) -> Iterator[Bench]:
    """An experiment that measures at once and imports nothing, or another one of that name."""
    root = folder / "checkout"
    experiment = root / "experiments" / "toy"
    experiment.mkdir(parents=True)
    files = {"measure.py": measure, "__main__.py": thread, "kernels.py": TOY_KERNELS, "__init__.py": ""}
    for name, text in files.items():
        (experiment / name).write_text(text)
    (experiment.parent / "__init__.py").touch()
    with kept(root, TOY) as bench:
        yield bench


@contextmanager
def kept(root: Path, subject: Subject) -> Iterator[Bench]:
    """The folder as a checkout with one commit; its daemon ends with the block."""
    (root / ".gitignore").write_text("local_store/\n__pycache__/\n")
    for arguments in (
        ["init", "--quiet", "--initial-branch=main"],
        ["config", "user.name", "A Person"],
        ["config", "user.email", "person@example.org"],
        ["add", "--all"],
        ["commit", "--quiet", "--message", "state"],
    ):
        subprocess.run(["git", *arguments], cwd=root, check=True)
    try:
        yield Bench(root, subject)
    finally:
        Daemon(root).stop()
