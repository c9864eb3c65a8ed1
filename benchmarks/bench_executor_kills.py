"""Kills (-9) of whole threads in Marin's executor, at random moments, and what is left when they are run again.

Bar: 5 kills, 0 records lost, 0 doubled. Five threads in repositories of their own run side by side; each driver is
killed once at a random moment after its first record, then run again until it completes. Marin gives a step whose
driver died to the next one after 90 s; that is waited out.
"""

import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from research_steps.git import Checkout
from research_steps.journal.journal import Journal
from research_steps.journal.snapshot import Snapshot
from research_steps.journal.store import open_store
from research_steps.publish.logbook.format import parse
from research_steps.publish.logbook.surface import path_of, verify

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
    topic="killed", prefix="KILL", goal="survive", metrics=(Metric("time_s"),), max_pairs=10, contention_wait_s=0
)


def thread(steps):
    base = steps.baseline(measure, {"work": 30000})
    one = steps.sweep(base, ("work", list(range(10000, 22000, 1000))), label="one")
    two = steps.sweep(base, ("work", list(range(40000, 52000, 1000))), label="two")
    steps.interpret(base, one, two, steps.replicate(one, n=2))


if __name__ == "__main__":
    main(series, thread)
"""
EXPECTED_ENTRIES = 5
EXPECTED_TRIALS = 1 + 12 + 12 + 2


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


def prepare(root: Path) -> None:
    folder = root / "experiments" / "killed"
    folder.mkdir(parents=True)
    for path in (folder.parent, folder):
        (path / "__init__.py").touch()
    (folder / "measure.py").write_text(MEASURE)
    (folder / "__main__.py").write_text(THREAD)
    (root / ".gitignore").write_text("local_store/\n__pycache__/\n")
    git = ["git", "-c", "user.name=bench", "-c", "user.email=bench@localhost"]
    for command in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "-m", "start"]):
        subprocess.run([*git, *command], cwd=root, check=True)


def start(root: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "experiments.killed"]
    return subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)


def records(found: Snapshot) -> dict[str, bytes]:
    everything = [*found.entries.values(), *found.trials.values(), *found.interrupted.values()]
    return {stored.sha256: stored.line for stored in everything}


def kill_one(root: Path, delay: float, outcomes: list[Outcome]) -> None:
    began = time.monotonic()
    prepare(root)
    journal = Journal(open_store(str(root / "local_store")), "killed")
    process = start(root)
    while not journal.scan().trials and process.poll() is None:
        time.sleep(0.1)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = records(journal.scan())
    for _ in range(3):
        again = start(root)
        _, output = again.communicate()
        if again.returncode == 0:
            break
    else:
        print(output)
    after = journal.scan()
    checkout = Checkout.find(root)
    shown = Counter(entry.record for entry in parse(path_of(checkout, "killed").read_bytes()).entries)
    _, problems = verify(checkout, "killed", journal)
    trials = Counter(stored.record.key for stored in after.trials.values() if not stored.record.late)
    outcomes.append(
        Outcome(
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
    )


def main() -> None:
    outcomes: list[Outcome] = []
    seed = int(sys.argv[1]) if len(sys.argv) > 1 else random.randrange(1 << 32)
    print(f"seed {seed}")
    delays = random.Random(seed)
    with tempfile.TemporaryDirectory() as scratch:
        threads = [
            threading.Thread(
                target=kill_one, args=(Path(scratch) / str(n), delays.uniform(0, LONGEST_DELAY_S), outcomes)
            )
            for n in range(KILLS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for outcome in outcomes:
        print(outcome)
    whole = all(o.entries == EXPECTED_ENTRIES and o.trials == EXPECTED_TRIALS and not o.open for o in outcomes)
    lost, doubled = sum(o.lost for o in outcomes), sum(o.doubled for o in outcomes)
    print(f"{len(outcomes)} kills: {lost} records lost, {doubled} doubled, threads complete: {whole}")
    if lost or doubled or not whole or any(o.problems for o in outcomes) or len(outcomes) < KILLS:
        sys.exit("bar NOT MET")
    print("bar met")


if __name__ == "__main__":
    main()
