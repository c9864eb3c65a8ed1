"""The baseline's side of a pair whose sides run different code: a second process, which imports its own version and
gives samples to the trial's when it is asked to, so that the two take turns as in one process.

Cores differ, by what else runs on them, and the system leaves each process on its own. So the two samples of a pair
begin on the same core, and the next block of pairs on another one; a process with threads of its own has all anyway.
"""

import faulthandler
import gc
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

from research_steps.errors import FailedElsewhere, Side
from research_steps.records.model import Device, Error
from research_steps.trial.launcher.processes import die_with_parent

Values = dict[str, float]
# Beside the number of a core, on which a sample is wanted, or -1 for any, what the process may be asked for.
DEVICES = "devices"


class SecondProcess(Iterator[Values]):
    """The other side as the trial's process has it: an iterator over its samples, which raises FailedElsewhere.

    `begin` imports what is measured there, and returns its samples; `about` tells what it ran on, `described` what was
    raised.
    """

    def __init__(
        self,
        begin: Callable[[], Iterator[Values]],
        about: Callable[[], tuple[Device, ...]],
        described: Callable[[BaseException], Error],
    ) -> None:
        self._connection, other = Pipe()
        self._cores, self._core = _cores(), -1
        parent = os.getpid()
        self._pid = os.fork()
        if not self._pid:
            self._connection.close()
            _serve(parent, other, begin, about, described)
        other.close()

    def __next__(self) -> Values:
        values: Values = self._ask(self._core)
        return values

    def place(self, side: Side, block: int) -> None:
        """Have the next sample of a side begin on the core of this block of pairs."""
        core = self._cores[block % len(self._cores)] if self._cores else -1
        if side == "baseline":
            self._core = core
        else:
            _run_on(core)

    def devices(self) -> tuple[Device, ...]:
        """What it ran on."""
        devices: tuple[Device, ...] = self._ask(DEVICES)
        return devices

    def end(self) -> None:
        """End it, whatever it is at, and take account of what it used."""
        self._connection.close()
        with suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(self._pid, 0)

    def _ask(self, what: int | str) -> Any:
        try:
            self._connection.send(what)
            answer = self._connection.recv()
        except (EOFError, OSError):
            code = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
            how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            message = f"the process of the baseline was ended by {how}"
            raise FailedElsewhere(Error("Crash", message, (), "baseline", "")) from None
        if isinstance(answer, Error):
            raise FailedElsewhere(answer)
        return answer


def _serve(
    parent: int,
    connection: Connection,
    begin: Callable[[], Iterator[Values]],
    about: Callable[[], tuple[Device, ...]],
    described: Callable[[BaseException], Error],
) -> None:
    """Be that process: answer until nobody asks any more."""
    try:
        faulthandler.enable()
        die_with_parent(parent)
        # A measure function may signal its own process group.
        os.setpgid(0, 0)
        answers = _answers(begin, described)
        next(answers)
        with suppress(EOFError):
            while True:
                asked = connection.recv()
                if asked == DEVICES:
                    connection.send(about())
                    continue
                _run_on(asked)
                connection.send(next(answers))
    except BaseException:  # noqa: BLE001  # into the output's tail; the trial's process tells that this one ended
        traceback.print_exc()
    finally:
        os._exit(1)


def _answers(
    begin: Callable[[], Iterator[Values]], described: Callable[[BaseException], Error]
) -> Iterator[Values | Error | None]:
    """Nothing, once all is imported; then a sample each time; and what was raised, from then on."""
    try:
        samples = begin()
        yield None
        yield next(samples)
        # As in the trial's own process, once its set-up is done.
        gc.collect()
        gc.disable()
        yield from samples
    except GeneratorExit:
        raise
    except BaseException as raised:  # noqa: BLE001  # whatever it is, it is the trial's result
        error = described(raised)
    while True:
        yield error


def _cores() -> list[int]:
    """The cores that this process may run on, as far as the system tells."""
    return sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else []


def _run_on(core: int) -> None:
    """Go to a core, without being tied to it: threads that are started later would be, too."""
    if core >= 0 and len(os.listdir("/proc/self/task")) == 1:
        allowed = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {core})
        os.sched_setaffinity(0, allowed)
