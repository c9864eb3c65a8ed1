"""What an editor and a type checker tell somebody who writes a thread, with the package as it is installed."""

import os
import subprocess
import sys

import pytest
from research_steps.actions.templates import new_thread
from research_steps.git import Checkout

# A thread with options of its own, and everything else that the types hold beside it.
OPTIONS = """
from collections.abc import Iterator
from dataclasses import dataclass

from research_steps import Hypothesis, Metric, Resources, Series, Step, Steps, Stop, main


@dataclass(frozen=True)
class Config:
    work: int = 1


@dataclass(frozen=True)
class Options:
    works: tuple[int, ...] = (1, 2)


@dataclass(frozen=True)
class Others:
    works: int = 1


def measure(config: Config) -> Iterator[dict[str, int]]:
    yield {"time_s": config.work}


def once(config: dict[str, int]) -> dict[str, float]:
    return {"time_s": 1.0}


series = Series(
    topic="toy", prefix="TOY", goal="typed", metrics=[Metric("time_s")], hypotheses=[Hypothesis("H1", "less")],
    tags=["toy"], milestones=["baseline"], variants=("work",), stop_at=Stop(0.1),
)


def thread(steps: Steps, options: Options) -> None:
    base: Step = steps.baseline(measure, Config(), resources=Resources(cpu=2))
    works = steps.sweep(base, ("work", options.works), hypothesis="H1", shards=2)
    both = steps.interact(works, ("work", [3, 4]), top=2)
    again = steps.replicate(works, n=2, across=("work", range(3)), private=True)
    counted = steps.baseline(once, {"work": 1}, label="counted")
    steps.recorded(steps.seal(steps.interpret(base, works, both, again, counted)))
"""
WRONG = {
    'steps.swep(base, ("work", [1]))': '"Steps" has no attribute "swep"; maybe "sweep"?',
    'steps.baseline(measure, Config(), hypotesis="H1")': 'Unexpected keyword argument "hypotesis" for "baseline"',
    'steps.baseline(measure, {"work": 1})': 'Argument 1 to "baseline" of "Steps" has incompatible type',
    'steps.sweep("base", ("work", [1]))': 'Argument 1 to "sweep" of "Steps" has incompatible type "str"',
    "steps.all": '"Steps" has no attribute "all"',
    "steps.confirm": '"Steps" has no attribute "confirm"',
    "main(series, thread)": 'Argument 2 to "main" has incompatible type "Callable[[Steps, Options], None]"',
    "main(series, thread, options=Others)": 'Argument 2 to "main" has incompatible type',
}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What mypy says of each file, in strict mode."""
    root = tmp_path_factory.mktemp("typed")
    files = {
        path: path.read_text()
        for path in new_thread(Checkout(root, None), "sort", dry_run=False)
        if path.stem != "__init__"
    }
    files[root / "options.py"] = f"{OPTIONS}\n\nmain(series, thread, options=Options)\n"
    files[root / "wrong.py"] = f"{OPTIONS}\n\n" + "".join(
        f"def case_{number}(steps: Steps, base: Step) -> None:\n    {line}\n\n\n" for number, line in enumerate(WRONG)
    )
    for path, code in files.items():
        path.write_text(code)
    names = [str(path.relative_to(root)) for path in files]
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", f"--cache-dir={os.devnull}", *names]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    lines = [line for line in done.stdout.splitlines() if ": error: " in line]
    return {name: [line for line in lines if line.startswith(f"{name}:")] for name in names}


def test_what_research_new_writes_is_typed(told: dict[str, list[str]]) -> None:
    """Who begins with it in a project that checks strictly has nothing to mend."""
    assert told["experiments/sort/measure.py"] == told["experiments/sort/__main__.py"] == []


def test_everything_that_a_thread_may_do_is_typed(told: dict[str, list[str]]) -> None:
    """Lists where tuples are kept, measures that yield and that return, and a thread with options of its own."""
    assert told["options.py"] == []


@pytest.mark.parametrize("line", WRONG, ids=str)
def test_what_a_thread_may_not_do_is_said_before_it_runs(told: dict[str, list[str]], line: str) -> None:
    """A misspelt builder or argument, a measure of another configuration, and what only the tool calls."""
    number = list(WRONG).index(line)
    begins = OPTIONS.count("\n") + 2
    errors = [error for error in told["wrong.py"] if error.split(":")[1] == str(begins + 4 * number + 2)]
    assert len(errors) == 1 and WRONG[line] in errors[0], told["wrong.py"]
