"""What an append to the logbook costs when it is long: 10,000 entries beside 10, in turns (A B A B).

Bar: at most 1.2 times. Timed is the sink's publishing of one new entry (its records file, the entry, both fsync'd) in a
process that has read the logbook once, as a driver has. The first append of a new process reads the logbook whole; that
is told apart, without a bar.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

import synthetic
from research_steps.journal import Journal, Snapshot
from research_steps.provenance import Captured
from research_steps.record import sha256
from research_steps.sinks import logbook_file
from research_steps.sinks.logbook import LogbookSink, path_of
from research_steps.store import open_store

SHORT, LONG = 10, 10_000
ROUNDS = 200
BAR = 1.2


class Book:
    """A logbook with a number of entries in it, and a sink that appends to it."""

    def __init__(self, root: Path, entries: int) -> None:
        self.checkout = synthetic.checkout(root / "checkout")
        self.run: Captured = synthetic.captured(self.checkout)
        self.journal = Journal(open_store(str(root / "store")), synthetic.SERIES.topic)
        self.sink = LogbookSink(self.checkout, self.journal, synthetic.SERIES)
        self.number = 0
        self.append()
        self._fill(entries - 1)
        self.sink = LogbookSink(self.checkout, self.journal, synthetic.SERIES)
        self.first_s = self.append()

    def append(self) -> float:
        """Publish one new entry; the seconds that it took."""
        self.number += 1
        id = f"BENCH-{self.number:05d}"
        stored = synthetic.record_trial(self.journal, id, sha256(id.encode()), self.run)
        made = self.journal.finish("entry", synthetic.entry(id, id, stored, self.run))
        snapshot = Snapshot(entries={made.sha256: made})
        start = time.perf_counter()
        published = self.sink.publish(snapshot, final=False)
        elapsed = time.perf_counter() - start
        assert published.ids == (id,), published.problems
        return elapsed

    def _fill(self, count: int) -> None:
        """Entries as an earlier run left them: the same bytes as appending gives, written at once."""
        path = path_of(self.checkout, synthetic.SERIES.topic)
        data = path.read_bytes()
        begun = data.index(b"<!-- research-steps entry")
        body = data[begun:].decode().partition("-->\n")[2].rpartition("\n<!-- research-steps end")[0]
        tips = [logbook_file.parse(data).entries[-1].link]
        folder = path.with_suffix("")
        parts = [data]
        for _ in range(count):
            self.number += 1
            id = f"BENCH-{self.number:05d}"
            made = logbook_file.render(id, sha256(id.encode()), body, tips)
            tips = [sha256(made.rstrip(b"\n").rsplit(b"\n", 1)[-1])]
            parts += [b"\n", made]
            (folder / f"{id}.jsonl").write_bytes(b"{}\n")
        path.write_bytes(b"".join(parts))


def main() -> None:
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".bench-") as scratch:
        short, long = Book(Path(scratch) / "short", SHORT), Book(Path(scratch) / "long", LONG)
        pairs = [(long.append(), short.append()) for _ in range(ROUNDS)]
        size = path_of(long.checkout, synthetic.SERIES.topic).stat().st_size
    ratio = statistics.median(one / other for one, other in pairs)
    at_long, at_short = (statistics.median(column) * 1000 for column in zip(*pairs, strict=True))
    print(
        f"{LONG} entries ({size / 1e6:.1f} MB): {at_long:.2f} ms; {SHORT} entries: {at_short:.2f} ms; ratio {ratio:.2f}"
    )
    print(f"first append of a new process: {long.first_s * 1000:.0f} ms beside {short.first_s * 1000:.0f} ms")
    if ratio > BAR:
        sys.exit(f"bar {BAR} NOT MET")
    print(f"bar {BAR} met")


if __name__ == "__main__":
    main()
