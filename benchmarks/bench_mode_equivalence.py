"""Does it matter how a kernel was measured? Forked by dev mode, in a cold process, and through Marin's executor.

Bar: each pair of ways differs by less than the metric's `min_effect` (2 %), by an equivalence test (two one-sided t
tests at 5 %) on the process effects of the same kernel against the same baseline. 100 tries in all, in turns, so that
what changes on this machine meanwhile changes all three. The sampling budget is that of the thread itself.
"""

import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from dev_checkout import Bench, small_moe
from research_steps.evidence.statistics import process_effect
from research_steps.records.model import Samples, TrialRecord
from research_steps.records.series import Metric
from scipy import stats

TRIES = 34
SETTING = "implementation=dense"
METRIC = Metric("time_s")
COLD = """
import json, sys
sys.path.insert(0, sys.argv[1])
import msgspec
from research_steps.trial.launcher.sampling import sample
from experiments.moe_hc.__main__ import series
from experiments.moe_hc.measure import MoeConfig, measure
sampled = sample(
    measure, MoeConfig(implementation="dense"), MoeConfig(implementation="scatter"),
    metrics=("time_s", "max_rel_error"), primary=series.primary, max_pairs=series.max_pairs,
    sampling_s=series.sampling_s, seed=int(sys.argv[2]),
)
print(msgspec.json.encode(sampled.samples).decode())
"""
EXECUTOR = """
import sys
sys.path.insert(0, sys.argv[1])
from experiments.moe_hc.__main__ import series
from experiments.moe_hc.measure import MoeConfig, measure
from research_steps.thread.options import RunOptions
from research_steps.thread.run import run
import research_steps.thread.builders
import os

for store in sys.stdin:
    if os.fork() == 0:
        def thread(steps):
            base = steps.baseline(measure, MoeConfig(implementation="scatter"))
            steps.sweep(base, ("implementation", ["dense"]))

        run(series, thread, RunOptions(prefix=store.strip()))
        os._exit(0)
    os.wait()
    print("done", flush=True)
"""


class Executor:
    """A process that has imported Marin, and runs the thread in a child for each try, with a store of its own."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._process = subprocess.Popen(
            [sys.executable, "-c", EXECUTOR, str(bench.root)],
            cwd=bench.root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env={**os.environ, "WANDB_MODE": "disabled"},
        )  # fmt: skip

    def measure(self, number: int) -> Samples:
        from research_steps.journal.journal import Journal
        from research_steps.journal.store import open_store

        store = f"{self._bench.root}/local_store/try-{number}"
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{store}\n")
        self._process.stdin.flush()
        self._process.stdout.readline()
        trials = [one.record for one in Journal(open_store(store), "moe_hc").scan().trials.values()]
        (found,) = [one for one in trials if one.config["implementation"] == "dense"]
        return samples_of(found)

    def end(self) -> None:
        self._process.communicate()


def cold(bench: Bench, number: int) -> Samples:
    import msgspec

    done = subprocess.run(
        [sys.executable, "-c", COLD, str(bench.root), str(number)], capture_output=True, text=True, check=True
    )
    return msgspec.json.decode(done.stdout.splitlines()[-1], type=Samples)


def forked(bench: Bench) -> Samples:
    bench.order(SETTING)
    return samples_of(bench.last())


def samples_of(record: TrialRecord) -> Samples:
    assert record.samples is not None, record.error
    return record.samples


def equivalent(one: list[float], other: list[float]) -> tuple[float, float]:
    """The difference of two ways, and the larger of the two one-sided p values: below 0.05 they are equivalent."""
    margin = math.log1p(METRIC.min_effect)
    low = stats.ttest_ind([value + margin for value in one], other, equal_var=False, alternative="greater").pvalue
    high = stats.ttest_ind([value - margin for value in one], other, equal_var=False, alternative="less").pvalue
    return sum(one) / len(one) - sum(other) / len(other), max(float(low), float(high))


def main() -> None:
    tries = int(sys.argv[1]) if len(sys.argv) > 1 else TRIES
    effects: dict[str, list[float]] = {"forked": [], "cold": [], "executor": []}
    with tempfile.TemporaryDirectory() as folder, small_moe(Path(folder), sampling_s=3.0) as bench:
        executor = Executor(bench)
        bench.order(SETTING)
        for number in range(tries):
            for name, samples in (
                ("forked", forked(bench)),
                ("cold", cold(bench, number)),
                ("executor", executor.measure(number)),
            ):
                effects[name].append(process_effect(METRIC, "ratio", samples).mean)
        executor.end()
    for name, values in effects.items():
        mean = sum(values) / len(values)
        print(f"{name}: {math.exp(mean):.4f} × the baseline, {len(values)} tries")
    met = True
    for one, other in (("forked", "cold"), ("forked", "executor"), ("cold", "executor")):
        difference, p = equivalent(effects[one], effects[other])
        met &= p < 0.05
        print(f"{one} against {other}: {math.expm1(difference):+.2%}, equivalent within 2 % with p = {p:.2g} (bar 0.05)")
    print(json.dumps({name: [round(value, 5) for value in values] for name, values in effects.items()}))
    sys.exit(0 if met else 1)


if __name__ == "__main__":
    main()
