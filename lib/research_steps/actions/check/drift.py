"""Where the record and what it is shown on have drifted apart: runs, entries, tags, posts, claims, attempts."""

from collections.abc import Iterator
from typing import Any

from research_steps.actions.check.reading import AGAIN, CheckLine, Facts, is_posted, line, seal_of
from research_steps.evidence.standing import claims_in
from research_steps.records.encoding import Stored
from research_steps.records.model import EntryRecord, Ref

GROUP = "drift"


def _runs(known: Facts) -> CheckLine:
    """Trials whose step ended without naming them: it was stopped, or is in no thread any more."""
    named = {ref.key for stored in known.found.entries.values() for ref in _refs(stored.record)}
    held: list[Stored[Any]] = [*known.found.entries.values(), *known.found.interrupted.values()]
    ended = {stored.record.id for stored in held}
    going_on = {attempt.intent.id for attempt in known.found.open}
    trials = [stored.record for stored in known.found.trials.values() if not stored.record.late]
    wrong = [
        trial.id
        for trial in trials
        if trial.key not in named and (owner := trial.id.partition(".")[0]) in ended and owner not in going_on
    ]
    dropped = f"research decide {known.topic} REASON --evidence ID"
    mend = f"run the thread again; for one that it does not make any more: {dropped}"
    return line(GROUP, "runs without entries", trials, sorted(wrong), mend)


def _entries(known: Facts) -> CheckLine:
    held = known.found.trials.keys() | known.found.interrupted.keys()
    wrong = [row.trial.id for stored in known.measured for row in stored.record.rows if row.trial.sha256 not in held]
    mend = f"restore .agents/logbooks/{known.topic}/ with git, or the store from a copy; else {AGAIN}"
    return line(GROUP, "entries without runs", known.measured, wrong, mend)


def _tagged(known: Facts) -> CheckLine:
    wrong = []
    for stored in known.seals:
        seal, tag = seal_of(known.journal, stored), f"{known.topic}/{stored.record.id}"
        if tag not in known.tags:
            wrong.append(f"{tag} is gone" + (f" (commit {seal.commit})" if seal else ""))
        elif seal is not None and known.tags[tag] != seal.commit:
            wrong.append(f"{tag} names {known.tags[tag][:12]}, not {seal.commit}")
    again = f"git fetch --tags, then 'research sync {known.topic}', which makes a lost tag again"
    mend = f"{again}; one that was moved: git tag --annotate --force --message sealed TAG COMMIT"
    return line(GROUP, "tags lost", known.seals, wrong, mend)


def _posted(known: Facts) -> CheckLine:
    # What another store holds is posted from there.
    here = known.journal.entries().entries
    mine = [stored for stored in known.milestones if stored.sha256 in here]
    wrong = [stored.record.id for stored in mine if not is_posted(known, stored)]
    return line(GROUP, "posts pending", mine, wrong, f"research sync {known.topic}")


def _unsealed(known: Facts) -> CheckLine:
    # What a correction or retraction says anew is said of records that are asked about themselves.
    claiming = [
        stored
        for stored in known.public
        if stored.record.step not in ("correction", "retraction", "reproduction")
        and any(claim.confidence != "exploratory" for claim in claims_in(stored.record))
    ]
    newest = max((seal.record.finished_at for seal in known.seals), default="")
    wrong = [s.record.id for s in claiming if s.record.finished_at > newest and s.sha256 not in known.sealed]
    mend = "have a steps.seal of the thread rest on it, and run the thread with '--seal true'"
    return line(GROUP, "claims unsealed", claiming, wrong, mend)


def _orphaned(known: Facts) -> CheckLine:
    everything: list[Stored[Any]] = [*known.found.entries.values(), *known.found.trials.values()]
    # An attempt whose record was lost from the store looks begun; git may have the record.
    ended = {(stored.record.key, stored.record.attempt) for stored in everything}
    left = [attempt for attempt in known.found.open if (attempt.intent.key, attempt.intent.attempt) not in ended]
    wrong = [attempt.intent.id for attempt in left if attempt.orphaned()]
    mend = "run the thread again, which ends them as interrupted and goes on"
    return line(GROUP, "attempts orphaned", [*everything, *left], wrong, mend)


def _refs(record: EntryRecord) -> Iterator[Ref]:
    """Everything that an entry names."""
    yield from record.inputs
    yield from (row.trial for row in record.rows)
    for claim in claims_in(record):
        yield from (*claim.trials, *claim.also)


LINES = (_runs, _entries, _tagged, _posted, _unsealed, _orphaned)
