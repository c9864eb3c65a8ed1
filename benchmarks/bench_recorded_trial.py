"""What it costs to record one trial: intent, record, and its entry in the logbook with its records in git.

Bar: at most 4 fsyncs. The time is told beside one bare fsync'd line of JSON of the same size, in one run (A B A B).
The record of the step that the entry shows is made in between, and is part of neither. Provenance is captured once for
a run, as a driver does; its cost is told apart.
"""

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import BinaryIO

import synthetic
from research_steps.journal.journal import Journal
from research_steps.journal.snapshot import Snapshot
from research_steps.journal.store import open_store
from research_steps.publish.logbook.surface import LogbookSurface
from research_steps.records.encoding import sha256

ROUNDS = 300
BAR_FSYNCS = 4

syncs = 0


def count_fsyncs() -> None:
    sync = os.fsync

    def counted(descriptor: int) -> None:
        global syncs
        syncs += 1
        sync(descriptor)

    os.fsync = counted  # type: ignore[assignment]


def timed(call: Callable[[], object]) -> tuple[float, int]:
    """Milliseconds and fsyncs of a call."""
    before, start = syncs, time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1000, syncs - before


def write(file: BinaryIO, line: bytes) -> None:
    file.write(line)
    os.fsync(file.fileno())


def main() -> None:
    count_fsyncs()
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".bench-") as scratch:
        checkout = synthetic.checkout(Path(scratch) / "checkout")
        captures = [timed(partial(synthetic.captured, checkout))[0] for _ in range(10)]
        run = synthetic.captured(checkout)
        journal = Journal(open_store(f"{scratch}/store"), synthetic.SERIES.topic)
        surface = LogbookSurface(checkout, journal, synthetic.SERIES)
        line = json.dumps({"samples": list(range(400))}).encode() + b"\n"
        recorded, appended, bare, fsyncs = [], [], [], []
        with (Path(scratch) / "bare.jsonl").open("ab", buffering=0) as file:
            for number in range(ROUNDS):
                id, key = f"BENCH-{number + 1:03d}", sha256(str(number).encode())
                trial_ms, trial_fsyncs = timed(partial(synthetic.record_trial, journal, id, key, run))
                measured = journal.attempts.of("trial", key)[0]
                step = journal.attempts.finish("entry", synthetic.entry(id, id, measured, run))
                shown = Snapshot(entries={step.sha256: step})
                append_ms, append_fsyncs = timed(partial(surface.publish, shown, final=False))
                recorded.append(trial_ms)
                appended.append(append_ms)
                fsyncs.append(trial_fsyncs + append_fsyncs)
                bare.append(timed(partial(write, file, line))[0])
    whole = [one + other for one, other in zip(recorded, appended, strict=True)]
    ratio = statistics.median(one / other for one, other in zip(whole, bare, strict=True))
    # The first append also makes the logbook, with its living part.
    most = max(fsyncs[1:])
    for what, values in {
        "intent and record": recorded,
        "entry and its records in git": appended,
        "a recorded trial": whole,
        "a bare line of JSON": bare,
        "provenance, once for a run": captures,
    }.items():
        print(f"{what:<30} {statistics.median(values):8.2f} ms")
    print(f"{'a recorded trial':<30} {ratio:8.1f} × a bare line (median of {ROUNDS} pairs)")
    print(f"{'a recorded trial':<30} {most:8d} fsyncs, bar {BAR_FSYNCS}; {fsyncs[0]} the first time")
    if most > BAR_FSYNCS:
        sys.exit("bar NOT MET")
    print("bar met")


if __name__ == "__main__":
    main()
