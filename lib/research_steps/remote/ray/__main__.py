"""Starts the head of a cluster on this machine as the cluster's file says, in the foreground (`make cluster`).

Ctrl-C ends it, with what it started and nothing else. Other users of the machine can neither use it, without the token,
nor take the place of its sockets.
"""

import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from research_steps.files import is_private
from research_steps.remote.ray.config import make_token, read_yaml
from research_steps.terminal import print_lines, say

if __name__ == "__main__":
    own = Path(tempfile.gettempdir(), f"research-ray-{os.getuid()}")
    if "RAY_TMPDIR" not in os.environ:
        with suppress(FileExistsError):
            own.mkdir(mode=0o700)
        if not is_private(own):
            say(
                f"error: {own} is not a folder that only you can open, and Ray's sockets would lie there: remove it, "
                "have its owner do so, or set RAY_TMPDIR to a folder of yours."
            )
            sys.exit(1)
    token = "RAY_AUTH_TOKEN" if os.environ.get("RAY_AUTH_TOKEN") else make_token()
    print_lines(f"Whoever has the token in {token} can use this cluster, with RAY_AUTH_MODE=token, and nobody else.")
    *before, start = read_yaml(Path(sys.argv[1]), "a cluster's configuration")["head_start_ray_commands"]
    # Jobs find the Python and the Ray of this environment first.
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
    script = " && ".join([*before, f"exec {start} --block"])
    head = subprocess.Popen(["sh", "-c", script], env={"RAY_TMPDIR": str(own), **os.environ, "PATH": path})
    asked: list[int] = []

    def stop(number: int, _: object) -> None:
        asked.append(number)
        # A terminal sends Ctrl-C to both.
        if number != signal.SIGINT:
            head.send_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    # To be stopped is an error to Ray.
    code = head.wait()
    print_lines("The cluster has ended, with all that it started.")
    if not asked:
        sys.exit(code)
