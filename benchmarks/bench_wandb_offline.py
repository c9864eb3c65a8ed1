"""What it costs to write the W&B runs of a sweep of 200 trials, offline, through the real surface.

Bar: at most 0.1 s for each run, its record read and its file fsync'd. Told without a bar: the whole pass, and a second
one that finds all in place.
"""

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
import synthetic
from research_steps.journal.journal import Journal
from research_steps.journal.store import open_store
from research_steps.publish.publisher import publish
from research_steps.publish.wandb.run_file import runs_in
from research_steps.publish.wandb.surface import WandbSurface, folder_of
from research_steps.records.encoding import sha256

TRIALS = 200
BAR_S = 0.1


def record_sweep(journal: Journal, run: Any) -> None:
    """A sweep with its trials, as its step leaves them."""
    id = journal.ids.reserve(synthetic.SERIES.prefix, "bench/sweep", ())
    trials = [
        synthetic.record_trial(journal, f"{id}.{number:02d}", sha256(f"{number}".encode()), run)
        for number in range(1, TRIALS + 1)
    ]
    rows = tuple(synthetic.entry(id, "bench/sweep", trial, run).rows[0] for trial in trials)
    with journal.attempts.begin("entry", id, 0, id=id, label="work", config={}) as begun:
        assert begun
        entry = synthetic.entry(id, "bench/sweep", trials[0], run)
        journal.attempts.finish("entry", msgspec.structs.replace(entry, rows=rows))


def main() -> None:
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".bench-") as scratch:
        checkout = synthetic.checkout(Path(scratch) / "checkout")
        journal = Journal(open_store(f"{scratch}/store"), synthetic.SERIES.topic)
        record_sweep(journal, synthetic.captured(checkout))
        passes = []
        for _ in range(2):
            start = time.perf_counter()
            published = publish(journal, [WandbSurface(checkout, journal, synthetic.SERIES)])
            passes.append(time.perf_counter() - start)
            assert not published.problems, published.problems
        runs = len(runs_in(folder_of(checkout, synthetic.SERIES.topic)))
        assert runs == TRIALS + 1
    each = passes[0] / runs
    print(f"{TRIALS} trials of {len(synthetic.SAMPLES.order) // 2} pairs, and the sweep's own run with its table")
    print(f"the whole pass           {passes[0]:8.2f} s")
    print(f"each run                 {each:8.4f} s")
    print(f"a pass with nothing new  {passes[1]:8.4f} s")
    if each > BAR_S:
        sys.exit(f"bar NOT MET: {each:.3f} s for each run, at most {BAR_S}")
    print("bar met")


if __name__ == "__main__":
    main()
