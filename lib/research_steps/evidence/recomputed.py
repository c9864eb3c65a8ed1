"""Claims made again from the trials that they name, by the rule that made them, and held against what was recorded.

What an older rule made (its `level` is 0) is not made again, because today's rule says other things of the same trials;
of such a claim only the estimate is held against what they show.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from typing import Any

import msgspec

from research_steps.evidence.claims import Baseline, Candidate, claims_on
from research_steps.evidence.error_spending import EACH_TABLE, Spending
from research_steps.evidence.founded import claimed, said, unfounded
from research_steps.evidence.standing import about, standing, together
from research_steps.evidence.statistics import EXACT, LEVEL
from research_steps.journal.snapshot import Snapshot, retracted
from research_steps.records.encoding import Stored, canonical
from research_steps.records.model import Claim, EntryRecord, Ref
from research_steps.records.series import Metric, Series, number_of
from research_steps.records.step_kinds import STEP_KINDS

# What people read of a claim.
_READ = ("estimand", "estimate", "low", "high", "processes", "floor_processes", "verdict", "confidence")
# How far numbers may lie apart that other versions of the numerical libraries computed.
_SAME = 1e-4


@dataclass
class Recomputed:
    """How many claims follow from their trials, and how many an older rule made; in sentences which do `not_follow`, and
    which could not be made again here, and why."""

    following: int = 0
    by_older_rule: int = 0
    not_following: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)

    def count(self, claims: Iterable[Claim]) -> None:
        """Count claims that follow, as far as their rule is that of today."""
        for claim in claims:
            self.following += bool(claim.level)
            self.by_older_rule += not claim.level


def recompute(series: Series, known: Snapshot, entries: Iterable[Stored[EntryRecord]]) -> Recomputed:
    """The claims of these entries made again from what is known."""
    told, declared = Recomputed(), {metric.name for metric in series.metrics}
    there, ended = known.hashes, known.read_trials
    retractions = [entry for entry in known.in_order if entry.record.step == "retraction"]
    for entry in entries:
        record, claims = entry.record, entry.record.claims or ()
        if record.step == "interpret":
            _copied(told, series, known, record)
            continue
        whys = [(claim, unfounded(ended, there, claim)) for claim in claims]
        # What a later version wrote may be what is missing.
        missing = told.unknown if known.newer else told.not_following
        missing += [f"{_named(record, claim)}: {why}" for claim, why in whys if why]
        founded = [claim for claim, why in whys if not why]
        others = [claim for claim in founded if claim.metric not in declared]
        told.unknown += [f"{_named(record, claim)}: how the series declared that is not known here" for claim in others]
        _made_again(told, series, known, retractions, entry, [claim for claim in founded if claim.metric in declared])
    return told


def unlike(series: Series, claims: Sequence[Claim], entries: Sequence[EntryRecord]) -> Iterator[tuple[Claim, str]]:
    """Of claims that are read together from `entries` those that are no claims of these, and why."""
    made = {canonical(_without_confidence(claim)) for entry in entries for claim in entry.claims or ()}
    there = [canonical(_without_confidence(claim)) in made for claim in claims]
    yield from (
        (claim, "no entry that it rests on makes this claim")
        for claim, is_there in zip(claims, there, strict=True)
        if not is_there
    )
    wanted = [claim for claim, is_there in zip(claims, there, strict=True) if is_there and claim.level]
    for declared in _declared(series, claims):
        sure = {about(claim): claim.confidence for claim in together(declared, standing(entries))}
        wanted = [claim for claim in wanted if sure.get(about(claim)) != claim.confidence]
        if not wanted:
            return
    yield from ((claim, "what it rests on does not make it so sure, or says something newer") for claim in wanted)


def _copied(told: Recomputed, series: Series, known: Snapshot, entry: EntryRecord) -> None:
    """The claims of an interpretation, which are those of what it reads."""
    claims = entry.claims or ()
    read = [known.entries[ref.sha256].record for ref in entry.inputs if ref.sha256 in known.entries]
    lost = ", ".join(ref.id for ref in entry.inputs if ref.sha256 not in known.entries)
    if lost and claims:
        missing = told.unknown if known.newer else told.not_following
        missing.append(f"{entry.id}: its claims rest on {lost}, which is neither in the store nor in git")
        return
    wrong = list(unlike(series, claims, read))
    told.not_following += [f"{_named(entry, claim)}: {why}" for claim, why in wrong]
    strange = [claim for claim, _ in wrong]
    told.count(claim for claim in claims if claim not in strange)


def _made_again(
    told: Recomputed,
    series: Series,
    known: Snapshot,
    retractions: Sequence[Stored[EntryRecord]],
    entry: Stored[EntryRecord],
    claims: Sequence[Claim],
) -> None:
    """The claims of an entry that measured, each table of candidates again."""
    record, left = entry.record, dict(enumerate(claims))
    nearest: dict[int, Claim] = {}
    ways = (
        (*way, floor) for way in enumerate(_declared(series, claims)) for floor in _floors(known, retractions, entry)
    )
    for number, declared, floor_of in ways:
        if not left:
            return
        again = dict(_again(declared, known, entry, claims, floor_of))
        again = dict(zip(again, together(declared, list(again.values())), strict=True))
        right = {place: claim for place, claim in left.items() if _agree(record, claim, again[place])}
        told.count(right.values())
        told.unknown += [f"{_named(record, claim)}: {_OTHERWISE}" for claim in right.values() if number]
        left = {place: claim for place, claim in left.items() if place not in right}
        nearest = nearest or again
    for place, claim in left.items():
        lost = f" ({claim.baseline.id}, its baseline, is neither in the store nor in git)"
        why = f"its trials say {said(nearest[place])}{'' if known.floor_trials(claim) else lost}"
        told.not_following.append(f"{_named(record, claim)}: {why}")


_OTHERWISE = "follows only as the series may have declared it then, which is not what is known of it now"


def _floors(
    known: Snapshot, retractions: Sequence[Stored[EntryRecord]], entry: Stored[EntryRecord]
) -> Iterator[Callable[[Claim], Iterable[Ref]]]:
    """Against which trials of the baseline a claim may have been held: those that had not been taken back by then, or
    all of them; of a reproduction also those that an earlier claim had, or those in its own table."""
    number = number_of(entry.record.id)
    gone = retracted(other for other in retractions if number_of(other.record.id) < number)
    yield lambda claim: [ref for ref in known.floor_trials(claim) if not gone & {ref.sha256, claim.baseline.sha256}]
    yield known.floor_trials
    if entry.record.step == "reproduction":
        yield lambda claim: [row.trial for row in entry.record.rows if not row.changes]
        earlier = [other.record for other in known.in_order if number_of(other.record.id) < number]
        for claims in (other.claims for other in earlier if other.claims):
            floors = {about(claim): known.floor_trials(claim) for claim in claims}
            yield partial(_floor_among, floors)


def _floor_among(floors: Mapping[bytes, Iterable[Ref]], claim: Claim) -> Iterable[Ref]:
    return floors.get(about(claim), ())


def _again(
    declared: Series,
    known: Snapshot,
    entry: Stored[EntryRecord],
    claims: Sequence[Claim],
    floor_of: Callable[[Claim], Iterable[Ref]],
) -> Iterator[tuple[int, Claim]]:
    """The claims by their place, made again against these trials of the baseline."""
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
        metric = replace(metrics[first.metric], min_effect=first.min_effect)
        against = known.ended_of(floor_of(first))
        baseline = Baseline(first.case, first.baseline, against, bool(first.floor), first.over)
        table = [Candidate(claims[at].changes, known.ended_of(claims[at].trials)) for at in places]
        test = Spending(first.level or EACH_TABLE.level, first.confirmation, first.look)
        candidates = first.candidates if first.level else 1
        yield from zip(places, claims_on(declared, metric, baseline, table, candidates, test), strict=True)


def _declared(series: Series, claims: Sequence[Claim]) -> Iterator[Series]:
    """The series as it is declared now, then as it may have been when the claims were made."""
    fields = tuple({name: None for claim in claims for name in claim.case})
    for other, variants in product(range(4), (series.variants, fields, ())):
        timed, exact = bool(other & 1), bool(other & 2)
        metrics = [
            replace(metric, timed=metric.timed != timed, exact=metric.exact != exact) for metric in series.metrics
        ]
        yield replace(series, metrics=metrics, variants=variants)


def presumed(topic: str, known: Snapshot) -> Series | None:
    """A series whose declaration is not known, by what its claims take for better and for exact; None where it has none.

    What is told by no ratio may be a distance to a target, or rest on an effect that counts: nothing tells which.
    """
    first: dict[str, Claim] = {}
    votes: Counter[str] = Counter()
    for claim in (claim for entry in known.in_order for claim in entry.record.claims or ()):
        first.setdefault(claim.metric, claim)
        if claim.verdict in ("improved", "regressed") and claim.estimate is not None:
            votes[claim.metric] += 1 if (claim.estimate < 1) == (claim.verdict == "improved") else -1
    metrics = [
        Metric(name, "min" if votes[name] >= 0 else "max", exact=claim.method.startswith(EXACT))
        for name, claim in first.items()
        if claim.estimand == "ratio"
    ]
    return Series(topic, "PRESUMED", "", metrics) if metrics else None


def _agree(entry: EntryRecord, claim: Claim, again: Claim) -> bool:
    """Whether a claim is what its trials say."""
    if not claim.level:
        return _same(claim.estimate, again.estimate)
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


def _same(mine: Any, theirs: Any) -> bool:
    if isinstance(mine, float) and isinstance(theirs, float):
        return math.isclose(mine, theirs, rel_tol=_SAME, abs_tol=1e-9)
    return bool(mine == theirs)


def _named(entry: EntryRecord, claim: Claim) -> str:
    return f"{entry.id}: its claim {claimed(claim)}"


def _without_confidence(claim: Claim) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(msgspec.structs.replace(claim, confidence="exploratory"))
    return fields
