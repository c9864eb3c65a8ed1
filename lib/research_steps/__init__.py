"""Marin research threads that leave a complete, honest record behind, as a by-product of running.

A thread is one Python file: a `Series`, and a function that builds its steps. `main(series, thread)` runs it, and
`load(topic)` reads in a notebook what is known of it.
"""

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
