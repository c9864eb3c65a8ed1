"""A real Iris cluster on this machine: a controller in a process of its own, and two workers of one core.

Its workers are threads of the controller, and a task is a process that inherits PATH alone from the tests. There
is no container, so nothing is installed for a task: it runs on the Python of the tests.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.support.marin_steps import IS_TODAYS
from tests.support.toy_thread import RESEARCH, Repository

IRIS = Path(sys.executable).with_name("iris")

# A task starts in its copy of the work tree, as it does in a container: there this is the container's doing. And a
# worker tells tasks the address of the default route, which a machine without a network lacks.
_CONTROLLER = """
import sys
from iris.cluster.runtime import process
from iris.cluster.worker import task_attempt
GENERATION
process._PDEATHSIG_LAUNCHER_CODE = "import os; os.chdir(os.environ['IRIS_WORKDIR']);" + process._PDEATHSIG_LAUNCHER_CODE
task_attempt.probe_outbound_ip = lambda: "127.0.0.1"
config = make_local_cluster_config(2)
config.scale_groups["local-cpu"].buffer_slices = 2
config.scale_groups["local-cpu"].resources.cpu_millicores = 1000
cluster = LocalCluster(config)
print(cluster.start(), flush=True)
sys.stdin.read()
cluster.close()
"""


# The older one refuses a client whose build is 14 days older than its clock, and what is pinned grows older; today's
# goes by the dates of both builds, and is left as it is.
_GENERATION = """
from iris.cluster.local_cluster import LocalCluster, make_local_cluster_config
"""
_OLDER_GENERATION = """
from datetime import timedelta
from iris.cluster.backends.local.cluster import LocalCluster, make_local_cluster_config
from iris.cluster.controller import service
service.FRESHNESS_WINDOW = timedelta(days=36500)
"""


@dataclass(frozen=True)
class Controller:
    """A running controller. With `environment` Iris's own clients find no credentials, and leave none."""

    url: str
    environment: dict[str, str]

    def iris(self, where: Path, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        """Run Iris's CLI in a work tree, which is what it ships. What jobs print is on stderr, as in `printed`."""
        argv = [str(IRIS), "--controller-url", self.url, *arguments]
        return subprocess.run(argv, cwd=where, env={**self.environment, **environment}, capture_output=True, text=True)


@contextmanager
def controller() -> Iterator[Controller]:
    """Started and ended, with all of its tasks."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {"PATH": os.environ["PATH"], "HOME": folder, "TMPDIR": folder}
        program = _CONTROLLER.replace("GENERATION", _GENERATION if IS_TODAYS else _OLDER_GENERATION)
        with (Path(folder) / "log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", program],
                cwd=folder, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip
        with process:
            try:
                assert process.stdout is not None
                url = process.stdout.readline().strip()
                assert url, (Path(folder) / "log").read_text()
                yield Controller(url, {**os.environ, "HOME": folder})
                # It ends when its input does, so also when the tests are killed.
                with suppress(subprocess.TimeoutExpired):
                    process.communicate(timeout=120)
            finally:
                process.kill()


def printed(done: "subprocess.CompletedProcess[str]", task: str) -> list[str]:
    """The lines that the first attempt of a task, such as `job/0` or `job/child/0`, printed, as the CLI told them."""
    lines = [line.split(" | ", 1) for line in done.stderr.splitlines() if f"/{task}:0 | " in line]
    return [line for _, line in lines]


def research(repository: Repository, *arguments: str) -> str:
    """What the command prints."""
    argv = [*RESEARCH, *arguments]
    return subprocess.run(argv, cwd=repository.root, stdout=subprocess.PIPE, text=True, check=True, timeout=240).stdout
