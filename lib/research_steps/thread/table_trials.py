"""The trials that a step's table asks for, and what they are held against."""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any

from research_steps.errors import UsageError
from research_steps.evidence.claim_text import changes_text
from research_steps.evidence.claims import Baseline
from research_steps.evidence.table import Trial, noted
from research_steps.journal.progress import plan
from research_steps.records.configurations import CODE, changes_in
from research_steps.records.encoding import Stored
from research_steps.records.model import EntryRecord, InterruptedRecord, Row
from research_steps.records.resources import Resources
from research_steps.records.series import trial_id
from research_steps.remote.worker import measure_elsewhere
from research_steps.thread.configs import StepConfig, step_key
from research_steps.thread.marin import jobs
from research_steps.trial.batch import Wanted, codes_of, measure_wanted
from research_steps.trial.context import Session


def measure(session: Session, config: StepConfig, id: str, wanted: Sequence[Wanted]) -> list[Trial]:
    """The trials that a step wants, on this machine, or by a job where its resources are found. Raises UsageError where
    they can't be."""
    what = config.what
    if config.kind != "shard":
        plan(session.journal, id, config.label, len(wanted))
    if what.resources is None or not jobs.has_engine():
        codes = codes_of(session, what)
        trials = measure_wanted(session, codes, what.config_type, id, wanted, config.label, config.private)
    else:
        trials = _measured_elsewhere(session, config, what.resources, id, wanted)
    failed = sum(trial.stored.record.status == "failed" for trial in trials)
    # A baseline that failed is measured again by itself.
    if failed and not any(want.must_succeed for want in wanted):
        again = "a failure is a result, and only '--retry failed' measures it again"
        session.say(f"{id}: {failed} of {len(trials)} trials failed; {again}")
    return trials


def _measured_elsewhere(
    session: Session, config: StepConfig, resources: Resources, id: str, wanted: Sequence[Wanted]
) -> list[Trial]:
    what = config.what
    if what.versions:
        raise UsageError(
            f"{config.label!r} compares versions of the code on a cluster, whose machines have one: leave the resources "
            "out, and run it on a machine with a checkout."
        )
    dispatch = partial(jobs.dispatch, config.label, resources)
    with session.board.measuring(id, config.label, len(wanted)) as step:
        step.begin("a job of the cluster", running=True)
        folder = step_key(config.output_path, session.journal)
        return measure_elsewhere(session, what, folder, id, wanted, dispatch, config.label, config.private)


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


def controls_wanted(session: Session, config: StepConfig, id: str, after: int) -> list[Wanted]:
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


def changes_to(config: StepConfig, point: Mapping[str, Any], case: Mapping[str, Any]) -> dict[str, Any]:
    """What a candidate changes in a case, the version of its code among that."""
    changes = changes_in(config.changed(point), case)
    version = point.get(CODE, "") if config.what.versions else ""
    return {**changes, CODE: version} if version not in ("", config.what.baseline_version) else changes


def values_beside(
    config: StepConfig, rows: Sequence[Row], trials: Sequence[Trial]
) -> list[tuple[Trial, Mapping[str, float]]]:
    """Each trial with what the baseline's `rows` say beside it where nothing is paired: the one at the same repetition,
    else the first."""
    places = range(len(trials)) if config.what.over is not None else [0] * len(trials)
    return [(trial, rows[place].values) for trial, place in zip(trials, places, strict=True)]


def at_repetition(config: StepConfig, trial: Trial, row: Row) -> Row:
    """The row with the value at which it was measured of the field that repetitions go over."""
    record = trial.stored.record
    if config.what.over is None or isinstance(record, InterruptedRecord):
        return row
    field = config.what.over[0]
    return noted(row, changes_text({field: record.config[field]}))


def baseline_of(session: Session, config: StepConfig, entry: Stored[EntryRecord], case: dict[str, Any]) -> Baseline:
    left = [row.trial for row in entry.record.rows if row.trial.sha256 not in session.retracted]
    trials, over = [session.journal.load("trial", ref) for ref in left], config.what.over
    return Baseline(case, entry.ref, trials, over=over[0] if over is not None else "")
