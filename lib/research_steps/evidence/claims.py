"""Claims: what records say of a candidate against the baseline, by rule and from records alone.

A step that measures makes its claims when it is recorded; reading them computes nothing. Later evidence makes new claims
about the same thing; which of them count is told by `standing`.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from research_steps.evidence.standing import DECIDED, together
from research_steps.evidence.statistics import (
    Interval,
    estimand,
    medians,
    noise_floor,
    paired_interval,
    process_effect,
    unpaired_interval,
    verdict,
)
from research_steps.journal.snapshot import Snapshot
from research_steps.records.conditions import conditions
from research_steps.records.configurations import differences
from research_steps.records.encoding import Stored
from research_steps.records.model import (
    Claim,
    Confidence,
    Floor,
    InterruptedRecord,
    Ref,
    Samples,
    TrialRecord,
    Verdict,
)
from research_steps.records.series import Metric, Series

# A slip in the code of the experiment, and no property of what was measured.
ROUTINE = frozenset(
    (
        *("SyntaxError", "IndentationError", "TabError", "NameError", "UnboundLocalError", "AttributeError"),
        *("CodeChanged", "BadMetrics"),
    )
)
CONTENDED = "contended"
ROUTINE_NOTE = "routine: "
# A baseline that differs by more than this share from what it was, after an edit, is not what it was.
BASELINE_MOVED = 0.2

Ended = Stored[TrialRecord] | Stored[InterruptedRecord]


@dataclass(frozen=True)
class Candidate:
    """What is compared with the baseline case: `changes` to it, the `trials` that the interval rests on, and those
    `also` measured before, which chose the candidate and so can't be counted for it."""

    changes: dict[str, Any]
    trials: Sequence[Ended]
    also: Sequence[Ended] = ()


@dataclass(frozen=True)
class Baseline:
    """The baseline case, its entry, and that one's trials: the case against itself, or alone where nothing is paired."""

    case: dict[str, Any]
    entry: Ref
    trials: Sequence[Ended]


def make_claims(series: Series, baseline: Baseline, candidates: Sequence[Candidate]) -> tuple[Claim, ...]:
    """One claim for each candidate and metric; the error is shared out over the candidates that were measured."""
    measured = sum(any(_succeeded(trial) for trial in one.trials) for one in candidates)
    return tuple(
        _claim(metric, baseline, candidate, max(1, measured)) for candidate in candidates for metric in series.metrics
    )


def floor_of(series: Series, trials: Sequence[Ended]) -> dict[str, Floor]:
    """The noise floor of each metric, from undisturbed trials of the baseline against itself."""
    found = {}
    for metric in series.metrics:
        samples = [one for one in _samples(usable(metric, trials)) if one.paired]
        floor = noise_floor(metric, samples)
        if floor is not None:
            found[metric.name] = floor
    return found


def incomparable(one: TrialRecord, other: TrialRecord) -> dict[str, tuple[Any, Any]]:
    """What differs between two trials besides their configurations, with both values. Empty: they can be compared."""
    pairs: dict[str, tuple[Any, Any]] = dict(differences(conditions(one), conditions(other)))
    devices = tuple(_devices(record) for record in (one, other))
    pairs["measure function"] = (one.measure, other.measure)
    pairs["code"] = (one.code[:12], other.code[:12])
    # A child that started no backend says nothing of its devices.
    if all(devices):
        pairs["devices"] = (devices[0], devices[1])
    return {name: values for name, values in pairs.items() if values[0] != values[1]}


def remade(series: Series, known: Snapshot, claims: Sequence[Claim], gone: frozenset[str]) -> tuple[Claim, ...]:
    """These claims again, without the records that are `gone` (by hash)."""
    metrics = {metric.name: metric for metric in series.metrics}
    again = []
    for claim in claims:
        if claim.metric not in metrics:
            continue
        floor = known.baseline_trials(claim.baseline) if claim.baseline.sha256 not in gone else ()
        baseline = Baseline(claim.case, claim.baseline, _left(known, floor, gone))
        trials, also = _left(known, claim.trials, gone), _left(known, claim.also, gone)
        # Where only what chose the candidate is left, that is what there is to go by.
        candidate = Candidate(claim.changes, trials, also) if trials else Candidate(claim.changes, also)
        again.append(_claim(metrics[claim.metric], baseline, candidate, claim.candidates))
    return together(series, again)


def _claim(metric: Metric, baseline: Baseline, candidate: Candidate, candidates: int) -> Claim:
    said = _judge(metric, baseline, candidate, candidates)
    interval = said.interval
    ends = interval.ends if interval else None
    return Claim(
        metric=metric.name,
        changes=candidate.changes,
        case=baseline.case,
        baseline=baseline.entry,
        trials=tuple(trial.ref for trial in candidate.trials),
        also=tuple(trial.ref for trial in candidate.also),
        estimand=interval.estimand if interval else "ratio",
        estimate=interval.shown(interval.center) if interval else None,
        low=ends[0] if ends else None,
        high=ends[1] if ends else None,
        processes=interval.processes if interval else 0,
        floor_processes=interval.floor_processes if interval else 0,
        candidates=candidates,
        min_effect=metric.min_effect,
        method=interval.method if interval else "none",
        verdict=said.verdict,
        confidence=said.confidence,
        why=said.why,
    )


@dataclass(frozen=True)
class _Said:
    verdict: Verdict
    why: str = ""
    interval: Interval | None = None
    confidence: Confidence = "exploratory"


def _judge(metric: Metric, baseline: Baseline, candidate: Candidate, candidates: int) -> _Said:
    good, floor = _reporting(metric, candidate.trials), _reporting(metric, baseline.trials)
    if not good:
        return _Said("failed", _failure(candidate.trials))
    differ = {name: pair for record in good for name, pair in _against(record, floor).items()}
    if differ:
        return _Said(
            "not comparable", "; ".join(f"{name}: {mine} | {theirs}" for name, (mine, theirs) in differ.items())
        )
    undisturbed, quiet = _undisturbed(metric, good), _undisturbed(metric, floor)
    if not undisturbed:
        # What was measured beside other load is shown, and supports nothing.
        loaded = _interval(metric, good, floor, candidates)
        loaded = loaded and replace(loaded, low=-math.inf, high=math.inf)
        return _Said("inconclusive", f"{CONTENDED}: {good[0].contended}", loaded)
    interval = _interval(metric, undisturbed, quiet, candidates)
    if interval is None:
        return _Said("inconclusive", "no undisturbed process of the baseline to compare with")
    found = verdict(metric, interval)
    if found == "inconclusive":
        return _Said(found, _open(interval), interval)
    if len(good) < len(candidate.trials):
        lost = len(candidate.trials) - len(good)
        return _Said(found, f"{lost} of its processes gave nothing: {_failure(candidate.trials)}", interval)
    before = [one for one in usable(metric, candidate.also) if not _against(one, floor)]
    return _Said(found, "", interval, _confidence(metric, interval, found, [*undisturbed, *before], quiet))


def _interval(
    metric: Metric, trials: Sequence[TrialRecord], floor: Sequence[TrialRecord], candidates: int
) -> Interval | None:
    mine, theirs = _samples(trials), _samples(floor)
    if all(samples.paired for samples in mine):
        return paired_interval(metric, mine, [one for one in theirs if one.paired], candidates)
    return unpaired_interval(metric, mine, theirs, candidates) if theirs else None


def _open(interval: Interval) -> str:
    if math.isfinite(interval.low):
        return "the interval leaves it open: more processes, or longer sampling"
    return "too few undisturbed processes to know how they spread: replicate it, and the baseline"


def _confidence(
    metric: Metric, interval: Interval, found: Verdict, trials: Sequence[TrialRecord], floor: Sequence[TrialRecord]
) -> Confidence:
    if found not in DECIDED or len(trials) < 2 or any(one.mode == "dev" for one in trials):
        return "exploratory"
    samples, null = _samples(trials), [one for one in _samples(floor) if one.paired]
    if not all(one.paired for one in samples):
        return "replicated" if interval.processes >= 2 else "exploratory"
    for one in samples:
        effect = process_effect(metric, estimand(metric, [one]), one).mean
        if found == "no difference":
            alone = paired_interval(metric, [one], null)
            agrees = alone.low <= 0 <= alone.high
        else:
            agrees = math.copysign(1, effect) == math.copysign(1, interval.center)
        if not agrees:
            return "exploratory"
    return "replicated"


def _against(record: TrialRecord, floor: Sequence[TrialRecord]) -> Mapping[str, tuple[Any, Any]]:
    apart = incomparable(record, floor[0]) if floor else {}
    if record.mode == "dev" and record.samples is not None and record.samples.paired and "code" in apart:
        # The baseline was measured by the same code in the same process; the floor only tells how processes scatter.
        del apart["code"]
        apart |= _baseline_moved(record.samples, floor[0].samples)
    return apart


def _baseline_moved(samples: Samples, floor: Samples | None) -> dict[str, tuple[Any, Any]]:
    """Metrics in which the baseline itself is another one since the code was edited: what is better than it then need
    not be better than it was."""
    now, then = medians(samples.baseline), medians(floor.baseline if floor else {})
    pairs = {name: (value, then[name]) for name, value in now.items() if then.get(name)}
    return {
        f"the baseline's own {name}": (f"{value:.4g}", f"{was:.4g}")
        for name, (value, was) in pairs.items()
        if abs(value - was) > BASELINE_MOVED * abs(was)
    }


def usable(metric: Metric, trials: Iterable[Ended]) -> list[TrialRecord]:
    """The trials that succeeded, measured the metric, and were not disturbed in it."""
    return _undisturbed(metric, _reporting(metric, trials))


def _undisturbed(metric: Metric, records: Sequence[TrialRecord]) -> list[TrialRecord]:
    return [record for record in records if not (metric.timed and record.contended)]


def _reporting(metric: Metric, trials: Iterable[Ended]) -> list[TrialRecord]:
    """The trials that succeeded and measured the metric, which the series may have declared later."""
    records = (trial.record for trial in trials)
    return [
        one for one in records if isinstance(one, TrialRecord) and one.samples and metric.name in one.samples.candidate
    ]


def _samples(records: Sequence[TrialRecord]) -> list[Samples]:
    return [record.samples for record in records if record.samples is not None]


def _failure(trials: Sequence[Ended]) -> str:
    for trial in trials:
        record = trial.record
        if isinstance(record, InterruptedRecord):
            return f"interrupted: {record.reason}"
        if record.error is not None:
            return f"{record.error.type}: {(record.error.message.splitlines() or [''])[0]}"
    return "nothing that was measured of it is left"


def is_routine(record: TrialRecord) -> bool:
    """Whether a trial failed by a slip in its code, which says nothing about the candidate."""
    return record.error is not None and record.error.type in ROUTINE


def _succeeded(trial: Ended) -> bool:
    return isinstance(trial.record, TrialRecord) and trial.record.samples is not None


def _devices(record: TrialRecord) -> str:
    return ", ".join(f"{device.count} × {device.backend} {device.kind}" for device in record.devices)


def _left(known: Snapshot, refs: Iterable[Ref], gone: frozenset[str]) -> list[Ended]:
    return [*known.trials_of(ref for ref in refs if ref.sha256 not in gone)]
