"""Edits in place: the baseline keeps the code that it was fixed with, and an edit is a candidate like any other."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from research_steps.records.model import TrialRecord, Version

from tests.support.dev_checkout import DevCheckout, checkout

MEASURE = """
import os, random
from dataclasses import dataclass
from itertools import count

from experiments.toy.kernel import COST

SIDES = count()


@dataclass(frozen=True)
class Config:
    size: int = 1


def measure(config):
    noise = random.Random(f"{config} {os.getpid()} {next(SIDES)}")
    shift = noise.gauss(0, 0.002)
    while True:
        yield {"cost": COST * config.size * (1 + shift + noise.gauss(0, 0.002))}
"""
BASELINE = """
    steps.baseline(measure, Config())
"""


def edit(repository: DevCheckout, text: str) -> None:
    (repository.experiment / "kernel.py").write_text(text)


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[DevCheckout]:
    """One whose baseline was measured by the executor, on a committed kernel of cost 1."""
    with checkout(tmp_path) as made:
        made.measure(MEASURE)
        edit(made, "COST = 1.0\n")
        made.write(BASELINE)
        made.commit()
        made.ok()
        yield made


def cost(output: str) -> tuple[float, str]:
    """The ratio and the verdict that dev mode tells."""
    told = re.search(r"cost (\d\.\d+) × \(.*?\), ([a-z ]+)", output)
    assert told is not None, output
    return float(told[1]), told[2].strip()


def last(repository: DevCheckout) -> TrialRecord:
    return repository.trials()[-1]


def test_an_edit_is_measured_against_the_code_of_the_baseline(repository: DevCheckout) -> None:
    """Without settings, in two processes, each on its own version; the record says so. What was better stays better
    however large the difference."""
    for value, verdict in (("0.92", "improved"), ("0.5", "improved"), ("1.1", "regressed")):
        edit(repository, f"COST = {value}\n")
        ratio, told = cost(repository.dev())
        assert (ratio, told) == (pytest.approx(float(value), rel=0.02), verdict)
    record, commit = last(repository), repository.git("rev-parse", "HEAD").strip()
    assert isinstance(record.baseline_version, Version)
    assert (record.baseline_version.commit, record.baseline_version.patch) == (commit, None)
    assert record.baseline_version.code != record.code
    assert record.samples is not None and record.samples.paired and record.provenance.patch
    floors = [trial.record for trial in repository.known().trials.values() if trial.record.label == "noise floor"]
    assert [floor.baseline_version for floor in floors] == [record.baseline_version] * 3
    assert [floor.code for floor in floors] == [record.baseline_version.code] * 3


def test_what_is_not_edited_stays_in_one_process(repository: DevCheckout) -> None:
    """Also where something else than the measure function's code was edited; a setting is compared as before."""
    (repository.root / "notes.txt").write_text("nothing\n")
    assert "measured against itself" in repository.dev()
    assert cost(repository.dev("size=2"))[0] == pytest.approx(2.0, rel=0.02)
    assert not isinstance(last(repository).baseline_version, Version)


def test_a_setting_on_an_edited_tree_is_held_against_the_baseline(repository: DevCheckout) -> None:
    """Both count for the candidate, because the baseline has neither."""
    edit(repository, "COST = 0.8\n")
    assert cost(repository.dev("size=2"))[0] == pytest.approx(1.6, rel=0.02)


def test_an_edit_is_compared_with_any_commit_or_trial(repository: DevCheckout) -> None:
    """Named as git names it, or by the ID of what dev mode measured before."""
    edit(repository, "COST = 0.5\n")
    repository.git("add", "--all")
    repository.git("commit", "--quiet", "--message", "halved")
    edit(repository, "COST = 0.4\n")
    assert cost(repository.dev("--against", "HEAD"))[0] == pytest.approx(0.8, rel=0.02)
    assert cost(repository.dev("--against", "HEAD~1"))[0] == pytest.approx(0.4, rel=0.02)
    trial = last(repository).id
    edit(repository, "COST = 0.3\n")
    assert cost(repository.dev("--against", trial))[0] == pytest.approx(0.75, rel=0.02)
    refused = repository.dev("--against", "no-such-branch", code=1)
    assert "'no-such-branch' names no version of the code: expected a commit" in refused


def test_an_edit_before_the_first_run_is_compared_with_the_commit(tmp_path: Path) -> None:
    """There is no baseline entry yet; a measure function that the commit does not have is measured against itself."""
    with checkout(tmp_path) as made:
        made.measure(MEASURE)
        edit(made, "COST = 1.0\n")
        made.write(BASELINE)
        made.commit()
        edit(made, "COST = 0.9\n")
        assert cost(made.dev())[0] == pytest.approx(0.9, rel=0.02)
        made.git("rm", "--quiet", "--cached", "experiments/toy/measure.py")
        made.git("commit", "--quiet", "--message", "not tracked")
        assert "not compared with the commit: " in made.dev()


def test_what_goes_wrong_in_the_other_process_is_told(repository: DevCheckout) -> None:
    """By which side it was, as in one process: it raises, it ends, it gives no metrics."""
    for text, what in (
        ("import no_such_module\nCOST = 1.0\n", "No module named 'no_such_module'"),
        ("import os, sys\nCOST = 1.0 if 'pytest' in sys.argv else os._exit(3)\n", "was ended by exit code 3"),
        ("COST = 'text'\n", "TypeError"),
    ):
        edit(repository, text)
        repository.git("add", "--all")
        repository.git("commit", "--quiet", "--message", "broken")
        edit(repository, "COST = 1.0\n")
        assert what in repository.dev("--against", "HEAD", code=1)
        error = last(repository).error
        assert error is not None and error.where == "baseline", error


def test_a_library_that_is_edited_counts(tmp_path: Path) -> None:
    """One that is installed from the checkout: both sides import their own version of it, though the kept parent had
    imported it before."""
    with checkout(tmp_path) as made:
        folder = made.root / "lib" / "src"
        folder.mkdir(parents=True)
        (folder / "toolbox.py").write_text("COST = 1.0\n")
        made.measure(MEASURE)
        edit(made, "from toolbox import COST\n")
        made.write(BASELINE)
        made.commit()
        environment = {"PYTHONPATH": str(folder)}
        assert "measured against itself" in made.dev(**environment)
        (folder / "toolbox.py").write_text("COST = 0.7\n")
        assert cost(made.dev(**environment)) == (pytest.approx(0.7, rel=0.02), "improved")
