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
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import BinaryIO, TypeVar
from unittest.mock import patch

from research_steps.journal.journal import Journal
from research_steps.journal.snapshot import Snapshot
from research_steps.journal.store import open_store
from research_steps.publish.logbook.surface import LogbookSurface
from research_steps.records.encoding import sha256

from benchmarks import synthetic

ROUNDS = 300
BAR_FSYNCS = 4
Value = TypeVar("Value")


@dataclass
class Costs:
    """Milliseconds of each round, and the fsyncs of its recorded trial."""

    captures: list[float] = field(default_factory=list)
    recorded: list[float] = field(default_factory=list)
    appended: list[float] = field(default_factory=list)
    bare: list[float] = field(default_factory=list)
    fsyncs: list[int] = field(default_factory=list)


def timed(call: Callable[[], Value]) -> tuple[Value, float, int]:
    """What a call returns, with its milliseconds and fsyncs."""
    with patch("os.fsync", wraps=os.fsync) as sync:
        start = time.perf_counter()
        value = call()
        return value, (time.perf_counter() - start) * 1000, sync.call_count


def write(file: BinaryIO, line: bytes) -> None:
    file.write(line)
    os.fsync(file.fileno())


def run(folder: Path, rounds: int) -> Costs:
    costs = Costs()
    checkout = synthetic.checkout(folder / "checkout")
    costs.captures = [timed(partial(synthetic.captured, checkout))[1] for _ in range(min(rounds, 10))]
    captured = synthetic.captured(checkout)
    journal = Journal(open_store(f"{folder}/store"), synthetic.SERIES.topic)
    surface = LogbookSurface(checkout, journal, synthetic.SERIES)
    line = json.dumps({"samples": list(range(400))}).encode() + b"\n"
    with (folder / "bare.jsonl").open("ab", buffering=0) as file:
        for number in range(rounds):
            id, key = f"BENCH-{number + 1:03d}", sha256(str(number).encode())
            measured, trial_ms, trial_fsyncs = timed(partial(synthetic.record_trial, journal, id, key, captured))
            step = journal.attempts.finish("entry", synthetic.entry(id, id, measured, captured))
            shown = Snapshot(entries={step.sha256: step})
            _, append_ms, append_fsyncs = timed(partial(surface.publish, shown, final=False))
            costs.recorded.append(trial_ms)
            costs.appended.append(append_ms)
            costs.fsyncs.append(trial_fsyncs + append_fsyncs)
            costs.bare.append(timed(partial(write, file, line))[1])
    return costs


def report(costs: Costs) -> bool:
    """Print them; whether the bar is met."""
    whole = [record_ms + other for record_ms, other in zip(costs.recorded, costs.appended, strict=True)]
    ratio = statistics.median(whole_ms / other for whole_ms, other in zip(whole, costs.bare, strict=True))
    # The first append also makes the logbook, with its summary.
    first, *others = costs.fsyncs
    for what, values in {
        "intent and record": costs.recorded,
        "entry and its records in git": costs.appended,
        "a recorded trial": whole,
        "a bare line of JSON": costs.bare,
        "provenance, once for a run": costs.captures,
    }.items():
        print(f"{what:<30} {statistics.median(values):8.2f} ms")
    print(f"{'a recorded trial':<30} {ratio:8.1f} × a bare line (median of {len(whole)} pairs)")
    print(f"{'a recorded trial':<30} {max(others):8d} fsyncs, bar {BAR_FSYNCS}; {first} the first time")
    return max(others) <= BAR_FSYNCS


def quick(folder: Path) -> list[str]:
    """Three rounds, which hold the bar: it is no time. An intent and a record take a sync each at least."""
    costs = run(folder, 3)
    return [] if report(costs) and min(costs.fsyncs) >= 2 else [f"{costs.fsyncs} fsyncs, bar {BAR_FSYNCS}"]


def main() -> None:
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".bench-") as scratch:
        met = report(run(Path(scratch), ROUNDS))
    if not met:
        sys.exit("bar NOT MET")
    print("bar met")


if __name__ == "__main__":
    main()
