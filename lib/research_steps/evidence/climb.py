"""How a thread climbed: each attempt in its order, and the best that was known after it, by what counts now."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from research_steps.evidence.claim_text import changes_text
from research_steps.evidence.standing import best, claims_in, on_primary
from research_steps.evidence.state import ThreadState
from research_steps.records.configurations import changes_in
from research_steps.records.encoding import canonical
from research_steps.records.model import Claim, EntryRecord, Estimand, Row
from research_steps.records.step_kinds import Measurement


@dataclass(frozen=True)
class Attempt:
    """One candidate in one process. `outcome` is the verdict of what its entry claims of it, or why there is none.

    The estimate and its interval (95 %) are the claim's where that rests on this process alone; one of several shows its
    own ratio, without an interval. `case` names the baseline case that it was compared with.
    """

    entry: EntryRecord
    row: Row
    case: str
    outcome: str
    estimate: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class BestSoFar:
    """The best candidate against one baseline case, from an attempt on, which counts from 1."""

    case: str
    attempt: int
    claim: Claim


@dataclass(frozen=True)
class Climb:
    """All attempts on the primary metric, oldest first, and the steps up; all estimates are of one kind."""

    estimand: Estimand
    attempts: tuple[Attempt, ...]
    steps: tuple[BestSoFar, ...]


def climb(state: ThreadState) -> Climb:
    """How a thread climbed to where it is."""
    claims = on_primary(state.series, state.claims)
    estimand: Estimand = state.best.estimand if state.best else claims[0].estimand if claims else "ratio"
    attempts = tuple(_attempts(state, estimand))
    numbers = {attempt.row.trial.sha256: number for number, attempt in enumerate(attempts, 1)}
    best_by_case: dict[str, Claim] = {}
    steps = []
    dated = [(max(numbers.get(ref.sha256, 0) for ref in claim.trials), claim) for claim in claims if claim.trials]
    for number, claim in sorted(dated, key=lambda pair: pair[0]):
        case = case_name(state, claim.case)
        before = best_by_case.get(case)
        winner = best(state.series, [claim] if before is None else [before, claim])
        if number and winner is claim and claim.estimand == estimand:
            best_by_case[case] = claim
            steps.append(BestSoFar(case, number, claim))
    return Climb(estimand, attempts, tuple(steps))


def case_name(state: ThreadState, case: Mapping[str, Any]) -> str:
    """A baseline case as people know it: by its baseline's label, else by what it changes in the first one."""
    labels = {canonical(baseline.case): baseline.entry.label for baseline in state.baselines}
    first = state.baselines[0].case if state.baselines else {}
    return labels.get(canonical(case)) or changes_text(changes_in(dict(case), dict(first)))


def _attempts(state: ThreadState, estimand: Estimand) -> Iterator[Attempt]:
    primary, seen = state.series.primary.name, set()
    for stored in state.entries:
        entry = stored.record
        claims = {ref.sha256: claim for claim in claims_in(entry) if claim.metric == primary for ref in claim.trials}
        for row in entry.rows:
            sha = row.trial.sha256
            if not row.changes or sha in seen:
                continue
            seen.add(sha)
            claim = claims.get(sha)
            details = entry.details
            case = claim.case if claim else details.baseline_case if isinstance(details, Measurement) else {}
            estimate, low, high = _estimate(row, claim, estimand, primary)
            retracted = bool(state.retracted & {stored.sha256, sha})
            outcome = "retracted" if retracted else _outcome(row, claim, state.series.primary.timed)
            yield Attempt(entry, row, case_name(state, case), outcome, estimate, low, high)


def _outcome(row: Row, claim: Claim | None, timed: bool) -> str:
    if row.status != "ok":
        return row.status
    if row.contended and timed:
        return "contended"
    return claim.verdict if claim else "not judged"


def _estimate(
    row: Row, claim: Claim | None, estimand: Estimand, primary: str
) -> tuple[float | None, float | None, float | None]:
    if claim is not None and len(claim.trials) == 1 and claim.estimand == estimand:
        return claim.estimate, claim.low, claim.high
    ratio = row.ratios.get(primary)
    return (ratio.median if ratio is not None and estimand == "ratio" else None), None, None
