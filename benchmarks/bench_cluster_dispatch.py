"""What a trial costs on a Ray cluster beyond its own time, beside a plain task of Ray, and what Marin adds to a thread.

One node with one slot, workers warm, trials that sleep 0.2 s. In turns, in one run:

    plain    N tasks of ray.remote, each of which sleeps as long
    here     N trials on this machine: a process each, intent and record in the journal
    cluster  the same N trials as one job, as a shard has them

What the journal and the processes cost is `here` beyond `plain`; what dispatch adds to that is `cluster` beyond `here`.
The job's own start is in it, spread over its trials. A thread of three levels then shows apart what Marin's runner
takes, by its own polling.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.support.ray_cluster import cluster

TRIALS, ROUNDS, SLEEP_S = 25, 4, 0.2
MEASURE = f"""
import time


def measure(config):
    time.sleep({SLEEP_S})
    return {{"time_s": {SLEEP_S}}}
"""
THREAD = """
from experiments.naps.measure import measure
from research_steps import Metric, Resources, Series, main

series = Series(topic="naps", prefix="NAP", goal="time it", metrics=(Metric("time_s", timed=False),), floor_processes=2)


def thread(steps):
    base = steps.baseline(measure, {"number": 0}, resources=Resources(ram="100m"))
    sweep = steps.sweep(base, ("number", list(range(1, 11))))
    steps.interpret(base, sweep)


if __name__ == "__main__":
    main(series, thread)
"""
DRIVER = """
import os, sys, time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import ray
from experiments.naps.__main__ import series
from experiments.naps.measure import measure
from research_steps import Resources, provenance
from research_steps.remote.ray.joining import joined
from research_steps.git import Checkout
from research_steps.journal.journal import Journal
from research_steps.trial.launcher.launcher import Launcher
from research_steps.trial.launcher.host import LocalHost
from research_steps.thread import away, marin
from research_steps.thread.builders import StepBuilder
from research_steps.trial.batch import Wanted
from research_steps.trial.context import Session
from research_steps.journal.store import open_store

trials, rounds, sleep_s = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
checkout = Checkout.find()
store = str(checkout.root / "local_store")
config = StepBuilder(series).baseline(measure, {"number": 0}, resources=Resources(ram="100m")).config
config = replace(config, output_path=f"{store}/naps/baseline")
count = 0


@ray.remote(num_cpus=1)
def nap():
    time.sleep(sleep_s)


def plain():
    ray.get([nap.remote() for _ in range(trials)])


def ours():
    global count
    count += 1
    id = f"NAP-{count:03d}"
    cases = [{"number": count * 1000 + one} for one in range(trials)]
    wanted = [Wanted(id=f"{id}.{one:02d}", label="nap", config=case, case=case) for one, case in enumerate(cases)]
    assert len(away.measure(session, config, id, wanted)) == trials


with Launcher() as launcher, joined(os.environ["RAY_ADDRESS"], checkout) as client:
    session = Session(
        series=series, journal=Journal(open_store(store), "naps"), host=LocalHost(launcher),
        captured=provenance.capture(checkout, ["bench"]), repository=checkout.logbooks, used_numbers=frozenset(),
        retry=frozenset(), say=lambda line: None, changed=lambda: None,
    )
    for number in range(rounds + 1):
        for name, run, engine in (
            ("plain", plain, nullcontext()), ("here", ours, nullcontext()), ("cluster", ours, marin.using(client)),
        ):
            with engine:
                began = time.perf_counter()
                run()
                if number:
                    print(name, (time.perf_counter() - began) / trials - sleep_s, flush=True)
"""


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="bench-dispatch-") as folder, cluster(head_cpus=1) as found:
        root = Path(folder)
        experiment = root / "experiments" / "naps"
        experiment.mkdir(parents=True)
        for package in (experiment.parent, experiment):
            (package / "__init__.py").touch()
        (experiment / "measure.py").write_text(MEASURE)
        (experiment / "__main__.py").write_text(THREAD)
        (root / ".gitignore").write_text("local_store/\n__pycache__/\n")
        subprocess.run(["git", "init", "--quiet"], cwd=root, check=True)
        environment = found.environment(PYTHONPATH=str(root))
        argv = [sys.executable, "-c", DRIVER, str(TRIALS), str(ROUNDS), str(SLEEP_S)]
        output = subprocess.run(argv, cwd=root, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
        lines = [line.split() for line in output.splitlines()]
        times = {name: [float(line[1]) for line in lines if line[:1] == [name]] for name in ("plain", "here", "cluster")}
        for name, found_s in times.items():
            spread = f"{min(found_s) * 1e3:.1f} to {max(found_s) * 1e3:.1f}"
            print(f"{name:8} {statistics.median(found_s) * 1e3:6.1f} ms a trial beyond its own time ({spread})")
        added = [(on - here) * 1e3 for on, here in zip(times["cluster"], times["here"], strict=True)]
        beside = [(on - plain) * 1e3 for on, plain in zip(times["cluster"], times["plain"], strict=True)]
        print(
            f"dispatch adds {statistics.median(added):.1f} ms a trial to here, {statistics.median(beside):.1f} to plain"
        )
        marin(root, environment)


def marin(root: Path, environment: dict[str, str]) -> None:
    """A thread of three levels with 12 trials: what is left of its time beside its steps is Marin's."""
    code = (
        "import runpy, sys, time\n"
        "from research_steps.thread import marin, builders\n"
        "run = marin.Plan.run\n"
        "def timed(*given, **options):\n"
        "    began = time.perf_counter()\n"
        "    run(*given, **options)\n"
        "    print('runner', time.perf_counter() - began)\n"
        "marin.Plan.run = timed\n"
        "runpy.run_module('experiments.naps', run_name='__main__', alter_sys=True)\n"
    )
    where = {**environment, "MARIN_PREFIX": str(root / "other_store")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, env=where, stdout=subprocess.PIPE, text=True, check=True
    )
    (took,) = (float(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("runner "))
    print(f"a thread of three levels and 12 trials: {took:.2f} s in Marin's runner, {12 * SLEEP_S:.1f} s of them trials")


if __name__ == "__main__":
    os.environ.setdefault("WANDB_MODE", "disabled")
    began = time.monotonic()
    main()
    print(f"{time.monotonic() - began:.0f} s in all")
