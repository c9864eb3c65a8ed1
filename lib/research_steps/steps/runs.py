"""What each kind of step does when the executor runs it, in the driver or where the executor sends it.

A step's configuration arrives with every placeholder resolved. A step writes records and returns the reference to its
entry, which is how later steps find what it measured.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import msgspec

from research_steps.code import Code, trace_name
from research_steps.comparison import medians, ranked, unpaired_ratios
from research_steps.config import changed, differences, plain
from research_steps.entry import About, Finding
from research_steps.errors import StepFailed, UsageError
from research_steps.record import EntryRecord, InterruptedRecord, Ref, Row, Stored
from research_steps.series import trial_id
from research_steps.steps.entries import run_entry
from research_steps.steps.interpretation import interpret_entries, interpret_rows, spelled
from research_steps.steps.progress import progress
from research_steps.steps.session import Session, current
from research_steps.steps.trials import Trial, TrialSpec, measure_trial


@dataclass(frozen=True)
class Measured:
    """What a step measures: the measure function's code and the baseline case, a configuration of the experiment."""

    name: str
    root: str
    digest: str
    config_type: str
    case: Any

    def code(self) -> Code:
        """The code on disk now. Raises UsageError when it is not what the step was built from."""
        code = trace_name(self.name, Path(self.root))
        if code.digest != self.digest:
            raise UsageError(
                f"The code of {self.name} changed on disk after the run had started: run the thread again, so that the "
                "steps that depend on it are new."
            )
        return code


@dataclass(frozen=True)
class StepConfig:
    """The configuration of every research step, as the executor resolves it.

    `version` is what makes the step new when it changes. `points` are a sweep's changes to the baseline case, all of
    them also in a shard, which runs each `shards`-th of them from `shard` on. `inputs` are output paths.
    """

    version: Any
    kind: str
    label: str
    hypothesis: str
    output_path: Any
    inputs: tuple[Any, ...] = ()
    measured: Measured | None = None
    points: tuple[dict[str, Any], ...] = ()
    replicates: int = 0
    top: int = 0
    shard: int = 0
    shards: int = 1
    private: bool = False


def run_step(config: StepConfig) -> dict[str, Any]:
    """Run one research step inside the session of its run, and return the reference to its entry."""
    session = current()
    if config.kind == "shard":
        sweep = session.shard_of[config.output_path]
        held = session.journal.latest_entry(sweep) if sweep not in session.redo else None
        id = held.record.id if held else session.journal.claim(session.series.prefix, sweep, session.used_numbers)
        _measure_points(session, config, _code_and_case(config), _inputs(session, config), id)
        return {}
    inputs = _inputs(session, config)
    about = About(
        kind=config.kind,  # type: ignore[arg-type]  # the builder writes only these kinds
        step_key=step_key(config.output_path, session),
        label=config.label,
        hypothesis=session.series.hypothesis(config.hypothesis),
        config=_described(config),
        inputs=tuple(entry.ref for entry in inputs),
        private=config.private or any(bool(entry.record.private) for entry in inputs),
    )
    stored = run_entry(session, about, lambda id: _BODIES[config.kind](session, config, inputs, id))
    if stored.record.status == "failed":
        raise StepFailed(f"{stored.record.id} ({stored.record.label}) failed: {stored.record.result}")
    found: dict[str, Any] = msgspec.to_builtins(stored.ref)
    return found


def step_key(output_path: str, session: Session) -> str:
    """The executor's identity of a step: its output path below the store's prefix."""
    return output_path.removeprefix(session.journal.store.url.rstrip("/")).lstrip("/")


def _baseline(session: Session, config: StepConfig, inputs: list[Stored[EntryRecord]], id: str) -> Finding:
    code, measured, case = _code_and_case(config)
    spec = TrialSpec(code, measured.config_type, case, case)
    trial = measure_trial(session, spec, id=id, label=config.label, must_succeed=True)
    row = _row(trial, case, None)
    record = trial.stored.record
    if isinstance(record, InterruptedRecord):
        raise StepFailed(f"the baseline was interrupted: {record.reason}")
    if record.error is not None:
        return Finding(result=f"baseline case: {row.note}", rows=(row,), error=record.error)
    primary = session.series.primary.name
    return Finding(result=f"baseline case: {primary} {row.values[primary]:.6g}", rows=(row,))


def _sweep(session: Session, config: StepConfig, inputs: list[Stored[EntryRecord]], id: str) -> Finding:
    rows = _measure_points(session, config, _code_and_case(config), inputs, id)
    return _table(session, rows)


def _replicate(session: Session, config: StepConfig, inputs: list[Stored[EntryRecord]], id: str) -> Finding:
    best = _best(session, inputs[1])
    code, measured, case = _code_and_case(config)
    candidate = plain(changed(measured.case, best.changes, config.label), config.label)
    rows = []
    for number in range(1, config.replicates + 1):
        spec = TrialSpec(code, measured.config_type, candidate, case, replicate=number)
        label = f"{spelled(best.changes)} replicate {number}"
        trial = measure_trial(session, spec, id=trial_id(id, number), label=label)
        rows.append(_row(trial, case, inputs[0].record.rows[0].values))
    name = session.series.primary.name
    ratios = [f"{row.ratios[name].median:.3f}" for row in rows if name in row.ratios]
    first = best.ratios[name].median
    result = (
        f"{spelled(best.changes)}: ratio of {name} {', '.join(ratios) or 'none'} in {len(ratios)} further "
        f"process{'es' if len(ratios) != 1 else ''}, {first:.3f} in {best.trial.id}"
    )
    return Finding(result=result, rows=tuple(rows))


def _interact(session: Session, config: StepConfig, inputs: list[Stored[EntryRecord]], id: str) -> Finding:
    choices = [_top(session, sweep, config.top) for sweep in inputs[1:]]
    points = [{name: value for choice in cell for name, value in choice.changes.items()} for cell in product(*choices)]
    rows = _measure_points(session, config, _code_and_case(config), inputs, id, points)
    name = session.series.primary.name
    alone = {spelled(row.changes): row.ratios[name].median for choice in choices for row in choice}
    noted = []
    for row in rows:
        expected = 1.0
        for axis, value in row.changes.items():
            expected *= alone[spelled({axis: value})]
        note = f"{expected:.3f} if the axes did not interact"
        noted.append(msgspec.structs.replace(row, note=f"{row.note}; {note}" if row.note else note))
    return _table(session, noted)


def _table(session: Session, rows: Sequence[Row]) -> Finding:
    in_order = tuple(ranked(session.series.primary, rows))
    text, next_action = interpret_rows(session.series, in_order)
    return Finding(_summary(session, rows), in_order, text, next_action)


def _interpret(session: Session, config: StepConfig, inputs: list[Stored[EntryRecord]], id: str) -> Finding:
    text, next_action = interpret_entries(session.series, [entry.record for entry in inputs])
    return Finding(
        result=f"read {', '.join(entry.record.id for entry in inputs)}", interpretation=text, next_action=next_action
    )


def _seal(session: Session, config: StepConfig, inputs: list[Stored[EntryRecord]], id: str) -> Finding:
    # A worker has no checkout: the record asks for the seal, and the publisher makes the commit and the tag.
    return Finding(result=f"sealed on request: {', '.join(entry.record.id for entry in inputs)}")


_BODIES = {
    "baseline": _baseline,
    "sweep": _sweep,
    "replicate": _replicate,
    "interact": _interact,
    "interpret": _interpret,
    "seal": _seal,
}


def _measure_points(
    session: Session,
    config: StepConfig,
    measured: tuple[Code, Measured, dict[str, Any]],
    inputs: Sequence[Stored[EntryRecord]],
    id: str,
    points: Sequence[dict[str, Any]] | None = None,
) -> list[Row]:
    code, what, case = measured
    points = config.points if points is None else points
    rows = []
    mine = range(config.shard, len(points), config.shards) if config.kind == "shard" else range(len(points))
    with progress(session, id, len(mine)) as advance:
        for index in mine:
            label = spelled(points[index])
            candidate = plain(changed(what.case, points[index], config.label), config.label)
            spec = TrialSpec(code, what.config_type, candidate, case)
            trial = measure_trial(session, spec, id=trial_id(id, index + 1), label=label)
            row = _row(trial, case, inputs[0].record.rows[0].values)
            rows.append(row)
            advance(row, session.series.primary.name)
    return rows


def _row(trial: Trial, case: dict[str, Any], baseline: dict[str, float] | None) -> Row:
    record = trial.stored.record
    if isinstance(record, InterruptedRecord):
        return Row(
            trial=trial.stored.ref, changes={}, replicate=0, status="interrupted", values={}, ratios={},
            note=record.reason, contended=False, measured_here=trial.measured_here,
        )  # fmt: skip
    values = medians(record.samples.candidate) if record.samples else {}
    ratios = record.ratios
    if record.samples and not record.samples.paired and baseline is not None:
        ratios = unpaired_ratios(values, baseline)
    note = record.contended
    if record.error is not None:
        side = "in the baseline: " if record.error.where == "baseline" and record.config != case else ""
        note = f"{side}{record.error.type}: {(record.error.message.splitlines() or [''])[0]}"
    return Row(
        trial=trial.stored.ref,
        changes={name: mine for name, (mine, _) in differences(record.config, case).items()},
        replicate=record.replicate,
        status=record.status,
        values=values,
        ratios=ratios,
        note=note,
        contended=bool(record.contended),
        measured_here=trial.measured_here,
    )


def _summary(session: Session, rows: Sequence[Row]) -> str:
    name = session.series.primary.name
    failed = sum(row.status == "failed" for row in rows)
    interrupted = sum(row.status == "interrupted" for row in rows)
    parts = [f"{len(rows)} trials"]
    parts += [f"{failed} failed"] if failed else []
    parts += [f"{interrupted} interrupted"] if interrupted else []
    best = ranked(session.series.primary, rows)[:1]
    if best and name in best[0].ratios:
        parts.append(f"best {spelled(best[0].changes)} with {best[0].ratios[name].median:.3f} × the baseline's {name}")
    return ", ".join(parts)


def _best(session: Session, entry: Stored[EntryRecord]) -> Row:
    return _top(session, entry, 1)[0]


def _top(session: Session, entry: Stored[EntryRecord], count: int) -> list[Row]:
    name = session.series.primary.name
    rows = [row for row in ranked(session.series.primary, entry.record.rows) if name in row.ratios and row.changes]
    if not rows:
        raise StepFailed(f"{entry.record.id} has no candidate with a ratio of {name}: there is nothing to go on with.")
    return rows[:count]


def _code_and_case(config: StepConfig) -> tuple[Code, Measured, dict[str, Any]]:
    assert config.measured is not None, "the builder gives measuring steps what they measure"
    return config.measured.code(), config.measured, plain(config.measured.case, config.label)


def _inputs(session: Session, config: StepConfig) -> list[Stored[EntryRecord]]:
    from research_steps.steps.marin import read_artifact

    found = (read_artifact(path) for path in config.inputs)
    return [session.journal.load("entry", msgspec.convert(artifact, Ref)) for artifact in found if artifact]


def _described(config: StepConfig) -> dict[str, Any]:
    described: dict[str, Any] = {}
    if config.measured is not None:
        described = {"measure": config.measured.name, "baseline_case": plain(config.measured.case, config.label)}
    if config.points:
        described["points"] = [plain(point, config.label) for point in config.points]
    if config.replicates:
        described["replicates"] = config.replicates
    if config.top:
        described["top"] = config.top
    return described
