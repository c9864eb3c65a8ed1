"""What programs read of commands: one JSON document on standard output, whatever is told beside it."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from research_steps.cli.main import main

from tests.support.dev_checkout import DevCheckout, checkout
from tests.support.toy_thread import HERE, research

# What follows something that runs elsewhere, and has its exit code for an answer.
WITHOUT = {"submit", "record"}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevCheckout]:
    with checkout(tmp_path_factory.mktemp("json")) as made:
        yield made


def answer(repository: DevCheckout, *arguments: str, code: int = 0) -> Any:
    done = research(repository.root, *arguments, "--json", **repository.environment)
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout)


def _commands(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    if isinstance(command, click.Group):
        context = click.Context(command)
        for below in command.list_commands(context):
            found = command.get_command(context, below)
            assert found is not None
            if below not in WITHOUT:
                yield from _commands(found, f"{name} {below}".strip())
    else:
        yield name, command


def test_every_command_with_an_outcome_has_json() -> None:
    """And the documents name those that have none."""
    lacking = [
        name
        for name, command in _commands(main, "")
        if not any("--json" in getattr(option, "opts", ()) for option in command.params)
    ]
    assert lacking == []
    documented = (HERE / "docs" / "commands.md").read_text()
    (said,) = re.findall(r"all but ([^.]*) have `--json`", documented)
    assert set(re.findall(r"`([^`]+)`", said)) == WITHOUT


def test_what_commands_measured_is_data(repository: DevCheckout, tmp_path: Path) -> None:
    """The answer of dev mode with its ratio and interval, the kept parent, and the entries that were made of it."""
    tried = answer(repository, "dev", "toy", "work=1000")
    assert (tried["trials"], tried["what"], tried["status"], tried["verdict"]) == (
        *("TOY-001.01", "work=1000", "ok", "improved"),
    )
    low, high = tried["interval"]
    assert low <= tried["ratio"] <= high and tried["ratio"] == pytest.approx(0.5, rel=0.03)
    assert tried["claim"]["trials"][0]["id"] == "TOY-001.01"
    assert answer(repository, "dev", "--status")["parent"]["pid"] == repository.parent

    allowed = answer(repository, "trust", "TOY-001.01")["allowed"]
    assert allowed[0].startswith("experiments.toy.measure:measure, ")
    assert answer(repository, "origin", "toy")["origin"]["commit"]

    (confirmed,) = answer(repository, "confirm", "TOY-001.01", "-n", "2")["entries"]
    assert confirmed["step"] == "replicate" and confirmed["config"]["confirms"] == "TOY-001.01"
    (again,) = answer(repository, "replicate", confirmed["id"], "-n", "2")["entries"]
    assert again["id"] != confirmed["id"] and again["claims"][0]["confidence"] == "replicated"
