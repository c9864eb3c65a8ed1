"""What a Ray worker does for one job of Fray: a function under the environment that its driver gave it."""

import json
import os
import sys
from pathlib import Path

# Set by Ray in its own processes, unless the cluster or the job has set it.
_OF_RAY = "OMP_NUM_THREADS"


def run(function: bytes, client: bytes, hidden: dict[str, str]) -> None:
    """Run a pickled function, with the variables that Ray must not show. Its exception is the job's.

    One that came with Fray may ask for a client, which is an instance of this pickled class. Without Fray none is made,
    because to load it takes longer than most trials.
    """
    from ray import cloudpickle

    began_with = Path("/proc/self/environ").read_bytes().split(b"\0")
    if not any(setting.startswith(_OF_RAY.encode() + b"=") for setting in began_with):
        os.environ.pop(_OF_RAY, None)
    before = dict(os.environ)
    os.environ.update(hidden)
    try:
        wanted = cloudpickle.loads(function)
        if "fray" not in sys.modules:
            wanted()
            return
        from fray.current_client import set_current_client

        with set_current_client(cloudpickle.loads(client)()):
            wanted()
    finally:
        os.environ.clear()
        os.environ.update(before)


def as_driver() -> None:
    """Have the driver of a submitted job see what Ray would not have set."""
    job = os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR")
    if job and _OF_RAY not in json.loads(job).get("runtime_env", {}).get("env_vars", {}):
        os.environ.pop(_OF_RAY, None)
