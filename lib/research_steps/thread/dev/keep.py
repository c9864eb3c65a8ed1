"""Keeping what dev mode found: its trials become an entry, under the experiment ID that they have already, or a new one
where an entry has been published under that since."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from research_steps.errors import UsageError
from research_steps.evidence.claim_text import changes_text, claim_text
from research_steps.evidence.claims import Baseline, Candidate, make_claims
from research_steps.evidence.comparable import candidate_code
from research_steps.evidence.interpretation import interpret_rows
from research_steps.evidence.standing import DECIDED
from research_steps.evidence.statistics import gain, ranked
from research_steps.evidence.table import Trial, noted, row_of
from research_steps.git import Checkout
from research_steps.journal.entries import About, Finding, write_entry
from research_steps.publish.logbook.numbers import CheckoutNumbers
from research_steps.records.configurations import CODE, changes_in
from research_steps.records.encoding import Stored
from research_steps.records.model import Captured, Claim, EntryRecord, InterruptedRecord, Row, TrialRecord, Version
from research_steps.records.step_kinds import Measurement
from research_steps.thread.dev.evidence import DevEvidence


@dataclass(frozen=True)
class KeptAttempt:
    """An experiment ID of dev mode, the step key that holds it, and what a person says of it. `chosen` is the ID of the
    trial that is claimed (default: the best), `how` tells how its attempts were made."""

    checkout: Checkout
    evidence: DevEvidence
    id: str
    occasion: str
    chosen: str = ""
    label: str = ""
    hypothesis: str = ""
    interpretation: str = ""
    next_action: str = ""
    how: str = "in dev mode"


def keep(attempt: KeptAttempt) -> Stored[EntryRecord]:
    """Make an entry of the scratch trials under an experiment ID. Raises UsageError when there are none."""
    journal = attempt.evidence.journal
    entry = journal.ids.latest_entry(attempt.occasion)
    if entry is not None:
        raise UsageError(
            f"{entry.record.id} is an entry already: {entry.record.label}. Add to it with 'research note "
            f"{entry.record.id}'."
        )
    stored = journal.scan().trials.values()
    own = [trial for trial in stored if trial.record.id.rpartition(".")[0] == attempt.id and not trial.record.late]
    trials = [trial for trial in own if trial.sha256 not in attempt.evidence.retracted]
    if not trials:
        raise UsageError(
            f"{attempt.id} has no trials in {journal.store.url} that count: 'research status' tells what is scratch."
        )
    names = {trial.record.id for trial in trials}
    if attempt.chosen and attempt.chosen not in names:
        raise UsageError(f"{attempt.chosen} is no trial that counts: expected one of {', '.join(sorted(names))}.")
    trials.sort(key=lambda trial: (trial.record.started_at, trial.record.id))
    return write_kept(attempt, trials)


def write_kept(attempt: KeptAttempt, trials: Sequence[Stored[Any]]) -> Stored[EntryRecord]:
    """The entry of these trials: one row each. Where several were tried the best is claimed, as one among them."""
    series, journal = attempt.evidence.series, attempt.evidence.journal
    groups = _candidates(trials)
    floors = [_floor(attempt, group) for group in groups]
    claims: tuple[Claim, ...] = ()
    for floor, group in zip(floors, groups, strict=True):
        refs = tuple(trial.ref for trial in group.trials)
        claims += tuple(claim for claim in make_claims(series, floor, groups) if claim.trials == refs) if floor else ()
    baseline = next((floor for floor in floors if floor), None)
    changes = {trial.sha256: group.changes for group in groups for trial in group.trials}
    rows = [_row(trial, changes.get(trial.sha256, {}), baseline) for trial in trials]
    rows = ranked(series.primary, rows, claims)
    primary = [claim for claim in claims if claim.metric == series.primary.name]
    if attempt.chosen:
        primary = [claim for claim in primary if any(ref.id == attempt.chosen for ref in claim.trials)]
    chosen = max(primary, key=lambda claim: gain(series.primary, claim), default=None)
    claims = tuple(claim for claim in claims if chosen is not None and claim.trials == chosen.trials)
    text, next_action = interpret_rows(series, rows, claims)
    if chosen is not None and chosen.verdict in DECIDED:
        id = attempt.chosen or chosen.trials[0].id
        next_action = f"Measure it through the executor, with 'research confirm {id}', before anything rests on it."
    measured = next(trial.record for trial in reversed(trials) if isinstance(trial.record, TrialRecord))
    for floor in {floor.trials[0].sha256: floor for floor in floors if floor}.values():
        if floor.beside or floor.trials[0].ref == floor.entry:
            # No entry holds the noise floor that the claims rest on, so this one does.
            rows += [noted(row_of(Trial(trial, False), {}), "noise floor of the baseline") for trial in floor.trials]
    result = f"{len(trials)} attempt{'s' if len(trials) != 1 else ''} {attempt.how}"
    if chosen is None:
        good = any(trial.record.status == "ok" for trial in trials)
        result += ", compared with nothing: there is no noise floor" if good else ", none succeeded"
    else:
        which = "chosen" if attempt.chosen else "best"
        result += f", {which} {changes_text(chosen.changes)}: {series.primary.name} {claim_text(chosen)}"
    about = About(
        kind="dev",
        step_key=attempt.occasion,
        label=attempt.label or trials[-1].record.label,
        hypothesis=attempt.hypothesis,
        details=Measurement(measure=measured.measure, baseline_case=attempt.evidence.case(measured)),
        mode="dev",
        private=_is_private(attempt, trials, floors),
    )
    finding = Finding(
        result, tuple(rows), attempt.interpretation or text, attempt.next_action or next_action, claims=claims
    )
    # The commit and patch are those of what was measured, not of the moment in which it is kept.
    captured = Captured(measured.provenance, None)
    numbers = CheckoutNumbers(attempt.checkout, series.topic, series.prefix, journal.dry_run)
    return write_entry(journal, series, captured, numbers, about, lambda id: finding)


def publish_kept(attempt: KeptAttempt, say: Callable[[str], None]) -> None:
    """Show the entry wherever the series is shown."""
    from research_steps.publish.publisher import publish
    from research_steps.thread.surfaces import surfaces_of

    series, journal = attempt.evidence.series, attempt.evidence.journal
    published = publish(journal, surfaces_of(attempt.checkout, journal, series))
    for done in published.done:
        say(f"{done.id}: {done.what}")
    for problem in published.problems:
        say(f"not published: {problem} Run 'research sync {series.topic}' once it is mended.")


def _candidates(trials: Sequence[Stored[Any]]) -> list[Candidate]:
    """Trials of the same configuration and code are one candidate."""
    groups: dict[tuple[Any, ...], list[Stored[Any]]] = {}
    for trial in trials:
        if isinstance(trial.record, TrialRecord):
            groups.setdefault((repr(trial.record.config), *candidate_code(trial.record)), []).append(trial)
    return [Candidate(changes_of(same[0].record), same) for same in groups.values()]


def changes_of(record: TrialRecord) -> dict[str, Any]:
    """What the candidate of a trial of dev mode changes in the case that it is compared with. An edit of the code goes
    by the ID of the first trial that measured it."""
    changes, version = changes_in(record.config, record.baseline_config), record.baseline_version
    if not isinstance(version, Version) or candidate_code(record) == (version.code, version.commit, version.patch):
        return changes
    return {**changes, CODE: record.id}


def _floor(attempt: KeptAttempt, group: Candidate) -> Baseline | None:
    records = (trial.record for trial in group.trials)
    good = next((record for record in records if isinstance(record, TrialRecord) and record.samples), None)
    return attempt.evidence.floor(good) if good is not None else None


def _is_private(attempt: KeptAttempt, trials: Sequence[Stored[Any]], floors: Sequence[Baseline | None]) -> bool:
    """Whether the baseline that they were measured against is private, as the thread declared it then."""
    evidence = attempt.evidence
    records = [trial.record for trial in trials]
    intents = (evidence.journal.attempts.intent("trial", record.key, record.attempt) for record in records)
    private = {entry.sha256 for entry in evidence.entries if entry.record.private}
    rests = any(floor is not None and floor.entry.sha256 in private for floor in floors)
    return evidence.series.private or rests or any(intent.private is True for intent in intents)


def _row(trial: Stored[Any], changes: dict[str, Any], baseline: Baseline | None) -> Row:
    record = trial.record
    if isinstance(record, InterruptedRecord):
        return row_of(Trial(trial, True), {})
    values = row_of(Trial(baseline.trials[0], False), {}).values if baseline else None
    row = row_of(Trial(trial, True), changes, values)
    return noted(row, f"patch {record.provenance.patch[:12]}") if record.provenance.patch else row
