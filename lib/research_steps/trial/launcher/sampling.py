"""Takes the samples of one trial, inside its process.

A measure function that yields is sampled in pairs: whatever it does before its first yield is set-up (compiling,
checking, warming up), then candidate and baseline take turns, in random order within each pair. One that returns is
one sample of the candidate, unpaired.

Sampling ends once the primary metric is known well enough within this process, or when the budget is spent. That it
stops by what it saw is allowed for: intervals rest on how the means of whole processes scatter.
"""

import gc
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from research_steps.errors import BadMetrics, Side, SideFailed
from research_steps.evidence.effects import process_effect, scale_for
from research_steps.records.model import Samples
from research_steps.records.series import Metric, Series
from research_steps.trial.launcher.protocol import ChildResult

# So many pairs are taken whatever the budget, and so many more before their scatter is believed to be small.
LEAST_PAIRS = 5
LEAST_TO_BE_TIGHT = 10
# Sampling stops when two standard errors are this share of the smallest effect that counts.
TIGHT = 0.25


def sample(
    measure: Callable[[Any], Any],
    candidate: Any,
    baseline: Any,
    series: Series,
    seed: int,
    sampling: Callable[[], None] = lambda: None,
) -> ChildResult:
    """Run the measure function; `sampling` is called when its set-up is done. Raises SideFailed from whatever it raised,
    BadMetrics included."""
    started, metrics = time.perf_counter(), [metric.name for metric in series.metrics]
    with _side("candidate"):
        returned = measure(candidate)
        if not isinstance(returned, Iterator):
            values = _checked(returned, metrics)
            samples = Samples(paired=False, order="A", candidate={n: [v] for n, v in values.items()}, baseline={})
            return ChildResult(samples=samples, sampling_s=time.perf_counter() - started)

    # The baseline first: if it can't run here, that is told before the candidate is blamed.
    with _side("baseline"):
        sides: dict[Side, Iterator[Any]] = {"baseline": measure(baseline), "candidate": returned}
    for side, generator in sides.items():
        with _side(side):
            _next(generator, side, 0, metrics)
    setup_s = time.perf_counter() - started

    taken: dict[Side, list[dict[str, float]]] = {"candidate": [], "baseline": []}
    order: list[str] = []
    turn: list[Side] = ["candidate", "baseline"]
    shuffled = random.Random(seed)
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
        shuffled.shuffle(turn)
        for side in turn:
            with _side(side):
                taken[side].append(_next(sides[side], side, pair + 1, metrics))
            order.append("A" if side == "candidate" else "B")
    took_s = time.perf_counter() - started
    gc.enable()
    columns = {}
    for side, rows in taken.items():
        with _side(side):
            columns[side] = _columns(rows)
    samples = Samples(paired=True, order="".join(order), candidate=columns["candidate"], baseline=columns["baseline"])
    return ChildResult(samples=samples, setup_s=setup_s, sampling_s=took_s)


def _known_well(primary: Metric, taken: dict[Side, list[dict[str, float]]]) -> bool:
    """Whether the effect on the primary metric is known better, within this process, than its smallest effect asks."""
    columns = {side: {primary.name: [values[primary.name] for values in rows]} for side, rows in taken.items()}
    samples = Samples(paired=True, order="", candidate=columns["candidate"], baseline=columns["baseline"])
    scale = scale_for(primary, [samples], ())
    return scale is not None and 2 * process_effect(primary, scale, samples).error <= TIGHT * scale.least


@contextmanager
def _side(side: Side) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        raise SideFailed(side, error) from error


def _next(generator: Iterator[Any], side: Side, taken: int, metrics: list[str]) -> dict[str, float]:
    try:
        values = next(generator)
    except StopIteration:
        raise BadMetrics(
            f"The measure function stopped after {taken} samples of the {side}: expected it to yield for as long as it "
            "is asked; loop forever around the yield."
        ) from None
    return _checked(values, metrics)


def _checked(values: Any, metrics: list[str]) -> dict[str, float]:
    if not isinstance(values, Mapping):
        raise BadMetrics(f"The measure function gave {type(values).__name__}: expected a dict of metric name to number.")
    missing = [name for name in metrics if name not in values]
    if missing:
        raise BadMetrics(
            f"The measure function gave no {', '.join(map(repr, missing))}: the series declares "
            f"{', '.join(map(repr, metrics))}, found {', '.join(map(repr, values)) or 'nothing'}."
        )
    for name in values:
        if not isinstance(name, str) or not name.isprintable():
            raise BadMetrics(f"A metric is named {name!r}: expected printable text, such as 'time_s'.")
    return {name: _number(name, value) for name, value in values.items()}


def _number(name: str, value: Any) -> float:
    # NumPy and JAX scalars know how to become a float; their booleans do too, and count nothing.
    kind = getattr(getattr(value, "dtype", None), "kind", "")
    number = None
    if not isinstance(value, bool | str | bytes) and kind not in ("b", "c"):
        with suppress(TypeError, ValueError, OverflowError):
            number = float(value)
    if number is None:
        raise BadMetrics(f"Metric {name!r} is {value!r} ({type(value).__name__}): expected a number.")
    if not math.isfinite(number):
        raise BadMetrics(f"Metric {name!r} is {number}: expected a finite number.")
    return number


def _columns(rows: list[dict[str, float]]) -> dict[str, list[float]]:
    names = {name for row in rows for name in row}
    uneven = sorted(name for name in names if any(name not in row for row in rows))
    if uneven:
        raise BadMetrics(f"Metric {uneven[0]!r} is in some samples and not in others: give the same metrics each time.")
    return {name: [row[name] for row in rows] for name in sorted(names)}
