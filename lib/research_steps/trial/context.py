"""What the steps of one run share: the series, the journal, the machine, and who runs it from where.

The driver sets it around the executor; steps that run inside the driver find it there.
"""

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from research_steps.errors import UsageError
from research_steps.evidence.hypotheses import queue, spelled_out
from research_steps.journal.experiment_ids import NoOthers, OtherNumbers
from research_steps.journal.journal import Journal
from research_steps.journal.snapshot import entries_of
from research_steps.records.model import Captured, Mode
from research_steps.records.series import Series
from research_steps.trial.board import Board
from research_steps.trial.launcher.host import Host
from research_steps.trial.launcher.step_process import StepProcesses
from research_steps.trial.prior_results import PriorResults


@dataclass
class Session:
    """`retry` names the outcomes that are measured again, `redo` the steps that this clears. `numbers` tells the
    experiment numbers that are taken outside the store, `repository` is the folder of published records. `skip_known`
    takes what was tried before in place of measuring it, `force` lets an interaction take axes that were not swept.
    `say` prints one line for a person, the `board` holds how far its steps are, `processes` are those of Marin's own
    steps; `changed` wakes the publisher."""

    series: Series
    journal: Journal
    host: Host
    captured: Captured
    repository: Path
    say: Callable[[str], None]
    changed: Callable[[], None] = lambda: None
    board: Board = field(default_factory=Board)
    processes: StepProcesses = field(default_factory=StepProcesses)
    numbers: OtherNumbers = field(default_factory=NoOthers)
    retry: frozenset[str] = frozenset()
    mode: Mode = "executor"
    private: bool = False
    skip_known: bool = False
    force: bool = False
    redo: frozenset[str] = frozenset()
    retracted: frozenset[str] = frozenset()
    """Hashes of the records that count no more: what rests on them is done again."""
    shard_of: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Output path of a shard to the key of its sweep, whose experiment ID labels its trials, and to its label."""
    choices: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """The candidates of a table from best to worst, by its label, where what was sealed is measured again: then the same
    ones are taken further."""
    run: str = field(default_factory=lambda: secrets.token_hex(8))
    """What tells the attempts of this run, on all its machines, from others': a retry measures again what others have
    measured, once."""
    seen_open: dict[str, int] = field(default_factory=dict)
    """Key of a trial to the number of its attempt that somebody was at when this run looked: that and what came after
    it were measured meanwhile."""

    @cached_property
    def prior_results(self) -> PriorResults:
        """What the series knew of its configurations when this run first asked."""
        return PriorResults(self.series, self.journal.scan(self.repository))

    def hypothesis(self, text: str) -> str:
        """A hypothesis in full, when the queue holds it."""
        if not text:
            return ""
        return spelled_out(queue(self.series, entries_of(self.journal.published(self.repository))), text)


# Names a file that holds the choices of a sealed run, as JSON.
CHOICES = "RESEARCH_CHOICES"
_session: ContextVar[Session] = ContextVar("research_session")


def current() -> Session:
    """The session that this step runs in. Raises UsageError outside of one."""
    try:
        return _session.get()
    except LookupError:
        raise UsageError(
            "A research step was started outside a research run, so there is no journal to record it in: run the "
            "thread with research_steps.main(series, thread) in place of executor_main."
        ) from None


@contextmanager
def use(session: Session) -> Iterator[None]:
    token = _session.set(session)
    try:
        yield
    finally:
        _session.reset(token)
