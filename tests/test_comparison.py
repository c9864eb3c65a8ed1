"""What samples say: numbers that a reader can check by hand, and no number where there is none."""

import math
import statistics
from collections.abc import Sequence

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from research_steps import Metric
from research_steps.evidence.effects import Scale, medians, paired_ratios, scale_for, unpaired_ratios
from research_steps.evidence.statistics import (
    LEVEL,
    Interval,
    critical,
    expected_on_replication,
    looks_differ,
    noise_floor,
    paired_interval,
    ranked,
    repeated_interval,
    unpaired_interval,
    verdict,
)
from research_steps.records.encoding import canonical, decode_record, store_record
from research_steps.records.model import Ratio, Ref, Samples
from scipy import stats

from tests.support.records import claim, entry, samples, trial

TIME = Metric("t")
finite = st.floats(allow_nan=False, allow_infinity=False)


def test_ratios_are_taken_pair_by_pair() -> None:
    """A machine that slows down meanwhile slows both sides of a pair, so the ratio stays."""
    assert paired_ratios(samples([1.0, 2.0, 4.0], [2.0, 4.0, 8.0])) == {
        "t": Ratio(median=0.5, low=0.5, high=0.5, pairs=3)
    }


def test_a_ratio_comes_with_the_middle_half_of_its_pairs() -> None:
    """Median and quartiles of the quotients, as a hand calculation gives them."""
    assert paired_ratios(samples([1.0, 2.0, 3.0, 4.0, 5.0], [1.0] * 5)) == {
        "t": Ratio(median=3.0, low=2.0, high=4.0, pairs=5)
    }
    assert paired_ratios(samples([3.0], [2.0])) == {"t": Ratio(median=1.5, low=1.5, high=1.5, pairs=1)}


@pytest.mark.parametrize("baseline", [[1.0, 0.0], [0.0, 0.0], [1.0, 5e-324], [1.0]], ids=str)
def test_there_is_no_ratio_to_a_baseline_of_nothing(baseline: list[float]) -> None:
    """Zero, next to zero, or samples that don't pair up: no number is better than a wrong or infinite one."""
    assert paired_ratios(samples([1.0, 2.0], baseline)) == {}


def test_samples_that_were_not_paired_have_no_paired_ratio() -> None:
    """A measure function that returns is one sample; its quotient says that it is of no pairs."""
    assert paired_ratios(samples([1.0], [], paired=False)) == {}
    assert unpaired_ratios({"t": 1.0, "u": 1.0, "v": 1.0}, {"t": 2.0, "u": 0.0}) == {
        "t": Ratio(median=0.5, low=0.5, high=0.5, pairs=0)
    }
    assert unpaired_ratios({"t": 1e300}, {"t": 1e-300}) == {}


@given(st.lists(st.tuples(finite, finite), min_size=1, max_size=9))
def test_whatever_was_measured_can_be_recorded(pairs: list[tuple[float, float]]) -> None:
    """No finite samples lead to a record that can't be written or read."""
    taken = samples([pair[0] for pair in pairs], [pair[1] for pair in pairs])
    record = trial(samples=taken, ratios=paired_ratios(taken))
    assert decode_record(store_record(record).line, "it").record == record
    canonical(medians(taken.candidate))


@given(st.lists(st.tuples(st.floats(1e-6, 1e6), st.floats(1e-6, 1e6)), min_size=1, max_size=9))
def test_the_middle_half_holds_the_median(pairs: list[tuple[float, float]]) -> None:
    """low ≤ median ≤ high, within the quotients that were measured."""
    ratio = paired_ratios(samples([pair[0] for pair in pairs], [pair[1] for pair in pairs]))["t"]
    quotients = [mine / other for mine, other in pairs]
    slack = 1 + 1e-9
    assert min(quotients) / slack <= ratio.low <= ratio.median * slack <= ratio.high * slack**2
    assert ratio.high <= max(quotients) * slack


def steady(effects: Sequence[float]) -> list[Samples]:
    """One process for each effect: the logarithm of its candidate over a baseline of 2."""
    return [samples([2 * math.exp(effect)] * 4, [2.0] * 4) for effect in effects]


def paired(metric: Metric, trials: Sequence[Samples], floor: Sequence[Samples], candidates: int = 1) -> Interval:
    """The interval of paired processes on the scale that they have."""
    scale = scale_for(metric, trials, floor)
    assert scale is not None
    return paired_interval(metric, scale, trials, floor, LEVEL, candidates)


def unpaired(metric: Metric, trials: Sequence[Samples], baseline: Sequence[Samples], level: float = LEVEL) -> Interval:
    """The same of processes that measured one side each."""
    scale = scale_for(metric, trials, baseline)
    assert scale is not None
    return unpaired_interval(metric, scale, trials, baseline, level)


def test_the_interval_of_paired_processes_is_that_of_the_t_distribution() -> None:
    """As scipy's own one-sample test gives it, when nothing is known but the candidate's processes."""
    effects = [0.10, 0.12, 0.11, 0.15]
    interval = paired(TIME, steady(effects), [])
    expected = stats.ttest_1samp(effects, 0).confidence_interval(0.95)
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high))
    assert interval.scale.shown(interval.center) == pytest.approx(math.exp(statistics.fmean(effects)))


def test_one_process_has_an_interval_from_the_baselines_own_processes() -> None:
    """The spread is that of the baseline against itself, whose true effect is known to be none."""
    floor = [0.01, -0.01, 0.02, -0.02]
    interval = paired(TIME, steady([0.3]), steady(floor))
    spread = math.sqrt(sum(effect**2 for effect in floor) / 4)
    assert interval.high - 0.3 == pytest.approx(stats.t.ppf(0.975, 4) * spread)
    assert not math.isfinite(paired(TIME, steady([0.3]), []).high)


def test_many_candidates_make_the_interval_wider() -> None:
    """Twenty tries at 5 % find something by chance; the record says what was done about it."""
    floor = steady([0.01, -0.01, 0.02, -0.02])
    alone, of_twenty = (paired(TIME, steady([0.1]), floor, candidates) for candidates in (1, 20))
    half = critical(LEVEL, 4, 20) / stats.t.ppf(0.975, 4)
    assert of_twenty.high - 0.1 == pytest.approx(half * (alone.high - 0.1))
    assert "over 20 candidates" in of_twenty.method and "candidates" not in alone.method
    assert alone.high < of_twenty.high < 0.1 + stats.t.ppf(1 - 0.05 / 20 / 2, 4) * alone.error


@pytest.mark.parametrize(("freedom", "candidates"), [(5, 2), (5, 20), (20, 3), (60, 10)])
def test_many_against_one_take_the_maximum_modulus(freedom: int, candidates: int) -> None:
    """The largest of so many effects beside one estimate of their spread, as drawing them a lot shows it."""
    dice = np.random.default_rng(0)
    largest = np.abs(dice.normal(size=(200_000, candidates))).max(axis=1)
    modulus = largest / np.sqrt(dice.chisquare(freedom, 200_000) / freedom)
    assert critical(LEVEL, freedom, candidates) == pytest.approx(np.quantile(modulus, 0.95), rel=0.015)


@pytest.mark.parametrize("freedom", [1, 2, 50, 1000])
def test_many_looks_leave_an_interval_however_little_is_known(freedom: int) -> None:
    """As little error as a late look may spend is between one candidate's t and Bonferroni's; with one degree of freedom
    a tenth of it makes the interval ten times as wide."""
    for level in (1e-2, 1e-3, 1e-4):
        alone, bonferroni = (float(stats.t.ppf(1 - level / 2 / tests, freedom)) for tests in (1, 12))
        assert alone < critical(level, freedom, 12) < bonferroni
    if freedom == 1:
        assert critical(1e-4, 1, 12) / critical(1e-3, 1, 12) == pytest.approx(10, rel=1e-3)


def test_a_candidate_that_scatters_more_is_known_less_well() -> None:
    """The baseline's quiet says nothing about a candidate whose own samples are all over the place."""
    floor = steady([0.01, -0.01, 0.02, -0.02])
    noisy = samples([2 * math.exp(effect) for effect in (-0.9, 1.1, -0.9, 1.1)], [2.0] * 4)
    quiet = paired(TIME, steady([0.1]), floor)
    assert paired(TIME, [noisy], floor).high > 10 * quiet.high


def test_a_field_that_changes_nothing_at_any_seed_makes_no_difference() -> None:
    """Three trainings that end as the baseline's to the last bit say so; equal effects that are none of 0 do not."""
    scale = Scale("ratio", 1.0, math.log1p(TIME.min_effect))
    assert verdict(TIME, repeated_interval(scale, [0.0] * 3, [], LEVEL)) == "no difference"
    assert verdict(TIME, repeated_interval(scale, [-0.3] * 3, [], LEVEL)) == "inconclusive"
    assert verdict(TIME, repeated_interval(scale, [0.0], [], LEVEL)) == "inconclusive"


@given(st.lists(st.floats(-0.5, 0.5), min_size=1, max_size=4), st.lists(st.floats(-0.1, 0.1), min_size=2, max_size=5))
def test_exchanging_candidate_and_baseline_mirrors_the_interval(effects: list[float], floor: list[float]) -> None:
    """0.5 × one way is 2 × the other way, ends included; a ratio has no preferred side."""
    way = paired(TIME, steady(effects), steady(floor))
    other = paired(TIME, steady([-effect for effect in effects]), steady([-effect for effect in floor]))
    assert (other.low, other.center, other.high) == pytest.approx((-way.high, -way.center, -way.low), abs=1e-9)


def test_unpaired_processes_are_compared_as_welch_does() -> None:
    """Where a process measures one side, it takes two of each, and scipy's test of unequal variances."""
    mine, theirs = [1.0, 1.1, 1.2], [2.0, 2.1]
    alone = [[samples([value], [], paired=False) for value in side] for side in (mine, theirs)]
    interval = unpaired(TIME, *alone)
    expected = stats.ttest_ind(np.log(mine), np.log(theirs), equal_var=False).confidence_interval(0.95)
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high))
    assert "unpaired" in interval.method
    assert not math.isfinite(unpaired(TIME, alone[0][:1], alone[1]).high)


def interval(low: float, high: float) -> Interval:
    scale, half = Scale("ratio", 1.0, math.log1p(TIME.min_effect)), (high - low) / 2
    center = (low + high) / 2 if math.isfinite(half) else 0.0
    return Interval(scale, center, half, half, 0.8 * half, half / 2, 2, 5, "by hand")


@pytest.mark.parametrize(
    ("low", "high", "says"),
    [
        (-0.30, -0.10, "improved"),
        (0.10, 0.30, "regressed"),
        (-0.01, 0.01, "no difference"),
        (0.001, 0.018, "no difference"),
        (-0.10, 0.01, "inconclusive"),
        (0.005, 0.025, "inconclusive"),
        (-math.inf, math.inf, "inconclusive"),
        (0.0, 0.0, "no difference"),
    ],
)
def test_a_verdict_needs_size_and_certainty(low: float, high: float, says: str) -> None:
    """With a smallest effect of 2 %; the other direction turns better into worse and leaves the rest."""
    turned = {"improved": "regressed", "regressed": "improved"}
    assert verdict(TIME, interval(low, high)) == says
    assert verdict(Metric("t", "max"), interval(low, high)) == turned.get(says, says)


def test_a_metric_with_a_target_improves_by_coming_closer() -> None:
    """From whichever side, as a share of the target; overshooting by as much is no difference."""
    metric = Metric("t", "target", target=10.0)
    for value, says in ((10.5, "improved"), (9.5, "improved"), (8.0, "no difference"), (15.0, "regressed")):
        trials = [samples([value] * 4, [12.0] * 4) for _ in range(3)]
        compared = paired(metric, trials, [samples([12.0] * 4, [12.0] * 4)] * 3)
        assert compared.scale.estimand == "difference"
        assert verdict(metric, compared) == says
    assert compared.center == pytest.approx((5 - 2) / 10)


def test_what_is_not_above_zero_is_compared_by_difference() -> None:
    """A log-likelihood has no ratio to another; its difference counts as a share of the baseline's size."""
    likelihood = Metric("t", "max")
    compared = paired(likelihood, [samples([-1.8] * 4, [-2.0] * 4)] * 2, [samples([-2.0] * 4, [-2.0] * 4)] * 2)
    assert compared.scale.estimand == "difference"
    assert compared.center == pytest.approx(0.1)
    assert verdict(likelihood, compared) == "improved"


def test_the_best_of_many_is_expected_to_fall_back() -> None:
    """Of twenty that change nothing the best looks several percent better than it is; of what differs a lot little
    falls back."""
    dice = np.random.default_rng(0)
    looks, expected = [], []
    for _ in range(200):
        floor = steady(dice.normal(0, 0.02, 5))
        tried = [paired(TIME, steady([effect]), floor, 20) for effect in dice.normal(0, 0.02, 20)]
        best = min(range(20), key=lambda number: tried[number].center)
        looks.append(tried[best].center)
        expected.append((expected_on_replication(tried) or [])[best])
    assert statistics.fmean(looks) < -0.03
    assert abs(statistics.fmean(expected)) < abs(statistics.fmean(looks)) / 3
    apart = [paired(TIME, steady([effect]), steady([0.01, -0.01, 0.02, -0.02]), 4) for effect in (-0.7, 0.0, 0.3, 0.9)]
    assert expected_on_replication(apart) == pytest.approx([-0.7, 0.0, 0.3, 0.9], abs=0.01)
    assert expected_on_replication(apart[:3]) is None


def test_looks_differ_by_more_than_processes_scatter() -> None:
    """An F test: by chance alone once in a hundred."""
    dice = np.random.default_rng(0)
    alike = []
    for _ in range(1000):
        null, *looks = (dice.normal(0, 0.02, count).tolist() for count in (5, 3, 3, 3, 3))
        alike.append(looks_differ(looks, null))
    assert 1 <= sum(alike) <= 25
    assert looks_differ([[0.0, 0.01, -0.01], [0.2, 0.21, 0.19]], null)
    assert not looks_differ([[0.0], [0.3]]) and not looks_differ([[0.0, 0.1, 0.2]], null)


def test_the_noise_floor_is_what_one_more_process_could_show() -> None:
    """The spread around no effect, and the half-width of an interval that rests on it alone."""
    floor = noise_floor(TIME, steady([0.01, -0.01, 0.02, -0.02]))
    assert floor is not None and floor.processes == 4
    assert floor.spread == pytest.approx(math.sqrt(0.00025))
    assert floor.smallest == pytest.approx(math.expm1(stats.t.ppf(0.975, 4) * math.sqrt(0.00025)))
    assert noise_floor(TIME, steady([0.01])) is None


def test_rows_are_ranked_by_what_is_claimed_of_them() -> None:
    """The best first, in the metric's direction; what has no estimate comes last, in its own order."""
    rows, claims = [], []
    for index, estimate in enumerate((2.0, None, 0.5, 2.0, None)):
        ref = Ref(id=f"R.{index}", key="k", attempt=0, sha256=f"{index}")
        rows.append(msgspec.structs.replace(entry().rows[0], trial=ref))
        ends = {} if estimate else {"low": None, "high": None}
        claims.append(claim(metric="t", trials=(ref,), estimate=estimate, **ends))
    for direction, order in (("min", "20314"), ("max", "03214")):
        best_first = ranked(Metric("t", direction), rows, claims)  # type: ignore[arg-type]
        assert "".join(row.trial.sha256 for row in best_first) == order
    # One that looks best of all, and was only measured beside other load.
    claims[3] = msgspec.structs.replace(claims[3], estimate=0.1, low=None, high=None)
    assert "".join(row.trial.sha256 for row in ranked(Metric("t", "min"), rows, claims)) == "20314"


def test_a_metric_without_samples_has_no_median() -> None:
    """And one with samples has the middle one."""
    assert medians({"t": [3.0, 1.0, 2.0], "u": []}) == {"t": 2.0}
    assert math.isclose(medians({"t": [1.0, 2.0]})["t"], 1.5)
    assert medians({"t": [1.7e308, 1.6e308]})["t"] == pytest.approx(1.65e308)
