"""An existing command line as the measure of a thread: its arguments, its metrics, its code, its failures."""

import json
import math
import re
import resource
import time
from pathlib import Path

import pytest
from research_steps import Command, UsageError
from research_steps.errors import BadMetrics
from research_steps.journal.journal import Journal
from research_steps.journal.store import open_store
from research_steps.records.model import TrialRecord
from research_steps.trial.code import trace
from research_steps.trial.command import Rule
from research_steps.trial.launcher.command_measure import CommandMeasure
from research_steps.trial.printed import Printed

from tests.support.command_thread import command_thread, untimed
from tests.support.toy_thread import HERE, Repository, research

SEALED = """
    base = steps.baseline(Command("python -S tools/bench.py --work {work} --mode steady"), Config())
    works = steps.sweep(base, ("work", [1000]))
    steps.seal(steps.interpret(base, works, steps.replicate(works, n=3)))
"""


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return command_thread(tmp_path / "repository")


def trials(repository: Repository) -> list[TrialRecord]:
    found = Journal(open_store(str(repository.root / "local_store")), "toy").scan().trials.values()
    return sorted((trial.record for trial in found), key=lambda record: record.id)


def test_a_thread_measures_a_command_line(repository: Repository) -> None:
    """Candidate and baseline take turns as processes; what ran, and how a failure ended, is in the records. A seal holds
    the script and what that imports; and what was measured before is not measured again."""
    done = repository.run("--seal", "true")
    assert done.code == 0, done.output
    # The two sweeps run side by side.
    of = {(trial.config["work"], trial.config["mode"]): trial for trial in trials(repository)}
    base, more, failed, silent = of[2000, "ok"], of[8000, "ok"], of[2000, "fail"], of[2000, "silent"]
    assert base.samples is not None and base.samples.paired and base.status == more.status == "ok"
    # Two samples a run, in the order of the runs.
    assert base.samples.order in ("AABBBBAA", "BBAAAABB")
    assert base.measure == "command:python -S tools/bench.py --work {work} --mode {mode}"
    assert base.command and base.command.argv[2:] == ("tools/bench.py", "--work", "2000", "--mode", "ok")
    assert base.command.exit == 0 and base.command.duration_s > 0 and base.command.output.startswith("warming up\n")
    assert failed.command and failed.command.exit == 7 and failed.error
    assert "exit code 7" in failed.error.message and r"\x1b[31mno such kernel" in failed.error.message
    assert "ghp_" not in json.dumps(failed.error.message) + failed.command.output
    assert silent.error and "'time_s'" in silent.error.message and "found 'loss'" in silent.error.message
    assert more.ratios["time_s"].median > 2
    shown = research(repository.root, "show", base.id).stdout
    assert "python -S tools/bench.py --work 2000 --mode ok: exit code 0 after" in shown
    sealed = repository.git("ls-tree", "-r", "--name-only", "toy/TOY-004")
    assert "tools/bench.py" in sealed and "tools/shapes.py" in sealed
    assert repository.run().code == 0
    assert len(trials(repository)) == len(of) == 4


def test_an_edited_command_is_other_code(repository: Repository) -> None:
    """A module beside its script that was edited is measured anew, in dev mode against what the baseline was fixed with,
    each by its own version; and a replicate runs the version that it is of."""
    assert repository.run().code == 0
    (repository.root / "tools" / "shapes.py").write_text("SCALE = 8\n")
    done = research(repository.root, "dev", "toy")
    assert done.returncode == 0, done.stderr + done.stdout
    edited = next(trial for trial in trials(repository) if trial.mode == "dev")
    assert edited.samples and edited.samples.paired and edited.baseline_version
    assert edited.command and edited.command.exit == 0 and edited.ratios["time_s"].median > 2
    first = next(trial for trial in trials(repository) if trial.config["work"] == 8000)
    done = research(repository.root, "replicate", first.id, "-n", "1")
    assert done.returncode == 0, done.stderr + done.stdout
    again = next(trial for trial in trials(repository) if trial.replicate == 1)
    assert (again.measure, again.code) == (first.measure, first.code) and edited.code != first.code
    measured = len(trials(repository))
    assert repository.run().code == 0
    assert len(trials(repository)) == measured + 4


def test_a_sealed_command_line_is_measured_again_from_its_tag(tmp_path: Path) -> None:
    """In a clone on another path, by the script as it was sealed."""
    repository = command_thread(tmp_path / "checkout", SEALED)
    untimed(repository)
    done = repository.run("--seal", "true")
    assert done.code == 0, done.output
    (tag,) = repository.git("tag").split()
    clone = tmp_path / "a clone"
    repository.git("clone", "--quiet", str(repository.root), str(clone))
    (clone / "tools" / "bench.py").write_text("print('METRIC time_s=1.0')")
    again = research(clone, "reproduce", tag, "--here", "--json")
    assert again.returncode == 0, again.stdout + again.stderr
    assert json.loads(again.stdout)["outcome"] == "reproduced"


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("python 'bench.py", "No closing quotation"),
        ("python bench.py {", "can't be read"),
        ("python bench.py {0}", "the field {0}"),
        ("python bench.py {lr:.3f}", "the field {lr:}"),
        ("", "no program"),
    ],
)
def test_a_template_that_can_not_be_filled_in_is_refused(template: str, told: str) -> None:
    """When it is written, not when it is run."""
    with pytest.raises(UsageError, match=re.escape(told)):
        Command(template)


def test_a_value_adds_no_argument() -> None:
    """Whatever is in it; and a field that there is none of is refused with those that there are."""
    command = Command("run --name={name} {model.hidden} '{name} twice' {{x}}")
    hostile = {"name": "a b; rm -rf / --evil", "model": {"hidden": 64}}
    assert command.arguments(hostile) == [
        "run", "--name=a b; rm -rf / --evil", "64", "a b; rm -rf / --evil twice", "{x}",
    ]  # fmt: skip
    with pytest.raises(UsageError, match=r"\{name\}.*expected one of names, model.*Did you mean 'names'"):
        command.arguments({"names": "a", "model": {}})


@pytest.mark.parametrize("rule", [None, "out/{work}.json", {"time_s": "took ([0-9.]+)"}, re.compile("(?P<time_s>.+) s")])
def test_its_name_says_all_of_a_command(rule: Rule) -> None:
    """So that a record that names it can be measured again; without a secret, which is refused."""
    assert Command.named(Command("a {work} '# b'", rule).name) == Command("a {work} '# b'", rule)
    assert Command.named("experiments.moe_hc.measure:measure") is None
    with pytest.raises(UsageError, match="looks like a secret"):
        assert Command("curl --token ghp_" + "a1B2c3D4e5F6" * 3).name


def test_the_code_of_a_command_is_what_it_names(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scripts, modules and files of the repository, each with what it imports there; and nothing that it writes."""
    monkeypatch.chdir(repository.root)
    (repository.root / "lr.yaml").write_text("lr: 1")
    (repository.root / "out.json").write_text("{}")
    (repository.root / "go_fast.sh").write_text("true")
    assert list(trace(Command("python tools/bench.py")).files) == ["tools/bench.py", "tools/shapes.py"]
    module = trace(Command("python -m experiments.toy.measure --config=lr.yaml --out out.json {work}", "out.json"))
    expected = ["experiments/__init__.py", "experiments/toy/__init__.py", "experiments/toy/measure.py", "lr.yaml"]
    assert list(module.files) == expected
    assert list(trace(Command("sh go_{mode}.sh {mode} ../outside")).files) == ["go_fast.sh"]
    with pytest.raises(UsageError, match=r"expected lr\.yaml, because it runs at the top"):
        trace(Command(f"cat {repository.root}/lr.yaml"))


def measure(root: Path, script: str, rule: Rule = None, budget_s: float = 1e9) -> CommandMeasure:
    (root / "script.py").write_text(script)
    return CommandMeasure(Command("python -S script.py", rule), root, budget_s)


def test_a_long_run_stands_alone(tmp_path: Path) -> None:
    """Where one takes more than a trial may sample for, it is what was measured, with all that it printed."""
    script = "for n in range(3): print(f'METRIC time_s={n}')\nprint('METRIC loss=7')"
    assert measure(tmp_path, script, budget_s=0.0)({}) == [{"time_s": float(n), "loss": 7.0} for n in range(3)]
    by_turns = measure(tmp_path, script)({})
    assert next(by_turns) == next(by_turns)


@pytest.mark.parametrize(
    ("script", "rule", "told"),
    [
        ("print('mean: 12.5 ms')", {"time_ms": r"mean: ([0-9.]+) ms"}, 12.5),
        ("import sys; print('step 1 mean=3e-2', file=sys.stderr)", re.compile(r"mean=(?P<time_ms>\S+)"), 0.03),
        ('print(\'chatter\'); print(\'{"time_ms": 4, "name": "x", "ok": true}\')', None, 4.0),
        ("open('out.json', 'w').write('{\"time_ms\": 8}')", "out.json", 8.0),
        ("print('METRIC time_ms = nan')", None, math.nan),
    ],
)
def test_metrics_are_taken_from_what_it_says(tmp_path: Path, script: str, rule: Rule, told: float) -> None:
    """From lines, by expressions, from JSON at the end or in a file."""
    assert measure(tmp_path, script, rule, 0.0)({}) == [{"time_ms": pytest.approx(told, nan_ok=True)}]


@pytest.mark.parametrize(
    ("script", "rule", "told"),
    [
        ("pass", "out.json", "did not write out.json"),
        ("open('out.json', 'w').write('[1]')", "out.json", "holds no JSON object"),
        ("print('METRIC a=1\\nMETRIC a=2\\nMETRIC b=1\\nMETRIC b=1\\nMETRIC b=1')", None, "'a' 2 times"),
        ("print('METRIC time_s=12ms')", None, "time_s='12ms'"),
        ("print('METRIC a=1\\n' * 30_000)", None, "30000 numbers"),
    ],
)
def test_what_is_no_metric_is_told(tmp_path: Path, script: str, rule: Rule, told: str) -> None:
    """It exited with 0, and that is no result. A file that an earlier run left is not taken for this one's."""
    (tmp_path / "out.json").write_text('{"time_s": 1}')
    with pytest.raises(BadMetrics, match=re.escape(told)):
        measure(tmp_path, script, rule, 0.0)({})


HOSTILE = {
    "binary": "import os; os.write(1, bytes(range(256)) * 400)",
    "no line break": "import os\nfor _ in range(300): os.write(1, b'x' * (1 << 20))",
    "escapes": "print('\\x1b]0;title\\x07\\u202e' * 5000)",
    "secrets": f"print('y' * 1989 + ' ghp_{'a1B2c3D4e5F6' * 3} ' * 200)",
    "deep JSON": "print('[' * 900_000)",
    "large number": "print('{\"time_s\": ' + '9' * 100_000 + ', \"ok_s\": 1}')",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_output_harms_nothing(tmp_path: Path, kind: str) -> None:
    """Its record is bounded, holds no secret, and shows what would act; and little of it is ever held."""
    command = measure(tmp_path, HOSTILE[kind], {"never_s": "never (.)"} if kind != "large number" else None, 0.0)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    command({})
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 100 << 10
    ran = command.ran
    assert ran is not None and ran.exit == 0 and len(ran.output) < 60_000
    assert "\x1b" not in ran.output and "a1B2c3" not in ran.output and "\u202e" not in ran.output


def test_many_lines_are_parsed_fast() -> None:
    """10,000 metrics in at most 0.2 s."""
    printed, lines = Printed(), b"".join(b"METRIC time_s=%d.5\n" % n for n in range(10_000))
    began = time.process_time()
    for start in range(0, len(lines), 4096):
        printed.take("stdout", lines[start : start + 4096])
    printed.close()
    assert len(printed.samples()) == 10_000
    assert time.process_time() - began < 0.2


def test_a_script_of_the_repository_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bench of the MoE experiment, as it is: with what it imports, and all samples of a run."""
    monkeypatch.chdir(HERE)
    command = Command("python -m experiments.moe_hc.bench --implementation {kind} --tokens {tokens} --samples 2")
    code = trace(command)
    assert {"experiments/moe_hc/bench.py", "experiments/moe_hc/kernels.py"} <= set(code.files)
    samples = CommandMeasure(command, HERE, 0.0)({"kind": "dense", "tokens": 64})
    assert [set(sample) for sample in samples] == [{"time_s", "max_rel_error"}] * 2
