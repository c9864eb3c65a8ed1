"""Which claims count: those that stand after all entries, what they say of each other, and the best of them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from research_steps.evidence.statistics import gain
from research_steps.journal.snapshot import numbered_order, retracted
from research_steps.records.configurations import differences
from research_steps.records.encoding import Stored, canonical
from research_steps.records.model import Claim, EntryRecord, Verdict
from research_steps.records.series import Series
from research_steps.records.step_kinds import BaselineMeasurement, Rebase

DECIDED: tuple[Verdict, ...] = ("improved", "regressed", "no difference")


def standing(entries: Iterable[EntryRecord]) -> list[Claim]:
    """The claims that count now, of entries in the order of their numbers.

    Of two about the same thing the later one counts, unless it rests on no more than a part of what the earlier one
    did, or says only that it can't be compared. What dev mode found replaces nothing that the executor did, and what a
    correction or retraction says replaces all before.
    """
    claims: dict[bytes, Claim] = {}
    final: set[bytes] = set()
    for entry in entries:
        for claim in claims_in(entry):
            key = about(claim)
            earlier = claims.get(key)
            if entry.mode == "dev" and key in final:
                continue
            if entry.mode != "dev":
                final.add(key)
            renewed = entry.step in ("correction", "retraction")
            if earlier is not None and not renewed:
                says_nothing = claim.verdict == "not comparable" and earlier.verdict != "not comparable"
                if says_nothing or evidence(claim) < evidence(earlier):
                    continue
            claims[key] = claim
    return list(claims.values())


def claims_in(entry: EntryRecord) -> tuple[Claim, ...]:
    return entry.claims or ()


def about(claim: Claim) -> bytes:
    """What two claims have in common that say something of the same candidate."""
    return msgspec.json.encode([claim.metric, claim.changes, claim.case], order="deterministic")


def evidence(claim: Claim) -> set[str]:
    """The hashes of the trials that a claim rests on."""
    return {ref.sha256 for ref in (*claim.trials, *claim.also)}


@dataclass(frozen=True)
class FixedCase:
    """A baseline case as it was measured or moved last, by an `entry`, and the code that it was fixed with: a commit,
    None where that is not known, the patch on it, and the digest of the measure function's."""

    case: dict[str, Any]
    entry: Stored[EntryRecord]
    commit: str | None
    patch: str | None
    digest: str

    @property
    def version(self) -> tuple[str | None, str | None]:
        return self.commit, self.patch


def fixed_cases(entries: Iterable[Stored[EntryRecord]]) -> dict[str, FixedCase]:
    """The case of each baseline, by its label."""
    counting = [entry for entry in entries if entry.record.status == "ok" and not entry.record.late]
    taken_back = retracted(counting)
    cases: dict[str, FixedCase] = {}
    for entry in numbered_order(entry for entry in counting if entry.sha256 not in taken_back):
        match entry.record.details:
            case BaselineMeasurement(baseline_case=case, digest=digest):
                commit, patch = entry.record.provenance.version or (None, None)
                cases[entry.record.label] = FixedCase(case, entry, commit, patch, digest)
            case Rebase(baseline=label, to=case, commit=commit, patch=patch, digest=digest):
                before = cases[label].version if label in cases else (None, None)
                cases[label] = FixedCase(case, entry, *((commit, patch or None) if commit else before), digest=digest)
    return cases


def current_claims(series: Series, entries: Sequence[Stored[EntryRecord]]) -> tuple[list[Claim], list[Claim]]:
    """The claims that count now: those against a baseline case that is in force now, and those against such a case at
    other values of a variant axis. `entries` come by their numbers."""
    in_force = [fixed.case for fixed in fixed_cases(entries).values()]
    claims = together(series, standing(entry.record for entry in entries))
    variants = set(series.variants)
    beside = [
        claim
        for claim in claims
        if claim.case not in in_force and any(set(differences(claim.case, case)) <= variants for case in in_force)
    ]
    return [claim for claim in claims if claim.case in in_force], beside


def together(series: Series, claims: Sequence[Claim]) -> tuple[Claim, ...]:
    """The claims with what they say of each other: one that holds, replicated, at two values of a variant axis and at
    none otherwise, is stable, for as long as that is so."""
    alone = [
        msgspec.structs.replace(claim, confidence="replicated") if claim.confidence == "stable" else claim
        for claim in claims
    ]
    if not series.variants:
        return tuple(alone)
    keys = [msgspec.json.encode([claim.metric, claim.changes], order="deterministic") for claim in alone]
    alike: dict[bytes, list[Claim]] = {}
    for key, claim in zip(keys, alone, strict=True):
        alike.setdefault(key, []).append(claim)
    return tuple(
        msgspec.structs.replace(claim, confidence="stable") if _is_stable(series, claim, alike[key]) else claim
        for key, claim in zip(keys, alone, strict=True)
    )


def _is_stable(series: Series, claim: Claim, alike: Sequence[Claim]) -> bool:
    if claim.confidence == "exploratory":
        return False
    for axis in series.variants:
        if axis in claim.changes or axis not in claim.case:
            continue
        others = [other for other in alike if set(differences(other.case, claim.case)) <= {axis}]
        agreeing = [other for other in others if other.verdict == claim.verdict and other.confidence != "exploratory"]
        contradicted = any(other.verdict in DECIDED and other.verdict != claim.verdict for other in others)
        if len({canonical(other.case[axis]) for other in agreeing}) >= 2 and not contradicted:
            return True
    return False


def on_primary(series: Series, claims: Iterable[Claim]) -> list[Claim]:
    """The claims on the primary metric about something other than the baseline case itself."""
    primary = series.primary.name
    return [claim for claim in claims if claim.metric == primary and claim.changes]


def best(series: Series, claims: Sequence[Claim]) -> Claim | None:
    """The candidate that improves the primary metric most. Never the baseline case, which a sweep may measure too; and
    what changes a variant axis is another workload, which only wins where there is nothing else."""
    improved = [claim for claim in on_primary(series, claims) if claim.verdict == "improved"]
    same_work = [claim for claim in improved if not set(claim.changes) & set(series.variants)]
    return max(same_work or improved, key=lambda claim: gain(series.primary, claim), default=None)


def reached(series: Series, claims: Sequence[Claim]) -> Claim | None:
    """The claim by which the series has what it was started for, as its `stop_at` says."""
    winner = best(series, claims)
    if winner is None or series.stop_at is None:
        return None
    share = abs(1 - (winner.estimate or 0)) if winner.estimand == "ratio" else gain(series.primary, winner)
    sure = winner.confidence in (series.stop_at.confidence, "stable")
    return winner if sure and share >= series.stop_at.improvement else None
