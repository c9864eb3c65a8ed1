"""What recording adds to one ExecutorStep: 100 steps that do nothing, bare and recorded, through Marin's executor.

Bar: at most 15 ms for each step. Timed is what the executor waits for, the call of the step's function, because the
executor's own polling would hide it in the whole run's time; one step runs at a time, so that no step waits for
another one. The publisher works beside the steps; what it costs is told as CPU time of the whole process. Bare and
recorded runs take turns (A B A B), each in a store of its own.
"""

import contextlib
import functools
import io
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from marin.execution.executor import Executor
from marin.execution.types import ExecutorStep
from research_steps import Metric, Series
from research_steps.journal.journal import Journal
from research_steps.journal.store import open_store
from research_steps.thread.builders import StepBuilder
from research_steps.thread.marin.executor_steps import RecordedExecutorStep
from research_steps.thread.options import RunOptions
from research_steps.thread.run import run

STEPS = 100
ROUNDS = 5
BAR_MS = 15.0

series = Series(topic="overhead", prefix="OVER", goal="measure the recording", metrics=(Metric("time_s"),))


@dataclass(frozen=True)
class Round:
    """Milliseconds a step, bare and recorded: inside its function (mean), and of CPU time of the process."""

    bare: float
    recorded: float
    bare_cpu: float
    recorded_cpu: float


def timed(call: Callable[..., Any], calls: list[float]) -> Callable[..., Any]:
    """The function, which adds the seconds of each call."""

    @functools.wraps(call)
    def wrapper(*arguments: Any) -> Any:
        start = time.perf_counter()
        try:
            return call(*arguments)
        finally:
            calls.append(time.perf_counter() - start)

    return wrapper


def work(config: dict[str, int]) -> int:
    return config["number"]


def executor_steps(function: Callable[..., Any], count: int) -> list[ExecutorStep[Any]]:
    names = [(f"overhead/step-{number:03d}", number) for number in range(count)]
    return [ExecutorStep(name=name, fn=function, config={"number": number}) for name, number in names]


def bare(folder: Path, count: int, calls: list[float]) -> None:
    steps = executor_steps(timed(work, calls), count)
    Executor(prefix=str(folder), executor_info_base_path=str(folder / "experiments")).run(steps, max_concurrent=1)


def recorded(folder: Path, count: int, calls: list[float]) -> None:
    def thread(builder: StepBuilder) -> None:
        for step in executor_steps(work, count):
            builder.recorded(step)

    with (
        patch.object(RecordedExecutorStep, "__call__", timed(RecordedExecutorStep.__call__, calls)),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        run(series, thread, RunOptions(prefix=str(folder), max_concurrent=1))


def measured(way: Callable[[Path, int, list[float]], None], folder: Path, count: int) -> tuple[float, float]:
    """Milliseconds for each step: inside its function (mean), and CPU time of the process."""
    calls: list[float] = []
    start = time.process_time()
    way(folder, count, calls)
    cpu = time.process_time() - start
    assert len(calls) == count, "every step ran"
    return sum(calls) * 1000 / count, cpu * 1000 / count


def compare(folder: Path, count: int, rounds: int) -> list[Round]:
    """Rounds of so many steps, in a checkout that is made there; each is printed."""
    git = ["git", "-c", "user.name=bench", "-c", "user.email=bench@localhost"]
    subprocess.run([*git, "init", "--quiet"], cwd=folder, check=True)
    (folder / ".gitignore").write_text("/bare*\n/recorded*\n")
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "-m", "start"], cwd=folder, check=True)
    made = []
    with contextlib.chdir(folder):
        # The first of each is the slower one, and none of the rounds.
        for number in range(rounds + 1):
            bare_ms, bare_cpu = measured(bare, folder / f"bare {number}", count)
            recorded_ms, recorded_cpu = measured(recorded, folder / f"recorded {number}", count)
            made.append(Round(bare_ms, recorded_ms, bare_cpu, recorded_cpu))
            cpu = f"CPU {bare_cpu:.2f} and {recorded_cpu:.2f} ms"
            print(f"round {number}: bare {bare_ms:.2f} ms, recorded {recorded_ms:.2f} ms a step; {cpu}")
    return made[1:]


def quick(folder: Path) -> list[str]:
    """Two steps in one round, without W&B: both ran, in both ways, and were recorded."""
    with patch.dict(os.environ, {"WANDB_MODE": "disabled"}):
        compare(folder, 2, 1)
    entries = Journal(open_store(str(folder / "recorded 1")), series.topic).entries().entries
    return [] if len(entries) == 2 else [f"{len(entries)} steps were recorded, not 2"]


def main() -> None:
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as scratch:
        median = statistics.median(pair.recorded - pair.bare for pair in compare(Path(scratch), STEPS, ROUNDS))
    verdict = "met" if median <= BAR_MS else "NOT MET"
    print(f"added: median {median:.2f} ms for each of {STEPS} steps; bar {BAR_MS:g} ms: {verdict}")
    sys.exit(0 if median <= BAR_MS else 1)


if __name__ == "__main__":
    main()
