"""Which trials can be compared: what has to be the same, besides what was tested."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from research_steps.evidence.effects import medians
from research_steps.evidence.statistics import LEVEL, critical
from research_steps.records.conditions import conditions
from research_steps.records.configurations import differences
from research_steps.records.encoding import Stored
from research_steps.records.model import InterruptedRecord, Samples, TrialRecord, Version
from research_steps.records.series import Metric

Ended = Stored[TrialRecord] | Stored[InterruptedRecord]

# A baseline that differs by more than this share from what it is alone is not what it is alone. Times change with the
# machine from one day to the next, which hits both sides of a pair alike.
BASELINE_MOVED, TIMED_BASELINE_MOVED = 0.2, 0.5


def incomparable(record: TrialRecord, other: TrialRecord) -> dict[str, tuple[Any, Any]]:
    """What differs between two trials besides their configurations, with both values. Empty: they can be compared."""
    pairs: dict[str, tuple[Any, Any]] = dict(differences(conditions(record), conditions(other)))
    mine, theirs = (", ".join(map(str, trial.devices)) for trial in (record, other))
    pairs["measure function"] = (record.measure, other.measure)
    # Of a candidate that is another version of the code, the baseline's side has to be the same.
    pairs["code"] = (record.baseline_code[:12], other.baseline_code[:12])
    if _is_paired(record) and _is_paired(other):
        pairs["the baseline's side"] = _where(record), _where(other)
    # A child that started no backend says nothing of its devices.
    if mine and theirs:
        pairs["devices"] = (mine, theirs)
    return {name: values for name, values in pairs.items() if values[0] != values[1]}


def incomparable_with_floor(record: TrialRecord, floor: Sequence[TrialRecord]) -> Mapping[str, tuple[Any, Any]]:
    """The same of a candidate's trial and those of the baseline."""
    apart = incomparable(record, floor[0]) if floor else {}
    if record.mode == "dev" and _is_paired(record) and not isinstance(record.baseline_version, Version):
        # The baseline was measured by the same code in the same process; the floor only tells how processes scatter.
        apart.pop("code", None)
    return apart


def comparable_with(trials: Iterable[Ended], fresh: Iterable[Ended]) -> list[Ended]:
    """Those among earlier trials that count beside fresh ones: measured by the same code in the same way, under the same
    conditions."""
    now = next((trial.record for trial in fresh if isinstance(trial.record, TrialRecord)), None)
    measured = ((trial, trial.record) for trial in trials)
    if now is None:
        return []
    alike = ((trial, record) for trial, record in measured if isinstance(record, TrialRecord))
    same_code = ((trial, record) for trial, record in alike if candidate_code(record) == candidate_code(now))
    return [
        trial for trial, record in same_code if _is_paired(record) == _is_paired(now) and not incomparable(record, now)
    ]


def candidate_code(record: TrialRecord) -> tuple[str | None, ...]:
    """What tells the candidates' code of two trials apart: where sides ran different versions also what else differed,
    such as a library that was edited."""
    is_version = isinstance(record.baseline_version, Version)
    return (record.code, *((record.provenance.commit, record.provenance.patch) if is_version else ()))


def unequal_budgets(
    budgets: Iterable[Metric], trials: Sequence[TrialRecord], floor: Sequence[TrialRecord]
) -> dict[str, tuple[Any, Any]]:
    """The budgets that both sides did not spend alike, with what each spent."""
    unequal: dict[str, tuple[Any, Any]] = {}
    for metric in budgets:
        mine: set[float] = set()
        theirs: set[float] = set()
        for samples in (record.samples for record in trials if record.samples):
            mine.update(samples.candidate.get(metric.name, ()))
            theirs.update(samples.baseline.get(metric.name, ()))
        for samples in (record.samples for record in floor if record.samples):
            theirs.update(samples.candidate.get(metric.name, ()))
        if mine != theirs or len(mine) != 1:
            unequal[metric.name] = _listed(mine), _listed(theirs)
    return unequal


def baseline_moved(metric: Metric, trials: Iterable[Samples], floor: Iterable[Samples]) -> str:
    """That the baseline's side of pairs is not what the baseline is alone, as a sentence: a setting of the whole process
    reached it, or the machine changed. What is better than that need not be better than the baseline.

    Alone it scatters from process to process; it moved where it lies outside of where one more process is to be expected
    (Student's t), and by more than a fifth, or half where it is a time.
    """
    beside = _medians(metric, trials)
    alone = _medians(metric, floor)
    if not beside or not alone:
        return ""
    now, then = statistics.median(beside), statistics.median(alone)
    reach = (TIMED_BASELINE_MOVED if metric.timed else BASELINE_MOVED) * min(abs(then), abs(now))
    if len(alone) > 1:
        reach = max(reach, critical(LEVEL, len(alone) - 1) * statistics.stdev(alone) * (1 + 1 / len(alone)) ** 0.5)
    if abs(now - then) <= reach:
        return ""
    return (
        f"{metric.name} of the baseline was {now:.3g} beside it and {then:.3g} alone: a setting of the whole process "
        "reached it, or the machine changed since; measure the baseline again"
    )


def _medians(metric: Metric, processes: Iterable[Samples]) -> list[float]:
    values = (medians(samples.baseline).get(metric.name) for samples in processes)
    return [value for value in values if value is not None]


def _is_paired(record: TrialRecord) -> bool:
    return record.samples is not None and record.samples.paired


def _where(record: TrialRecord) -> str:
    """Where the baseline's side of a pair ran."""
    version = record.baseline_version
    if not isinstance(version, Version):
        return "in the same process"
    return f"in a process of its own, on {version}"


def _listed(values: Iterable[float]) -> str:
    return ", ".join(f"{value:g}" for value in sorted(values))
