"""What came of a reproduction, as an entry of the series: its table, its outcome, and what follows for the claims.

The fresh trials become records of the series, so that the same rules that judge a replicate judge them: whether they
raise a claim's confidence is computed and never said.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from research_steps.claims import Baseline, Candidate, Ended, make_claims, together
from research_steps.entry import Finding
from research_steps.holdings import Snapshot
from research_steps.notes import Desk, digest
from research_steps.record import Claim, EntryRecord, Ref, Row, Stored, TrialRecord, canonical, sha256
from research_steps.reproduction.judging import Judged, judge, outcome, told
from research_steps.reproduction.rerun import Rerun
from research_steps.series import trial_id
from research_steps.snapshot.bundle import Bundle
from research_steps.steps.rows import changes_in, row_of
from research_steps.steps.trials import Trial

_NEXT = {
    "reproduced": "Nothing: what was sealed holds.",
    "not reproduced": "Find out what changed since the seal: the machine, what it runs beside, or what no record holds.",
    "not comparable": "Reproduce it where the conditions are those that were sealed, on a quiet machine.",
}


def report(desk: Desk, bundle: Bundle, again: Rerun, here: bool) -> Stored[EntryRecord]:
    """Record the outcome. Raises UsageError when the seal stands for no claim that could be held against it."""
    judged = judge(desk.series, bundle.claims, again.sealed, again.fresh)
    found = outcome(judged)
    case = next((one.sealed.case for one in judged), {})
    sentences = [told(one, case) for one in judged]
    config: dict[str, Any] = {
        "tag": bundle.tag,
        "commit": bundle.commit,
        "commands": list(again.commands),
        "exits": list(again.exits),
        "environment": "the one here" if here else "built from the sealed list of packages",
        "outcome": found,
    }
    trials = _trials(judged, again.fresh)

    def said(id: str) -> Finding:
        kept = {one.sha256: _keep(desk, id, number, one) for number, one in enumerate(trials, 1)}
        rows = tuple(_row(one) for one in kept.values())
        claims = [claim for one in judged for claim in _claims(desk, one, again, kept)]
        return Finding(
            result=f"{bundle.tag} is {found}. {'; '.join(sentences)}",
            rows=rows,
            next_action=_NEXT[found],
            claims=together(desk.series, claims),
        )

    key = f"reproduction/{digest(bundle.tag, [one.sha256 for one in trials])}"
    return desk.write(desk.scan(), "reproduction", key, f"{bundle.id} {found}", config, said, (bundle.seal,))


def _trials(judged: Sequence[Judged], fresh: Snapshot) -> list[Stored[TrialRecord]]:
    """The fresh trials that the outcome rests on: the candidates', then those of the baseline against itself."""
    claims = [one.fresh for one in judged if one.fresh is not None]
    refs = [ref for claim in claims for ref in (*claim.trials, *claim.also)]
    refs += [ref for claim in claims for ref in fresh.baseline_trials(claim.baseline)]
    return [fresh.trials[sha] for sha in dict.fromkeys(ref.sha256 for ref in refs) if sha in fresh.trials]


def _keep(desk: Desk, id: str, number: int, fresh: Stored[TrialRecord]) -> Stored[TrialRecord]:
    """The same trial as a record of the series, under an ID and a key of this reproduction."""
    key = sha256(canonical({"reproduction": id, "trial": fresh.sha256}))
    record = msgspec.structs.replace(fresh.record, key=key, attempt=0, id=trial_id(id, number), late=False)
    with desk.journal.begin("trial", key, 0, id=record.id, label=record.label, config=record.config):
        return desk.journal.finish("trial", record)


def _row(stored: Stored[TrialRecord]) -> Row:
    record = stored.record
    return row_of(Trial(stored, True), changes_in(record.config, record.baseline_config))


def _claims(desk: Desk, judged: Judged, again: Rerun, kept: dict[str, Stored[TrialRecord]]) -> tuple[Claim, ...]:
    """What the fresh processes say by the rules for replicates; the sealed ones are only asked whether they agree."""
    claim, fresh = judged.sealed, judged.fresh
    if fresh is None or judged.outcome == "not comparable":
        return ()
    now: list[Ended] = [kept[ref.sha256] for ref in (*fresh.trials, *fresh.also) if ref.sha256 in kept]
    before: list[Ended] = _held(again.sealed, (*claim.trials, *claim.also))
    floor = _held(again.sealed, again.sealed.baseline_trials(claim.baseline))
    baseline = Baseline(claim.case, claim.baseline, floor)
    return make_claims(desk.series, baseline, [Candidate(claim.changes, now, before)])


def _held(sealed: Snapshot, refs: Sequence[Ref]) -> list[Ended]:
    return [sealed.trials[ref.sha256] for ref in refs if ref.sha256 in sealed.trials]
