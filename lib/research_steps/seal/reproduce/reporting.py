"""What came of a reproduction, as an entry of the series: its table, its outcome, and what follows for the claims.

The fresh trials become records of the series, so that the same rules that judge a replicate judge them: whether they
raise a claim's confidence is computed and never said.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from research_steps.evidence.claim_text import changes_text, variant_text
from research_steps.evidence.claim_text import verdict_text as said_of
from research_steps.evidence.claims import Baseline, Candidate, make_claims
from research_steps.evidence.standing import together
from research_steps.evidence.table import Trial, noted, row_of
from research_steps.journal.entries import Finding
from research_steps.journal.snapshot import Snapshot
from research_steps.publish.entry_writer import EntryWriter, digest
from research_steps.records.configurations import changes_in
from research_steps.records.encoding import Stored, canonical, sha256
from research_steps.records.model import Claim, EntryRecord, Row, TrialRecord
from research_steps.records.series import Series, trial_id
from research_steps.records.step_kinds import Reproduction
from research_steps.seal.bundle import Bundle
from research_steps.seal.reproduce.judging import Judged, judge, outcome, told
from research_steps.seal.reproduce.rerun import Rerun

_NEXT = {
    "reproduced": "Nothing: what was sealed holds.",
    "not reproduced": "Find out what changed since the seal: the machine, what it runs beside, or what no record holds.",
    "not comparable": "Reproduce it where the conditions are those that were sealed, on a quiet machine.",
}


def report(writer: EntryWriter, bundle: Bundle, again: Rerun, here: bool) -> Stored[EntryRecord]:
    """Record the outcome."""
    judged = judge(again.series, bundle.claims, again.sealed, again.fresh)
    found = outcome(judged)
    details = Reproduction(
        tag=bundle.tag,
        commit=bundle.commit,
        commands=tuple(again.commands),
        exits=tuple(again.exits),
        not_run=tuple(again.not_run),
        environment="the one here" if here else "built from the sealed list of packages",
        outcome=found,
    )
    trials = _trials(judged, again.fresh)
    sentences = [told(one, judged[0].sealed.case) for one in judged]

    def said(id: str) -> Finding:
        kept = {one.sha256: _keep(writer, id, number, one) for number, one in enumerate(trials, 1)}
        rows = tuple(_row(one, judged[0].sealed.case) for one in kept.values())
        claims = together(again.series, [claim for one in judged for claim in _claims(one, again, kept)])
        return Finding(
            result=f"{bundle.tag}: {found}. {'; '.join(sentences)}",
            rows=rows,
            interpretation=" ".join([*_ended_badly(again), *_confidences(again.series, judged, claims)]),
            next_action=_NEXT[found],
            claims=claims,
        )

    if bundle.patch is not None:
        writer.journal.keep_patch(bundle.patch, again.patch)
    key = f"reproduction/{digest(bundle.tag, sorted(again.fresh.entries))}"
    return writer.write(writer.scan(), "reproduction", key, f"{bundle.id} {found}", details, said, (bundle.seal,))


def _trials(judged: Sequence[Judged], fresh: Snapshot) -> list[Stored[TrialRecord]]:
    """The fresh trials that the outcome rests on: the candidates', then those of the baseline against itself."""
    claims = [one.fresh for one in judged if one.fresh is not None]
    refs = [ref for claim in claims for ref in (*claim.trials, *claim.also)]
    refs += [ref for claim in claims for ref in fresh.baseline_trials(claim.baseline)]
    return fresh.trials_of({ref.sha256: ref for ref in refs}.values())


def _keep(writer: EntryWriter, id: str, number: int, fresh: Stored[TrialRecord]) -> Stored[TrialRecord]:
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


def _claims(judged: Judged, again: Rerun, kept: dict[str, Stored[TrialRecord]]) -> tuple[Claim, ...]:
    """What the fresh processes say by the rules for replicates; the sealed ones are only asked whether they agree.

    They don't where the claim was not reproduced, and then nothing is replicated.
    """
    claim, fresh = judged.sealed, judged.fresh
    if fresh is None or judged.outcome == "not comparable":
        return ()
    now = [kept[ref.sha256] for ref in (*fresh.trials, *fresh.also) if ref.sha256 in kept]
    before = again.sealed.trials_of((*claim.trials, *claim.also))
    floor = again.sealed.trials_of(again.sealed.baseline_trials(claim.baseline))
    if not all(one.record.samples is None or one.record.samples.paired for one in now):
        # What is not paired counts against the baseline of its own run.
        floor = [kept[ref.sha256] for ref in again.fresh.baseline_trials(fresh.baseline) if ref.sha256 in kept]
    baseline = Baseline(claim.case, claim.baseline, floor)
    made = make_claims(again.series, baseline, [Candidate(claim.changes, now, before)])
    if judged.outcome == "reproduced":
        return made
    why = f"not reproduced: {judged.why}"
    return tuple(msgspec.structs.replace(one, confidence="exploratory", why=one.why or why) for one in made)


def _ended_badly(again: Rerun) -> list[str]:
    ran = zip(again.commands, again.exits, strict=True)
    return [f"'{command}' ended with exit code {code}." for command, code in ran if code != 0]


def _confidences(series: Series, judged: Sequence[Judged], claims: Sequence[Claim]) -> list[str]:
    """What the outcome makes of each claim that it is about."""
    now = {canonical([one.changes, one.case]): one for one in claims if one.metric == series.primary.name}
    sentences = []
    for sealed in (one.sealed for one in judged):
        claim = now.get(canonical([sealed.changes, sealed.case]))
        if claim is not None:
            which = f"{changes_text(sealed.changes)}{variant_text(sealed, judged[0].sealed.case)}"
            sentences.append(f"{which} was sealed as {said_of(sealed)}, and is {said_of(claim)} now.")
    return sentences
