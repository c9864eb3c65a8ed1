"""Eight processes that record and publish side by side into one journal and one logbook.

Bar: 8 × 250 steps give 2,000 in the journal, 2,000 in the logbook, 0 doubled, 0 errors, and a logbook that verifies.
"""

import multiprocessing
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import synthetic
from research_steps.git import Checkout
from research_steps.journal import Journal
from research_steps.publish import Publisher
from research_steps.sinks.logbook import LogbookSink, path_of, verify
from research_steps.sinks.logbook_file import parse
from research_steps.store import open_store

PROCESSES, EACH = 8, 250


def work(number: int, root: str) -> None:
    checkout = Checkout.find(Path(root) / "checkout")
    journal = Journal(open_store(f"{root}/store"), synthetic.SERIES.topic)
    run = synthetic.captured(checkout)
    sink = LogbookSink(checkout, journal, synthetic.SERIES)
    with Publisher(journal, [sink], lambda line: None) as publisher:
        for step in range(EACH):
            synthetic.record_step(journal, f"process-{number}/step-{step}", run)
            publisher.changed()
    if publisher.problems:
        sys.exit(f"process {number}: {publisher.problems}")


def main() -> None:
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".bench-") as scratch:
        checkout = synthetic.checkout(Path(scratch) / "checkout")
        journal = Journal(open_store(f"{scratch}/store"), synthetic.SERIES.topic)
        journal.declare(synthetic.SERIES)
        start = time.perf_counter()
        context = multiprocessing.get_context("spawn")
        workers = [context.Process(target=work, args=(number, scratch)) for number in range(PROCESSES)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        elapsed = time.perf_counter() - start
        found = journal.scan()
        steps = Counter(stored.record.step_key for stored in found.entries.values())
        shown = Counter(entry.record for entry in parse(path_of(checkout, synthetic.SERIES.topic).read_bytes()).entries)
        _, problems = verify(checkout, synthetic.SERIES.topic, journal)
    doubled = sum(count - 1 for count in [*steps.values(), *shown.values()])
    errors = sum(worker.exitcode != 0 for worker in workers)
    print(f"{PROCESSES} × {EACH} steps in {elapsed:.0f} s: {len(steps)} in the journal, {len(shown)} in the logbook")
    print(
        f"{doubled} doubled, {errors} processes with errors, {len(problems)} problems by verify, {len(found.open)} open"
    )
    expected = PROCESSES * EACH
    if doubled or errors or problems or found.open or len(steps) != expected or len(shown) != expected:
        sys.exit(f"bar NOT MET {problems[:3]}")
    print("bar met")


if __name__ == "__main__":
    main()
