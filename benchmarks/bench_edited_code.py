"""An edit in place against the code of the commit: how often none is called one, how often one is found, and how fast.

    python -m benchmarks.bench_edited_code [GROUPS]

A kernel that computes is edited in its own file, and `research dev` asks without a setting whether that is better: the
two versions run in two processes, by turns. Each group commits anew, so that its noise floor (five pairs) is its own,
and tries 20 edits that change a comment, 5 that add 5 % of work, and one that doubles it, in random order; the 5 % once
by one pair of processes, once by three (`-n 3`).

Bars, with 10 groups: of what changes a comment at most 6 % called improved or regressed (upper 95 % bound, over groups
too: no group alone has more than 3), 90 % of the 5 % found by three pairs. From the save to the recorded answer, without
set-up and sampling, at most 0.8 s by the whole command; told as a ratio to the same command where one process holds both
sides, in turns in this run.
"""

import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from scipy import stats

from benchmarks.bench_verdicts import Verdicts, share, told
from benchmarks.dev_checkout import Bench, toy

KERNELS = """
import time

import numpy as np

WORK = {work}


def cost(times):
    a = np.random.default_rng(0).random((32, 32)).astype(np.float32)
    while True:
        began = time.perf_counter()
        x = a
        for _ in range(WORK * times):
            x = (a @ x) / np.float32(16)
        yield time.perf_counter() - began
# {comment}
"""
DRAWN = """
import os, random

WORK = {work}


def cost(times):
    shift = random.Random(os.getpid()).gauss(1, 0.001)
    while True:
        yield WORK * times * shift * random.gauss(1, 0.001)
# {comment}
"""
MEASURE = """
from experiments.toy.kernels import cost


def measure(config):
    for seconds in cost(config["times"]):
        yield {"time_s": seconds}
"""
THREAD = """
from experiments.toy.measure import measure
from research_steps import Metric, Series, main

series = Series(topic="toy", prefix="TOY", goal="be right about edits", metrics=(Metric("time_s", timed=%s),),
                max_pairs=5000, sampling_s=%s, floor_processes=%s)


def thread(steps):
    steps.baseline(measure, {"times": 1})


if __name__ == "__main__":
    main(series, thread)
"""
WORK = 200
SLOWER = WORK + WORK // 20
CASES = {"comment": WORK, "5 % slower": SLOWER, "5 % slower, -n 3": SLOWER, "2 × slower": 2 * WORK}
EACH = {"comment": 20, "5 % slower": 5, "5 % slower, -n 3": 5, "2 × slower": 1}
GROUPS, FLOOR, SAMPLING_S, ROUNDS = 10, 5, 0.7, 10
BAR_S, BAR_FALSE, BAR_FOUND = 0.8, 0.06, 0.9


def save(bench: Bench, kernels: str, work: int, comment: str) -> None:
    bench.kernels.write_text(kernels.replace("{work}", str(work)).replace("{comment}", comment))


def verdicts(bench: Bench, kernels: str, groups: int, each: dict[str, int]) -> tuple[Verdicts, int]:
    """What is said of each case, and the most that any group says falsely of what changes a comment."""
    counts: Verdicts = {case: Counter() for case in CASES}
    order, worst, began = random.Random(1), 0, time.monotonic()
    for group in range(groups):
        save(bench, kernels, WORK, f"group {group}")
        bench.commit(f"group {group}")
        cases = [case for case, count in each.items() for _ in range(count)]
        order.shuffle(cases)
        own: Verdicts = {case: Counter() for case in CASES}
        for number, case in enumerate(cases):
            save(bench, kernels, CASES[case], f"edit {group} {number}")
            own[case][bench.order_edit(3 if "-n 3" in case else 1).verdict] += 1
        worst = max(worst, own["comment"]["improved"] + own["comment"]["regressed"])
        for case, counted in own.items():
            counts[case] += counted
        done = " | ".join(f"{case}: {told(counted)}" for case, counted in counts.items())
        print(f"group {group + 1}, {time.monotonic() - began:.0f} s: {done}", flush=True)
    return counts, worst


def took(bench: Bench, *settings: str) -> float:
    """From the command to its end, without set-up and sampling (seconds)."""
    began = time.perf_counter()
    bench.command("dev", "toy", *settings)
    whole, launch = time.perf_counter() - began, bench.last().launch
    assert launch is not None
    return whole - launch.setup_s - launch.sampling_s


def answers(bench: Bench, kernels: str, rounds: int) -> tuple[list[float], list[float]]:
    """How long answers take across two versions, and in one process, by turns."""
    across, within = [], []
    for number in range(rounds + 1):
        save(bench, kernels, WORK, f"round {number}")
        taken = took(bench), took(bench, "times=2")
        # The first ones measure noise floors.
        if number:
            across.append(taken[0])
            within.append(taken[1])
    return across, within


def quick(folder: Path) -> list[str]:
    """Costs that are drawn: what changes a comment is no difference, or left open, and the others are found."""
    with toy(folder, MEASURE, THREAD % (False, 0.2, 3)) as bench:
        counts, _ = verdicts(bench, DRAWN, 1, {"comment": 2, "5 % slower, -n 3": 1, "2 × slower": 1})
    slower = {case: counts[case] for case in CASES if counts[case] and case != "comment"}
    wrong = [f"{case}: {told(counted)}" for case, counted in slower.items() if set(counted) != {"regressed"}]
    false = counts["comment"]["improved"] + counts["comment"]["regressed"]
    return wrong + ([f"comment: {told(counts['comment'])}"] if false else [])


def main() -> None:
    groups = int(sys.argv[1]) if len(sys.argv) > 1 else GROUPS
    with (
        tempfile.TemporaryDirectory() as folder,
        toy(Path(folder), MEASURE, THREAD % (True, SAMPLING_S, FLOOR)) as bench,
    ):
        counts, worst = verdicts(bench, KERNELS, groups, EACH)
        across, within = answers(bench, KERNELS, ROUNDS)
    comment, slower, once = counts["comment"], counts["5 % slower, -n 3"], counts["5 % slower"]
    false = comment["improved"] + comment["regressed"]
    print(
        f"comment called different: {share(false, comment.total(), 'upper')}, at most {worst} in a group; bar: bound 6 %"
    )
    print(f"5 % slower found by one pair: {share(once['regressed'], once.total(), 'lower')}")
    print(f"5 % slower found by three: {share(slower['regressed'], slower.total(), 'lower')}; bar 90 %")
    print(f"2 × slower found: {counts['2 × slower']['regressed']} of {counts['2 × slower'].total()}")
    mine, theirs = statistics.median(across), statistics.median(within)
    beside = f"{theirs:.2f} s in one process: {mine / theirs:.2f} ×"
    print(f"from save to answer: {mine:.2f} s across versions, {beside}; bar 0.8 s")
    right = stats.binomtest(false, comment.total(), alternative="less").proportion_ci(0.95).high <= BAR_FALSE
    finds = slower["regressed"] >= BAR_FOUND * slower.total()
    sys.exit(0 if right and finds and worst <= 3 and mine <= BAR_S else 1)


if __name__ == "__main__":
    main()
