"""Marin's locks that a run waits for: whose they are is told, and those of drivers that are gone are released.

Marin dates a lock by its holder's clock and gives it up 90 s later by that of whoever waits. Where these two clocks are
far apart, nobody would for as long. Here its age is told by the store, as that of a lease.
"""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

from research_steps.errors import StoreError
from research_steps.journal.journal import Journal
from research_steps.thread.marin.outputs import StepLock, lock_of, release
from research_steps.thread.marin.protocols import Plan
from research_steps.thread.types import Step

# How often is told who is waited for (seconds).
EVERY_S = 15.0
# Marin's own numbers: a lock that wasn't refreshed for so long is given up, and one that is held is refreshed each 30 s.
STALE = timedelta(seconds=90)
ALIVE = timedelta(seconds=45)


class _Held(NamedTuple):
    """A lock that somebody else has, when it was refreshed, and how long ago that is."""

    step: str
    lock: StepLock
    written: datetime
    age: timedelta


@dataclass
class LockWatch:
    """Looks at the locks of the steps of one plan while it runs. `say` prints one line for a person."""

    journal: Journal
    plan: Plan
    say: Callable[[str], None]
    _began: datetime = field(init=False)
    _seen: dict[str, datetime] = field(default_factory=dict)
    _refreshed: set[str] = field(default_factory=set)
    _doubted: dict[str, datetime] = field(default_factory=dict)
    _problems: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._began = self.journal.leases.now()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch inside the block."""
        over = threading.Event()
        watch = threading.Thread(target=self._watch, args=[over], daemon=True, name="research-lock-watch")
        watch.start()
        try:
            yield
        finally:
            over.set()

    def _watch(self, over: threading.Event) -> None:
        wait_s = 0.0
        while not over.wait(wait_s):
            try:
                wait_s = self._look()
            except StoreError as error:
                # Marin waits by itself; a store that is away is told once.
                wait_s = EVERY_S
                if str(error) not in self._problems:
                    self._problems.add(str(error))
                    self.say(f"whose locks the steps have could not be seen: {error}")

    def _look(self) -> float:
        """Tell and release what is to be; returns after how long to look again (seconds)."""
        waited_for = []
        for step in self.plan.steps:
            held = self._held(step)
            if held is None:
                continue
            if held.age > STALE:
                release(held.lock)
                continue
            path = held.lock.path
            if held.written > self._seen.setdefault(path, held.written):
                # That its driver is there was told before.
                self._refreshed.add(path)
            if path not in self._refreshed or held.age > ALIVE:
                waited_for.append(held)
        if not waited_for:
            return EVERY_S
        names = [held.step for held in waited_for]
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        holders = ", ".join(sorted({held.lock.holder for held in waited_for}))
        left = [(STALE - held.age).total_seconds() for held in waited_for]
        self.say(
            f"another driver has {shown} (Marin's lock of {holders}): waiting for it; if it is gone, for "
            f"{max(left):.0f} more seconds at most"
        )
        return min(EVERY_S, min(left) + 1)

    def _held(self, step: Step) -> _Held | None:
        """The lock that another driver has of a step, which keeps this one waiting; None where there is none."""
        lock = lock_of(self.journal.store, self.plan.output_path(step))
        if lock is None:
            return None
        written, age = self.journal.store.written(lock.name), self.journal.leases.age(lock.name)
        if written is None or age is None:
            return None
        # It is this process's own by its name, unless nobody refreshes it: threads of two processes may have one name.
        # Right after this process was stopped for long, its own was not refreshed either.
        is_own = written >= self._began and lock.holder in _workers()
        if is_own and (age <= STALE or self._doubted.get(lock.path) != written):
            self._doubted[lock.path] = written
            return None
        return _Held(step.name, lock, written, age)


def _workers() -> set[str]:
    """What Marin calls the threads of this process."""
    return {f"{os.uname().nodename}-{thread.ident}" for thread in threading.enumerate()}
