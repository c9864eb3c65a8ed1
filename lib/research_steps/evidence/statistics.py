"""What samples say about a candidate and its baseline. Pure functions over numbers.

An *effect* is candidate against baseline on a scale where 0 is no difference: the logarithm of their ratio, or, where a
sample is not above 0, their difference as a share of the baseline. For a metric with a target both sides count by their
distance to it, as a share of the target. The two of a pair are taken right after each other in one process, so that
drift of the machine cancels.

The unit of an interval is the process, because what a process keeps (its memory layout, its compiled code, its cores)
shifts all its samples together. Sampling in a process may stop when it pleases: that changes how much its mean scatters
from process to process, and this scatter is what is measured.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from research_steps.records.model import Claim, Floor, Ratio, Row, Samples, Verdict
from research_steps.records.series import Metric

LEVEL = 0.95
PAIRED = "Student's t over process means of paired effects, their spread pooled with that of the baseline against itself"
UNPAIRED = "Welch's t over the means of unpaired processes"

Estimand = Literal["ratio", "difference"]


@dataclass(frozen=True)
class Effect:
    """The mean effect of one process, and how far its own samples leave that open (standard error)."""

    mean: float
    error: float


@dataclass(frozen=True)
class Interval:
    """Where an effect lies, with 95 % over all candidates together: on the scale of effects, not of ratios."""

    estimand: Estimand
    center: float
    low: float
    high: float
    processes: int
    floor_processes: int
    method: str

    def shown(self, effect: float) -> float:
        """An effect as people read it: a ratio, or a difference as a share."""
        return math.exp(effect) if self.estimand == "ratio" else effect

    @property
    def ends(self) -> tuple[float, float] | None:
        """Both ends as people read them; None when they are endless, or further out than a number can be."""
        try:
            low, high = self.shown(self.low), self.shown(self.high)
        except OverflowError:
            return None
        return (low, high) if math.isfinite(low) and math.isfinite(high) else None


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
        quartiles = statistics.quantiles(quotients, n=4, method="inclusive") if len(quotients) > 1 else 3 * quotients
        low, median, high = quartiles
        ratios[name] = Ratio(median=median, low=low, high=high, pairs=len(quotients))
    return ratios


def unpaired_ratios(values: Mapping[str, float], baseline: Mapping[str, float]) -> dict[str, Ratio]:
    """Quotients of two trials' medians, where pairing was impossible; `pairs` is 0 to say so."""
    quotients = {name: value / baseline[name] for name, value in values.items() if baseline.get(name)}
    return {name: Ratio(median=q, low=q, high=q, pairs=0) for name, q in quotients.items() if math.isfinite(q)}


def estimand(metric: Metric, trials: Sequence[Samples]) -> Estimand:
    """What all these trials can be compared by: a ratio as long as every sample of both sides is above 0."""
    sides = [side.get(metric.name, []) for samples in trials for side in (samples.candidate, samples.baseline)]
    return "ratio" if metric.direction != "target" and all(min(side) > 0 for side in sides if side) else "difference"


def pair_effect(metric: Metric, kind: Estimand, candidate: float, baseline: float, scale: float) -> float:
    """The effect of one pair. `scale` is what a difference is a share of."""
    if kind == "ratio":
        return math.log(candidate) - math.log(baseline)
    if metric.target is not None:
        return (abs(candidate - metric.target) - abs(baseline - metric.target)) / scale
    return (candidate - baseline) / scale


def scale_of(metric: Metric, baseline: Sequence[float]) -> float:
    """What differences are a share of: the target, else the baseline's mean; 1 where that is 0."""
    return abs(metric.target if metric.target is not None else statistics.fmean(baseline)) or 1.0


def process_effect(metric: Metric, kind: Estimand, samples: Samples) -> Effect:
    """The mean effect over the pairs of one process."""
    candidate, baseline = samples.candidate[metric.name], samples.baseline[metric.name]
    scale = scale_of(metric, baseline)
    effects = [pair_effect(metric, kind, *pair, scale) for pair in zip(candidate, baseline, strict=True)]
    mean, count = statistics.fmean(effects), len(effects)
    # As statistics.stdev gives it, which computes in fractions and takes thirty times as long.
    squares = math.fsum((effect - mean) ** 2 for effect in effects)
    error = math.sqrt(squares / (count - 1) / count) if count > 1 else 0.0
    return Effect(mean, error)


def levels(
    metric: Metric, kind: Estimand, trials: Sequence[Samples], baseline: Sequence[Samples]
) -> tuple[list[float], list[float]]:
    """Each process's mean as an effect against a fixed point, so that the difference of two is that of one against the
    other."""
    sides = [[statistics.fmean(samples.candidate[metric.name]) for samples in group] for group in (trials, baseline)]
    scale = scale_of(metric, sides[1])
    mine, theirs = ([pair_effect(metric, kind, value, scale, scale) for value in side] for side in sides)
    return mine, theirs


def paired_interval(
    metric: Metric, trials: Sequence[Samples], floor: Sequence[Samples], candidates: int = 1
) -> Interval:
    """The interval of a candidate's effect from its paired trials; endless when nothing tells how they spread.

    `floor` are processes that measured the baseline against itself, whose true effect is 0: their spread and that of the
    candidate's own processes are pooled, so that one process of a candidate has an interval too. Where a candidate's
    samples scatter more than the baseline's that is added. With several `candidates` against one baseline the error of
    5 % is shared out between them (Bonferroni).
    """
    kind = estimand(metric, [*trials, *floor])
    means = [process_effect(metric, kind, samples) for samples in trials]
    null = [process_effect(metric, kind, samples) for samples in floor]
    freedom = len(null) + len(means) - 1
    center = statistics.fmean(effect.mean for effect in means)
    method = _method(PAIRED, candidates)
    if freedom < 1:
        return Interval(kind, center, -math.inf, math.inf, len(means), len(null), method)
    squares = sum(effect.mean**2 for effect in null) + sum((effect.mean - center) ** 2 for effect in means)
    variance = squares / freedom
    if null:
        mine, theirs = (statistics.fmean(effect.error**2 for effect in group) for group in (means, null))
        variance += max(0.0, mine - theirs)
    half = student_t(freedom, candidates) * math.sqrt(variance / len(means))
    return Interval(kind, center, center - half, center + half, len(means), len(null), method)


def student_t(freedom: float, tests: int = 1) -> float:
    """Half of the interval of an effect, in standard errors: Student's t for 95 % over so many tests together."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 1 - (1 - LEVEL) / tests / 2))


def unpaired_interval(
    metric: Metric, trials: Sequence[Samples], baseline: Sequence[Samples], candidates: int = 1
) -> Interval:
    """The interval of a candidate's effect from processes that measured one side each; endless with fewer than two of
    either."""
    kind = estimand(metric, [*trials, *baseline])
    mine, theirs = levels(metric, kind, trials, baseline)
    center = statistics.fmean(mine) - statistics.fmean(theirs)
    low, high = (center, center) if len(mine) > 1 and len(theirs) > 1 else (-math.inf, math.inf)
    if low == high and (statistics.pstdev(mine) or statistics.pstdev(theirs)):
        from scipy import stats

        tested = stats.ttest_ind(mine, theirs, equal_var=False)
        low, high = map(float, tested.confidence_interval(1 - (1 - LEVEL) / candidates))
    return Interval(kind, center, low, high, len(trials), len(baseline), _method(UNPAIRED, candidates))


def least_effect(metric: Metric, kind: Estimand) -> float:
    """The least effect that counts."""
    return math.log1p(metric.min_effect) if kind == "ratio" else metric.min_effect


def verdict(metric: Metric, interval: Interval) -> Verdict:
    """What an interval supports: an effect counts when 0 is outside of the interval and the estimate is at least
    `min_effect`; there is none when the whole interval is closer to 0 than that."""
    least = least_effect(metric, interval.estimand)
    if -least < interval.low and interval.high < least:
        return "no difference"
    lower = interval.high < 0 and interval.center <= -least
    higher = interval.low > 0 and interval.center >= least
    if lower or higher:
        return "improved" if lower == (metric.direction != "max") else "regressed"
    return "inconclusive"


def noise_floor(metric: Metric, floor: Sequence[Samples]) -> Floor | None:
    """How far the metric moves between processes that measure the baseline against itself; None with fewer than two."""
    if len(floor) < 2:
        return None
    kind = estimand(metric, floor)
    means = [process_effect(metric, kind, samples).mean for samples in floor]
    spread = math.sqrt(statistics.fmean(mean**2 for mean in means))
    half = student_t(len(means)) * spread
    return Floor(spread=spread, smallest=math.expm1(half) if kind == "ratio" else half, processes=len(means))


def gain(metric: Metric, claim: Claim) -> float:
    """How much better than the baseline a claim says its candidate is, for sorting: above 0 is better."""
    if claim.estimate is None:
        return -math.inf
    effect = math.log(claim.estimate) if claim.estimand == "ratio" else claim.estimate
    return effect if metric.direction == "max" else -effect


def place(metric: Metric, claim: Claim) -> tuple[bool, float]:
    """For sorting from best to worst. What supports no interval, such as what was measured beside other load, comes
    after what does, however good it looks."""
    return claim.low is None, -gain(metric, claim)


def ranked(metric: Metric, rows: Sequence[Row], claims: Sequence[Claim]) -> list[Row]:
    """Rows from best to worst by what is claimed of their trials; those without an estimate at the end."""
    named = [claim for claim in claims if claim.metric == metric.name]
    places = {ref.sha256: place(metric, claim) for claim in named for ref in claim.trials}
    return sorted(rows, key=lambda row: places.get(row.trial.sha256, (True, math.inf)))


def _method(name: str, candidates: int) -> str:
    return f"{name}; Bonferroni over {candidates} candidates" if candidates > 1 else name
