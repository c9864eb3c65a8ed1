"""Drivers that record and publish at once: 8 processes, 250 entries each, one store and one checkout.

Bar: 2,000 records in the journal, 2,000 entries in the logbook, none doubled, no error, and `research verify` finds
nothing. Each process claims IDs, begins and ends attempts and runs a publisher, as a driver does, without measuring.
"""

import multiprocessing
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from research_steps.journal import Journal
from research_steps.publish import Publisher, sinks_of
from research_steps.sinks import logbook_file

from tests.logbooks import SERIES, Desk, entry

PROCESSES = 8
RECORDS = 250


@dataclass(frozen=True)
class Outcome:
    """What was found in the end, and how long it took, in seconds."""

    recorded: int
    shown: int
    doubled: int
    errors: list[str]
    seconds: float


def run(where: Path, processes: int, records: int) -> Outcome:
    """Let the processes record and publish in a new checkout, and count what is there afterwards."""
    desk = Desk.make(where)
    start = time.perf_counter()
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes) as pool:
        told = pool.starmap(_drive, [(desk.root, desk.store, number, records) for number in range(processes)])
    seconds = time.perf_counter() - start
    shown = [found.record for found in logbook_file.parse(desk.data).entries]
    return Outcome(
        recorded=len(Journal(desk.journal.store, SERIES.topic).scan().entries),
        shown=len(set(shown)),
        doubled=sum(count - 1 for count in Counter(shown).values()),
        errors=[*(problem for problems in told for problem in problems), *desk.problems()],
        seconds=seconds,
    )


def _drive(root: Path, store: Path, number: int, records: int) -> list[str]:
    desk = Desk(root, store)
    said: list[str] = []
    publisher = Publisher(desk.journal, sinks_of(desk.checkout, desk.journal, SERIES), said.append)
    with publisher:
        for index in range(records):
            id = desk.journal.claim(SERIES.prefix, f"toy/{number}-{index}", ())
            with desk.journal.begin("entry", id, 0, id=id, label="a step", config={}) as begun:
                if begun:
                    desk.journal.finish("entry", entry(id))
            publisher.changed()
    return [line for line in said if "appended to the logbook" not in line] + list(publisher.problems)


def main() -> None:
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".bench-") as scratch:
        found = run(Path(scratch), PROCESSES, RECORDS)
    wanted = PROCESSES * RECORDS
    print(f"{PROCESSES} processes, {RECORDS} entries each, in {found.seconds:.1f} s")
    print(f"{'':24}{'found':>8}{'bar':>8}")
    rows = [
        ("records in the journal", found.recorded, wanted),
        ("entries in the logbook", found.shown, wanted),
        ("doubled entries", found.doubled, 0),
        ("errors", len(found.errors), 0),
    ]
    for name, value, bar in rows:
        print(f"{name:24}{value:>8}{bar:>8}")
    for error in found.errors[:10]:
        print(f"  {error}")
    print("bar met" if all(value == bar for _, value, bar in rows) else "bar NOT MET")


if __name__ == "__main__":
    main()
