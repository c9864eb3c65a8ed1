"""A Marin step as what a trial measures: `research_steps.run` in a measure function."""

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from research_steps.errors import BadMetrics
from research_steps.records.encoding import sha256
from research_steps.thread.tagging import Tagging, tagged_config
from research_steps.thread.types import Metrics, Step
from research_steps.trial.directory import trial_directory


def run(step: Step, read: Callable[[str], Metrics] | None = None) -> Metrics:
    """Run the function of one of Marin's steps in the process of this trial, and return its metrics.

    Its output path lies in the trial's directory, which a trial that was killed finds again: a training goes on from its
    checkpoint. Steps that its configuration holds are run by Marin first, with their output where it always is. Which
    machine it runs on, a `remote(…)` or `resources` of the step don't change.

    The metrics are what `read(output_path)` gives; else the numbers of what the step returned; else those that Levanter
    has left in its output, by name: of the last line of `eval_metrics.jsonl`, over the summary of its tracker. Raises
    BadMetrics where there are none, UsageError outside of a trial.
    """
    from research_steps.thread.marin import binding

    folder = Path(trial_directory())
    # Marin names a training's W&B run by the last part of its output path, so that is another one for each trial.
    own = sha256(f"{folder.parent.name}/{folder.name}".encode())[:8]
    output = folder / f"{step.name.rpartition('/')[2]}-{own}"
    output.mkdir(exist_ok=True)
    returned = binding.run_inside(step, str(output), partial(tagged_config, tagging=Tagging.of_environment()))
    return metrics_of(step.name, returned, str(output), read)


def metrics_of(name: str, returned: Any, output: str, read: Callable[[str], Metrics] | None) -> Metrics:
    """The metrics of a step of that name, by what it returned and what lies in its output. Raises BadMetrics."""
    from research_steps.thread.marin.outputs import read_outputs

    if read is not None:
        return read(output)
    if metrics := _numbers(returned):
        return metrics
    for file in ("tracker_metrics", "eval_metrics", "checkpoints/eval_metrics", "checkpoints/*/eval_metrics"):
        for text in read_outputs(output, f"{file}.jsonl"):
            last = json.loads(text.splitlines()[-1]) if text.strip() else {}
            metrics |= _numbers(last.get("summary", last))
    if not metrics:
        raise BadMetrics(
            f"The step {name} returned {type(returned).__name__} without numbers, and {output} holds no "
            "eval_metrics.jsonl or tracker_metrics.jsonl: return a dict of metric name to number, or give a function "
            "read(output_path) that does."
        )
    return metrics


def _numbers(values: Any) -> dict[str, float]:
    """Those of a mapping, with the names that they have there."""
    if not isinstance(values, Mapping):
        return {}
    numbers = {}
    for name, value in values.items():
        kind = getattr(getattr(value, "dtype", None), "kind", "")
        if isinstance(value, bool | str | bytes) or kind in ("b", "c") or not hasattr(value, "__float__"):
            continue
        if getattr(value, "size", 1) == 1:
            numbers[str(name)] = float(value)
    return numbers
