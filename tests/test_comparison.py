"""What samples say: numbers that a reader can check by hand, and no number where there is none."""

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from research_steps import Metric
from research_steps.comparison import better, medians, paired_ratios, ranked, unpaired_ratios
from research_steps.record import Ratio, Row, Samples, canonical, decode_record, store_record

from tests.records import entry, trial

finite = st.floats(allow_nan=False, allow_infinity=False)


def samples(candidate: list[float], baseline: list[float], paired: bool = True) -> Samples:
    return Samples(paired=paired, order="AB" * len(candidate), candidate={"t": candidate}, baseline={"t": baseline})


def row(label: str, ratio: float | None, status: Any = "ok") -> Row:
    ratios = {} if ratio is None else {"t": Ratio(median=ratio, low=ratio, high=ratio, pairs=5)}
    return msgspec.structs.replace(entry().rows[0], note=label, ratios=ratios, status=status)


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


def test_rows_are_ranked_in_the_metrics_direction() -> None:
    """The best first; what failed or has no ratio comes last, in its own order, whatever its number is."""
    rows = [row("slow", 2.0), row("none", None), row("fast", 0.5), row("failed", 0.1, "failed"), row("same", 2.0)]
    assert [found.note for found in ranked(Metric("t", "min"), rows)] == ["fast", "slow", "same", "none", "failed"]
    assert [found.note for found in ranked(Metric("t", "max"), rows)] == ["slow", "same", "fast", "none", "failed"]


def test_better_knows_the_direction() -> None:
    """Equal is not better."""
    assert better(Metric("t", "min"), 0.9, 1.0)
    assert better(Metric("t", "max"), 1.1, 1.0)
    assert not better(Metric("t", "min"), 1.0, 1.0)
    assert not better(Metric("t", "max"), 1.0, 1.0)


def test_a_metric_without_samples_has_no_median() -> None:
    """And one with samples has the middle one."""
    assert medians({"t": [3.0, 1.0, 2.0], "u": []}) == {"t": 2.0}
    assert math.isclose(medians({"t": [1.0, 2.0]})["t"], 1.5)
