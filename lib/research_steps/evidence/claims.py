"""Claims: what records say of a candidate against the baseline, by rule and from records alone.

A step that measures makes its claims when it is recorded; reading them computes nothing. Later evidence makes new claims
about the same thing; which of them count is told by `standing`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import msgspec

from research_steps.evidence.comparable import Ended
from research_steps.evidence.error_spending import EACH_TABLE, Spending
from research_steps.evidence.judgement import Judgement, judge, usable
from research_steps.evidence.standing import together
from research_steps.evidence.statistics import expected_on_replication, noise_floor
from research_steps.journal.snapshot import Snapshot
from research_steps.records.model import Claim, Floor, Ref, TrialRecord
from research_steps.records.series import Metric, Series


@dataclass(frozen=True)
class Candidate:
    """What is compared with the baseline case: `changes` to it, the `trials` that the interval rests on, from all looks
    since it was chosen, and those `also` measured before, which chose it and so can't be counted for it."""

    changes: dict[str, Any]
    trials: Sequence[Ended]
    also: Sequence[Ended] = ()


@dataclass(frozen=True)
class Baseline:
    """The baseline case, its entry, and trials of the case against itself, or alone where nothing is paired: those of
    that entry, or, at a variant, those that were measured `beside` the candidates, in their table. Repetitions go `over`
    a field, or over nothing but processes."""

    case: dict[str, Any]
    entry: Ref
    trials: Sequence[Ended]
    beside: bool = False
    over: str = ""


def make_claims(
    series: Series, baseline: Baseline, candidates: Sequence[Candidate], spending: Spending = EACH_TABLE
) -> tuple[Claim, ...]:
    """One claim for each candidate and each metric that is a result.

    The candidates that were measured share the error that may be spent. The primary metric has all of it, and the others
    share as much again.
    """
    measured = sum(any(map(_succeeded, candidate.trials)) for candidate in candidates)
    results = [metric for metric in series.metrics if not metric.budget]
    columns = []
    for metric in results:
        level = spending.level if metric == series.primary else spending.level / (len(results) - 1)
        test = replace(spending, level=level)
        columns.append(claims_on(series, metric, baseline, candidates, max(1, measured), test))
    return tuple(claim for row in zip(*columns, strict=True) for claim in row)


def floor_of(series: Series, trials: Sequence[Ended]) -> dict[str, Floor]:
    """The noise floor of each metric, from undisturbed trials of the baseline against itself."""
    floors = {}
    for metric in series.metrics:
        samples = [record.samples for record in usable(metric, trials)]
        floors[metric.name] = noise_floor(metric, [paired for paired in samples if paired and paired.paired])
    return {name: floor for name, floor in floors.items() if floor is not None}


def remade(series: Series, snapshot: Snapshot, claims: Sequence[Claim], retracted: frozenset[str]) -> tuple[Claim, ...]:
    """These claims again, without the records that are `retracted` (by hash)."""
    metrics = {metric.name: metric for metric in series.metrics}
    again = []
    for claim in claims:
        if claim.metric not in metrics:
            continue
        floor = snapshot.floor_trials(claim) if claim.baseline.sha256 not in retracted else ()
        baseline = Baseline(claim.case, claim.baseline, _left(snapshot, floor, retracted), bool(claim.floor), claim.over)
        trials, also = _left(snapshot, claim.trials, retracted), _left(snapshot, claim.also, retracted)
        # Where only what chose the candidate is left, that is what there is to go by.
        candidate = Candidate(claim.changes, trials, also) if trials else Candidate(claim.changes, also)
        test = Spending(claim.level or EACH_TABLE.level, claim.confirmation, claim.look)
        again += claims_on(series, metrics[claim.metric], baseline, [candidate], claim.candidates, test)
    return together(series, again)


def claims_on(
    series: Series,
    metric: Metric,
    baseline: Baseline,
    candidates: Sequence[Candidate],
    measured: int,
    test: Spending,
) -> list[Claim]:
    """The claims on one metric, of candidates of which so many were `measured`."""
    budgets = [metric for metric in series.metrics if metric.budget]
    compare = partial(judge, metric, level=test.level, candidates=measured, budgets=budgets, over=baseline.over)
    judged = []
    for candidate in candidates:
        table = [other.trials for other in candidates if other is not candidate]
        judged.append(compare(candidate.trials, baseline.trials, table=table))
    claims = [
        _claim(metric, baseline, candidate, judgement, measured, test)
        for candidate, judgement in zip(candidates, judged, strict=True)
    ]
    ended = {
        place: judgement.interval
        for place, judgement in enumerate(judged)
        if judgement.interval is not None and judgement.interval.ends
    }
    expected = expected_on_replication([*ended.values()]) or ()
    for (place, interval), effect in zip(ended.items(), expected, strict=False):
        claims[place] = msgspec.structs.replace(claims[place], expected=interval.scale.shown(effect))
    return claims


def _claim(
    metric: Metric, baseline: Baseline, candidate: Candidate, judgement: Judgement, measured: int, test: Spending
) -> Claim:
    interval = judgement.interval
    ends = interval.ends if interval else None
    return Claim(
        metric=metric.name,
        changes=candidate.changes,
        case=baseline.case,
        baseline=baseline.entry,
        trials=tuple(trial.ref for trial in candidate.trials),
        also=tuple(trial.ref for trial in candidate.also),
        estimand=interval.scale.estimand if interval else "ratio",
        estimate=interval.scale.shown(interval.center) if interval else None,
        low=ends[0] if ends else None,
        high=ends[1] if ends else None,
        processes=interval.processes if interval else 0,
        floor_processes=interval.floor_processes if interval else 0,
        candidates=measured,
        min_effect=metric.min_effect,
        method=interval.method if interval else "none",
        verdict=judgement.verdict,
        confidence=judgement.confidence,
        why=judgement.why,
        level=test.level,
        floor=tuple(trial.ref for trial in baseline.trials) if baseline.beside else (),
        confirmation=test.confirmation,
        look=test.look,
        over=baseline.over,
    )


def _succeeded(trial: Ended) -> bool:
    return isinstance(trial.record, TrialRecord) and trial.record.samples is not None


def _left(snapshot: Snapshot, refs: Iterable[Ref], retracted: frozenset[str]) -> list[Ended]:
    return [*snapshot.trials_of(ref for ref in refs if ref.sha256 not in retracted)]
