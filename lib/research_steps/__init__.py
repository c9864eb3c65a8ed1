"""Marin research threads that leave a complete, honest record behind, as a by-product of running.

A thread is one Python file: a `Series`, and a function that builds its steps. `main(series, thread)` runs it, and
`load(topic)` reads in a notebook what is known of it.
"""

# So spelled because to import even 'typing' takes longer than to begin a command that is recorded.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from research_steps.cli.program import main
    from research_steps.errors import ResearchError, StepFailed, UsageError
    from research_steps.records.resources import Resources
    from research_steps.records.series import Hypothesis, Metric, Series, Stop
    from research_steps.thread.measured_step import run
    from research_steps.thread.notebook import load
    from research_steps.thread.types import Step, Steps
    from research_steps.trial.command import Command
    from research_steps.trial.directory import trial_directory
    from research_steps.trial.progress import progress

__all__ = [
    "Command", "Hypothesis", "Metric", "ResearchError", "Resources", "Series", "Step", "StepFailed", "Steps", "Stop",
    "UsageError", "load", "main", "progress", "run", "trial_directory",
]  # fmt: skip
__version__ = "0.1.0"
_WHERE = {
    "cli.program": ("main",),
    "errors": ("ResearchError", "StepFailed", "UsageError"),
    "records.resources": ("Resources",),
    "records.series": ("Hypothesis", "Metric", "Series", "Stop"),
    "thread.measured_step": ("run",),
    "thread.notebook": ("load",),
    "thread.types": ("Step", "Steps"),
    "trial.command": ("Command",),
    "trial.directory": ("trial_directory",),
    "trial.progress": ("progress",),
}


def __getattr__(name: str) -> object:
    from importlib import import_module

    # Imported when it is asked for, so that such a command begins before all this is read.
    module = next((module for module, names in _WHERE.items() if name in names), None)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{module}"), name)
    return value
