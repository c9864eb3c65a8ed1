"""Trials of a step on a machine of a cluster: one job measures them all, as a step does, and writes their records.

The driver says what is wanted and under which IDs; the job needs the store and the shipped work tree, and no Marin.
Whatever the engine starts again goes on where the journal says that it was.
"""

import os
import secrets
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import msgspec

from research_steps.errors import JournalProblem, UsageError
from research_steps.evidence.table import Trial
from research_steps.git import Checkout
from research_steps.journal.journal import Journal
from research_steps.journal.store import AWAY_S, open_store
from research_steps.records.model import Captured, Mode, Provenance, Ref
from research_steps.records.series import Series
from research_steps.trial.batch import Wanted, measure_wanted
from research_steps.trial.context import Session
from research_steps.trial.launcher.host import LocalHost
from research_steps.trial.launcher.launcher import Launcher
from research_steps.trial.measured import Measured

# What an engine's worker keeps for its next job: the launcher, with the libraries that it has imported, and the
# environment that they were imported under.
_warm: tuple[Launcher, dict[str, str]] | None = None


class TrialRef(msgspec.Struct, frozen=True):
    """A trial as one process tells it to another."""

    ref: Ref
    measured_here: bool
    note: str


class TrialBatch(msgspec.Struct, frozen=True, kw_only=True):
    """What a job needs to know. `measured` names its import root relative to the work tree, and not the case; `answer`
    is the object in the store that holds what was measured."""

    series: Series
    store: str
    provenance: Provenance
    mode: Mode
    began: str
    private: bool
    retry: frozenset[str]
    retracted: frozenset[str]
    skip_known: bool
    id: str
    measured: Measured
    wanted: tuple[Wanted, ...]
    answer: str


def refs_of(trials: Sequence[Trial]) -> list[TrialRef]:
    return [TrialRef(trial.stored.ref, trial.measured_here, trial.note) for trial in trials]


def trials_of(session: Session, refs: Sequence[TrialRef]) -> list[Trial]:
    """The trials that another process told of. One that is taken in place of measuring may be in the repository only."""
    trials = []
    for named in refs:
        try:
            stored = session.journal.load("trial", named.ref)
        except JournalProblem:
            stored = session.known.trial(named.ref)
        trials.append(Trial(stored, named.measured_here, named.note))
    return trials


def work(order: bytes) -> None:
    """What the job does."""
    batch = msgspec.json.decode(order, type=TrialBatch)
    measured = replace(batch.measured, root=str(Path.cwd() / batch.measured.root))
    code = measured.code()
    store = open_store(batch.store, AWAY_S)
    session = Session(
        series=batch.series,
        journal=Journal(store, batch.series.topic),
        host=LocalHost(_launcher()),
        captured=Captured(batch.provenance, None),
        repository=Path.cwd() / ".agents" / "logbooks" / batch.series.topic,
        used_numbers=frozenset(),
        retry=batch.retry,
        say=_say,
        changed=lambda: None,
        mode=batch.mode,
        began=batch.began,
        private=batch.private,
        skip_known=batch.skip_known,
        retracted=batch.retracted,
    )
    trials = measure_wanted(session, code, measured.config_type, batch.id, batch.wanted)
    store.put(batch.answer, msgspec.json.encode(refs_of(trials)))


def measure_elsewhere(
    session: Session,
    what: Measured,
    folder: str,
    id: str,
    wanted: Sequence[Wanted],
    dispatch: Callable[[Callable[[], None]], None],
) -> list[Trial]:
    """The trials, measured by a job that `dispatch` has an engine run. `folder` of the store takes the job's answer.

    Raises UsageError where the job can't reach the store, or the work tree that it gets lacks the code.
    """
    store = session.journal.store
    what.code()
    order = TrialBatch(
        series=session.series.without_secrets(),
        store=store.url,
        provenance=session.captured.provenance,
        mode=session.mode,
        began=session.began,
        private=session.private,
        retry=session.retry,
        retracted=session.retracted,
        skip_known=session.skip_known,
        id=id,
        measured=replace(what, root=_in_the_work_tree(what), case=None, resources=None),
        wanted=tuple(wanted),
        # Its own, because a job that was given up may still end.
        answer=f"{folder}/trials-{secrets.token_hex(8)}.json",
    )
    dispatch(partial(work, msgspec.json.encode(order)))
    answer = store.read(order.answer)
    if answer is None:
        raise UsageError(
            f"The job of {id} ended and left nothing in {store.url}/{order.answer}: expected the workers to reach the "
            "same store as the driver; set MARIN_PREFIX to one that all machines share."
        )
    return trials_of(session, msgspec.json.decode(answer, type=list[TrialRef]))


def _in_the_work_tree(what: Measured) -> str:
    tree = Checkout.find().root
    try:
        return str(Path(what.root).relative_to(tree))
    except ValueError:
        raise UsageError(
            f"The code of {what.name} lies in {what.root}: expected it below {tree}, which the workers get."
        ) from None


def _launcher() -> Launcher:
    """The one that is warm, unless the engine has given this worker another accelerator since."""
    global _warm
    environment = dict(os.environ)
    if _warm is not None and _warm[1] != environment:
        _warm[0].close()
        _warm = None
    if _warm is None:
        _warm = (Launcher(), environment)
    return _warm[0]


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
