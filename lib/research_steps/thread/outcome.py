"""The metrics of a step of Marin that was run, as a trial record: what `steps.recorded(…, metrics=…)` adds."""

from typing import Any

import msgspec

from research_steps.evidence.table import Trial, row_of
from research_steps.journal.entries import Finding
from research_steps.records.configurations import plain
from research_steps.records.encoding import Stored
from research_steps.records.model import EntryRecord, Samples, TrialRecord
from research_steps.records.numbers import quantity
from research_steps.records.series import trial_id
from research_steps.records.times import utc
from research_steps.thread.configs import StepConfig, step_key
from research_steps.thread.marin import binding
from research_steps.thread.measured_step import metrics_of
from research_steps.trial.code import Code
from research_steps.trial.context import Session
from research_steps.trial.launcher.importing import load
from research_steps.trial.launcher.sampling import numbers, unpaired
from research_steps.trial.measured import TrialSpec


def outcome(session: Session, config: StepConfig, inputs: list[Stored[EntryRecord]], id: str) -> Finding:
    """Read the metrics, once for each step, choice of fields and way to read. Raises BadMetrics, and Diverged."""
    fields, series = plain(config.fields, config.label), session.series
    # The step's name and hash stand for its code.
    code = Code(config.function, "", {step_key(config.output, session.journal): config.digest}, ())
    key = TrialSpec(code, "dict", fields, fields).key({})
    returned = binding.read_artifact(config.output)
    values = numbers(
        metrics_of(config.label, returned, config.output, load(config.read) if config.read else None), series
    )
    attempts = session.journal.attempts
    while True:
        attempt = attempts.next("trial", key, lambda stored: isinstance(stored.record, TrialRecord), session.say)
        if isinstance(attempt, Stored):
            break
        about: dict[str, Any] = {"id": trial_id(id, 1), "label": config.label}
        private = session.private or config.private
        with attempts.begin("trial", key, attempt, config=fields, private=private, run=session.run, **about) as begun:
            if begun is not None:
                found = unpaired(values, 0.0)
                assert found.samples is not None, "it was measured"
                record = _record(session, config, code, key, attempt, fields, found.samples, about)
                attempts.finish("trial", msgspec.structs.replace(record, without=found.without or msgspec.UNSET))
    row = row_of(Trial(attempt, attempt.record.id == trial_id(id, 1)), {})
    told = quantity(series.primary.name, row.values[series.primary.name])
    return Finding(f"{config.label}: {series.primary.name} {told}", rows=(row,))


def _record(
    session: Session,
    config: StepConfig,
    code: Code,
    key: str,
    attempt: int,
    fields: dict[str, Any],
    samples: Samples,
    about: dict[str, Any],
) -> TrialRecord:
    facts, now = session.host.facts(), utc()
    return TrialRecord(
        series=session.series.topic,
        key=key,
        attempt=attempt,
        started_at=now,
        finished_at=now,
        status="ok",
        mode=session.mode,
        measure=config.function,
        code=code.digest,
        config_type="dict",
        config=fields,
        baseline_config=fields,
        device_class=facts.device_class,
        replicate=0,
        devices=(),
        samples=samples,
        ratios={},
        error=None,
        contended="",
        launch=None,
        provenance=msgspec.structs.replace(
            session.captured.provenance,
            host=facts.host,
            python=facts.python,
            packages=facts.packages,
            env=facts.env,
            environment=msgspec.UNSET,
        ),
        **about,
    )
