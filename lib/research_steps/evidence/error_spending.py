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
from research_steps.records.model import EntryRecord, Ref
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

    @property
    def text(self) -> str:
        return f"confirmation {self.confirmation}, look {self.look}" if self.confirmation else ""


# What a table has that is judged by itself alone.
EACH_TABLE = Spending()


@dataclass(frozen=True)
class Looks:
    """What the next look at a claim may spend, and the trials that it was looked at with before, oldest first."""

    spending: Spending
    trials: tuple[Ref, ...]


def next_look(
    series: Series, entries: Iterable[EntryRecord], changes: Mapping[str, Any], case: Mapping[str, Any]
) -> Looks:
    """The next look at what these `changes` do to this `case`, after these entries (oldest first, retracted ones too:
    what was looked at was looked at)."""
    wanted = _key(changes, case)
    numbers: dict[bytes, int] = {}
    looks, trials = 0, dict[str, Ref]()
    for entry in entries:
        if entry.step != "replicate" or entry.status != "ok" or entry.late:
            continue
        for claim in claims_in(entry):
            if claim.metric != series.primary.name:
                continue
            key = _key(claim.changes, claim.case)
            numbers.setdefault(key, len(numbers) + 1)
            if key == wanted:
                looks += 1
                trials |= {ref.sha256: ref for ref in claim.trials}
    spending = Spending.for_look(numbers.get(wanted, len(numbers) + 1), looks + 1)
    return Looks(spending, tuple(trials.values()))


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
