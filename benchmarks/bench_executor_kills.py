"""Kills (-9) of whole threads in Marin's executor, at random moments, and what is left when they are run again.

Bar: 5 kills, 0 records lost, 0 doubled. Five threads in repositories of their own run side by side; each driver is
killed once at a random moment after its first record, then run again until it completes. Marin gives a step whose
driver died to the next one after 90 s; that is waited out.

    python -m benchmarks.bench_executor_kills [SEED]
"""

import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import psutil
from research_steps.git import Checkout
from research_steps.journal.journal import Journal
from research_steps.journal.logbook_place import logbook_of
from research_steps.journal.snapshot import Snapshot
from research_steps.journal.store import open_store
from research_steps.publish.logbook.format import parse
from research_steps.publish.logbook.verify import check, read
from research_steps.records.encoding import Stored

KILLS = 5
LONGEST_DELAY_S = 8.0

MEASURE = """
import time


def measure(config):
    while True:
        start = time.perf_counter()
        sum(range(config["work"]))
        yield {"time_s": time.perf_counter() - start}
"""
THREAD = """
from experiments.killed.measure import measure
from research_steps import Metric, Series, main

series = Series(
    topic="killed", prefix="KILL", goal="survive", metrics=(Metric("time_s"),), max_pairs=10, contention_wait_s=0,
    floor_processes=2,
)


def thread(steps):
    base = steps.baseline(measure, {"work": 30000})
    one = steps.sweep(base, ("work", [10000 + 1000 * point for point in range(POINTS)]), label="one")
    two = steps.sweep(base, ("work", [40000 + 1000 * point for point in range(POINTS)]), label="two")
    steps.interpret(base, one, two, steps.replicate(one, n=2))


if __name__ == "__main__":
    main(series, thread)
"""
POINTS = 12
ENTRIES = 5
# Runs the thread of a checkout in a process, and adds what that says to a file.
Start = Callable[[Path, BinaryIO], psutil.Process]


def expected_trials(points: int) -> int:
    """Those of the baseline, of two sweeps, and two replicates."""
    return 2 + 2 * points + 2


@dataclass
class Outcome:
    killed_after_s: float
    finished_before: int
    lost: int
    entries: int
    trials: int
    doubled: int
    open: int
    problems: list[str]
    seconds: float

    def whole(self, points: int) -> bool:
        complete = self.entries == ENTRIES and self.trials == expected_trials(points) and not self.open
        return complete and not (self.lost or self.doubled or self.problems)


def prepare(root: Path, points: int) -> None:
    folder = root / "experiments" / "killed"
    folder.mkdir(parents=True)
    for path in (folder.parent, folder):
        (path / "__init__.py").touch()
    (folder / "measure.py").write_text(MEASURE)
    (folder / "__main__.py").write_text(THREAD.replace("POINTS", str(points)))
    (root / ".gitignore").write_text("local_store/\n__pycache__/\n")
    git = ["git", "-c", "user.name=bench", "-c", "user.email=bench@localhost"]
    for command in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "-m", "start"]):
        subprocess.run([*git, *command], cwd=root, check=True)


def start(root: Path, log: BinaryIO) -> psutil.Process:
    return psutil.Popen([sys.executable, "-m", "experiments.killed"], cwd=root, stderr=log, stdout=log)


def forked(root: Path, log: BinaryIO) -> psutil.Process:
    """From this process, which has imported what takes long."""
    from tests.support.toy_thread import fork

    return psutil.Process(fork(root, "experiments.killed", (), log.fileno(), log.fileno(), {"WANDB_MODE": "disabled"}))


def records(snapshot: Snapshot) -> dict[str, bytes]:
    stored: list[Stored[Any]] = [*snapshot.entries.values(), *snapshot.trials.values(), *snapshot.interrupted.values()]
    return {record.sha256: record.line for record in stored}


def kill_one(root: Path, points: int, delay: float, start: Start, age: Callable[[Path], None]) -> Outcome:
    """Kill a driver so many seconds after its first record, and run it again until it completes; `age` is called with
    the store in between."""
    began = time.monotonic()
    prepare(root, points)
    store = root / "local_store"
    journal = Journal(open_store(str(store)), "killed")
    with (root.parent / f"{root.name}.log").open("wb") as log:
        process = start(root, log)
        while not journal.scan().trials and process.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.1)
        time.sleep(delay)
        process.kill()
        process.wait()
        before = records(journal.scan())
        age(store)
        complete = any(start(root, log).wait() == 0 for _ in range(3))
    if not complete:
        print((root.parent / f"{root.name}.log").read_text())
    after = journal.scan()
    checkout = Checkout.find(root)
    shown = Counter(entry.record for entry in parse(logbook_of(checkout, "killed").path.read_bytes()).entries)
    problems = check(read(checkout, "killed"), journal).problems
    trials = Counter(stored.record.key for stored in after.trials.values() if not stored.record.late)
    return Outcome(
        killed_after_s=delay,
        finished_before=len(before),
        lost=sum(1 for sha in before if sha not in records(after)),
        entries=len(shown),
        trials=len(trials),
        doubled=sum(count - 1 for count in [*shown.values(), *trials.values()]),
        open=len(after.open),
        problems=problems,
        seconds=time.monotonic() - began,
    )


def quick(folder: Path) -> list[str]:
    """One kill, after which Marin's locks are as old as if they had been waited out."""
    from tests.support.toy_thread import age_locks

    outcome = kill_one(folder / "checkout", 2, 0.3, forked, age_locks)
    return [] if outcome.whole(2) and outcome.finished_before else [f"{outcome}"]


def main() -> None:
    seed = int(sys.argv[1]) if len(sys.argv) > 1 else random.randrange(1 << 32)
    print(f"seed {seed}")
    delays = random.Random(seed)
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(KILLS) as pool:

        def kill(number: int, delay: float) -> Outcome:
            return kill_one(Path(scratch) / str(number), POINTS, delay, start, lambda store: None)

        outcomes = list(pool.map(kill, range(KILLS), [delays.uniform(0, LONGEST_DELAY_S) for _ in range(KILLS)]))
    for outcome in outcomes:
        print(outcome)
    lost, doubled = sum(outcome.lost for outcome in outcomes), sum(outcome.doubled for outcome in outcomes)
    whole = all(outcome.whole(POINTS) for outcome in outcomes)
    print(f"{len(outcomes)} kills: {lost} records lost, {doubled} doubled, all as it should be: {whole}")
    if not whole:
        sys.exit("bar NOT MET")
    print("bar met")


if __name__ == "__main__":
    main()
