"""The series after its baseline moved."""

from research_steps import main

from experiments.old_series.measure import Config, measure
from experiments.old_series.series import series


def thread(steps):
    steps.baseline(measure, Config(work=1000))


if __name__ == "__main__":
    main(series, thread)
