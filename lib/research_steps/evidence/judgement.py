"""What the trials of one candidate and its baseline support in one metric, by rule and from records alone."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from research_steps.evidence.comparable import Ended, baseline_moved, incomparable_with_floor, unequal_budgets
from research_steps.evidence.effects import Scale, levels, process_effect, scale_for
from research_steps.evidence.statistics import (
    EXACT,
    OWN_SPREAD,
    Interval,
    looks_differ,
    paired_interval,
    repeated_interval,
    unpaired_interval,
    verdict,
)
from research_steps.records.encoding import canonical
from research_steps.records.model import Confidence, InterruptedRecord, Samples, TrialRecord, Verdict
from research_steps.records.series import Metric

# A slip in the code of the experiment, and no property of what was measured.
ROUTINE = frozenset(
    (
        *("SyntaxError", "IndentationError", "TabError", "NameError", "UnboundLocalError", "AttributeError"),
        "BadMetrics",
    )
)
CONTENDED = "contended"
ROUTINE_NOTE = "routine: "
IDENTICAL = (
    "identical values are one observation: vary what a repetition would vary, such as a seed, or declare the metric "
    "exact=True where it has no noise"
)
NO_SCALE = "the baseline can't be told from 0, so that a share of it says nothing: give the metric a min_effect_abs"
TOO_FEW = "too few undisturbed processes to know how they spread: replicate it, and the baseline"


@dataclass(frozen=True)
class Judgement:
    """A verdict with its confidence, the interval where there is one, and what the verdict could not say."""

    verdict: Verdict
    why: str = ""
    interval: Interval | None = None
    confidence: Confidence = "exploratory"


def judge(
    metric: Metric,
    trials: Sequence[Ended],
    baseline: Sequence[Ended],
    level: float,
    candidates: int = 1,
    budgets: Sequence[Metric] = (),
    over: str = "",
    table: Sequence[Sequence[Ended]] = (),
) -> Judgement:
    """What is said of a candidate that `trials` measured. `baseline` are trials of the case against itself, or alone;
    `level` is what all `candidates` together may be told wrong. Where repetitions go `over` a field, `table` are the
    trials of the other candidates, which tell how such differences scatter."""
    compare = partial(_interval, metric, level=level, candidates=candidates, over=over, table=table)
    good, floor = reporting(metric, trials), reporting(metric, baseline)
    if not good:
        return Judgement("failed", _failure(metric, trials))
    differ = {name: pair for record in good for name, pair in incomparable_with_floor(record, floor).items()}
    differ |= unequal_budgets(budgets, good, floor)
    if differ:
        return _not_comparable(differ)
    undisturbed, quiet = _undisturbed(metric, good), _undisturbed(metric, floor)
    if not undisturbed:
        return Judgement("inconclusive", f"{CONTENDED}: {good[0].contended}", _shown(compare(good, floor)))
    beside, alone = _paired(undisturbed), _paired(quiet)
    moved = baseline_moved(metric, beside, alone)
    mine, theirs = _distinct(metric, undisturbed), _distinct(metric, quiet)
    interval = compare(mine, theirs)
    if interval is None:
        return Judgement("inconclusive", NO_SCALE if quiet else "no undisturbed process of the baseline to compare with")
    if moved and not _holds_alone(metric, interval, mine, alone):
        return Judgement("not comparable", moved, _shown(compare(undisturbed, quiet)))
    repeated = len(mine) < len(undisturbed) or len(theirs) < len(quiet)
    # What only repeats itself shows no spread, and has one all the same.
    reached = "inconclusive" if repeated and not interval.error else verdict(metric, interval)
    if reached == "inconclusive":
        return Judgement(reached, _open(interval, repeated, level), interval)
    failed = [trial for trial in trials if isinstance(trial.record, TrialRecord) and trial.record.error is not None]
    if failed:
        return Judgement(reached, f"{len(failed)} of its processes failed: {_failure(metric, failed)}", interval)
    if any(record.mode == "dev" for record in mine):
        return Judgement(reached, "", interval)
    if moved and all(baseline_moved(metric, [process], alone) for process in beside):
        # Where it moved in some processes alone, no setting of the candidate did that, but the machine.
        return Judgement(reached, moved, interval)
    return _sure(metric, reached, interval, mine, theirs, over)


def usable(metric: Metric, trials: Iterable[Ended]) -> list[TrialRecord]:
    """The trials that succeeded, measured the metric, and were not disturbed in it."""
    return _undisturbed(metric, reporting(metric, trials))


def reporting(metric: Metric, trials: Iterable[Ended]) -> list[TrialRecord]:
    """The trials that succeeded and measured the metric, which the series may have declared later."""
    records = [trial.record for trial in trials if isinstance(trial.record, TrialRecord)]
    return [record for record in records if record.samples and metric.name in record.samples.candidate]


def is_routine(record: TrialRecord) -> bool:
    """Whether a trial failed by a slip in its code, which says nothing about the candidate."""
    return record.error is not None and record.error.type in ROUTINE


def _sure(
    metric: Metric,
    reached: Verdict,
    interval: Interval,
    trials: Sequence[TrialRecord],
    floor: Sequence[TrialRecord],
    over: str,
) -> Judgement:
    """How sure a verdict is: replicated, where enough processes of the candidate measured it and its looks agree."""
    needed = 2 if interval.method == EXACT else OWN_SPREAD
    if interval.processes < needed or (not _all_paired(trials) and interval.floor_processes < needed):
        # One process alone was never meant to be more.
        what = f"values of {over}" if over else "processes"
        why = f"it takes {needed} {what} to be replicated" if interval.processes > 1 else ""
        return Judgement(reached, why, interval)
    looks: dict[str, list[TrialRecord]] = {}
    for record in trials:
        looks.setdefault(record.id.partition(".")[0], []).append(record)
    if _all_paired(trials):
        null = _effects(metric, interval.scale, _paired(floor))
        groups = [_effects(metric, interval.scale, _samples(look)) for look in looks.values()]
    elif over:
        null, groups = [], [matched(metric, interval.scale, look, floor, over) for look in looks.values()]
    else:
        null, groups = [], [levels(metric, interval.scale, _samples(look)) for look in looks.values()]
    means = [statistics.fmean(group) for group in groups if group]
    if max(means) - min(means) > interval.scale.least and looks_differ(groups, null):
        return Judgement(reached, "its looks differ by more than its processes scatter (F test, 1 %)", interval)
    return Judgement(reached, "", interval, "replicated")


def _holds_alone(metric: Metric, interval: Interval, trials: Sequence[TrialRecord], alone: Sequence[Samples]) -> bool:
    """Whether the candidate is that much better, or worse, than the baseline alone too, and not just beside it."""
    mine, theirs = (levels(metric, interval.scale, side) for side in (_samples(trials), alone))
    effect, least = statistics.fmean(mine) - statistics.fmean(theirs), interval.scale.least
    return min(abs(effect), abs(interval.center)) >= least and effect * interval.center > 0


def matched(
    metric: Metric, scale: Scale, trials: Iterable[TrialRecord], floor: Iterable[TrialRecord], over: str
) -> list[float]:
    """The differences of a candidate to the baseline at each value of a field at which both were measured."""
    mine, theirs = _levels_at(metric, scale, trials, over), _levels_at(metric, scale, floor, over)
    return [mine[value] - theirs[value] for value in mine if value in theirs]


def _levels_at(metric: Metric, scale: Scale, records: Iterable[TrialRecord], over: str) -> dict[bytes, float]:
    values: dict[bytes, list[float]] = {}
    for record in records:
        configuration = record.config
        values.setdefault(canonical(configuration.get(over)), []).extend(levels(metric, scale, _samples([record])))
    return {value: statistics.fmean(measured) for value, measured in values.items()}


def _interval(
    metric: Metric,
    trials: Sequence[TrialRecord],
    floor: Sequence[TrialRecord],
    level: float,
    candidates: int,
    over: str,
    table: Sequence[Sequence[Ended]],
) -> Interval | None:
    """Where the effect lies; None with nothing to compare with, or no scale to tell it on."""
    mine, theirs = _samples(trials), _samples(floor)
    if over and theirs and not _all_paired(trials):
        others = [usable(metric, other) for other in table]
        scale = scale_for(metric, [*mine, *(samples for other in others for samples in _samples(other))], theirs)
        differences = [matched(metric, scale, side, floor, over) for side in (trials, *others)] if scale else []
        if scale is None or not differences[0]:
            return None
        return repeated_interval(scale, differences[0], differences[1:], level, candidates)
    if _all_paired(trials):
        scale = scale_for(metric, mine, _paired(floor))
        return paired_interval(metric, scale, mine, _paired(floor), level, candidates) if scale else None
    scale = scale_for(metric, mine, theirs) if theirs else None
    return unpaired_interval(metric, scale, mine, theirs, level, candidates) if scale else None


def _open(interval: Interval, repeated: bool, level: float) -> str:
    if repeated:
        return IDENTICAL
    if interval.half < abs(interval.center) and abs(interval.center) >= interval.scale.least:
        return f"after all that was looked at before, chance may make it once in {1 / level:.0f} times: more processes"
    return "the interval leaves it open: more processes, or longer sampling" if interval.ends else TOO_FEW


def _not_comparable(differ: Mapping[str, tuple[Any, Any]], interval: Interval | None = None) -> Judgement:
    told = "; ".join(f"{name}: {mine} | {theirs}" for name, (mine, theirs) in differ.items())
    return Judgement("not comparable", told, interval)


def _shown(interval: Interval | None) -> Interval | None:
    """What was measured where it supports nothing: its estimate, and no ends."""
    return interval and replace(interval, half=math.inf, tested=math.inf, narrow=math.inf)


def _distinct(metric: Metric, records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """The records without those that repeat another one's values bit for bit: of one configuration that is no second
    observation, unless the metric is exact."""
    if metric.exact:
        return list(records)
    observations: dict[bytes, TrialRecord] = {}
    for record in records:
        sides = (record.samples.candidate, record.samples.baseline) if record.samples else ()
        observed = [record.config, record.baseline_config, *(side.get(metric.name) for side in sides)]
        observations.setdefault(canonical(observed), record)
    return list(observations.values())


def _undisturbed(metric: Metric, records: Sequence[TrialRecord]) -> list[TrialRecord]:
    return [record for record in records if not (metric.timed and record.contended)]


def _effects(metric: Metric, scale: Scale, processes: Iterable[Samples]) -> list[float]:
    return [process_effect(metric, scale, samples).mean for samples in processes]


def _samples(records: Iterable[TrialRecord]) -> list[Samples]:
    return [record.samples for record in records if record.samples is not None]


def _paired(records: Iterable[TrialRecord]) -> list[Samples]:
    return [samples for samples in _samples(records) if samples.paired]


def _all_paired(records: Iterable[TrialRecord]) -> bool:
    return all(samples.paired for samples in _samples(records))


def _failure(metric: Metric, trials: Sequence[Ended]) -> str:
    for trial in trials:
        record = trial.record
        if isinstance(record, InterruptedRecord):
            return f"interrupted: {record.reason}"
        if record.error is not None:
            return record.error.line
        if metric.name in (record.without or {}):
            return f"it was {(record.without or {})[metric.name]}"
    return "nothing that was measured of it is left"
