"""Whether `research reproduce` tells a claim that holds from one that does not.

    python benchmarks/bench_reproduce.py [TRIES [FOLDER]]

The thread `moe_hc` is run and sealed in a clean clone, by `make run`. Then the tag is reproduced, in turns as it
is and with the kernel that it found best slowed by 10 %: in each timed call of that kernel the process goes on computing
for a tenth of the time that the call took. Neither the code nor the environment that is recorded differs, as when a
driver, a clock or a neighbour made it slower. With FOLDER, tries that were made there before count, and the tag stays.

Bars, with 30 tries of each: at least 27 reproduced as it is, at least 27 not reproduced when slowed.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
KERNEL = "blocked_scan"
# Found by every Python that is started with it on PYTHONPATH, before anything is imported.
SLOW = f"""
import functools, sys, time
from importlib.machinery import PathFinder

MODULE, KERNEL, SHARE = "experiments.moe_hc.measure", {KERNEL!r}, 0.1


class Clock:
    slow = False
    started = None

    def __getattr__(self, name):
        return getattr(time, name)

    def perf_counter(self):
        now = time.perf_counter()
        if not self.slow:
            return now
        if self.started is None:
            self.started = now
            return now
        until = now + SHARE * (now - self.started)
        self.started = None
        while (now := time.perf_counter()) < until:
            pass
        return now


def slowed(module):
    clock = module.time = Clock()
    measure = module.measure

    @functools.wraps(measure)
    def again(config):
        samples = measure(config)
        while True:
            # The baseline takes turns with it in the same process, with the same clock.
            clock.slow = config.implementation == KERNEL
            try:
                sample = next(samples)
            finally:
                clock.slow = False
            yield sample

    module.measure = again


class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name != MODULE:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None:
            load = spec.loader.exec_module

            def exec_module(module):
                load(module)
                slowed(module)

            spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, Finder)
"""


def main(tries: int, folder: Path) -> None:
    clone, slow, results = folder / "clone", folder / "slow", folder / "results.jsonl"
    if not clone.exists():
        subprocess.run(["git", "clone", "--quiet", str(HERE), str(clone)], check=True)
        slow.mkdir()
        (slow / "sitecustomize.py").write_text(SLOW)
        began = time.monotonic()
        subprocess.run(["make", "run"], cwd=clone, check=True)
        print(f"sealed in {time.monotonic() - began:.0f} s", flush=True)
    listed = subprocess.run(["git", "tag", "--sort=creatordate"], cwd=clone, capture_output=True, text=True, check=True)
    tag = listed.stdout.split()[-1]
    results.touch()
    told = [json.loads(line) for line in results.read_text().splitlines()]
    for number in range(len(told), 2 * tries):
        arm = ("as it is", "slowed")[number % 2]
        began = time.monotonic()
        found = run(
            clone, [str(slow)] if arm == "slowed" else [], "-m", "research_steps", "reproduce", tag, "--here", "--json"
        )
        entry = json.loads(found)["entry"]
        shown = json.loads(run(clone, [], "-m", "research_steps", "show", entry, "--json"))[0]
        told.append({"arm": arm, "outcome": shown["config"]["outcome"], "result": shown["result"]})
        with results.open("a") as file:
            file.write(json.dumps(told[-1]) + "\n")
        print(f"{number + 1}: {arm}: {shown['result']} ({time.monotonic() - began:.0f} s)", flush=True)
    for arm in ("as it is", "slowed"):
        print(arm, dict(Counter(one["outcome"] for one in told if one["arm"] == arm)))


def run(clone: Path, first: list[str], *arguments: str) -> str:
    python, env = clone / ".venv" / "bin" / "python", {**os.environ, "PYTHONPATH": os.pathsep.join(first)}
    done = subprocess.run([python, *arguments], cwd=clone, env=env, capture_output=True, text=True)
    if done.returncode != 0:
        print(done.stdout, done.stderr, sep="\n")
        raise SystemExit(f"{' '.join(arguments)} ended with {done.returncode}")
    return done.stdout


if __name__ == "__main__":
    tries = int(sys.argv[1]) if len(sys.argv) > 1 else 30
    if len(sys.argv) > 2:
        Path(sys.argv[2]).mkdir(parents=True, exist_ok=True)
        main(tries, Path(sys.argv[2]).resolve())
    else:
        with tempfile.TemporaryDirectory(prefix="research-reproduce-bench-") as scratch:
            main(tries, Path(scratch))
