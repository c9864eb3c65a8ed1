"""What came of a reproduction, as an entry of the series: its table, its outcome, and what follows for the claims.

The fresh trials become records of the series, so that the same rules that judge a replicate judge them: whether they
raise a claim's confidence is computed and never said.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from research_steps.evidence.claim_text import candidate_text, changes_text, verdict_text
from research_steps.evidence.claims import Baseline, Candidate, make_claims
from research_steps.evidence.comparable import comparable_with
from research_steps.evidence.error_spending import looks_in, next_look
from research_steps.evidence.standing import about, together
from research_steps.evidence.table import Trial, noted, row_of
from research_steps.journal.entries import Finding
from research_steps.journal.snapshot import Snapshot, entries_of
from research_steps.publish.entry_writer import EntryWriter, digest
from research_steps.records.configurations import changes_in
from research_steps.records.encoding import Stored, canonical, sha256
from research_steps.records.model import Claim, EntryRecord, Row, TrialRecord
from research_steps.records.series import trial_id
from research_steps.seal.bundle import Bundle
from research_steps.seal.reproduce.judging import Judged, Outcome, judge, told
from research_steps.seal.reproduce.rerun import Rerun

# What to do next. Of the outcomes of several claims the first one here is that of all.
_NEXT: dict[Outcome, str] = {
    "not reproduced": "Find out what changed since the seal: the machine, what it runs beside, or what no record holds.",
    "not comparable": "Reproduce it where the conditions are those that were sealed, on a quiet machine.",
    "reproduced": "Nothing: what was sealed holds.",
}


def report(writer: EntryWriter, bundle: Bundle, again: Rerun) -> Stored[EntryRecord]:
    """Record the outcome."""
    judged = judge(again.series, bundle.claims, again.sealed, again.fresh)
    outcomes, case = {claim.outcome for claim in judged}, judged[0].sealed.case
    result = next(outcome for outcome in _NEXT if outcome in outcomes)
    details = msgspec.structs.replace(again.details, outcome=result)
    # The fresh trials that the outcome rests on: the candidates', then those of the baseline against itself.
    fresh = [claim.fresh for claim in judged if claim.fresh is not None]
    refs = [ref for claim in fresh for ref in (*claim.trials, *claim.also)]
    refs += [ref for claim in fresh for ref in again.fresh.floor_trials(claim)]
    trials = again.fresh.trials_of({ref.sha256: ref for ref in refs}.values())
    ran = zip(details.commands, details.exits, strict=True)
    failed = [f"'{command}' ended with exit code {code}." for command, code in ran if code != 0]

    known = writer.scan()
    looks = looks_in(entries_of(known))

    def finding(id: str) -> Finding:
        # By the hashes of the fresh trials, which their claims name them by.
        recorded = Snapshot(trials={t.sha256: _recorded(writer, id, number, t) for number, t in enumerate(trials, 1)})
        claims: list[Claim] = []
        for claim in judged:
            claims += _claims(claim, again, recorded, known, [*looks, claims])
        return Finding(
            result=f"{bundle.tag}: {result}. {'; '.join(told(claim, case) for claim in judged)}",
            rows=tuple(_row(trial, case) for trial in recorded.trials.values()),
            interpretation=" ".join([*failed, *_confidences(judged, claims)]),
            next_action=_NEXT[result],
            claims=together(again.series, claims),
        )

    writer.journal.keep_patch(bundle.patch, again.patch)
    key = f"reproduction/{digest(bundle.tag, sorted(again.fresh.entries))}"
    label = f"{bundle.id} {result}"
    return writer.write(known, "reproduction", key, label, details, finding, (bundle.seal,))


def _recorded(writer: EntryWriter, id: str, number: int, fresh: Stored[TrialRecord]) -> Stored[TrialRecord]:
    """The same trial as a record of the series, under an ID and a key of this reproduction."""
    key = sha256(canonical({"reproduction": id, "trial": fresh.sha256}))
    record = msgspec.structs.replace(fresh.record, key=key, attempt=0, id=trial_id(id, number), late=False)
    with writer.journal.attempts.begin("trial", key, 0, id=record.id, label=record.label, config=record.config):
        return writer.journal.attempts.finish("trial", record)


def _row(stored: Stored[TrialRecord], case: dict[str, Any]) -> Row:
    record = stored.record
    row = row_of(Trial(stored, True), changes_in(record.config, record.baseline_config))
    variant = changes_in(record.baseline_config, case)
    return noted(row, f"both at {changes_text(variant)}") if variant else row


def _claims(
    judged: Judged, again: Rerun, recorded: Snapshot, known: Snapshot, looks: Sequence[Iterable[Claim]]
) -> tuple[Claim, ...]:
    """What the fresh processes say with all that looked at the candidate before, by the rules for replicates.

    Where the claim was not reproduced nothing is replicated.
    """
    claim, fresh = judged.sealed, judged.fresh
    if fresh is None or judged.outcome == "not comparable":
        return ()
    now = recorded.trials_of((*fresh.trials, *fresh.also))
    fresh_ones = [trial.sha256 for trial in now]
    look = next_look(again.series, looks, claim.changes, claim.case, claim.baseline.sha256, fresh_ones)
    before = again.sealed.trials_of((*claim.trials, *claim.also))
    earlier = comparable_with(known.trials_of(look.trials), now)
    floor = again.sealed.trials_of(again.sealed.floor_trials(claim))
    if not all(trial.record.samples is None or trial.record.samples.paired for trial in now):
        # What is not paired counts against the baseline of its own run.
        floor = recorded.trials_of(again.fresh.floor_trials(fresh))
    baseline = Baseline(claim.case, claim.baseline, floor)
    counted = {trial.sha256 for trial in earlier}
    also = [trial for trial in before if trial.sha256 not in counted]
    claims = make_claims(again.series, baseline, [Candidate(claim.changes, [*earlier, *now], also)], look.spending)
    if judged.outcome == "reproduced":
        return claims
    why = f"not reproduced: {judged.why}"
    whys = ("; ".join(filter(None, [why, made.why])) for made in claims)
    return tuple(
        msgspec.structs.replace(made, confidence="exploratory", why=so) for made, so in zip(claims, whys, strict=True)
    )


def _confidences(judged: Sequence[Judged], claims: Sequence[Claim]) -> list[str]:
    """What the outcome makes of each claim that it is about."""
    now = {about(claim): claim for claim in claims}
    sentences = []
    for sealed in (claim.sealed for claim in judged if about(claim.sealed) in now):
        verdicts = f"was sealed as {verdict_text(sealed)}, and is {verdict_text(now[about(sealed)])} now."
        sentences.append(f"{candidate_text(sealed, judged[0].sealed.case)} {verdicts}")
    return sentences
