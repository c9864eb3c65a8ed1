"""Where a comparison that is made again is to be expected, by how processes scatter. Pure functions over numbers."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from research_steps.evidence.statistics import (
    Estimand,
    Interval,
    estimand,
    least_effect,
    levels,
    process_effect,
    student_t,
)
from research_steps.records.model import Samples
from research_steps.records.series import Metric

METHOD = "prediction interval for the mean of further processes, which counts how processes scatter"
# So many of its own processes beyond the first tell how a candidate scatters.
OWN_ENOUGH = 4


@dataclass(frozen=True)
class Repeat:
    """One comparison that was made twice: the candidate's processes before and now, and the baseline's own."""

    before: Sequence[Samples]
    now: Sequence[Samples]
    floor_before: Sequence[Samples]
    floor_now: Sequence[Samples]

    @property
    def is_paired(self) -> bool:
        return all(samples.paired for samples in (*self.before, *self.now))

    @property
    def share(self) -> float:
        """The variance of the difference of both means, in that of one process."""
        return 1 / len(self.before) + 1 / len(self.now)


def repeat_effect(metric: Metric, kind: Estimand, trials: Sequence[Samples], floor: Sequence[Samples]) -> float:
    """The effect that these processes show together, each paired or against those of the baseline."""
    if all(samples.paired for samples in trials):
        return statistics.fmean(process_effect(metric, kind, samples).mean for samples in trials)
    mine, theirs = levels(metric, kind, trials, floor)
    return statistics.fmean(mine) - statistics.fmean(theirs)


def expected(metric: Metric, repeat: Repeat, alike: Sequence[Repeat], candidates: int = 1) -> Interval:
    """Where the effect of `repeat.now` is to be expected, given `repeat.before` and how processes scatter.

    The prediction interval of the mean of so many further processes (95 % over all that are `alike` together, one of
    which is `repeat`, and what they have in common; or over the `candidates` that `repeat.before` itself chose from):
    both means are uncertain. Processes scatter as the candidates' own do around their means, over all that are alike
    and both times, or as those do together with the baseline's against itself, whichever is more; where a candidate
    has too few, as those together. Never narrower than `min_effect`, closer than which two effects count as one. Endless
    when nothing tells.
    """
    kind = _kind(metric, alike)
    center = repeat_effect(metric, kind, repeat.before, repeat.floor_before)
    tests = max(_tests(alike), candidates)
    if repeat.is_paired:
        half = _paired_half(metric, kind, [other for other in alike if other.is_paired], repeat.share, tests)
    else:
        half = _unpaired_half(metric, kind, repeat, tests)
    half = max(half, least_effect(metric, kind))
    counts = len(repeat.before), len(repeat.floor_before)
    return Interval(kind, center, center - half, center + half, *counts, METHOD)


def common_shift(metric: Metric, alike: Sequence[Repeat]) -> tuple[float, Interval]:
    """How far several paired comparisons moved together, in the mean, and where that is to be expected.

    A change of what they share, such as one kernel at several shapes, shows there before it shows in one of them.
    """
    kind = _kind(metric, alike)
    now = [repeat_effect(metric, kind, repeat.now, repeat.floor_now) for repeat in alike]
    before = [repeat_effect(metric, kind, repeat.before, repeat.floor_before) for repeat in alike]
    shifts = [since - then for since, then in zip(now, before, strict=True)]
    share = sum(repeat.share for repeat in alike) / len(alike) ** 2
    half = max(_paired_half(metric, kind, alike, share, _tests(alike)), least_effect(metric, kind))
    counts = sum(len(repeat.before) for repeat in alike), sum(len(repeat.floor_before) for repeat in alike)
    return statistics.fmean(shifts), Interval(kind, 0.0, -half, half, *counts, METHOD)


def _kind(metric: Metric, alike: Sequence[Repeat]) -> Estimand:
    return estimand(metric, [samples for r in alike for samples in (*r.before, *r.now, *r.floor_before, *r.floor_now)])


def _tests(alike: Sequence[Repeat]) -> int:
    """How often chance may lead astray: with each of them, and with what several have in common."""
    return len(alike) + (len(alike) > 1)


def _paired_half(metric: Metric, kind: Estimand, alike: Sequence[Repeat], share: float, tests: int) -> float:
    """Half of an interval for what has this share of the variance of one process."""
    # Comparisons with one baseline share its processes.
    floors = {id(samples): samples for r in alike for samples in (*r.floor_before, *r.floor_now) if samples.paired}
    null = [process_effect(metric, kind, samples) for samples in floors.values()]
    sides = [side for repeat in alike for side in (repeat.before, repeat.now)]
    groups = [[process_effect(metric, kind, samples) for samples in side] for side in sides]
    means = [statistics.fmean(effect.mean for effect in group) for group in groups]
    freedom = sum(len(group) - 1 for group in groups)
    squares = math.fsum((effect.mean - mean) ** 2 for group, mean in zip(groups, means, strict=True) for effect in group)
    scatters = [(squares / freedom, freedom)] if freedom >= OWN_ENOUGH else []
    if null or freedom:
        together = (squares + math.fsum(effect.mean**2 for effect in null)) / (freedom + len(null))
        if null:
            mine = statistics.fmean(effect.error**2 for group in groups for effect in group)
            together += max(0.0, mine - statistics.fmean(effect.error**2 for effect in null))
        scatters.append((together, freedom + len(null)))
    return max((student_t(df, tests) * math.sqrt(var * share) for var, df in scatters), default=math.inf)


def _unpaired_half(metric: Metric, kind: Estimand, repeat: Repeat, tests: int) -> float:
    before = levels(metric, kind, repeat.before, repeat.floor_before)
    now = levels(metric, kind, repeat.now, repeat.floor_now)
    parts = []
    for then, since in zip(before, now, strict=True):
        freedom = len(then) + len(since) - 2
        if freedom < 1:
            return math.inf
        squares = math.fsum((value - statistics.fmean(side)) ** 2 for side in (then, since) for value in side)
        parts.append((squares / freedom * (1 / len(then) + 1 / len(since)), freedom))
    variance = sum(part for part, _ in parts)
    # Welch's and Satterthwaite's degrees of freedom.
    weights = sum(part**2 / freedom for part, freedom in parts)
    return student_t(variance**2 / weights, tests) * math.sqrt(variance) if weights else 0.0
