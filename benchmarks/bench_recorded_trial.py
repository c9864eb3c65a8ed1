"""What it costs to record one trial: intent, record, and its entry in the logbook with its records in git.

Bars: at most 4 fsyncs; the time is told beside one bare fsync'd line of JSON of the same size, in one run (A B A B).
Provenance is captured once for a run, as a driver does, and its cost is told apart.
"""

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import synthetic
from research_steps.journal import Journal, Snapshot
from research_steps.record import sha256
from research_steps.sinks.logbook import LogbookSink
from research_steps.store import open_store

ROUNDS = 300
BAR_FSYNCS = 4

syncs = 0
apart = 0


def count_fsyncs() -> None:
    sync = os.fsync

    def counted(descriptor: int) -> None:
        global syncs
        syncs += 1
        sync(descriptor)

    os.fsync = counted  # type: ignore[assignment]


def milliseconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1000


def main() -> None:
    count_fsyncs()
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".bench-") as scratch:
        checkout = synthetic.checkout(Path(scratch) / "checkout")
        captures = [milliseconds(lambda: synthetic.captured(checkout)) for _ in range(10)]
        run = synthetic.captured(checkout)
        journal = Journal(open_store(f"{scratch}/store"), synthetic.SERIES.topic)
        sink = LogbookSink(checkout, journal, synthetic.SERIES)
        line = json.dumps({"samples": list(range(400))}).encode() + b"\n"
        counts: list[int] = []
        mine: list[float] = []
        bare: list[float] = []
        with (Path(scratch) / "bare.jsonl").open("ab", buffering=0) as file:
            for number in range(ROUNDS):
                id = f"BENCH-{number + 1:03d}"

                def record(id: str = id) -> None:
                    global apart
                    measured = synthetic.record_trial(journal, id, sha256(id.encode()), run)
                    # The step's own record exists before anything is published; it is not part of a trial.
                    written = synthetic.entry(id, id, measured, run)
                    before = syncs
                    stored = journal.finish("entry", written)
                    apart = syncs - before
                    sink.publish(Snapshot(entries={stored.sha256: stored}), final=False)

                def append() -> None:
                    file.write(line)
                    os.fsync(file.fileno())

                before = syncs
                mine.append(milliseconds(record))
                counts.append(syncs - before - apart)
                bare.append(milliseconds(append))
        # The first append also makes the logbook, with its living part.
        fsyncs = max(counts[1:])
        ratio = statistics.median(one / other for one, other in zip(mine, bare, strict=True))
        print(f"fsyncs for a recorded trial: {fsyncs} (first one {counts[0]}), bar {BAR_FSYNCS}")
        print(f"recorded trial {statistics.median(mine):.2f} ms, with the record of its step in it")
        print(f"bare JSONL line {statistics.median(bare):.2f} ms; ratio {ratio:.1f}")
        print(f"capturing provenance, once for a run: {statistics.median(captures):.1f} ms")
        if fsyncs > BAR_FSYNCS:
            sys.exit("bar NOT MET")
        print("bar met")


if __name__ == "__main__":
    main()
