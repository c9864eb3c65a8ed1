"""Eight processes that record and publish side by side into one journal and one logbook, as drivers do.

Bar: 8 × 250 steps give 2,000 in the journal, 2,000 in the logbook, 0 doubled, 0 errors, and a logbook that verifies.
"""

import multiprocessing
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from unittest.mock import patch

from research_steps.git import Checkout
from research_steps.journal.journal import Journal
from research_steps.journal.logbook_place import logbook_of
from research_steps.journal.store import open_store
from research_steps.publish.logbook.format import parse
from research_steps.publish.logbook.verify import check, read
from research_steps.publish.publisher import Publisher
from research_steps.thread.surfaces import surfaces_of

from benchmarks import synthetic

PROCESSES, EACH = 8, 250


def work(number: int, root: str, steps: int) -> None:
    checkout = Checkout.find(Path(root) / "checkout")
    journal = Journal(open_store(f"{root}/store"), synthetic.SERIES.topic)
    run = synthetic.captured(checkout)
    told: list[str] = []
    with Publisher(journal, surfaces_of(checkout, journal, synthetic.SERIES), told.append) as publisher:
        for step in range(steps):
            synthetic.record_step(journal, f"process-{number}/step-{step}", run)
            publisher.changed()
    errors = [line for line in told if "not published" in line]
    if errors:
        sys.exit(f"process {number}: {errors}")


def run(folder: Path, processes: int, each: int) -> list[tuple[str, int, int]]:
    """What was counted in the end: its name, how many there are, and how many there should be."""
    checkout = synthetic.checkout(folder / "checkout")
    journal = Journal(open_store(f"{folder}/store"), synthetic.SERIES.topic)
    journal.declare(synthetic.SERIES)
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=work, args=(number, str(folder), each)) for number in range(processes)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    snapshot = journal.scan()
    steps = Counter(stored.record.step_key for stored in snapshot.entries.values())
    shown = Counter(
        entry.record for entry in parse(logbook_of(checkout, synthetic.SERIES.topic).path.read_bytes()).entries
    )
    problems = check(read(checkout, synthetic.SERIES.topic), journal).problems
    return [
        ("steps in the journal", len(steps), processes * each),
        ("entries in the logbook", len(shown), processes * each),
        ("doubled", sum(count - 1 for count in [*steps.values(), *shown.values()]), 0),
        ("processes with an error", sum(worker.exitcode != 0 for worker in workers), 0),
        ("attempts left open", len(snapshot.open), 0),
        ("problems by verify", len(problems), 0),
    ]


def quick(folder: Path) -> list[str]:
    """Two processes with four steps each, without W&B, whose service takes longer to start than all the rest."""
    with patch.dict(os.environ, {"WANDB_MODE": "disabled"}):
        return [f"{name}: {value}, not {bar}" for name, value, bar in run(folder, 2, 4) if value != bar]


def main() -> None:
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".bench-") as scratch:
        rows = run(Path(scratch), PROCESSES, EACH)
    print(f"{PROCESSES} × {EACH} steps in {time.perf_counter() - start:.0f} s")
    print(f"{'':26}{'found':>8}{'bar':>8}")
    for name, value, bar in rows:
        print(f"{name:26}{value:>8}{bar:>8}")
    if any(value != bar for _, value, bar in rows):
        sys.exit("bar NOT MET")
    print("bar met")


if __name__ == "__main__":
    main()
