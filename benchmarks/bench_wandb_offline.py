"""What it costs to write the W&B runs of a sweep of 200 trials, offline, through the real surface.

Bar: at most 0.1 s for each run, its record read and its file fsync'd. Told without a bar: the whole pass, and a second
one that finds all in place.
"""

import sys
import tempfile
import time
from pathlib import Path

import msgspec
from research_steps.journal.experiment_ids import NoOthers
from research_steps.journal.journal import Journal
from research_steps.journal.store import open_store
from research_steps.publish.publisher import publish
from research_steps.publish.wandb.runs_on_disk import folder_of, runs_in
from research_steps.publish.wandb.surface import WandbSurface
from research_steps.records.encoding import sha256
from research_steps.records.model import Captured

from benchmarks import synthetic

TRIALS = 200
BAR_S = 0.1


def record_sweep(journal: Journal, captured: Captured, trials: int) -> None:
    """A sweep with its trials, as its step leaves them."""
    id = journal.ids.reserve(synthetic.SERIES.prefix, "bench/sweep", NoOthers())
    stored = [
        synthetic.record_trial(journal, f"{id}.{number:02d}", sha256(f"{number}".encode()), captured)
        for number in range(1, trials + 1)
    ]
    rows = tuple(synthetic.entry(id, "bench/sweep", trial, captured).rows[0] for trial in stored)
    with journal.attempts.begin("entry", id, 0, id=id, label="work", config={}) as begun:
        assert begun
        entry = synthetic.entry(id, "bench/sweep", stored[0], captured)
        journal.attempts.finish("entry", msgspec.structs.replace(entry, rows=rows))


def run(folder: Path, trials: int) -> tuple[float, float]:
    """Publish a sweep twice: the seconds of the pass that writes its runs, and of the one that finds all in place."""
    checkout = synthetic.checkout(folder / "checkout")
    journal = Journal(open_store(f"{folder}/store"), synthetic.SERIES.topic)
    record_sweep(journal, synthetic.captured(checkout), trials)
    passes, written = [], []
    for _ in range(2):
        start = time.perf_counter()
        published = publish(journal, [WandbSurface(checkout, journal, synthetic.SERIES)])
        passes.append(time.perf_counter() - start)
        assert not published.problems, published.problems
        runs = runs_in(folder_of(checkout, synthetic.SERIES.topic))
        written.append({path: path.stat().st_mtime_ns for path in runs.values()})
    assert len(runs) == trials + 1 and written[0] == written[1], "the sweep has a run too, and none is written again"
    return passes[0], passes[1]


def quick(folder: Path) -> list[str]:
    """Two trials: three runs, none of them written again by the second pass."""
    return [] if all(pass_s > 0 for pass_s in run(folder, 2)) else ["no time passed"]


def main() -> None:
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".bench-") as scratch:
        first_s, second_s = run(Path(scratch), TRIALS)
    each_s = first_s / (TRIALS + 1)
    print(f"{TRIALS} trials of {len(synthetic.SAMPLES.order) // 2} pairs, and the sweep's own run with its table")
    print(f"the whole pass           {first_s:8.2f} s")
    print(f"each run                 {each_s:8.4f} s")
    print(f"a pass with nothing new  {second_s:8.4f} s")
    if each_s > BAR_S:
        sys.exit(f"bar NOT MET: {each_s:.3f} s for each run, at most {BAR_S}")
    print("bar met")


if __name__ == "__main__":
    main()
