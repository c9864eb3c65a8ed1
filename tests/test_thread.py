"""A thread through the real Marin executor: what it leaves behind, what is measured again and what is not."""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import pytest
from research_steps.errors import UsageError
from research_steps.thread import marin

from tests.support.marin_steps import IS_TODAYS, outputs, returned, step
from tests.support.toy_thread import BODY, MEASURE, Repository, cli, fork


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "checkout")


def test_a_thread_leaves_a_logbook_and_its_cached_rerun_adds_nothing(repository: Repository) -> None:
    """The first run writes an entry for each step; the second measures nothing and changes no byte."""
    first = repository.run()
    assert first.code == 0, first.output
    assert repository.ids == ["TOY-001", "TOY-002", "TOY-003"]
    assert "H1: less work takes less time" in repository.logbook
    assert "work=1000" in repository.logbook
    assert cli(repository, "verify", "toy")[0] == 0
    before, measured = repository.logbook, repository.measured

    second = repository.run()

    assert second.code == 0, second.output
    assert repository.logbook == before
    assert repository.measured == measured
    assert "nothing new" in second.output


def test_an_extended_sweep_measures_only_the_new_point(repository: Repository) -> None:
    """A value added to an axis costs one trial; the new entry's table shows the old ones as measured before."""
    assert repository.run().code == 0
    measured = len(repository.measured)

    repository.thread(BODY.replace("[1000, 4000]", "[1000, 4000, 8000]"))
    assert repository.run().code == 0

    assert sorted(line.split()[0] for line in repository.measured[measured:]) == ["2000", "8000"]
    assert repository.ids == ["TOY-001", "TOY-002", "TOY-003", "TOY-004", "TOY-005"]
    assert repository.logbook.count("measured before") == 2
    assert cli(repository, "verify", "toy")[0] == 0


def test_a_number_that_a_merge_brings_meanwhile_is_not_given(repository: Repository) -> None:
    """Used numbers are looked up for each step, because a thread runs for days and its branch goes on."""
    brought = f'Path("{repository.root}", ".agents/logbooks/toy/TOY-005.jsonl")'
    measured = '    Path("measured")'
    touch = f"    {brought}.parent.mkdir(parents=True, exist_ok=True)\n    {brought}.touch()\n"
    repository.measure(MEASURE.replace(measured, touch + measured))
    assert repository.run().code == 0
    assert repository.ids == ["TOY-001", "TOY-006", "TOY-007"]


def test_an_edited_measure_function_is_measured_again(repository: Repository) -> None:
    """The digest of the measure function's code is part of what a step is; the thread file's text is not."""
    assert repository.run().code == 0
    measured = len(repository.measured)

    repository.thread(BODY + "\n    # a comment in the thread\n")
    assert repository.run().code == 0
    assert len(repository.measured) == measured

    repository.measure(MEASURE.replace("sum(range(config.work))", "sum(range(config.work + 1))"))
    assert repository.run().code == 0
    assert len(repository.measured) == 2 * measured
    assert repository.ids[3:] == ["TOY-004", "TOY-005", "TOY-006"]


def test_a_failing_trial_is_a_row_and_the_sweep_goes_on(repository: Repository) -> None:
    """Exceptions and dying processes are recorded with their reason, and the other points are measured."""
    repository.thread(BODY.replace('("work", [1000, 4000])', '("mode", ["raise", "exit", "other"])'))
    done = repository.run()
    assert done.code == 0, done.output
    assert "failed: ValueError: no such kernel" in repository.logbook
    assert "failed: Exit: the process ended with exit code 3 before it gave a result" in repository.logbook
    assert "3 trials, 2 failed, " in repository.logbook
    code, output = cli(repository, "show", "TOY-002.01", "--json")
    assert code == 0
    (record,) = json.loads(output)
    assert record["error"]["message"] == "no such kernel"
    assert "experiments/toy/measure.py" in record["error"]["frames"][-1]


def test_a_failing_baseline_is_recorded_and_raised(repository: Repository) -> None:
    """What depends on it does not run; mended, the thread goes on, and the failure stays in the record."""
    body = BODY.replace("Config()", 'Config(mode="needs file")')
    repository.thread(body)
    done = repository.run()
    assert done.code == 1
    assert "TOY-001 (baseline) failed: baseline case: FileNotFoundError: needed" in done.output
    assert repository.ids == ["TOY-001"]

    (repository.root / "needed").touch()
    assert repository.run().code == 0
    assert repository.ids == ["TOY-001", "TOY-002", "TOY-003", "TOY-004"]
    assert "**failed**" in repository.logbook
    code, output = cli(repository, "show", "TOY-001", "--json")
    assert code == 0
    assert [record["kind"] for record in json.loads(output)] == ["entry"]
    assert cli(repository, "verify", "toy")[0] == 0


def test_retry_measures_again_what_failed_and_what_rests_on_it(repository: Repository) -> None:
    """A failure is cached until --retry failed; then the sweep and what rests on it are new entries."""
    repository.thread(BODY.replace('("work", [1000, 4000])', '("mode", ["needs file", "other"])'))
    done = repository.run()
    assert done.code == 0
    assert "TOY-002: 1 of 2 trials failed" in done.output and "'--retry failed' measures it again" in done.output
    (repository.root / "needed").touch()
    assert repository.run().code == 0
    assert repository.ids == ["TOY-001", "TOY-002", "TOY-003"]
    measured = len(repository.measured)

    done = repository.run("--retry", "failed")

    assert done.code == 0, done.output
    assert repository.ids == ["TOY-001", "TOY-002", "TOY-003", "TOY-004", "TOY-005"]
    assert sorted(line.split()[1] for line in repository.measured[measured:]) == ["needs", "ok"]
    assert "nothing new" in repository.run("--retry", "failed").output
    assert cli(repository, "verify", "toy")[0] == 0


def test_marins_own_flags_keep_working(repository: Repository, tmp_path: Path) -> None:
    """--dry_run touches nothing, --prefix and MARIN_PREFIX say where the store is, --run_only picks steps."""
    dry = repository.run("--dry_run", "true")
    assert dry.code == 0
    assert "[DRY RUN] Would run toy/baseline" in dry.output
    assert not (repository.root / "local_store").exists()
    assert not (repository.root / ".agents").exists()

    only = repository.run("--run_only", "[toy/baseline]", "--max_concurrent", "1", MARIN_PREFIX=str(tmp_path / "a"))
    assert only.code == 0, only.output
    assert repository.ids == ["TOY-001"]
    assert (tmp_path / "a" / "journal" / "toy").is_dir()

    rest = repository.run("--prefix", str(tmp_path / "b"), "--max_concurrent", "1")
    assert rest.code == 0, rest.output
    assert repository.ids == ["TOY-001", "TOY-002", "TOY-003", "TOY-004"]


def test_force_run_failed_false_leaves_failed_steps_alone(repository: Repository) -> None:
    """Marin's flag for failed steps is respected: nothing is measured or recorded again."""
    repository.thread(BODY.replace("Config()", 'Config(mode="raise")'))
    assert repository.run().code == 1
    done = repository.run("--force_run_failed", "false")
    assert done.code == 1
    assert repository.ids == ["TOY-001"]


def test_marins_own_options_are_all_there() -> None:
    """Every option of Marin's own programs is one of a thread, with the same default: of those with executor steps all
    fields of ExecutorMainConfig; of those with artifact steps all but --run, because a thread runs unless it is dry."""
    from research_steps.thread.options import RunOptions

    ours = {field.name: field.default for field in dataclasses.fields(RunOptions)}
    if IS_TODAYS:
        from marin.experiment.cli import experiment_main

        options = [name for each in experiment_main(lambda: []).params for name in each.opts]
        assert {name.strip("-").replace("-", "_") for name in options} - {"run", "help"} <= set(ours)
    else:
        from marin.execution.executor import ExecutorMainConfig

        for field in dataclasses.fields(ExecutorMainConfig):
            assert ours[field.name] == field.default


def test_placeholders_of_marin_work_in_a_measured_configuration(repository: Repository) -> None:
    """versioned values, paths of other steps and the step's own path arrive resolved in the measure function."""
    repository.thread(
        """
    from experiments.toy.marin_steps import IS_TODAYS, own_path, path_of, step, versioned

    def prepare(config):
        return {"rows": 3}

    data = steps.recorded(step("toy/data", prepare, {}), label="prepare the data")
    config = Config(work=versioned(3000), data=path_of(data, "rows"), out="" if IS_TODAYS else own_path("x"))
    base = steps.baseline(measure, config)
    steps.interpret(base)
"""
    )
    done = repository.run()
    assert done.code == 0, done.output
    store = repository.root / "local_store"
    (line, _) = repository.measured
    (output,) = outputs(store, "toy/data")
    assert line == f"3000 ok {output}" + ("" if IS_TODAYS else "/rows")
    assert repository.ids == ["TOY-001", "TOY-002", "TOY-003"]


def test_recorded_keeps_the_output_path_and_the_result(repository: Repository) -> None:
    """Wrapping an existing step adds an entry and changes neither where it writes nor what it returns."""
    body = """
    from experiments.toy.marin_steps import step

    def work(config):
        return {"answer": 42}

    steps.recorded(step("toy/work", work, {"a": 1}))
"""
    store = str(repository.root / "local_store")
    if IS_TODAYS:
        expected = Path(step("toy/work", print, {"a": 1}).path(store))
    else:
        from marin.execution.executor import compute_output_path

        expected = Path(compute_output_path("toy/work", {"a": 1}, prefix=store))
    repository.thread(body)
    done = repository.run()
    assert done.code == 0, done.output
    assert returned(expected) == {"answer": 42}
    assert repository.ids == ["TOY-001"]
    assert "nothing new" in repository.run().output


def test_a_recorded_step_that_fails_is_recorded_and_raised(repository: Repository) -> None:
    """The exception is in the entry, and the run fails as it would have without us."""
    repository.thread(
        """
    from experiments.toy.marin_steps import step

    def work(config):
        raise RuntimeError("no room")

    steps.recorded(step("toy/work", work, {}))
"""
    )
    done = repository.run()
    assert done.code == 1
    assert "no room" in done.output
    assert "RuntimeError: no room" in repository.logbook


def test_what_marin_cannot_save_is_a_failure_of_the_step(repository: Repository) -> None:
    """A set, say: the entry says so, and once the function returns something else the step runs again."""
    body = """
    from experiments.toy.marin_steps import step

    def work(config):
        return RETURNED

    steps.recorded(step("toy/work", work, {}))
"""
    repository.thread(body.replace("RETURNED", "{1, 2}"))
    done = repository.run()
    told = "returned set, which Marin doesn't save" if IS_TODAYS else "Object of type set is not JSON serializable"
    assert done.code == 1 and told in done.output
    assert "TypeError: " in repository.logbook and told in repository.logbook
    repository.thread(body.replace("RETURNED", '{"both": [1, 2]}'))
    done = repository.run()
    assert done.code == 0, done.output
    assert repository.ids == ["TOY-001", "TOY-002"] and "work finished" in repository.logbook


@pytest.mark.parametrize("lost", ["all", "status", "half", "artifact"])
def test_a_recorded_step_whose_output_is_lost_runs_again(repository: Repository, lost: str) -> None:
    """Deleted as a whole, or cut off by a kill: it is made anew, with an entry of its own. Where only Marin's status is
    missing, as after a kill behind the entry, what the step returned is still there and nothing runs."""
    repository.thread(
        """
    from experiments.toy.marin_steps import step

    def work(config):
        with open("ran", "a") as file:
            file.write("ran\\n")
        return {"answer": 42}

    steps.recorded(step("toy/work", work, {"a": 1}))
"""
    )
    assert repository.run().code == 0
    (output,) = outputs(repository.root / "local_store", "toy/work")
    artifact = output / ".artifact.json"
    if lost == "all":
        shutil.rmtree(output)
    else:
        (output / ".executor_status").unlink()
    if lost == "half":
        artifact.write_text('{"answer":')
    elif lost == "artifact":
        artifact.unlink()
    done = repository.run()
    assert done.code == 0, done.output
    assert returned(output) == {"answer": 42}
    times = 1 if lost == "status" else 2
    assert (repository.root / "ran").read_text() == "ran\n" * times
    assert repository.ids == [f"TOY-00{number}" for number in range(1, times + 1)]


def test_a_recorded_step_with_resources_runs_where_marin_sends_it(repository: Repository) -> None:
    """A step that asks for resources goes through Marin's Fray client, and its result comes back."""
    repository.thread(
        """
    from fray.types import ResourceConfig
    from experiments.toy.marin_steps import step

    def work(config):
        return {"answer": 7}

    steps.recorded(step("toy/far", work, {}, ResourceConfig.with_cpu()))
"""
    )
    done = repository.run()
    assert done.code == 0, done.output
    (output,) = outputs(repository.root / "local_store", "toy/far")
    assert returned(output) == {"answer": 7}
    assert repository.ids == ["TOY-001"]


def test_a_raw_twin_of_a_recorded_step_is_refused(repository: Repository) -> None:
    """A thread in which the executor could pick the unrecorded one of two equal steps does not start."""
    repository.thread(
        """
    from experiments.toy.marin_steps import step

    work = step("toy/work", lambda config: None, {})
    steps.recorded(work)
    steps.recorded(step("toy/next", lambda config: None, {"from": work}))
"""
    )
    done = repository.run()
    assert done.code == 1
    assert "'toy/work' is used both recorded and as it was" in done.output
    assert not (repository.root / ".agents").exists()


def test_shards_measure_each_point_once_for_one_entry(repository: Repository) -> None:
    """A sweep in three shards has one experiment ID, one table, and every trial once."""
    repository.thread(
        BODY.replace("[1000, 4000], ", "").replace('("work", [1000, 4000])', '("work", [1, 2, 3, 4, 5]), shards=3')
    )
    done = repository.run()
    assert done.code == 0, done.output
    assert repository.ids == ["TOY-001", "TOY-002", "TOY-003"]
    assert sorted(line.split()[0] for line in repository.measured).count("2000") == 7
    assert [f"TOY-002.0{n}" in repository.logbook for n in range(1, 6)] == [True] * 5
    assert cli(repository, "verify", "toy")[0] == 0


def test_a_retry_reaches_the_shards_of_a_sweep_that_was_never_put_together(repository: Repository) -> None:
    """The driver ended before the last shard did: what had failed in a finished one is measured again all the same."""
    repository.thread(
        """
    base = steps.baseline(measure, Config())
    steps.sweep(base, ("mode", ["needs file", "other"]), label="modes", shards=2)
"""
    )
    done = repository.run("--run_only", '["shard-0"]')
    assert done.code == 0 and "FileNotFoundError" in done.output, done.output
    (repository.root / "needed").touch()
    done = repository.run("--retry", "failed")
    assert done.code == 0, done.output
    table = repository.logbook.partition("TOY-002 modes")[2]
    assert "2 trials, best" in table or "2 trials, none improved" in table


def test_replicate_and_interact_go_on_with_what_won(repository: Repository) -> None:
    """The best point is measured in further processes, and the best points of two axes together."""
    repository.thread(
        """
    base = steps.baseline(measure, Config())
    works = steps.sweep(base, ("work", [1000, 100]))
    modes = steps.sweep(base, ("mode", ["other"]))
    both = steps.interact(works, modes)
    again = steps.replicate(works, n=3)
    steps.interpret(base, works, modes, both, again)
"""
    )
    done = repository.run("--max_concurrent", "1")
    assert done.code == 0, done.output
    assert "`mode=other work=100`" in repository.logbook
    assert "if the axes did not interact" in repository.logbook
    assert "`work=100 #1`" in repository.logbook and "`work=100 #2`" in repository.logbook
    code, output = cli(repository, "show", "TOY-005", "--json")
    assert code == 0
    claim = json.loads(output)[0]["claims"][0]
    assert claim["changes"] == {"work": 100} and len(claim["trials"]) == 3
    assert [ref["id"] for ref in claim["also"]] == ["TOY-002.02"]


def test_seal_tags_a_commit_and_touches_nothing_else(repository: Repository) -> None:
    """Index, work tree, branch and stash stay as they are with a dirty tree; the tag holds logbook, code and bundle."""
    assert repository.run().code == 0
    (repository.root / "notes.txt").write_text("staged")
    repository.git("add", "notes.txt")
    (repository.root / "notes.txt").write_text("unstaged")
    (repository.root / "new.txt").write_text("untracked")
    index = (repository.root / ".git" / "index").read_bytes()
    head = repository.git("rev-parse", "HEAD")

    done = repository.run("--seal", "true")

    assert done.code == 0, done.output
    assert repository.git("tag", "--list").split() == ["toy/TOY-004"]
    assert repository.git("cat-file", "-t", "toy/TOY-004").strip() == "tag"
    assert (repository.root / ".git" / "index").read_bytes() == index
    assert repository.git("rev-parse", "HEAD") == head
    assert (repository.root / "notes.txt").read_text() == "unstaged"
    sealed = repository.git("diff", "--name-only", "HEAD", "toy/TOY-004").split()
    assert ".agents/logbooks/toy/TOY-004.bundle.json" in sealed
    assert ".agents/logbooks/toy.md" in sealed
    assert not {"notes.txt", "new.txt"} & set(sealed)
    assert repository.ids[-1] == "TOY-004"
    assert "tag `toy/TOY-004`" in repository.logbook
    assert "nothing new" in repository.run("--seal", "true").output
    assert repository.git("tag", "--list").split() == ["toy/TOY-004"]


def test_a_thread_without_a_repository_or_a_commit_is_recorded(tmp_path: Path) -> None:
    """No git, no commit: the thread runs and its entries say so."""
    for prepare in ("none", "no commit"):
        repository = Repository(tmp_path / prepare / "checkout")
        subfolder = repository.root / ".git"
        subfolder.rename(tmp_path / prepare / "moved")
        if prepare == "no commit":
            repository.git("init", "--quiet")
        done = repository.run()
        assert done.code == 0, done.output
        expected = "is not in a git repository" if prepare == "none" else "has no commit yet"
        assert expected in repository.logbook
        sealed = repository.run("--seal", "true")
        why = "has no git repository" if prepare == "none" else "has no commit to build on"
        assert f"TOY-004 is not sealed: {repository.root} {why}" in sealed.output


def test_a_dirty_tree_is_recorded_as_a_patch_beside_the_entry(repository: Repository) -> None:
    """Everything that differs from the commit can be had again; the logbook itself makes no tree dirty."""
    assert repository.run().code == 0
    assert "with patch" not in repository.logbook
    repository.measure(MEASURE.replace("sum(range(config.work))", "sum(range(config.work + 2))"))
    assert repository.run().code == 0
    (patch,) = (repository.root / ".agents" / "logbooks" / "toy").glob("*.patch")
    assert "config.work + 2" in patch.read_text()
    assert patch.stem in repository.logbook


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('    steps.baseline(measure, Config(work=float("nan")))', "work is nan"),
        ("    steps.baseline(measure, Config(work=object()))", "can't be recorded: work is <object"),
        ("    steps.baseline(lambda config: 1, Config())", "can't be run in a process of its own"),
        ('    steps.sweep(steps.baseline(measure, Config()), ("wrok", [1]))', "expected one of work, mode, data, out"),
        ('    steps.sweep(steps.baseline(measure, Config()), ("work", []))', "has no values"),
        ("    steps.interpret(3)", "expected a step made by steps.baseline"),
        ("    pass", "built no steps"),
    ],
)
def test_a_thread_that_can_not_be_built_says_why_in_a_sentence(repository: Repository, body: str, message: str) -> None:
    """Bad input names what, where, what was expected and found; nothing is left behind."""
    repository.thread(body)
    done = repository.run()
    assert done.code == 1
    assert message in done.output
    assert "Traceback" not in done.output
    assert not (repository.root / ".agents").exists()


def test_bad_metrics_fail_the_trial_with_a_sentence(repository: Repository) -> None:
    """NaN, missing and non-numbers are failures of the trial that say what was expected and found."""
    repository.measure(
        MEASURE.replace(
            "    while True:", '    bad = {"nan": float("nan"), "text": "fast", "none": None}\n    while True:'
        ).replace(
            'yield {"time_s": time.perf_counter() - start}',
            'yield {"time_s": bad.get(config.mode, 1.0)} if config.mode != "missing" else {}',
        )
    )
    repository.thread(BODY.replace('("work", [1000, 4000])', '("mode", ["nan", "text", "none", "missing"])'))
    done = repository.run()
    assert done.code == 0, done.output
    for sentence in ("Diverged: Metric 'time_s' is nan", "'fast' (str): expected a number", "gave no 'time_s'"):
        assert sentence in repository.logbook


def test_values_near_the_limits_of_floats_are_rows(repository: Repository) -> None:
    """What is too large to be squared, or too small to be divided by, stops no sweep and is not measured again."""
    values = {"large": "1e308", "negative": "-1e160", "small": "5e-324", "less": "1e-90", "zero": "0.0"}
    repository.measure(
        MEASURE.replace("    while True:", f"    odd = {values!r}\n    while True:").replace(
            'yield {"time_s": time.perf_counter() - start}', 'yield {"time_s": float(odd.get(config.mode, "1.0"))}'
        )
    )
    repository.thread(BODY.replace('("work", [1000, 4000])', f'("mode", {list(values)})'))
    done = repository.run()
    assert done.code == 0, done.output
    assert "Diverged: Metric 'time_s' is 1e+308" in repository.logbook
    assert all(f"mode={name}" in repository.logbook for name in values)
    measured = len(repository.measured)
    assert repository.run().code == 0 and len(repository.measured) == measured


@pytest.mark.parametrize("reads", ["nothing", "a line"])
def test_a_run_goes_on_when_nobody_reads_what_it_tells(repository: Repository, reads: str) -> None:
    """As with `2>&1 | head -1`, or when the connection is dropped: every step is measured and recorded."""
    read, write = os.pipe()
    pid = fork(repository.root, "experiments.toy", (), write, write, {"WANDB_MODE": "disabled"})
    os.close(write)
    if reads == "a line":
        assert os.read(read, 4096)
    os.close(read)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert repository.ids == ["TOY-001", "TOY-002", "TOY-003"]
    assert "fail" not in repository.logbook


def test_an_option_of_the_other_generation_of_marin_is_refused(repository: Repository) -> None:
    """It would do nothing; the sentence says which Marin has it."""
    option, has = (
        (("--executor_info_base_path", "info"), "is an option of executor steps, and this Marin has artifact steps")
        if IS_TODAYS
        else (("--version", "dev"), "are those of Marin's artifact steps, and this Marin has executor steps")
    )
    refused = repository.run(*option)
    assert refused.code == 1 and has in refused.output and "Traceback" not in refused.output
    assert not (repository.root / ".agents").exists()


def test_a_marin_that_nobody_knows_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was looked for is named, and what to do."""
    monkeypatch.setattr(marin, "find_spec", lambda name: None)
    with pytest.raises(UsageError) as refused:
        marin._installed()
    assert "the module marin.execution.lazy (today's" in str(refused.value)
    assert "marin.execution.executor" in str(refused.value) and "research-steps[marin]" in str(refused.value)
