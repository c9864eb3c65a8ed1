"""What changes the standing of records that are there: retractions, corrections, and the move of a baseline.

Nothing that was finished is rewritten. A new entry names what it is about, and makes the verdicts again that rested on
it.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from research_steps.errors import UsageError
from research_steps.evidence.claim_text import changes_text, claim_text, verdict_text
from research_steps.evidence.claims import remade
from research_steps.evidence.standing import best, claims_in, evidence, fixed_cases, standing
from research_steps.evidence.statistics import gain
from research_steps.journal.entries import Finding
from research_steps.journal.snapshot import Snapshot, entries_of, find
from research_steps.publish.entry_writer import EntryWriter, digest, refuse_empty, short
from research_steps.records.encoding import Stored, canonical
from research_steps.records.model import Claim, EntryRecord, Ref, TrialRecord
from research_steps.records.series import Metric
from research_steps.records.step_kinds import STEP_KINDS, Correction, Rebase, Retraction


def retract(writer: EntryWriter, id: str, because: str) -> Stored[EntryRecord]:
    """A record counts no more: neither does an entry's every trial that was measured for it."""
    refuse_empty(because, "The reason", "say in a sentence why it does not count")
    known = writer.scan()
    about = find(known, id)
    if isinstance(about.record, EntryRecord) and about.record.step in ("retraction", "correction"):
        raise UsageError(f"{id} is a {about.record.step}, which can't be taken back: run the thread to measure anew.")
    measured = about.record.rows if isinstance(about.record, EntryRecord) else ()
    refs = (about.ref, *(row.trial for row in measured if row.trial.id.partition(".")[0] == about.record.id))
    known = _seen_by(known, about)
    gone = known.retracted | {ref.sha256 for ref in refs}
    claims, changes = _again(writer, known, gone)
    said = Finding(
        result=" ".join(
            [f"{id} ({about.record.label}) is retracted: {because.rstrip('.')}.", *_rested(known, refs), *changes]
        ),
        next_action="Run the thread again: what was retracted is measured anew.",
        claims=claims,
    )
    label = short(f"{id} retracted: {because}")
    return writer.write(
        known, "retraction", f"retraction/{about.sha256[:16]}", label, Retraction(retracts=id), said, refs
    )


def correct(writer: EntryWriter, id: str, text: str) -> Stored[EntryRecord]:
    """What was said of a record was wrong in this; its measurements stand, and verdicts on them are made again."""
    refuse_empty(text, "The correction", "say in a sentence what is right")
    known = writer.scan()
    about = find(known, id)
    rows = about.record.rows if isinstance(about.record, EntryRecord) else ()
    refs = (about.ref, *(row.trial for row in rows))
    known = _seen_by(known, about)
    claims, changes = _again(writer, known, known.retracted, {ref.sha256 for ref in refs})
    said = Finding(
        " ".join([f"Of {id} ({about.record.label}): {text.rstrip('.')}.", *_rested(known, refs), *changes]),
        claims=claims,
    )
    key = f"correction/{digest(about.sha256, text)}"
    return writer.write(
        known, "correction", key, short(f"{id} corrected: {text}"), Correction(corrects=id), said, (about.ref,)
    )


def rebase(writer: EntryWriter, id: str) -> Stored[EntryRecord]:
    """The baseline moves to what a record found, if that is replicated."""
    known = writer.scan()
    about, primary = find(known, id), writer.series.primary.name
    gone = known.retracted
    rows = about.record.rows if isinstance(about.record, EntryRecord) else ()
    read = claims_in(about.record) if isinstance(about.record, EntryRecord) else ()
    shas = {about.sha256, *(row.trial.sha256 for row in rows), *(sha for claim in read for sha in evidence(claim))}
    standing_now = [claim for claim in standing(entries_of(known)) if claim.metric == primary]
    named = [claim for claim in standing_now if evidence(claim) & shas]
    # Made again from trials, because a baseline does not rest on what a file says of them.
    found = [one for one in remade(writer.series, known, _alike(standing_now, named), gone) if evidence(one) & shas]
    in_force = [case for case, _ in fixed_cases(known.entries.values()).values()]
    carrying = [claim for claim in found if claim.confidence != "exploratory" and claim.case in in_force]
    winner = best(writer.series, carrying)
    if winner is None:
        what = (
            "; ".join(f"{claim_text(claim)} against {claim.baseline.id}" for claim in found) or f"nothing on {primary}"
        )
        raise UsageError(
            f"{id} does not carry a baseline: it says {what}; expected an improvement that is replicated, on a baseline "
            f"case that is in force. Get there with 'research replicate {id}'."
        )
    base = known.entries.get(winner.baseline.sha256)
    if base is None:
        raise UsageError(f"The entry {winner.baseline.id} of the baseline is not here: fetch its branch, or its store.")
    to = {**winner.case, **winner.changes}
    details = Rebase(baseline=base.record.label, before=winner.case, to=to, claim=claim_text(winner))
    changes = changes_text(winner.changes)
    said = Finding(
        result=f"The baseline {base.record.label!r} moves to {changes}: {winner.metric} {claim_text(winner)}.",
        next_action=f"Give steps.baseline(…, label={base.record.label!r}) this case and run the thread.",
    )
    inputs = dict.fromkeys((about.ref, winner.baseline, *winner.trials, *winner.also))
    key = f"rebase/{digest(base.record.label, winner.case, to, about.sha256)}"
    return writer.write(known, "rebase", key, short(f"baseline moves to {changes}"), details, said, tuple(inputs))


def _again(
    writer: EntryWriter, known: Snapshot, gone: frozenset[str], touched: set[str] | None = None
) -> tuple[tuple[Claim, ...], list[str]]:
    """The claims that rest on what is gone, or was touched, made again; and what became of their verdicts."""
    claims = standing(entries_of(known))
    before = _alike(claims, [claim for claim in claims if _rests_on(known, claim, touched or gone)])
    after = remade(writer.series, known, before, gone)
    metrics = {metric.name for metric in writer.series.metrics}
    pairs = zip([claim for claim in before if claim.metric in metrics], after, strict=True)
    changes = [
        f"{changes_text(was.changes)}, {was.metric}: {verdict_text(was)} → {verdict_text(now)}" for was, now in pairs
    ]
    return after, [f"Verdicts made again: {'; '.join(changes)}."] if changes else []


def _alike(claims: Sequence[Claim], some: Sequence[Claim]) -> list[Claim]:
    """Those about the same candidates as some of them: whether one is stable hangs on the others."""
    about = {canonical([claim.metric, claim.changes]) for claim in some}
    return [claim for claim in claims if canonical([claim.metric, claim.changes]) in about]


def _seen_by(known: Snapshot, about: Stored[Any]) -> Snapshot:
    """What may be said of a record: nothing that is private, unless the record is."""
    if known.is_private(about.record.id):
        return known
    return replace(known, entries={sha: one for sha, one in known.entries.items() if not one.record.private})


def _rests_on(known: Snapshot, claim: Claim, shas: set[str] | frozenset[str]) -> bool:
    floor = {ref.sha256 for ref in known.baseline_trials(claim.baseline)}
    return bool(({claim.baseline.sha256} | evidence(claim) | floor) & shas)


def _rested(known: Snapshot, refs: Sequence[Ref]) -> list[str]:
    """Which entries rest on these records, directly or through others."""
    reached = {ref.sha256 for ref in refs}
    found: list[str] = []
    for stored in known.in_order:
        entry = stored.record
        below = {ref.sha256 for ref in entry.inputs} | {row.trial.sha256 for row in entry.rows}
        if stored.sha256 not in reached and below & reached:
            reached.add(stored.sha256)
            found.append(entry.id)
    return [f"On it rested: {', '.join(found)}."] if found else []


def next_numbers(known: Snapshot, count: int) -> list[int]:
    """Numbers of further replicates, above all that were finished."""
    rows = (row for entry in entries_of(known) if entry.step == "replicate" for row in entry.rows)
    first = max((row.replicate for row in rows), default=0) + 1
    return list(range(first, first + count))


def claim_of(known: Snapshot, id: str, metric: Metric) -> tuple[Claim, Stored[EntryRecord], TrialRecord]:
    """The newest claim on a metric about what an ID names, of an entry its best candidate; the entry that makes it, and
    one of its trials."""
    about, gone = find(known, id), known.retracted
    sha = about.sha256
    if isinstance(about.record, EntryRecord):
        own = [claim for claim in claims_in(about.record) if _is_candidate(claim, metric)]
        sha = max(own, key=lambda claim: gain(metric, claim)).trials[0].sha256 if own else sha
    for stored in reversed(known.in_order):
        if not STEP_KINDS[stored.record.step].compares or stored.sha256 in gone:
            continue
        for claim in claims_in(stored.record):
            left = [ref.sha256 for ref in claim.trials if ref.sha256 in known.trials and ref.sha256 not in gone]
            if left and sha in evidence(claim) and _is_candidate(claim, metric):
                return claim, stored, known.trials[left[0]].record
    raise UsageError(
        f"{id} names no candidate with a claim on {metric.name}: expected a row of a sweep that is not retracted, "
        f"such as {id.partition('.')[0]}.01."
    )


def _is_candidate(claim: Claim, metric: Metric) -> bool:
    return bool(claim.metric == metric.name and claim.trials)
