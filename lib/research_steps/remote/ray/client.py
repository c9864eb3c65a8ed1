"""A driver's connection to a Ray cluster, for as long as its thread runs, and Fray's client over it: each job is one
Ray task, on one machine that has the resources it asks for.

It does what Marin's executor needs: submit a job, wait for it, end it. A job whose machine or process was lost is
started again by Ray. An exception of its function is its result and ends it. Actors and slices of several hosts are
refused.
"""

import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import humanfriendly
from fray.client import JobFailed
from fray.types import GpuConfig, JobRequest, JobStatus, ResourceConfig, TpuConfig

from research_steps.errors import LauncherError, MachineLost, UsageError
from research_steps.git import Checkout
from research_steps.records.redaction import redact
from research_steps.records.secret_names import names_a_secret
from research_steps.records.times import duration
from research_steps.remote.ray import task, worktree
from research_steps.remote.ray.config import connect, imported
from research_steps.terminal import print_lines
from research_steps.trial.provenance import ORIGIN

ray = imported()
# How long a job is waited for that no machine of the cluster could run. A cluster that grows brings one in that time.
INFEASIBLE_S = 900.0
LOOK_S = 5.0
# The driver's own variables that its jobs get: what changes a result and belongs to no machine, and where things are.
CARRIED = (
    *("JAX_", "XLA_", "LIBTPU_", "NCCL_", "OMP_", "MKL_", "OPENBLAS_", "LEVANTER_", "RAGGED_DOT_"),
    *("MARIN_", "RESEARCH_ACTOR"),
)


class RayJob:
    """A job that was submitted."""

    def __init__(self, name: str, ref: Any, asked: dict[str, float]) -> None:
        self.job_id, self._ref, self._asked = name, ref, asked
        self._stopped = threading.Event()

    def status(self) -> JobStatus:
        if self._stopped.is_set():
            return JobStatus.STOPPED
        # Ray knows no difference between what waits and what runs.
        if not ray.wait([self._ref], timeout=0)[0]:
            return JobStatus.RUNNING
        try:
            ray.get(self._ref)
        except Exception:  # noqa: BLE001  # whatever it is, wait() raises it
            return JobStatus.FAILED
        return JobStatus.SUCCEEDED

    def wait(self, timeout: float | None = None, *, raise_on_failure: bool = True) -> JobStatus:
        """Wait until it has ended. Raises what its function raised; MachineLost when it was lost, LauncherError when we
        ended it, UsageError when no machine of the cluster could run it for too long; TimeoutError."""
        self._wait_until_done(timeout)
        if not raise_on_failure:
            return self.status()
        if self._stopped.is_set():
            raise LauncherError(f"{self.job_id} was ended because the run is ending.")
        try:
            ray.get(self._ref)
        except ray.exceptions.RayTaskError as error:
            # Ray's own message is the worker's whole traceback, which the log has.
            if isinstance(error.cause, Exception):
                raise error.cause from None
            raise JobFailed(self.job_id, JobStatus.FAILED) from None
        except ray.exceptions.RayError as error:
            why = " ".join(str(error).split())
            raise MachineLost(
                f"{self.job_id} was lost on the cluster, more often than it is started again: {why}"
            ) from error
        return JobStatus.SUCCEEDED

    def terminate(self) -> None:
        self._stopped.set()
        ray.cancel(self._ref, force=True)

    def _wait_until_done(self, timeout: float | None) -> None:
        began = feasible = time.monotonic()
        has_said = False
        patience = LOOK_S if timeout is None else min(LOOK_S, timeout)
        while not self._stopped.is_set() and not ray.wait([self._ref], timeout=patience)[0]:
            now = time.monotonic()
            if timeout is not None and now - began > timeout:
                raise TimeoutError(f"{self.job_id} has not ended within {duration(timeout)}.")
            if not (lacking := _lacking(self._asked)):
                feasible = now
            elif now - feasible > INFEASIBLE_S:
                self.terminate()
                raise UsageError(f"{self.job_id} was given up after {duration(now - feasible)}: {lacking}")
            elif not has_said:
                print_lines(f"{self.job_id} waits: {lacking}")
                has_said = True


class RayClient:
    """Submits jobs to the Ray cluster that this process is connected to. Safe to use from several threads."""

    def __init__(self) -> None:
        self._jobs: list[RayJob] = []

    def submit(self, request: JobRequest, adopt_existing: bool = True) -> RayJob:
        """Have a job run. Raises UsageError when it asks for what is no single machine of a Ray cluster."""
        asked = amounts(request.name, request.resources, request.replicas)
        shown, hidden = _environment(request)
        entry = request.entrypoint
        if entry.callable_entrypoint is not None:
            call = entry.callable_entrypoint
            function = partial(call.callable, *call.args, **call.kwargs)
        elif entry.binary_entrypoint is not None:
            program = entry.binary_entrypoint
            function = partial(subprocess.run, [program.command, *program.args], check=True)
        else:
            raise UsageError(f"The job {request.name} has no entrypoint: expected a function or a program.")
        others = {name: amount for name, amount in asked.items() if name not in ("CPU", "GPU", "memory")}
        ref = (
            ray.remote(task.run)
            .options(
                name=request.name,
                num_cpus=asked["CPU"],
                num_gpus=asked.get("GPU", 0),
                memory=int(asked["memory"]),
                resources=others,
                max_retries=request.max_retries_preemption,
                retry_exceptions=False,
                runtime_env={"env_vars": shown},
            )
            .remote(ray.cloudpickle.dumps(function), ray.cloudpickle.dumps(RayClient), hidden)
        )
        job = RayJob(request.name, ref, asked)
        self._jobs.append(job)
        return job

    def check(self, name: str, wanted: ResourceConfig) -> None:
        """Raise UsageError when no single machine of a Ray cluster can be what is wanted."""
        amounts(name, wanted)

    def create_actor(self, *_: Any, **__: Any) -> Any:
        raise UsageError("This client of Ray runs jobs, no actors: run steps that need them (Zephyr's, say) on Iris.")

    host_actor = create_actor_group = create_actor

    def shutdown(self, wait: bool = True) -> None:
        """End the jobs that run; whoever waits for one is told so."""
        for job in self._jobs:
            if not JobStatus.finished(job.status()):
                job.terminate()


@contextmanager
def joined(address: str, checkout: Checkout) -> Iterator[RayClient]:
    """Connect this process to the cluster whose head has this address, and end there what it leaves running.

    A driver that was submitted has its work tree there already; another one sends it. Raises MachineLost when there is
    no such cluster.
    """
    if checkout.git_dir is None and ORIGIN not in os.environ:
        raise UsageError(
            f"{checkout.root} is not in a git repository, and RAY_ADDRESS names a cluster: expected a repository, whose "
            "work tree the jobs get."
        )
    with tempfile.TemporaryDirectory(prefix="research-tree-") as folder:
        package = Path(folder) / "tree.zip"
        if checkout.git_dir is not None:
            worktree.zip_into(package, checkout, worktree.files(checkout))
        sent = {"working_dir": str(package)} if package.exists() else {}
        # Until this process ends: who waits for a job then is not cut off.
        connect("the cluster", address, ("",), runtime_env=sent, logging_level="WARNING", ignore_reinit_error=True)
    client = RayClient()
    try:
        yield client
    finally:
        client.shutdown()


def amounts(name: str, wanted: ResourceConfig, replicas: int | None = None) -> dict[str, float]:
    """What Ray calls the resources that `name` asks for. Raises UsageError when no single machine can have them."""
    device, hosts = wanted.device, replicas or wanted.replicas
    if hosts > 1 or (isinstance(device, TpuConfig) and device.vm_count() > 1):
        raise UsageError(
            f"{name} asks for {device.variant} on {hosts} hosts: expected one host, because a Ray task is one process "
            "on one machine. Use a slice of one host (v4-8, v5litepod-8, v6e-8), or run on Iris."
        )
    if wanted.image:
        raise UsageError(f"{name} asks for the image {wanted.image!r}: a Ray cluster's file names that.")
    asked = {"CPU": float(wanted.cpu), "memory": float(humanfriendly.parse_size(wanted.ram, binary=True))}
    if isinstance(device, GpuConfig):
        asked["GPU"] = float(device.count)
        if device.variant != "auto":
            # Ray gives every machine one of its accelerator's name, for all of its jobs.
            asked[f"accelerator_type:{device.variant}"] = 0.001
    if isinstance(device, TpuConfig):
        asked |= {"TPU": float(device.chip_count()), f"TPU-{device.variant}-head": 1.0}
    return asked


def _environment(request: JobRequest) -> tuple[dict[str, str], dict[str, str]]:
    """What a job gets, and of that what Ray must not show to everybody who sees its dashboard."""
    carried = {name: value for name, value in os.environ.items() if name.startswith(CARRIED)}
    if request.resources.device.kind != "cpu":
        # A driver on a machine without an accelerator may have been told to look for none.
        carried.pop("JAX_PLATFORMS", None)
    given = {**carried, **(request.environment.env_vars if request.environment else {})}
    hidden = {name: value for name, value in given.items() if names_a_secret(name) or redact(value) != value}
    return {name: value for name, value in given.items() if name not in hidden}, hidden


def _lacking(asked: dict[str, float]) -> str:
    """What no machine of the cluster has, empty where one has it."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if any(all(node.get(name, 0) >= amount for name, amount in asked.items()) for node in nodes):
        return ""
    most = {name: max((node.get(name, 0.0) for node in nodes), default=0.0) for name in asked}
    return (
        f"no machine of the cluster has {_counted(asked)}; the most that one of {len(nodes)} has is {_counted(most)}. "
        "Ask for less, or add such a machine."
    )


def _counted(asked: dict[str, float]) -> str:
    sizes = {"memory": lambda amount: humanfriendly.format_size(amount, binary=True)}
    return ", ".join(f"{name} {sizes.get(name, '{:g}'.format)(amount)}" for name, amount in asked.items())
