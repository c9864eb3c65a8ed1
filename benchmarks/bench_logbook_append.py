"""What an append to the logbook costs when it is long: 10,000 entries beside 10, in turns (A B A B).

Bar: at most 1.2 times, in a process that has read the logbook once, as a driver has: for the append alone (one fsync)
and for the surface's publishing of one new entry out of everything that the journal holds (its records file and the
append). Told without a bar: a whole pass, which lists the journal's folder first, and the first append of a new
process, which reads the logbook whole.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

from research_steps.journal.journal import Journal
from research_steps.journal.logbook_place import logbook_of
from research_steps.journal.snapshot import Snapshot
from research_steps.journal.store import open_store
from research_steps.publish import rendering
from research_steps.publish.logbook.file import LogbookFile, lock
from research_steps.publish.logbook.format import parse
from research_steps.publish.logbook.surface import LogbookSurface
from research_steps.publish.publisher import publish
from research_steps.records.encoding import Stored, sha256
from research_steps.records.model import Captured, EntryRecord

from benchmarks import synthetic

SHORT, LONG = 10, 10_000
ROUNDS = 200
BAR = 1.2


class Book:
    """A logbook with a number of entries, and the journal that they came from."""

    def __init__(self, root: Path, entries: int) -> None:
        self.checkout = synthetic.checkout(root / "checkout")
        self.run: Captured = synthetic.captured(self.checkout)
        self.journal = Journal(open_store(str(root / "store")), synthetic.SERIES.topic)
        self.path = logbook_of(self.checkout, synthetic.SERIES.topic).path
        for number in range(entries):
            self._record(f"BENCH-{number + 1:05d}")
        self.number = entries
        start = time.perf_counter()
        assert len(publish(self.journal, [self._sink()], final=False).ids) == entries
        self.fill_s = time.perf_counter() - start
        self.surface = self._sink()
        self.file = LogbookFile(logbook_of(self.checkout, synthetic.SERIES.topic))

    def append(self) -> float:
        """Append one entry to the file; the seconds that it took."""
        made = self._new()
        text = rendering.entry(made.record, synthetic.SERIES, None, Snapshot(), f"{synthetic.SERIES.topic}/")
        with lock(logbook_of(self.checkout, synthetic.SERIES.topic)):
            self.file.refresh()
            start = time.perf_counter()
            self.file.append(made.record.id, made.sha256, text)
            return time.perf_counter() - start

    def publish(self) -> float:
        """Let the surface publish what the journal holds, one new entry among it; the seconds that it took."""
        self._new()
        snapshot = self.journal.entries()
        start = time.perf_counter()
        changes = list(self.surface.publish(snapshot, final=False))
        elapsed = time.perf_counter() - start
        assert len(changes) == 1, changes
        return elapsed

    def whole_pass(self) -> float:
        """The same, reading the journal included."""
        self._new()
        start = time.perf_counter()
        published = publish(self.journal, [self.surface], final=False)
        elapsed = time.perf_counter() - start
        assert len(published.ids) == 1, published
        return elapsed

    def first_publish(self) -> float:
        """The surface's publishing of one new entry in a process that has not read the logbook yet."""
        self.surface = self._sink()
        return self.publish()

    def _sink(self) -> LogbookSurface:
        return LogbookSurface(self.checkout, self.journal, synthetic.SERIES)

    def _new(self) -> Stored[EntryRecord]:
        self.number += 1
        return self._record(f"BENCH-{self.number:05d}")

    def _record(self, id: str) -> Stored[EntryRecord]:
        trial = self.journal.attempts.finish("trial", synthetic.trial(id, sha256(id.encode()), self.run))
        stored: Stored[EntryRecord] = self.journal.attempts.finish("entry", synthetic.entry(id, id, trial, self.run))
        return stored


KINDS = (
    ("append alone", Book.append, ROUNDS, True),
    ("the surface's publishing", Book.publish, ROUNDS, True),
    ("a whole pass", Book.whole_pass, ROUNDS, False),
    ("first of a new process", Book.first_publish, 5, False),
)


def compare(small: Book, large: Book, rounds: int) -> list[str]:
    """Print what each kind of append costs in a long logbook and in a short one; the kinds that miss their bar."""
    missed, short, long = [], small.number, large.number
    size = large.path.stat().st_size / 1e6
    print(f"{long} entries ({size:.1f} MB, published in {large.fill_s:.0f} s) beside {short}; medians")
    print(f"{'':24}{long:>12}{short:>12}{'ratio':>8}{'bar':>6}")
    for name, measure, most, has_bar in KINDS:
        # What a surface does only now and then, once before the clock runs.
        measure(large), measure(small)
        pairs = [(measure(large), measure(small)) for _ in range(min(rounds, most))]
        ratio = statistics.median(in_long / in_short for in_long, in_short in pairs)
        at_long, at_short = (f"{statistics.median(column) * 1000:.2f} ms" for column in zip(*pairs, strict=True))
        print(f"{name:24}{at_long:>12}{at_short:>12}{ratio:>8.2f}{BAR if has_bar else '':>6}")
        missed += [name] if has_bar and ratio > BAR else []
    return missed


def quick(folder: Path) -> list[str]:
    """Logbooks of 2 and 12 entries, and two rounds: each append left one entry."""
    books = Book(folder / "short", 2), Book(folder / "long", 12)
    compare(*books, 2)
    entries = [(len(parse(book.path.read_bytes()).entries), book.number) for book in books]
    return [f"a logbook has {shown} entries, not {made}" for shown, made in entries if shown != made]


def main() -> None:
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".bench-") as scratch:
        short, long = Book(Path(scratch) / "short", SHORT), Book(Path(scratch) / "long", LONG)
        missed = compare(short, long, ROUNDS)
    if missed:
        sys.exit(f"bar NOT MET: {', '.join(missed)}")
    print("bar met")


if __name__ == "__main__":
    main()
