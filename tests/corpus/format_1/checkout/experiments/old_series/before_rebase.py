"""The series before its baseline moved: every kind of step that measures."""

from marin.execution.types import ExecutorStep
from research_steps import main

from experiments.old_series.measure import Config, measure
from experiments.old_series.series import series


def prepare(config):
    return {"rows": config["rows"]}


def thread(steps):
    steps.recorded(ExecutorStep(name="old_series/data", fn=prepare, config={"rows": 3}), label="prepare the data")
    base = steps.baseline(measure, Config())
    works = steps.sweep(base, ("work", [1000, 13]), hypothesis="H1")
    modes = steps.sweep(base, ("mode", ["folded", "blocked"]), shards=2, hypothesis="H2")
    both = steps.interact(works, modes)
    steps.replicate(works, n=2)
    wide = steps.replicate(works, n=2, across=("size", [2]))
    steps.sweep(base, ("work", [1500]), label="unpublished work", private=True)
    steps.interpret(modes, both, wide, label="all axes")


if __name__ == "__main__":
    main(series, thread)
