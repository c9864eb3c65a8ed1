"""What the samples of one process say: a candidate's effect against the baseline, on a scale where 0 is no difference.

The scale is chosen once for a comparison, by all that is compared. A metric that is above 0 on both sides goes by the
logarithm of the ratio; one that is not, or that has a target, by the difference: in its own units where the metric says
by `min_effect_abs` what counts there, else as a share of the baseline, or of the target. For a metric with a target both
sides count by their distance to it.

Times are compared pair by pair, the two of a pair taken right after each other, so that drift of the machine cancels.
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from research_steps.records.model import Estimand, Ratio, Samples
from research_steps.records.series import Metric, Series

# A share of the baseline means something where its mean is at least so many standard errors from 0.
CLEAR_OF_ZERO = 4.0
# The largest value of a metric that is counted with, so that means, squares and quotients are numbers as well; what is
# below its inverse is taken as 0.
LARGEST = 1e100
# The logarithm of the largest ratio that is told: what is more is told as that.
LARGEST_LOG = 700.0
_UNDECLARED = Metric("undeclared")


@dataclass(frozen=True)
class Scale:
    """How the effects of one comparison are told. `unit` is what a difference is divided by, `least` the least effect
    that counts; `by_pairs` is True where the logarithm of each pair's ratio is taken, and not that of the means."""

    estimand: Estimand
    unit: float
    least: float
    by_pairs: bool = True

    def shown(self, effect: float) -> float:
        """An effect as people read it: a ratio, or a difference."""
        if self.estimand != "ratio":
            return effect
        return math.exp(max(-LARGEST_LOG, min(effect, LARGEST_LOG)))


@dataclass(frozen=True)
class Effect:
    """The mean effect of one process, and how far its own samples leave that open (standard error)."""

    mean: float
    error: float


@dataclass(frozen=True)
class Estimate:
    """What one process says of a metric: its mean effect as people read it, a ratio or a difference."""

    estimand: Estimand
    value: float


def own_estimate(metric: Metric, samples: Samples | None) -> Estimate | None:
    """What the pairs of one process say of a metric, by the estimate that a claim on it alone is made with; None where
    it took no pairs of it, or there is no scale."""
    return each_estimate(metric, {"": samples}).get("")


def each_estimate(metric: Metric, processes: Mapping[str, Samples | None]) -> dict[str, Estimate]:
    """The same of each process of one claim, by its name, on the one scale that they have together."""
    paired = {name: samples for name, samples in processes.items() if samples and _has_pairs(metric.name, samples)}
    scale = scale_for(metric, paired.values(), ()) if paired else None
    if scale is None:
        return {}
    effects = {name: process_effect(metric, scale, samples).mean for name, samples in paired.items()}
    return {name: Estimate(scale.estimand, scale.shown(effect)) for name, effect in effects.items()}


def own_estimates(series: Series | None, samples: Samples | None) -> dict[str, Estimate]:
    """What one process says of each metric that it measured in pairs."""
    names = samples.candidate if samples is not None else ()
    estimates = {name: own_estimate(*of_metric(series, name, samples)) for name in names if samples}
    return {name: estimate for name, estimate in estimates.items() if estimate is not None}


def of_metric(series: Series | None, name: str, samples: Samples) -> tuple[Metric, Samples]:
    """The metric as the series declares it, with the samples; where it doesn't, one of which nothing is known, with the
    samples under its name: what a process reports may be called anything."""
    declared = series.metrics if series is not None else ()
    metric = next((metric for metric in declared if metric.name == name), None)
    if metric is not None:
        return metric, samples
    sides = (samples.candidate, samples.baseline)
    candidate, baseline = ({_UNDECLARED.name: side[name]} if name in side else {} for side in sides)
    return _UNDECLARED, Samples(samples.paired, samples.order, candidate, baseline)


def beside_estimate(metric: Metric, first: Samples, second: Samples) -> Estimate | None:
    """What the candidates of two processes say of each other, by the estimate that claims on unpaired processes are made
    with; None where there is no scale."""
    alone = [Samples(False, "", {metric.name: side.candidate[metric.name]}, {}) for side in (first, second)]
    scale = scale_for(metric, alone[:1], alone[1:])
    if scale is None:
        return None
    mine, other = levels(metric, scale, alone)
    return Estimate(scale.estimand, scale.shown(mine - other))


def _has_pairs(name: str, samples: Samples) -> bool:
    candidate, baseline = samples.candidate.get(name), samples.baseline.get(name)
    return samples.paired and bool(candidate) and baseline is not None and len(baseline) == len(candidate or ())


def medians(columns: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The median of each metric's samples."""
    return {name: _median(values) for name, values in columns.items() if values}


def _median(values: Sequence[float]) -> float:
    median = statistics.median(values)
    # Between two numbers whose sum is more than a number can be.
    return median if math.isfinite(median) else statistics.median_low(values) / 2 + statistics.median_high(values) / 2


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
        quartiles = statistics.quantiles(quotients, n=4, method="inclusive") if len(quotients) > 1 else 3 * quotients
        low, median, high = quartiles
        ratios[name] = Ratio(median=median, low=low, high=high, pairs=len(quotients))
    return ratios


def unpaired_ratios(values: Mapping[str, float], baseline: Mapping[str, float]) -> dict[str, Ratio]:
    """Quotients of two trials' medians, where pairing was impossible; `pairs` is 0 to say so."""
    quotients = {name: value / baseline[name] for name, value in values.items() if baseline.get(name)}
    return {name: Ratio(median=q, low=q, high=q, pairs=0) for name, q in quotients.items() if math.isfinite(q)}


def scale_for(metric: Metric, candidates: Iterable[Samples], baseline: Iterable[Samples]) -> Scale | None:
    """The scale of a comparison; None where a difference is a share of nothing, because the baseline's mean can't be
    told from 0, or the target is 0, and the metric has no `min_effect_abs`.

    `baseline` are processes that measured the baseline: against itself, or alone.
    """
    sides: list[list[float]] = []
    levels: list[list[float]] = []
    for samples in candidates:
        sides.append(samples.candidate[metric.name])
        if samples.paired:
            levels.append(samples.baseline[metric.name])
    for samples in baseline:
        levels.append(samples.baseline[metric.name] if samples.paired else samples.candidate[metric.name])
    sides += levels
    means = [statistics.fmean(side) for side in sides]
    level = statistics.fmean(means[len(means) - len(levels) :])
    if metric.direction != "target" and min(means) > 0 and not any(value < 0 for side in sides for value in side):
        least = max(metric.min_effect, metric.min_effect_abs / level)
        return Scale("ratio", 1.0, math.log1p(least), by_pairs=all(value > 0 for side in sides for value in side))
    if metric.min_effect_abs:
        return Scale("absolute", 1.0, metric.min_effect_abs)
    unit = abs(level if metric.target is None else metric.target)
    if metric.target is None and unit <= CLEAR_OF_ZERO * _error_of_mean(levels):
        return None
    return Scale("difference", unit, metric.min_effect) if unit else None


def process_effect(metric: Metric, scale: Scale, samples: Samples) -> Effect:
    """The mean effect over the pairs of one process."""
    candidate, baseline = samples.candidate[metric.name], samples.baseline[metric.name]
    pairs = list(zip(candidate, baseline, strict=True))
    if scale.estimand == "ratio" and scale.by_pairs:
        effects = [math.log(mine) - math.log(other) for mine, other in pairs]
    else:
        # Around the effect of the means every pair counts by how it moves that, to first order.
        mean, other_mean = statistics.fmean(candidate), statistics.fmean(baseline)
        slope, other_slope = _slope(metric, scale, mean), _slope(metric, scale, other_mean)
        effect = _level(metric, scale, mean) - _level(metric, scale, other_mean)
        effects = [effect + slope * (mine - mean) - other_slope * (other - other_mean) for mine, other in pairs]
    mean, count = statistics.fmean(effects), len(effects)
    # As statistics.stdev gives it, which computes in fractions and takes thirty times as long.
    squares = math.fsum((effect - mean) ** 2 for effect in effects)
    return Effect(mean, math.sqrt(squares / (count - 1) / count) if count > 1 else 0.0)


def levels(metric: Metric, scale: Scale, trials: Iterable[Samples]) -> list[float]:
    """Each process's mean on the scale, so that the difference of two is the effect of one against the other."""
    return [_level(metric, scale, statistics.fmean(samples.candidate[metric.name])) for samples in trials]


def _level(metric: Metric, scale: Scale, mean: float) -> float:
    if scale.estimand == "ratio":
        return math.log(mean)
    return (mean if metric.target is None else abs(mean - metric.target)) / scale.unit


def _slope(metric: Metric, scale: Scale, mean: float) -> float:
    """How much the level changes with the mean."""
    if scale.estimand == "ratio":
        return 1 / mean
    return (1.0 if metric.target is None else math.copysign(1.0, mean - metric.target)) / scale.unit


def _error_of_mean(processes: Sequence[Sequence[float]]) -> float:
    """The standard error of the mean of processes: of their means, or of the samples where there is one process."""
    values = [statistics.fmean(side) for side in processes] if len(processes) > 1 else processes[0]
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
