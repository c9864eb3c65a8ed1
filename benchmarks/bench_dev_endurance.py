"""500 attempts of dev mode in a row with one daemon, 50 of which crash, hang or exit.

Bars: the daemon lives and serves the last one, its memory grows at most 5 % after the first 20, and there are 500
records, each with the outcome that it should have.
"""

import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil
from research_steps.trial.launcher.daemon import Daemon

from benchmarks.dev_checkout import Bench, toy

ATTEMPTS, WARM, BAR_GROWTH = 500, 20, 0.05
# Every tenth attempt is one of these, and what its record then says.
BAD = {"crash": "Crash", "hang": "TimeLimit", "exit": "Exit"}
MEASURE = """
import os, signal, time


def measure(config):
    if config["mode"] == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if config["mode"] == "exit":
        os._exit(3)
    if config["mode"] == "hang":
        time.sleep(1000)
    while True:
        start = time.perf_counter()
        sum(range(config["work"]))
        yield {"time_s": time.perf_counter() - start}
"""
THREAD = """
from experiments.toy.measure import measure
from research_steps import Metric, Series, main

series = Series(topic="toy", prefix="TOY", goal="go on", metrics=(Metric("time_s"),), max_pairs=10, sampling_s=0.1,
                time_limit_s=0.5, contention_wait_s=0, floor_processes=2)


def thread(steps):
    steps.baseline(measure, {"work": 2000, "mode": "ok"})


if __name__ == "__main__":
    main(series, thread)
"""


def run(folder: Path, attempts: int, warm: int, every: int) -> tuple[list[str], float]:
    """So many attempts, of which each so-many-th is a bad one: what is wrong with the records or the daemon, and the
    share by which its memory grew after the first `warm`."""
    bad = list(BAD)
    wanted: Counter[str] = Counter()
    with toy(folder, MEASURE, THREAD) as bench:
        for number in range(attempts):
            mode = bad[number // every % len(bad)] if number % every == every - 1 else "ok"
            wanted[BAD.get(mode, "ok")] += 1
            bench.order(f"mode={mode}", "work=1000")
            if number + 1 == warm:
                daemon = serving(bench)
                warm_rss = daemon.memory_info().rss
        lives = daemon.is_running() and serving(bench) == daemon
        grown = daemon.memory_info().rss / warm_rss - 1 if lives else 0.0
        outcomes = Counter(record.error.type if record.error else "ok" for record in bench.trials())
    problems = [] if lives else ["the daemon died"]
    if outcomes != wanted:
        problems.append(f"the records say {dict(outcomes)}, expected {dict(wanted)}")
    return problems, grown


def serving(bench: Bench) -> psutil.Process:
    """The daemon of the checkout, which runs."""
    state = Daemon(bench.root).state()
    assert state is not None, "no daemon runs"
    return psutil.Process(state.pid)


def quick(folder: Path) -> list[str]:
    """Six attempts, one of each kind among them."""
    return run(folder, 6, 1, 2)[0]


def main() -> None:
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        problems, grown = run(Path(folder), ATTEMPTS, WARM, 10)
    print(f"{ATTEMPTS} attempts in {time.monotonic() - began:.0f} s: {problems or 'each record as it should be'}")
    print(f"the daemon's memory grew by {grown:.2%} after {WARM} attempts (bar {BAR_GROWTH:.0%})")
    sys.exit(1 if problems or grown > BAR_GROWTH else 0)


if __name__ == "__main__":
    main()
