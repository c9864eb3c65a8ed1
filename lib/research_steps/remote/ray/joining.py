"""A driver's connection to a Ray cluster: a client of Fray for as long as its thread runs, and its work tree there."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from research_steps.errors import UsageError
from research_steps.git import Checkout
from research_steps.remote.ray import worktree
from research_steps.remote.ray.client import RayClient
from research_steps.remote.ray.config import connect
from research_steps.trial.provenance import ORIGIN


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
    # Ray would otherwise leave out lines that are alike.
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")
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
