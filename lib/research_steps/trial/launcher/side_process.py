"""A side of a pair whose sides run different code: a process that imports its own version, and gives samples to the
trial's when it is asked to.

Cores differ, by what else runs on them, and the system leaves each process on its own. So the two samples of a pair
begin on the same core, and the next block of pairs on another one; a process with threads of its own has all anyway.
"""

import faulthandler
import gc
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

from research_steps.errors import FailedElsewhere, LauncherError, Side
from research_steps.records.model import CommandRun, Device, Error
from research_steps.records.series import Series
from research_steps.trial.launcher.processes import ENDED_BY_OTHERS, die_with_parent
from research_steps.trial.launcher.sampling import Values, next_samples, numbers

# Beside the number of a core on which a sample is wanted, or -1 for any, what the process may be asked for.
BEGIN, RAN = "begin", "ran"


@dataclass(frozen=True)
class SideRun:
    """What a side ran on, the files that people edit among those that it imported, how long its imports took (seconds),
    which files of its code were not among them: those that it imports when they are called for; and the last run of the
    command, where one is measured."""

    devices: tuple[Device, ...] = ()
    sources: tuple[str, ...] = ()
    import_s: float = 0.0
    late: tuple[str, ...] = ()
    command: CommandRun | None = None


@dataclass(frozen=True)
class SideWork:
    """What a side's process does for a series: `load` imports its code and returns a call of the measure function, `ran`
    tells what came of it, `described` what was raised, or why that is no fault of what was measured."""

    series: Series
    load: Callable[[], Callable[[], Any]]
    ran: Callable[[], SideRun]
    described: Callable[[BaseException], Error | str]


class SideProcess:
    """A side as the trial's process has it. Once it has failed, whatever it is asked for raises FailedElsewhere, or
    LauncherError where that was no fault of what was measured."""

    def __init__(self, side: Side, work: SideWork) -> None:
        self._side = side
        self._code: int | None = None
        self._connection, other = Pipe()
        self._cores = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else []
        parent = os.getpid()
        self._pid = os.fork()
        if not self._pid:
            self._connection.close()
            _serve(parent, other, side, work)
        other.close()

    def begin(self) -> list[Values] | None:
        """Call the measure function: what it returned, None where it yields."""
        values: list[Values] | None = self._ask(BEGIN)
        return values

    def sample(self, block: int) -> list[Values]:
        """The next samples, begun on the core of this block of pairs."""
        values: list[Values] = self._ask(self._cores[block % len(self._cores)] if self._cores else -1)
        return values

    def ran(self) -> SideRun:
        ran: SideRun = self._ask(RAN)
        return ran

    def close(self) -> None:
        """End it, whatever it is at, with what it has started, and take account of what it used."""
        self._connection.close()
        for end in (os.killpg, os.kill) if self._code is None else ():
            with suppress(ProcessLookupError):
                end(self._pid, signal.SIGKILL)
        self._wait()

    def _ask(self, what: int | str) -> Any:
        try:
            self._connection.send(what)
            answer = self._connection.recv()
        except (EOFError, OSError):
            code = self._wait()
            how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            message = f"the process of the {self._side} was ended by {how}"
            if -code in ENDED_BY_OTHERS:
                raise LauncherError(f"{message}, as by the system or a person.") from None
            raise FailedElsewhere(Error("Crash", message, (), self._side, "")) from None
        if isinstance(answer, Error):
            raise FailedElsewhere(answer)
        if isinstance(answer, str):
            raise LauncherError(answer)
        return answer

    def _wait(self) -> int:
        """Its exit code, once it has ended."""
        if self._code is None:
            self._code = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        return self._code


def _serve(parent: int, connection: Connection, side: Side, work: SideWork) -> None:
    """Be that process: answer until nobody asks any more."""
    try:
        faulthandler.enable()
        die_with_parent(parent)
        # A measure function may signal its own process group.
        os.setpgid(0, 0)
        answers = _answers(side, work)
        import_s: float = next(answers)
        with suppress(EOFError):
            while True:
                asked = connection.recv()
                if asked == RAN:
                    connection.send(replace(work.ran(), import_s=import_s))
                    continue
                if asked != BEGIN:
                    _run_on(asked)
                connection.send(next(answers))
    except BaseException:  # noqa: BLE001  # into the output's tail; the trial's process tells that this one ended
        traceback.print_exc()
    finally:
        os._exit(1)


def _answers(side: Side, work: SideWork) -> Iterator[Any]:
    """How long its imports took; what the measure function returned, None where it yields; then a sample each time. What
    was raised comes instead of all but the first, from then on."""
    started = time.perf_counter()
    try:
        call = work.load()
    except BaseException as raised:  # noqa: BLE001  # whatever it is, it is the trial's result
        call = partial(_raise, raised)
    yield time.perf_counter() - started
    try:
        returned = call()
        if not isinstance(returned, Iterator):
            yield numbers(returned, work.series)
            return
        yield None
        yield next_samples(returned, side, 0, work.series)
        # As in one process, once its set-up is done.
        gc.collect()
        gc.disable()
        for taken in count(1):
            yield next_samples(returned, side, taken, work.series)
    except GeneratorExit:
        raise
    except BaseException as raised:  # noqa: BLE001  # the same
        error = work.described(raised)
    while True:
        yield error


def _raise(raised: BaseException) -> None:
    raise raised


def _run_on(core: int) -> None:
    """Go to a core, without being tied to it: threads that are started later would be, too."""
    if core >= 0 and len(os.listdir("/proc/self/task")) == 1:
        allowed = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {core})
        os.sched_setaffinity(0, allowed)
