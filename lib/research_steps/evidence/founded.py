"""Whether a claim is about something that was measured: its trials are there, and they measured what it names.

What they say is another question, which `recomputed` asks.
"""

from collections.abc import Mapping, Sequence, Set
from typing import Any

import msgspec

from research_steps.evidence.claim_text import changes_text, claim_text, repetitions_text
from research_steps.journal.snapshot import Snapshot
from research_steps.records.configurations import changes_in, configuration_of
from research_steps.records.encoding import Stored, ToldTrial
from research_steps.records.model import Claim, EntryRecord, InterruptedRecord, TrialRecord

_NAMED = 3


def founded(
    known: Snapshot, entries: Sequence[Stored[EntryRecord]]
) -> tuple[list[Stored[EntryRecord]], list[tuple[EntryRecord, Claim, str]]]:
    """The entries without the claims that are about nothing that was measured; and these, with the reason."""
    left, out = [], []
    there, ended = known.hashes, known.read_trials
    for entry in entries:
        whys = [(claim, unfounded(ended, there, claim)) for claim in entry.record.claims or ()]
        if any(why for _, why in whys):
            out += [(entry.record, claim, why) for claim, why in whys if why]
            claims = tuple(claim for claim, why in whys if not why)
            entry = Stored(msgspec.structs.replace(entry.record, claims=claims), entry.line)
        left.append(entry)
    return left, out


def unfounded(ended: Mapping[str, Stored[Any]], there: Set[str], claim: Claim) -> str:
    """Why a claim is about nothing that was measured, empty where it is not; `ended` are the trials that were read, and
    `there` the hashes of what is known."""
    lost = [ref.id for ref in (*claim.trials, *claim.floor) if ref.sha256 not in there]
    if lost:
        return f"{_listed(lost)}, which it names, {'is' if len(lost) == 1 else 'are'} neither in the store nor in git"
    if not claim.trials:
        return "" if claim.verdict == "failed" else "it names no trial"
    read = (ended[ref.sha256].record for ref in claim.trials if ref.sha256 in ended)
    others = [trial.id for trial in read if not isinstance(trial, InterruptedRecord) and not _is_of(claim, trial)]
    return f"{_listed(others)} measured another configuration" if others else ""


def claimed(claim: Claim) -> str:
    """A claim in a few words, with what it is about and how many processes it counts."""
    return f"{changes_text(claim.changes)}: {claim.metric} {said(claim)}"


def said(claim: Claim) -> str:
    """What a claim says of that."""
    return f"{claim_text(claim)}, {repetitions_text(claim)}"


def _is_of(claim: Claim, trial: TrialRecord | ToldTrial) -> bool:
    """Whether a trial measured what a claim is about, at whichever value of the field that repetitions go over."""
    measured = {**claim.case, **claim.changes}
    if measured == trial.config:
        return True
    config = configuration_of(measured, trial.config)
    return config == trial.config or set(changes_in(trial.config, config)) <= {claim.over}


def _listed(ids: Sequence[str]) -> str:
    more = f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else ""
    return f"{', '.join(ids[:_NAMED])}{more}"
