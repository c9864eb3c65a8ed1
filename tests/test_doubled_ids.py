"""One ID used twice, by two people on two branches with a store each: each record can be named, and each seal pushed."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from research_steps.journal.journal import Journal
from research_steps.journal.store import open_store

from tests.support.scratch_logbook import SERIES
from tests.support.sealed_logbook import SealedDesk
from tests.support.toy_thread import research


def told(desk: SealedDesk, *arguments: str) -> tuple[int, str]:
    done = research(desk.root, *arguments, "--prefix", str(desk.store))
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def merged(tmp_path: Path) -> SealedDesk:
    """A logbook in which two entries, with a trial each, have the ID TOY-001."""
    desk = SealedDesk.make(tmp_path)
    other = desk.with_store("other")
    desk.git("switch", "--quiet", "--create", "theirs")
    other.measured("theirs")
    assert other.publish().problems == ()
    desk.commit()
    desk.git("switch", "--quiet", "main")
    desk.measured("mine")
    assert desk.publish().problems == ()
    Journal(open_store(str(desk.store)), "toy").declare(SERIES)
    desk.commit()
    desk.merge("theirs")
    assert desk.sync()[1].problems == ()
    desk.commit("merge")
    assert desk.ids == ["TOY-001", "TOY-001"]
    return desk


COMMANDS = [
    ("note", "ID", "--interpretation", "as I thought"),
    ("correct", "ID", "the unit was ms"),
    ("decide", "toy", "keep it", "--evidence", "ID"),
    ("hypothesis", "add", "toy", "ID says it all", "--evidence", "ID"),
    ("attach", "ID", "--link", "https://example.org/plot"),
    ("seal", "toy", "ID"),
    ("retract", "ID", "it was disturbed"),
]


@pytest.mark.parametrize("command", COMMANDS, ids=[command[0] for command in COMMANDS])
def test_each_of_two_is_named_by_its_hash(merged: SealedDesk, command: Sequence[str]) -> None:
    """Refused by the ID alone, with the two names that are accepted; and the entry rests on the one that was named."""
    code, output = told(merged, *(word.replace("ID", "TOY-001") for word in command))
    names = re.findall(r"TOY-001@[0-9a-f]{12}", output)
    assert code == 1 and len({*names}) == 2 and "(mine)" in output and "(theirs)" in output, output
    for name in names:
        code, output = told(merged, *(word.replace("ID", name) for word in command), "--json")
        assert code == 0, output
        entry = json.loads(told(merged, "show", json.loads(output)["entry"], "--json")[1])[0]
        assert entry["inputs"][0]["sha256"].startswith(name.partition("@")[2])


def test_what_reads_takes_a_hash_too(merged: SealedDesk) -> None:
    """The whole hash, as 'show' prints it, or its first digits; another hash names nothing."""
    data = json.loads(told(merged, "show", "TOY-001", "--json")[1])
    (mine,) = (entry["sha256"] for entry in data if entry.get("label") == "mine")
    shown = json.loads(told(merged, "show", f"TOY-001@{mine}", "--json")[1])
    assert [entry["sha256"] for entry in shown] == [mine]
    trials = [trial["sha256"] for trial in json.loads(told(merged, "show", "TOY-001.01", "--json")[1])]
    assert len(trials) == 2
    first, second = (f"TOY-001.01@{sha[:8]}" for sha in trials)
    assert told(merged, "compare", first, second)[0] == 0
    code, output = told(merged, "compare", "TOY-001.01", second)
    assert code == 1 and first.partition("@")[2] in output
    assert told(merged, "show", first, "--patch")[0] == 0
    code, output = told(merged, "show", "TOY-001@0000")
    assert code == 1 and "No record has the ID 'TOY-001@0000'" in output


def test_verify_names_an_id_that_two_stores_used(merged: SealedDesk) -> None:
    """As a note: both records are whole, and each is told by its hash."""
    checked = merged.checked()
    assert checked.problems == ()
    assert [note for note in checked.notes if note.startswith("TOY-001 is the ID of 2 entries")], checked.notes


def test_the_second_tag_of_one_name_gets_another(tmp_path: Path) -> None:
    """The remote has the first one's. What is told to do seals the second under an ID of its own, which is pushed."""
    desk = SealedDesk.make(tmp_path)
    desk.git("init", "--quiet", "--bare", str(tmp_path / "remote"))
    desk.git("remote", "add", "origin", str(tmp_path / "remote"))
    desk.git("config", "research.push", "true")
    clone = desk.clone(tmp_path / "clone").with_store("other")
    clone.git("remote", "set-url", "origin", str(tmp_path / "remote"))
    clone.git("config", "research.push", "true")
    for one in (desk, clone):
        Journal(open_store(str(one.store)), "toy").declare(SERIES)
        one.measured(str(one.root.name))
        one.publish()
    assert told(desk, "seal", "toy", "TOY-001")[0] == 0
    code, output = told(clone, "seal", "toy", "TOY-001")
    assert code == 1 and "TOY-002 is not pushed: its tag toy/TOY-002 is made here, and" in output, output
    assert "has another one of that name" in output
    (seal,) = re.findall(r"research retract (\S+)", output)
    assert told(clone, "retract", seal, "the name is taken")[0] == 0
    code, output = told(clone, "seal", "toy", "TOY-001")
    assert code == 0 and "pushed toy/TOY-004" in output, output
    there = clone.git("ls-remote", "--tags", "--refs", "origin").split()[1::2]
    assert there == ["refs/tags/toy/TOY-002", "refs/tags/toy/TOY-004"]


def test_a_tag_named_like_the_topic_is_told(merged: SealedDesk) -> None:
    """In a sentence that says what to do, before anything is recorded."""
    merged.git("tag", "toy")
    name = f"TOY-001@{json.loads(told(merged, 'show', 'TOY-001', '--json')[1])[0]['sha256'][:12]}"
    code, output = told(merged, "seal", "toy", name)
    assert code == 1 and "has a tag named toy, which leaves git no room for toy/TOY-…: rename it with" in output
    merged.git("tag", "renamed", "toy")
    merged.git("tag", "--delete", "toy")
    assert told(merged, "seal", "toy", name)[0] == 0
