"""The binding to Marin with `ExecutorStep`, whose output paths end in a hash of their configuration."""

import getpass
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from marin.execution import executor as marins_executor
from marin.execution.artifact import Artifact
from marin.execution.executor import Executor, instantiate_config, materialize
from marin.execution.remote import RemoteCallable
from marin.execution.types import ExecutorStep, InputName, OutputName, VersionedValue, this_output_path, versioned
from rigging.filesystem import open_url

from research_steps.errors import UsageError
from research_steps.thread.configs import StepConfig
from research_steps.thread.marin.protocols import PLACEHOLDER, RecordedStep
from research_steps.thread.options import RunOptions
from research_steps.thread.types import Step


@contextmanager
def building(options: RunOptions) -> Iterator[None]:
    if options.version or options.override:
        raise UsageError(
            "--version and --override are those of Marin's artifact steps, and this Marin has executor steps: leave "
            "them out, or run the thread where today's Marin is installed."
        )
    yield


def research_step(name: str, run: Callable[[StepConfig], Any], config: StepConfig, about: str) -> Step:
    placed = replace(config, version=versioned(config.version), output_path=this_output_path())
    step: Step = ExecutorStep(name=name, fn=run, config=placed, description=about)
    return step


@dataclass(frozen=True)
class ExecutorPlan:
    executor: Executor
    given: list[ExecutorStep]

    @property
    def steps(self) -> Sequence[Step]:
        return list(self.executor.steps)

    def output_path(self, step: Step) -> str:
        return str(self.executor.output_paths[step])

    def dependents(self, steps: Sequence[Step]) -> list[Step]:
        dependents = {self.output_path(step): step for step in steps}
        # Marin has each step behind those that it depends on.
        for step in self.executor.steps:
            if any(self.output_path(dependency) in dependents for dependency in self.executor.dependencies[step]):
                dependents.setdefault(self.output_path(step), step)
        return list(dependents.values())

    def runs_again(self, step: Step) -> bool:
        return False

    def run(self, options: RunOptions, max_concurrent: int) -> None:
        self.executor.run(
            self.given,
            dry_run=options.dry_run,
            run_only=options.run_only,
            force_run_failed=options.force_run_failed,
            max_concurrent=max_concurrent,
        )


def _user() -> str:
    """Who runs it. Marin's own way fails for a user without a name, such as a container's."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def plan(prefix: str, options: RunOptions, about: str, steps: Sequence[Step]) -> ExecutorPlan:
    marins_executor.get_user = _user
    executor = Executor(
        prefix=prefix,
        executor_info_base_path=options.executor_info_base_path or os.path.join(prefix, "experiments"),
        description=about,
    )
    for step in steps:
        executor.compute_version(step, is_pseudo_dep=False)
    recorded = {
        executor.version_strs[step]: step for step in executor.versions if isinstance(step.fn, RecordedExecutorStep)
    }
    for step in executor.versions:
        twin = recorded.get(executor.version_strs[step])
        if twin is not None and not isinstance(step.fn, RecordedExecutorStep):
            raise UsageError(
                f"The step {step.name!r} is used both recorded and as it was: other steps depend on the one that leaves "
                "no record. Use what steps.recorded() returned everywhere."
            )
        if isinstance(step.fn, RecordedExecutorStep):
            step.fn.output_path = str(executor.output_paths[step])
    return ExecutorPlan(executor, list(steps))


def config_of(step: Any) -> Any:
    return step.config


def function_of(step: Any) -> str:
    return str(getattr(step.fn, "__name__", type(step.fn).__name__))


def unwrap(value: Any) -> Any:
    # The executor counts what is resolved later in the step's version anyway.
    if isinstance(value, VersionedValue):
        return value.value
    if isinstance(value, InputName | OutputName | ExecutorStep):
        return PLACEHOLDER
    return value


def output_of(value: Any, prefix: str) -> tuple[Step | None, str]:
    if isinstance(value, ExecutorStep):
        value = value.as_input_name()
    executor = Executor(prefix=prefix, executor_info_base_path=prefix)
    if value.step is not None:
        executor.compute_version(value.step, is_pseudo_dep=False)
    return value.step, str(instantiate_config(value, None, executor.output_paths, prefix))


def read_artifact(path: str) -> Any:
    with open_url(f"{path}/.artifact.json", "rb") as file:
        return json.load(file)


def run_inside(step: Any, output_path: str, placed: Callable[[Any], Any]) -> Any:
    if step.fn is None:
        raise UsageError(f"The step {step.name!r} has no function: there is nothing to run.")
    config = placed(materialize(step.config, output_path=output_path))
    return (step.fn.fn if isinstance(step.fn, RemoteCallable) else step.fn)(config)


class RecordedExecutorStep(RecordedStep):
    @property
    def is_sent(self) -> bool:
        return self.step.resources is not None or isinstance(self.step.fn, RemoteCallable)

    def run(self, config: Any, around: Callable[[Callable[[Any], Any]], Callable[[Any], Any]]) -> None:
        fn: Any = self.step.fn
        inner = around(fn.fn if isinstance(fn, RemoteCallable) else fn)
        path = self.output_path

        def run_and_save(config: Any) -> None:
            Artifact.save(inner(config), path)

        if self.step.resources is not None:
            fn = RemoteCallable(fn=fn, resources=self.step.resources, name=self.step.name)
        (replace(fn, fn=run_and_save) if isinstance(fn, RemoteCallable) else run_and_save)(config)

    def saved(self) -> Any:
        return read_artifact(self.output_path)


def wrap(step: Any, record: Callable[[RecordedStep, Any], Any]) -> Any:
    if step.fn is None:
        raise UsageError(f"The step {step.name!r} has no function: there is nothing to record.")
    return ExecutorStep(
        name=step.name,
        fn=RecordedExecutorStep(step, function_of(step), record),
        config=step.config,
        description=step.description,
        override_output_path=step.override_output_path,
    )
