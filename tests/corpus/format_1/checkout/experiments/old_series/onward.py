"""The series goes on: a run of this was killed while it measured the last sweep."""

from research_steps import main

from experiments.old_series.measure import Config, measure
from experiments.old_series.series import series


def thread(steps):
    base = steps.baseline(measure, Config(work=1000))
    steps.sweep(base, ("work", [900]), label="further work", hypothesis="H1")


if __name__ == "__main__":
    main(series, thread)
