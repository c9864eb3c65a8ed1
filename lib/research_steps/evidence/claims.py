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
    measured = sum(any(map(_succeeded, candidate.trials)) for candidate in candidates)
    return tuple(
        _claim(metric, baseline, candidate, max(1, measured)) for candidate in candidates for metric in series.metrics
    )


def floor_of(series: Series, trials: Sequence[Ended]) -> dict[str, Floor]:
    """The noise floor of each metric, from undisturbed trials of the baseline against itself."""
    floors = {metric.name: noise_floor(metric, _paired(usable(metric, trials))) for metric in series.metrics}
    return {name: floor for name, floor in floors.items() if floor is not None}


def incomparable(record: TrialRecord, other: TrialRecord) -> dict[str, tuple[Any, Any]]:
    """What differs between two trials besides their configurations, with both values. Empty: they can be compared."""
    pairs: dict[str, tuple[Any, Any]] = dict(differences(conditions(record), conditions(other)))
    mine, theirs = (", ".join(map(str, trial.devices)) for trial in (record, other))
    pairs["measure function"] = (record.measure, other.measure)
    pairs["code"] = (record.code[:12], other.code[:12])
    # A child that started no backend says nothing of its devices.
    if mine and theirs:
        pairs["devices"] = (mine, theirs)
    return {name: values for name, values in pairs.items() if values[0] != values[1]}


def remade(series: Series, snapshot: Snapshot, claims: Sequence[Claim], retracted: frozenset[str]) -> tuple[Claim, ...]:
    """These claims again, without the records that are `retracted` (by hash)."""
    metrics = {metric.name: metric for metric in series.metrics}
    again = []
    for claim in claims:
        if claim.metric not in metrics:
            continue
        floor = snapshot.baseline_trials(claim.baseline) if claim.baseline.sha256 not in retracted else ()
        baseline = Baseline(claim.case, claim.baseline, _left(snapshot, floor, retracted))
        trials, also = _left(snapshot, claim.trials, retracted), _left(snapshot, claim.also, retracted)
        # Where only what chose the candidate is left, that is what there is to go by.
        candidate = Candidate(claim.changes, trials, also) if trials else Candidate(claim.changes, also)
        again.append(_claim(metrics[claim.metric], baseline, candidate, claim.candidates))
    return together(series, again)


def _claim(metric: Metric, baseline: Baseline, candidate: Candidate, candidates: int) -> Claim:
    judgement = _judge(metric, baseline, candidate, candidates)
    interval = judgement.interval
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
        verdict=judgement.verdict,
        confidence=judgement.confidence,
        why=judgement.why,
    )


@dataclass(frozen=True)
class _Judgement:
    verdict: Verdict
    why: str = ""
    interval: Interval | None = None
    confidence: Confidence = "exploratory"


def _judge(metric: Metric, baseline: Baseline, candidate: Candidate, candidates: int) -> _Judgement:
    good, floor = _reporting(metric, candidate.trials), _reporting(metric, baseline.trials)
    if not good:
        return _Judgement("failed", _failure(candidate.trials))
    differ = {name: pair for record in good for name, pair in _against(record, floor).items()}
    if differ:
        return _Judgement(
            "not comparable", "; ".join(f"{name}: {mine} | {theirs}" for name, (mine, theirs) in differ.items())
        )
    undisturbed, quiet = _undisturbed(metric, good), _undisturbed(metric, floor)
    if not undisturbed:
        # What was measured beside other load is shown, and supports nothing.
        loaded = _interval(metric, good, floor, candidates)
        loaded = loaded and replace(loaded, low=-math.inf, high=math.inf)
        return _Judgement("inconclusive", f"{CONTENDED}: {good[0].contended}", loaded)
    interval = _interval(metric, undisturbed, quiet, candidates)
    if interval is None:
        return _Judgement("inconclusive", "no undisturbed process of the baseline to compare with")
    reached = verdict(metric, interval)
    if reached == "inconclusive":
        return _Judgement(reached, _open(interval), interval)
    if len(good) < len(candidate.trials):
        lost = len(candidate.trials) - len(good)
        return _Judgement(reached, f"{lost} of its processes gave nothing: {_failure(candidate.trials)}", interval)
    before = [record for record in usable(metric, candidate.also) if not _against(record, floor)]
    return _Judgement(reached, "", interval, _confidence(metric, interval, reached, [*undisturbed, *before], quiet))


def _interval(
    metric: Metric, trials: Sequence[TrialRecord], floor: Sequence[TrialRecord], candidates: int
) -> Interval | None:
    mine, theirs = _samples(trials), _samples(floor)
    if all(samples.paired for samples in mine):
        return paired_interval(metric, mine, _paired(floor), candidates)
    return unpaired_interval(metric, mine, theirs, candidates) if theirs else None


def _open(interval: Interval) -> str:
    if math.isfinite(interval.low):
        return "the interval leaves it open: more processes, or longer sampling"
    return "too few undisturbed processes to know how they spread: replicate it, and the baseline"


def _confidence(
    metric: Metric, interval: Interval, reached: Verdict, trials: Sequence[TrialRecord], floor: Sequence[TrialRecord]
) -> Confidence:
    if reached not in DECIDED or len(trials) < 2 or any(trial.mode == "dev" for trial in trials):
        return "exploratory"
    processes = _samples(trials)
    if not all(samples.paired for samples in processes):
        return "replicated" if interval.processes >= 2 else "exploratory"
    for samples in processes:
        effect = process_effect(metric, estimand(metric, [samples]), samples).mean
        if reached == "no difference":
            alone = paired_interval(metric, [samples], _paired(floor))
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
    records = [trial.record for trial in trials if isinstance(trial.record, TrialRecord)]
    return [record for record in records if record.samples and metric.name in record.samples.candidate]


def _samples(records: Sequence[TrialRecord]) -> list[Samples]:
    return [record.samples for record in records if record.samples is not None]


def _paired(records: Sequence[TrialRecord]) -> list[Samples]:
    return [samples for samples in _samples(records) if samples.paired]


def _failure(trials: Sequence[Ended]) -> str:
    for trial in trials:
        record = trial.record
        if isinstance(record, InterruptedRecord):
            return f"interrupted: {record.reason}"
        if record.error is not None:
            return record.error.line
    return "nothing that was measured of it is left"


def is_routine(record: TrialRecord) -> bool:
    """Whether a trial failed by a slip in its code, which says nothing about the candidate."""
    return record.error is not None and record.error.type in ROUTINE


def _succeeded(trial: Ended) -> bool:
    return isinstance(trial.record, TrialRecord) and trial.record.samples is not None


def _left(snapshot: Snapshot, refs: Iterable[Ref], retracted: frozenset[str]) -> list[Ended]:
    return [*snapshot.trials_of(ref for ref in refs if ref.sha256 not in retracted)]
