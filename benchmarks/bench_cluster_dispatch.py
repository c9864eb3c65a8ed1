"""What a trial costs on a Ray cluster beyond its own time, beside a plain task of Ray, and what Marin adds to a thread.

One node with one slot, workers warm, trials that sleep 0.2 s. In turns, in one run:

    plain    N tasks of ray.remote, each of which sleeps as long
    here     N trials on this machine: a process each, intent and record in the journal
    cluster  the same N trials as one job, as a shard has them

What the journal and the processes cost is `here` beyond `plain`; what dispatch adds to that is `cluster` beyond `here`.
The job's own start is in it, spread over its trials. A thread of three levels then shows apart what Marin's runner
takes, by its own polling.
"""

import importlib
import os
import runpy
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

from research_steps import Resources
from research_steps.git import Checkout
from research_steps.journal.journal import Journal
from research_steps.journal.logbook_place import logbook_of
from research_steps.journal.store import open_store
from research_steps.thread.loading import load_thread
from research_steps.trial.batch import Wanted
from research_steps.trial.context import Session
from research_steps.trial.launcher.host import LocalHost
from research_steps.trial.launcher.launcher import Launcher
from research_steps.trial.provenance import capture

from tests.support.ray_cluster import Cluster, cluster

WAYS = ("plain", "here", "cluster")
MEASURE = """
import time


def measure(config):
    time.sleep(SLEEP_S)
    return {"time_s": SLEEP_S}
"""
THREAD = """
from experiments.naps.measure import measure
from research_steps import Metric, Resources, Series, main

series = Series(topic="naps", prefix="NAP", goal="time it", metrics=(Metric("time_s", timed=False),), floor_processes=2)


def thread(steps):
    base = steps.baseline(measure, {"number": 0}, resources=Resources(ram="100m"))
    sweep = steps.sweep(base, ("number", list(range(1, POINTS + 1))))
    steps.interpret(base, sweep)


if __name__ == "__main__":
    main(series, thread)
"""


@dataclass(frozen=True)
class Size:
    """Trials of a round, rounds, trials of the thread's sweep, and how long each trial sleeps (seconds)."""

    trials: int
    rounds: int
    points: int
    sleep_s: float


FULL = Size(25, 4, 10, 0.2)


@dataclass(frozen=True)
class Times:
    """The seconds a trial beyond its own time in each round of each way, and those of Marin's runner in the thread."""

    ways: dict[str, list[float]]
    runner_s: float


def prepare(root: Path, size: Size) -> None:
    experiment = root / "experiments" / "naps"
    experiment.mkdir(parents=True)
    for package in (experiment.parent, experiment):
        (package / "__init__.py").touch()
    (experiment / "measure.py").write_text(MEASURE.replace("SLEEP_S", str(size.sleep_s)))
    (experiment / "__main__.py").write_text(THREAD.replace("POINTS", str(size.points)))
    (root / ".gitignore").write_text("*_store/\n__pycache__/\n")
    subprocess.run(["git", "init", "--quiet"], cwd=root, check=True)


def enter(root: Path, environment: dict[str, str]) -> None:
    """Make this process one that was started in the checkout. Another `experiments` may have been imported in it."""
    os.chdir(root)
    os.environ.update(environment)
    sys.path.insert(0, str(root))
    for name in [name for name in sys.modules if name.split(".")[0] == "experiments"]:
        del sys.modules[name]


def ways(root: Path, environment: dict[str, str], size: Size) -> dict[str, list[float]]:
    """A driver, in a process of its own: what a trial takes beyond its own time, in each round of each way."""
    enter(root, environment)
    import ray
    from research_steps.remote.ray.client import joined
    from research_steps.thread.builders import StepBuilder
    from research_steps.thread.marin.jobs import using
    from research_steps.thread.table_trials import measure

    checkout, store = Checkout.find(), str(root / "local_store")
    series, _ = load_thread(checkout, "naps")
    napping = importlib.import_module("experiments.naps.measure").measure
    step: Any = StepBuilder(series).baseline(napping, {"number": 0}, resources=Resources(ram="100m"))
    config = replace(step.config, output_path=f"{store}/naps/baseline")
    count = 0

    @ray.remote(num_cpus=1)  # type: ignore[untyped-decorator]
    def nap(seconds: float) -> None:
        time.sleep(seconds)

    def plain() -> None:
        ray.get([nap.remote(size.sleep_s) for _ in range(size.trials)])

    def ours() -> None:
        nonlocal count
        count += 1
        id = f"NAP-{count:03d}"
        cases = [{"number": count * 1000 + number} for number in range(size.trials)]
        wanted = [
            Wanted(id=f"{id}.{number:02d}", label="nap", config=case, case=case) for number, case in enumerate(cases)
        ]
        assert len(measure(session, config, id, wanted)) == size.trials

    took: dict[str, list[float]] = {way: [] for way in WAYS}
    with Launcher() as launcher, joined(os.environ["RAY_ADDRESS"], checkout) as client:
        session = Session(
            series=series, journal=Journal(open_store(store), "naps"), host=LocalHost(launcher),
            captured=capture(checkout, ["bench"], "bench"), repository=logbook_of(checkout, "naps").records,
            retry=frozenset(), say=lambda line: None, changed=lambda: None,
        )  # fmt: skip
        work: list[tuple[str, Callable[[], None], Callable[[], AbstractContextManager[None]]]] = [
            ("plain", plain, nullcontext),
            ("here", ours, nullcontext),
            ("cluster", ours, lambda: using(client)),
        ]
        for number in range(size.rounds + 1):
            for way, run, engine in work:
                with engine():
                    began = time.perf_counter()
                    run()
                    if number:
                        took[way].append((time.perf_counter() - began) / size.trials - size.sleep_s)
    return took


def runner(root: Path, environment: dict[str, str]) -> float:
    """A thread of three levels, in a process of its own: the seconds that its steps' runner takes."""
    enter(root, {**environment, "MARIN_PREFIX": str(root / "other_store")})
    from research_steps.thread.driver import ThreadRun

    run, took = ThreadRun._run_plan, []

    def timed(*given: Any, **options: Any) -> None:
        began = time.perf_counter()
        run(*given, **options)
        took.append(time.perf_counter() - began)

    with patch.object(ThreadRun, "_run_plan", timed), patch.object(sys, "argv", ["naps"]):
        runpy.run_module("experiments.naps", run_name="__main__", alter_sys=True)
    (runner_s,) = took
    return runner_s


def run(root: Path, cluster: Cluster, size: Size, method: Literal["spawn", "fork"]) -> Times:
    prepare(root, size)
    environment = cluster.environment()
    # One process each, because a driver is one of Ray's drivers until its process ends.
    with ProcessPoolExecutor(1, get_context(method)) as pool:
        took = pool.submit(ways, root, environment, size).result()
    with ProcessPoolExecutor(1, get_context(method)) as pool:
        return Times(took, pool.submit(runner, root, environment).result())


def report(times: Times, size: Size) -> None:
    for way, seconds in times.ways.items():
        spread = f"{min(seconds) * 1e3:.1f} to {max(seconds) * 1e3:.1f}"
        print(f"{way:8} {statistics.median(seconds) * 1e3:6.1f} ms a trial beyond its own time ({spread})")
    plain, here, on = (times.ways[way] for way in WAYS)
    added = statistics.median((dispatched - other) * 1e3 for dispatched, other in zip(on, here, strict=True))
    beside = statistics.median((dispatched - other) * 1e3 for dispatched, other in zip(on, plain, strict=True))
    print(f"dispatch adds {added:.1f} ms a trial to here, {beside:.1f} to plain")
    # Those of the baseline are two.
    trials = size.points + 2
    own = f"{trials * size.sleep_s:.1f} s of them trials"
    print(f"a thread of three levels and {trials} trials: {times.runner_s:.2f} s in Marin's runner, {own}")


def quick(folder: Path, ray: Cluster) -> list[str]:
    """Two trials in one round, and a thread with two: all were measured, in each way."""
    size = Size(2, 1, 2, 0.05)
    times = run(folder, ray, size, "fork")
    report(times, size)
    # Two rounds of two in two ways, and the thread's four, two of which are in another store.
    stores = {"local_store": 8, "other_store": 4}
    measured = {name: len(Journal(open_store(str(folder / name)), "naps").scan().trials) for name in stores}
    return [] if measured == stores and times.runner_s > 4 * size.sleep_s else [f"{measured} trials, not {stores}"]


def main() -> None:
    os.environ.setdefault("WANDB_MODE", "disabled")
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="bench-dispatch-") as folder, cluster(head_cpus=1) as one_slot:
        report(run(Path(folder), one_slot, FULL, "spawn"), FULL)
    print(f"{time.monotonic() - began:.0f} s in all")


if __name__ == "__main__":
    main()
