"""What it costs to write the W&B runs of a sweep of 200 trials, offline, through the real surface.

Bar: at most 0.1 s for each run, its record read and its file fsync'd. Told without a bar: the whole pass, and a second
one that finds all in place.
"""

import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import msgspec
from research_steps.journal.journal import Journal
from research_steps.journal.store import open_store
from research_steps.publish.publisher import publish
from research_steps.publish.wandb.run_file import runs_in
from research_steps.publish.wandb.surface import WandbSurface, folder_of
from research_steps.records.encoding import sha256
from research_steps.records.model import Captured

from benchmarks import synthetic

TRIALS = 200
BAR_S = 0.1


def record_sweep(journal: Journal, run: Captured, trials: int) -> None:
    """A sweep with its trials, as its step leaves them."""
    id = journal.reserve_id(synthetic.SERIES.prefix, "bench/sweep", ())
    stored = [
        synthetic.record_trial(journal, f"{id}.{number:02d}", sha256(f"{number}".encode()), run)
        for number in range(1, trials + 1)
    ]
    rows = tuple(synthetic.entry(id, "bench/sweep", trial, run).rows[0] for trial in stored)
    with journal.begin("entry", id, 0, id=id, label="work", config={}) as begun:
        assert begun
        entry = synthetic.entry(id, "bench/sweep", stored[0], run)
        journal.finish("entry", msgspec.structs.replace(entry, rows=rows))


@dataclass(frozen=True)
class Times:
    """Seconds of the first pass and of one that finds all in place; and of each run's answer, the sweep's own last."""

    passes: tuple[float, float]
    runs: list[float]


def run(folder: Path, trials: int) -> Times:
    """Publish a sweep twice, with all its runs in place in the end."""
    answered: list[float] = []
    write = wandb_process.write

    def timed(folder: Path, runs: Any) -> Iterator[tuple[str, str]]:
        answered.append(time.perf_counter())
        for answer in write(folder, runs):
            answered.append(time.perf_counter())
            yield answer

    checkout = synthetic.checkout(folder / "checkout")
    journal = Journal(open_store(f"{folder}/store"), synthetic.SERIES.topic)
    record_sweep(journal, synthetic.captured(checkout), trials)
    passes = []
    with patch.object(wandb_process, "write", timed):
        for _ in range(2):
            start = time.perf_counter()
            published = publish(journal, [WandbSurface(checkout, journal, synthetic.SERIES)])
            passes.append(time.perf_counter() - start)
            assert not published.problems, published.problems
    assert len(runs_in(folder_of(checkout, synthetic.SERIES.topic))) == trials + 1
    runs = [after - before for before, after in itertools.pairwise(answered)]
    assert len(runs) == trials + 1, "each run is written once"
    return Times((passes[0], passes[1]), runs)


def quick(folder: Path) -> list[str]:
    """Two trials: three runs, none of them written again by the second pass."""
    run(folder, 2)
    return []


def main() -> None:
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".bench-") as scratch:
        times = run(Path(scratch), TRIALS)
    # The last is the sweep's own run, with the raw table.
    first, *trials, own = times.runs
    mean = statistics.mean(trials)
    print(f"{TRIALS} trials of {len(synthetic.SAMPLES.order) // 2} pairs, and the sweep's own run with its table")
    print(f"the whole pass           {times.passes[0]:8.2f} s")
    print(f"first run                {first:8.2f} s")
    print(f"each later run, median   {statistics.median(trials):8.4f} s   mean {mean:.4f}, max {max(trials):.4f}")
    print(f"the sweep's own run      {own:8.4f} s")
    print(f"a pass with nothing new  {times.passes[1]:8.4f} s")
    if mean > BAR_S:
        sys.exit(f"bar NOT MET: {mean:.3f} s for each run after the first, at most {BAR_S}")
    print("bar met")


if __name__ == "__main__":
    main()
