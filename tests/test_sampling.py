"""Sampling: what counts as a sample, in which order they are taken, and how a measure function is refused."""

import decimal
import math
import random
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import partial, wraps
from typing import Any

import numpy as np
import pytest
from research_steps.errors import BadMetrics, Diverged, SideFailed
from research_steps.records.series import Metric, Series
from research_steps.trial.launcher.protocol import ChildResult
from research_steps.trial.launcher.sampling import LEAST_PAIRS, sample


def take(measure: Callable[[Any], Any], **changes: Any) -> ChildResult:
    values: dict[str, Any] = {"metrics": (Metric("time_s"),), "max_pairs": 8, "sampling_s": 60.0, **changes}
    seed = values.pop("seed", 1)
    return sample(measure, "candidate", "baseline", Series("sampling", "SAMPLING", "", **values), seed)


def refused(measure: Callable[[Any], Any], **changes: Any) -> SideFailed:
    with pytest.raises(SideFailed) as caught:
        take(measure, **changes)
    return caught.value


def yielding(values: Any) -> Callable[[Any], Iterator[Any]]:
    """A measure function whose candidate yields the values; its baseline is right."""

    def measure(config: str) -> Iterator[Any]:
        while True:
            yield values if config == "candidate" else {"time_s": 1.0}

    return measure


class Clock:
    """The seconds that sampling goes by: they pass when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("research_steps.trial.launcher.sampling.time.perf_counter", lambda: clock.now)
    return clock


class Log:
    """A measure function that notes each of its sides' turns."""

    def __init__(self) -> None:
        self.turns: list[str] = []

    def __call__(self, config: str) -> Iterator[dict[str, float]]:
        while True:
            self.turns.append(config)
            yield {"time_s": float(len(self.turns))}


def test_every_sample_is_kept_in_the_order_in_which_it_was_taken() -> None:
    """The set-up comes first and is no sample; `order` tells which side each later turn was."""
    log = Log()
    samples = take(log).samples
    assert set(log.turns[:2]) == {"baseline", "candidate"}
    assert [{"A": "candidate", "B": "baseline"}[side] for side in samples.order] == log.turns[2:]
    when = {"A": iter(samples.candidate["time_s"]), "B": iter(samples.baseline["time_s"])}
    assert [next(when[side]) for side in samples.order] == [float(turn) for turn in range(3, 19)]


def test_pairs_are_interleaved_in_blocks_of_random_order() -> None:
    """Each pair has one sample of either side and the next pair turns them about, so that a steady drift hits both
    alike; which side comes first in a block, and in the set-up, varies, and another trial has another order."""
    orders = [take(Log(), max_pairs=40, seed=seed).samples.order for seed in range(4)]
    pairs = [order[turn : turn + 2] for order in orders for turn in range(0, 80, 2)]
    assert set(pairs) == {"AB", "BA"}
    assert all(pairs[block] != pairs[block + 1] for block in range(0, len(pairs), 2))
    logs = [Log() for _ in range(8)]
    assert all(take(log, seed=seed).samples for seed, log in enumerate(logs))
    assert {log.turns[0] for log in logs} == {"candidate", "baseline"}
    assert 40 < pairs.count("AB") < 120
    assert len(set(orders)) == 4
    assert take(Log(), max_pairs=40, seed=0).samples.order == orders[0]


@pytest.mark.parametrize(("sampling_s", "pairs"), [(1e-9, LEAST_PAIRS), (60.0, 8)])
def test_sampling_ends_with_its_time_but_not_before_five_pairs(sampling_s: float, pairs: int) -> None:
    """A slow function has five pairs, however short the time; a quick one has as many as the series wants."""
    assert LEAST_PAIRS == 5
    assert len(take(Log(), sampling_s=sampling_s).samples.order) == 2 * pairs


def test_sampling_time_bounds_a_long_trial(clock: Clock) -> None:
    """Pairs are taken until the time is over, and the one that is begun by then is ended."""

    def measure(config: str) -> Iterator[dict[str, float]]:
        while True:
            clock.sleep(1.0)
            yield {"time_s": random.uniform(1, 2)}

    taken = take(measure, max_pairs=10_000, sampling_s=29.0)
    assert len(taken.samples.order) == 2 * 15
    assert taken.sampling_s == 30.0


@pytest.mark.parametrize(("noise", "fewest", "most"), [(0.0, 10, 10), (0.01, 20, 300), (0.5, 400, 400)])
def test_sampling_ends_when_the_primary_metric_is_known_well_enough(noise: float, fewest: int, most: int) -> None:
    """A steady metric needs ten pairs, a noisy one as many as it takes, a hopeless one the whole budget."""
    drawn = random.Random(1)

    def measure(config: str) -> Iterator[dict[str, float]]:
        while True:
            yield {"time_s": math.exp(drawn.gauss(0, noise)), "other": drawn.random()}

    assert fewest <= len(take(measure, max_pairs=400).samples.order) / 2 <= most


def test_set_up_is_timed_apart_from_sampling(clock: Clock) -> None:
    """What a function does before its first yield (compiling, warming up) is not sampling."""

    def measure(config: str) -> Iterator[dict[str, float]]:
        clock.sleep(100.0)
        while True:
            yield {"time_s": 1.0}
            clock.sleep(1.0)

    taken = take(measure)
    assert taken.setup_s == 200.0
    assert taken.sampling_s == 16.0


def test_a_function_that_returns_is_one_sample_of_the_candidate() -> None:
    """It can't be paired, and the samples say so."""
    asked = []

    def measure(config: str) -> dict[str, float]:
        asked.append(config)
        return {"time_s": 3.0, "loss": 0.5}

    samples = take(measure).samples
    assert asked == ["candidate"]
    assert not samples.paired
    assert (samples.order, samples.candidate, samples.baseline) == ("A", {"time_s": [3.0], "loss": [0.5]}, {})


@pytest.mark.parametrize("wrap", [partial, lambda measure: wraps(measure)(lambda config: measure(config))])
def test_a_wrapped_generator_is_sampled_in_pairs(wrap: Callable[[Any], Any]) -> None:
    """A decorator or functools.partial around a measure function changes nothing."""
    assert take(wrap(Log())).samples.paired


class Real:
    def __float__(self) -> float:
        return 2.5


@pytest.mark.parametrize(
    "value", [2.5, np.float64(2.5), np.float32(2.5), np.array(2.5), np.float16(2.5), decimal.Decimal("2.5"), Real()]
)
def test_numbers_of_any_library_are_numbers(value: Any) -> None:
    """What becomes a float by itself is kept as that float."""
    samples = take(yielding({"time_s": value})).samples
    assert samples.candidate == {"time_s": [2.5] * 8}
    assert type(samples.candidate["time_s"][0]) is float


def test_integers_and_other_mappings_are_fine() -> None:
    """A count is a number too, and a mapping need not be a dict."""
    samples = take(yielding(OrderedDict(time_s=3, tokens=np.int64(7)))).samples
    assert samples.candidate == {"time_s": [3.0] * 8, "tokens": [7.0] * 8}


BAD = {
    "a string": ({"time_s": "1.0"}, "'1.0' (str): expected a number"),
    "a numpy string": ({"time_s": np.str_("1.0")}, "expected a number"),
    "a boolean": ({"time_s": True}, "True (bool): expected a number"),
    "a numpy boolean": ({"time_s": np.True_}, "expected a number"),
    "None": ({"time_s": None}, "None (NoneType): expected a number"),
    "complex": ({"time_s": 1j}, "expected a number"),
    "numpy complex": ({"time_s": np.complex128(1j)}, "expected a number"),
    "an array": ({"time_s": np.zeros(3)}, "expected a number"),
    "too large": ({"time_s": 10**400}, "expected a number"),
    "missing": ({"other": 1.0}, "gave no 'time_s': the series declares 'time_s', found 'other'"),
    "empty": ({}, "found nothing"),
    "not a dict": (1.0, "gave float: expected a dict of metric name to number"),
    "pairs": ([("time_s", 1.0)], "gave list"),
    "a name that is no text": ({"time_s": 1.0, 7: 1.0}, "named 7"),
    "a name that is no line": ({"time_s": 1.0, "a\nb": 1.0}, r"named 'a\nb'"),
    "a name that is no Unicode": ({"time_s": 1.0, "\ud800": 1.0}, r"named '\ud800'"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_set_of_numbers_is_refused(case: str) -> None:
    """The error names the metric, what it was and what is expected, for functions that yield and that return."""
    values, message = BAD[case]
    for measure in (yielding(values), lambda config: values):
        failed = refused(measure)
        assert failed.side == "candidate"
        assert isinstance(failed.error, BadMetrics)
        assert message in str(failed.error)


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), np.float32("nan"), 1e101, -1.7976931348623157e308])
def test_a_primary_metric_that_is_no_finite_number_diverged(value: Any) -> None:
    """Which is a result of the configuration, and no slip in its code."""
    for measure in (yielding({"time_s": value}), lambda config: {"time_s": value}):
        failed = refused(measure)
        assert failed.side == "candidate" and isinstance(failed.error, Diverged)
        assert str(failed.error) == f"Metric 'time_s' is {float(value)}: expected 1e+100 at most."


def test_what_is_next_to_nothing_is_taken_as_nothing() -> None:
    """Its inverse, or that squared, is no number."""
    for measure in (yielding({"time_s": 5e-324}), lambda config: {"time_s": -1e-200}):
        assert set(take(measure).samples.candidate["time_s"]) == {0.0}


def test_another_metric_that_is_no_finite_number_costs_that_metric_alone() -> None:
    """Time counts on; of the loss the record says what it was."""
    for measure in (yielding({"time_s": 1.0, "loss": float("nan")}), lambda _: {"time_s": 1.0, "loss": float("nan")}):
        result = take(measure)
        assert result.samples is not None and list(result.samples.candidate) == ["time_s"]
        assert result.without["loss"].startswith("nan in ") and "candidate" in result.without["loss"]


def test_uneven_metrics_are_refused() -> None:
    """A metric that comes and goes could not be compared pair by pair."""

    def measure(config: str) -> Iterator[dict[str, float]]:
        yield {"time_s": 1.0}
        for number in range(100):
            yield {"time_s": 1.0, **({"rare": 1.0} if number == 3 and config == "baseline" else {})}

    failed = refused(measure)
    assert failed.side == "baseline"
    assert "'rare' is in some samples and not in others" in str(failed.error)


@pytest.mark.parametrize("count", [0, 1, 4])
def test_a_generator_that_stops_early_is_told_to_loop(count: int) -> None:
    """The error says after how many samples it stopped, and how to mend it."""

    def measure(config: str) -> Iterator[dict[str, float]]:
        for _ in range(count if config == "candidate" else 100):
            yield {"time_s": 1.0}

    failed = refused(measure)
    assert failed.side == "candidate"
    assert f"stopped after {count} samples of the candidate" in str(failed.error)
    assert "loop forever" in str(failed.error)


@pytest.mark.parametrize("fails", ["baseline", "candidate"])
@pytest.mark.parametrize("after", [0, 3])
@pytest.mark.parametrize("error", [ValueError("no such kernel"), SystemExit(1), KeyboardInterrupt(), GeneratorExit()])
def test_the_side_that_raised_is_named(fails: str, after: int, error: BaseException) -> None:
    """A baseline that fails is not blamed on the candidate, whatever is raised and whenever."""

    def measure(config: str) -> Iterator[dict[str, float]]:
        for number in range(100):
            if config == fails and number == after:
                raise error
            yield {"time_s": 1.0}

    failed = refused(measure)
    assert failed.side == fails
    assert failed.error is error


def test_a_broken_baseline_is_told_before_the_candidate() -> None:
    """Where both are broken it is the baseline that has to be mended first."""

    def measure(config: str) -> Iterator[dict[str, float]]:
        raise ValueError(config)
        yield

    assert refused(measure).side == "baseline"


def test_the_clean_up_of_a_generator_runs_outside_of_sampling() -> None:
    """A function may hold resources around its yield; they are released, and a failing release loses no sample."""
    released = []

    def measure(config: str) -> Iterator[dict[str, float]]:
        try:
            while True:
                yield {"time_s": 1.0}
        finally:
            released.append(config)

    assert len(take(measure).samples.order) == 16
    assert sorted(released) == ["baseline", "candidate"]
