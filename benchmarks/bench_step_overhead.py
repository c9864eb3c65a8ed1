"""What recording adds to one ExecutorStep: 100 steps that do nothing, bare and recorded, through Marin's executor.

Bar: at most 15 ms for each step. Timed is what the executor waits for, the call of the step's function, because the
executor's own polling would hide it in the whole run's time; one step runs at a time, so that no step waits for
another one. The publisher works beside the steps; what it costs is
told as CPU time of the whole process. Bare and recorded runs take turns (A B A B), each in a store of its own.
"""

import contextlib
import io
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from marin.execution.executor import Executor
from marin.execution.types import ExecutorStep
from research_steps import Metric, Series
from research_steps.thread.builders import StepBuilder
from research_steps.thread.marin.executor_steps import Recorded
from research_steps.thread.options import RunOptions
from research_steps.thread.run import run

STEPS = 100
ROUNDS = 5
BAR_MS = 15.0

series = Series(topic="overhead", prefix="OVER", goal="measure the recording", metrics=(Metric("time_s"),))


calls: list[float] = []


def timed(call: Callable[..., Any]) -> Callable[..., Any]:
    def wrapper(*arguments: Any) -> Any:
        start = time.perf_counter()
        try:
            return call(*arguments)
        finally:
            calls.append(time.perf_counter() - start)

    return wrapper


def work(config: dict[str, int]) -> int:
    return config["number"]


def steps(function: Callable[..., Any]) -> list[ExecutorStep]:
    names = [(f"overhead/step-{number:03d}", number) for number in range(STEPS)]
    return [ExecutorStep(name=name, fn=function, config={"number": number}) for name, number in names]


def measured(run_once: Callable[[], None]) -> tuple[float, float]:
    """Milliseconds for each step: inside its function (mean), and CPU time of the process."""
    calls.clear()
    start = time.process_time()
    run_once()
    cpu = time.process_time() - start
    assert len(calls) == STEPS, "every step ran"
    return sum(calls) * 1000 / STEPS, cpu * 1000 / STEPS


def bare(folder: Path) -> None:
    Executor(prefix=str(folder), executor_info_base_path=str(folder / "experiments")).run(
        steps(timed(work)), max_concurrent=1
    )


def recorded(folder: Path) -> None:
    def thread(builder: StepBuilder) -> None:
        for step in steps(work):
            builder.recorded(step)

    with contextlib.redirect_stderr(io.StringIO()):
        run(series, thread, RunOptions(prefix=str(folder), max_concurrent=1))


def main() -> None:
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as scratch:
        os.chdir(scratch)
        git = ["git", "-c", "user.name=bench", "-c", "user.email=bench@localhost"]
        subprocess.run([*git, "init", "--quiet"], check=True)
        (Path(scratch) / ".gitignore").write_text("/a*\n/b*\n/warm*\n")
        subprocess.run([*git, "commit", "--quiet", "--allow-empty", "-m", "start"], check=True)
        folder = Path(scratch)
        Recorded.__call__ = timed(Recorded.__call__)  # type: ignore[method-assign]
        bare(folder / "warm")
        recorded(folder / "warm recorded")
        added = []
        for number in range(ROUNDS):
            one, one_cpu = measured(lambda number=number: bare(folder / f"a{number}"))  # type: ignore[misc]
            other, other_cpu = measured(lambda number=number: recorded(folder / f"b{number}"))  # type: ignore[misc]
            added.append(other - one)
            cpu = f"CPU {one_cpu:.2f} and {other_cpu:.2f} ms"
            print(f"round {number}: bare {one:.2f} ms, recorded {other:.2f} ms a step; {cpu}")
    median = statistics.median(added)
    verdict = "met" if median <= BAR_MS else "NOT MET"
    print(f"added: median {median:.2f} ms for each of {STEPS} steps; bar {BAR_MS:g} ms: {verdict}")


if __name__ == "__main__":
    main()
