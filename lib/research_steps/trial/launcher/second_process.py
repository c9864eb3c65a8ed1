"""The baseline's side of a pair whose sides run different code: a second process, which imports its own version and
gives samples to the trial's when it is asked to, so that the two take turns as in one process."""

import faulthandler
import gc
import os
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

from research_steps.errors import FailedElsewhere
from research_steps.records.model import Device, Error
from research_steps.trial.launcher.processes import die_with_parent

Values = dict[str, float]


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
        parent = os.getpid()
        self._pid = os.fork()
        if not self._pid:
            self._connection.close()
            _serve(parent, other, begin, about, described)
        other.close()

    def __next__(self) -> Values:
        values: Values = self._ask("sample")
        return values

    def devices(self) -> tuple[Device, ...]:
        """What it ran on."""
        devices: tuple[Device, ...] = self._ask("devices")
        return devices

    def end(self) -> None:
        """End it, whatever it is at, and take account of what it used."""
        self._connection.close()
        with suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(self._pid, 0)

    def _ask(self, what: str) -> Any:
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
            while asked := connection.recv():
                connection.send(next(answers) if asked == "sample" else about())
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
