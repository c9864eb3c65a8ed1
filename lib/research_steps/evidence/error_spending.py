"""How much error one more look may spend, so that trying often can't make a claim true.

Of a series all that is confirmed or replicated shares one error of 5 %: the i-th claim that asks for it has 6/(π²i²) of
that, and its j-th look 6/(π²j²) of what the claim has; all looks together sum to 5 % however many there are. Sweeps and
interactions, which only explore, have 5 % of false discoveries by LOND (Javanmard and Montanari, 2015): the t-th table
has 6/(π²t²) of it for each discovery made before and one more.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from research_steps.evidence.standing import claims_in
from research_steps.evidence.statistics import LEVEL
from research_steps.records.encoding import canonical
from research_steps.records.model import Claim, EntryRecord, Ref
from research_steps.records.series import Series
from research_steps.records.step_kinds import STEP_KINDS


@dataclass(frozen=True)
class Spending:
    """The error that a claim may spend: as the `look`-th at the series' `confirmation`-th claim, or, where both are 0,
    in a table."""

    level: float = LEVEL
    confirmation: int = 0
    look: int = 0

    @classmethod
    def for_look(cls, confirmation: int, look: int) -> "Spending":
        return cls(LEVEL * share(confirmation) * share(look), confirmation, look)


# What a table has that is judged by itself alone.
EACH_TABLE = Spending()


@dataclass(frozen=True)
class NextLook:
    """What the next look at a claim may spend, the trials that it was looked at with before, oldest first, and those of
    the baseline that were measured beside them."""

    spending: Spending
    trials: tuple[Ref, ...]
    floor: tuple[Ref, ...]


def looks_in(entries: Iterable[EntryRecord]) -> list[tuple[Claim, ...]]:
    """The claims of each entry that looked again at a candidate, retracted ones too: what was looked at was looked at.
    The entries come oldest first."""
    again = (entry for entry in entries if entry.step in ("replicate", "reproduction"))
    return [claims_in(entry) for entry in again if entry.status == "ok" and not entry.late]


def next_look(
    series: Series,
    looks: Iterable[Iterable[Claim]],
    changes: Mapping[str, Any],
    case: Mapping[str, Any],
    baseline: str,
    fresh: Iterable[str],
) -> NextLook:
    """The next look at what these `changes` do to this `case`, after these looks, with trials of these hashes. Without
    a trial that is new it is no other look.

    Evidence counts that was held against the same `baseline` entry (its hash): one that was measured anew is that of
    another machine, perhaps. What was spent is spent all the same.
    """
    wanted = _key(changes, case)
    numbers: dict[bytes, int] = {}
    count, seen, trials, floor = 0, set[str](), list[Ref](), list[Ref]()
    for claim in (claim for claims in looks for claim in claims if claim.metric == series.primary.name):
        key = _key(claim.changes, claim.case)
        numbers.setdefault(key, claim.confirmation or len(numbers) + 1)
        if key == wanted:
            measured = {ref.sha256 for ref in claim.trials}
            count += not measured <= seen
            seen |= measured
            if claim.baseline.sha256 == baseline:
                trials += claim.trials
                floor += claim.floor
    look = count + any(sha not in seen for sha in fresh)
    confirmation = numbers.get(wanted) or max(numbers.values(), default=0) + 1
    spending = Spending.for_look(confirmation, max(1, look))
    return NextLook(spending, tuple(dict.fromkeys(trials)), tuple(dict.fromkeys(floor)))


def next_table(series: Series, entries: Sequence[EntryRecord]) -> Spending:
    """What the next table of candidates may spend, after these entries."""
    tables = [
        {claim.verdict for claim in claims_in(entry) if claim.metric == series.primary.name}
        for entry in entries
        if STEP_KINDS[entry.step].tabulates and entry.mode == "executor" and entry.status == "ok" and not entry.late
    ]
    discoveries = sum(bool(verdicts & {"improved", "regressed"}) for verdicts in tables)
    return Spending(min(LEVEL, LEVEL * share(len(tables) + 1) * (discoveries + 1)))


def share(number: int) -> float:
    """The part of an error that the `number`-th of endlessly many may spend, from 1: they sum to 1."""
    return 6 / (math.pi * number) ** 2


def _key(changes: Mapping[str, Any], case: Mapping[str, Any]) -> bytes:
    return canonical([changes, case])
