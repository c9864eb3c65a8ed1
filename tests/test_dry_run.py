"""`--dry-run`: what a command would write is told, and nothing is written."""

import json
from pathlib import Path

import pytest
from research_steps.cli import annotate, hand_over, set_up
from research_steps.trial import contention

from tests.support.toy_thread import CONCLUSION, STEADY, Repository, research

BODY = """
    base = steps.baseline(measure, Config())
    works = steps.sweep(base, ("work", [1000]))
    steps.seal(steps.interpret(base, works, steps.replicate(works, n=3)))
"""
SOURCE = ("source", "add", "toy", "--type", "paper", "--where", "x", "--version", "1", "--claim", "y")
COMMANDS = (
    ("kickoff", "toy"),
    ("hypothesis", "add", "toy", "dense wins", "--next-test", "run it"),
    ("hypothesis", "next", "toy", "H1", "run it"),
    ("hypothesis", "block", "toy", "H1", "--resume-when", "later"),
    ("hypothesis", "resume", "toy", "H9", "now"),
    ("hypothesis", "support", "toy", "H1", "--because", "so", "--evidence", "TOY-001"),
    ("hypothesis", "falsify", "toy", "H1", "--because", "so", "--evidence", "TOY-001"),
    ("hypothesis", "promote", "toy", "H1", "--decision", "ship", "--evidence", "TOY-001"),
    (*SOURCE, "--confidence", "low"),
    ("source", "checked", "toy", "--claim", "TOY-001", "--none", "nowhere"),
    ("source", "brief", "toy", "--question", "why", "--next", "this :: that"),
    ("note", "TOY-002", "--interpretation", "so"),
    ("log", "toy", "preempted", "--file", "measured"),
    ("attach", "TOY-002", "measured"),
    ("decide", "toy", "ship it"),
    ("correct", "TOY-002", "it was the other one"),
    ("retract", "TOY-002", "wrong machine"),
    ("rebase", "TOY-003"),
    ("seal", "toy", "TOY-002"),
    ("finish", "toy", *CONCLUSION),
)
# What is not there to be resumed or checked is refused as it is without the option.
REFUSED = (COMMANDS[4], COMMANDS[9])


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """A sealed thread, whose times are steady whatever else runs here."""
    repository = Repository(tmp_path_factory.mktemp("dry") / "checkout")
    repository.measure(STEADY)
    repository.thread(BODY)
    repository.commit()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contention.HERE, "load_cores", 1000)
        done = repository.run("--seal", "true")
    assert done.code == 0, done.output
    return repository


def everything(root: Path) -> dict[str, bytes]:
    """Every file of the checkout, its store and its git directory."""
    files = [path for path in root.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


@pytest.mark.parametrize("arguments", COMMANDS, ids=lambda arguments: " ".join(arguments[:2]))
def test_a_dry_run_writes_nothing(repository: Repository, arguments: tuple[str, ...]) -> None:
    """The entry is told as it would be; every byte of checkout, store and git stays as it was."""
    before = everything(repository.root)
    done = research(repository.root, *arguments, "--dry-run")
    after = everything(repository.root)
    assert {name for name in {*before, *after} if before.get(name) != after.get(name)} == set()
    if arguments in REFUSED:
        assert done.returncode == 1 and done.stderr.startswith("error: ")
    else:
        assert done.returncode == 0, done.stderr
        assert "TOY-006 " in done.stdout and done.stdout.endswith("A dry run: nothing was written.\n")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("new", "sort"), "would be written: experiments/sort/__init__.py, "),
        (("skill", "install"), "would be written: .agents/skills/run-research/SKILL.md"),
        (("replicate", "TOY-002"), ": work=1000 would be measured in the processes 4, 5, 6, beside its baseline"),
        (("report", "toy"), ".agents/reports/toy.html"),
        (("record", "toy", "--", "touch", "ran"), "TOY-006 touch ran: "),
    ],
)
def test_a_dry_run_does_nothing_else(repository: Repository, arguments: tuple[str, ...], told: str) -> None:
    """Nothing is measured, run, or written; what would be is told."""
    before = everything(repository.root)
    at = arguments.index("--") if "--" in arguments else len(arguments)
    done = research(repository.root, *arguments[:at], "--dry-run", *arguments[at:])
    assert done.returncode == 0, done.stderr
    assert told in done.stdout, done.stdout
    after = everything(repository.root)
    assert {name for name in {*before, *after} if before.get(name) != after.get(name)} == set()


def test_a_dry_run_shows_what_falls(repository: Repository) -> None:
    """Of a retraction what rested on the record, and what becomes of verdicts; of a rebase where the baseline moves."""
    retracted = research(repository.root, "retract", "TOY-002", "wrong machine", "--dry-run")
    assert "On it rested: TOY-003" in retracted.stdout and "Verdicts made again: work=1000" in retracted.stdout
    moved = json.loads(research(repository.root, "rebase", "TOY-003", "--dry-run", "--json").stdout)
    assert moved["dry_run"] and moved["record"]["config"]["to"]["work"] == 1000
    assert "counts for that alone: work=1000 (improved, replicated)" in moved["record"]["result"]


def test_a_sync_that_is_dry_names_what_it_would_publish(tmp_path: Path) -> None:
    """And writes nothing; the sync after it has that done."""
    repository = Repository(tmp_path / "checkout")
    repository.thread(BODY)
    repository.commit()
    assert repository.run().code == 0
    (repository.root / ".agents/logbooks/toy.md").unlink()
    before = everything(repository.root)
    told = research(repository.root, "sync", "toy", "--dry-run").stdout
    assert told.startswith("not in the logbook yet: TOY-001") and told.endswith("A dry run: nothing was written.\n")
    assert everything(repository.root) == before


def test_every_command_that_says_something_has_a_dry_run() -> None:
    """And is in the list above."""
    single = [annotate.note, annotate.log, annotate.attach, annotate.decide, annotate.correct, annotate.retract]
    single += [annotate.rebase, hand_over.seal, hand_over.finish, set_up.kickoff]
    groups = {"hypothesis": annotate.hypothesis, "source": annotate.source}
    writing = {(str(command.name),): command for command in single}
    for group, of in groups.items():
        writing |= {(group, name): command for name, command in of.commands.items() if name != "list"}
    assert all("dry_run" in [option.name for option in command.params] for command in writing.values())
    assert set(writing) == {command[:2] if command[0] in groups else command[:1] for command in COMMANDS}
