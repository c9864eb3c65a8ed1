"""Candidates that are not separated from the best one, and how many processes would tell them apart. Pure functions.

An estimate, for planning: it takes the spread of today's intervals for the true one, and both candidates measured again.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from research_steps.evidence.state import ThreadState, Winner
from research_steps.evidence.statistics import EXACT, LEVEL, OWN, REPEATED, critical, gain
from research_steps.records.model import Claim

# More processes than anybody measures: closer candidates are taken for equal.
MOST_PROCESSES = 100


@dataclass(frozen=True)
class Pair:
    """The best candidate and one whose interval overlaps with its. `processes` are how many further ones each needs, the
    winner's first; None where so many as `MOST_PROCESSES` would not separate them."""

    winner: Winner
    other: Claim
    processes: tuple[int, int] | None

    @property
    def commands(self) -> tuple[str, ...]:
        """What measures them, as commands that can be given as they are."""
        claims = (self.winner.claim, self.other)
        counted = zip(claims, self.processes or (), strict=False)
        return tuple(f"research replicate {claim.trials[0].id} -n {count}" for claim, count in counted if count)


def undecided(state: ThreadState) -> list[Pair]:
    """Each pair that is not separated, of the first winner first, and of one winner the best candidate first."""
    primary, pairs = state.series.primary, list[Pair]()
    for winner in state.winners:
        for other in sorted(winner.close, key=lambda claim: -gain(primary, claim)):
            total = to_separate(winner.claim, other)
            needed = (_further(winner.claim, total), _further(other, total)) if total else None
            pairs.append(Pair(winner, other, needed))
    return pairs


def to_separate(first: Claim, second: Claim) -> int | None:
    """In how many processes each has to be measured for their 95 % intervals not to overlap; None above the most."""
    ends = [_ends(claim) for claim in (first, second)]
    centers, halves = [(low + high) / 2 for low, high in ends], [(high - low) / 2 for low, high in ends]
    spreads = [_spread(claim, half) for claim, half in zip((first, second), halves, strict=True)]

    def apart(count: int) -> bool:
        halves = [_half(claim, spread, count) for claim, spread in zip((first, second), spreads, strict=True)]
        return abs(centers[0] - centers[1]) > sum(halves)

    if not apart(MOST_PROCESSES):
        return None
    least, most = 0, MOST_PROCESSES
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (least, middle) if apart(middle) else (middle, most)
    return most


def _further(claim: Claim, total: int) -> int:
    """What chose a candidate is left out when it is confirmed; what confirmed it counts on."""
    return max(0, total - (claim.processes if claim.confirmation else 0))


def _ends(claim: Claim) -> Sequence[float]:
    """Both ends on the scale of effects."""
    ends = (claim.low or 0.0, claim.high or 0.0)
    return [math.log(end) for end in ends] if claim.estimand == "ratio" else ends


def _spread(claim: Claim, half: float) -> float:
    """The standard deviation of one process that such an interval came from."""
    return half * math.sqrt(claim.processes) / _critical(claim, claim.processes) if half else 0.0


def _half(claim: Claim, spread: float, count: int) -> float:
    return _critical(claim, count) * spread / math.sqrt(count) if spread else 0.0


def _critical(claim: Claim, count: int) -> float:
    """By the degrees of freedom of so many processes: with the baseline's against itself, where these are pooled."""
    alone = claim.method.startswith((OWN, REPEATED, EXACT))
    freedom = count - 1 if alone else count - 1 + claim.floor_processes
    return critical(LEVEL, freedom, claim.candidates) if freedom > 0 else math.inf
