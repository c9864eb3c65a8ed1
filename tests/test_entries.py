"""The one way in which an entry comes about, for steps, people and agents: once for each step key, whoever ends it."""

from pathlib import Path

import pytest
from research_steps import Metric, Series
from research_steps.journal.entries import About, Finding, write_entry
from research_steps.journal.experiment_ids import NoOthers
from research_steps.journal.journal import Journal
from research_steps.journal.snapshot import OpenAttempt
from research_steps.journal.store import open_store
from research_steps.records.encoding import Stored
from research_steps.records.model import Captured, EntryRecord
from research_steps.records.step_kinds import Details

from tests.support.records import PROVENANCE

SERIES = Series(topic="toy", prefix="TOY", goal="see it once", metrics=[Metric("time_s")])
ABOUT = About("note", "note/1", "a note", "", Details())


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(open_store(str(tmp_path)), "toy")


def write(journal: Journal, text: str, end_first: bool = False, again: bool = False) -> Stored[EntryRecord]:
    """An entry that says this; `end_first` has somebody else end its first attempt before it does."""

    def body(id: str) -> Finding:
        match journal.attempts.of("entry", id):
            case [OpenAttempt() as attempt] if end_first:
                journal.attempts.interrupt(attempt, "given up by another machine")
        return Finding(text)

    return write_entry(
        journal, SERIES, Captured(PROVENANCE, None), NoOthers(), ABOUT, body, accept=lambda record: not again
    )


def test_what_is_said_twice_is_one_entry(journal: Journal) -> None:
    """The second one is told what the first one wrote."""
    first = write(journal, "first")
    assert write(journal, "second").sha256 == first.sha256
    assert (first.record.id, first.record.result) == ("TOY-001", "first")


def test_what_is_made_again_is_another_entry(journal: Journal) -> None:
    """Under an ID of its own; the earlier one stays as it was."""
    write(journal, "first")
    assert write(journal, "again", again=True).record.id == "TOY-002"
    assert [entry.record.result for entry in journal.entries().in_order] == ["first", "again"]


def test_an_entry_that_ends_too_late_is_tried_again(journal: Journal) -> None:
    """What others rest on has to be loaded: the late record is kept, and the next attempt stands."""
    written = write(journal, "after all", end_first=True)
    assert (written.record.id, written.record.attempt, written.record.late) == ("TOY-001", 1, False)
    assert journal.load("entry", written.ref).record.result == "after all"
    late = [entry.record for entry in journal.scan().entries.values() if entry.record.late]
    assert [(record.attempt, record.result) for record in late] == [(0, "after all")]
