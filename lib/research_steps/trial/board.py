"""How far the steps are that measure in this process, for whoever draws it meanwhile.

It holds what a step is at now, in memory: drawing it asks neither the store nor a trial.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from research_steps.trial.launcher.protocol import Message, Progress


@dataclass
class MeasuringStep:
    """One step, or a shard of it, and the `trial` that it is at, by its label: asked for at `since`, `running` once its
    process has said anything, and how far it is. Times are those of `time.monotonic` (seconds)."""

    id: str
    label: str
    total: int
    done: int = 0
    failed: int = 0
    held: int = 0
    trial: str = ""
    running: bool = False
    reached: str = ""
    began: float = field(default_factory=time.monotonic)
    since: float = field(default_factory=time.monotonic)

    def begin(self, trial: str, running: bool = False) -> None:
        """The step asks for this trial now."""
        self.trial, self.running, self.reached, self.since = trial, running, "", time.monotonic()

    def hear(self, message: Message) -> None:
        """The process of the trial says something, so that it runs: since now, when it is the first time."""
        if not self.running:
            self.running, self.since = True, time.monotonic()
        if isinstance(message, Progress):
            self.reached = str(message.reached)

    def end(self, *, failed: bool, measured: bool) -> None:
        """The trial has ended, `measured` now or held by the journal."""
        self.done, self.failed, self.held = self.done + 1, self.failed + failed, self.held + (not measured)
        self.begin("")

    @property
    def spent_s(self) -> float:
        """How long it is at its trial, or waits for it."""
        return time.monotonic() - self.since

    @property
    def left_s(self) -> float | None:
        """How long the trials that are left take, at the rate of those that were measured; None before there were."""
        measured = self.done - self.held
        return (self.total - self.done) * (time.monotonic() - self.began) / measured if measured else None


@dataclass
class Board:
    """The steps that measure now, in the order in which they began. While it `is_drawn`, single trials need no line."""

    is_drawn: bool = False
    steps: list[MeasuringStep] = field(default_factory=list)

    @contextmanager
    def measuring(self, id: str, label: str, total: int) -> Iterator[MeasuringStep]:
        """A step measures so many trials inside the block."""
        step = MeasuringStep(id, label, total)
        self.steps.append(step)
        try:
            yield step
        finally:
            # By itself: shards may be alike.
            self.steps[:] = [other for other in self.steps if other is not step]
