"""What a store's writer can make a reader's checkout do: nothing that its own code, or its owner's word, does not."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.dev_checkout import DevCheckout, checkout
from tests.support.forgery import forge
from tests.support.toy_thread import research as run
from tests.support.untimed_thread import REPLICATED, UntimedThread

KERNEL = "COST = {cost}\n"
MEASURE = """
import random

from experiments.toy.kernel import COST


class Config(dict):
    pass


def measure(config):
    while True:
        yield {"cost": COST * config["size"] * (1 + random.gauss(0, 0.002))}
"""
BASELINE = """
    steps.baseline(measure, {"size": 1})
"""


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> UntimedThread:
    """A thread that was run, with its store."""
    made = UntimedThread(tmp_path_factory.mktemp("measured") / "checkout")
    made.write(REPLICATED)
    made.commit()
    made.ok()
    return made


def copied(measured: UntimedThread, folder: Path) -> Path:
    """A clone of a colleague, who reads the same store."""
    clone = folder / "clone"
    subprocess.run(["git", "clone", "--quiet", str(measured.root), str(clone)], check=True)
    subprocess.run(["cp", "-r", str(measured.root / "local_store"), str(clone)], check=True)
    return clone


def research(where: Path, *arguments: str, code: int = 1) -> str:
    done = run(where, *arguments, **{**os.environ, "WANDB_MODE": "disabled"})
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    "fields",
    [
        {"measure": "research_steps.git:subprocess.Popen", "config_type": "dict"},
        {"measure": "os:system", "config_type": "dict"},
        {"measure": "experiments.toy.measure:paired"},
        {"config_type": "subprocess:Popen"},
    ],
)
def test_a_function_that_a_record_names_is_not_called(
    measured: UntimedThread, tmp_path: Path, fields: dict[str, Any]
) -> None:
    """Only what the thread of this checkout measures with, whatever stands in the store."""
    clone = copied(measured, tmp_path)
    (claim,) = measured.claims("TOY-003")
    trial = claim.trials[0].id
    forged = {"config": {"args": ["touch", str(tmp_path / "ran")]}} if "measure" in fields else {}
    forge(clone / "local_store", trial, lambda record: record.update({**fields, **forged}))
    told = research(clone, "replicate", trial)
    assert (
        "a record can name any function, so it is not called" in told
        and fields["measure" if forged else "config_type"] in told
    )
    assert not (tmp_path / "ran").exists()


@pytest.fixture
def edited(tmp_path: Path) -> Iterator[DevCheckout]:
    """One whose baseline was measured, and then an edit in place, which is in the store alone."""
    with checkout(tmp_path) as made:
        made.measure(MEASURE)
        (made.experiment / "kernel.py").write_text(KERNEL.format(cost=1.0))
        made.write(BASELINE.replace("Config()", "Config(size=1)"))
        made.commit()
        made.ok()
        (made.experiment / "kernel.py").write_text(
            f"open({str(tmp_path / 'ran')!r}, 'a').close()\n" + KERNEL.format(cost=0.9)
        )
        made.dev()
        yield made


def test_an_edit_of_somebody_else_runs_when_it_is_allowed(edited: DevCheckout, tmp_path: Path) -> None:
    """What was measured in this checkout needs no word; in another, an edit in the store is anybody's."""
    trial = edited.trials()[-1].id
    edited.git("stash", "--quiet")
    clone = copied(edited, tmp_path)
    (tmp_path / "ran").unlink()
    for command in (("confirm", trial), ("dev", "toy", "--against", trial)):
        told = research(clone, *command)
        assert "was not run in this checkout before" in told and "'research trust ID'" in told
    assert not (tmp_path / "ran").exists()
    assert f"+{KERNEL.format(cost=0.9)}" in research(clone, "show", trial, "--patch", code=0)
    assert "allowed here: experiments.toy.measure:measure, commit" in research(clone, "trust", trial, code=0)
    assert "0.90" in research(clone, "confirm", trial, code=0)
    research(clone, "dev", "--stop", code=0)


def test_the_code_of_a_baseline_comes_from_the_history_or_a_word(edited: DevCheckout, tmp_path: Path) -> None:
    """A record that says that the baseline was fixed with an edit makes nobody run it."""
    trial = edited.trials()[-1]
    edited.git("stash", "--quiet")
    clone = copied(edited, tmp_path)
    (tmp_path / "ran").unlink()
    assert "measured against itself" in research(clone, "dev", "toy", code=0)

    def forged(record: dict[str, Any]) -> None:
        record["provenance"]["patch"] = trial.provenance.patch

    forge(clone / "local_store", "TOY-001", forged)
    assert "was not run in this checkout before" in research(clone, "dev", "toy", "--set", "size=2")
    assert not (tmp_path / "ran").exists()
    research(clone, "dev", "--stop", code=0)


def test_what_goes_by_its_hash_is_checked_against_it(edited: DevCheckout) -> None:
    """Other bytes than were recorded are given out by nothing, and run by nothing."""
    trial = edited.trials()[-1].id
    (patch,) = (edited.root / "local_store").rglob("*.patch")
    patch.write_bytes(patch.read_bytes().replace(b"0.9", b"0.1"))
    for command in (("show", trial, "--patch"), ("confirm", trial)):
        assert "it was changed after it was written" in edited.research(*command, code=1)
    entry = edited.research("keep", trial, "--hypothesis", "H1", code=1)
    assert "not published" in entry and "it was changed after it was written" in entry
