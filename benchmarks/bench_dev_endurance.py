"""500 attempts of dev mode in a row with one kept parent, 50 of which crash, hang or exit.

Bars: the parent lives and serves the last one, its memory grows at most 5 % after the first 20, and there are 500
records, each with the outcome that it should have.
"""

import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil
from dev_checkout import Bench, commit
from research_steps.trial.launcher.daemon import Daemon

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


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "checkout"
        experiment = root / "experiments" / "toy"
        experiment.mkdir(parents=True)
        (root / ".gitignore").write_text("local_store/\n")
        (experiment.parent / "__init__.py").touch()
        (experiment / "__init__.py").touch()
        (experiment / "measure.py").write_text(MEASURE)
        (experiment / "__main__.py").write_text(THREAD)
        commit(root)
        bench = Bench(root, "toy")
        try:
            sys.exit(0 if run(bench) else 1)
        finally:
            Daemon(root).stop()


def run(bench: Bench) -> bool:
    bad = list(BAD)
    wanted: Counter[str] = Counter()
    began, warm_rss, parent = time.monotonic(), 0, psutil.Process()
    for number in range(ATTEMPTS):
        mode = bad[number // 10 % len(bad)] if number % 10 == 9 else "ok"
        wanted[BAD.get(mode, "ok")] += 1
        bench.order(f"mode={mode}", "work=1000")
        if number + 1 == WARM:
            state = Daemon(bench.root).state()
            assert state is not None
            parent = psutil.Process(state.pid)
            warm_rss = parent.memory_info().rss
    lived = parent.is_running()
    grown = parent.memory_info().rss / warm_rss - 1
    trials = [one.record for one in bench.journal.scan().trials.values() if one.record.label != "noise floor"]
    found = Counter(one.error.type if one.error else "ok" for one in trials)
    print(f"{ATTEMPTS} attempts in {time.monotonic() - began:.0f} s; the parent {'lived' if lived else 'DIED'}")
    print(f"its memory grew by {grown:.2%} from {warm_rss / 2**20:.0f} MiB after {WARM} attempts (bar {BAR_GROWTH:.0%})")
    print(f"records: {len(trials)} of {ATTEMPTS}; {dict(found)}, expected {dict(wanted)}")
    return lived and grown <= BAR_GROWTH and found == wanted


if __name__ == "__main__":
    main()
