"""Candidates that were discarded for a reason that has changed since: the baseline, a library or the machine. Pure.

What did not help on another baseline, or failed with another library, may help now.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from research_steps.evidence.claim_text import changes_text
from research_steps.evidence.founded import founded
from research_steps.evidence.standing import claims_in, on_primary, standing
from research_steps.evidence.state import ThreadState, machine_of_claims
from research_steps.journal.snapshot import Snapshot
from research_steps.records.configurations import differences
from research_steps.records.encoding import canonical
from research_steps.records.model import Claim, EntryRecord
from research_steps.records.series import Series

DISCARDED = ("regressed", "no difference", "failed")
# The one that says what was measured, and changes nothing in that.
_OURS = "research-steps"


@dataclass(frozen=True)
class Conditions:
    """Under what a baseline in force was measured last: its case, the versions of libraries, and the kind of machine,
    empty where that is not known."""

    case: Mapping[str, Any]
    packages: Mapping[str, str]
    machine: str


def discards_of(state: ThreadState, snapshot: Snapshot) -> tuple[str, ...]:
    """What is discarded in a thread for a reason that has changed since; the state is that of the snapshot."""
    measured, _ = founded(snapshot, state.entries)
    current = [Conditions(b.case, b.entry.provenance.packages, b.machine) for b in state.baselines]
    return second_look(state.series, [entry.record for entry in measured], current, machine_of_claims(snapshot))


def second_look(
    series: Series, entries: Sequence[EntryRecord], current: Sequence[Conditions], machine_of: Callable[[Claim], str]
) -> tuple[str, ...]:
    """Each discarded candidate with what changed since, in a sentence. `entries` count, by their numbers; `current` are
    the baselines in force, the newest last."""
    if not current:
        return ()
    said_by = {id(claim): entry for entry in entries for claim in claims_in(entry)}
    # What was measured again counts, under whatever conditions.
    newest = {canonical(claim.changes): claim for claim in on_primary(series, _by_entry(entries, said_by))}
    texts = []
    for claim in newest.values():
        if claim.verdict not in DISCARDED:
            continue
        changes = _changed(series, claim, said_by[id(claim)], current, machine_of)
        if changes:
            ids = claim.trials[0].id if claim.trials else said_by[id(claim)].id
            texts.append(f"{changes_text(claim.changes)} ({ids}: {claim.verdict}): {'; '.join(changes)}")
    return tuple(texts)


def _by_entry(entries: Sequence[EntryRecord], said_by: Mapping[int, EntryRecord]) -> list[Claim]:
    """The claims that stand, in the order of the entries that make them."""
    places = {entry.id: place for place, entry in enumerate(entries)}
    return sorted(standing(entries), key=lambda claim: places[said_by[id(claim)].id])


def _changed(
    series: Series, claim: Claim, entry: EntryRecord, current: Sequence[Conditions], machine_of: Callable[[Claim], str]
) -> Sequence[str]:
    alike = [now for now in current if set(differences(claim.case, now.case)) <= set(series.variants)]
    now, texts = (alike or current)[-1], []
    if not alike:
        moved = differences(claim.case, now.case).items()
        texts.append(f"the baseline moved, {', '.join(f'{name} {was} → {is_now}' for name, (was, is_now) in moved)}")
    packages = differences(entry.provenance.packages, now.packages)
    texts += [f"{name} {was} → {is_now}" for name, (was, is_now) in packages.items() if name != _OURS]
    machine = machine_of(claim)
    if machine and now.machine and machine != now.machine:
        texts.append(f"the machine, {machine} → {now.machine}")
    return texts
