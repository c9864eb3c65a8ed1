"""An existing step of Marin with a record around each run of it: `steps.recorded`."""

import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from research_steps.journal.entries import About, Finding
from research_steps.records.configurations import step_names
from research_steps.records.objects import IssueLink
from research_steps.records.step_kinds import Ran
from research_steps.thread.configs import step_key
from research_steps.thread.marin import binding
from research_steps.thread.marin.jobs import has_engine
from research_steps.thread.marin.protocols import RecordedStep
from research_steps.thread.step_body import record_step
from research_steps.thread.tagging import Tagging, tagged, tagged_config
from research_steps.trial.context import Session, current


def record(step: RecordedStep, config: Any, *, label: str, hypothesis: str, private: bool, timed: bool) -> Any:
    """Run the step with this configuration, record that, and return what it returned. One that is `timed` has the
    machine to itself."""
    session = current()
    name = label or step.step.name

    def body(id: str) -> Finding:
        tagging = None if private or session.series.private else _tagging(session, id, name)
        # Saved before the entry is: what Marin can't save is a failure of the step, and what an entry tells of is there.
        with session.host.turn(id, timed and not has_engine(), session.series.contention_wait_s, session.say):
            step.run(tagged_config(config, tagging), partial(_placed, session, step, tagging))
        return Finding(result=f"{step.step.name} finished")

    about = About(
        kind="step",
        step_key=step_key(step.output_path, session.journal),
        label=name,
        hypothesis=session.hypothesis(hypothesis),
        details=Ran(
            function=binding.function_of(step.step), config=step_names(_shown(config), session.journal.store.url)
        ),
        private=private,
    )
    record_step(session, about, body, is_kept=lambda: _is_saved(step.output_path))
    return step.saved()


def _is_saved(output_path: str) -> bool:
    """Whether what a step returned can be read back; it can't where a kill cut it off."""
    try:
        binding.read_artifact(output_path)
    except (FileNotFoundError, ValueError):
        return False
    return True


def _placed(
    session: Session, step: RecordedStep, tagging: Tagging | None, function: Callable[[Any], Any]
) -> Callable[[Any], Any]:
    """The step's function as it runs: tagged, in a process of its own. A cluster's engine gives one to what it is sent;
    what stays in the driver then submits jobs, whose runs are tagged by their configuration."""
    if not has_engine():
        return partial(session.processes.call, step.step.name, tagged(function, tagging))
    return tagged(function, tagging) if step.is_sent else function


def _tagging(session: Session, id: str, label: str) -> Tagging:
    link = session.journal.decided("issue", IssueLink)
    return Tagging.of(session.series.shared_tags(link.number if link else None), id, label)


def _shown(config: Any) -> Any:
    """A foreign step's configuration as far as it is plain: it is shown, nothing is computed from it."""
    if isinstance(config, Mapping):
        return {str(name): _shown(value) for name, value in config.items()}
    if hasattr(config, "__dataclass_fields__") and not isinstance(config, type):
        return {name: _shown(getattr(config, name)) for name in config.__dataclass_fields__}
    if isinstance(config, list | tuple):
        return [_shown(value) for value in config]
    try:
        json.dumps(config, allow_nan=False)
    except (TypeError, ValueError):
        return repr(config)
    return config
