"""What each kind of step finds out: it measures, compares, and says by rule what that means."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any

import msgspec

from research_steps.errors import StepFailed, UsageError
from research_steps.evidence.claim_text import changes_text, claim_text, variant_text
from research_steps.evidence.claims import Baseline, Candidate, floor_of, make_claims
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
from research_steps.journal.progress import plan
from research_steps.journal.snapshot import entries_of
from research_steps.records.configurations import CODE, changes_in
from research_steps.records.encoding import Stored
from research_steps.records.model import Claim, EntryRecord, InterruptedRecord, Ref, Row
from research_steps.records.series import Series, trial_id
from research_steps.remote.worker import TrialRef, measure_elsewhere, trials_of
from research_steps.thread import marin
from research_steps.thread.configs import StepConfig, step_key
from research_steps.trial.batch import Wanted, codes_of, measure_wanted
from research_steps.trial.context import Session


def _baseline(session: Session, config: StepConfig, inputs: list[Stored[EntryRecord]], id: str) -> Finding:
    series, wanted = session.series, list[Wanted]()
    for repetition, number in product(config.what.repetitions, config.replicates):
        at, trial = config.changed(repetition), trial_id(id, len(wanted) + 1)
        wanted.append(Wanted(id=trial, label=config.label, config=at, case=at, replicate=number, must_succeed=True))
    trials = measure(session, config, id, wanted)
    rows = tuple(_at(config, measured, row_of(measured, {})) for measured in trials)
    for row, measured in zip(rows, trials, strict=True):
        record = measured.stored.record
        if isinstance(record, InterruptedRecord):
            raise StepFailed(f"the baseline was interrupted: {record.reason}")
        if record.error is not None:
            return Finding(result=f"baseline case: {row.note}", rows=rows, error=record.error)
    floor = floor_of(series, [measured.stored for measured in trials])
    text, next_action = interpret_baseline(series, rows, floor)
    value = statistics.median(row.values[series.primary.name] for row in rows)
    processes = f"{len(rows)} process{'es' if len(rows) > 1 else ''}"
    result = f"baseline case: {series.primary.name} {value:.6g}, the median of {processes}"
    return Finding(result=result, rows=rows, interpretation=text, next_action=next_action, floor=floor)


def _sweep(session: Session, config: StepConfig, inputs: list[Stored[EntryRecord]], id: str) -> Finding:
    wanted = points_wanted(config, id, config.points)
    refs = [msgspec.convert(marin.read_artifact(path), list[TrialRef]) for path in config.inputs[1:]]
    shards = [trials_of(session, shard) for shard in refs]
    # A shard has each of its trials in the order of the points.
    trials = [shards[n % len(shards)][n // len(shards)] for n in range(len(wanted))] if shards else None
    if trials is None:
        trials = measure(session, config, id, [*wanted, *_controls(session, config, id, len(wanted))])
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
    trials = measure(session, config, id, [*wanted, *_controls(session, config, id, len(wanted))])
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
        changes, mine = _changes(config, point, case), trials[number * each : (number + 1) * each]
        beside = _values_beside(config, base.record.rows, mine)
        rows += [_at(config, trial, row_of(trial, changes, theirs)) for trial, theirs in beside]
        # The baseline's own value, in an axis that holds it, is no candidate.
        candidates += [Candidate(changes, [trial.stored for trial in mine])] if changes else []
    entries = entries_of(session.journal.published(session.repository))
    baseline, controls = _baseline_of(session, config, base, config.what.named(case)), trials[len(points) * each :]
    if controls:
        baseline = replace(baseline, trials=[control.stored for control in controls], beside=True)
        rows += [_at(config, control, row_of(control, {})) for control in controls]
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
    looks = looks_in(entries_of(session.journal.published(session.repository)))
    for variant in _at_variants(session, config, id, picked):
        varied, case = _changes(config, {**variant.changes, **picked}, variant.case), config.what.named(variant.case)
        baseline = _baseline_of(session, config, inputs[0], case)
        control_rows = [row_of(control, {}) for control in variant.controls]
        beside = _values_beside(config, control_rows or inputs[0].record.rows, variant.trials)
        variant_rows = [_at(config, trial, row_of(trial, varied, theirs)) for trial, theirs in beside]
        variant_rows += [_at(config, trial, row) for trial, row in zip(variant.controls, control_rows, strict=True)]
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


def _at_variants(session: Session, config: StepConfig, id: str, picked: dict[str, Any]) -> list[_Variant]:
    """Measure the candidate again, at each variant; and the baseline where it was not measured yet, because what it took
    at another variant, or at another seed, says nothing there."""
    axis, values = config.across or ("", (None,))
    variants = [{axis: value} if axis else {} for value in values]
    wanted: list[Wanted] = []
    sizes: list[int] = []
    for variant in variants:
        case = config.changed(variant)
        is_known = case == config.case and config.what.over is None and not config.what.versions
        for side, number in product([picked] if is_known else [picked, {}], config.replicates):
            at = {**variant, **config.what.further(number)}
            label = f"{changes_text({**variant, **side})} {'replicate' if side else 'baseline'} {number}"
            parts = {"config": config.changed({**at, **side}), "case": config.changed(at), "replicate": number}
            parts["code"] = side.get(CODE, "")
            wanted.append(Wanted(id=trial_id(id, len(wanted) + 1), label=label, **parts))
        sizes.append(len(wanted))
    trials, count = measure(session, config, id, wanted), len(config.replicates)
    measured = []
    for variant, start, end in zip(variants, [0, *sizes], sizes, strict=False):
        mine, controls = trials[start : start + count], trials[start + count : end]
        measured.append(_Variant(variant, config.changed(variant), mine, controls))
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
}


def measure(session: Session, config: StepConfig, id: str, wanted: Sequence[Wanted]) -> list[Trial]:
    """The trials that a step wants, on this machine, or by a job where its resources are found. Raises UsageError where
    they can't be."""
    what = config.what
    if config.kind != "shard":
        plan(session.journal, id, config.label, len(wanted))
    if what.resources is None or not marin.has_engine():
        return measure_wanted(session, codes_of(session, what), what.config_type, id, wanted)
    if what.versions:
        raise UsageError(
            f"{config.label!r} compares versions of the code on a cluster, whose machines have one: leave the resources "
            "out, and run it on a machine with a checkout."
        )
    dispatch = partial(marin.dispatch, config.label, what.resources)
    return measure_elsewhere(session, what, step_key(config.output_path, session.journal), id, wanted, dispatch)


def points_wanted(config: StepConfig, id: str, points: Sequence[dict[str, Any]]) -> list[Wanted]:
    """The trials of a table of candidates; of a shard, those that are its own."""
    numbered = list(enumerate(product(points, config.what.repetitions), 1))
    mine = numbered[config.shard :: config.shards] if config.kind == "shard" else numbered
    return [
        Wanted(
            id=trial_id(id, number),
            label=changes_text({**point, **repetition}),
            config=config.changed({**point, **repetition}),
            case=config.changed(repetition),
            new=True,
            code=point.get(CODE, ""),
        )
        for number, (point, repetition) in mine
    ]


def _controls(session: Session, config: StepConfig, id: str, after: int) -> list[Wanted]:
    """The baseline against itself, in as many processes as its entry has, where versions of the code are compared: two
    processes scatter more than the two sides of one. They come `after` so many trials."""
    if not config.what.versions:
        return []
    each = session.series.floor_processes if config.what.over is None else 1
    wanted: list[Wanted] = []
    for repetition, number in product(config.what.repetitions, range(each)):
        at, own = config.changed(repetition), trial_id(id, after + len(wanted) + 1)
        wanted.append(Wanted(id=own, label=f"baseline {number}", config=at, case=at, replicate=number))
    return wanted


def _changes(config: StepConfig, point: Mapping[str, Any], case: Mapping[str, Any]) -> dict[str, Any]:
    """What a candidate changes in a case, the version of its code among that."""
    changes = changes_in(config.changed(point), case)
    return {**changes, CODE: point[CODE]} if config.what.versions and CODE in point else changes


def _values_beside(
    config: StepConfig, rows: Sequence[Row], trials: Sequence[Trial]
) -> list[tuple[Trial, Mapping[str, float]]]:
    """Each trial with what the baseline's `rows` say beside it where nothing is paired: the one at the same repetition,
    else the first."""
    places = range(len(trials)) if config.what.over is not None else [0] * len(trials)
    return [(trial, rows[place].values) for trial, place in zip(trials, places, strict=True)]


def _at(config: StepConfig, trial: Trial, row: Row) -> Row:
    """The row with the value at which it was measured of the field that repetitions go over."""
    record = trial.stored.record
    if config.what.over is None or isinstance(record, InterruptedRecord):
        return row
    field = config.what.over[0]
    return noted(row, changes_text({field: record.config[field]}))


def _beside_independence(row: Row, alone: Mapping[str, Claim]) -> Row:
    """The row with what its axes would give together if they did not interact, where each was measured alone."""
    parts = [alone.get(changes_text({axis: value})) for axis, value in row.changes.items()]
    # Each was the best of its table, and looks better than it is.
    effects = [part.expected or part.estimate for part in parts if part and part.estimand == "ratio"]
    ratios = [effect for effect in effects if effect is not None]
    if not parts or len(ratios) < len(parts):
        return row
    return noted(row, f"{math.prod(ratios):.3f} × expected if the axes did not interact")


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


def _baseline_of(session: Session, config: StepConfig, entry: Stored[EntryRecord], case: dict[str, Any]) -> Baseline:
    left = [row.trial for row in entry.record.rows if row.trial.sha256 not in session.retracted]
    trials, over = [session.journal.load("trial", ref) for ref in left], config.what.over
    return Baseline(case, entry.ref, trials, over=over[0] if over is not None else "")
