"""Where a comparison that is made again is to be expected, by how processes scatter. Pure functions over numbers."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from research_steps.evidence.effects import Effect, Scale, levels, process_effect, scale_for
from research_steps.evidence.statistics import LEVEL, Interval, critical
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

    def scale(self, metric: Metric) -> Scale | None:
        """On what scale both times are told; None where there is none."""
        if not self.is_paired and not (self.floor_before and self.floor_now):
            return None
        floors = (*self.floor_before, *self.floor_now)
        paired = tuple(samples for samples in floors if samples.paired)
        return scale_for(metric, (*self.before, *self.now), paired if self.is_paired else floors)


def repeat_effect(metric: Metric, scale: Scale, trials: Sequence[Samples], floor: Sequence[Samples]) -> float:
    """The effect that these processes show together, each paired or against those of the baseline."""
    if all(samples.paired for samples in trials):
        return statistics.fmean(process_effect(metric, scale, samples).mean for samples in trials)
    return statistics.fmean(levels(metric, scale, trials)) - statistics.fmean(levels(metric, scale, floor))


def expected(metric: Metric, repeat: Repeat, alike: Sequence[Repeat], candidates: int = 1) -> Interval | None:
    """Where the effect of `repeat.now` is to be expected, given `repeat.before` and how processes scatter; None without
    a scale to tell it on.

    The prediction interval of the mean of so many further processes (95 % over all that are `alike` together, one of
    which is `repeat`, and what they have in common; or over the `candidates` that `repeat.before` itself chose from):
    both means are uncertain. Processes scatter as the candidates' own do around their means, over all that are alike
    and both times, or as those do together with the baseline's against itself, whichever is more; where a candidate
    has too few, as those together. Never narrower than the least effect that counts, closer than which two effects count
    as one. Endless when nothing tells.
    """
    scale = repeat.scale(metric)
    if scale is None:
        return None
    center = repeat_effect(metric, scale, repeat.before, repeat.floor_before)
    tests = max(_tests(alike), candidates)
    if repeat.is_paired:
        half = _paired_half(metric, _told_alike(metric, scale, alike), repeat.share, tests)
    else:
        half = _unpaired_half(metric, scale, repeat, tests)
    return _prediction(scale, center, half, (len(repeat.before), len(repeat.floor_before)))


def common_shift(metric: Metric, alike: Sequence[Repeat]) -> tuple[float, Interval] | None:
    """How far several paired comparisons moved together, in the mean, and where that is to be expected; None when they
    are not told on one scale.

    A change of what they share, such as one kernel at several shapes, shows there before it shows in one of them.
    """
    scale = alike[0].scale(metric)
    told = _told_alike(metric, scale, alike) if scale else []
    if scale is None or len(told) < len(alike):
        return None
    now = [repeat_effect(metric, own, repeat.now, repeat.floor_now) for repeat, own in told]
    before = [repeat_effect(metric, own, repeat.before, repeat.floor_before) for repeat, own in told]
    shifts = [since - then for since, then in zip(now, before, strict=True)]
    share = sum(repeat.share for repeat in alike) / len(alike) ** 2
    half = _paired_half(metric, told, share, _tests(alike))
    counts = sum(len(repeat.before) for repeat in alike), sum(len(repeat.floor_before) for repeat in alike)
    return statistics.fmean(shifts), _prediction(scale, 0.0, half, counts)


def _prediction(scale: Scale, center: float, half: float, counts: tuple[int, int]) -> Interval:
    half = max(half, scale.least)
    return Interval(scale, center, half, half, half, half, *counts, METHOD)


def _told_alike(metric: Metric, scale: Scale, alike: Sequence[Repeat]) -> list[tuple[Repeat, Scale]]:
    """The paired ones among them that are told as on this scale, each with its own."""
    scales = [(repeat, repeat.scale(metric)) for repeat in alike if repeat.is_paired]
    return [(repeat, own) for repeat, own in scales if own is not None and own.estimand == scale.estimand]


def _tests(alike: Sequence[Repeat]) -> int:
    """How often chance may lead astray: with each of them, and with what several have in common."""
    return len(alike) + (len(alike) > 1)


def _paired_half(metric: Metric, alike: Sequence[tuple[Repeat, Scale]], share: float, tests: int) -> float:
    """Half of an interval for what has this share of the variance of one process."""
    # Comparisons with one baseline share its processes.
    floors: dict[int, Effect] = {}
    groups: list[list[Effect]] = []
    for repeat, scale in alike:
        null = (samples for samples in (*repeat.floor_before, *repeat.floor_now) if samples.paired)
        floors |= {id(samples): process_effect(metric, scale, samples) for samples in null}
        sides = (repeat.before, repeat.now)
        groups += [[process_effect(metric, scale, samples) for samples in side] for side in sides]
    null_effects = list(floors.values())
    means = [statistics.fmean(effect.mean for effect in group) for group in groups]
    freedom = sum(len(group) - 1 for group in groups)
    squares = math.fsum((effect.mean - mean) ** 2 for group, mean in zip(groups, means, strict=True) for effect in group)
    scatters = [(squares / freedom, freedom)] if freedom >= OWN_ENOUGH else []
    if null_effects or freedom:
        together = squares + math.fsum(effect.mean**2 for effect in null_effects)
        together /= freedom + len(null_effects)
        if null_effects:
            mine = statistics.fmean(effect.error**2 for group in groups for effect in group)
            together += max(0.0, mine - statistics.fmean(effect.error**2 for effect in null_effects))
        scatters.append((together, freedom + len(null_effects)))
    return max((critical(LEVEL / tests, df) * math.sqrt(var * share) for var, df in scatters), default=math.inf)


def _unpaired_half(metric: Metric, scale: Scale, repeat: Repeat, tests: int) -> float:
    parts = []
    for earlier, later in ((repeat.before, repeat.now), (repeat.floor_before, repeat.floor_now)):
        then, since = levels(metric, scale, earlier), levels(metric, scale, later)
        freedom = len(then) + len(since) - 2
        if freedom < 1:
            return math.inf
        squares = math.fsum((value - statistics.fmean(side)) ** 2 for side in (then, since) for value in side)
        parts.append((squares / freedom * (1 / len(then) + 1 / len(since)), freedom))
    variance = sum(part for part, _ in parts)
    # Welch's and Satterthwaite's degrees of freedom.
    weights = sum(part**2 / freedom for part, freedom in parts)
    return critical(LEVEL / tests, variance**2 / weights) * math.sqrt(variance) if weights else 0.0
