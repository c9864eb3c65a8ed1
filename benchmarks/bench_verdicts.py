"""Whether verdicts can be trusted: a kernel against itself, 5 % slower and twice as slow, with others on the machine.

    python -m benchmarks.bench_verdicts [GROUPS]

Trials are those of a thread: measured in processes of their own, one after the other, waiting for a quiet machine, with
their records in a journal. A group is one baseline (five processes against itself) and 15 comparisons of the kernel with
itself, 5 with 5 % more work, 1 with twice the work, each replicated in two processes. Beside it another process, which
is none of ours, keeps a core busy half of the time.

The naive way gets as much sampling time for a comparison, in one process: ten runs of the candidate, then ten of the
baseline; the ratio of their means decides, when it is off by `min_effect` or more.

Bars, with 20 groups: of the kernel against itself at most 6 % called improved or regressed (upper 95 % bound), 90 % of
the 5 % found, all of the 2 ×, and 80 % of all resolved.
"""

import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from unittest.mock import patch

from research_steps import Metric, Series
from research_steps.evidence.claims import Baseline, Candidate, make_claims
from research_steps.evidence.comparable import Ended
from research_steps.git import Checkout
from research_steps.journal.journal import Journal
from research_steps.journal.store import open_store
from research_steps.trial.code import trace_name
from research_steps.trial.context import Session
from research_steps.trial.launcher.host import LocalHost
from research_steps.trial.launcher.launcher import Launcher
from research_steps.trial.measured import TrialSpec
from research_steps.trial.provenance import capture
from research_steps.trial.trials import measure_trial
from scipy import stats

KERNEL = """
import time
import numpy as np

def measure(config):
    a = np.random.default_rng(0).random((32, 32)).astype(np.float32)

    def run():
        x = a
        for _ in range(config["work"]):
            x = (a @ x) / np.float32(16)

    for _ in range(20):
        run()
    while True:
        start = time.perf_counter()
        run()
        yield {"time_s": time.perf_counter() - start}
"""
# The same with times that are drawn, so that it is known whatever else runs here which verdict is right.
DRAWN = """
import random

def measure(config):
    while True:
        yield {"time_s": config["work"] * random.gauss(1, 0.005)}
"""
BUSY = """
import sys, time
while True:
    end = time.monotonic() + float(sys.argv[1])
    while time.monotonic() < end:
        pass
    time.sleep(float(sys.argv[1]))
"""
SERIES = Series(
    topic="verdicts", prefix="VERDICT", goal="be right", metrics=(Metric("time_s"),), max_pairs=5000, sampling_s=0.7
)
WORK = 20
CASES = {"itself": WORK, "5 % slower": WORK + WORK // 20, "2 × slower": 2 * WORK}
PROCESSES = 2
FLOOR = 5
LOAD_S = 12.0
RUNS = 10
Verdicts = dict[str, Counter[str]]


@dataclass(frozen=True)
class Size:
    """How many groups, with how many comparisons of each case."""

    groups: int
    comparisons: Mapping[str, int]


FULL = Size(20, {"itself": 15, "5 % slower": 5, "2 × slower": 1})


class Desk:
    """Where the trials of a kernel are measured and recorded."""

    def __init__(self, root: Path, launcher: Launcher, kernel: str, series: Series) -> None:
        (root / "kernel.py").write_text(kernel)
        self.kernel = kernel
        self.code = trace_name("kernel:measure", root)
        self.session = Session(
            series=series, journal=Journal(open_store(str(root / "store")), series.topic), host=LocalHost(launcher),
            captured=capture(Checkout(root, None), ["bench"], "bench"), repository=root / "published",
            retry=frozenset(), say=lambda line: None, changed=lambda: None,
        )  # fmt: skip
        self._replicates = 0

    def measure(self, work: int, processes: int) -> list[Ended]:
        ended: list[Ended] = []
        for _ in range(processes):
            self._replicates += 1
            spec = TrialSpec(self.code, "dict", {"work": work}, {"work": WORK}, replicate=self._replicates)
            trial = measure_trial(self.session, spec, id=f"VERDICT-{self._replicates}", label="")
            assert trial is not None, "it was waited for"
            ended.append(trial.stored)
        return ended

    def verdict(self, work: int, floor: list[Ended]) -> str:
        changes = {"work": work, "again": self._replicates}
        baseline = Baseline({"work": WORK}, floor[0].ref, floor)
        candidate = Candidate(changes, self.measure(work, PROCESSES))
        return make_claims(self.session.series, baseline, [candidate])[0].verdict

    def naive(self, work: int) -> str:
        """Ten runs of one, then ten of the other, in a process of their own, for as long as a comparison samples."""
        metric, budget_s = self.session.series.primary, PROCESSES * self.session.series.sampling_s
        program = f"""{self.kernel}
import statistics, time

def mean_of(work):
    kernel, runs = measure({{"work": work}}), []
    for _ in range({RUNS}):
        taken, end = [], time.perf_counter() + {budget_s / 2 / RUNS}
        while time.perf_counter() < end:
            taken.append(next(kernel)["time_s"])
        runs.append(statistics.fmean(taken))
    return statistics.fmean(runs)

print(mean_of({work}) / mean_of({WORK}))
"""
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        ratio, least = float(done.stdout), 1 + metric.min_effect
        return "regressed" if ratio >= least else "improved" if ratio <= 1 / least else "no difference"


def told(verdicts: Counter[str]) -> str:
    return ", ".join(f"{count} {verdict}" for verdict, count in verdicts.most_common())


def share(count: int, of: int, side: str) -> str:
    """A share with the bound that matters: how large ('upper') or how small ('lower') it may be in truth."""
    bounds = stats.binomtest(count, of, alternative="less" if side == "upper" else "greater").proportion_ci(0.95)
    return f"{count} of {of}, {count / of:.1%} ({side} 95 % bound {bounds.high if side == 'upper' else bounds.low:.1%})"


@contextmanager
def neighbour(busy_s: float) -> Iterator[None]:
    """Another process that keeps a core busy for so long, then rests for as long."""
    load = subprocess.Popen([sys.executable, "-c", BUSY, str(busy_s)])
    try:
        yield
    finally:
        load.kill()
        load.wait()


def run(folder: Path, kernel: str, series: Series, size: Size) -> tuple[Verdicts, Verdicts]:
    """The verdicts of each case: ours, and those of the naive way."""
    ours: Verdicts = {case: Counter() for case in CASES}
    theirs: Verdicts = {case: Counter() for case in CASES}
    order = random.Random(1)
    began = time.monotonic()
    one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    with patch.dict(os.environ, one_thread), Launcher() as launcher:
        desk = Desk(folder, launcher, kernel, series)
        for group in range(size.groups):
            floor = desk.measure(WORK, FLOOR)
            comparisons = [case for case, count in size.comparisons.items() for _ in range(count)]
            order.shuffle(comparisons)
            for number, case in enumerate(comparisons):
                ours[case][desk.verdict(CASES[case], floor)] += 1
                # A quarter of the comparisons the naive way as well, at whatever moment it is.
                if number % 4 == 0:
                    theirs[case][desk.naive(CASES[case])] += 1
            done = " | ".join(f"{case}: {told(counts)}" for case, counts in ours.items())
            print(f"group {group + 1}, {time.monotonic() - began:.0f} s: {done}", flush=True)
    return ours, theirs


def quick(folder: Path) -> list[str]:
    """One group of a kernel whose times are drawn, beside no load of ours: each verdict is the right one."""
    series = replace(SERIES, metrics=(Metric("time_s", timed=False),), max_pairs=50, sampling_s=0.2)
    ours, _ = run(folder, DRAWN, series, Size(1, {"itself": 2, "5 % slower": 1, "2 × slower": 1}))
    right = {"itself": "no difference", "5 % slower": "regressed", "2 × slower": "regressed"}
    return [f"{case}: {told(counts)}" for case, counts in ours.items() if set(counts) != {right[case]}]


def main() -> None:
    groups = int(sys.argv[1]) if len(sys.argv) > 1 else FULL.groups
    with tempfile.TemporaryDirectory() as folder, neighbour(LOAD_S):
        ours, theirs = run(Path(folder), KERNEL, SERIES, replace(FULL, groups=groups))
    sys.exit(0 if report(ours, theirs) else 1)


def report(ours: Verdicts, theirs: Verdicts) -> bool:
    met = True
    for name, counts in (("paired, by process", ours), ("naive: ten runs, then ten runs", theirs)):
        itself, slower, double = (counts[case] for case in CASES)
        every = sum(counts.values(), Counter())
        wrong, total = itself["improved"] + itself["regressed"], itself.total()
        resolved = every.total() - every["inconclusive"]
        print(f"{name}:")
        print(f"  against itself called improved or regressed: {share(wrong, total, 'upper')}; bar: bound 6 %")
        print(f"  5 % slower found: {share(slower['regressed'], slower.total(), 'lower')}; bar 90 %")
        print(f"  2 × slower found: {double['regressed']} of {double.total()}; bar all")
        print(f"  resolved: {share(resolved, every.total(), 'lower')}; bar 80 %")
        if counts is ours:
            bound = stats.binomtest(wrong, total, alternative="less").proportion_ci(0.95).high
            met = bound <= 0.06 and slower["regressed"] >= 0.9 * slower.total()
            met = met and double["regressed"] == double.total() and resolved >= 0.8 * every.total()
    return met


if __name__ == "__main__":
    main()
