"""The series after its baseline moved."""

from experiments.old_series.measure import Config, measure
from experiments.old_series.series import series
from research_steps import main


def thread(steps):
    steps.baseline(measure, Config(work=1000))


if __name__ == "__main__":
    main(series, thread)
