"""Background research: the ledger of sources, what speaks for and against each claim, and when to forage again.

Pure functions over entries. Those of the step "source" are of three kinds: a "source" with its claim, a "check" that
somebody looked for contradictions of one, and a "brief" that asks a question and ranks the next experiments.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from research_steps.evidence.hypotheses import Item
from research_steps.evidence.standing import claims_in
from research_steps.records.model import EntryRecord
from research_steps.records.series import Series
from research_steps.records.step_kinds import STEP_KINDS, Brief, ContradictionCheck, HypothesisChange, Source


@dataclass
class Ledger:
    """The sources, the checks of their claims by the claim, and the briefs, the newest last."""

    sources: list[EntryRecord] = field(default_factory=list)
    checks: dict[str, list[EntryRecord]] = field(default_factory=dict)
    briefs: list[EntryRecord] = field(default_factory=list)

    @property
    def brief(self) -> Brief:
        """The question as it was asked last, and the next experiments by rank."""
        return self.briefs[-1].details_as(Brief) if self.briefs else Brief(question="", next=())

    def unchecked(self) -> list[EntryRecord]:
        """The sources whose claim nobody has looked for contradictions of."""
        return [source for source in self.sources if source.details_as(Source).claim not in self.checks]


@dataclass
class Support:
    """What speaks for and against one hypothesis or claim."""

    about: str
    support: list[EntryRecord] = field(default_factory=list)
    contradictions: list[EntryRecord] = field(default_factory=list)


def ledger(entries: Sequence[EntryRecord]) -> Ledger:
    """What was recorded, in the order in which it was finished."""
    recorded = Ledger()
    for entry in (entry for entry in entries if entry.step == "source"):
        match entry.details:
            case Source():
                recorded.sources.append(entry)
            case ContradictionCheck(claim=claim):
                recorded.checks.setdefault(claim, []).append(entry)
            case Brief():
                recorded.briefs.append(entry)
    return recorded


def evidence_map(items: Sequence[Item], recorded: Ledger) -> list[Support]:
    """Each hypothesis, then each claim. A source supports its own claim; a check may have found what contradicts it."""
    rows: dict[str, Support] = {}
    for item in items:
        row = Support(f"{item.id} ({item.state}): {item.text}")
        sides = {"supported": row.support, "promoted": row.support, "falsified": row.contradictions}
        for change in item.changes:
            sides.get(change.details_as(HypothesisChange).state, []).append(change)
        rows[item.text] = row
        # An ID that two branches used names neither.
        if sum(other.id == item.id for other in items) == 1:
            rows[item.id] = row

    def about(name: str) -> Support:
        return rows.setdefault(name, Support(f"Claim: {name}"))

    for source in recorded.sources:
        details = source.details_as(Source)
        for name in dict.fromkeys([details.claim, *details.supports]):
            about(name).support.append(source)
        for name in details.contradicts:
            about(name).contradictions.append(source)
    for claim, checks in recorded.checks.items():
        about(claim).contradictions += [check for check in checks if check.details_as(ContradictionCheck).found]
    return list({id(row): row for row in rows.values()}.values())


def stuck(series: Series, entries: Sequence[EntryRecord]) -> int | None:
    """How many trials were measured since one improved the primary metric, once they are `series.stuck_after` or more.

    Entries from before claims were made say nothing either way.
    """
    trials, primary = 0, series.primary.name
    for entry in entries:
        if not STEP_KINDS[entry.step].compares or entry.claims is msgspec.UNSET:
            continue
        verdicts = {claim.verdict for claim in claims_in(entry) if claim.metric == primary}
        trials = 0 if "improved" in verdicts else trials + sum(row.measured_here for row in entry.rows)
    return trials if trials >= series.stuck_after else None
