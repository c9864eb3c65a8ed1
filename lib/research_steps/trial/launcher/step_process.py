"""A function of Marin's in a process of its own, so that what it sets for the whole process (a tracker, a backend, the
environment) is nobody else's.

The process is a fresh interpreter. A keeper between it and the driver ends it, and all that it has started, with the
driver, by whatever that ends.
"""

import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from research_steps.errors import FailedElsewhere, LauncherError, UsageError, lacking
from research_steps.records.model import Error
from research_steps.trial.launcher.processes import adopt_orphans, die_with_parent, kill_descendants
from research_steps.trial.provenance import describe_error

_CALL, _OUTCOME = "call", "outcome"


class StepProcesses:
    """The processes of the steps that run now. Safe to use from several threads."""

    def __init__(self) -> None:
        self._keepers: set[subprocess.Popen[bytes]] = set()
        self._closed = False
        self._lock = threading.Lock()

    def call(self, name: str, function: Callable[[Any], Any], config: Any) -> Any:
        """What the function returns for this configuration. What it prints goes where this process's output goes.

        Raises FailedElsewhere with what it raised, LauncherError when its process was killed, UsageError for what can't
        be sent to another process. `name` is that of the step, for these.
        """
        import cloudpickle

        with tempfile.TemporaryDirectory(prefix="research-step-") as folder:
            try:
                Path(folder, _CALL).write_bytes(cloudpickle.dumps((function, config)))
            except (TypeError, pickle.PicklingError, RecursionError) as refused:
                raise UsageError(
                    f"{name} can't run in a process of its own: {refused}; expected a function and a configuration that "
                    "can be pickled, as for Marin's remote(…)."
                ) from refused
            code = self._run(folder)
            with suppress(FileNotFoundError):
                value, error, why = pickle.loads(Path(folder, _OUTCOME).read_bytes())
                if why:
                    raise LauncherError(f"The machine could not do {name}: {why}.")
                if error is not None:
                    raise FailedElsewhere(error)
                return cloudpickle.loads(value)
        if code >= 0:
            raise FailedElsewhere(Error("Exit", f"its process ended with exit code {code}", (), "step", ""))
        killed = signal.Signals(-code)
        why = "; out of memory, perhaps" if killed == signal.SIGKILL else ""
        raise LauncherError(f"The process of {name} was ended by signal {killed.name}{why}: run the thread again.")

    def close(self) -> None:
        """End what runs; what is called later is refused."""
        with self._lock:
            self._closed = True
            for keeper in self._keepers:
                _end(keeper)

    def _run(self, folder: str) -> int:
        """Run what is in the folder to its end; its exit code, that of a signal below 0."""
        with self._lock:
            if self._closed:
                raise LauncherError("The run is ending: the step was not begun.")
            keeper = subprocess.Popen(
                _python("keep", folder, *map(os.path.abspath, sys.path)),
                stdin=subprocess.PIPE,
                # A session of its own: Ctrl-C is for the driver.
                start_new_session=True,
            )
            self._keepers.add(keeper)
        try:
            code = keeper.wait()
        finally:
            with self._lock:
                self._keepers.remove(keeper)
                _end(keeper)
        if self._closed:
            raise LauncherError("The step was ended because the run is ending.")
        # As a shell tells the death by a signal.
        return code if code <= 128 else 128 - code


def _end(keeper: "subprocess.Popen[bytes]") -> None:
    assert keeper.stdin is not None, "it is a pipe"
    with suppress(OSError):
        keeper.stdin.close()


def _python(function: str, *arguments: str) -> list[str]:
    # -P: the experiment is found by the path that the driver has. -u: what it printed must not be lost with it.
    return [sys.executable, "-P", "-u", "-c", f"from {__name__} import {function}; {function}()", *arguments]


def keep() -> None:
    """Be the keeper: run the process, end with it, and end it with standard input."""
    adopt_orphans()
    keeper = os.getpid()
    pid = os.fork()
    if not pid:
        die_with_parent(keeper)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.execv(sys.executable, _python("work", *sys.argv[1:]))

    def end_with_driver() -> None:
        while os.read(0, 1):
            pass
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    threading.Thread(target=end_with_driver, daemon=True).start()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    kill_descendants()
    os._exit(code if code >= 0 else 128 - code)


def work() -> None:
    """Be the process: call the function, and leave in the folder what came of it. Then end as every program does, so
    that what waits for that (W&B, say) has its time."""
    import cloudpickle

    folder, *sys.path[:] = sys.argv[1:]
    value: bytes | None = None
    error: Error | None = None
    why = ""
    try:
        function, config = cloudpickle.loads(Path(folder, _CALL).read_bytes())
        value = cloudpickle.dumps(function(config))
    except BaseException as raised:  # noqa: BLE001  # whatever it is, it is what came of it
        traceback.print_exc()
        why = lacking(raised)
        error = describe_error(raised, "step", Path.cwd())
    part = Path(folder, f"{_OUTCOME}.part")
    part.write_bytes(pickle.dumps((value, error, why)))
    part.rename(part.with_name(_OUTCOME))
