"""A real git server on this machine's loopback: `git daemon`, which takes pushes too."""

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.scratch_logbook import git


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Serve the repositories below a folder; the address of the folder."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    daemon = ["daemon", "--export-all", "--enable=receive-pack", "--reuseaddr", "--listen=127.0.0.1", f"--port={port}"]
    # Its own process, and not git's, which would leave it behind.
    command = [str(Path(git(folder, "--exec-path").strip()) / "git-daemon"), *daemon[1:], f"--base-path={folder}"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 30
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                    break
                except OSError:
                    assert time.monotonic() < deadline and process.poll() is None
                    time.sleep(0.05)
            yield f"git://127.0.0.1:{port}"
        finally:
            process.terminate()
