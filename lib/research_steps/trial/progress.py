"""How far a trial is, as it tells while it runs: a line for each step in its directory, which outlasts its process.

Measures tell it with `progress`. What Levanter's `json_logger` tracker logs is taken from there, so that a training by
Marin needs nothing more. The lines are the trial's curve in the end, of all attempts together.
"""

import json
import logging
import math
import os
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from research_steps.errors import BadMetrics, UsageError
from research_steps.records.numbers import quantity
from research_steps.records.times import duration
from research_steps.trial.directory import PROGRESS, trial_directory

# Of what Levanter logs, how far it is of the whole.
_SHARE = "run_progress"
# How much of the file is read to tell how far a trial is (bytes), and how many metrics are told.
_TAIL, _TOLD = 1 << 16, 4
# What a record holds of the curve: so many metrics, and so many points of each.
CURVES, POINTS = 20, 200

Curve = list[tuple[int, float]]


class LoggedStep(msgspec.Struct, frozen=True):
    """What one call has told. A metric that was no finite number is null; `at` is in seconds since 1970."""

    step: int
    at: float
    metrics: dict[str, float | None]
    of: int | None = None


def progress(step: int, of: int | None = None, **metrics: float) -> None:
    """Tell from within a trial how far it is: at this step `of` so many, with these metrics. It is shown while the trial
    runs, and becomes the curve of its record. Raises UsageError outside of a trial, and for what is no number."""
    try:
        _tell(step, of, {name: float(value) for name, value in metrics.items()})
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"progress() was given what is no number ({error}): expected steps and metrics as numbers."
        ) from error


def _tell(step: int, of: int | None, metrics: Mapping[str, float]) -> None:
    finite = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
    line = msgspec.json.encode(LoggedStep(int(step), time.time(), finite, None if of is None else int(of)))
    file = os.open(os.path.join(trial_directory(), PROGRESS), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, line + b"\n")
    finally:
        os.close(file)


class LevanterLog(logging.Handler):
    """Takes what Levanter's `json_logger` tracker logs for progress."""

    def emit(self, record: logging.LogRecord) -> None:
        # What logs may be anything, and a training is not to end by it.
        with suppress(ValueError, TypeError, KeyError, OSError, UsageError):
            logged = json.loads(record.getMessage())
            if logged["event"] == "log" and logged["step"] is not None:
                metrics = dict(numbers_in(logged["metrics"]))
                step, share = int(logged["step"]), metrics.pop(_SHARE, 0.0)
                metrics.pop("global_step", None)
                _tell(step, round(step / share) if share > 0 else None, metrics)


def hear_levanter() -> None:
    """Take for progress in this process what Levanter logs, where it does so as JSON."""
    logging.getLogger("levanter.json_logger").addHandler(LevanterLog())


def numbers_in(metrics: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, float]]:
    """The numbers of what a tracker logged, each by its name, with '/' where that lies below another."""
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            yield from numbers_in(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{prefix}{name}", float(value)


@dataclass(frozen=True)
class Reached:
    """How far a trial is: at a step `of` so many, if it says so; its latest metrics, and steps a second."""

    step: int
    of: int | None
    metrics: dict[str, float | None]
    rate: float | None

    def __str__(self) -> str:
        shown = sorted(self.metrics, key=lambda name: ("loss" not in name, "tokens" not in name))[:_TOLD]
        parts = [f"step {self.step}" + (f" of {self.of}" if self.of else "")]
        for name in shown:
            value = self.metrics[name]
            parts.append(f"{name} {'no finite number' if value is None else quantity(name, value)}")
        parts += [f"{self.rate:.3g} steps/s"] if self.rate else []
        parts += [f"about {duration((self.of - self.step) / self.rate)} left"] if self.of and self.rate else []
        return ", ".join(parts)


def reached(folder: str | Path, since: float = 0.0) -> Reached | None:
    """How far a side is that keeps its files there, by what it has told `since`; None where it has told nothing."""
    lines = [line for line in _lines(folder, _TAIL) if line.at >= since]
    if not lines:
        return None
    metrics: dict[str, float | None] = {}
    for line in lines:
        metrics |= line.metrics
    first, last = lines[0], lines[-1]
    took = last.at - first.at
    rate = (last.step - first.step) / took if took > 0 and last.step > first.step else None
    return Reached(last.step, next((line.of for line in reversed(lines) if line.of), None), metrics, rate)


def curves(folder: str | Path, first: Iterable[str]) -> dict[str, Curve]:
    """What a side has told of each metric by step, those named `first` before others; the last, of a step that was done
    again after an interruption. What is much is thinned out; what was no finite number is left out."""
    points: dict[str, dict[int, float | None]] = {name: {} for name in first}
    points |= _by_step(folder)
    told = {name: sorted((step, v) for step, v in values.items() if v is not None) for name, values in points.items()}
    return {name: thinned(curve, POINTS) for name, curve in [item for item in told.items() if item[1]][:CURVES]}


def at_budget(folder: str | Path, metric: str, budget: str, amount: float) -> float:
    """A metric where so much of a budget was spent, by what a side has told: between two steps by a straight line. NaN
    where it was no finite number by then. Raises BadMetrics where it was not told so far."""
    told = _by_step(folder)
    judged = f"Metric {metric!r} is judged at {amount:g} {budget}"
    for name in (metric, budget):
        if not told.get(name):
            names = ", ".join(map(repr, told)) or "nothing"
            raise BadMetrics(
                f"{judged}, and the trial told no {name!r} by step, but {names}: tell it with progress(step, …), or by "
                "Levanter's json_logger tracker."
            )
    spent: dict[float, float] = {step: value for step, value in sorted(told[budget].items()) if value is not None}
    values = {step: math.nan if value is None else value for step, value in sorted(told[metric].items())}
    reached = {step: _between(spent, step) for step in values}
    known = {at: values[step] for step, at in reached.items() if not math.isnan(at)}
    if list(known) != sorted(known):
        raise BadMetrics(f"{judged}, which fell: name what only grows.")
    if not known or not min(known) <= amount <= max(known):
        found = f"from {min(known):g} to {max(known):g}" if known else "at no step where that is known"
        raise BadMetrics(
            f"{judged}, and the trial told it {found}: train so far, or declare a budget that every candidate spends."
        )
    return _between(known, amount)


def _between(curve: Mapping[float, float], at: float) -> float:
    """The value of a curve there, by a straight line; NaN outside of it."""
    import numpy as np

    return float(np.interp(at, list(curve), list(curve.values()), left=math.nan, right=math.nan))


def _by_step(folder: str | Path) -> dict[str, dict[int, float | None]]:
    """What a side has told of each metric at each step, the last of one that was done again."""
    points: dict[str, dict[int, float | None]] = {}
    for line in _lines(folder):
        for name, value in line.metrics.items():
            points.setdefault(name, {})[line.step] = value
    return points


def thinned(curve: Curve, most: int) -> Curve:
    """At most so many points of a curve, evenly spaced, its ends among them."""
    if len(curve) <= most:
        return curve
    return [curve[round(number * (len(curve) - 1) / (most - 1))] for number in range(most)]


def first_beyond(folder: str | Path, name: str, bound: float) -> tuple[int | None, int | None]:
    """The step from which on a metric, or where it isn't told any loss, was no finite number or above a bound until the
    end; and the last step that was told. None where there is none."""
    lines = list(_lines(folder))
    told = {metric for line in lines for metric in line.metrics}
    wanted = {name} & told or {metric for metric in told if metric.rpartition("/")[2] == "loss"}
    since: int | None = None
    for line in lines:
        for metric in wanted & line.metrics.keys():
            value = line.metrics[metric]
            if value is not None and value <= bound:
                since = None
            elif since is None:
                since = line.step
    return since, lines[-1].step if lines else None


def _lines(folder: str | Path, tail: int = 0) -> list[LoggedStep]:
    """What was told there; only what stands in so many bytes at the end, where that is given."""
    try:
        with open(os.path.join(folder, PROGRESS), "rb") as file:
            start = max(0, os.fstat(file.fileno()).st_size - tail) if tail else 0
            file.seek(start)
            raw = file.read().split(b"\n")
    except OSError:
        return []
    lines = []
    # The first may be half a line, and a killed process leaves half a line at its end.
    for data in raw[1:] if start else raw:
        with suppress(msgspec.MsgspecError):
            lines.append(msgspec.json.decode(data, type=LoggedStep))
    return lines
