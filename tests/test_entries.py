"""The one way in which an entry comes about, for steps, people and agents: once for each step key, whoever ends it."""

import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from research_steps import Metric, Series
from research_steps.journal.entries import About, Finding, write_entry
from research_steps.journal.experiment_ids import NoOthers
from research_steps.journal.journal import Journal
from research_steps.journal.snapshot import OpenAttempt
from research_steps.journal.store import open_store
from research_steps.records.encoding import Stored
from research_steps.records.model import Captured, EntryRecord, InterruptedRecord
from research_steps.records.step_kinds import Details

from tests.support.records import PROVENANCE

# A driver at the entry, whose lease is short; it goes on when it is told to, and ends by Ctrl-C as a run does.
DRIVER = """
import signal, sys
from research_steps.journal import leases
from pathlib import Path
from research_steps.journal.entries import About, Finding
from research_steps.journal.journal import Journal
from research_steps.journal.store import open_store
from research_steps.records.model import Captured
from research_steps.records.step_kinds import Details
from research_steps.thread.step_body import record_step
from research_steps.trial.context import Session
from tests.support.records import PROVENANCE
from tests.support.scratch_logbook import SERIES
leases.LEASE_S = 1.0
signal.signal(signal.SIGINT, signal.default_int_handler)
def body(id):
    print("began", flush=True)
    sys.stdin.readline()
    return Finding(sys.argv[2])
journal = Journal(open_store(sys.argv[1]), "toy")
session = Session(SERIES, journal, None, Captured(PROVENANCE, None), Path(sys.argv[1]), say=lambda line: None)
entry = record_step(session, About("note", "note/1", "a note", "", Details()), body)
print(entry.record.result, entry.record.attempt, entry.record.late, flush=True)
"""
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


def test_who_was_slower_gets_what_the_other_one_wrote(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same command twice at once: one asks whether there is an entry, and the other one finishes it before the first
    takes an ID for it."""
    latest, written = journal.ids.latest_entry, list[Stored[EntryRecord]]()

    def and_then(step_key: str) -> Stored[EntryRecord] | None:
        seen = latest(step_key)
        if not written:
            monkeypatch.setattr(journal.ids, "latest_entry", latest)
            written.append(write(journal, "the other one"))
        return seen

    monkeypatch.setattr(journal.ids, "latest_entry", and_then)
    assert write(journal, "the slower one").sha256 == written[0].sha256
    assert [entry.record.result for entry in journal.entries().in_order] == ["the other one"]


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


def driver(journal: Journal, says: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, journal.store.url, says],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip


def test_a_driver_that_thaws_ends_no_attempt_but_its_own(journal: Journal) -> None:
    """It was frozen for longer than its lease, another one took over, and then it is ended by Ctrl-C: what the other one
    finishes stands, and later steps rest on that."""
    with driver(journal, "the first") as frozen:
        assert frozen.stdout is not None and frozen.stdout.readline() == "began\n"
        frozen.send_signal(signal.SIGSTOP)
        with driver(journal, "the second") as other:
            assert other.stdout is not None and other.stdout.readline() == "began\n"
            frozen.send_signal(signal.SIGCONT)
            # While it is stopped another of its threads may be given the signal, and it reads on.
            while frozen.poll() is None:
                frozen.send_signal(signal.SIGINT)
                with suppress(subprocess.TimeoutExpired):
                    frozen.wait(2)
            assert frozen.returncode != 0
            assert other.communicate("\n")[0] == "the second 1 False\n"
    states = [type(attempt.record) for attempt in journal.attempts.of("entry", "TOY-001") if isinstance(attempt, Stored)]
    assert states == [InterruptedRecord, EntryRecord]
    assert [entry.record.late for entry in journal.scan().entries.values()] == [False]
