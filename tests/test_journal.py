"""The journal: attempts, leases, standing and late records, claimed IDs; on local disk and on S3 over real HTTP."""

import multiprocessing
import os
import signal
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from research_steps import journal as journal_module
from research_steps.errors import JournalProblem, UnreadableObject
from research_steps.journal import Journal, OpenAttempt
from research_steps.record import EntryRecord, InterruptedRecord, Stored, TrialRecord, store_record
from research_steps.store import open_store

from tests import records

KEY = "a" * 64
SPAWN = multiprocessing.get_context("spawn")


def open_journal(url: str) -> Journal:
    return Journal(open_store(url), "moe_hc")


def begin(journal: Journal, key: str = KEY, attempt: int = 0, subject: Any = "trial", id: str = "MOE-HC-001") -> Any:
    return journal.begin(subject, key, attempt, id=id, label="a trial", config={"work": 1})


def trial(key: str = KEY, attempt: int = 0, **changes: Any) -> TrialRecord:
    return records.trial(key=key, attempt=attempt, **changes)


def test_an_attempt_is_open_then_ended(store_url: str) -> None:
    """The intent is there before the work, the record after it, and the record read back is the one that was written."""
    journal = open_journal(store_url)
    with begin(journal) as begun:
        assert begun
        (attempt,) = open_journal(store_url).attempts("trial", KEY)
        assert isinstance(attempt, OpenAttempt) and not attempt.orphaned()
        stored = journal.finish("trial", trial())
    (ended,) = open_journal(store_url).attempts("trial", KEY)
    assert isinstance(ended, Stored) and ended.sha256 == stored.sha256
    found = open_journal(store_url).scan()
    assert (list(found.trials), found.open, found.problems) == ([stored.sha256], [], [])


def test_the_same_attempt_can_be_begun_once(store_url: str) -> None:
    """A second process that wants it is told that it was taken."""
    with begin(open_journal(store_url)) as first, begin(open_journal(store_url)) as second:
        assert (first, second) == (True, False)


def test_of_two_ends_the_first_stands_and_the_other_is_late(store_url: str) -> None:
    """A node that was given up and comes back with a result loses nothing and replaces nothing."""
    journal = open_journal(store_url)
    with begin(journal):
        pass
    (attempt,) = journal.attempts("trial", KEY)
    assert isinstance(attempt, OpenAttempt)
    standing = journal.interrupt(attempt, "its lease ran out")
    late = journal.finish("trial", trial())
    assert late.record.late and not standing.record.late
    (found,) = journal.attempts("trial", KEY)
    assert isinstance(found, Stored) and isinstance(found.record, InterruptedRecord)
    again = journal.finish("trial", trial())
    assert again.sha256 == late.sha256
    assert len(open_journal(store_url).scan().trials) == 1
    assert journal.interrupt(attempt, "twice").sha256 == standing.sha256


def _race(url: str, number: int, barrier: Any) -> None:
    journal = open_journal(url)
    barrier.wait()
    for step in range(5):
        key = f"{step:064d}"
        with begin(journal, key) as begun:
            if begun:
                journal.finish("trial", trial(key, label=f"by {number}"))
        journal.claim("MOE-HC", f"process-{number}/step-{step}", ())
        journal.claim("MOE-HC", f"shared/step-{step}", ())


def test_processes_that_race_begin_each_attempt_once_and_share_no_number(store_url: str) -> None:
    """Eight processes at once: one record for each trial, one ID for each step, and no gap in the numbers."""
    barrier = SPAWN.Barrier(8)
    processes = [SPAWN.Process(target=_race, args=(store_url, number, barrier)) for number in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 8
    journal = open_journal(store_url)
    found = journal.scan()
    assert sorted(stored.record.key for stored in found.trials.values()) == [f"{step:064d}" for step in range(5)]
    assert (found.open, found.problems) == ([], [])
    claims = journal.claims()
    assert [claim.number for claim in claims] == list(range(1, 46))
    assert set(Counter(claim.step_key for claim in claims).values()) == {1}


def _hold(url: str, begun: Any) -> None:
    with begin(open_journal(url)):
        begun.set()
        time.sleep(60)


def test_a_killed_owner_is_orphaned_at_once_on_its_machine_and_the_next_attempt_begins(store_url: str) -> None:
    """Whoever comes next ends the attempt as interrupted and gets the number after it."""
    begun = SPAWN.Event()
    process = SPAWN.Process(target=_hold, args=(store_url, begun))
    process.start()
    assert begun.wait(60)
    journal = open_journal(store_url)
    (attempt,) = journal.scan().open
    assert not attempt.orphaned()
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert attempt.orphaned()
    said: list[str] = []
    assert journal.next_attempt("trial", KEY, lambda stored: stored.record.status == "ok", said.append) == 1
    (ended,) = journal.attempts("trial", KEY)
    assert isinstance(ended, Stored) and ended.record.status == "interrupted"
    assert journal.scan().open == []


def test_a_lease_that_is_renewed_is_respected_and_one_that_ran_out_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An owner on another machine counts as there for as long as it renews, and no longer."""
    monkeypatch.setattr(journal_module, "LEASE_S", 1.2)
    journal = open_journal(str(tmp_path))
    with begin(journal):
        monkeypatch.setattr(journal_module, "machine", lambda: "another machine")
        time.sleep(2.0)
        (attempt,) = open_journal(str(tmp_path)).scan().open
        assert not attempt.orphaned()
    time.sleep(1.6)
    (attempt,) = open_journal(str(tmp_path)).scan().open
    assert attempt.orphaned()


def test_somebody_who_is_at_it_is_waited_for(store_url: str) -> None:
    """The second one to want a trial gets the first one's record, and is told whom it waits for."""
    journal = open_journal(store_url)
    said: list[str] = []
    with begin(journal):
        later = threading.Timer(1.0, lambda: journal.finish("trial", trial()))
        later.start()
        found = open_journal(store_url).next_attempt("trial", KEY, lambda stored: True, said.append)
        later.join()
    assert isinstance(found, Stored) and found.record.status == "ok"
    assert len(said) == 1 and f"waiting for process {os.getpid()}" in said[0]


def test_a_step_keeps_its_id_until_it_has_ended(store_url: str) -> None:
    """Unfinished it gets the same ID again; ended, the next run of the step gets a new one."""
    journal = open_journal(store_url)
    assert journal.claim("MOE-HC", "toy/one", (41,)) == "MOE-HC-042"
    assert journal.claim("MOE-HC", "toy/two", ()) == "MOE-HC-043"
    assert open_journal(store_url).claim("MOE-HC", "toy/one", ()) == "MOE-HC-042"
    assert journal.latest_entry("toy/one") is None
    with begin(journal, "MOE-HC-042", subject="entry"):
        made = records.entry(key="MOE-HC-042", id="MOE-HC-042", step_key="toy/one", attempt=0)
        stored = journal.finish("entry", made)
    held = journal.latest_entry("toy/one")
    assert held is not None and isinstance(held.record, EntryRecord) and held.sha256 == stored.sha256
    assert journal.claim("MOE-HC", "toy/one", ()) == "MOE-HC-044"
    assert journal.latest_entry("toy/one") is None


@pytest.mark.parametrize("content", [b'{"schema":99,"kind":"trial"}\n', b"{broken", b""])
def test_an_object_that_can_not_be_read_is_told_kept_and_passed_over(store_url: str, content: bytes) -> None:
    """A newer schema or broken bytes where a record should be: the next attempt begins, nothing is overwritten."""
    journal = open_journal(store_url)
    with begin(journal):
        pass
    name = f"journal/moe_hc/trials/records/{KEY}-0.json"
    assert journal.store.create(name, content)
    (attempt,) = journal.attempts("trial", KEY)
    assert isinstance(attempt, UnreadableObject)
    said: list[str] = []
    assert journal.next_attempt("trial", KEY, lambda stored: True, said.append) == 1
    assert len(said) == 1 and name in said[0]
    assert journal.store.read(name) == content
    (problem,) = journal.scan().problems
    assert name in problem


def test_a_record_that_was_changed_is_not_taken_for_the_one_that_is_named(tmp_path: Path) -> None:
    """What a reference names is checked by its hash; gone or changed is told with the object's name."""
    journal = open_journal(str(tmp_path))
    with begin(journal):
        stored = journal.finish("trial", trial())
    path = tmp_path / "journal" / "moe_hc" / "trials" / "records" / f"{KEY}-0.json"
    path.write_bytes(path.read_bytes().replace(b'"replicate":0', b'"replicate":1'))
    with pytest.raises(JournalProblem, match="it was changed after it was written"):
        journal.load("trial", stored.ref)
    path.unlink()
    with pytest.raises(JournalProblem, match="is gone"):
        journal.load("trial", stored.ref)


def test_scanning_joins_store_and_repository(tmp_path: Path) -> None:
    """A record that is in both is one; one that is only published is known without the store; bad lines are told."""
    journal = open_journal(str(tmp_path / "store"))
    with begin(journal):
        stored = journal.finish("trial", trial())
    published = tmp_path / "published"
    published.mkdir()
    line = store_record(trial("b" * 64)).line
    (published / "MOE-HC-002.jsonl").write_bytes(stored.line + b"\n" + line + b"\nnot a record\n")
    found = journal.scan(published)
    assert len(found.trials) == 2
    (problem,) = found.problems
    assert "MOE-HC-002.jsonl:3" in problem
