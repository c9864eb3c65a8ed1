"""Edits in place: the baseline keeps the code that it was fixed with, and an edit is a candidate like any other."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from research_steps.evidence.standing import current_claims
from research_steps.records.encoding import canonical
from research_steps.records.model import Claim, TrialRecord, Version
from research_steps.thread.dev.evidence import case_of

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


def test_sides_on_different_devices_are_no_pair(repository: DevCheckout) -> None:
    """As where an accelerator admits one process, and the other side took the CPU in silence."""
    devices = "import os\nos.environ['XLA_FLAGS'] = '--xla_force_host_platform_device_count={count}'\n"
    devices += "import jax\nCOST = 1.0 + 0 * jax.device_count()\n"
    edit(repository, devices.format(count=2))
    assert "on 2 × cpu" not in repository.dev()
    repository.git("add", "--all")
    repository.git("commit", "--quiet", "--message", "two devices")
    edit(repository, devices.format(count=1))
    refused = repository.dev("--against", "HEAD", code=1)
    assert "The candidate ran on 1 × cpu cpu and the baseline, in its own process, on 2 × cpu cpu" in refused


ONE_PROCESS = """
import fcntl

DEVICE = open("device", "a")


def cost():
    try:
        fcntl.flock(DEVICE, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise RuntimeError("the device is in use by another process") from None
    return {cost}
"""


def test_versions_take_turns_on_a_device_that_admits_one_process(repository: DevCheckout) -> None:
    """Each in two processes of its own, ABBA or BAAB, which the order of the samples tells; a file that is locked stands
    for the accelerator. What fails alone too has failed."""
    repository.measure(MEASURE.replace("import COST", "import cost").replace("COST *", "cost() *"))
    edit(repository, ONE_PROCESS.format(cost=1.0))
    repository.commit()
    edit(repository, ONE_PROCESS.format(cost=0.8))
    assert cost(repository.dev("--against", "HEAD")) == (pytest.approx(0.8, rel=0.02), "improved")
    samples = last(repository).samples
    assert samples is not None and samples.paired
    assert re.fullmatch(r"(A+)B+A+|(B+)A+B+", samples.order), samples.order
    assert len(samples.candidate["cost"]) == len(samples.baseline["cost"]) == samples.order.count("A") == 20
    edit(repository, ONE_PROCESS.format(cost="1 / 0"))
    assert "ZeroDivisionError" in repository.dev("--against", "HEAD", code=1)
    error = last(repository).error
    assert error is not None and error.where == "candidate", error


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


def confirmed(repository: DevCheckout, trial: str) -> Claim:
    """What the executor says of a trial of dev mode."""
    repository.research("confirm", trial)
    entry = repository.known().in_order[-1].record
    assert entry.step == "replicate" and entry.status == "ok", entry.result
    (claim,) = entry.claims or ()
    return claim


def test_what_was_found_is_confirmed_whatever_the_tree_holds(repository: DevCheckout) -> None:
    """By the version that was measured, beside the baseline's own in as many processes; again by `replicate`, pooled."""
    edit(repository, "COST = 0.9\n")
    repository.dev()
    trial = last(repository)
    assert "improved" in repository.research("keep", trial.id, "--hypothesis", "H1") + repository.logbook
    edit(repository, "this does not parse (\n")
    claim = confirmed(repository, trial.id)
    assert (claim.verdict, claim.confidence) == ("improved", "replicated")
    assert claim.estimate == pytest.approx(0.9, rel=0.01)
    assert (claim.changes, claim.confirmation, claim.look) == ({"code": trial.id}, 1, 1)
    trials = [stored.record for stored in repository.known().trials_of(claim.trials)]
    assert {(measured.code, measured.provenance.patch) for measured in trials} == {(trial.code, trial.provenance.patch)}
    assert len(trials) == len(claim.floor) == 3
    repository.research("replicate", trials[0].id)
    (again,) = repository.known().in_order[-1].record.claims or ()
    assert (again.confirmation, again.look, len(again.trials)) == (1, 2, 6)
    assert "code=" + trial.id in repository.head and "0.90" in repository.head
    assert repository.research("verify", "toy")


def test_a_baseline_moves_to_an_edit_that_was_confirmed(repository: DevCheckout) -> None:
    """What dev mode measures from then on is held against that code; what was found before counts for the old one."""
    edit(repository, "COST = 0.8\n")
    repository.dev()
    first = last(repository)
    claim = confirmed(repository, first.id)
    repository.research("rebase", claim.trials[0].id)
    assert f"research show {claim.trials[0].id} --patch" in " ".join(repository.logbook.split())
    assert "measured against itself" in repository.dev()
    edit(repository, "COST = 0.72\n")
    assert cost(repository.dev()) == (pytest.approx(0.9, rel=0.02), "improved")
    second = confirmed(repository, last(repository).id)
    assert second.estimate == pytest.approx(0.9, rel=0.01) and second.confidence == "replicated"
    assert second.case == {"size": 1, "code": first.id}
    repository.research("rebase", second.trials[0].id)
    edit(repository, "COST = 0.8\n")
    assert cost(repository.dev()) == (pytest.approx(0.8 / 0.72, rel=0.02), "regressed")


def counting(repository: DevCheckout) -> list[Claim]:
    """The claims that count now."""
    entries = repository.known().in_order
    return current_claims(repository.journal.series(), entries)[0]


def test_a_thread_on_code_that_was_moved_to_names_it(repository: DevCheckout) -> None:
    """Its baseline is that which the rebase fixed, so that what was claimed against the old code does not count again;
    on other code it is another one."""
    edit(repository, "COST = 0.8\n")
    repository.dev()
    trial = last(repository).id
    repository.research("rebase", confirmed(repository, trial).trials[0].id)
    repository.commit()
    repository.write(BASELINE.replace("    steps.", "    base = steps.") + "    steps.sweep(base, axis=('size', [2]))\n")
    repository.ok()
    assert [claim.changes for claim in counting(repository)] == [{"size": 2}]
    baseline, sweep = repository.known().in_order[-2:]
    assert case_of(baseline.record) == case_of(sweep.record) == {"size": 1, "code": trial}
    assert {canonical(claim.case) for claim in sweep.record.claims or ()} == {canonical({"size": 1, "code": trial})}
    assert "measured against itself" in repository.dev()
    edit(repository, "COST = 0.9\n")
    assert cost(repository.dev()) == (pytest.approx(0.9 / 0.8, rel=0.02), "regressed")
    repository.commit()
    repository.ok()
    commit = repository.git("rev-parse", "HEAD").strip()
    assert case_of(repository.known().in_order[-2].record) == {"size": 1, "code": commit[:12]}
    assert [claim.case["code"] for claim in counting(repository)] == [commit[:12]]
    assert repository.research("verify", "toy")


def test_a_thread_compares_versions_of_the_code(repository: DevCheckout) -> None:
    """By branch, commit or the ID of a trial, in one table with the baseline measured beside them."""
    edit(repository, "COST = 0.9\n")
    repository.dev()
    trial = last(repository).id
    edit(repository, "COST = 1.2\n")
    repository.git("switch", "--quiet", "--create", "research/x")
    repository.git("add", "--all")
    repository.git("commit", "--quiet", "--message", "slower")
    repository.git("switch", "--quiet", "main")
    repository.write(
        f"""
    base = steps.baseline(measure, Config())
    codes = steps.sweep(base, axis=("code", ["main", "research/x", "{trial}"]))
    steps.replicate(codes)
"""
    )
    repository.ok()
    sweep, replicates = (stored.record for stored in repository.known().in_order[-2:])
    verdicts = {claim.changes["code"]: (claim.verdict, claim.estimate) for claim in sweep.claims or ()}
    assert verdicts["research/x"] == ("regressed", pytest.approx(1.2, rel=0.02))
    assert verdicts[trial] == ("improved", pytest.approx(0.9, rel=0.02))
    assert verdicts["main"][0] in ("no difference", "inconclusive")
    (claim,) = replicates.claims or ()
    assert (claim.changes, claim.verdict, claim.confidence) == ({"code": trial}, "improved", "replicated")
    assert repository.research("verify", "toy")
