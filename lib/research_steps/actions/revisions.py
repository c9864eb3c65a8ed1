"""What changes the standing of records that are there: retractions, corrections, and the move of a baseline.

Nothing that was finished is rewritten. A new entry names what it is about, and makes the verdicts again that rested on
it.
"""

from collections.abc import Sequence, Set
from typing import Any

from research_steps.errors import UsageError
from research_steps.evidence.claim_text import changes_text, claim_text, verdict_text
from research_steps.evidence.claims import remade
from research_steps.evidence.standing import best, claims_in, evidence, fixed_cases, standing
from research_steps.evidence.statistics import gain
from research_steps.journal.entries import Finding
from research_steps.journal.snapshot import Snapshot, entries_of, find, rests_on
from research_steps.publish.entry_writer import EntryWriter, digest, refuse_empty, short
from research_steps.records.encoding import Stored, canonical
from research_steps.records.model import Claim, EntryRecord, Ref, TrialRecord, Version
from research_steps.records.series import Metric
from research_steps.records.step_kinds import STEP_KINDS, Correction, Rebase, Retraction

# So many claims are named by a baseline that moves away from theirs.
_NAMED = 5


def retract(writer: EntryWriter, id: str, because: str) -> Stored[EntryRecord]:
    """A record counts no more: neither does an entry's every trial that was measured for it."""
    refuse_empty(because, "The reason", "say in a sentence why it does not count")
    snapshot, about = _about(writer, id)
    if isinstance(about.record, EntryRecord) and about.record.step in ("retraction", "correction"):
        raise UsageError(f"{id} is a {about.record.step}, which can't be taken back: run the thread to measure anew.")
    # What another entry measured goes on counting for that.
    plain = about.record.id
    refs = tuple(ref for ref in _with_trials(about) if ref.id.partition(".")[0] == plain.partition(".")[0])
    retracted = snapshot.retracted | {ref.sha256 for ref in refs}
    claims, follows = _again(writer, snapshot, refs, retracted, retracted)
    result = f"{id} ({about.record.label}) is retracted: {because.rstrip('.')}.{follows}"
    finding = Finding(result, next_action="Run the thread again: what was retracted is measured anew.", claims=claims)
    label, key = short(f"{id} retracted: {because}"), f"retraction/{about.sha256[:16]}"
    return writer.write(snapshot, "retraction", key, label, Retraction(retracts=plain), finding, refs)


def correct(writer: EntryWriter, id: str, text: str) -> Stored[EntryRecord]:
    """What was said of a record was wrong in this; its measurements stand, and verdicts on them are made again."""
    refuse_empty(text, "The correction", "say in a sentence what is right")
    snapshot, about = _about(writer, id)
    refs = _with_trials(about)
    claims, follows = _again(writer, snapshot, refs, snapshot.retracted, {ref.sha256 for ref in refs})
    finding = Finding(f"Of {id} ({about.record.label}): {text.rstrip('.')}.{follows}", claims=claims)
    label, key = short(f"{id} corrected: {text}"), f"correction/{digest(about.sha256, text)}"
    return writer.write(snapshot, "correction", key, label, Correction(corrects=about.record.id), finding, (about.ref,))


def rebase(writer: EntryWriter, id: str) -> Stored[EntryRecord]:
    """The baseline moves to what a record found, if that is replicated."""
    snapshot = writer.scan()
    about, primary = find(snapshot, id), writer.series.primary.name
    own = claims_in(about.record) if isinstance(about.record, EntryRecord) else ()
    shas = {ref.sha256 for ref in _with_trials(about)}.union(*map(evidence, own))
    standing_now = [claim for claim in standing(entries_of(snapshot)) if claim.metric == primary]
    named = [claim for claim in standing_now if evidence(claim) & shas]
    # Made again from trials, because a baseline does not rest on what a file says of them.
    again = remade(writer.series, snapshot, _alike(standing_now, named), snapshot.retracted)
    carried = [claim for claim in again if evidence(claim) & shas]
    in_force = [fixed.case for fixed in fixed_cases(snapshot.entries.values()).values()]
    carrying = [claim for claim in carried if claim.confidence != "exploratory" and claim.case in in_force]
    winner = best(writer.series, carrying)
    if winner is None:
        what = (
            "; ".join(f"{claim_text(claim)} against {claim.baseline.id}" for claim in carried) or f"nothing on {primary}"
        )
        raise UsageError(
            f"{id} does not carry a baseline: it says {what}; expected an improvement that is replicated, on a baseline "
            f"case that is in force. Get there with 'research replicate {id}'."
        )
    base = snapshot.entries.get(winner.baseline.sha256)
    if base is None:
        raise UsageError(f"The entry {winner.baseline.id} of the baseline is not here: fetch its branch, or its store.")
    # The last move of a baseline has no measurements of its own.
    moved = base.record.details
    label = moved.baseline if isinstance(moved, Rebase) else base.record.label
    to, trial = {**winner.case, **winner.changes}, snapshot.trials_of(winner.trials)[0].record
    source, changes = trial.provenance, changes_text(winner.changes)
    version = {"commit": source.commit or "", "patch": source.patch or "", "digest": trial.code}
    details = Rebase(baseline=label, before=winner.case, to=to, claim=claim_text(winner), **version)
    next_action = f"Give steps.baseline(…, label={label!r}) this case and run the thread."
    if isinstance(trial.baseline_version, Version):
        next_action = (
            f"Have that code in the work tree: commit {(source.commit or '')[:12]} with the patch that 'research show "
            f"{trial.id} --patch' prints. 'research dev' compares with it from now on."
        )
    result = f"The baseline {label!r} moves to {changes}: {winner.metric} {claim_text(winner)}."
    falls = [claim for claim in standing_now if claim.case == winner.case and claim.changes]
    if falls:
        named_first = ", ".join(f"{changes_text(claim.changes)} ({verdict_text(claim)})" for claim in falls[:_NAMED])
        more = f" and {len(falls) - _NAMED} more" if len(falls) > _NAMED else ""
        result += f" What was claimed against the case before counts for that alone: {named_first}{more}."
    finding = Finding(result, next_action=next_action)
    inputs = dict.fromkeys((about.ref, winner.baseline, *winner.trials, *winner.also))
    key = f"rebase/{digest(label, winner.case, to, about.sha256)}"
    return writer.write(snapshot, "rebase", key, short(f"baseline moves to {changes}"), details, finding, tuple(inputs))


def _about(writer: EntryWriter, id: str) -> tuple[Snapshot, Stored[Any]]:
    """A record, and the snapshot of what may be said of it: nothing that is private, unless the record is."""
    snapshot = writer.scan()
    about = find(snapshot, id)
    private = snapshot.is_private(about.record.id)
    return snapshot.only(lambda entry: private or not entry.record.private), about


def _with_trials(about: Stored[Any]) -> tuple[Ref, ...]:
    """A record and, of an entry, the trials of its table."""
    rows = about.record.rows if isinstance(about.record, EntryRecord) else ()
    return (about.ref, *(row.trial for row in rows))


def _again(
    writer: EntryWriter, snapshot: Snapshot, refs: Sequence[Ref], retracted: frozenset[str], touched: Set[str]
) -> tuple[tuple[Claim, ...], str]:
    """The claims that rest on what was touched made again, without what is retracted; and in sentences what rested on
    these records, and what became of verdicts."""
    claims = standing(entries_of(snapshot))
    before = _alike(claims, [claim for claim in claims if _rests_on(snapshot, claim, touched)])
    after = remade(writer.series, snapshot, before, retracted)
    metrics = {metric.name for metric in writer.series.metrics}
    pairs = zip([claim for claim in before if claim.metric in metrics], after, strict=True)
    changes = [
        f"{changes_text(was.changes)}, {was.metric}: {verdict_text(was)} → {verdict_text(now)}" for was, now in pairs
    ]
    ids = _resting_on(snapshot, refs)
    rested = f" On it rested: {', '.join(ids)}." if ids else ""
    return after, rested + (f" Verdicts made again: {'; '.join(changes)}." if changes else "")


def _alike(claims: Sequence[Claim], some: Sequence[Claim]) -> list[Claim]:
    """Those about the same candidates as some of them: whether one is stable hangs on the others."""
    about = {canonical([claim.metric, claim.changes]) for claim in some}
    return [claim for claim in claims if canonical([claim.metric, claim.changes]) in about]


def _rests_on(snapshot: Snapshot, claim: Claim, shas: Set[str]) -> bool:
    floor = {ref.sha256 for ref in snapshot.floor_trials(claim)}
    return bool(({claim.baseline.sha256} | evidence(claim) | floor) & shas)


def _resting_on(snapshot: Snapshot, refs: Sequence[Ref]) -> list[str]:
    """Which entries rest on these records, directly or through others."""
    reached = {ref.sha256 for ref in refs}
    ids: list[str] = []
    for stored in snapshot.in_order:
        if stored.sha256 not in reached and any(ref.sha256 in reached for ref in rests_on(stored.record)):
            reached.add(stored.sha256)
            ids.append(stored.record.id)
    return ids


def next_numbers(snapshot: Snapshot, count: int) -> list[int]:
    """Numbers of further replicates, above all that were finished."""
    rows = (row for entry in entries_of(snapshot) if STEP_KINDS[entry.step].compares for row in entry.rows)
    first = max((row.replicate for row in rows), default=0) + 1
    return list(range(first, first + count))


def claim_of(snapshot: Snapshot, id: str, metric: Metric) -> tuple[Claim, Stored[EntryRecord], TrialRecord]:
    """The newest claim on a metric about what an ID names, of an entry its best candidate; the entry that makes it, and
    one of its trials."""
    about, retracted = find(snapshot, id), snapshot.retracted
    sha = about.sha256
    if isinstance(about.record, EntryRecord):
        own = [claim for claim in claims_in(about.record) if _is_candidate(claim, metric)]
        sha = max(own, key=lambda claim: gain(metric, claim)).trials[0].sha256 if own else sha
    for stored in reversed(snapshot.counting):
        if not STEP_KINDS[stored.record.step].compares:
            continue
        for claim in claims_in(stored.record):
            left = [ref.sha256 for ref in claim.trials if ref.sha256 in snapshot.trials and ref.sha256 not in retracted]
            if left and sha in evidence(claim) and _is_candidate(claim, metric):
                return claim, stored, snapshot.trials[left[0]].record
    raise UsageError(
        f"{id} names no candidate with a claim on {metric.name}: expected a row of a sweep that is not retracted, "
        f"such as {about.record.id.partition('.')[0]}.01."
    )


def _is_candidate(claim: Claim, metric: Metric) -> bool:
    return bool(claim.metric == metric.name and claim.trials)
