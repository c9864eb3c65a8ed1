"""Machines that trials run on, this one among them: trials take turns, wait until others leave the machine quiet, and
say who disturbed them."""

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import msgspec

from research_steps.errors import LauncherError
from research_steps.records.conditions import Facts
from research_steps.records.times import utc
from research_steps.trial import contention
from research_steps.trial.launcher.conversation import Hear
from research_steps.trial.launcher.daemon import DaemonTrials
from research_steps.trial.launcher.launcher import Launcher
from research_steps.trial.launcher.protocol import Request, TrialOutcome
from research_steps.trial.provenance import facts_here

POLL_S = 0.5
Say = Callable[[str], None]


@dataclass(frozen=True)
class Turn:
    """What one trial has of a machine while it is its turn: what is left of the time to wait for quiet (seconds),
    whether it `is_quiet`, and how to `run` the trial, which raises LauncherError when that has no outcome, for no fault
    of its own."""

    left_s: float
    is_quiet: bool
    run: Callable[[Request, Hear], TrialOutcome]


class Host(Protocol):
    """A machine that trials run on. `sources` are the files that people edit that its last trial has imported."""

    sources: tuple[str, ...]

    @property
    def closed(self) -> bool:
        """Whether the run is ending, so that no further trial can begin."""
        ...

    def facts(self, variables: Collection[str] = ()) -> Facts:
        """What it is to trials whose code reads these environment variables."""
        ...

    def turn(self, id: str, timed: bool, wait_s: float, say: Say) -> AbstractContextManager[Turn]:
        """Have a turn for one trial inside the block, once the machine is free and quiet, or was waited for `wait_s`.

        What is not `timed` waits for nobody. Raises LauncherError when the run ends meanwhile.
        """
        ...


class LocalHost:
    """This machine; its trials run in the processes of a parent, of its own or kept."""

    def __init__(self, trials: Launcher | DaemonTrials) -> None:
        self.trials = trials
        self.sources: tuple[str, ...] = ()

    @property
    def closed(self) -> bool:
        return self.trials.closed

    def facts(self, variables: Collection[str] = ()) -> Facts:
        return facts_here(variables)

    @contextmanager
    def turn(self, id: str, timed: bool, wait_s: float, say: Say) -> Iterator[Turn]:
        if not timed:
            # It says who disturbed it, for what else of it is timed.
            others = [other.what for other in contention.HERE.disturbances(self.trials.family)]
            yield Turn(wait_s, True, partial(self._run, others))
            return
        with contention.device_lock(contention.HERE, id, lambda: self.closed, say):
            left_s, others = self._wait(id, wait_s, say)
            yield Turn(left_s, left_s > 0 and not others, partial(self._run, others))

    def _run(self, others: list[str], request: Request, hear: Hear) -> TrialOutcome:
        """Run a trial that these disturb from its beginning."""
        started, watch = utc(), contention.CpuWatch(contention.HERE)
        outcome = self.trials.run(request, hear)
        self.sources = outcome.sources or self.sources
        contended = "; ".join(filter(None, [*others, watch.contended(outcome.launcher_cpu_s)]))
        return msgspec.structs.replace(outcome, contended=contended, started_at=started, finished_at=utc())

    def _wait(self, id: str, left_s: float, say: Say) -> tuple[float, list[str]]:
        """Wait for so long at most until the machine is quiet: what is left of the time, and who disturbs it still."""
        has_said = False
        while True:
            began = time.monotonic()
            disturbances = contention.HERE.disturbances(self.trials.family)
            # Load that can't be waited for any more is seen during the trial, for as long as it lasts.
            passing = [other for other in disturbances if other.passes] or (contention.HERE.load() if left_s > 0 else [])
            if left_s <= 0 or not passing:
                return left_s, [other.what for other in disturbances]
            if self.closed:
                raise LauncherError(f"The run is ending while {id} waits for a quiet machine.")
            if not has_said:
                who = "; ".join(other.what for other in passing)
                say(f"{id}: waiting up to {left_s:.0f} s for a quiet machine: {who}")
                has_said = True
            time.sleep(max(0.0, min(POLL_S, left_s)))
            left_s -= time.monotonic() - began
