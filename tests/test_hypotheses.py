"""The hypothesis queue, as people and agents change it with the command, and as it is folded from records."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from research_steps.evidence.hypotheses import SAYS, Item, find, kind_of, next_number, queue
from research_steps.publish import rendering
from research_steps.publish.markdown import prose
from research_steps.records.model import EntryRecord
from research_steps.records.series import Hypothesis, Series
from research_steps.records.step_kinds import HypothesisChange

from tests.support.clocks import faked
from tests.support.hostile_text import flat, markdown, recorded
from tests.support.scratch_logbook import SERIES, Desk, entry
from tests.support.toy_thread import RESEARCH, Repository, research, started


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """A checkout whose series has started with H1; TOY-001 is its kickoff."""
    return started(tmp_path / "checkout")


def hypothesis(repository: Repository, *arguments: str) -> "subprocess.CompletedProcess[str]":
    done = research(repository.root, "hypothesis", *arguments)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def test_a_later_decision_counts_whatever_clock_it_was_made_by(repository: Repository) -> None:
    """One whose machine's clock was two minutes, or two days, ahead is undone by what is decided after it."""
    for number, clock in enumerate(("+120s", "+2d"), 2):
        assert hypothesis(repository, "add", "toy", f"dense wins {number}").returncode == 0
        first = ["hypothesis", "promote", "toy", f"H{number}", "--decision", "ship", "--evidence", "TOY-001"]
        env = {**os.environ, "WANDB_MODE": "disabled", **faked(clock)}
        subprocess.run([*RESEARCH, *first], cwd=repository.root, env=env, check=True, capture_output=True)
        assert listed(repository)[-1]["state"] == "promoted"
        last = ["falsify", "toy", f"H{number}", "--because", "it takes more", "--evidence", "TOY-001"]
        assert hypothesis(repository, *last).returncode == 0
        assert listed(repository)[-1]["state"] == "falsified"
        assert f"- H{number} (falsified)" in repository.logbook.partition("## Hypothesis queue")[2]
    assert research(repository.root, "verify", "toy").returncode == 0


def listed(repository: Repository, *arguments: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(hypothesis(repository, "list", "toy", "--json", *arguments).stdout)
    return rows


def living_queue(repository: Repository) -> list[str]:
    return repository.logbook.partition("## Hypothesis queue\n")[2].partition("\n\n")[0].splitlines()


def test_a_hypothesis_goes_through_its_states(repository: Repository) -> None:
    """Added, blocked, promoted, and the declared one falsified: the queue, the logbook and the issue say each state with
    its condition, and link what it rests on."""
    assert hypothesis(repository, "add", "toy", "dense wins", "--next-test", "run it").returncode == 0
    assert living_queue(repository)[1] == (
        "- H2 (active): dense wins – next test: run it ([TOY-002](toy/TOY-002.jsonl))"
    )
    blocked = hypothesis(repository, "block", "toy", "H2", "--resume-when", "a TPU is free", "--evidence", "TOY-001")
    assert blocked.stdout.startswith("TOY-003: H2 blocked")
    assert hypothesis(repository, "promote", "toy", "H2", "--decision", "ship", "--evidence", "TOY-003").returncode == 0
    done = hypothesis(repository, "falsify", "toy", "H1", "--because", "it takes more", "--evidence", "TOY-002")
    assert done.returncode == 0

    assert [(row["id"], row["state"], row["because"], row["evidence"], row["entry"]) for row in listed(repository)] == [
        ("H1", "falsified", "it takes more", ["TOY-002"], "TOY-005"),
        ("H2", "promoted", "ship", ["TOY-001", "TOY-003"], "TOY-004"),
    ]
    assert living_queue(repository) == [
        "- H2 (promoted): dense wins – production decision: ship "
        "([TOY-004](toy/TOY-004.jsonl), rests on [TOY-001](toy/TOY-001.jsonl), [TOY-003](toy/TOY-003.jsonl))",
        "- H1 (falsified): less work takes less time – stopped because: it takes more "
        "([TOY-005](toy/TOY-005.jsonl), rests on [TOY-002](toy/TOY-002.jsonl))",
    ]
    issue = (repository.root / ".agents" / "issues" / "toy.md").read_text()
    section = issue.partition("## Hypothesis queue\n\n")[2].partition("\n<!--")[0]
    assert section.splitlines()[0].endswith("production decision: ship (TOY-004, rests on TOY-001, TOY-003)")
    assert research(repository.root, "verify", "toy").returncode == 0


def test_a_hypothesis_has_a_next_test_and_goes_on(repository: Repository) -> None:
    """A declared one gets its next test; a blocked one is resumed with one; each said twice is one; and it is supported
    in the end."""
    said = {
        "next": ("next", "toy", "H1", "time the loop"),
        "block": ("block", "toy", "H1", "--resume-when", "a TPU is free"),
        "resume": ("resume", "toy", "H1", "time it on the TPU"),
        "support": ("support", "toy", "H1", "--because", "half the time", "--evidence", "TOY-001"),
    }
    states = []
    for arguments in said.values():
        for _ in range(2):
            assert hypothesis(repository, *arguments).returncode == 0
        (row,) = listed(repository)
        states.append((row["state"], row["because"], row["entry"]))
    assert states == [
        ("active", "time the loop", "TOY-002"), ("blocked", "a TPU is free", "TOY-003"),
        ("active", "time it on the TPU", "TOY-004"), ("supported", "half the time", "TOY-005"),
    ]  # fmt: skip
    assert living_queue(repository)[0].startswith(
        "- H1 (supported): less work takes less time – supported because: half the time ([TOY-005]"
    )
    told = hypothesis(repository, "next", "toy", "H1", "once more")
    assert told.returncode == 1 and "H1 is supported, expected one that is active" in told.stderr
    assert research(repository.root, "verify", "toy").returncode == 0


def test_steps_that_name_a_hypothesis_are_its_evidence(repository: Repository) -> None:
    """In full, or by an ID whose words changed since; without what was retracted, and of a declared one too."""
    desk = Desk(repository.root, repository.root / "local_store")
    for spelled in ("H1: less work takes less time", "H1: in words of before", "H2: of somebody else", "H1", ""):
        desk.record("a sweep", trials=0, hypothesis=spelled)
    assert listed(repository)[0]["evidence"] == ["TOY-002", "TOY-003", "TOY-005"]
    assert research(repository.root, "retract", "TOY-003", "the wrong machine").returncode == 0
    assert listed(repository)[0]["evidence"] == ["TOY-002", "TOY-005"]
    assert living_queue(repository)[0].endswith("(rests on [TOY-002](toy/TOY-002.jsonl), [TOY-005](toy/TOY-005.jsonl))")
    (state,) = json.loads(research(repository.root, "status", "toy", "--json").stdout)
    assert state["state"]["hypotheses"][0]["evidence"] == ["TOY-002", "TOY-005"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("block", "toy", "H7", "--resume-when", "x"), "no hypothesis 'H7' in the queue: expected one of those"),
        (("falsify", "toy", "H1", "--because", "x", "--evidence", "TOY-009"), "'TOY-009' is no record of this series"),
        (("falsify", "toy", "H1", "--because", "x"), "Missing option '--evidence'"),
        (("promote", "toy", "H1", "--decision", "x"), "Missing option '--evidence'"),
        (("promote", "toy", "H1", "--decision", " ", "--evidence", "TOY-001"), "is empty"),
        (("add", "toy", " "), "The hypothesis is empty"),
        (("resume", "toy", "H1", "run it"), "H1 is active, expected one that is blocked: give"),
        (("next", "toy", "H1", " "), "The next test is empty"),
        (("support", "toy", "H1", "--because", "x"), "Missing option '--evidence'"),
        (("add", "toy", "less work takes less time"), "That is H1 of toy already, which is active"),
    ],
)  # fmt: skip
def test_what_rests_on_nothing_is_refused(repository: Repository, arguments: tuple[str, ...], told: str) -> None:
    """A hypothesis that is not there, evidence that is not there, or none: one sentence, and nothing is recorded."""
    before = repository.logbook
    done = hypothesis(repository, *arguments)
    assert done.returncode != 0 and told in done.stderr
    assert repository.logbook == before


def test_the_same_change_said_twice_is_one(repository: Repository) -> None:
    """Repeated it adds nothing; after another change it is a change again, because the last one counts."""
    block = ("block", "toy", "H1", "--resume-when", "a TPU")
    promote = ("promote", "toy", "H1", "--decision", "ship", "--evidence", "TOY-001")
    for arguments in (block, block, promote, promote, block, block):
        assert hypothesis(repository, *arguments).returncode == 0
    assert [line.split(" - ")[1] for line in repository.logbook.splitlines() if line.startswith("### ")] == [
        "TOY-001 kickoff", "TOY-002 H1 blocked", "TOY-003 H1 promoted", "TOY-004 H1 blocked",
    ]  # fmt: skip
    for _ in range(2):
        assert hypothesis(repository, "add", "toy", "dense wins").returncode == 0
    assert [row["id"] for row in listed(repository)] == ["H1", "H2"]


@pytest.mark.parametrize(
    "begun", [
        "hypotheses/H2.json", "claims/000002.json", "entries/intents/TOY-002-0.json", "entries/records/TOY-002-0.json",
    ]
)  # fmt: skip
def test_a_killed_command_may_be_given_again(repository: Repository, begun: str) -> None:
    """Killed as soon as a part of it is there, and given again: one entry, one hypothesis."""
    add = ["hypothesis", "add", "toy", "dense wins"]
    part = repository.root / "local_store" / "journal" / "toy" / begun
    with subprocess.Popen([*RESEARCH, *add], cwd=repository.root, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None and not part.exists():
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
    assert hypothesis(repository, *add[1:]).returncode == 0
    assert repository.ids == ["TOY-001", "TOY-002"]
    assert [(row["id"], row["text"]) for row in listed(repository)][1:] == [("H2", "dense wins")]


def test_agents_that_add_at_once_get_numbers_of_their_own(repository: Repository) -> None:
    """Three processes over one store: three hypotheses, three numbers."""
    commands = [[*RESEARCH, "hypothesis", "add", "toy", f"idea {number}"] for number in range(3)]
    running = [
        subprocess.Popen(command, cwd=repository.root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for command in commands
    ]
    assert [process.wait(60) for process in running] == [0, 0, 0]
    rows = listed(repository)
    assert [row["id"] for row in rows] == ["H1", "H2", "H3", "H4"]
    assert {row["text"] for row in rows[1:]} == {"idea 0", "idea 1", "idea 2"}


def test_two_branches_that_added_one_each(repository: Repository) -> None:
    """Both are called H2 and stay two: what was said of one counts for that one, and a change names it by its text."""
    repository.commit()
    repository.git("branch", "other")
    assert hypothesis(repository, "add", "toy", "ours").returncode == 0
    assert hypothesis(repository, "falsify", "toy", "H2", "--because", "no", "--evidence", "TOY-002").returncode == 0
    repository.commit()
    repository.git("checkout", "--quiet", "other")
    theirs = ("--prefix", str(repository.root / "local_store" / "other"))
    assert research(repository.root, "kickoff", "toy", "--branch", ".", *theirs).returncode == 0
    assert hypothesis(repository, "add", "toy", "theirs", *theirs).returncode == 0
    repository.commit()
    repository.git("checkout", "--quiet", "main")
    with pytest.raises(subprocess.CalledProcessError):
        repository.git("merge", "--quiet", "other")
    assert research(repository.root, "sync", "toy").returncode == 0
    repository.commit()

    states = [(row["id"], row["text"], row["state"]) for row in listed(repository)]
    assert sorted(states[1:]) == [("H2", "ours", "falsified"), ("H2", "theirs", "active")]
    told = hypothesis(repository, "block", "toy", "H2", "--resume-when", "x")
    assert told.returncode == 1 and "stands for 2 hypotheses" in told.stderr
    assert hypothesis(repository, "block", "toy", "theirs", "--resume-when", "x").returncode == 0
    assert [row["state"] for row in listed(repository) if row["text"] == "theirs"] == ["blocked"]
    assert hypothesis(repository, "add", "toy", "next").returncode == 0
    assert listed(repository)[-1]["id"] == "H3"


def test_what_rests_on_something_private_is_private(repository: Repository) -> None:
    """A hypothesis drawn from a private trial reaches neither logbook nor issue, and neither does what becomes of it."""
    private = Desk(repository.root, repository.root / "local_store").record("hidden", private=True)
    trial = private.record.rows[0].trial.id
    assert hypothesis(repository, "add", "toy", "secretly so", "--evidence", trial).returncode == 0
    assert hypothesis(repository, "block", "toy", "H2", "--resume-when", "in secret").returncode == 0
    assert [row["state"] for row in listed(repository)] == ["active", "blocked"]
    assert hypothesis(repository, "add", "toy", "openly so").returncode == 0
    public = repository.logbook + (repository.root / ".agents" / "issues" / "toy.md").read_text()
    assert "secret" not in public and "- H3 (active): openly so" in public


CHANGES = st.lists(
    st.tuples(st.sampled_from(["H1", "H2", "H3"]), st.sampled_from(["a", "b"]), st.sampled_from(list(SAYS)), recorded),
    max_size=12,
)


def changed(number: int, id: str, text: str, state: str, because: str) -> EntryRecord:
    config = {"hypothesis": id, "text": text, "state": state, "because": because}
    return entry(f"TOY-{number:03d}", step="hypothesis", config=config)


@settings(max_examples=200)
@given(changes=CHANGES, declared=st.lists(st.sampled_from(["H1", "H2"]), unique=True))
def test_nothing_is_lost_in_the_queue(changes: list[tuple[str, str, str, str]], declared: list[str]) -> None:
    """Whatever was recorded, in whatever order: each change belongs to one hypothesis, whose state is that of its last;
    each declared one is there; and a new one gets a free number."""
    known = tuple(Hypothesis(id, "a") for id in declared)
    series = Series(topic="toy", prefix="TOY", goal="x", metrics=SERIES.metrics, hypotheses=known)
    entries = [changed(number, *change) for number, change in enumerate(changes, 1)]
    items = queue(series, entries)
    placed = [change.id for item in items for change in item.changes]
    assert sorted(placed) == [entry.id for entry in entries]
    for item in items:
        assert [change.id for change in item.changes] == sorted(change.id for change in item.changes)
        assert {change.config["hypothesis"] for change in item.changes} <= {item.id}
        assert item.state == (item.changes[-1].config["state"] if item.changes else "active")
    assert set(declared) <= {item.id for item in items}
    assert f"H{next_number(items)}" not in {item.id for item in items}


def test_a_declared_hypothesis_may_be_put_in_other_words() -> None:
    """What was said of it stays with it."""
    series = Series(topic="toy", prefix="TOY", goal="x", metrics=SERIES.metrics, hypotheses=(Hypothesis("H1", "new"),))
    (item,) = queue(series, [changed(1, "H1", "old", "falsified", "no")])
    assert (item.text, item.state) == ("new", "falsified")
    assert find([item], "H1") is item


def test_another_next_test_adds_no_hypothesis() -> None:
    """One that the thread's file puts in other words later is still the one that was resumed before."""
    series = Series(topic="toy", prefix="TOY", goal="x", metrics=SERIES.metrics, hypotheses=(Hypothesis("H1", "new"),))
    config = {"hypothesis": "H1", "text": "old", "state": "active", "because": "run it", "again": True}
    (item,) = queue(series, [entry("TOY-001", step="hypothesis", config=config)])
    assert (item.text, item.state, item.because) == ("new", "active", "run it")


def test_an_older_version_names_what_is_supported_as_newer() -> None:
    """Its kind of entry is one that such a version does not know, so that it is never called broken there; every entry
    of the kind that it does know is in a state that it knows."""
    said = HypothesisChange(hypothesis="H1", text="x", state="supported", because="y")
    assert kind_of(said) == "support"
    assert {kind_of(msgspec.structs.replace(said, state=state)) for state in SAYS if state != "supported"} == {
        "hypothesis"
    }


@settings(max_examples=150)
@given(text=recorded, because=recorded, state=st.sampled_from(list(SAYS)))
def test_a_hypothesis_of_hostile_text_is_one_line(text: str, because: str, state: str) -> None:
    """It reads as one item of a list, with the links that we made and no others."""
    item = Item("H1", text, (changed(1, "H1", text, state, because),))
    (line,) = rendering.hypotheses([item], prose, rendering.linked("toy/"))
    tokens = flat(markdown.parse(f"{line}\n"))
    assert sum(token.type == "list_item_open" for token in tokens) == 1
    assert [token.attrs["href"] for token in tokens if token.type == "link_open"] == ["toy/TOY-001.jsonl"]
    assert not {"html_block", "html_inline", "image", "heading_open", "em_open"} & {token.type for token in tokens}


def test_the_queue_loads_nothing_heavy() -> None:
    """Reading the queue waits for no cloud or array library."""
    code = (
        "import sys, research_steps.cli.annotate\n"
        "print([name for name in ('numpy', 'scipy', 'jax', 'github', 'wandb') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
