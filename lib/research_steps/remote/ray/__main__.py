"""Starts the head of a cluster on this machine as the cluster's file says, in the foreground (`make cluster`).

Ctrl-C ends it, with what it started and nothing else.
"""

import os
import sys
from pathlib import Path

from research_steps.remote.ray.config import read_yaml

if __name__ == "__main__":
    *before, start = read_yaml(Path(sys.argv[1]), "a cluster's configuration")["head_start_ray_commands"]
    # Jobs find the Python and the Ray of this environment first.
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
    script = " && ".join([*before, f"exec {start} --block"])
    os.execvpe("sh", ["sh", "-c", script], {**os.environ, "PATH": path})
