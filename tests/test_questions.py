"""`research undecided` and `research ask`: what to measure, and what need not be measured."""

import json
import math
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
from research_steps.evidence.statistics import OWN, PAIRED
from research_steps.evidence.undecided import to_separate
from research_steps.trial import contention

from tests.support.records import claim
from tests.support.toy_thread import STEADY, Repository, research

CLOSE = """
    base = steps.baseline(measure, Config())
    steps.sweep(base, ("work", [1000, 1001]))
    steps.sweep(base, ("mode", ["raise"]))
"""


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Repository]:
    """A thread with two candidates that are nearly as good as each other, and one that fails. Its times are steady
    whatever else runs here, so that no load counts."""
    repository = Repository(tmp_path_factory.mktemp("undecided") / "checkout")
    repository.measure(STEADY)
    repository.thread(CLOSE)
    repository.commit()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contention.HERE, "load_cores", 1000)
        repository.run()
        yield repository


def answer(repository: Repository, *arguments: str) -> Any:
    done = research(repository.root, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_what_is_known_already_is_told(repository: Repository) -> None:
    """Measured with its result, failed with its reason, or never; and about what it would cost."""
    (measured,) = answer(repository, "ask", "toy", "work=1000")["answers"]
    assert measured["changes"] == {"work": 1000} and measured["claims"][0]["metric"] == "time_s"
    assert measured["further_processes"] == 3 and measured["estimated_s"] > 0
    (failed,) = answer(repository, "ask", "toy", "mode=raise")["answers"]
    assert failed["claims"] == [] and failed["failed"][0]["why"] == "ValueError: no such kernel"
    (never,) = answer(repository, "ask", "toy", "work=1000", "mode=other")["answers"]
    assert never["trials"] == [] and never["further_processes"] == 4
    told = research(repository.root, "ask", "toy", "work=1234").stdout
    assert "work=1234 against TOY-001 (baseline): never measured" in told and "an estimate for 4 further" in told


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("wrok=1", "expected FIELD=VALUE with one of data, mode, out, work. Did you mean 'work'?"),
        ("zzz=1", "one of data, mode, out, work.\n"),
        ("work", "expected FIELD=VALUE"),
    ],
)
def test_a_field_that_is_not_there_names_those_that_are(repository: Repository, given: str, told: str) -> None:
    """With the one that is nearly called so."""
    done = research(repository.root, "ask", "toy", given)
    assert done.returncode == 1 and told in done.stderr and "Traceback" not in done.stderr


def test_what_is_not_separated_comes_with_commands(repository: Repository) -> None:
    """They work as they are printed, and what they measure separates the two or asks for more."""
    (pair,) = answer(repository, "undecided", "toy")["pairs"]
    assert {pair["winner"]["changes"]["work"], pair["other"]["changes"]["work"]} == {1000, 1001}
    printed = [line.strip() for line in research(repository.root, "undecided", "toy").stdout.splitlines()[1:]]
    assert printed == pair["commands"] and len(printed) == 2
    for command in printed:
        done = research(repository.root, *shlex.split(command)[1:])
        assert done.returncode == 0, done.stdout + done.stderr
    again = answer(repository, "undecided", "toy")["pairs"]
    assert all(sum(left["processes"] or (0,)) < sum(pair["processes"]) for left in again)


def test_as_many_processes_as_separate_two() -> None:
    """By Student's t over the processes of each, and of the baseline where it is pooled; None for what is equal."""
    near = {"estimand": "ratio", "processes": 3, "floor_processes": 0, "candidates": 1, "method": OWN}
    # Standard deviation 0.01 of a process in the logarithm; t(2) at 95 % is 4.3027.
    half = 4.302653 * 0.01 / math.sqrt(3)
    first, second, third = (
        claim(**near, estimate=math.exp(at), low=math.exp(at - half), high=math.exp(at + half)) for at in (0, 0.02, 0)
    )
    # With 6 each 2 × 2.5706 × 0.01 / √6 = 0.0210 overlap, with 7 each 2 × 2.4469 × 0.01 / √7 = 0.0185 do not.
    assert to_separate(first, second) == 7
    assert to_separate(first, third) is None
    pooled = [
        claim(**{**near, "method": PAIRED, "floor_processes": 100}, low=low, high=low + 0.02) for low in (0.5, 0.51)
    ]
    assert 1 < (to_separate(*pooled) or 0) <= 14


def test_discards_get_a_second_look_where_the_state_is_told(repository: Repository) -> None:
    """While nothing changed, none; on a baseline that moved, what failed before."""
    assert answer(repository, "undecided", "toy")["second_look"] == []
    (answered,) = answer(repository, "ask", "toy", "work=1000")["answers"]
    id = answered["claims"][0]["trials"][0]["id"]
    for arguments in (("replicate", id, "-n", "3"), ("rebase", id)):
        done = research(repository.root, *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
    (text,) = answer(repository, "undecided", "toy")["second_look"]
    assert text.startswith("mode=raise (TOY-00") and text.endswith(": failed): the baseline moved, work 2000 → 1000")
    told = research(repository.root, "undecided", "toy").stdout
    assert told.endswith(f"Discarded for a reason that has changed since:\n  {text}\n")
