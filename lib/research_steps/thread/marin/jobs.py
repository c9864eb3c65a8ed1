"""Jobs of a thread on the cluster that Fray found, in both generations of Marin."""

import os
import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from fray.current_client import current_client, set_current_client
from fray.local_backend import LocalClient
from fray.types import Entrypoint, EnvironmentConfig, JobRequest, ResourceConfig
from marin.training.run_environment import dependency_groups_for_resources

from research_steps.errors import UsageError
from research_steps.records.resources import Resources
from research_steps.trial.provenance import check_here


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
    # One generation asks for four times the disk that the other does, where nothing is said.
    amounts: dict[str, Any] = {"cpu": resources.cpu, "ram": resources.ram, "disk": "16g"}
    try:
        if resources.tpu:
            return ResourceConfig.with_tpu(resources.tpu, **amounts)
        if resources.gpu:
            return ResourceConfig.with_gpu(resources.gpu, count=resources.gpus, **amounts)
        return ResourceConfig.with_cpu(**amounts)
    except ValueError as error:
        raise UsageError(f"Resources ask for what Marin doesn't know: {error}.") from error
