"""Trials of a step on a machine of a cluster: one job measures them all, as a step does, and writes their records.

The driver says what is wanted and under which IDs; the job needs the store and the shipped work tree, and no Marin.
Whatever the engine starts again goes on where the journal says that it was.
"""

import os
import secrets
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
from research_steps.records.model import Captured, Ref
from research_steps.terminal import say
from research_steps.trial.batch import Wanted, codes_of, measure_wanted
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


def refs_of(trials: Sequence[Trial]) -> list[TrialRef]:
    return [TrialRef(trial.stored.ref, trial.measured_here, trial.note) for trial in trials]


def trials_of(session: Session, refs: Sequence[TrialRef]) -> list[Trial]:
    """The trials that another process told of. One that is taken in place of measuring may be in the repository only."""
    trials = []
    for named in refs:
        try:
            stored = session.journal.load("trial", named.ref)
        except JournalProblem:
            stored = session.prior_results.trial(named.ref)
        trials.append(Trial(stored, named.measured_here, named.note))
    return trials


def work(
    begin: "partial[Session]",
    store_url: str,
    measured: Measured,
    id: str,
    wanted: Sequence[Wanted],
    answer: str,
    label: str,
    private: bool,
) -> None:
    """What the job does: `begin` the driver's session with what is this machine's own, measure, and leave in the object
    `answer` of the store what was measured. The import root of `measured` is relative to the work tree."""
    measured = replace(measured, root=str(Path.cwd() / measured.root))
    store, topic = open_store(store_url, AWAY_S), begin.keywords["series"].topic
    session = begin(
        journal=Journal(store, topic),
        host=LocalHost(_launcher()),
        repository=Path.cwd() / ".agents" / "logbooks" / topic,
        say=say,
    )
    codes = codes_of(session, measured)
    trials = measure_wanted(session, codes, measured.config_type, id, wanted, label, private)
    store.put(answer, msgspec.json.encode(refs_of(trials)))


def measure_elsewhere(
    session: Session,
    what: Measured,
    folder: str,
    id: str,
    wanted: Sequence[Wanted],
    dispatch: Callable[[Callable[[], None]], None],
    label: str,
    private: bool,
) -> list[Trial]:
    """The trials, measured by a job that `dispatch` has an engine run. `folder` of the store takes the job's answer.

    Raises UsageError where the job can't reach the store, or the work tree that it gets lacks the code.
    """
    store, tree = session.journal.store, Checkout.find().root
    what.code()
    if not Path(what.root).is_relative_to(tree):
        raise UsageError(
            f"The code of {what.name} lies in {what.root}: expected it below {tree}, which the workers get."
        )
    begin = partial(
        Session,
        series=session.series.without_secrets(),
        captured=Captured(session.captured.provenance, None),
        mode=session.mode,
        run=session.run,
        private=session.private,
        retry=session.retry,
        retracted=session.retracted,
        skip_known=session.skip_known,
    )
    # The case may be of any class, which the job need not know.
    measured = replace(what, root=str(Path(what.root).relative_to(tree)), case=None, resources=None)
    # Its own, because a job that was given up may still end.
    answer = f"{folder}/trials-{secrets.token_hex(8)}.json"
    dispatch(partial(work, begin, store.url, measured, id, wanted, answer, label, private))
    refs = store.read(answer)
    if refs is None:
        raise UsageError(
            f"The job of {id} ended and left nothing in {store.url}/{answer}: expected the workers to reach the same "
            "store as the driver; set MARIN_PREFIX to one that all machines share."
        )
    return trials_of(session, msgspec.json.decode(refs, type=list[TrialRef]))


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
