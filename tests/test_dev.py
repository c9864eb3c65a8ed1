"""Dev mode, by the real command and a real kept parent: one configuration against the baseline, recorded."""

import os
import re
import signal
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from research_steps.trial.launcher.daemon import Daemon

from tests.support.dev_checkout import DevCheckout, checkout
from tests.support.scratch_logbook import git
from tests.support.ssh_server import soon
from tests.support.toy_thread import RESEARCH
from tests.support.untimed_thread import MEASURE

HALF, QUARTER = pytest.approx(0.5, rel=0.03), pytest.approx(0.25, rel=0.03)


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[DevCheckout]:
    with checkout(tmp_path) as made:
        yield made


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevCheckout]:
    """A checkout with a kept parent and a noise floor, for tests that leave its code as it is."""
    with checkout(tmp_path_factory.mktemp("dev")) as made:
        made.dev("--set", "work=1500")
        yield made


def ratio(output: str) -> float:
    """The first estimate in an answer."""
    return float(output.partition("cost ")[2].split()[0])


# -- the answer --------------------------------------------------------------------------------------------------------


def test_an_attempt_is_answered_and_recorded_as_scratch(repository: DevCheckout) -> None:
    """Ratio with interval and verdict, and its ID; in the journal and in the status, and not in the logbook."""
    output = repository.dev("--set", "work=1000")
    assert "TOY-001.01 work=1000: cost" in output
    assert ratio(output) == HALF
    assert "improved, exploratory" in output
    assert "research keep TOY-001 --hypothesis" in output
    assert "the baseline against itself, in 3 processes" in output

    (record,) = repository.trials()
    assert (record.id, record.mode, record.config["work"]) == ("TOY-001.01", "dev", 1000)
    assert record.launch is not None and record.launch.how == "forked"
    assert [attempt["id"] for attempt in repository.status()["scratch"]] == ["TOY-001", "TOY-002"]
    assert not (repository.root / ".agents").exists()

    assert "against itself, in" not in repository.dev("work=1000")
    assert [trial.id for trial in repository.trials()] == ["TOY-001.01", "TOY-003.01"]


def test_dev_mode_loads_no_marin(repository: DevCheckout) -> None:
    """Neither in the parent nor in a trial; what the measure function prints is seen live."""
    repository.measure(
        MEASURE.replace(
            "    if config.work == BROKEN:",
            "    import sys\n    print('marin' in sys.modules)\n    if config.work == BROKEN:",
        )
    )
    assert "False\n" in repository.dev("--set", "work=1000")


def test_an_edited_kernel_is_what_is_measured(repository: DevCheckout) -> None:
    """Also before it is committed; the noise floor of before serves, which is said, and the patch is kept."""
    repository.dev("--set", "work=1000")
    repository.measure(
        MEASURE.replace('yield {"cost": config.work', 'yield {"cost": (config.work - 500 * (config.work < 2000))')
    )
    output = repository.dev("--set", "work=1000")
    assert ratio(output) == QUARTER
    assert "the noise floor is that of TOY-002.01, measured before the code was edited" in output
    before, after = repository.trials()
    assert before.code != after.code
    assert before.provenance.patch is None
    assert after.provenance.patch is not None
    assert b"- 500 *" in (repository.journal.patch(after.provenance.patch) or b"")


def test_several_processes_stay_exploratory(shared: DevCheckout) -> None:
    """Three processes agree, and dev mode is no path for final claims."""
    output = shared.dev("--set", "work=1000", "-n", "3")
    assert "01 to 03 work=1000: cost " in output
    assert "improved, exploratory" in output


def test_what_is_measured_sees_the_environment_of_the_command(repository: DevCheckout) -> None:
    """A variable is there in the next attempt, and gone in the one after; JAX's compilation cache is on."""
    show = "    print('seen', os.environ.get('MY_FLAG'), os.environ['JAX_COMPILATION_CACHE_DIR'])\n"
    repository.measure(MEASURE.replace("    if config.work == BROKEN:", show + "    if config.work == BROKEN:"))
    cache = str(repository.root.parent / "cache" / "research-steps" / "jax")
    assert f"seen 7 {cache}" in repository.dev("work=1000", MY_FLAG="7")
    assert f"seen None {cache}" in repository.dev("work=1000")


def test_a_measure_function_that_returns_is_compared_with_the_same_code(repository: DevCheckout) -> None:
    """Without pairs the baseline itself is what it is compared with, so an edit measures that anew."""
    repository.write("    steps.baseline(measure, Config(mode='alone'))")
    assert ratio(repository.dev("work=1000", "-n", "2")) == HALF
    repository.measure(MEASURE.replace('return {"cost": config.work', 'return {"cost": 2 * config.work'))
    output = repository.dev("work=1000", "-n", "2")
    assert "against itself, in" in output
    assert ratio(output) == HALF


# -- what it refuses, and what fails -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "work"], "--set was given 'work': expected key=value"),
        (["--set", "wrok=1"], "--set wrok=1: unrecognized arguments: --wrok=1: expected one of work, "),
        (["--set", "wrok=1", "--set", "mode=x"], "Did you mean 'work'?"),
        (["--set", "work=much"], "--set work=much: "),
        (["--baseline", "other"], "The thread declares no baseline 'other': it has 'baseline'."),
    ],
)
def test_what_can_not_be_measured_is_told_in_a_sentence(shared: DevCheckout, arguments: list[str], message: str) -> None:
    """No ID is taken for it."""
    before = shared.journal.ids.reserved()
    (error,) = [line for line in shared.dev(*arguments, code=1).splitlines() if line.startswith("error: ")]
    assert message in error
    assert shared.journal.ids.reserved() == before


def test_code_that_does_not_run_is_told_and_the_next_attempt_goes_well(repository: DevCheckout) -> None:
    """A slip of the editor is named with its line and is no attempt."""
    good = (repository.experiment / "measure.py").read_text()
    repository.measure(good + "def broken(:\n")
    assert "can't be imported: SyntaxError" in repository.dev("work=1000", code=1)
    repository.measure(good)
    assert "TOY-001.01 work=1000: cost " in repository.dev("work=1000")


def test_a_candidate_that_fails_is_a_record(shared: DevCheckout) -> None:
    """It says why; once kept, the next attempt at it is warned of before it begins."""
    output = shared.dev("work=13", code=1)
    assert "work=13: ValueError: no such kernel" in output
    assert shared.trials()[-1].status == "failed"


def test_a_baseline_that_was_measured_stays_where_it_is(repository: DevCheckout) -> None:
    """As in a thread: another case under its label is refused."""
    repository.ok()
    repository.write("    steps.baseline(measure, Config(size=2))")
    assert "is fixed since TOY-001 with size=1; the thread gives size=2" in repository.dev("work=1000", code=1)


def test_ctrl_c_ends_the_trial_and_leaves_a_record(repository: DevCheckout) -> None:
    """Its process is gone, it stands as interrupted, and the parent serves the next attempt."""
    repository.dev("work=1000")
    (repository.root / "hold").write_text("0")
    with repository.start("dev", "toy", "work=1500") as process:
        parent = psutil.Process(repository.parent)
        assert soon(lambda: repository.status()["open"])
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert soon(lambda: not parent.children())
    assert soon(lambda: repository.status()["interrupted"] == 1)
    assert repository.status()["open"] == []
    (repository.root / "hold").unlink()
    assert "improved" in repository.dev("work=1500")
    assert repository.parent == parent.pid


def test_a_second_environment_waits_for_the_first(repository: DevCheckout) -> None:
    """The attempt that runs ends by itself before the parent is replaced."""
    repository.dev("work=1000")
    (repository.root / "hold").write_text("0")
    with repository.start("dev", "toy", "work=1500") as first:
        assert soon(lambda: repository.status()["open"])
        with repository.start("dev", "toy", "work=1600", XLA_FLAGS="--xla_dump_hlo_as_text") as second:
            with pytest.raises(subprocess.TimeoutExpired):
                second.communicate(timeout=2)
            (repository.root / "hold").unlink()
            assert "improved" in first.communicate(timeout=60)[0]
            assert "work=1600: cost" in second.communicate(timeout=60)[0]
    assert repository.status()["interrupted"] == 0


def test_what_a_thread_raises_is_told_with_its_line(repository: DevCheckout) -> None:
    """And so is what goes wrong in a helper in any other way; the parent lives on."""
    repository.write("    base, = [][0]\n    steps.baseline(measure, Config())")
    assert "The thread failed before it declared the baseline" in repository.dev("work=1000", code=1)
    assert "IndexError" in repository.dev("work=1000", code=1)


def test_a_case_that_is_a_dict_is_set_by_the_kind_of_its_values(repository: DevCheckout) -> None:
    """1e-3 is a number where one was, fields are found by their path, and a file can't take the case's place."""
    body = "    steps.baseline(measure, {'rate': 0.5, 'inner': {'work': 4}})"
    repository.measure(
        "def measure(config):\n    while True:\n        yield {'cost': config['rate'] * config['inner']['work']}\n"
    )
    main = repository.experiment / "__main__.py"
    repository.write(body)
    main.write_text(main.read_text().replace("import Config, measure", "import measure"))
    assert ratio(repository.dev("rate=1e-3", "inner.work=8")) == pytest.approx(0.004, abs=1e-3)
    assert repository.trials()[-1].config == {"rate": 0.001, "inner": {"work": 8}}
    told = repository.dev("inner.works=1", code=1)
    assert "'inner.works': expected one of rate, inner, inner.work. Did you mean 'inner.work'?" in told
    assert "would replace the baseline case" in repository.dev("config_path=x.yaml", code=1)


def test_all_that_is_printed_is_shown(repository: DevCheckout) -> None:
    """Also a megabyte of it, to the end."""
    noisy = "    print('x' * 1_200_000)\n    print('the end')\n    if config.work == BROKEN:"
    repository.measure(MEASURE.replace("    if config.work == BROKEN:", noisy))
    output = repository.dev("work=1000")
    assert output.count("the end") >= 2
    assert output.count("x") > 2_400_000


def test_the_patch_is_that_of_the_code_that_was_measured(repository: DevCheckout) -> None:
    """Also of a file that is saved while the thread is being read."""
    main = repository.experiment / "__main__.py"
    edit = "Path(__file__).with_name('measure.py').open('a').write('# saved meanwhile\\n')"
    main.write_text(f"from pathlib import Path\nimport time\ntime.sleep(0.5)\n{edit}\n" + main.read_text())
    repository.commit()
    repository.dev("work=1000", "--label", "edited")
    (record,) = repository.trials()
    assert b"+# saved meanwhile" in (repository.journal.patch(record.provenance.patch or "") or b"")


# -- keeping and confirming --------------------------------------------------------------------------------------------


def test_what_is_kept_becomes_an_entry_under_its_id(repository: DevCheckout) -> None:
    """With what a person says of it, the rules' own verdict, and the noise floor that it rests on; once."""
    repository.dev("work=1000")
    output = repository.research(
        "keep",
        "TOY-001",
        "--hypothesis",
        "less work costs less",
        "--interpretation",
        "as thought",
        "--next",
        "confirm it",
    )
    assert "TOY-001: work=1000" in output
    entry = repository.entry("TOY-001")
    assert (entry.mode, entry.step, entry.hypothesis) == ("dev", "dev", "less work costs less")
    assert (entry.interpretation, entry.next_action) == ("as thought", "confirm it")
    assert repository.says("TOY-001") == {"{'work': 1000}": "improved, exploratory"}
    assert "1 attempt in dev mode, best work=1000: cost " in repository.logbook
    assert repository.logbook.count("noise floor of the baseline") == 3
    assert repository.research("verify", "toy").startswith("toy: 1 entries, 0 tags, 0 milestones checked, no problems")
    assert "TOY-001 is an entry already" in repository.research("keep", "TOY-001", "--hypothesis", "H1", code=1)
    assert "TOY-099 is no experiment ID of dev mode" in repository.research(
        "keep", "TOY-099", "--hypothesis", "H1", code=1
    )


def test_two_stores_of_one_checkout_give_no_number_twice(repository: DevCheckout, tmp_path: Path) -> None:
    """What dev mode was given in one store is no other entry's ID, whichever store that is in."""
    repository.dev("work=1000")
    elsewhere = str(tmp_path / "elsewhere")
    repository.ok("--prefix", elsewhere)
    repository.research("keep", "TOY-001", "--hypothesis", "H1")
    assert len(set(repository.ids)) == len(repository.ids) == 4
    assert "TOY-001" in repository.ids
    repository.research("retract", "TOY-001", "a slip")
    assert "no problems" in repository.research("verify", "toy")


def test_what_is_kept_gets_another_number_where_its_own_was_taken(repository: DevCheckout, tmp_path: Path) -> None:
    """By an entry that a merge brought: the trials keep their names, and 'keep' says the entry's."""
    subprocess.run(["git", "clone", "--quiet", str(repository.root), str(tmp_path / "colleague")], check=True)
    colleague = tmp_path / "colleague"
    repository.dev("work=1000")
    subprocess.run([*RESEARCH, "kickoff", "toy", "--branch", "."], cwd=colleague, check=True, env=repository.environment)
    git(colleague, "add", "--all")
    git(colleague, "-c", "user.name=B", "-c", "user.email=b@example.org", "commit", "--quiet", "--message", "kickoff")
    repository.git("pull", "--quiet", str(colleague))
    assert repository.ids == ["TOY-001"]
    rehearsed = repository.research("keep", "TOY-001", "--hypothesis", "H1", "--dry-run")
    assert rehearsed.endswith("A dry run: nothing was written.\n")
    output = repository.research("keep", "TOY-001", "--hypothesis", "H1")
    assert "TOY-003: work=1000" in output
    assert repository.ids == ["TOY-001", "TOY-003"]
    assert repository.entry("TOY-003").rows[0].trial.id == "TOY-001.01"
    assert repository.status()["scratch"] == []
    assert "TOY-003 is an entry already" in repository.research("keep", "TOY-001", "--hypothesis", "H1", code=1)
    assert "no problems" in repository.research("verify", "toy")


def test_an_attempt_with_a_name_is_an_entry_at_once(repository: DevCheckout) -> None:
    """`--label` or `--hypothesis` says what it is for; a further one continues the numbers."""
    assert "appended to" in repository.dev("work=1000", "--label", "half the work")
    assert repository.ids == ["TOY-001"]
    assert "half the work" in repository.logbook
    assert "with 'research confirm TOY-001.01'" in repository.logbook
    assert "TOY-001" in repository.dev("work=1100", "--hypothesis", "less is less")


def test_what_is_measured_against_a_private_baseline_is_published_nowhere(repository: DevCheckout) -> None:
    """Neither with a label nor when it is kept."""
    repository.write("    steps.baseline(measure, Config(), private=True)")
    repository.dev("work=1000", "--label", "hushed")
    repository.dev("work=1100")
    repository.research("keep", "TOY-003", "--hypothesis", "hushed")
    assert repository.entry("TOY-001").private is True
    assert repository.entry("TOY-003").private is True
    assert not (repository.root / ".agents" / "logbooks" / "toy.md").exists() or "hushed" not in repository.logbook


def test_only_trials_that_count_are_kept(repository: DevCheckout) -> None:
    """A retracted one is left out, and a trial that isn't there is refused before there is an entry."""
    repository.dev("work=1000", "-n", "2")
    assert "TOY-001.99 is no trial that counts" in repository.research("keep", "TOY-001.99", "--hypothesis", "x", code=1)
    repository.research("retract", "TOY-001.01", "it was another machine")
    repository.research("keep", "TOY-001", "--hypothesis", "x")
    assert [row.trial.id for row in repository.entry("TOY-001").rows if row.changes] == ["TOY-001.02"]


def test_a_correction_makes_the_same_verdict_again(repository: DevCheckout) -> None:
    """With the noise floor that dev mode measured; without that floor there is none."""
    repository.dev("work=1000", "--label", "half")
    output = repository.research("correct", "TOY-001", "a slip in the label")
    assert "improved, exploratory → improved, exploratory" in repository.entry(output.partition(":")[0]).result
    repository.research("retract", "TOY-002.01", "throttled")
    assert "against itself, in" in repository.dev("work=1000")


def test_an_edit_that_changes_the_baseline_is_seen(repository: DevCheckout) -> None:
    """Better than a baseline that became worse is not better than before: it runs the code that it was fixed with."""
    repository.ok()
    slower = 'yield {"cost": (4 if config.work >= 1500 else 1) * config.work'
    repository.measure(MEASURE.replace('yield {"cost": config.work', slower))
    assert re.search(r"cost 3\.[78]\d? × \(.*\), regressed", repository.dev("work=1900"))
    assert re.search(r"cost (3\.9|4\.0)\d? × \(.*\), regressed", repository.dev())


def test_what_is_kept_has_its_patch_in_git(repository: DevCheckout, tmp_path: Path) -> None:
    """So a reader whose store is empty sees the exact edits that were measured."""
    repository.measure(MEASURE + "# faster\n")
    repository.dev("work=1000", "--label", "faster")
    shown = repository.research("show", "TOY-001.01", "--patch", "--prefix", str(tmp_path / "empty"))
    assert "\n+# faster\n" in shown


def test_confirming_measures_through_the_executor(repository: DevCheckout) -> None:
    """With its baseline, in fresh processes; what dev mode found is no evidence, only what chose the candidate."""
    repository.dev("work=1000")
    repository.command("confirm", "TOY-001.01").ok()
    (entry,) = [stored.record for stored in repository.known().entries.values() if stored.record.step == "replicate"]
    assert entry.mode == "executor"
    assert entry.config["confirms"] == "TOY-001.01"
    assert repository.says(entry.id) == {"{'work': 1000}": "improved, replicated"}
    assert not any(claim.also for claim in entry.claims)
    assert {repository.journal.load("trial", row.trial).record.mode for row in entry.rows} == {"executor"}

    code = {repository.journal.load("trial", row.trial).record.code for row in entry.rows}
    repository.measure(MEASURE.replace("config.work", "3 * config.work"))
    repository.command("confirm", "TOY-001.01").ok()
    again = repository.known().in_order[-1].record
    (claim,) = again.claims
    assert (claim.look, claim.processes, claim.confidence) == (2, 6, "replicated")
    assert {repository.journal.load("trial", row.trial).record.code for row in again.rows} == code


def test_dev_mode_stands_beside_what_is_known(repository: DevCheckout) -> None:
    """The executor's noise floor serves it, the best so far is told, and what it finds takes nothing's place."""
    repository.ok()
    output = repository.dev("work=1000")
    assert "against itself, in" not in output
    assert "× the best so far (TOY-002.01 work=1000, " in output
    assert "tried before: work=4000: TOY-002.02 regressed" in repository.dev("work=4000")
    measured, _, _ = repository.ok().partition("Best against")
    assert measured.count("cost") == 0, "the executor measures nothing again"


def test_a_thread_runs_dev_mode_itself(repository: DevCheckout) -> None:
    """`python -m experiments.toy --dev true` takes the options of `research dev`."""
    done = repository.run("--dev", "true", "--set", "work=1000")
    assert done.code == 0, done.output
    assert "TOY-001.01 work=1000: cost " in done.output


# -- the kept parent ---------------------------------------------------------------------------------------------------


def test_one_parent_serves_all_attempts_of_a_checkout(shared: DevCheckout) -> None:
    """Only its user can open its socket; `--status` names it."""
    parent = shared.parent
    shared.dev("work=1000")
    assert shared.parent == parent
    folder = Daemon(shared.root).folder
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert f"process {parent} since" in shared.research("dev", "--status")


def test_a_parent_is_replaced_when_what_it_imported_changed(repository: DevCheckout, tmp_path: Path) -> None:
    """Another environment that libraries read, an edited library, an edited lock: each is seen by the next attempt."""
    library = tmp_path / "library"
    library.mkdir()
    (library / "helper.py").write_text("WORTH = 1\n")
    repository.measure(
        MEASURE.replace(
            'yield {"cost": config.work', 'from helper import WORTH\n        yield {"cost": WORTH * config.work'
        ).replace("import os, random, time", "import os, random, time, helper")
    )
    path = {"PYTHONPATH": os.pathsep.join(filter(None, [str(library), os.environ.get("PYTHONPATH", "")]))}
    seen = []
    for change in (
        lambda: None,
        lambda: (library / "helper.py").write_text("WORTH = 1.1  # more\n"),
        lambda: (repository.root / "uv.lock").write_text("another\n"),
        lambda: path.update(XLA_FLAGS="--xla_dump_hlo_as_text"),
    ):
        change()
        assert ratio(repository.dev("work=1000", **path)) == HALF
        seen.append(repository.parent)
    assert len(set(seen)) == 4
    assert soon(lambda: all(not psutil.pid_exists(pid) for pid in seen[:-1]))
    assert ratio(repository.dev("work=1000", **path)) == HALF
    assert repository.parent == seen[-1]


def test_a_killed_parent_is_started_again(repository: DevCheckout) -> None:
    """Nothing of it stands in the way, and nothing below it goes on."""
    repository.dev("work=1000")
    first = repository.parent
    (repository.root / "hold").write_text("0")
    with repository.start("dev", "toy", "work=1500") as process:
        assert soon(lambda: repository.status()["open"])
        below = psutil.Process(first).children(recursive=True)
        os.kill(first, signal.SIGKILL)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "The kept parent ended" in told
    assert psutil.wait_procs(below, timeout=10)[1] == []
    (repository.root / "hold").unlink()
    assert "improved" in repository.dev("work=1500")
    assert repository.parent != first
    assert (repository.status()["open"], repository.status()["interrupted"]) == ([], 1)


def test_an_idle_parent_stops_itself(tmp_path: Path) -> None:
    """And takes its socket along."""
    parent = Daemon(tmp_path, idle_s=3.0)
    folder = parent.ensure({})
    state = parent.state()
    assert state is not None
    assert soon(lambda: not (folder / "socket").exists())
    os.waitpid(state.pid, 0)


# -- in process --------------------------------------------------------------------------------------------------------


def test_in_process_keeps_one_child_and_runs_the_code_as_it_is_now(repository: DevCheckout) -> None:
    """The record says so; a crash costs the child, and the next attempt gets another."""
    repository.dev("work=1000", "--in-process")
    repository.measure(
        MEASURE.replace('yield {"cost": config.work', 'yield {"cost": (config.work - 500 * (config.work < 2000))')
    )
    assert ratio(repository.dev("work=1000", "--in-process")) == QUARTER
    first, second = repository.trials()
    assert first.launch.how == second.launch.how == "in-process"
    assert first.launch.child_pid == second.launch.child_pid

    repository.measure(MEASURE.replace("raise ValueError", "os._exit(5) or ValueError"))
    assert "exit code 5" in repository.dev("work=13", "--in-process", code=1)
    assert ratio(repository.dev("work=1000", "--in-process")) == HALF
    *_, last = repository.trials()
    assert last.launch.child_pid != first.launch.child_pid
    repository.dev("work=1000")
    assert not psutil.pid_exists(last.launch.child_pid), "a forked trial has the accelerator for itself"
