"""What a Ray worker does for one job of Fray: a function under the environment that its driver gave it."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

# Set by Ray for its own workers. What is measured there sees what the node, the cluster or the driver has set.
_OF_RAY = ("OMP_NUM_THREADS",)


def run(pickled: bytes, given: frozenset[str]) -> None:
    """Run a pickled function; `given` are the variables that the driver has set. Its exception is the job's."""
    from ray import cloudpickle

    for name in _OF_RAY:
        if name not in given:
            os.environ.pop(name, None)
    function: Callable[[], Any] = cloudpickle.loads(pickled)
    if "fray" not in sys.modules:
        # It came without Fray and can't ask for a client; loading one takes longer than most trials.
        function()
        return
    from fray import set_current_client

    from research_steps.cluster.client import RayClient

    with set_current_client(RayClient()):
        function()


def execute(command: str, arguments: Sequence[str]) -> None:
    """What a job does whose entrypoint is a program. Raises CalledProcessError when that fails."""
    subprocess.run([command, *arguments], check=True)
