"""Records of a later version: named as newer, with what to install; left out, left as they are, and in nobody's way."""

import json
from pathlib import Path
from typing import Any

import pytest
from research_steps.errors import NewerObject, UnreadableObject
from research_steps.evidence.state import thread_state
from research_steps.journal.journal import Journal
from research_steps.journal.logbook_place import logbook_of
from research_steps.journal.store import open_store
from research_steps.publish.logbook.file import LogbookFile
from research_steps.records.encoding import canonical, decode, decode_record, sha256, store_record
from research_steps.records.objects import OBJECTS, Seal

from tests.support.records import entry, trial
from tests.support.scratch_logbook import SERIES, Desk
from tests.support.toy_thread import research

LATER = {"research-steps": "0.9.0"}


def plain(record: Any) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(store_record(record).line)
    return fields


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"schema": 3, "fidelity": 0.5}, "has schema 3, and this version reads up to 2"),
        ({"kind": "profile"}, "is a record of the kind 'profile'"),
        ({"step": "training"}, "is an entry of the kind 'training'"),
    ],
)
def test_what_is_newer_says_what_reads_it(changes: dict[str, Any], what: str) -> None:
    """By the version that wrote it, where it says that; it is never called broken."""
    fields = plain(entry())
    fields["provenance"]["packages"] = LATER
    with pytest.raises(
        NewerObject, match=r"is newer than this version: it .*install research-steps 0\.9\.0 or later"
    ) as told:
        decode_record(canonical({**fields, **changes}), "records/x.json")
    assert what in str(told.value) and "delete" not in str(told.value)


@pytest.mark.parametrize("kind", OBJECTS)
def test_each_kind_of_object_counts_its_own_schemas(kind: type) -> None:
    """What one kind came to hold makes no other newer."""
    with pytest.raises(NewerObject, match="has schema 7"):
        decode(kind, b'{"schema":7,"held_by":"somebody"}', "x.json")
    with pytest.raises(UnreadableObject, match="is not a record") as told:
        decode(kind, b'{"schema":1,"held_by":"somebody"}', "x.json")
    assert not isinstance(told.value, NewerObject)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """A series in which a later version has recorded a step of its own, with a trial."""
    desk = Desk.make(tmp_path)
    desk.journal.declare(SERIES)
    desk.record("before")
    folder = desk.store / "journal" / SERIES.topic
    measured = {**plain(trial(series="toy", id="TOY-009.01", key="f" * 64)), "schema": 6, "tokens": 10}
    step = {**plain(entry(series="toy", id="TOY-009", key="TOY-009", rows=())), "step": "training"}
    for name, fields in ((f"trials/records/{'f' * 64}-0.json", measured), ("entries/records/TOY-009-0.json", step)):
        (folder / name).write_bytes(canonical(fields) + b"\n")
    desk.record("after")
    return desk


def test_no_surface_is_stopped_by_it(desk: Desk) -> None:
    """The logbook, the issue and W&B take everything else; status and sync name it; nothing of it is touched."""
    files = {path: path.read_bytes() for path in (desk.store / "journal").rglob("records/*.json")}
    synced = research(desk.root, "sync", "toy", "--prefix", str(desk.store))
    assert synced.returncode == 0, synced.stderr
    assert synced.stderr.count("is newer than this version") >= 1
    text = desk.path.read_text()
    assert "before" in text and "after" in text and "TOY-009" not in text
    status = research(desk.root, "status", "toy", "--prefix", str(desk.store))
    assert status.stdout.count("  newer: ") == 2 and "  problem: " not in status.stdout
    verified = research(desk.root, "verify", "toy", "--prefix", str(desk.store))
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert {path: path.read_bytes() for path in files} == files


def test_the_state_leaves_it_out(desk: Desk) -> None:
    """What is not understood claims nothing."""
    known = Journal(open_store(str(desk.store)), "toy").scan()
    assert len(known.newer) == 2 and known.problems == []
    state = thread_state(SERIES, known)
    assert [stored.record.label for stored in state.entries] == ["before", "after"]


def test_a_logbook_that_a_later_version_wrote_verifies(desk: Desk) -> None:
    """Its entries are chained by their bytes, and what their records say is not judged."""
    later = plain(entry(series="toy", id="TOY-020", key="TOY-020", rows=()))
    line = canonical({**later, "step": "training"})
    desk.publish()
    (desk.path.with_suffix("") / "TOY-020.jsonl").write_bytes(
        line + b"\n" + canonical({"schema": 6, "kind": "trial"}) + b"\n"
    )
    logbook = LogbookFile(logbook_of(desk.checkout, "toy"))
    logbook.refresh()
    logbook.append("TOY-020", sha256(line), "### 2027-01-01 00:00 - TOY-020 a training run\n\n- Result: good")
    assert desk.problems() == []
    verified = research(desk.root, "verify", "toy", "--prefix", str(desk.store))
    assert verified.returncode == 0 and "newer than this version" in verified.stdout
    assert research(desk.root, "sync", "toy", "--prefix", str(desk.store)).returncode == 0
    before = desk.path.read_bytes()
    desk.record("further")
    desk.publish()
    assert "further" in desk.path.read_text() and desk.path.read_bytes().count(b"TOY-020 a training run") == 1
    assert before.partition(b"## Experiment Log")[2].rstrip() in desk.path.read_bytes()


def test_a_newer_seal_is_none_of_this_version(desk: Desk) -> None:
    """What was decided by a later version is not decided again."""
    desk.journal.store.put("journal/toy/seals/TOY-001.json", b'{"schema":3}\n')
    with pytest.raises(NewerObject):
        Journal(open_store(str(desk.store)), "toy").decided("seals/TOY-001", Seal)


def test_a_series_that_a_later_version_declared_is_read(desk: Desk) -> None:
    """What it asks of kinds of steps that are not known here is for the version that knows them."""
    path = desk.store / "journal" / "toy" / "series.json"
    fields = json.loads(path.read_text())
    path.write_text(json.dumps({**fields, "milestones": ["baseline", "training"], "over": ["seed", [0, 1]]}))
    series = Journal(open_store(str(desk.store)), "toy").series()
    assert series.milestones == ("baseline",) and series.topic == SERIES.topic
