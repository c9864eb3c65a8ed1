"""Whether verdicts can be trusted: a kernel against itself, 5 % slower and twice as slow, with others on the machine.

    python benchmarks/bench_verdicts.py [GROUPS]

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
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

from research_steps import Metric, Series
from research_steps.evidence.claims import Baseline, Candidate, Ended, make_claims
from research_steps.git import Checkout
from research_steps.journal.journal import Journal
from research_steps.journal.store import open_store
from research_steps.trial.code import trace_name
from research_steps.trial.context import Session
from research_steps.trial.launcher.host import LocalHost
from research_steps.trial.launcher.launcher import Launcher
from research_steps.trial.provenance import capture
from research_steps.trial.trials import TrialSpec, measure_trial
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
CASES = {"itself": (WORK, 15), "5 % slower": (WORK + WORK // 20, 5), "2 × slower": (2 * WORK, 1)}
PROCESSES = 2
FLOOR = 5
LOAD_S = 12.0
RUNS = 10


class Desk:
    """Where the trials are measured and recorded."""

    def __init__(self, root: Path, launcher: Launcher) -> None:
        (root / "kernel.py").write_text(KERNEL)
        self.code = trace_name("kernel:measure", root)
        self.session = Session(
            series=SERIES, journal=Journal(open_store(str(root / "store")), SERIES.topic), host=LocalHost(launcher),
            captured=capture(Checkout(root, None), ["bench"]), repository=root / "published", used_numbers=frozenset(),
            retry=frozenset(), say=lambda line: None, changed=lambda: None,
        )  # fmt: skip
        self._replicates = 0

    def measure(self, work: int, processes: int) -> list[Ended]:
        found: list[Ended] = []
        for _ in range(processes):
            self._replicates += 1
            spec = TrialSpec(self.code, "dict", {"work": work}, {"work": WORK}, replicate=self._replicates)
            found.append(measure_trial(self.session, spec, id=f"VERDICT-{self._replicates}", label="").stored)
        return found

    def verdict(self, work: int, floor: list[Ended]) -> str:
        changes = {"work": work, "again": self._replicates}
        baseline = Baseline({"work": WORK}, floor[0].ref, floor)
        return make_claims(SERIES, baseline, [Candidate(changes, self.measure(work, PROCESSES))])[0].verdict


def naive(work: int, budget_s: float) -> str:
    """Ten runs of one, then ten of the other, in a process of their own, for as long as a comparison samples."""
    program = f"""{KERNEL}
import statistics

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
    ratio = float(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout)
    least = 1 + SERIES.primary.min_effect
    return "regressed" if ratio >= least else "improved" if ratio <= 1 / least else "no difference"


def told(verdicts: Counter[str]) -> str:
    return ", ".join(f"{count} {verdict}" for verdict, count in verdicts.most_common())


def share(count: int, of: int, side: str) -> str:
    """A share with the bound that matters: how large ('upper') or how small ('lower') it may be in truth."""
    bounds = stats.binomtest(count, of, alternative="less" if side == "upper" else "greater").proportion_ci(0.95)
    return f"{count} of {of}, {count / of:.1%} ({side} 95 % bound {bounds.high if side == 'upper' else bounds.low:.1%})"


def main() -> None:
    groups = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    ours: dict[str, Counter[str]] = {case: Counter() for case in CASES}
    theirs: dict[str, Counter[str]] = {case: Counter() for case in CASES}
    order = random.Random(1)
    began = time.monotonic()
    load = subprocess.Popen([sys.executable, "-c", BUSY, str(LOAD_S)])
    try:
        with tempfile.TemporaryDirectory() as folder, Launcher() as launcher:
            desk = Desk(Path(folder), launcher)
            for group in range(groups):
                floor = desk.measure(WORK, FLOOR)
                comparisons = [case for case, (_, count) in CASES.items() for _ in range(count)]
                order.shuffle(comparisons)
                for number, case in enumerate(comparisons):
                    work = CASES[case][0]
                    ours[case][desk.verdict(work, floor)] += 1
                    # A quarter of the comparisons the naive way as well, at whatever moment it is.
                    if number % 4 == 0:
                        theirs[case][naive(work, PROCESSES * SERIES.sampling_s)] += 1
                done = " | ".join(f"{case}: {told(counts)}" for case, counts in ours.items())
                print(f"group {group + 1}, {time.monotonic() - began:.0f} s: {done}", flush=True)
    finally:
        load.kill()
        load.wait()
    sys.exit(report(ours, theirs))


def report(ours: dict[str, Counter[str]], theirs: dict[str, Counter[str]]) -> int:
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
    return 0 if met else 1


if __name__ == "__main__":
    main()
