"""A record is read and decoded once: what a run, a look at a record, a note and a publisher's pass take from the store.

Each process counts for itself; those of the commands and of the run are forks of this one, and count with it.
"""

import os
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from research_steps.journal.experiment_ids import NoOthers
from research_steps.journal.journal import Journal
from research_steps.journal.store import LocalStore, open_store
from research_steps.publish.logbook.numbers import CheckoutNumbers
from research_steps.publish.publisher import publish
from research_steps.records import encoding
from research_steps.records.encoding import sha256
from research_steps.thread.surfaces import surfaces_of

from tests.support.records import trial
from tests.support.scratch_logbook import SERIES, Desk
from tests.support.toy_thread import Repository, research

# What is replaced while it lives: leases, notes of progress and of postings, and what the thread declares.
CHANGES = re.compile(r"/(leases|plans|postings)/|/series\.json$|/floor")


class Reads:
    """How often each process has read each object of a store, and decoded each record."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_CREAT | os.O_RDWR | os.O_APPEND)

    def add(self, what: str, name: str) -> None:
        os.write(self._file, f"{os.getpid()} {what} {name}\n".encode())

    def of(self, what: str) -> Counter[str]:
        """By process and name, since this was last asked; an object that isn't there was not read."""
        lines = os.pread(self._file, 1 << 24, 0).decode().splitlines()
        return Counter(line for line in lines if line.split()[1] == what)

    def clear(self) -> None:
        os.ftruncate(self._file, 0)


@pytest.fixture
def reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Reads:
    reads = Reads(tmp_path / "reads")
    read: Callable[[LocalStore, str], bytes | None] = LocalStore.read

    def counted(store: LocalStore, name: str) -> bytes | None:
        data = read(store, name)
        if data is not None:
            reads.add("read", name)
        return data

    class Decoder:
        def decode(self, line: bytes) -> Any:
            record = DECODER.decode(line)
            reads.add("decoded", f"{record.id}-{sha256(line)[:8]}")
            return record

    monkeypatch.setattr(LocalStore, "read", counted)
    monkeypatch.setattr(encoding, "_RECORD", Decoder())
    return reads


DECODER = encoding._RECORD


def check_once(reads: Reads) -> None:
    """Each process has read what never changes at most once, and decoded each record at most once."""
    twice = {line: count for line, count in reads.of("read").items() if count > 1 and not CHANGES.search(line)}
    assert twice == {}
    assert {line: count for line, count in reads.of("decoded").items() if count > 1} == {}


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "checkout")


def test_a_run_reads_and_decodes_each_record_once(repository: Repository, reads: Reads) -> None:
    """A whole thread: trials, tables made of them, an interpretation, and the passes of its publisher."""
    done = repository.run()
    assert done.code == 0, done.output
    check_once(reads)
    assert sum(reads.of("decoded").values()) <= 6
    reads.clear()
    assert repository.run().code == 0
    check_once(reads)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """A series with published steps, one of them from another store, and what dev mode measured; and another series."""
    desk = Desk.make(tmp_path / "work")
    desk.journal.declare(SERIES)
    for _ in range(4):
        desk.record(trials=2)
    assert desk.publish().problems == ()
    elsewhere = desk.with_store("elsewhere")
    assert elsewhere.record().record.id == "TOY-005"
    assert elsewhere.publish().problems == ()
    assert desk.journal.ids.reserve("TOY", "dev/loose", CheckoutNumbers(desk.checkout, "toy", "TOY")) == "TOY-006"
    for number in (1, 2):
        desk.journal.attempts.finish("trial", trial(series="toy", key=f"{number:064x}", id=f"TOY-006.0{number}"))
    other = Journal(desk.journal.store, "other")
    assert other.ids.reserve("OTHER", "step", NoOthers()) == "OTHER-001"
    for number in range(3):
        other.attempts.finish("trial", trial(series="other", key=f"{number + 9:064x}", id=f"OTHER-001.0{number}"))
    return desk


@pytest.mark.parametrize(("id", "trials"), [("TOY-002", 0), ("TOY-002.01", 1), ("TOY-006.02", 1), ("OTHER-001.02", 1)])
def test_showing_a_record_decodes_no_other_trial(desk: Desk, reads: Reads, id: str, trials: int) -> None:
    """Of its own series the entries are decoded, which say what came of it, and nothing of another series."""
    shown = research(desk.root, "show", id, "--prefix", str(desk.store))
    assert shown.returncode == 0 and shown.stdout.startswith(f"{id} "), shown.stdout + shown.stderr
    check_once(reads)
    decoded = [line.split()[2].rpartition("-")[0] for line in reads.of("decoded")]
    assert [name for name in decoded if "." in name] == [id] * trials
    topics = {line.split()[2].split("/")[1] for line in reads.of("read") if "/records/" in line}
    assert topics == {"toy" if id.startswith("TOY") else "other"}


def test_a_note_decodes_each_record_once(desk: Desk, reads: Reads) -> None:
    """What lies in the store and, published, in git is one record."""
    noted = research(desk.root, "note", "TOY-002.01", "--interpretation", "it is the cache", "--prefix", str(desk.store))
    assert noted.returncode == 0, noted.stdout + noted.stderr
    check_once(reads)
    decoded = reads.of("decoded")
    known = desk.journal.scan(desk.path.with_suffix(""))
    assert sum(decoded.values()) == len(known.entries) + len(known.trials)


def test_a_pass_of_the_publisher_decodes_only_what_is_new(desk: Desk, reads: Reads) -> None:
    """It reads the entries of the store once for all surfaces, and its next pass none of them again."""
    journal = Journal(open_store(str(desk.store)), SERIES.topic)
    surfaces = surfaces_of(desk.checkout, journal, SERIES)
    assert publish(journal, surfaces).problems == ()
    check_once(reads)
    reads.clear()
    stored = desk.record(trials=2)
    reads.clear()
    assert set(publish(journal, surfaces).ids) == {stored.record.id}
    assert sorted(line.split()[2].rpartition("-")[0] for line in reads.of("decoded")) == sorted(
        [stored.record.id, *(row.trial.id for row in stored.record.rows)]
    )
    check_once(reads)
