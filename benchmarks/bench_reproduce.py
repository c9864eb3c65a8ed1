"""Whether `research reproduce` tells a claim that holds from one that does not.

    python -m benchmarks.bench_reproduce [TRIES [FOLDER]]

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
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from research_steps.cli.hand_over import EXITS

from benchmarks.dev_checkout import REPOSITORY

ARMS = ("as it is", "slowed")
TRIES, BAR = 30, 0.9
# Found by every Python that is started with it on PYTHONPATH, before anything is imported.
SLOW = """
import functools, sys
from importlib.machinery import PathFinder

MODULE, FIELD, SLOWED, SHARE = ...


class Clock:
    slow = False
    started = None

    def __init__(self, real):
        self.real = real

    def __getattr__(self, name):
        return getattr(self.real, name)

    def perf_counter(self):
        now = self.real.perf_counter()
        if not self.slow:
            return now
        if self.started is None:
            self.started = now
            return now
        until = now + SHARE * (now - self.started)
        self.started = None
        while (now := self.real.perf_counter()) < until:
            pass
        return now


def slowed(module):
    clock = module.time = Clock(module.time)
    measure = module.measure

    @functools.wraps(measure)
    def again(config):
        samples = measure(config)
        while True:
            # The baseline takes turns with it in the same process, with the same clock.
            clock.slow = getattr(config, FIELD) == SLOWED
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


# A clock that passes by what is drawn, so that what a reproduction says does not hang on what else runs here.
DRAWN = """
import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Config:
    work: int = 2000


class Drawn:
    now = 0.0

    def perf_counter(self):
        self.now += 1e-6
        return self.now

    def spend(self, work):
        self.now += work * random.gauss(1e-6, 2e-9)


time = Drawn()


def measure(config):
    while True:
        start = time.perf_counter()
        time.spend(config.work)
        yield {"time_s": time.perf_counter() - start}
"""
BODY = """
    base = steps.baseline(measure, Config())
    works = steps.sweep(base, ("work", [1000, 4000]))
    steps.seal(steps.interpret(base, works, steps.replicate(works, n=3)))
"""


@dataclass(frozen=True)
class Sealed:
    """A checkout with a sealed tag, the Python of its environment, and where the slow one's `sitecustomize` lies."""

    root: Path
    tag: str
    python: str
    slow: Path

    def research(self, *arguments: str, path: str = "") -> str:
        """What `research … --json` prints, with this PYTHONPATH."""
        argv, env = [self.python, "-m", "research_steps", *arguments, "--json"], {**os.environ, "PYTHONPATH": path}
        done = subprocess.run(argv, cwd=self.root, env=env, capture_output=True, text=True)
        # Each outcome of a reproduction has its own.
        if done.returncode not in EXITS.values():
            raise RuntimeError(f"{' '.join(argv)} ended with {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout

    def outcome(self, arm: str) -> dict[str, str]:
        """Reproduce the tag once, as it is or slowed."""
        printed = self.research("reproduce", self.tag, "--here", path=str(self.slow) if arm == "slowed" else "")
        entry = json.loads(printed)["entry"]
        shown = json.loads(self.research("show", entry))[0]
        return {"arm": arm, "outcome": shown["config"]["outcome"], "result": shown["result"]}


def slow(folder: Path, module: str, field: str, value: object, share: float) -> Path:
    """The folder as one for PYTHONPATH that slows a module's measure function down by this share, where the field of
    its configuration has this value."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(SLOW.replace("SHARE = ...", f"SHARE = {(module, field, value, share)!r}"))
    return folder


def last_tag(root: Path) -> str:
    listed = subprocess.run(["git", "tag", "--sort=creatordate"], cwd=root, capture_output=True, text=True, check=True)
    return listed.stdout.split()[-1]


def moe_hc(folder: Path) -> Sealed:
    """The thread as `make run` seals it in a clean clone, which is made where there is none."""
    clone, python = folder / "clone", folder / "clone" / ".venv" / "bin" / "python"
    if not clone.exists():
        subprocess.run(["git", "clone", "--quiet", str(REPOSITORY), str(clone)], check=True)
        slow(folder / "slow", "experiments.moe_hc.measure", "implementation", "blocked_scan", 0.1)
        began = time.monotonic()
        subprocess.run(["make", "run"], cwd=clone, check=True)
        print(f"sealed in {time.monotonic() - began:.0f} s", flush=True)
    return Sealed(clone, last_tag(clone), str(python), folder / "slow")


def run(sealed: Sealed, results: Path, tries: int) -> list[dict[str, str]]:
    """The outcomes of so many tries of each arm, among them those that the file of results holds already."""
    results.touch()
    outcomes = [json.loads(line) for line in results.read_text().splitlines()]
    for number in range(len(outcomes), 2 * tries):
        began = time.monotonic()
        outcomes.append(sealed.outcome(ARMS[number % 2]))
        with results.open("a") as file:
            file.write(json.dumps(outcomes[-1]) + "\n")
        spent_s = time.monotonic() - began
        print(f"{number + 1}: {outcomes[-1]['arm']}: {outcomes[-1]['result']} ({spent_s:.0f} s)", flush=True)
    return outcomes


def report(outcomes: list[dict[str, str]]) -> list[str]:
    """The arms that miss the bar; what came of all is printed."""
    missed = []
    for arm, right in zip(ARMS, ("reproduced", "not reproduced"), strict=True):
        counts = Counter(outcome["outcome"] for outcome in outcomes if outcome["arm"] == arm)
        print(arm, dict(counts))
        missed += [f"{arm}: {dict(counts)}"] if counts[right] < BAR * counts.total() else []
    return missed


def quick(folder: Path) -> list[str]:
    """One try of each with a small thread, whose best candidate is slowed by half."""
    from tests.support.toy_thread import Repository

    with patch.dict(os.environ, {"WANDB_MODE": "disabled"}):
        repository = Repository(folder / "checkout")
        repository.measure(DRAWN)
        repository.thread(BODY)
        thread = repository.experiment / "__main__.py"
        thread.write_text(thread.read_text().replace('"min")', '"min", timed=False)'))
        repository.commit()
        done = repository.run("--seal", "true")
        if done.code != 0:
            return [done.output]
        slowed = slow(folder / "slow", "experiments.toy.measure", "work", 1000, 0.5)
        sealed = Sealed(repository.root, last_tag(repository.root), sys.executable, slowed)
        return report(run(sealed, folder / "results.jsonl", 1))


def main() -> None:
    tries = int(sys.argv[1]) if len(sys.argv) > 1 else TRIES
    with tempfile.TemporaryDirectory(prefix="research-reproduce-bench-") as scratch:
        folder = Path(sys.argv[2] if len(sys.argv) > 2 else scratch).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        missed = report(run(moe_hc(folder), folder / "results.jsonl", tries))
    sys.exit(f"bar NOT MET: {missed}" if missed else 0)


if __name__ == "__main__":
    main()
