"""The binding to Marin: how research steps become `ExecutorStep`s and are run by its executor.

The only module that imports Marin. Everything that another generation of Marin does otherwise is here.
"""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from marin.execution.artifact import Artifact
from marin.execution.executor import Executor
from marin.execution.executor_step_status import STATUS_SUCCESS, StatusFile
from marin.execution.remote import RemoteCallable
from marin.execution.types import ExecutorStep, InputName, OutputName, VersionedValue, this_output_path, versioned
from rigging.filesystem import open_url

from research_steps.errors import UsageError

PLACEHOLDER = "<resolved by the executor>"


@dataclass(frozen=True)
class Plan:
    """A thread as the executor resolved it: each step's output path, and whether it has succeeded already."""

    executor: Executor
    steps: list[ExecutorStep]

    def output_path(self, step: ExecutorStep) -> str:
        return str(self.executor.output_paths[step])

    def succeeded(self, step: ExecutorStep) -> bool:
        return bool(StatusFile(self.output_path(step), worker_id="research").status == STATUS_SUCCESS)

    def dependents(self, steps: Sequence[ExecutorStep]) -> list[ExecutorStep]:
        """The given steps and every step that rests on them."""
        chosen = {self.output_path(step) for step in steps}
        found = list(steps)
        grew = True
        while grew:
            grew = False
            for step in self.executor.steps:
                path = self.output_path(step)
                rests_on = {self.output_path(dependency) for dependency in self.executor.dependencies[step]}
                if path not in chosen and rests_on & chosen:
                    chosen.add(path)
                    found.append(step)
                    grew = True
        return found

    def forget(self, step: ExecutorStep) -> None:
        """Clear the executor's status of a step, so that it runs again."""
        status = StatusFile(self.output_path(step), worker_id="research")
        if status.fs.exists(status.path):
            status.fs.rm(status.path)

    def run(self, **options: Any) -> None:
        self.executor.run(self.steps, **options)


def plan(prefix: str, info_path: str | None, description: str, steps: Sequence[ExecutorStep]) -> Plan:
    """Resolve the steps. Raises UsageError when a recorded step is also used as it was before it was wrapped."""
    executor = Executor(
        prefix=prefix,
        executor_info_base_path=info_path or os.path.join(prefix, "experiments"),
        description=description,
    )
    for step in steps:
        executor.compute_version(step, is_pseudo_dep=False)
    recorded = {executor.version_strs[step]: step for step in executor.versions if isinstance(step.fn, Recorded)}
    for step in executor.versions:
        twin = recorded.get(executor.version_strs[step])
        if twin is not None and not isinstance(step.fn, Recorded):
            raise UsageError(
                f"The step {step.name!r} is used both recorded and as it was: other steps depend on the one that leaves "
                "no record. Use what steps.recorded() returned everywhere."
            )
        if isinstance(step.fn, Recorded):
            step.fn.output_path = str(executor.output_paths[step])
    return Plan(executor, list(steps))


def make_step(name: str, run: Callable[[Any], Any], config: Any, description: str) -> ExecutorStep:
    return ExecutorStep(name=name, fn=run, config=config, description=description)


def here() -> Any:
    """The placeholder for a step's own output path."""
    return this_output_path()


def version(value: dict[str, Any]) -> Any:
    return versioned(value)


def unwrap(value: Any) -> Any:
    """A configuration value without Marin's wrappers: what is versioned by itself, and a mark for what is resolved
    later, because the executor counts that in the step's version anyway."""
    if isinstance(value, VersionedValue):
        return value.value
    if isinstance(value, InputName | OutputName | ExecutorStep):
        return PLACEHOLDER
    return value


def read_artifact(path: str) -> Any:
    """What a step returned, read from its output path."""
    with open_url(f"{path}/.artifact.json", "rb") as file:
        return json.load(file)


class Recorded:
    """The function of an existing step, with a record of each run around it.

    A step with resources runs where Marin sends it; its ID and records stay with the driver.
    """

    def __init__(self, step: ExecutorStep, record: Callable[["Recorded", Any], Any]) -> None:
        self.step = step
        self.output_path = ""
        self._record = record
        self.__name__ = getattr(step.fn, "__name__", type(step.fn).__name__)

    def __call__(self, config: Any) -> Any:
        return self._record(self, config)

    def run(self, config: Any, around: Callable[[Callable[[Any], Any]], Callable[[Any], Any]]) -> Any:
        """Run the step as Marin would have, and return what it returned. `around` wraps its function, where it runs."""
        fn: Any = self.step.fn
        if self.step.resources is None and not isinstance(fn, RemoteCallable):
            return around(fn)(config)
        inner = around(fn.fn if isinstance(fn, RemoteCallable) else fn)
        path = self.output_path

        def run_and_save(config: Any) -> None:
            Artifact.save(inner(config), path)

        if self.step.resources is not None:
            RemoteCallable(fn=run_and_save, resources=self.step.resources, name=self.step.name)(config)
        else:
            RemoteCallable(
                fn=run_and_save,
                resources=fn.resources,
                env_vars=fn.env_vars,
                pip_dependency_groups=fn.pip_dependency_groups,
                name=fn.name,
            )(config)
        return read_artifact(path)


def wrap(step: ExecutorStep, record: Callable[[Recorded, Any], Any]) -> ExecutorStep:
    """The step with a record around it. Its name, configuration and so its output path stay as they are."""
    if step.fn is None:
        raise UsageError(f"The step {step.name!r} has no function: there is nothing to record.")
    return ExecutorStep(
        name=step.name,
        fn=Recorded(step, record),
        config=step.config,
        description=step.description,
        override_output_path=step.override_output_path,
    )
