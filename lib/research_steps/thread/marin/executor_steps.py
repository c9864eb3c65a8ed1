"""The binding to Marin: how research steps become `ExecutorStep`s and are run by its executor.

The only module that imports Marin: everything that another generation of Marin does otherwise is here.
"""

import json
import os
import re
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from fray import (
    Entrypoint,
    EnvironmentConfig,
    JobRequest,
    LocalClient,
    ResourceConfig,
    current_client,
    set_current_client,
)
from marin.execution.artifact import Artifact
from marin.execution.executor import Executor, instantiate_config, materialize
from marin.execution.executor_step_status import STATUS_SUCCESS, StatusFile, get_status_path
from marin.execution.remote import RemoteCallable
from marin.execution.types import ExecutorStep as ExecutorStep
from marin.execution.types import InputName, OutputName, VersionedValue
from marin.execution.types import this_output_path as this_output_path
from marin.execution.types import versioned as versioned
from marin.training.run_environment import dependency_groups_for_resources
from rigging.distributed_lock import Lease, create_lock
from rigging.filesystem import open_url, url_to_fs

from research_steps.errors import StoreError, UsageError
from research_steps.journal.store import Store
from research_steps.records.resources import Resources
from research_steps.trial.provenance import check_here

PLACEHOLDER = "<resolved by the executor>"


@dataclass(frozen=True)
class ExecutorPlan:
    """A thread as the executor resolved it: each step's output path, and what depends on what."""

    executor: Executor
    steps: list[ExecutorStep]

    def output_path(self, step: ExecutorStep) -> str:
        return str(self.executor.output_paths[step])

    def dependents(self, steps: Sequence[ExecutorStep]) -> list[ExecutorStep]:
        """The given steps and every step that rests on them."""
        dependents = {self.output_path(step): step for step in steps}
        # Marin has each step behind those that it depends on.
        for step in self.executor.steps:
            if any(self.output_path(dependency) in dependents for dependency in self.executor.dependencies[step]):
                dependents.setdefault(self.output_path(step), step)
        return list(dependents.values())

    def forget(self, step: ExecutorStep) -> None:
        """Clear the executor's status of a step, so that it runs again."""
        status = StatusFile(self.output_path(step), worker_id="research")
        if status.fs.exists(status.path):
            status.fs.rm(status.path)

    def run(self, **options: Any) -> None:
        self.executor.run(self.steps, **options)


@dataclass(frozen=True)
class StepLock:
    """Marin's lock of a step: where it lies, in words and in the store, and the worker that has it."""

    path: str
    name: str
    holder: str


def lock_of(store: Store, output_path: str) -> StepLock | None:
    """The lock that Marin waits for before it runs the step with this output path; None where there is none, and for
    a step that doesn't lie in the store."""
    if not output_path.startswith(f"{store.url}/"):
        return None
    path = f"{get_status_path(output_path)}.lock"
    name = path.removeprefix(f"{store.url}/")
    data = store.read(name)
    if not data or store.read(name.removesuffix(".lock")) == STATUS_SUCCESS.encode():
        return None
    try:
        lease = Lease(**json.loads(data))
    except (ValueError, TypeError):
        # It is just being written.
        return None
    return None if lease.is_stale() else StepLock(path, name, lease.worker_id)


def release(lock: StepLock) -> None:
    """Give up a lock in place of its holder, unless another worker has it by now. Raises StoreError."""
    try:
        create_lock(lock.path, worker_id=lock.holder).release()
    except Exception as error:
        raise StoreError(f"Marin's lock {lock.path} could not be removed: {type(error).__name__}: {error}") from error


def plan(prefix: str, info_path: str | None, description: str, steps: Sequence[ExecutorStep]) -> ExecutorPlan:
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
    return ExecutorPlan(executor, list(steps))


def has_engine() -> bool:
    """Whether what is dispatched goes to a cluster, not to threads of this process."""
    return not isinstance(current_client(), LocalClient)


@contextmanager
def using(client: Any) -> Iterator[None]:
    """Have the steps' jobs go to this client of Fray."""
    with set_current_client(client):
        yield


def dispatch(label: str, resources: Resources, work: Callable[[], None]) -> None:
    """Have the cluster's engine do this work on a machine with these resources, and wait for it."""
    wanted = _on_a_cluster(resources)
    # Not Marin's own environment for steps, which holds tokens; a trial needs none.
    environment = EnvironmentConfig(workspace=os.getcwd(), extras=dependency_groups_for_resources(wanted, None))
    slug = re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-")
    request = JobRequest(
        name=f"{slug}-{uuid.uuid4().hex[:8]}",
        entrypoint=Entrypoint.from_callable(work),
        resources=wanted,
        environment=environment,
    )
    current_client().submit(request).wait(raise_on_failure=True)


def check(resources: Resources) -> None:
    """Raise UsageError when nothing here or on the cluster can be what these resources ask for."""
    if not has_engine():
        check_here(resources)
    elif (refuse := getattr(current_client(), "check", None)) is not None:
        refuse("a step", _on_a_cluster(resources))


def end_jobs() -> None:
    """End the cluster's jobs of this run, so that whoever waits for one goes on."""
    if has_engine():
        current_client().shutdown(wait=False)


def _on_a_cluster(resources: Resources) -> ResourceConfig:
    amounts = {"cpu": resources.cpu, "ram": resources.ram}
    try:
        if resources.tpu:
            return ResourceConfig.with_tpu(resources.tpu, **amounts)
        if resources.gpu:
            return ResourceConfig.with_gpu(resources.gpu, count=resources.gpus, **amounts)
        return ResourceConfig.with_cpu(**amounts)
    except ValueError as error:
        raise UsageError(f"Resources ask for what Marin doesn't know: {error}.") from error


def unwrap(value: Any) -> Any:
    """A configuration value without Marin's wrappers: what is versioned by itself, and a mark for what is resolved
    later, because the executor counts that in the step's version anyway."""
    if isinstance(value, VersionedValue):
        return value.value
    if isinstance(value, InputName | OutputName | ExecutorStep):
        return PLACEHOLDER
    return value


def output_of(value: Any, prefix: str) -> tuple[ExecutorStep | None, str]:
    """The path that the executor would give for a step, or a path of one, and the step; None for a path of its own."""
    if isinstance(value, ExecutorStep):
        value = value.as_input_name()
    executor = _resolved(value.step, prefix)
    return value.step, str(instantiate_config(value, None, executor.output_paths, prefix))


def has_ended(step: ExecutorStep, prefix: str) -> bool:
    """Whether what a step puts out is there."""
    return bool(StatusFile(_resolved(step, prefix).output_paths[step], worker_id="research").status == STATUS_SUCCESS)


def _resolved(step: ExecutorStep | None, prefix: str) -> Executor:
    executor = Executor(prefix=prefix, executor_info_base_path=prefix)
    if step is not None:
        executor.compute_version(step, is_pseudo_dep=False)
    return executor


def read_artifact(path: str) -> Any:
    """What a step returned, read from its output path."""
    with open_url(f"{path}/.artifact.json", "rb") as file:
        return json.load(file)


def has_artifact(path: str) -> bool:
    """Whether what a step returned can be read back; it can't where a kill cut it off."""
    try:
        read_artifact(path)
    except (FileNotFoundError, ValueError):
        return False
    return True


def run_inside(step: Any, output_path: str, placed: Callable[[Any], Any]) -> Any:
    """What the function of a step returns, called here with its output at this path and its configuration as `placed`
    gives it; steps that this holds are run by Marin first. No lock is taken for the path: it is whose who calls."""
    if step.fn is None:
        raise UsageError(f"The step {step.name!r} has no function: there is nothing to run.")
    config = placed(materialize(step.config, output_path=output_path))
    return (step.fn.fn if isinstance(step.fn, RemoteCallable) else step.fn)(config)


def read_outputs(output_path: str, pattern: str) -> list[str]:
    """The text files below an output path with these names, '*' being any folder."""
    store, path = url_to_fs(output_path)
    return [store.read_text(found) for found in sorted(store.glob(f"{path}/{pattern}"))]


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

    @property
    def is_sent(self) -> bool:
        """Whether Marin has Fray run it, in place of the driver."""
        return self.step.resources is not None or isinstance(self.step.fn, RemoteCallable)

    def run(self, config: Any, around: Callable[[Callable[[Any], Any]], Callable[[Any], Any]]) -> None:
        """Run the step as Marin would have, and save what it returns. `around` wraps its function, where it runs.

        Raises TypeError for what Marin can't save.
        """
        fn: Any = self.step.fn
        inner = around(fn.fn if isinstance(fn, RemoteCallable) else fn)
        path = self.output_path

        def run_and_save(config: Any) -> None:
            Artifact.save(inner(config), path)

        if self.step.resources is not None:
            fn = RemoteCallable(fn=fn, resources=self.step.resources, name=self.step.name)
        (replace(fn, fn=run_and_save) if isinstance(fn, RemoteCallable) else run_and_save)(config)


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
