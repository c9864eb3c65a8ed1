"""Takes the samples of one trial, inside its process.

A measure function that yields is sampled in pairs: whatever it does before its first yield is set-up (compiling,
checking, warming up), in random order, then candidate and baseline take turns in blocks of two pairs, ABBA or BAAB by
chance, so that a drift of the machine hits both alike. One that returns is one sample of the candidate, unpaired. In
place of a sample it may give a list of them, as a command does that prints several each time it runs.

Sampling ends once the primary metric is known well enough within this process, or when the budget is spent. That it
stops by what it saw is allowed for: intervals rest on how the means of whole processes scatter.
"""

import gc
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from research_steps.errors import BadMetrics, Diverged, Side, SideFailed, UsageError
from research_steps.evidence.effects import LARGEST, process_effect, scale_for
from research_steps.records.model import Samples
from research_steps.records.series import Metric, Series
from research_steps.trial.directory import trial_directory
from research_steps.trial.launcher.protocol import ChildResult
from research_steps.trial.progress import at_budget

# So many pairs are taken whatever the budget, and so many more before their scatter is believed to be small.
LEAST_PAIRS = 5
LEAST_TO_BE_TIGHT = 10
# Sampling stops when two standard errors are this share of the smallest effect that counts.
TIGHT = 0.25

Values = dict[str, float]


def sample(
    measure: Callable[[Any], Any],
    candidate: Any,
    baseline: Any,
    series: Series,
    seed: int,
    sampling: Callable[[], None] = lambda: None,
    turn: Callable[[Side], None] = lambda side: None,
) -> ChildResult:
    """Run the measure function on two configurations; `sampling` is called when its set-up is done, `turn` before a side
    runs. Raises SideFailed from whatever it raised, BadMetrics included."""
    started = time.perf_counter()
    with failing("candidate"):
        returned = measure(candidate)
        if not isinstance(returned, Iterator):
            return unpaired(numbers(returned, series), time.perf_counter() - started)
    turn("baseline")
    with failing("baseline"):
        sides: dict[Side, Iterator[Any]] = {"candidate": returned, "baseline": measure(baseline)}

    def take(side: Side, taken: int) -> list[Values]:
        turn(side)
        return next_samples(sides[side], side, taken, series)

    return paired(take, series, seed, sampling)


def unpaired(values: list[Values], took_s: float) -> ChildResult:
    """What a measure function that returns says of the candidate."""
    return ChildResult(**sampled({"candidate": values, "baseline": []}, "A" * len(values)), sampling_s=took_s)


def paired(
    take: Callable[[Side, int], list[Values]], series: Series, seed: int, sampling: Callable[[], None] = lambda: None
) -> ChildResult:
    """Sample both sides by turns: `take` gives a side's next samples, told how often it gave some, the first of which
    end its set-up; `sampling` is called when that is done. Raises SideFailed."""
    started = time.perf_counter()
    taken: dict[Side, list[Values]] = {"candidate": [], "baseline": []}
    turn: list[Side] = ["candidate", "baseline"]
    shuffled = random.Random(seed)
    shuffled.shuffle(turn)
    _set_up(take, turn)
    setup_s = time.perf_counter() - started

    order: list[Side] = []
    look = LEAST_TO_BE_TIGHT
    sampling()
    gc.collect()
    gc.disable()
    started = time.perf_counter()
    for pair in range(series.max_pairs):
        if pair >= LEAST_PAIRS and time.perf_counter() - started >= series.sampling_s:
            break
        if pair == look:
            if _known_well(series.primary, taken):
                break
            # Looking costs more the more there is, so it is done ever more seldom.
            look += max(1, look // 4)
        if pair % 2 == 0:
            shuffled.shuffle(turn)
        else:
            turn.reverse()
        given: dict[Side, list[Values]] = {}
        for side in turn:
            with failing(side):
                given[side] = take(side, pair + 1)
        both = min(map(len, given.values()))
        for side in turn:
            taken[side] += given[side][:both]
            order += [side] * both
    took_s = time.perf_counter() - started
    gc.enable()
    return ChildResult(**sampled(taken, letters(order)), setup_s=setup_s, sampling_s=took_s)


def letters(order: Sequence[Side]) -> str:
    """The sides in the order of their samples, A for the candidate and B for the baseline."""
    return "".join("A" if side == "candidate" else "B" for side in order)


def _set_up(take: Callable[[Side, int], object], turn: Sequence[Side]) -> None:
    """Have both sides do what comes before their first sample. What the baseline can't do either is not the
    candidate's fault."""
    for place, side in enumerate(turn):
        try:
            with failing(side):
                take(side, 0)
        except SideFailed:
            for other in turn[place + 1 :]:
                if other == "baseline":
                    with failing(other):
                        take(other, 0)
            raise


def sampled(taken: Mapping[Side, Sequence[Values]], order: str) -> dict[str, Any]:
    """All samples by metric, without those metrics that were no number to count with at some time, which are told."""
    columns: dict[Side, dict[str, list[float]]] = {"candidate": {}, "baseline": {}}
    without: dict[str, str] = {}
    for side, rows in taken.items():
        with failing(side):
            columns[side] = _columns(rows)
            for name, values in columns[side].items():
                strange = [value for value in values if not abs(value) <= LARGEST]
                if strange:
                    without.setdefault(name, f"{strange[0]} in {len(strange)} of {len(values)} samples of the {side}")
    finite = {side: {n: v for n, v in values.items() if n not in without} for side, values in columns.items()}
    paired = bool(taken["baseline"])
    samples = Samples(paired=paired, order=order, candidate=finite["candidate"], baseline=finite["baseline"])
    return {"samples": samples, "without": without}


def _known_well(primary: Metric, taken: Mapping[Side, Sequence[Values]]) -> bool:
    """Whether the effect on the primary metric is known better, within this process, than its smallest effect asks."""
    columns = {side: {primary.name: [values[primary.name] for values in rows]} for side, rows in taken.items()}
    samples = Samples(paired=True, order="", candidate=columns["candidate"], baseline=columns["baseline"])
    scale = scale_for(primary, [samples], ())
    return scale is not None and 2 * process_effect(primary, scale, samples).error <= TIGHT * scale.least


@contextmanager
def failing(side: Side) -> Iterator[None]:
    """Whatever is raised here was raised by this side."""
    try:
        yield
    except BaseException as error:
        raise SideFailed(side, error) from error


def next_samples(generator: Iterator[Any], side: Side, taken: int, series: Series) -> list[Values]:
    """The next sample of a side, which has given so many, or the next few. Raises BadMetrics, and Diverged."""
    try:
        values = next(generator)
    except StopIteration:
        raise BadMetrics(
            f"The measure function stopped after {taken} samples of the {side}: expected it to yield for as long as it "
            "is asked; loop forever around the yield."
        ) from None
    return numbers(values, series)


def numbers(values: Any, series: Series) -> list[Values]:
    """What a measure function gave, as the numbers that the series asks for. Raises BadMetrics, and Diverged."""
    several = isinstance(values, list) and values and all(isinstance(each, Mapping) for each in values)
    return [_numbers(each, series) for each in (values if several else [values])]


def _numbers(values: Any, series: Series) -> Values:
    if not isinstance(values, Mapping):
        raise BadMetrics(f"The measure function gave {type(values).__name__}: expected a dict of metric name to number.")
    judged_at = {metric.name: metric.at for metric in series.metrics if metric.at}
    values = {**values, **{name: at_budget(_folder(name), name, *at) for name, at in judged_at.items()}}
    metrics = [metric.name for metric in series.metrics]
    missing = [name for name in metrics if name not in values]
    if missing:
        raise BadMetrics(
            f"The measure function gave no {', '.join(map(repr, missing))}: the series declares "
            f"{', '.join(map(repr, metrics))}, found {', '.join(map(repr, values)) or 'nothing'}."
        )
    for name in values:
        if not isinstance(name, str) or not name.isprintable():
            raise BadMetrics(f"A metric is named {name!r}: expected printable text, such as 'time_s'.")
    checked = {name: _number(name, value) for name, value in values.items()}
    for metric in series.metrics:
        value, bound = checked[metric.name], metric.diverged_above
        if metric is series.primary and not abs(value) <= LARGEST:
            raise Diverged(f"Metric {metric.name!r} is {value}: expected {LARGEST:g} at most.")
        if bound is not None and not value <= bound:
            raise Diverged(f"Metric {metric.name!r} is {value}: expected {bound:g} at most, its diverged_above.")
    return checked


def _folder(metric: str) -> str:
    """Where the side that is sampled tells how far it is. Raises BadMetrics."""
    try:
        return trial_directory()
    except UsageError:
        raise BadMetrics(
            f"Metric {metric!r} is judged at a budget, which takes what a trial tells by step: measure it in a measure "
            "function; what is recorded afterwards tells no steps."
        ) from None


def _number(name: str, value: Any) -> float:
    # NumPy and JAX scalars know how to become a float; their booleans do too, and count nothing.
    kind = getattr(getattr(value, "dtype", None), "kind", "")
    number = None
    if not isinstance(value, bool | str | bytes) and kind not in ("b", "c"):
        with suppress(TypeError, ValueError, OverflowError):
            number = float(value)
    if number is None:
        raise BadMetrics(f"Metric {name!r} is {value!r} ({type(value).__name__}): expected a number.")
    return number if not abs(number) < 1 / LARGEST else 0.0


def _columns(rows: Sequence[Values]) -> dict[str, list[float]]:
    names = {name for row in rows for name in row}
    uneven = sorted(name for name in names if any(name not in row for row in rows))
    if uneven:
        raise BadMetrics(f"Metric {uneven[0]!r} is in some samples and not in others: give the same metrics each time.")
    return {name: [row[name] for row in rows] for name in sorted(names)}
