"""Keeping what dev mode found: its trials become an entry, under the experiment ID that they have already."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from research_steps.errors import UsageError
from research_steps.evidence.claim_text import changes_text, claim_text
from research_steps.evidence.claims import Baseline, Candidate, make_claims
from research_steps.evidence.interpretation import interpret_rows
from research_steps.evidence.standing import DECIDED
from research_steps.evidence.statistics import gain, ranked
from research_steps.evidence.table import Trial, noted, row_of
from research_steps.git import Checkout
from research_steps.journal.entries import About, Finding, write_entry
from research_steps.records.configurations import changes_in
from research_steps.records.encoding import Stored
from research_steps.records.model import Captured, Claim, EntryRecord, InterruptedRecord, Row, TrialRecord
from research_steps.records.step_kinds import Measurement
from research_steps.thread.dev.evidence import DevEvidence


@dataclass(frozen=True)
class KeptAttempt:
    """An experiment ID of dev mode, the step key that holds it, and what a person says of it. `chosen` is the ID of the
    trial that is claimed (default: the best)."""

    checkout: Checkout
    evidence: DevEvidence
    id: str
    occasion: str
    chosen: str = ""
    label: str = ""
    hypothesis: str = ""
    interpretation: str = ""
    next_action: str = ""


def keep(kept: KeptAttempt) -> Stored[EntryRecord]:
    """Make an entry of the scratch trials under an experiment ID. Raises UsageError when there are none."""
    journal = kept.evidence.journal
    held = journal.ids.latest_entry(kept.occasion)
    if held is not None:
        raise UsageError(
            f"{kept.id} is an entry already: {held.record.label}. Add to it with 'research note {kept.id}'."
        )
    found = journal.scan().trials.values()
    below = [one for one in found if one.record.id.rpartition(".")[0] == kept.id and not one.record.late]
    trials = [one for one in below if one.sha256 not in kept.evidence.gone]
    if not trials:
        raise UsageError(
            f"{kept.id} has no trials in {journal.store.url} that count: 'research status' tells what is scratch."
        )
    if kept.chosen and kept.chosen not in {one.record.id for one in trials}:
        names = ", ".join(sorted({one.record.id for one in trials}))
        raise UsageError(f"{kept.chosen} is no trial that counts: expected one of {names}.")
    trials.sort(key=lambda one: (one.record.started_at, one.record.id))
    return write_kept(kept, trials)


def write_kept(kept: KeptAttempt, trials: Sequence[Stored[Any]]) -> Stored[EntryRecord]:
    """The entry of these trials: one row each. Where several were tried the best is claimed, as one among them."""
    series, journal = kept.evidence.series, kept.evidence.journal
    groups = _candidates(trials)
    floors = [_floor(kept, group) for group in groups]
    claims: tuple[Claim, ...] = ()
    for floor, group in zip(floors, groups, strict=True):
        refs = tuple(one.ref for one in group.trials)
        claims += tuple(one for one in make_claims(series, floor, groups) if one.trials == refs) if floor else ()
    baseline = next((floor for floor in floors if floor), None)
    rows = ranked(series.primary, [_row(one, baseline) for one in trials], claims)
    primary = [claim for claim in claims if claim.metric == series.primary.name]
    if kept.chosen:
        primary = [claim for claim in primary if any(ref.id == kept.chosen for ref in claim.trials)]
    chosen = max(primary, key=lambda claim: gain(series.primary, claim), default=None)
    claims = tuple(claim for claim in claims if chosen is not None and claim.trials == chosen.trials)
    text, next_action = interpret_rows(series, rows, claims)
    if chosen is not None and chosen.verdict in DECIDED:
        id = kept.chosen or chosen.trials[0].id
        next_action = f"Measure it through the executor, with 'research confirm {id}', before anything rests on it."
    last = trials[-1].record
    case = _measured(trials).baseline_config
    for floor in {floor.entry.sha256: floor for floor in floors if floor}.values():
        if floor.trials[0].ref == floor.entry:
            # No entry holds the noise floor that the claims rest on, so this one does.
            rows += [noted(row_of(Trial(one, False), {}), "noise floor of the baseline") for one in floor.trials]
    result = f"{len(trials)} attempt{'s' if len(trials) != 1 else ''} in dev mode"
    if chosen is None:
        good = any(one.record.status == "ok" for one in trials)
        result += ", compared with nothing: there is no noise floor" if good else ", none succeeded"
    else:
        which = "chosen" if kept.chosen else "best"
        result += f", {which} {changes_text(chosen.changes)}: {series.primary.name} {claim_text(chosen)}"
    about = About(
        kind="dev",
        step_key=kept.occasion,
        label=kept.label or last.label,
        hypothesis=kept.hypothesis,
        details=Measurement(measure=_measured(trials).measure, baseline_case=case),
        mode="dev",
        private=_is_private(kept, trials, floors),
    )
    said = Finding(result, tuple(rows), kept.interpretation or text, kept.next_action or next_action, claims=claims)
    # The commit and patch are those of what was measured, not of the moment in which it is kept.
    captured = Captured(_measured(trials).provenance, None)
    return write_entry(journal, series, captured, (), about, lambda id: said)


def publish_kept(kept: KeptAttempt, say: Callable[[str], None]) -> None:
    """Show the entry wherever the series is shown."""
    from research_steps.publish.publisher import publish
    from research_steps.thread.surfaces import surfaces_of

    series, journal = kept.evidence.series, kept.evidence.journal
    published = publish(journal, surfaces_of(kept.checkout, journal, series))
    for done in published.done:
        say(f"{done.id}: {done.what}")
    for problem in published.problems:
        say(f"not published: {problem} Run 'research sync {series.topic}' once it is mended.")


def _candidates(trials: Sequence[Stored[Any]]) -> list[Candidate]:
    """Trials of the same configuration and code are one candidate."""
    groups: dict[tuple[str, str], list[Stored[Any]]] = {}
    for one in trials:
        if isinstance(one.record, TrialRecord):
            groups.setdefault((repr(one.record.config), one.record.code), []).append(one)
    return [
        Candidate(changes_in(same[0].record.config, same[0].record.baseline_config), same) for same in groups.values()
    ]


def _measured(trials: Sequence[Stored[Any]]) -> TrialRecord:
    return next(one.record for one in reversed(trials) if isinstance(one.record, TrialRecord))


def _floor(kept: KeptAttempt, group: Candidate) -> Baseline | None:
    records = (one.record for one in group.trials)
    good = next((one for one in records if isinstance(one, TrialRecord) and one.samples), None)
    return kept.evidence.floor(good) if good is not None else None


def _is_private(kept: KeptAttempt, trials: Sequence[Stored[Any]], floors: Sequence[Baseline | None]) -> bool:
    """Whether the baseline that they were measured against is private, as the thread declared it then."""
    evidence = kept.evidence
    begun = (evidence.journal.attempts.intent("trial", one.record.key, one.record.attempt) for one in trials)
    private = {entry.sha256 for entry in evidence.entries if entry.record.private}
    rests = any(floor is not None and floor.entry.sha256 in private for floor in floors)
    return evidence.series.private or rests or any(one.private is True for one in begun)


def _row(trial: Stored[Any], baseline: Baseline | None) -> Row:
    record = trial.record
    if isinstance(record, InterruptedRecord):
        return row_of(Trial(trial, True), {})
    values = row_of(Trial(baseline.trials[0], False), {}).values if baseline else None
    row = row_of(Trial(trial, True), changes_in(record.config, record.baseline_config), values)
    return noted(row, f"patch {record.provenance.patch[:12]}") if record.provenance.patch else row
