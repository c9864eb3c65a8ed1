"""Where a step's trials are measured: on this machine, or by a job where its resources are found."""

from collections.abc import Sequence
from functools import partial

import msgspec

from research_steps.evidence.table import Trial
from research_steps.journal.progress import plan
from research_steps.remote.worker import TrialRef, measure_elsewhere, trials_of
from research_steps.thread import marin
from research_steps.thread.configs import StepConfig, step_key
from research_steps.trial.batch import Wanted, measure_wanted
from research_steps.trial.context import Session


def measure(session: Session, config: StepConfig, id: str, wanted: Sequence[Wanted]) -> list[Trial]:
    """The trials that a step wants, here or where its resources are found. Raises UsageError where they can't be."""
    what = config.what
    if config.kind != "shard":
        plan(session.journal, id, config.label, len(wanted))
    if what.resources is None or not marin.has_engine():
        return measure_wanted(session, what.code(), what.config_type, id, wanted)
    dispatch = partial(marin.dispatch, config.label, what.resources)
    return measure_elsewhere(session, what, step_key(config.output_path, session.journal), id, wanted, dispatch)


def read_told(session: Session, path: str) -> list[Trial]:
    """The trials of a shard, from its output path."""
    return trials_of(session, msgspec.convert(marin.read_artifact(path), list[TrialRef]))
