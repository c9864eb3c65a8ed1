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
from itertools import combinations
from pathlib import Path

from research_steps.evidence.effects import Scale, process_effect
from research_steps.journal.journal import Journal
from research_steps.journal.store import open_store
from research_steps.records.model import Samples, TrialRecord
from research_steps.records.series import Metric
from scipy import stats

from benchmarks.dev_checkout import Bench, small_moe, toy

TRIES = 34
BAR_P = 0.05
METRIC = Metric("time_s")
SCALE = Scale("ratio", 1.0, math.log1p(METRIC.min_effect))
# Runs the candidate in a sweep beside its baseline, as the thread declares that.
EXECUTOR = """
import os, sys
sys.path.insert(0, sys.argv[1])
from experiments.{topic} import measure as subject
from experiments.{topic}.__main__ import series
from research_steps.thread.options import RunOptions
from research_steps.thread.run import run
import research_steps.thread.builders

for store in sys.stdin:
    if os.fork() == 0:
        def thread(steps):
            base = steps.baseline(subject.measure, {baseline})
            steps.sweep(base, ({axis!r}, [{value}]))

        run(series, thread, RunOptions(prefix=store.strip()))
        os._exit(0)
    os.wait()
    print("done", flush=True)
"""


class Executor:
    """A process that has imported Marin, and runs the thread in a child for each try, with a store of its own."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        axis, _, value = bench.subject.setting.partition("=")
        script = EXECUTOR.format(
            topic=bench.subject.topic, baseline=bench.subject.baseline, axis=axis,
            value=value if value.isdigit() else repr(value),
        )  # fmt: skip
        self._process = subprocess.Popen(
            [sys.executable, "-c", script, str(bench.root)],
            cwd=bench.root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env={**os.environ, "WANDB_MODE": "disabled"},
        )  # fmt: skip

    def measure(self, number: int) -> Samples:
        store = f"{self._bench.root}/local_store/try-{number}"
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{store}\n")
        self._process.stdin.flush()
        self._process.stdout.readline()
        trials = [
            stored.record for stored in Journal(open_store(store), self._bench.subject.topic).scan().trials.values()
        ]
        (candidate,) = [record for record in trials if record.config != record.baseline_config]
        return samples_of(candidate)

    def end(self) -> None:
        self._process.communicate()


def samples_of(record: TrialRecord) -> Samples:
    assert record.samples is not None, record.error
    return record.samples


def run(bench: Bench, tries: int) -> dict[str, list[float]]:
    """The effect of each try in each way of measuring: the logarithm of the candidate's ratio to the baseline."""
    effects: dict[str, list[float]] = {"forked": [], "cold": [], "executor": []}
    executor = Executor(bench)
    bench.order()
    for number in range(tries):
        bench.order()
        for way, samples in (
            ("forked", samples_of(bench.last())),
            ("cold", bench.cold(number)[0]),
            ("executor", executor.measure(number)),
        ):
            effects[way].append(process_effect(METRIC, SCALE, samples).mean)
    executor.end()
    return effects


def equivalent(effects: list[float], other: list[float]) -> tuple[float, float]:
    """The difference of two ways, and the larger of the two one-sided p values: below 0.05 they are equivalent."""
    margin = math.log1p(METRIC.min_effect)
    low = stats.ttest_ind([value + margin for value in effects], other, equal_var=False, alternative="greater").pvalue
    high = stats.ttest_ind([value - margin for value in effects], other, equal_var=False, alternative="less").pvalue
    return sum(effects) / len(effects) - sum(other) / len(other), max(float(low), float(high))


def report(effects: dict[str, list[float]]) -> list[str]:
    """The pairs of ways that were not shown to be equivalent; all of them are printed."""
    for way, values in effects.items():
        print(f"{way}: {math.exp(sum(values) / len(values)):.4f} × the baseline, {len(values)} tries")
    missed = []
    for first, other in combinations(effects, 2):
        difference, p = equivalent(effects[first], effects[other])
        line = f"{first} against {other}: {math.expm1(difference):+.2%}, equivalent within 2 % with p = {p:.2g}"
        print(f"{line} (bar {BAR_P:g})")
        missed += [line] if p >= BAR_P else []
    return missed


def quick(folder: Path) -> list[str]:
    """Two tries of an experiment whose times are drawn, so that the ways can be told to be equivalent."""
    with toy(folder) as bench:
        return report(run(bench, 2))


def main() -> None:
    tries = int(sys.argv[1]) if len(sys.argv) > 1 else TRIES
    with tempfile.TemporaryDirectory() as folder, small_moe(Path(folder), "dense", sampling_s=3.0) as bench:
        effects = run(bench, tries)
    missed = report(effects)
    print(json.dumps({way: [round(value, 5) for value in values] for way, values in effects.items()}))
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
