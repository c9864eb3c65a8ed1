"""Where the record and what it is shown on have drifted apart: runs, entries, tags, posts, claims, attempts."""

from typing import Any

from research_steps.actions.check.reading import AGAIN, CheckedThread, CheckLine, line
from research_steps.evidence.standing import claims_in
from research_steps.journal.snapshot import rests_on
from research_steps.records.encoding import Stored
from research_steps.records.series import number_of

GROUP = "drift"


def _runs(thread: CheckedThread) -> CheckLine:
    """Trials whose step ended without naming them: it was stopped, or is in no thread any more."""
    snapshot = thread.snapshot
    entries = [stored.record for stored in snapshot.entries.values()]
    named = {ref.key for record in entries for ref in rests_on(record)}
    named |= {ref.key for record in entries for claim in claims_in(record) for ref in (*claim.trials, *claim.also)}
    steps: list[Stored[Any]] = [*snapshot.entries.values(), *snapshot.interrupted.values()]
    ended = {stored.record.id for stored in steps} - {attempt.intent.id for attempt in snapshot.open}
    trials = [stored.record for stored in snapshot.trials.values() if not stored.record.late]
    wrong = [trial.id for trial in trials if trial.key not in named and trial.id.partition(".")[0] in ended]
    dropped = f"research decide {thread.topic} REASON --evidence ID"
    mend = f"run the thread again; for one that it does not make any more: {dropped}"
    return line(GROUP, "runs without entries", trials, sorted(wrong), mend)


def _entries(thread: CheckedThread) -> CheckLine:
    ended = thread.snapshot.trials.keys() | thread.snapshot.interrupted.keys()
    rows = [row for stored in thread.measured for row in stored.record.rows]
    wrong = [row.trial.id for row in rows if row.trial.sha256 not in ended]
    mend = f"restore {thread.place.shown.removesuffix('.md')}/ with git, or the store from a copy; else {AGAIN}"
    return line(GROUP, "entries without runs", thread.measured, wrong, mend)


def _tagged(thread: CheckedThread) -> CheckLine:
    wrong = []
    for stored in thread.seals:
        seal, tag = thread.seal_of(stored), f"{thread.topic}/{stored.record.id}"
        if tag not in thread.tags:
            wrong.append(f"{tag} is gone" + (f" (commit {seal.commit})" if seal else ""))
        elif seal is not None and thread.tags[tag] != seal.commit:
            wrong.append(f"{tag} names {thread.tags[tag][:12]}, not {seal.commit}")
    again = f"git fetch --tags, then 'research sync {thread.topic}', which makes a lost tag again"
    mend = f"{again}; one that was moved: git tag --annotate --force --message sealed TAG COMMIT"
    return line(GROUP, "tags lost", thread.seals, wrong, mend)


def _posted(thread: CheckedThread) -> CheckLine:
    milestones = [stored for stored in thread.public if stored.record.step in thread.series.milestones]
    # What another store holds is posted from there.
    mine = [stored for stored in milestones if stored.sha256 in thread.in_store]
    wrong = [stored.record.id for stored in mine if not thread.is_posted(stored)]
    wrong += thread.issue_file.damage() if thread.issue is None else ()
    return line(GROUP, "posts pending", mine, wrong, f"research sync {thread.topic}")


def _unsealed(thread: CheckedThread) -> CheckLine:
    # What a correction or retraction says anew is said of records that are asked about themselves.
    claiming = [
        stored
        for stored in thread.public
        if stored.record.step not in ("correction", "retraction", "reproduction")
        and any(claim.confidence != "exploratory" for claim in claims_in(stored.record))
    ]
    newest = max((number_of(seal.record.id) for seal in thread.seals), default=0)
    later = [stored for stored in claiming if number_of(stored.record.id) > newest]
    wrong = [stored.record.id for stored in later if stored.sha256 not in thread.sealed]
    mend = "have a steps.seal of the thread rest on it, and run the thread with '--seal true'"
    return line(GROUP, "claims unsealed", claiming, wrong, mend)


def _orphaned(thread: CheckedThread) -> CheckLine:
    ended: list[Stored[Any]] = [*thread.snapshot.entries.values(), *thread.snapshot.trials.values()]
    # An attempt whose record was lost from the store looks begun; git may have the record.
    recorded = {(stored.record.key, stored.record.attempt) for stored in ended}
    attempts = [open for open in thread.snapshot.open if (open.intent.key, open.intent.attempt) not in recorded]
    wrong = [attempt.intent.id for attempt in attempts if attempt.orphaned()]
    mend = "run the thread again, which ends them as interrupted and goes on"
    return line(GROUP, "attempts orphaned", [*ended, *attempts], wrong, mend)


LINES = (_runs, _entries, _tagged, _posted, _unsealed, _orphaned)
