"""Claims made again from the trials that they name, by the rule that made them, and held against what was recorded.

What an older rule made (its `level` is 0) is not made again, because today's rule says other things of the same trials;
of such a claim only the estimate is held against what they show.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import msgspec

from research_steps.evidence.claim_text import changes_text, claim_text
from research_steps.evidence.claims import Baseline, Candidate, claims_on
from research_steps.evidence.comparable import Ended
from research_steps.evidence.error_spending import EACH_TABLE, Spending
from research_steps.evidence.standing import about, standing, together
from research_steps.evidence.statistics import LEVEL
from research_steps.journal.snapshot import Snapshot, retracted
from research_steps.records.configurations import changes_in, configuration_of
from research_steps.records.encoding import Stored, canonical
from research_steps.records.model import Claim, EntryRecord, Ref, TrialRecord
from research_steps.records.series import Metric, Series
from research_steps.records.step_kinds import STEP_KINDS

# What people read of a claim.
_READ = ("estimand", "estimate", "low", "high", "processes", "floor_processes", "verdict", "confidence")
# How far numbers may lie apart that other versions of the numerical libraries computed.
_SAME = 1e-4
_NAMED = 3


@dataclass
class Recomputed:
    """How many claims follow from their trials, and how many an older rule made; in sentences which do `not_follow`, and
    which could not be made again here, and why."""

    following: int = 0
    by_older_rule: int = 0
    not_following: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


def recompute(series: Series | None, known: Snapshot, entries: Iterable[Stored[EntryRecord]]) -> Recomputed:
    """The claims of these entries made again from what is known. Where the `series` is not known, a claim follows that
    some declaration of its metric gives."""
    told = Recomputed()
    for entry in entries:
        claims = entry.record.claims or ()
        if entry.record.step == "interpret":
            _copied(told, series, known, entry.record)
            continue
        for claim, why in zip(claims, map(lambda claim: _unfounded(known, claim), claims), strict=True):
            told.not_following += [f"{_named(entry.record, claim)}: {why}"] if why else []
        founded = [claim for claim in claims if not _unfounded(known, claim)]
        _made_again(told, series, known, entry, founded)
    return told


def unlike(
    series: Series | None, claims: Sequence[Claim], entries: Sequence[EntryRecord]
) -> Iterator[tuple[Claim, str]]:
    """Of claims that are read together from `entries` those that are no claims of these, and why."""
    made = {canonical(_without_confidence(claim)) for entry in entries for claim in entry.claims or ()}
    left = [claim for claim in claims if canonical(_without_confidence(claim)) in made]
    yield from ((claim, "no entry that it rests on makes this claim") for claim in claims if claim not in left)
    wanted = [claim for claim in left if claim.level]
    for declared in _declared(series, claims):
        sure = {about(claim): claim.confidence for claim in together(declared, standing(entries))}
        wanted = [claim for claim in wanted if sure.get(about(claim)) != claim.confidence]
        if not wanted:
            return
    yield from ((claim, "what it rests on does not make it so sure, or says something newer") for claim in wanted)


def _copied(told: Recomputed, series: Series | None, known: Snapshot, entry: EntryRecord) -> None:
    """The claims of an interpretation, which are those of what it reads."""
    claims = entry.claims or ()
    read = [known.entries[ref.sha256].record for ref in entry.inputs if ref.sha256 in known.entries]
    if len(read) < len(entry.inputs):
        lost = ", ".join(ref.id for ref in entry.inputs if ref.sha256 not in known.entries)
        told.unknown += (
            [f"{entry.id}: its claims can't be made again, {lost}, which it reads, is not here"] if claims else []
        )
        return
    wrong = list(unlike(series, claims, read))
    told.not_following += [f"{_named(entry, claim)}: {why}" for claim, why in wrong]
    old = sum(not claim.level for claim in claims)
    told.by_older_rule += old
    told.following += len(claims) - old - len(wrong)


def _unfounded(known: Snapshot, claim: Claim) -> str:
    """Why a claim is not about what was measured, empty where it is."""
    refs = (*claim.trials, *claim.floor)
    lost = [ref.id for ref in refs if ref.sha256 not in known.trials and ref.sha256 not in known.interrupted]
    if lost:
        ids = f"{', '.join(lost[:_NAMED])}{f' and {len(lost) - _NAMED} more' if len(lost) > _NAMED else ''}"
        return f"its trials {ids} are neither in the store nor in git"
    if not claim.trials:
        return "" if claim.verdict == "failed" else "it names no trial"
    others = [trial.record.id for trial in known.trials_of(claim.trials) if not _is_of(claim, trial.record)]
    return f"{', '.join(others[:_NAMED])} measured another configuration" if others else ""


def _is_of(claim: Claim, record: TrialRecord) -> bool:
    """Whether a trial measured what a claim is about, wherever a repetition goes over."""
    changes, case = (configuration_of(part, record.config) for part in (claim.changes, claim.case))
    apart = changes_in(record.config, {**case, **changes})
    return not set(apart) - {claim.over}


def _made_again(
    told: Recomputed, series: Series | None, known: Snapshot, entry: Stored[EntryRecord], claims: Sequence[Claim]
) -> None:
    """The claims of an entry that measured, each table of candidates again."""
    record, left = entry.record, dict(enumerate(claims))
    nearest: dict[int, Claim] = {}
    for number, declared in enumerate(_declared(series, claims)):
        for way in range(_WAYS):
            again = dict(_again(declared, known, entry, claims, way))
            again = dict(zip(again, together(declared, list(again.values())), strict=True))
            for place, claim in [*left.items()]:
                if place in again and _agree(record, claim, again[place]):
                    del left[place]
                    told.unknown += _otherwise(record, claim) if number and series else []
                    told.by_older_rule += not claim.level
                    told.following += bool(claim.level)
                elif place in again:
                    nearest.setdefault(place, again[place])
            if not left:
                return
    for place, claim in left.items():
        if place not in nearest:
            told.unknown.append(f"{_named(record, claim)}: can't be made again, the series declares no such metric now")
        elif claim.baseline.sha256 not in known.entries and not claim.floor and not known.floor_trials(claim):
            told.unknown.append(
                f"{_named(record, claim)}: can't be made again, {claim.baseline.id}, its baseline, is not here"
            )
        else:
            told.not_following.append(f"{_named(record, claim)}: its trials say {_said(nearest[place])}")


# In how many ways the trials of a baseline may have been chosen.
_WAYS = 4


def _floor(known: Snapshot, entry: Stored[EntryRecord], claim: Claim, way: int) -> list[Ended]:
    """The trials of the baseline that a claim was held against: without those that had been taken back by then, or with
    them; and of a reproduction those that the sealed claim had, or those in its own table."""
    refs: Iterable[Ref] = known.floor_trials(claim)
    if way == 0:
        before = [other for other in known.in_order if other.record.finished_at <= entry.record.finished_at]
        gone = retracted(before)
        refs = [ref for ref in refs if not gone & {ref.sha256, claim.baseline.sha256}]
    elif way == 2:
        sealed = standing(other.record for other in known.below(entry))
        refs = next((known.floor_trials(other) for other in sealed if about(other) == about(claim)), ())
    elif way == 3:
        refs = [row.trial for row in entry.record.rows if not row.changes]
    return known.ended_of(refs)


def _again(
    declared: Series, known: Snapshot, entry: Stored[EntryRecord], claims: Sequence[Claim], way: int
) -> Iterator[tuple[int, Claim]]:
    """The claims by their place, made again with the trials of the baseline chosen in this way."""
    metrics = {metric.name: metric for metric in declared.metrics}
    alone = entry.record.step in ("correction", "retraction")
    tables: dict[Any, list[int]] = {}
    for place, claim in enumerate(claims):
        asked = [claim.level, claim.confirmation, claim.look, claim.candidates, claim.min_effect, claim.over]
        floor = [ref.sha256 for ref in claim.floor]
        key = canonical([claim.metric, claim.case, claim.baseline.sha256, floor, asked, place if alone else 0])
        tables.setdefault(key, []).append(place)
    for places in tables.values():
        first = claims[places[0]]
        if first.metric not in metrics:
            continue
        metric = replace(metrics[first.metric], min_effect=first.min_effect)
        against = _floor(known, entry, first, way)
        baseline = Baseline(first.case, first.baseline, against, bool(first.floor), first.over)
        table = [Candidate(claims[at].changes, known.ended_of(claims[at].trials)) for at in places]
        test = Spending(first.level or EACH_TABLE.level, first.confirmation, first.look)
        candidates = first.candidates if first.level else 1
        yield from zip(places, claims_on(declared, metric, baseline, table, candidates, test), strict=True)


def _declared(series: Series | None, claims: Sequence[Claim]) -> Iterator[Series]:
    """The series as it is declared now, then as it may have been when the claims were made. Of one that is not known
    either direction of its metrics."""
    names = dict.fromkeys(claim.metric for claim in claims)
    fields = tuple({name: None for claim in claims for name in claim.case})
    unknown = (
        [Series("unknown", "UNKNOWN", "", [Metric(name, way) for name in names]) for way in ("min", "max")]
        if names
        else []
    )
    for known in [series] if series else unknown:
        for other, variants in product(range(4), (known.variants, fields, ())):
            timed, exact = bool(other & 1), bool(other & 2)
            metrics = [
                replace(metric, timed=metric.timed != timed, exact=metric.exact != exact) for metric in known.metrics
            ]
            yield replace(known, metrics=metrics, variants=variants)


def _agree(entry: EntryRecord, claim: Claim, again: Claim) -> bool:
    """Whether a claim is what its trials say."""
    if not claim.level:
        return _within(claim, again)
    if claim.level > LEVEL or (
        claim.confirmation and claim.level > Spending.for_look(claim.confirmation, claim.look).level
    ):
        return False
    # A claim that was not reproduced is exploratory, whatever its trials say.
    lowered = entry.step == "reproduction" and claim.why.startswith("not reproduced: ")
    again = msgspec.structs.replace(again, confidence="exploratory") if lowered else again
    tabulates = STEP_KINDS[entry.step].tabulates and entry.mode != "dev"
    names = (*_READ, "expected") if tabulates else _READ
    return all(_same(getattr(claim, name), getattr(again, name)) for name in names)


def _within(claim: Claim, again: Claim) -> bool:
    if claim.estimate is None or again.estimate is None or claim.low is None or claim.high is None:
        return claim.verdict != "improved" or again.estimate is not None
    return claim.low <= again.estimate <= claim.high or _same(claim.estimate, again.estimate)


def _same(mine: Any, theirs: Any) -> bool:
    if isinstance(mine, float) and isinstance(theirs, float):
        return math.isclose(mine, theirs, rel_tol=_SAME, abs_tol=1e-9)
    return bool(mine == theirs)


def _otherwise(entry: EntryRecord, claim: Claim) -> list[str]:
    return [f"{_named(entry, claim)}: follows only as the series may have declared it then, which is not as it does now"]


def _named(entry: EntryRecord, claim: Claim) -> str:
    return f"{entry.id}: its claim {claimed(claim)}"


def claimed(claim: Claim) -> str:
    """A claim in a few words, with what it is about and how many processes it counts."""
    return f"{changes_text(claim.changes)}: {claim.metric} {_said(claim)}"


def _said(claim: Claim) -> str:
    return f"{claim_text(claim)}, {claim.processes} process{'' if claim.processes == 1 else 'es'}"


def _without_confidence(claim: Claim) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(msgspec.structs.replace(claim, confidence="exploratory"))
    return fields
