"""How often the 95 % interval of a claim holds the true effect: simulated noise through the real sampling and its stop.

    python -m benchmarks.bench_interval_coverage [RUNS]

Noise of four shapes, each with and without a shift that a process keeps, for one, two and three processes of a candidate
beside five of the baseline against itself. Times are drawn, not taken, so nothing of the machine is in it; everything
else is the code that trials run. Bar: 92 to 98 % for each shape.

Then candidates whose processes have 1, 3 and 10 times the baseline's variance, with more noise than `min_effect`, in as
many processes as can be called replicated. Bar: 1.5 to 7 % of the intervals miss; those of no width, of half and of
double width each miss the bar.
"""

import gc
import math
import random
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import product
from pathlib import Path

import scipy.stats  # noqa: F401  # before the heap is frozen
from research_steps.evidence.effects import Scale, scale_for
from research_steps.evidence.statistics import LEVEL, paired_interval
from research_steps.records.model import Samples
from research_steps.records.series import Metric, Series
from research_steps.trial.launcher.sampling import sample

METRIC = Metric("time_s")
SERIES = Series("coverage", "COVERAGE", "", (METRIC,), sampling_s=60.0)
EFFECT = math.log(1.03)
FLOOR = 5
PROCESSES = (1, 2, 3)
RUNS = 2000
MAX_PAIRS = 60
# Of one sample, and between processes: 3 % and 1 %, as on a busy machine.
SAMPLE_NOISE, PROCESS_NOISE = 0.03, 0.01
LOW, HIGH = 0.92, 0.98
# Between processes, where the variances differ: more than the least effect that counts.
UNEQUAL_NOISE, UNEQUAL_RUNS = 0.03, 4000
LEAST_MISSES, MOST_MISSES = 0.015, 0.07

Noise = Callable[[random.Random], Iterator[float]]


def normal(draw: random.Random) -> Iterator[float]:
    while True:
        yield draw.gauss(0, 1)


def heavy_tailed(draw: random.Random) -> Iterator[float]:
    """Student's t with three degrees of freedom, of unit variance."""
    while True:
        yield draw.gauss(0, 1) / math.sqrt(draw.gammavariate(1.5, 2) / 3) / math.sqrt(3)


def drifting(draw: random.Random) -> Iterator[float]:
    """A machine that grows slower and faster in waves, for both sides alike."""
    drift = 0.0
    while True:
        drift = 0.98 * drift + draw.gauss(0, 0.5)
        yield drift + draw.gauss(0, 0.5)


def bimodal(draw: random.Random) -> Iterator[float]:
    """One sample in five is taken at a lower clock."""
    while True:
        yield (2.5 if draw.random() < 0.2 else 0.0) + draw.gauss(0, 0.1)


def trial(draw: random.Random, noise: Noise, effect: float, shift: float, pairs: int) -> Samples:
    """The samples of one process, taken by the real sampling until it stops."""
    shape, kept = noise(draw), draw.gauss(0, shift)

    def measure(config: str) -> Iterator[dict[str, float]]:
        center = effect + kept if config == "candidate" else 0.0
        while True:
            yield {METRIC.name: math.exp(center + SAMPLE_NOISE * next(shape))}

    series = replace(SERIES, max_pairs=pairs)
    samples = sample(measure, "candidate", "baseline", series, seed=draw.getrandbits(32)).samples
    assert samples is not None
    return samples


def coverage(draw: random.Random, noise: Noise, shift: float, runs: int, pairs: int) -> dict[int, tuple[float, float]]:
    """For each number of processes: the share of intervals that hold the effect, and their median half-width."""
    holding = dict.fromkeys(PROCESSES, 0)
    widths: dict[int, list[float]] = {processes: [] for processes in PROCESSES}
    for _ in range(runs):
        floor = [trial(draw, noise, 0.0, shift, pairs) for _ in range(FLOOR)]
        trials = [trial(draw, noise, EFFECT, shift, pairs) for _ in range(max(PROCESSES))]
        for processes in PROCESSES:
            mine = trials[:processes]
            interval = paired_interval(METRIC, scale(mine, floor), mine, floor, LEVEL)
            holding[processes] += interval.low <= EFFECT <= interval.high
            widths[processes].append((interval.high - interval.low) / 2)
    return {processes: (holding[processes] / runs, statistics.median(widths[processes])) for processes in PROCESSES}


def scale(trials: list[Samples], floor: list[Samples]) -> Scale:
    chosen = scale_for(METRIC, trials, floor)
    assert chosen is not None
    return chosen


def misses(ratio: float, processes: int, runs: int, width: float = 1.0) -> float:
    """How often the interval of a candidate misses, whose processes have `ratio` times the baseline's variance."""
    draw, missed = random.Random(f"{ratio} {processes}"), 0

    def process(effect: float, noise: float) -> Samples:
        value = math.exp(effect + draw.gauss(0, noise))
        return Samples(paired=True, order="", candidate={METRIC.name: [value]}, baseline={METRIC.name: [1.0]})

    for _ in range(runs):
        floor = [process(0.0, UNEQUAL_NOISE) for _ in range(FLOOR)]
        trials = [process(EFFECT, math.sqrt(ratio) * UNEQUAL_NOISE) for _ in range(processes)]
        interval = paired_interval(METRIC, scale(trials, floor), trials, floor, LEVEL)
        missed += not abs(EFFECT - interval.center) <= width * interval.half
    return missed / runs


def unequal(runs: int, width: float = 1.0) -> list[str]:
    """The cells outside of the bar, for intervals of so many times their width."""
    outside = []
    for ratio, processes in product((1.0, 3.0, 10.0), (3, 6)):
        share = misses(ratio, processes, runs, width)
        outside += [] if LEAST_MISSES <= share <= MOST_MISSES else [f"{ratio:g} × variance, {processes}: {share:.1%}"]
    return outside


def one(case: tuple[Noise, float, int, int]) -> dict[int, tuple[float, float]]:
    noise, shift, runs, pairs = case
    # What was imported need not be looked through each time that a trial tidies up before it samples.
    gc.freeze()
    return coverage(random.Random(f"{noise.__name__} {shift}"), noise, shift, runs, pairs)


def run(runs: int, pairs: int) -> dict[tuple[float, int], list[float]]:
    """The shares of all shapes for each shift and number of processes, which are printed; of trials of so many pairs at
    most."""
    shapes = (normal, heavy_tailed, drifting, bimodal)
    cases = [(noise, shift, runs, pairs) for noise in shapes for shift in (PROCESS_NOISE, 0.0)]
    shares: defaultdict[tuple[float, int], list[float]] = defaultdict(list)
    print(f"{runs} runs each; share of 95 % intervals that hold the true effect (median half-width)")
    with ProcessPoolExecutor() as pool:
        for (noise, shift, *_), covered in zip(cases, pool.map(one, cases), strict=True):
            for processes, (share, _) in covered.items():
                shares[shift, processes].append(share)
            shown = ", ".join(f"{share:.3f} (±{width:.2%}) with {count}" for count, (share, width) in covered.items())
            print(f"{noise.__name__}, process shift {shift:.0%}: {shown} processes", flush=True)
    return shares


def quick(folder: Path) -> list[str]:
    """So few runs that the bar is held by all shapes together, for each shift and for each number of processes."""
    together: defaultdict[str, list[float]] = defaultdict(list)
    for (shift, processes), shares in run(100, 20).items():
        together[f"a process shift of {shift:.0%}"] += shares
        together[f"{processes} processes"] += shares
    means = {which: statistics.fmean(shares) for which, shares in together.items()}
    wrong = [f"{which}: {mean:.3f} hold the true effect" for which, mean in means.items() if not LOW <= mean <= HIGH]
    wrong += [f"{width:g} × the width passes" for width in (0.0, 0.5, 2.0) if not unequal(1000, width)]
    return wrong + unequal(1000)


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else RUNS
    shares = [share for group in run(runs, MAX_PAIRS).values() for share in group]
    print(f"lowest {min(shares):.3f}, highest {max(shares):.3f}; bar {LOW} to {HIGH}")
    for ratio, processes in product((1.0, 3.0, 10.0), (3, 6)):
        share = misses(ratio, processes, UNEQUAL_RUNS)
        print(f"{ratio:g} × the baseline's variance, {processes} processes: {share:.1%} miss; bar {MOST_MISSES:.0%}")
    broken = {width: bool(unequal(UNEQUAL_RUNS, width)) for width in (0.0, 0.5, 2.0)}
    print("intervals of another width miss the bar:", ", ".join(f"{width:g} × {so}" for width, so in broken.items()))
    met = min(shares) >= LOW and max(shares) <= HIGH and not unequal(UNEQUAL_RUNS) and all(broken.values())
    sys.exit(0 if met else 1)


if __name__ == "__main__":
    main()
