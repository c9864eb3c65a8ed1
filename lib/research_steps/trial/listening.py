"""Hears what a trial says while it runs, and passes on how far it is: to whoever watches the journal, and here."""

import math
import time
from contextlib import suppress

from research_steps.errors import StoreError
from research_steps.journal.progress import reached_at
from research_steps.records.objects import Intent
from research_steps.records.times import duration
from research_steps.trial.context import Session
from research_steps.trial.launcher.conversation import Hear
from research_steps.trial.launcher.protocol import Message, Progress, Silent

# How often it is noted in the journal how far a trial is, and how often that is said here (seconds).
NOTED_S, SAID_S = 15.0, 60.0


class Listening:
    """Hears one attempt, for `hear` too."""

    def __init__(self, session: Session, intent: Intent, hear: Hear) -> None:
        self._session, self._intent, self._hear = session, intent, hear
        self._noted = self._said = -math.inf

    def __call__(self, message: Message) -> None:
        id, session, now = self._intent.id, self._session, time.monotonic()
        match message:
            case Progress(reached):
                if now - self._noted >= NOTED_S:
                    self._noted = now
                    # Where the store is away, the next one is noted; the trial goes on.
                    with suppress(StoreError):
                        reached_at(session.journal, self._intent, reached.step, reached.of, str(reached))
                if now - self._said >= SAID_S and not session.board.is_drawn:
                    self._said = now
                    session.say(f"{id}: {reached}")
            case Silent(for_s, tail):
                last = f" Its last output: {tail.strip()}" if tail.strip() else ""
                session.say(
                    f"{id}: it has told and printed nothing for {duration(for_s)}, and goes on. If it hangs, end it; a "
                    f"time_limit_s of the series would.{last}"
                )
        self._hear(message)
