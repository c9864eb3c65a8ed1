"""Where a comparison that is made again is expected: where it comes to lie when nothing has changed."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from research_steps import Metric
from research_steps.evidence.effects import Scale
from research_steps.evidence.prediction import Repeat, common_shift, expected, repeat_effect
from research_steps.evidence.statistics import Interval
from research_steps.records.model import Samples

from tests.support.records import samples

TIME = Metric("t")
RATIO = Scale("ratio", 1.0, math.log1p(TIME.min_effect))


def predicted(metric: Metric, repeat: Repeat, alike: Sequence[Repeat], candidates: int = 1) -> Interval:
    """Where the repetition is expected, of a comparison that has a scale."""
    interval = expected(metric, repeat, alike, candidates)
    assert interval is not None
    return interval


def repeated(dice: np.random.Generator, counts: tuple[int, int, int], tails: str, shift: float, paired: bool) -> Repeat:
    """So many processes before, now, and of the baseline both times, which scatter by 2 %; `shift` is how much they all
    take longer now."""
    before, now, floor = counts

    def side(count: int, effect: float) -> list[Samples]:
        scatter = dice.normal(0, 1, count) if tails == "normal" else dice.standard_t(3, count) / math.sqrt(3)
        return [samples([math.exp(effect + 0.02 * deviation)], [1.0], paired) for deviation in scatter]

    return Repeat(side(before, 0.0), side(now, shift), side(floor, 0.0), side(floor, 0.0))


def shares(counts: tuple[int, int, int], tails: str, paired: bool = True) -> tuple[float, float]:
    """How often a repetition lies where it is expected: of the same, and of what takes 10 % longer."""
    inside = []
    for shift in (0.0, math.log(1.1)):
        dice, hits = np.random.default_rng(1), 0
        for _ in range(1000):
            repeat = repeated(dice, counts, tails, shift, paired)
            interval = predicted(TIME, repeat, [repeat])
            effect = repeat_effect(TIME, interval.scale, repeat.now, repeat.floor_now)
            hits += interval.low <= effect <= interval.high
        inside.append(hits / 1000)
    return inside[0], inside[1]


@pytest.mark.parametrize("tails", ["normal", "heavy"])
@pytest.mark.parametrize("counts", [(2, 2, 5), (2, 3, 3), (4, 4, 5)], ids=str)
def test_a_repetition_is_expected_where_it_comes_to_lie(counts: tuple[int, int, int], tails: str) -> None:
    """95 % of the time when nothing has changed, also where processes scatter with heavy tails (Student's t with 3
    degrees of freedom); and 10 % more time is found more than nine times in ten."""
    same, slower = shares(counts, tails)
    assert same >= 0.93
    assert slower <= 0.1


def test_a_repetition_without_pairs_is_expected_where_it_comes_to_lie() -> None:
    """Whose baseline is not measured in the same process, so that both scatter."""
    same, slower = shares((4, 4, 4), "normal", paired=False)
    assert same >= 0.93
    assert slower <= 0.2


def test_where_a_repetition_is_expected_is_never_narrower_than_what_counts() -> None:
    """Processes that agree to the last digit leave room for an effect that is too small to count."""
    half, same = [samples([1.0], [2.0])] * 2, [samples([2.0], [2.0])] * 2
    repeat = Repeat(half, half, same, same)
    interval = predicted(TIME, repeat, [repeat])
    low, high = interval.ends or (0, 0)
    assert (low, high) == pytest.approx((0.5 / 1.02, 0.5 * 1.02))


def test_nothing_is_expected_where_no_scatter_is_known() -> None:
    """One process each time, and none of the baseline."""
    repeat = Repeat([samples([1.0], [2.0])], [samples([1.0], [2.0])], [], [])
    assert predicted(TIME, repeat, [repeat]).ends is None


def test_a_candidate_that_its_own_processes_chose_is_expected_within_more() -> None:
    """The best of many by luck falls back."""
    dice = np.random.default_rng(2)
    repeat = repeated(dice, (1, 2, 5), "normal", 0.0, True)
    alone, of_ten = predicted(TIME, repeat, [repeat]), predicted(TIME, repeat, [repeat], candidates=10)
    assert of_ten.ends is not None and of_ten.low < alone.low < alone.high < of_ten.high
    assert of_ten.high - of_ten.low < 3 * (alone.high - alone.low)
    best, repeats = [], 400
    for _ in range(repeats):
        tried = [repeated(dice, (1, 2, 5), "normal", 0.0, True) for _ in range(10)]
        won = min(tried, key=lambda repetition: repetition.before[0].candidate["t"][0])
        interval = predicted(TIME, won, [won], candidates=10)
        best.append(interval.low <= repeat_effect(TIME, RATIO, won.now, won.floor_now) <= interval.high)
    assert sum(best) / repeats >= 0.93


def test_a_distance_to_a_target_is_repeated_as_a_share_of_it() -> None:
    """A loss that was 1 % of its target closer than the baseline's, and is as far away now, is outside."""
    loss = Metric("t", "target", target=2.0)
    floors = [samples([2.2], [2.2])] * 3
    near, far = [samples([2.18], [2.2])] * 2, [samples([2.28], [2.2])] * 2
    interval = predicted(loss, Repeat(near, far, floors, floors), [Repeat(near, far, floors, floors)])
    assert interval.scale.estimand == "difference" and interval.center == pytest.approx(-0.01)
    assert repeat_effect(loss, interval.scale, far, floors) == pytest.approx(0.04) and interval.high < 0.04


def test_a_common_shift_is_found_where_neither_alone_tells_it() -> None:
    """Both take 5 % longer: together they tell it more often than either alone, and nothing that did not change is
    told more often than it may be."""
    told = {}
    for shift in (0.0, math.log(1.05)):
        dice, alone, together = np.random.default_rng(3), 0, 0
        for _ in range(300):
            both = [repeated(dice, (4, 4, 5), "normal", shift, True) for _ in range(2)]
            intervals = [predicted(TIME, repetition, both) for repetition in both]
            effects = [repeat_effect(TIME, RATIO, repetition.now, repetition.floor_now) for repetition in both]
            alone += not intervals[0].low <= effects[0] <= intervals[0].high
            moved, interval = common_shift(TIME, both) or pytest.fail()
            together += not interval.low <= moved <= interval.high
        told[shift] = alone / 300, together / 300
    (alone_same, together_same), (alone_slower, together_slower) = told.values()
    assert alone_same <= 0.07 and together_same <= 0.07
    assert together_slower > alone_slower + 0.05 and together_slower >= 0.95


def test_comparisons_that_moved_apart_have_nothing_in_common() -> None:
    """One as much slower as the other is faster: each may be told, their mean is where it was."""
    floors = [samples([1.0], [1.0])] * 4
    slower = Repeat([samples([1.0], [2.0])] * 3, [samples([1.2], [2.0])] * 3, floors, floors)
    faster = Repeat([samples([1.2], [2.0])] * 3, [samples([1.0], [2.0])] * 3, floors, floors)
    moved, interval = common_shift(TIME, [slower, faster]) or pytest.fail()
    assert moved == pytest.approx(0.0) and interval.low < moved < interval.high
    moved, interval = common_shift(TIME, [slower, slower]) or pytest.fail()
    assert moved == pytest.approx(math.log(1.2)) and moved > interval.high
