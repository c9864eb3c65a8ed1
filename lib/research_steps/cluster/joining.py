"""A driver's connection to a Ray cluster: a client of Fray for as long as its thread runs, and its work tree there."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from research_steps.cluster import worktree
from research_steps.cluster.client import RayClient
from research_steps.cluster.config import check_listening, imported
from research_steps.git import Checkout


@contextmanager
def joined(address: str, checkout: Checkout) -> Iterator[RayClient]:
    """Connect this process to the cluster whose head has this address, and end there what it leaves running.

    A driver that was submitted has its work tree there already; another one sends it. Raises UsageError when there is
    no such cluster.
    """
    check_listening("the cluster", address, ("",), "RAY_ADDRESS")
    # Ray would otherwise send the work tree again under `uv run`, and leave out lines that are alike.
    for name in ("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "RAY_DEDUP_LOGS"):
        os.environ.setdefault(name, "0")
    ray = imported()
    with tempfile.TemporaryDirectory(prefix="research-tree-") as folder:
        sent = {} if checkout.git_dir is None else {"working_dir": _packed(Path(folder), checkout)}
        # Until this process ends: who waits for a job then is not cut off.
        ray.init(address, runtime_env=sent, logging_level="WARNING", ignore_reinit_error=True)
    client = RayClient()
    try:
        yield client
    finally:
        client.shutdown()


def _packed(folder: Path, checkout: Checkout) -> str:
    package = folder / "tree.zip"
    worktree.zip_into(package, checkout, {**worktree.files(checkout), **worktree.logbooks(checkout)})
    return str(package)
