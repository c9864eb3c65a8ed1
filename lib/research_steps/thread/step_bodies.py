"""What each kind of step finds out: it measures, compares, and says by rule what that means."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import msgspec

from research_steps.errors import LauncherError
from research_steps.evidence.claim_text import changes_text, claim_text, variant_text
from research_steps.evidence.claims import Candidate, floor_of, make_claims
from research_steps.evidence.comparable import Ended, comparable_with
from research_steps.evidence.error_spending import looks_in, next_look, next_table
from research_steps.evidence.interpretation import (
    interpret_baseline,
    interpret_entries,
    interpret_replicates,
    interpret_rows,
)
from research_steps.evidence.standing import best, claims_in, standing, together
from research_steps.evidence.statistics import place, ranked
from research_steps.evidence.table import Trial, noted, row_of
from research_steps.journal.entries import Finding
from research_steps.journal.snapshot import entries_of
from research_steps.records.configurations import CODE, changes_in, configuration_of
from research_steps.records.encoding import Stored
from research_steps.records.model import Claim, EntryRecord, InterruptedRecord, Ref, Row
from research_steps.records.numbers import quantity, ratio
from research_steps.records.series import Series, trial_id
from research_steps.remote.worker import TrialRef, trials_of
from research_steps.thread.configs import StepConfig
from research_steps.thread.marin import binding
from research_steps.thread.outcome import outcome
from research_steps.thread.table_trials import (
    at_repetition,
    baseline_of,
    changes_to,
    controls_wanted,
    measure,
    points_wanted,
    values_beside,
)
from research_steps.thread.tuned_sweep import tuned_sweep
from research_steps.trial.batch import Wanted
from research_steps.trial.context import Session


def _baseline(session: Session, config: StepConfig, inputs: list[Stored[EntryRecord]], id: str) -> Finding:
    series, wanted = session.series, list[Wanted]()
    for repetition, number in product(config.what.repetitions, config.replicates):
        at, trial = config.changed(repetition), trial_id(id, len(wanted) + 1)
        wanted.append(Wanted(id=trial, label=config.label, config=at, case=at, replicate=number, must_succeed=True))
    trials = measure(session, config, id, wanted)
    rows = tuple(at_repetition(config, measured, row_of(measured, {})) for measured in trials)
    for row, measured in zip(rows, trials, strict=True):
        record = measured.stored.record
        if isinstance(record, InterruptedRecord):
            raise LauncherError(f"The baseline was interrupted: {record.reason}")
        if record.error is not None:
            return Finding(result=f"baseline case: {row.note}", rows=rows, error=record.error)
    floor = floor_of(series, [measured.stored for measured in trials])
    text, next_action = interpret_baseline(series, rows, floor)
    value = statistics.median(row.values[series.primary.name] for row in rows)
    processes = f"{len(rows)} process{'es' if len(rows) > 1 else ''}"
    result = f"baseline case: {series.primary.name} {quantity(series.primary.name, value)}, the median of {processes}"
    return Finding(result=result, rows=rows, interpretation=text, next_action=next_action, floor=floor)


def _sweep(session: Session, config: StepConfig, inputs: list[Stored[EntryRecord]], id: str) -> Finding:
    if config.tuned_over:
        return tuned_sweep(session, config, inputs, id)
    wanted = points_wanted(config, id, config.points)
    refs = [msgspec.convert(binding.read_artifact(path), list[TrialRef]) for path in config.inputs[1:]]
    shards = [trials_of(session, shard) for shard in refs]
    # A shard has each of its trials in the order of the points.
    trials = [shards[n % len(shards)][n // len(shards)] for n in range(len(wanted))] if shards else None
    if trials is None:
        trials = measure(session, config, id, [*wanted, *controls_wanted(session, config, id, len(wanted))])
    return _compared(session, config, inputs[0], trials, config.points, {})


def _interact(session: Session, config: StepConfig, inputs: list[Stored[EntryRecord]], id: str) -> Finding:
    tops = [_top(session, sweep, config.top) for sweep in inputs[1:]]
    for sweep, top in zip(inputs[1:], tops, strict=True):
        if not top:
            return _nothing(session, sweep)
    choices = [[claim.changes for claim in top] for top in tops]
    choices += [[{axis: value} for value in values] for axis, values in config.axes]
    points = [{name: value for changes in cell for name, value in changes.items()} for cell in product(*choices)]
    alone = {changes_text(claim.changes): claim for top in tops for claim in top}
    wanted = points_wanted(config, id, points)
    trials = measure(session, config, id, [*wanted, *controls_wanted(session, config, id, len(wanted))])
    return _compared(session, config, inputs[0], trials, points, alone)


def _compared(
    session: Session,
    config: StepConfig,
    base: Stored[EntryRecord],
    trials: Sequence[Trial],
    points: Sequence[dict[str, Any]],
    alone: Mapping[str, Claim],
) -> Finding:
    """What a table of candidates says, each measured in one process, and the baseline after them where that was measured
    beside them; `alone` are the axes of an interaction."""
    series, case = session.series, config.case
    each = len(config.what.repetitions)
    rows, candidates = [], []
    for number, point in enumerate(points):
        changes, mine = changes_to(config, point, case), trials[number * each : (number + 1) * each]
        beside = values_beside(config, base.record.rows, mine)
        rows += [at_repetition(config, trial, row_of(trial, changes, theirs)) for trial, theirs in beside]
        # The baseline's own value, in an axis that holds it, is no candidate.
        candidates += [Candidate(changes, [trial.stored for trial in mine])] if changes else []
    entries = entries_of(session.journal.published(session.repository))
    baseline, controls = baseline_of(session, config, base, config.what.named(case)), trials[len(points) * each :]
    if controls:
        baseline = replace(baseline, trials=[control.stored for control in controls], beside=True)
        rows += [at_repetition(config, control, row_of(control, {})) for control in controls]
    claims = make_claims(series, baseline, candidates, next_table(series, entries))
    rows = ranked(series.primary, [_beside_independence(row, alone) for row in rows], claims)
    text, next_action = interpret_rows(series, rows, claims)
    return Finding(_summary(series, rows, claims), tuple(rows), text, next_action, claims=claims)


@dataclass(frozen=True)
class _Variant:
    """A candidate measured again at one variant of the baseline case, and the baseline there; where it is the case
    itself, that was measured before."""

    changes: dict[str, Any]
    case: dict[str, Any]
    trials: list[Trial]
    controls: list[Trial]


def _replicate(session: Session, config: StepConfig, inputs: list[Stored[EntryRecord]], id: str) -> Finding:
    series = session.series
    chosen = _chosen(session, config, inputs)
    if chosen is None:
        return _nothing(session, inputs[1])
    picked, chosen_by = chosen
    rows: list[Row] = []
    claims: list[Claim] = []
    tuned = _tuned_baseline(config, chosen_by)
    looks = looks_in(entries_of(session.journal.published(session.repository)))
    for variant in _at_variants(session, config, id, picked, tuned):
        varied = changes_to(config, {**tuned, **variant.changes, **picked}, variant.case)
        case = config.what.named(variant.case)
        baseline = baseline_of(session, config, inputs[0], case)
        control_rows = [row_of(control, {}) for control in variant.controls]
        beside = values_beside(config, control_rows or inputs[0].record.rows, variant.trials)
        variant_rows = [at_repetition(config, trial, row_of(trial, varied, theirs)) for trial, theirs in beside]
        variant_rows += [
            at_repetition(config, trial, row) for trial, row in zip(variant.controls, control_rows, strict=True)
        ]
        at = f"both at {changes_text(variant.changes)}"
        rows += [noted(row, at) if variant.changes else row for row in variant_rows]
        fresh = [trial.stored.sha256 for trial in variant.trials]
        look = next_look(series, [*looks, claims], picked, case, baseline.entry.sha256, fresh)
        if variant.controls:
            controls = _with_earlier(session, look.floor, variant.controls)
            baseline = replace(baseline, trials=controls, beside=True)
        trials = _with_earlier(session, look.trials, variant.trials)
        chose = (*chosen_by.trials, *chosen_by.also) if chosen_by and case == chosen_by.case else ()
        left_out = session.retracted | {trial.sha256 for trial in trials}
        also = [session.journal.load("trial", ref) for ref in chose if ref.sha256 not in left_out]
        claims += make_claims(series, baseline, [Candidate(picked, trials, also)], look.spending)
    joined = together(series, claims)
    base = config.what.named(config.case)
    text, next_action = interpret_replicates(series, rows, joined, base)
    primary = [claim for claim in joined if claim.metric == series.primary.name]
    results = [claim_text(claim) + variant_text(claim, base) for claim in primary]
    result = f"{changes_text(picked)}: {'; '.join(results)}"
    return Finding(result, tuple(rows), text, next_action, claims=joined)


def _tuned_baseline(config: StepConfig, chosen_by: Claim | None) -> dict[str, Any]:
    """What the baseline that a candidate was chosen against changes in the case of the thread: something where it was
    tuned first."""
    return {} if chosen_by is None else changes_in(configuration_of(chosen_by.case, config.case), config.case)


def _at_variants(
    session: Session, config: StepConfig, id: str, picked: dict[str, Any], tuned: dict[str, Any]
) -> list[_Variant]:
    """Measure the candidate again, at each variant; and the baseline where it was not measured yet, because what it took
    at another variant, or at another seed, says nothing there."""
    axis, values = config.across or ("", (None,))
    variants = [{axis: value} if axis else {} for value in values]
    wanted: list[Wanted] = []
    sizes: list[int] = []
    for variant in variants:
        case = config.changed({**tuned, **variant})
        is_known = case == config.case and config.what.over is None and not config.what.versions
        for side, number in product([picked] if is_known else [picked, {}], config.replicates):
            at = {**tuned, **variant, **config.what.further(number)}
            label = f"{changes_text({**variant, **side})} {'replicate' if side else 'baseline'} {number}"
            parts = {"config": config.changed({**at, **side}), "case": config.changed(at), "replicate": number}
            parts["code"] = side.get(CODE, "")
            wanted.append(Wanted(id=trial_id(id, len(wanted) + 1), label=label, **parts))
        sizes.append(len(wanted))
    trials, count = measure(session, config, id, wanted), len(config.replicates)
    measured = []
    for variant, start, end in zip(variants, [0, *sizes], sizes, strict=False):
        mine, controls = trials[start : start + count], trials[start + count : end]
        measured.append(_Variant(variant, config.changed({**tuned, **variant}), mine, controls))
    return measured


def _with_earlier(session: Session, refs: Sequence[Ref], fresh: Sequence[Trial]) -> list[Ended]:
    """Fresh trials, and those of earlier looks that count beside them."""
    now = [trial.stored for trial in fresh]
    measured_now = {trial.sha256 for trial in now}
    wanted = [ref for ref in refs if ref.sha256 not in session.retracted | measured_now]
    earlier = session.journal.scan(session.repository).trials_of(wanted) if wanted else []
    return [*comparable_with(earlier, now), *now]


def _interpret(session: Session, config: StepConfig, inputs: list[Stored[EntryRecord]], id: str) -> Finding:
    entries = [entry.record for entry in inputs]
    claims = together(session.series, standing(entries))
    text, next_action = interpret_entries(session.series, entries, claims)
    return Finding(
        result=f"read {', '.join(entry.id for entry in entries)}",
        interpretation=text,
        next_action=next_action,
        claims=claims,
    )


def _seal(session: Session, config: StepConfig, inputs: list[Stored[EntryRecord]], id: str) -> Finding:
    # A worker has no checkout: the record asks for the seal, and the publisher makes the commit and the tag.
    return Finding(result=f"sealed on request: {', '.join(entry.record.id for entry in inputs)}")


BODIES = {
    "baseline": _baseline,
    "sweep": _sweep,
    "replicate": _replicate,
    "interact": _interact,
    "interpret": _interpret,
    "seal": _seal,
    "outcome": outcome,
}


def _beside_independence(row: Row, alone: Mapping[str, Claim]) -> Row:
    """The row with what its axes would give together if they did not interact, where each was measured alone."""
    parts = [alone.get(changes_text({axis: value})) for axis, value in row.changes.items()]
    # Each was the best of its table, and looks better than it is.
    effects = [part.expected or part.estimate for part in parts if part and part.estimand == "ratio"]
    ratios = [effect for effect in effects if effect is not None]
    if not parts or len(ratios) < len(parts):
        return row
    return noted(row, f"{ratio(math.prod(ratios))} × expected if the axes did not interact")


def _summary(series: Series, rows: Sequence[Row], claims: Sequence[Claim]) -> str:
    failed = sum(row.status == "failed" for row in rows)
    interrupted = sum(row.status == "interrupted" for row in rows)
    parts = [f"{len(rows)} trial{'s' if len(rows) != 1 else ''}"]
    parts += [f"{failed} failed"] if failed else []
    parts += [f"{interrupted} interrupted"] if interrupted else []
    claim = best(series, claims)
    top = f"best {changes_text(claim.changes)}: {series.primary.name} {claim_text(claim)}" if claim else "none improved"
    return ", ".join([*parts, top])


def _chosen(
    session: Session, config: StepConfig, inputs: list[Stored[EntryRecord]]
) -> tuple[dict[str, Any], Claim | None] | None:
    """The changes that were named, else those of the best candidate of the entry that the step rests on; and the claim
    that chose them."""
    if config.confirms and config.candidate is not None:
        # What dev mode found chose the candidate, and is no evidence for it.
        return config.candidate, None
    if config.candidate is None:
        claim = next(iter(_top(session, inputs[1], 1)), None)
    else:
        name = session.series.primary.name
        claims = (claim for claim in claims_in(inputs[1].record) if claim.metric == name)
        claim = next((claim for claim in claims if claim.changes == config.candidate), None)
    return (claim.changes, claim) if claim is not None else None


def _top(session: Session, entry: Stored[EntryRecord], count: int) -> list[Claim]:
    """The best candidates, as far as the primary metric of any is known."""
    primary = session.series.primary
    claims = [claim for claim in claims_in(entry.record) if claim.metric == primary.name and claim.estimate is not None]
    claims.sort(key=lambda claim: place(primary, claim))
    order = session.choices.get(entry.record.label, [])
    claims.sort(key=lambda claim: order.index(claim.changes) if claim.changes in order else len(order))
    return claims[:count]


def _nothing(session: Session, entry: Stored[EntryRecord]) -> Finding:
    """Where every candidate failed there is nothing to go on with, which is a result and stops no other step."""
    why = f"{entry.record.id} has no candidate with an estimate of {session.series.primary.name}"
    return Finding(
        result=f"nothing was measured: {why}",
        next_action=f"See in the table of {entry.record.id} what became of its candidates, and mend or replace them.",
        claims=(),
    )
