"""What processes say together of a candidate: intervals, verdicts, noise floors. Pure functions over numbers.

The unit of an interval is the process, because what a process keeps (its memory layout, its compiled code, its cores)
shifts all its samples together. Sampling in a process may stop when it pleases: that changes how much its mean scatters
from process to process, and this scatter is what is measured.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from research_steps.evidence.effects import Effect, Scale, levels, process_effect, scale_for
from research_steps.records.model import Claim, Floor, Row, Samples, Verdict
from research_steps.records.series import Metric

# How often all candidates of one table together may be told wrong.
LEVEL = 0.05
# So many processes of a candidate tell how it scatters itself.
OWN_SPREAD = 3
# Looks that differ by chance alone are called different so often.
APART = 0.01
# A spread of less than this share of the effect, or of 1, is that of rounding.
ROUNDING = 1e-12
# So many candidates tell how far the best of them is to be believed.
SHRINKABLE = 4
PAIRED = "Student's t over process means of paired effects, their spread pooled with that of the baseline against itself"
OWN = "Student's t over process means of paired effects, their own spread, which is more than the baseline's"
UNPAIRED = "Welch's t over the means of unpaired processes"
REPEATED = "Student's t over differences at the same seed, their spread pooled over the table where it agrees"
EXACT = "exact values, which have no spread"


@dataclass(frozen=True)
class Interval:
    """Where an effect lies, on the scale of effects and not of ratios: with 95 % within `half` to each side.

    A verdict asks by the error that may be spent on it: there is a difference where 0 is not within `tested`, and none
    where all within `narrow` is less than the least effect. `error` is the standard error.
    """

    scale: Scale
    center: float
    half: float
    tested: float
    narrow: float
    error: float
    processes: int
    floor_processes: int
    method: str

    @property
    def low(self) -> float:
        return self.center - self.half

    @property
    def high(self) -> float:
        return self.center + self.half

    @property
    def ends(self) -> tuple[float, float] | None:
        """Both ends as people read them; None when they are endless."""
        return (self.scale.shown(self.low), self.scale.shown(self.high)) if math.isfinite(self.half) else None


def critical(level: float, freedom: float, candidates: int = 1) -> float:
    """Half of an interval in standard errors, so that all `candidates` against one baseline together miss with `level`.

    Student's t for one. For several the studentized maximum modulus: what they share is the estimate of the spread
    (Hahn and Hendrickson, Biometrika 58, 1971). Where they share the baseline's mean too that is more than is needed.
    """
    from scipy.special import stdtrit

    if candidates == 1:
        return float(stdtrit(freedom, 1 - level / 2))
    return _maximum_modulus(level, freedom, candidates)


@lru_cache(maxsize=256)
def _maximum_modulus(level: float, freedom: float, candidates: int) -> float:
    import numpy
    from scipy.optimize import brentq
    from scipy.special import erf, gammaln, stdtrit

    # Over the logarithm of the estimated spread, whose density (that of chi) is smooth and next to 0 at both ends there,
    # so that the trapezoidal rule is as exact as the numbers are.
    middle = math.sqrt(freedom)
    logarithm = numpy.linspace(math.log(max(1e-13, middle - 8)), math.log(middle + 8), 4096)
    spread = numpy.exp(logarithm)
    density = numpy.exp(freedom * logarithm - spread**2 / 2 - (freedom / 2 - 1) * math.log(2) - gammaln(freedom / 2))
    weights = density * (logarithm[1] - logarithm[0])

    def missed(bound: float) -> float:
        return float(weights @ (1 - erf(bound * spread / math.sqrt(2 * freedom)) ** candidates))

    # Between the interval of one alone and Bonferroni's.
    least, most = (float(stdtrit(freedom, 1 - level / tests / 2)) for tests in (1, candidates))
    return float(brentq(lambda bound: missed(bound) - level, least, most, xtol=1e-6))


def paired_interval(
    metric: Metric, scale: Scale, trials: Sequence[Samples], floor: Sequence[Samples], level: float, candidates: int = 1
) -> Interval:
    """The interval of a candidate's effect from its paired trials; endless when nothing tells how they spread.

    `floor` are processes that measured the baseline against itself, whose true effect is 0: their spread and that of the
    candidate's own processes are pooled, so that one process of a candidate has an interval too. Where its samples
    scatter more than the baseline's that is added. From three processes on its own spread counts alone, if it is more.
    """
    effects = [process_effect(metric, scale, samples) for samples in trials]
    null = [process_effect(metric, scale, samples) for samples in floor]
    center = statistics.fmean(effect.mean for effect in effects)
    variance, freedom, method = _spread(center, effects, null)
    if metric.exact:
        # Two processes that differ are not exact.
        variance, freedom, method = (variance, freedom, method) if variance else (0.0, 1, EXACT)
    error = math.sqrt(variance / len(effects)) if freedom else math.inf
    return _interval(scale, center, error, freedom, level, candidates, (len(effects), len(null)), method)


def unpaired_interval(
    metric: Metric, scale: Scale, trials: Sequence[Samples], baseline: Sequence[Samples], level: float,
    candidates: int = 1,
) -> Interval:  # fmt: skip
    """The interval of a candidate's effect from processes that measured one side each, by the spread of each side
    (Welch, Biometrika 34, 1947); endless with fewer than two of either."""
    sides = [levels(metric, scale, group) for group in (trials, baseline)]
    center = statistics.fmean(sides[0]) - statistics.fmean(sides[1])
    counts = len(sides[0]), len(sides[1])
    if metric.exact and all(len(set(side)) == 1 for side in sides):
        return _interval(scale, center, 0.0, 1, level, candidates, counts, EXACT)
    if min(counts) < 2:
        return _interval(scale, center, math.inf, 0, level, candidates, counts, UNPAIRED)
    parts = [statistics.variance(side) / len(side) for side in sides]
    weights = sum(part**2 / (count - 1) for part, count in zip(parts, counts, strict=True))
    freedom = sum(parts) ** 2 / weights if weights else 1
    return _interval(scale, center, math.sqrt(sum(parts)), freedom, level, candidates, counts, UNPAIRED)


def repeated_interval(
    scale: Scale, differences: Sequence[float], others: Sequence[Sequence[float]], level: float, candidates: int = 1
) -> Interval:
    """The interval of a candidate's effect from its `differences` to the baseline at each repetition, such as a seed,
    which hits both sides alike; endless with fewer than two, and where all are the same and nothing else tells how such
    differences scatter, unless that is none at all.

    The model is y = μ(candidate) + u(seed) + v(candidate, seed): the difference is free of u, so that the interval is
    Student's t of a matched pair. The spread of v is pooled with that of the `others` of the same table where they agree
    (Bartlett's test, Proc. R. Soc. A 160, 1937).
    """
    from scipy.stats import bartlett

    groups = [group for group in (differences, *others) if len(group) > 1 and len(set(group)) > 1]
    center, counts = statistics.fmean(differences), (len(differences), len(differences))
    if len(differences) < 2 or (not groups and any(differences)):
        return _interval(scale, center, math.inf, 0, level, candidates, counts, REPEATED)
    if len(set(differences)) == 1:
        groups, freedom, variance = [], 1, 0.0
    elif len(groups) > 1 and bartlett(*groups).pvalue >= LEVEL:
        freedom = sum(len(group) - 1 for group in groups)
        variance = sum((len(group) - 1) * statistics.variance(group) for group in groups) / freedom
    else:
        freedom, variance = len(differences) - 1, statistics.variance(differences)
    error = math.sqrt(variance / len(differences))
    return _interval(scale, center, error, freedom, level, candidates, counts, REPEATED)


def verdict(metric: Metric, interval: Interval) -> Verdict:
    """What an interval supports. An effect counts when 0 is outside of the interval and the estimate is at least the
    least effect; there is none by two one-sided tests (Schuirmann, J. Pharmacokinet. Biopharm. 15, 1987)."""
    least = interval.scale.least
    if abs(interval.center) + interval.narrow < least:
        return "no difference"
    lower = interval.center + interval.tested < 0 and interval.center <= -least
    higher = interval.center - interval.tested > 0 and interval.center >= least
    if lower or higher:
        return "improved" if lower == (metric.direction != "max") else "regressed"
    return "inconclusive"


def looks_differ(looks: Sequence[Sequence[float]], null: Sequence[float] = ()) -> bool:
    """Whether effects differ from look to look by more than processes scatter: Fisher's F test of the variance between
    looks against that within them and of the baseline against itself (`null`)."""
    count = sum(map(len, looks))
    freedom = count - len(looks) + len(null)
    within = sum((value - statistics.fmean(look)) ** 2 for look in looks for value in look)
    within += sum(value**2 for value in null)
    if len(looks) < 2 or not freedom or not within:
        return False
    from scipy.special import fdtrc

    mean = statistics.fmean(value for look in looks for value in look)
    between = sum(len(look) * (statistics.fmean(look) - mean) ** 2 for look in looks) / (len(looks) - 1)
    return float(fdtrc(len(looks) - 1, freedom, between / (within / freedom))) < APART


def expected_on_replication(intervals: Sequence[Interval]) -> list[float] | None:
    """What each of several candidates is to be expected to show when it is measured again, because the best of many
    looks better than it is; None with too few of them to tell.

    Empirical Bayes: effects scatter around a common mean by a variance that is estimated by moments (DerSimonian and
    Laird, Controlled Clinical Trials 7, 1986), and each is drawn to that mean as far as its own error is large beside
    it.
    """
    if len(intervals) < SHRINKABLE or not all(math.isfinite(interval.half) for interval in intervals):
        return None
    if not all(interval.error for interval in intervals):
        return None
    weights = [1 / interval.error**2 for interval in intervals]
    common = _weighted(intervals, weights)
    spread = sum(w * (interval.center - common) ** 2 for w, interval in zip(weights, intervals, strict=True))
    scale = sum(weights) - sum(weight**2 for weight in weights) / sum(weights)
    between = max(0.0, (spread - (len(intervals) - 1)) / scale)
    mean = _weighted(intervals, [1 / (interval.error**2 + between) for interval in intervals])
    kept = [between / (interval.error**2 + between) for interval in intervals]
    return [mean + share * (interval.center - mean) for share, interval in zip(kept, intervals, strict=True)]


def noise_floor(metric: Metric, floor: Sequence[Samples]) -> Floor | None:
    """How far the metric moves between processes that measure the baseline against itself; None with fewer than two, or
    where there is no scale."""
    scale = scale_for(metric, (), floor) if len(floor) >= 2 else None
    if scale is None:
        return None
    means = [process_effect(metric, scale, samples).mean for samples in floor]
    spread = math.sqrt(statistics.fmean(mean**2 for mean in means))
    half = critical(LEVEL, len(means)) * spread
    return Floor(spread=spread, smallest=scale.shown(half) - (scale.estimand == "ratio"), processes=len(means))


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


def _spread(center: float, effects: Sequence[Effect], null: Sequence[Effect]) -> tuple[float, int, str]:
    """The variance of a process's effect, its degrees of freedom (0: nothing tells), and by which method."""
    freedom = len(null) + len(effects) - 1
    if freedom < 1:
        return math.inf, 0, PAIRED
    own = sum((effect.mean - center) ** 2 for effect in effects)
    variance = (sum(effect.mean**2 for effect in null) + own) / freedom
    if len(effects) >= OWN_SPREAD:
        alone = own / (len(effects) - 1)
        return (alone, len(effects) - 1, OWN) if alone > variance * (1 + 1e-9) else (variance, freedom, PAIRED)
    if null:
        mine, theirs = (statistics.fmean(effect.error**2 for effect in group) for group in (effects, null))
        variance += max(0.0, mine - theirs)
    return variance, freedom, PAIRED


def _interval(
    scale: Scale, center: float, error: float, freedom: float, level: float, candidates: int, counts: tuple[int, int],
    method: str,
) -> Interval:  # fmt: skip
    if error < ROUNDING * max(1.0, abs(center)):
        error = 0.0
    half = tested = narrow = error
    if 0 < error < math.inf:
        half, tested, narrow = (critical(at, freedom, candidates) * error for at in (LEVEL, level, 2 * level))
    if candidates > 1:
        method += f"; studentized maximum modulus over {candidates} candidates"
    return Interval(scale, center, half, tested, narrow, error, *counts, method)


def _weighted(intervals: Sequence[Interval], weights: Sequence[float]) -> float:
    pairs = zip(intervals, weights, strict=True)
    return sum(weight * interval.center for interval, weight in pairs) / sum(weights)
