"""This machine as trials run on it: they take turns, wait until others leave it quiet, and say who disturbed them."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import msgspec

from research_steps.errors import LauncherError
from research_steps.records.conditions import Facts
from research_steps.records.times import utc
from research_steps.trial import contention
from research_steps.trial.launcher.client import Tell, Trials
from research_steps.trial.launcher.protocol import Ended, Request
from research_steps.trial.provenance import facts_here

POLL_S = 0.5
Say = Callable[[str], None]


class TrialOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """How a trial ended, between which times, and who disturbed it: empty when nobody was seen to."""

    ended: Ended
    started_at: str
    finished_at: str
    contended: str


class Turn(Protocol):
    """What one trial has of a machine while it is its turn. `left_s` is what is left of the time to wait for quiet."""

    left_s: float

    def run(self, request: Request, tell: Tell) -> TrialOutcome:
        """Run the trial. Raises LauncherError when it has no result, for no fault of its own."""
        ...

    def wait(self, left_s: float) -> bool:
        """Wait for so long at most until the machine is quiet; returns whether it is, and sets `left_s`."""
        ...


class Host(Protocol):
    """A machine that trials run on."""

    @property
    def closed(self) -> bool:
        """Whether the run is ending, so that no further trial can begin."""
        ...

    @property
    def facts(self) -> Facts:
        """What it is to trials."""
        ...

    def turn(self, id: str, timed: bool, wait_s: float, say: Say) -> AbstractContextManager[Turn]:
        """Have a turn for one trial inside the block, once the machine is free and quiet, or was waited for `wait_s`.

        What is not `timed` waits for nobody. Raises LauncherError when the run ends meanwhile.
        """
        ...


class Here:
    """This machine; its trials run in processes of a launcher."""

    def __init__(self, trials: Trials) -> None:
        self.trials = trials

    @property
    def closed(self) -> bool:
        return self.trials.closed

    @property
    def facts(self) -> Facts:
        return facts_here()

    @contextmanager
    def turn(self, id: str, timed: bool, wait_s: float, say: Say) -> Iterator["_Turn"]:
        turn = _Turn(self, id, timed, wait_s, say)
        if not timed:
            yield turn
            return
        with contention.device_lock(contention.HERE, id, lambda: self.closed, say):
            turn.wait(wait_s)
            yield turn


class _Turn:
    def __init__(self, here: Here, id: str, timed: bool, left_s: float, say: Say) -> None:
        self._here, self._id, self._timed, self._say = here, id, timed, say
        self._others: list[str] = []
        self._told = False
        self.left_s = left_s

    def run(self, request: Request, tell: Tell) -> TrialOutcome:
        started, watch = utc(), contention.CpuWatch()
        ended = self._here.trials.run(request, tell)
        load = watch.contended(ended.launcher_cpu_s, contention.HERE.load_cores)
        contended = "; ".join([*self._others, *([load] if load else [])]) if self._timed else ""
        return TrialOutcome(ended=ended, started_at=started, finished_at=utc(), contended=contended)

    def wait(self, left_s: float) -> bool:
        while True:
            began = time.monotonic()
            self.left_s = left_s
            found = contention.HERE.disturbances(self._here.trials.family)
            # Load that can't be waited for any more is seen during the trial, for as long as it lasts.
            passing = [one for one in found if one.passes] or (contention.HERE.load() if left_s > 0 else [])
            self._others = [one.what for one in found]
            if left_s <= 0 or not passing:
                return left_s > 0 and not found
            if self._here.closed:
                raise LauncherError(f"The run is ending while {self._id} waits for a quiet machine.")
            if not self._told:
                who = "; ".join(one.what for one in passing)
                self._say(f"{self._id}: waiting up to {left_s:.0f} s for a quiet machine: {who}")
                self._told = True
            time.sleep(max(0.0, min(POLL_S, left_s)))
            left_s -= time.monotonic() - began
