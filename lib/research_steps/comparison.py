"""What samples say about a candidate and its baseline. Pure functions over numbers.

The ratio of a pair is candidate over baseline, both taken right after each other in one process, so that drift of the
machine cancels. Summaries are medians and quartiles: they describe the samples, they are no test.
"""

import math
import statistics
from collections.abc import Mapping, Sequence

from research_steps.record import Ratio, Row, Samples
from research_steps.series import Metric


def medians(columns: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The median of each metric's samples."""
    return {name: statistics.median(values) for name, values in columns.items() if values}


def paired_ratios(samples: Samples) -> dict[str, Ratio]:
    """The ratio of each metric over the pairs of a trial; none for a metric whose baseline is ever 0, or next to it."""
    if not samples.paired:
        return {}
    ratios = {}
    for name, candidate in samples.candidate.items():
        baseline = samples.baseline.get(name, [])
        if len(baseline) != len(candidate) or not all(baseline):
            continue
        quotients = [mine / other for mine, other in zip(candidate, baseline, strict=True)]
        if not all(map(math.isfinite, quotients)):
            continue
        low, median, high = _quartiles(quotients)
        ratios[name] = Ratio(median=median, low=low, high=high, pairs=len(quotients))
    return ratios


def unpaired_ratios(values: Mapping[str, float], baseline: Mapping[str, float]) -> dict[str, Ratio]:
    """Quotients of two trials' medians, where pairing was impossible; `pairs` is 0 to say so."""
    quotients = {name: value / baseline[name] for name, value in values.items() if baseline.get(name)}
    return {name: Ratio(median=q, low=q, high=q, pairs=0) for name, q in quotients.items() if math.isfinite(q)}


def better(metric: Metric, one: float, other: float) -> bool:
    """Whether `one` is better than `other`, in the metric's direction."""
    return one < other if metric.direction == "min" else one > other


def ranked(metric: Metric, rows: Sequence[Row]) -> list[Row]:
    """Rows from best to worst by their ratio to the baseline, those without one at the end in their own order."""
    sign = 1.0 if metric.direction == "min" else -1.0

    def place(row: Row) -> float:
        measured = row.status == "ok" and metric.name in row.ratios
        return sign * row.ratios[metric.name].median if measured else math.inf

    return sorted(rows, key=place)


def _quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, median, high
