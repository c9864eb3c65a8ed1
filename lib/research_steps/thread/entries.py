"""The frame around every step: its experiment ID, its intent, its record, whatever happens inside.

A step that has its entry is not run again: the journal is asked before anything else, so a driver that was killed
between the entry and the executor's own status adds nothing when it is started again.
"""

from collections.abc import Callable
from pathlib import Path

from research_steps.errors import LauncherError, StoreError
from research_steps.journal.entries import About, Finding, finish_entry
from research_steps.journal.snapshot import OpenAttempt
from research_steps.records.encoding import Stored
from research_steps.records.model import EntryRecord
from research_steps.records.step_kinds import plain_details
from research_steps.records.times import utc
from research_steps.trial.context import Session
from research_steps.trial.provenance import describe_error


def run_entry(session: Session, about: About, body: Callable[[str], Finding]) -> Stored[EntryRecord]:
    """Run `body` with the step's experiment ID and record what comes of it.

    An exception of the body is recorded as the step's failure, then raised again.
    """
    if about.step_key not in session.redo:
        held = session.journal.ids.latest_entry(about.step_key)
        if held is not None and held.record.status == "ok":
            return held
    while True:
        id = session.journal.ids.reserve(session.series.prefix, about.step_key, session.used_numbers)
        attempt = session.journal.attempts.next("entry", id, lambda stored: True, session.say)
        if isinstance(attempt, Stored):
            if isinstance(attempt.record, EntryRecord):
                return Stored(attempt.record, attempt.line)
            attempt = attempt.record.attempt + 1
        with session.journal.attempts.begin(
            "entry", id, attempt, id=id, label=about.label, config=plain_details(about.details), private=about.private
        ) as begun:
            if begun:
                return _run(session, about, id, attempt, body)


def _run(session: Session, about: About, id: str, attempt: int, body: Callable[[str], Finding]) -> Stored[EntryRecord]:
    started = utc()
    try:
        finding = body(id)
    except (LauncherError, KeyboardInterrupt) as error:
        _interrupt(session, id, str(error) or "the run was stopped")
        raise
    except StoreError:
        # What could not be written can't be said to have failed: the attempt stays open and ends as orphaned.
        raise
    except Exception as error:
        failure = Finding(
            result=f"failed: {type(error).__name__}: {error}", error=describe_error(error, "step", Path.cwd())
        )
        _finish(session, about, id, attempt, started, failure)
        raise
    return _finish(session, about, id, attempt, started, finding)


def _finish(session: Session, about: About, id: str, attempt: int, started: str, found: Finding) -> Stored[EntryRecord]:
    stored = finish_entry(session.journal, session.captured, about, id, attempt, started, found)
    session.changed()
    if stored.record.late:
        standing = session.journal.ids.latest_entry(about.step_key)
        return standing if standing is not None else stored
    return stored


def _interrupt(session: Session, id: str, reason: str) -> None:
    match session.journal.attempts.of("entry", id):
        case [*_, OpenAttempt() as attempt]:
            session.journal.attempts.interrupt(attempt, reason)
