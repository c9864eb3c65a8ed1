"""What trials support and what they don't: repeated values, exact metrics, budgets, scales, moved baselines, looks."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from research_steps import Metric
from research_steps.evidence.judgement import Judgement, judge
from research_steps.evidence.statistics import LEVEL
from research_steps.records.encoding import Stored, store_record
from research_steps.records.model import Samples, TrialRecord

from tests.support import records

LOSS = Metric("loss", timed=False)


def process(candidate: Sequence[float], baseline: Sequence[float] = (), number: int = 0, **more: Any) -> Any:
    """The trial of one process, paired where it has samples of the baseline."""
    extra = more.pop("extra", {})
    sides = {"loss": list(candidate), **extra}, {"loss": list(baseline)} if baseline else {}
    samples = Samples(paired=bool(baseline), order="", candidate=sides[0], baseline=sides[1])
    made = records.trial(key=f"{number:064x}", id=f"L-{more.pop('look', 1):03d}.{number:02d}", samples=samples, **more)
    stored: Stored[TrialRecord] = store_record(made)
    return stored


def alone(values: Sequence[float], start: int = 0, **more: Any) -> list[Any]:
    """One process for each value, which measured one side."""
    return [process([value], (), start + number, **more) for number, value in enumerate(values)]


def pairs(ratios: Sequence[float], start: int = 0, at: float = 2.0, **more: Any) -> list[Any]:
    """One process for each ratio of the candidate to the baseline."""
    return [process([at * ratio] * 4, [at] * 4, start + number, **more) for number, ratio in enumerate(ratios)]


def said(judgement: Judgement) -> str:
    return f"{judgement.verdict}, {judgement.confidence}"


FLOOR = pairs([1.004, 0.997, 1.002, 0.996, 1.001], 50)


def test_one_seed_read_again_is_one_observation() -> None:
    """Training with one seed repeats itself bit for bit: five of them and two of a candidate that differs by luck are
    two observations, and the answer says how to have more."""
    judged = judge(LOSS, alone([1.9, 1.9]), alone([2.0] * 5, 50), LEVEL)
    assert judged.verdict == "inconclusive"
    assert "identical" in judged.why and "seed" in judged.why and "exact=True" in judged.why
    paired = judge(LOSS, [process([1.9] * 4, [2.0] * 4, n) for n in range(3)], pairs([1.0, 1.0], 50), LEVEL)
    assert paired.verdict == "inconclusive" and "identical" in paired.why
    for ratio in (0.9, 0.5, 0.7, 1.1):
        # Whether rounding lets the mean of a constant be the constant.
        again = judge(LOSS, [process([2.0 * ratio] * 10, [2.0] * 10)], pairs([1.0, 1.0], 50), LEVEL)
        assert again.verdict == "inconclusive" and "identical" in again.why
    seeds = judge(LOSS, alone([1.90, 1.91, 1.89]), alone([2.0, 2.01, 1.99, 2.0, 2.02], 50), LEVEL)
    assert said(seeds) == "improved, replicated"


def test_an_exact_metric_is_confirmed_by_being_the_same_again() -> None:
    """Bytes and FLOPs have no noise; those that differ from run to run are judged by how they scatter."""
    size = Metric("loss", timed=False, exact=True)
    judged = judge(size, alone([90.0, 90.0]), alone([100.0] * 5, 50), LEVEL)
    assert said(judged) == "improved, replicated"
    assert judged.interval is not None and judged.interval.ends == pytest.approx((0.9, 0.9))
    assert said(judge(size, alone([90.0]), alone([100.0] * 5, 50), LEVEL)) == "improved, exploratory"
    assert judge(size, alone([100.0, 100.0]), alone([100.0] * 5, 50), LEVEL).verdict == "no difference"
    assert judge(size, alone([90.0, 100.0]), alone([100.0, 91.0], 50), LEVEL).verdict == "inconclusive"


def test_sides_that_spent_another_budget_are_not_comparable() -> None:
    """A loss after twice the tokens says nothing about the candidate."""
    tokens = Metric("tokens", timed=False, budget=True)
    theirs = alone([2.0, 2.01, 1.99], 50, extra={"tokens": [4096.0]})
    for spent, verdict in ((4096.0, "improved"), (8192.0, "not comparable")):
        mine = alone([1.90, 1.91, 1.89], extra={"tokens": [spent]})
        judged = judge(LOSS, mine, theirs, LEVEL, budgets=[tokens])
        assert judged.verdict == verdict
    assert judged.why == "tokens: 8192 | 4096"


def test_a_share_of_a_baseline_that_is_not_clear_of_zero_says_nothing() -> None:
    """A reward around 0 has no percent; with the least difference that counts it has a difference."""
    reward = Metric("loss", "max", timed=False)
    mine, theirs = alone([0.5, 0.6, 0.55]), alone([0.003, -0.002, 0.001, 0.0, -0.001], 50)
    refused = judge(reward, mine, theirs, LEVEL)
    assert refused.verdict == "inconclusive" and "min_effect_abs" in refused.why
    judged = judge(Metric("loss", "max", timed=False, min_effect_abs=0.1), mine, theirs, LEVEL)
    assert said(judged) == "improved, replicated"
    assert judged.interval is not None and judged.interval.scale.estimand == "absolute"
    assert judged.interval.center == pytest.approx(0.55, abs=0.01)


def test_a_target_of_zero_needs_the_least_difference_that_counts() -> None:
    """No share of 0 is anything."""
    mine, theirs = alone([0.1, -0.11, 0.12]), alone([1.0, 1.1, -1.2, 0.9, 1.05], 50)
    bias = Metric("loss", "target", target=0.0, timed=False)
    assert "min_effect_abs" in judge(bias, mine, theirs, LEVEL).why
    judged = judge(Metric("loss", "target", target=0.0, timed=False, min_effect_abs=0.05), mine, theirs, LEVEL)
    assert said(judged) == "improved, replicated"


def test_rounding_is_no_regression_where_the_metric_says_what_counts() -> None:
    """An error of 7.4e-7 against 6.6e-7 is 12 % more, and nothing."""
    mine, theirs = [7.4e-7, 7.41e-7, 7.39e-7], [6.6e-7, 6.61e-7, 6.59e-7, 6.6e-7, 6.62e-7]
    for least, verdict in ((0.0, "regressed"), (1e-5, "no difference")):
        judged = judge(Metric("loss", timed=False, min_effect_abs=least), alone(mine), alone(theirs, 50), LEVEL)
        assert judged.verdict == verdict


@pytest.mark.parametrize("paired", [True, False])
def test_distances_to_a_target_are_those_of_process_means(paired: bool) -> None:
    """Samples scatter to both sides of a target that the process hits: paired or not, that is a distance of about 0."""
    dice = np.random.default_rng(0)
    metric = Metric("loss", "target", target=10.0, timed=False, min_effect=0.02)

    def processes(at: float, start: int) -> list[Any]:
        made = []
        for number in range(4):
            samples, other = at + dice.normal(0, 2.0, 200), 10.5 + dice.normal(0, 2.0, 200)
            made.append(process(samples.tolist(), other.tolist() if paired else (), start + number))
        return made

    judged = judge(metric, processes(10.0, 0), processes(10.5, 50), LEVEL)
    assert judged.interval is not None
    assert judged.interval.center == pytest.approx(-0.04, abs=0.02)


def test_one_sample_of_nothing_leaves_a_ratio_a_ratio() -> None:
    """A counter that reads 0 once is no other kind of number."""
    mine = [process([1.0, 0.0, 1.1, 0.9], [2.0, 2.1, 1.9, 2.0], number) for number in range(3)]
    judged = judge(LOSS, mine, FLOOR, LEVEL)
    assert judged.interval is not None and judged.interval.scale.estimand == "ratio"
    assert judged.interval.scale.shown(judged.interval.center) == pytest.approx(0.75 / 2)


def test_a_ratio_beyond_what_a_number_can_hold_is_told_as_the_largest() -> None:
    """And can be recorded."""
    mine = [process([1e300] * 4, [1e-300] * 4, number) for number in range(3)]
    judged = judge(LOSS, mine, pairs([1.0, 1.001, 0.999], 50, at=1e-300), LEVEL)
    assert judged.verdict == "regressed" and judged.interval is not None
    assert math.isfinite(judged.interval.scale.shown(judged.interval.center))


def test_a_setting_that_reaches_the_baselines_side_is_found_out() -> None:
    """A candidate that makes its whole process four times faster looks like no difference: its baseline side ran at a
    quarter of what the baseline alone takes."""
    judged = judge(LOSS, pairs([1.0, 1.001, 0.999], at=0.5), FLOOR, LEVEL)
    assert judged.verdict == "not comparable"
    assert judged.why.startswith("loss of the baseline was 0.5 beside it and 2 alone: a setting of the whole process")
    # It may even look better than a baseline that it made slower, or worse than one that it made faster.
    for share, at in ((0.9, 5.0), (1.1, 0.5)):
        assert judge(LOSS, pairs([share, share * 1.001, share * 0.999], at=at), FLOOR, LEVEL).verdict == "not comparable"
    # As much as the baseline alone moves from process to process is not told.
    restless = [process([at * 1.001] * 4, [at] * 4, 50 + n) for n, at in enumerate((1.0, 2.0, 3.0, 1.5, 2.5))]
    assert judge(LOSS, pairs([1.0, 1.001, 0.999], at=2.7), restless, LEVEL).verdict == "no difference"


def test_what_beats_the_baseline_at_its_best_is_better_whatever_moved() -> None:
    """Pairs that agree while the machine became twice as fast, or as slow, since the baseline was measured: the verdict
    stands. It is replicated where some process ran beside the baseline as it is alone, so that no setting did that."""
    for at in (1.0, 4.0):
        judged = judge(LOSS, pairs([0.3, 0.301, 0.299], at=at), FLOOR, LEVEL)
        assert said(judged) == "improved, exploratory" and "or the machine changed since" in judged.why
        both = pairs([0.3, 0.301, 0.299], at=at) + pairs([0.3005], 10)
        assert said(judge(LOSS, both, FLOOR, LEVEL)) == "improved, replicated"


def test_looks_that_differ_are_not_replicated() -> None:
    """Three processes on one day and three on another, apart by far more than processes scatter."""
    both = pairs([0.9, 0.901, 0.899]) + pairs([0.8, 0.801, 0.799], 10, look=2)
    judged = judge(LOSS, both, FLOOR, LEVEL)
    assert said(judged) == "improved, exploratory" and "looks differ" in judged.why
    close = pairs([0.9, 0.9001, 0.8999]) + pairs([0.905, 0.9051, 0.9049], 10, look=2)
    quiet = pairs([1.0001, 0.9999, 1.0, 1.0001], 50)
    assert said(judge(LOSS, close, quiet, LEVEL)) == "improved, replicated", "by less than counts"
    agree = pairs([0.9, 0.901, 0.899]) + pairs([0.9, 0.902, 0.9005], 10, look=2)
    assert said(judge(LOSS, agree, FLOOR, LEVEL)) == "improved, replicated"


def test_more_agreeing_processes_never_make_it_less_sure() -> None:
    """At a true 3 % less and 2 % of noise from process to process, one of the other sign is no veto."""
    dice, sure = np.random.default_rng(0), []
    counts = (2, 3, 5, 8, 12, 20, 40)
    for _ in range(300):
        floor = pairs(np.exp(dice.normal(0, 0.02, 5)).tolist(), 50)
        trials = pairs(np.exp(dice.normal(math.log(0.97), 0.02, max(counts))).tolist())
        sure.append([said(judge(LOSS, trials[:count], floor, LEVEL)) == "improved, replicated" for count in counts])
    shares = np.mean(sure, axis=0)
    assert shares[0] == 0 and shares[-1] >= 0.95
    assert all(later >= earlier - 0.02 for earlier, later in itertools.pairwise(shares)), shares
