"""What evidence is worth, from end to end: real threads through the real executor, and the commands that go on with
what they found. The metric is untimed and its noise is drawn, so that a verdict does not hang on this machine's load."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from research_steps import Metric, Series
from research_steps.evidence.effects import Scale
from research_steps.evidence.standing import standing, together
from research_steps.evidence.statistics import Interval

from tests.support.clocks import faked
from tests.support.ray_cluster import eventually
from tests.support.records import claim, entry
from tests.support.toy_thread import MEASURE as TIMED
from tests.support.toy_thread import Repository, age_locks, cli
from tests.support.untimed_thread import MEASURE, REPLICATED, SWEEP, Command, UntimedThread


@pytest.fixture
def repository(tmp_path: Path) -> UntimedThread:
    return UntimedThread(tmp_path / "checkout")


def test_a_sweep_says_of_each_candidate_what_its_interval_supports(repository: UntimedThread) -> None:
    """Best first, with ratio, interval and verdict; a failure has its reason; what was held fixed is shown."""
    repository.ok()

    rows = [row.changes["work"] for row in repository.entry("TOY-002").rows]
    assert rows == [1000, 2004, 4000, 13]
    assert {claim.changes["work"]: claim.verdict for claim in repository.claims("TOY-002")} == {
        1000: "improved", 2004: "no difference", 4000: "regressed", 13: "failed",
    }  # fmt: skip
    for judged in repository.claims("TOY-002"):
        if judged.changes["work"] != 13:
            assert judged.low is not None and judged.high is not None and judged.estimate is not None
            assert judged.estimate == pytest.approx(judged.changes["work"] / 2000, rel=0.01)
            assert (
                judged.estimate * 0.95 < judged.low < judged.estimate < judged.high
                and judged.confidence == "exploratory"
                and judged.candidates == 3
            )
            assert "over 3 candidates" in judged.method and judged.floor_processes == 3
    assert "held fixed `mode=paired size=1`" in repository.logbook
    assert "failed: ValueError: no such kernel" in repository.logbook
    floor = repository.entry("TOY-001").floor
    assert floor and 0 < floor["cost"].smallest < 0.02

    reading = repository.entry("TOY-003")
    best = repository.claims("TOY-002")[0]
    assert f"work=1000 is best: cost {best.estimate:.3f} × ({best.low:.3f} to {best.high:.3f})" in reading.interpretation
    assert "improved, exploratory" in reading.interpretation
    assert "TOY-002.04 (work=13) failed: ValueError: no such kernel." in reading.interpretation
    assert "Unknown: whether work=1000 holds at other size." in reading.interpretation
    assert reading.next_action == "Replicate TOY-002.01 (work=1000) before anything rests on it."


def test_replicates_make_a_claim_replicated_and_variants_make_it_stable(repository: UntimedThread) -> None:
    """One process is exploratory, three that agree are replicated, and what holds at two sizes is stable."""
    again = """    again = steps.replicate(works, n=3)
    wide = steps.replicate(works, n=3, across=("size", [1, 2]))
    steps.interpret(base, works, again, wide)
"""
    repository.write(SWEEP.replace("    steps.interpret(base, works)\n", again))
    repository.ok()

    assert repository.says("TOY-002")["{'work': 1000}"] == "improved, exploratory"
    assert repository.says("TOY-003") == {"{'work': 1000}": "improved, replicated"}
    wide = repository.claims("TOY-004")
    assert [(claim.case["size"], claim.confidence) for claim in wide] == [(1, "stable"), (2, "stable")]
    assert (
        "work=1000 at size=2 is improved, stable (confirmation 2, look 1)." in repository.entry("TOY-004").interpretation
    )
    reading = repository.entry("TOY-005")
    assert "improved, stable, from 3 processes" in reading.interpretation
    assert reading.next_action.startswith("Stop here and seal")
    assert "improved, stable" in repository.head


def test_a_killed_driver_of_shards_is_told_of_while_its_locks_hold(repository: UntimedThread) -> None:
    """For 90 s nothing else is printed: a shard that it was at says so, though only its sweep has an ID."""
    repository.write(SWEEP.replace("[1000, 4000, 2004, 13])", "[1000, 4000]), shards=2"))
    repository.ok("--run_only", "[toy/baseline]")
    before = len(repository.measured)
    (repository.root / "hold").write_text(str(before))
    killed = Command(repository, (), "experiments.toy")
    eventually(lambda: len(repository.measured) > before, 60)
    os.kill(killed.pid, signal.SIGKILL)
    killed.ended()
    (repository.root / "hold").unlink()
    again = Command(repository, (), "experiments.toy")
    again.wait_for("another driver has toy/shard-work-shard-")
    age_locks(repository.root / "local_store")
    again.ok()
    assert repository.ids == ["TOY-001", "TOY-002", "TOY-003"]


def test_a_retry_measures_each_failure_once_whatever_clock_it_has(repository: UntimedThread) -> None:
    """A failure that another machine recorded, whose clock was an hour ahead, is not taken for this run's own."""
    repository.write(SWEEP.replace("[1000, 4000, 2004, 13]", "[1000, 13]"))
    env = {**os.environ, "WANDB_MODE": "disabled", **faked("+3500s")}
    ahead = subprocess.run([sys.executable, "-m", "experiments.toy"], cwd=repository.root, env=env, capture_output=True)
    assert ahead.returncode == 0, ahead.stderr.decode()
    for attempts in (2, 3):
        repository.ok("--retry", "failed")
        failed = [trial.record for trial in repository.known().trials.values() if trial.record.status == "failed"]
        assert sorted(record.attempt for record in failed) == list(range(attempts))


def test_replicate_by_command_measures_fresh_processes(repository: UntimedThread) -> None:
    """It adds an entry with new replicate numbers. Killed in the middle and given again, it keeps what was measured
    and adds nothing twice."""
    repository.write(REPLICATED)
    repository.ok()
    assert [row.replicate for row in repository.entry("TOY-003").rows] == [1, 2, 3]
    before = len(repository.measured)

    (repository.root / "hold").write_text(str(before + 2))
    killed = repository.command("replicate", "TOY-002.02", "-n", "2")
    deadline = time.monotonic() + 60
    while len(repository.measured) <= before + 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(killed.pid, signal.SIGKILL)
    killed.ended()
    (repository.root / "hold").unlink()
    again = repository.command("replicate", "TOY-002.02", "-n", "2")
    again.wait_for("another driver has toy/replicate-")
    age_locks(repository.root / "local_store")
    again.ok()

    assert repository.ids == ["TOY-001", "TOY-002", "TOY-003", "TOY-004", "TOY-005"]
    assert [row.replicate for row in repository.entry("TOY-005").rows] == [4, 5]
    (judged,) = repository.claims("TOY-005")
    assert (judged.verdict, judged.confidence, judged.processes) == ("improved", "replicated", 5)
    assert (judged.confirmation, judged.look) == (1, 2) and "(confirmation 1, look 2)" in repository.logbook
    assert {ref.id for ref in judged.also} == {"TOY-002.02"}, "which chose it, and counts nothing"
    assert {"TOY-003.01", "TOY-005.02"} < {ref.id for ref in judged.trials}, "with all that was measured of it since"
    trials = [trial.record.id for trial in repository.known().trials.values()]
    assert (trials.count("TOY-005.01"), trials.count("TOY-005.02")) == (1, 1)
    assert len(repository.known().interrupted) == 2, "the trial and the entry that were cut off"

    repository.command("replicate", "TOY-002", "-n", "1").ok()
    assert [row.replicate for row in repository.entry("TOY-006").rows] == [6]
    (judged,) = repository.claims("TOY-006")
    assert judged.changes == {"work": 1000}, "of an entry its best candidate, which is not the first here"
    assert {"TOY-003.01", "TOY-005.01"} < {ref.id for ref in judged.trials} and judged.look == 3
    assert cli(repository, "verify", "toy")[0] == 0


def test_a_baseline_moves_on_replicated_evidence_and_in_no_other_way(repository: UntimedThread) -> None:
    """Editing the case is refused, so is a rebase on one run; on replicates it is a record, and then the thread's new
    case is the only one that goes."""
    repository.write(REPLICATED)
    repository.ok()
    moved = REPLICATED.replace("Config()", "Config(work=1000)").replace("[4000, 1000]", "[500, 4000]")
    repository.write(moved)
    refused = repository.run()
    assert refused.code == 1 and "fixed since TOY-001 with work=2000; the thread gives work=1000" in refused.output
    assert "research rebase" in refused.output and "Traceback" not in refused.output.partition("error:")[2]
    code, output = cli(repository, "rebase", "TOY-002.01")
    assert code == 1 and "regressed, exploratory against TOY-001; expected an improvement that is replicated" in output

    code, output = cli(repository, "rebase", "TOY-003")
    assert code == 0, output
    rebase = repository.entry(repository.ids[-1])
    assert rebase.config["to"]["work"] == 1000 and "improved, replicated" in rebase.result
    assert {"TOY-001", "TOY-002.02", "TOY-003", "TOY-003.01"} <= {ref.id for ref in rebase.inputs}
    assert "moves to work=1000" in repository.head

    repository.ok()
    assert "`mode=paired size=1 work=1000`" in repository.head
    best = next(line for line in repository.head.splitlines() if "Best against" in line)
    assert "work=500" in best, "what was better than the old baseline is no claim against the new one"
    repository.write(REPLICATED.replace("steps.interpret(", "steps.sweep(base, ('size', [3]))\n    steps.interpret("))
    repository.measure(MEASURE + "\nanother = 'code'\n")
    back = repository.run()
    assert back.code == 1 and "work=1000" in back.output and "fixed since" in back.output
    code, output = cli(repository, "rebase", "TOY-004")
    assert code == 1 and "on a baseline case that is in force" in output, "it is no improvement on the case in force"


def test_a_retracted_trial_is_measured_anew_with_all_that_rested_on_it(repository: UntimedThread) -> None:
    """What rested on it says so at once, verdicts are made again without it, and the next run mends the thread."""
    repository.write(REPLICATED)
    repository.ok()
    before = len(repository.measured)

    code, output = cli(repository, "retract", "TOY-002.02", "the wrong kernel was timed")
    assert code == 0, output
    taken = repository.entry("TOY-005")
    assert "On it rested: TOY-002, TOY-003, TOY-004." in taken.result
    assert "work=1000, cost: improved, replicated → improved, replicated" in taken.result
    (again,) = taken.claims or ()
    assert "TOY-002.02" not in {ref.id for ref in (*again.trials, *again.also)}
    for id in ("TOY-002", "TOY-003", "TOY-004"):
        assert "rests on TOY-002.02, which TOY-005 retracted" in cli(repository, "show", id)[1]
    assert "the wrong kernel was timed" in cli(repository, "show", "TOY-002.02")[1]
    assert "TOY-002.02" not in next(line for line in repository.head.splitlines() if "Best against" in line)

    repository.ok()
    assert repository.ids[5:] == ["TOY-006", "TOY-007", "TOY-008"]
    assert len(repository.measured) == before + 2, "one trial, both sides"
    assert [(row.trial.id, row.measured_here) for row in repository.entry("TOY-006").rows] == [
        ("TOY-006.02", True), ("TOY-002.01", False),
    ]  # fmt: skip
    assert repository.says("TOY-007") == {"{'work': 1000}": "improved, replicated"}
    assert {ref.id for ref in repository.claims("TOY-007")[0].also} == {"TOY-006.02"}
    assert "improved, replicated" in repository.entry("TOY-008").interpretation
    assert "nothing new" in repository.ok()

    code, output = cli(repository, "correct", "TOY-006.02", "the unit is thousands")
    assert code == 0, output
    assert "On it rested: TOY-006, TOY-007, TOY-008." in repository.entry("TOY-009").result
    assert "improved, replicated → improved, replicated" in repository.entry("TOY-009").result
    assert "the unit is thousands" in cli(repository, "show", "TOY-006.02")[1]
    assert "nothing new" in repository.ok()


def test_a_retracted_baseline_is_measured_anew_and_fixes_no_case(repository: UntimedThread) -> None:
    """A baseline that was wrong can be taken back; then another case is accepted under its label."""
    repository.ok()
    assert cli(repository, "retract", "TOY-001", "the wrong case")[0] == 0
    assert "On it rested: TOY-002, TOY-003." in repository.entry("TOY-004").result
    repository.write(SWEEP.replace("Config()", "Config(work=3000)"))
    repository.ok()
    assert "work=3000" in repository.head
    assert repository.entry("TOY-005").config["baseline_case"]["work"] == 3000


def test_what_was_tried_is_told_and_may_be_skipped(repository: UntimedThread) -> None:
    """After an edit of the kernel its old failure is told with ID, reason and conditions. With --skip_known it is a row
    that says so, and stays known; what works by now is not told as failing."""
    repository.ok()
    repository.measure(MEASURE + "\nedited = 1\n")
    before = len(repository.measured)
    output = repository.ok("--skip_known", "true")

    told = "tried before as TOY-002.04, failed: ValueError: no such kernel (the measure function's code has changed"
    assert told in output
    assert "tried before as TOY-002.02, regressed, cost " in output
    assert [line.split()[0] for line in repository.measured[before:]].count("4000") == 0
    rows = {row.changes["work"]: row for row in repository.entry("TOY-005").rows}
    assert rows[13].trial.id == "TOY-002.04" and "skipped: tried before as TOY-002.04" in rows[13].note
    assert rows[1000].measured_here and not rows[4000].measured_here
    assert "skipped: tried before" in repository.logbook
    assert "`work=4000`: cost " in repository.head.partition("## Negative results")[2], "it did regress"

    repository.measure(MEASURE.replace("BROKEN = 13", "BROKEN = -1"))
    assert "tried before as TOY-002.02, regressed" in repository.ok(), "skipping it did not make it unknown"
    assert {claim.changes["work"]: claim.verdict for claim in repository.claims("TOY-008")}[13] == "improved"
    repository.measure(MEASURE.replace("BROKEN = 13", "BROKEN = -2"))
    output = repository.ok("--skip-known", "true")
    assert "no such kernel" not in output
    assert "no such kernel" not in next(row.note for row in repository.entry("TOY-011").rows if "13" in str(row.changes))


def test_an_interaction_takes_axes_that_were_swept_alone(repository: UntimedThread) -> None:
    """Another one is refused with what to do; forced, that is in the record."""
    both = """
    base = steps.baseline(measure, Config())
    works = steps.sweep(base, ("work", [1000]))
    steps.interact(works, ("size", [2, 3]))
"""
    repository.write(both)
    refused = repository.run()
    assert refused.code == 1 and "not swept alone before: size" in refused.output
    assert "steps.sweep" in refused.output and "--force true" in refused.output
    assert repository.ids == ["TOY-001", "TOY-002"]

    repository.ok("--force", "true")
    assert repository.entry("TOY-003").config["forced"] == ["not swept alone before: size"]
    assert "not swept alone before: size" in repository.logbook
    assert [row.changes for row in repository.entry("TOY-003").rows] == [
        {"work": 1000, "size": 2}, {"work": 1000, "size": 3},
    ]  # fmt: skip


def test_other_conditions_are_measured_again_and_never_mixed(repository: UntimedThread) -> None:
    """The environment is part of what a trial is. What was found before stays as it was found, and trials of the two
    are not compared; replicates under other conditions are refused."""
    repository.write(REPLICATED)
    repository.ok(XLA_FLAGS="--a")
    before = len(repository.measured)
    repository.ok(XLA_FLAGS="--b")
    assert len(repository.measured) == 2 * before
    assert repository.says("TOY-007") == {"{'work': 1000}": "improved, replicated"}
    assert "TOY-003.01" not in {ref.id for ref in (*repository.claims("TOY-007")[0].also,)}
    assert "nothing new" in repository.ok(XLA_FLAGS="--a")

    code, output = cli(repository, "compare", "TOY-002.01", "TOY-006.01")
    assert code == 0 and "not comparable: they differ in XLA_FLAGS" in output
    assert "differs: XLA_FLAGS: --a  |  --b" in output
    same = json.loads(cli(repository, "compare", "TOY-002.01", "TOY-002.02", "--json")[1])
    assert same["comparable"] is True and same["varied"] == {"work": [4000, 1000]}

    code, output = repository.command("replicate", "TOY-006.01").ended()
    assert code == 1 and "XLA_FLAGS" in output and "--b" in output
    assert "improved, replicated" in repository.head.partition("- TOY")[0]


def test_a_variable_that_the_code_reads_is_part_of_what_was_measured(repository: UntimedThread) -> None:
    """Another value is measured again and compared with nothing that another one gave; the record says which it was."""
    repository.measure(MEASURE + "\nimport os\nMODE = os.environ.get('TOY_MODE')\n")
    repository.write(REPLICATED)
    repository.ok(TOY_MODE="a", OTHER="a")
    before = len(repository.measured)
    assert "nothing new" in repository.ok(TOY_MODE="a", OTHER="b")
    repository.ok(TOY_MODE="b")
    assert len(repository.measured) == 2 * before
    trials = [stored.record for stored in repository.known().trials.values()]
    assert {trial.provenance.env.get("TOY_MODE") for trial in trials} == {"a", "b"}
    output = cli(repository, "compare", "TOY-002.01", "TOY-006.01")[1]
    assert "not comparable: they differ in TOY_MODE" in output


def test_what_can_not_be_paired_takes_replicates(repository: UntimedThread) -> None:
    """A measure function that returns is compared by its processes: one says nothing, three are tested by Welch."""
    alone = 'Config(mode="alone")'
    repository.write(
        SWEEP.replace("Config()", alone).replace(
            "    steps.interpret(base, works)", "    steps.interpret(base, works, steps.replicate(works, n=3))"
        )
    )
    repository.ok()
    first = {claim.changes["work"]: claim for claim in repository.claims("TOY-002")}
    assert first[1000].verdict == "inconclusive" and first[1000].estimate is not None and first[1000].low is None
    assert "replicate it, and the baseline" in first[1000].why
    (judged,) = repository.claims("TOY-003")
    assert (judged.changes, judged.verdict, judged.confidence) == ({"work": 1000}, "improved", "replicated")
    assert (judged.processes, judged.floor_processes) == (3, 3)
    assert judged.method.startswith("Welch") and judged.estimate == pytest.approx(0.5, rel=0.01)
    assert judged.low is not None and 0.4 < judged.low < judged.estimate
    assert f"work=1000 is best: cost {judged.estimate:.3f} × " in repository.entry("TOY-004").interpretation


def test_at_a_variant_the_baseline_is_measured_too(repository: UntimedThread) -> None:
    """Without pairs: twice the size costs both sides twice as much, which says nothing about the candidate."""
    repository.write(
        SWEEP.replace("Config()", 'Config(mode="alone")')
        .replace("[1000, 4000, 2004, 13]", "[2004]")
        .replace("steps.interpret(base, works)", 'steps.replicate(works, across=("size", [1, 2]))')
    )
    repository.ok()
    rows = [(row.changes, row.note) for row in repository.entry("TOY-003").rows]
    assert rows[:4] == [({"work": 2004}, "both at size=1")] * 3 + [({"work": 2004}, "both at size=2")]
    assert rows[6:] == [({}, "both at size=2")] * 3, "the baseline at the size at which it was not measured yet"
    at_one, at_two = repository.claims("TOY-003")
    assert {at_one.verdict, at_two.verdict} <= {"no difference", "inconclusive"}
    assert at_two.estimate == pytest.approx(1.0, abs=0.02) and at_two.floor_processes == 3
    assert [ref.id for ref in at_two.floor] == [f"TOY-003.{number:02d}" for number in (7, 8, 9)]


def test_a_metric_with_a_target_is_judged_by_the_distance_to_it(repository: UntimedThread) -> None:
    """Closer is better from both sides, in shares of the target."""
    repository.write(
        SWEEP.replace("[1000, 4000, 2004, 13]", "[1500, 900, 100, 3900]"),
        metric='Metric("cost", "target", target=1000.0, timed=False)',
    )
    repository.ok()
    by_work = {claim.changes["work"]: claim for claim in repository.claims("TOY-002")}
    assert {work: claim.verdict for work, claim in by_work.items()} == {
        1500: "improved", 900: "improved", 100: "improved", 3900: "regressed",
    }  # fmt: skip
    assert {claim.estimand for claim in by_work.values()} == {"difference"}
    assert by_work[1500].estimate == pytest.approx(-0.5, abs=0.02)
    assert "work=900 is best: cost -" in repository.entry("TOY-003").interpretation


def test_a_sweep_in_which_nothing_can_win_says_so(repository: UntimedThread) -> None:
    """The baseline's own value is no candidate and never the winner; where all fail there is nothing to go on with."""
    body = """
    base = steps.baseline(measure, Config())
    broken = steps.sweep(base, ("work", [13]), label="broken")
    steps.interpret(base, steps.sweep(base, ("work", [2000])), broken, steps.replicate(broken, label="again"))
"""
    repository.write(body)
    repository.ok()
    labelled = {stored.record.label: stored.record for stored in repository.known().entries.values()}
    own, broken, reading, again = (labelled[label] for label in ("work", "broken", "interpretation", "again"))
    assert again.result == f"nothing was measured: {broken.id} has no candidate with an estimate of cost"
    assert own.claims == () and own.result == "1 trial, none improved"
    assert own.interpretation.endswith("Nothing but the baseline case was measured.")
    assert [row.trial.id for row in own.rows] == ["TOY-001.01"], "it is the first process of the baseline"
    assert repository.head.partition("## Negative results\n")[2].startswith(f"- `work=13` failed ({broken.id}.01)")
    assert broken.next_action == "Mend what failed, or sweep other values."
    assert "No candidate improves cost over the baseline. Of 1 candidates: 1 failed." in reading.interpretation


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ('steps.sweep(base, ("work", [1000, 1000]))', "has work=1000 twice: give each value once"),
        ("steps.baseline(measure, Config(work=5))", "two baselines 'baseline' with different cases"),
        ('steps.replicate(steps.sweep(base, ("size", [2])), across=("size", [1, 2]))', "is what its sweep varies"),
        ('steps.replicate(steps.sweep(base, ("work", [1])), across=("mode", ["paired"]))', "does not declare relevant"),
    ],
)
def test_a_thread_that_could_not_be_judged_is_refused_before_it_runs(
    repository: UntimedThread, body: str, told: str
) -> None:
    """One value twice, one label for two cases, a variant that is the axis itself, or none of the series'."""
    repository.write(f"\n    base = steps.baseline(measure, Config())\n    {body}\n")
    refused = repository.run()
    assert refused.code == 1 and told in refused.output, refused.output
    assert repository.known().entries == {}


def test_a_path_that_the_executor_chose_does_not_fix_a_baseline(tmp_path: Path) -> None:
    """It changes with the code and the store; the case that the thread gives is the same."""
    repository = Repository(tmp_path / "checkout")
    body = """
    from marin.execution.types import this_output_path

    steps.baseline(measure, Config({work}out=this_output_path("x")))
"""
    repository.thread(body.replace("{work}", ""))
    assert repository.run().code == 0
    repository.measure(TIMED.replace("sum(range(config.work))", "sum(range(config.work + 1))"))
    edited = repository.run()
    assert edited.code == 0, edited.output
    assert repository.ids == ["TOY-001", "TOY-002"]
    repository.thread(body.replace("{work}", "work=7, "))
    refused = repository.run()
    assert refused.code == 1 and "since TOY-002 with work=2000; the thread gives work=7. Move" in refused.output


def test_what_is_private_is_not_told_by_a_retraction(repository: UntimedThread) -> None:
    """Taking back a public baseline says nothing of the private sweeps that rest on it."""
    body = """
    base = steps.baseline(measure, Config())
    steps.sweep(base, ("work", [1000]))
    steps.sweep(base, ("size", [77]), label="hush", private=True, shards=2)
"""
    repository.write(body)
    repository.ok()
    assert cli(repository, "retract", "TOY-001", "the wrong case")[0] == 0
    taken = repository.entry("TOY-004")
    assert "work=1000" in taken.result and not taken.private
    assert "TOY-003" not in taken.result and "77" not in taken.result
    assert {name for claim in taken.claims or () for name in claim.changes} == {"work"}
    assert "hush" not in repository.logbook and "size=77" not in repository.logbook


def test_nobody_types_a_claim_in(repository: UntimedThread) -> None:
    """A record that somebody forged beside the logbook carries no baseline: a move makes the verdict again, from
    trials."""
    repository.ok()
    path = repository.root / ".agents" / "logbooks" / "toy" / "TOY-002.jsonl"
    forged: list[dict[str, Any]] = [json.loads(line) for line in path.read_text().splitlines()]
    (made,) = [record for record in forged if record["kind"] == "entry"]
    made |= {"id": "TOY-009", "key": "TOY-009", "finished_at": "2099-01-01T00:00:00.000Z"}
    for forged_claim in made["claims"]:
        forged_claim |= {"verdict": "improved", "confidence": "replicated"}
    line = json.dumps(made, sort_keys=True, separators=(",", ":"))
    (path.parent / "TOY-009.jsonl").write_text(line + "\n")
    code, output = cli(repository, "rebase", "TOY-009")
    assert code == 1 and "expected an improvement that is replicated" in output


def test_a_claim_that_says_nothing_takes_the_place_of_none() -> None:
    """What can't be compared with its baseline leaves what was found before as it is, until that is taken back."""
    earlier, apart = claim(), claim(verdict="not comparable", trials=(), estimate=None)
    assert standing([entry(claims=(earlier,)), entry(claims=(apart,))]) == [earlier]
    assert standing([entry(claims=(apart,)), entry(claims=(earlier,))]) == [earlier]
    assert standing([entry(claims=(earlier,)), entry(step="retraction", claims=(apart,))]) == [apart]


def test_what_was_stable_is_so_only_while_its_variants_agree() -> None:
    """A variant that regresses later takes it back to replicated."""
    series = Series(topic="t", prefix="T", goal="go", metrics=[Metric("time_s")], variants=("tokens",))
    wide = [claim(case={"tokens": tokens}, confidence="stable") for tokens in (1, 2, 3)]
    assert {claim.confidence for claim in together(series, wide)} == {"stable"}
    wide[2] = claim(case={"tokens": 3}, confidence="replicated", verdict="regressed")
    assert {claim.confidence for claim in together(series, wide)} == {"replicated"}


def test_an_interval_ends_where_numbers_do() -> None:
    """A noisy baseline of one process and hundreds of candidates: no verdict, and nothing breaks."""
    ratio, difference = Scale("ratio", 1.0, 0.02), Scale("difference", 1.0, 0.02)

    def interval(scale: Scale, half: float) -> Interval:
        return Interval(scale, 0.0, half, half, half, half, 1, 1, "")

    low, high = interval(ratio, 800.0).ends or (0, 0)
    assert low == pytest.approx(math.exp(-700)) and high == pytest.approx(math.exp(700)), "as far as numbers go"
    assert interval(ratio, 0.0).ends == (1.0, 1.0)
    assert interval(difference, math.inf).ends is None
