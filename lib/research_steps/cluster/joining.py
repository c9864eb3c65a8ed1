"""A driver's connection to a Ray cluster, for as long as its thread runs: a client of Fray, and the work tree there."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from research_steps.cluster.client import RayClient
from research_steps.cluster.config import check_listening
from research_steps.git import Checkout


@contextmanager
def joined(address: str, checkout: Checkout) -> Iterator[RayClient]:
    """Connect this process to the cluster whose head has this address, and end there what it leaves running.

    A driver that was submitted has its work tree there already. Raises UsageError when there is no such cluster.
    """
    check_listening("the cluster", address, ("",), "RAY_ADDRESS")
    # Ray would otherwise copy the work tree again under `uv run`, and leave lines out that are alike.
    for name in ("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "RAY_DEDUP_LOGS"):
        os.environ.setdefault(name, "0")
    import ray

    # Until this process ends: who waits for a job then is not cut off.
    ray.init(address, logging_level="WARNING", ignore_reinit_error=True)
    client = RayClient()
    try:
        yield client
    finally:
        client.shutdown()
