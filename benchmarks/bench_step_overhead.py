"""What recording adds to one ExecutorStep: 100 steps that do nothing, bare and recorded, through Marin's executor.

Bar: at most 15 ms for each step. Bare and recorded runs take turns in one process (A B A B), each in a store of its
own. The executor's polling (about a second at the end of a level) is in both.
"""

import contextlib
import io
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from marin.execution.executor import Executor
from marin.execution.types import ExecutorStep

from research_steps import Metric, Series
from research_steps.run import RunOptions, run

STEPS = 100
ROUNDS = 5
BAR_MS = 15.0

series = Series(topic="overhead", prefix="OVER", goal="measure the recording", metrics=(Metric("time_s"),))


def work(config: dict[str, int]) -> int:
    return config["number"]


def steps() -> list[ExecutorStep]:
    return [ExecutorStep(name=f"overhead/step-{number:03d}", fn=work, config={"number": number}) for number in range(STEPS)]


def bare(folder: Path) -> float:
    start = time.perf_counter()
    Executor(prefix=str(folder), executor_info_base_path=str(folder / "experiments")).run(steps(), max_concurrent=1)
    return time.perf_counter() - start


def recorded(folder: Path) -> float:
    def thread(builder):  # type: ignore[no-untyped-def]
        for step in steps():
            builder.recorded(step)

    start = time.perf_counter()
    with contextlib.redirect_stderr(io.StringIO()):
        run(series, thread, RunOptions(prefix=str(folder), max_concurrent=1))
    return time.perf_counter() - start


def main() -> None:
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as scratch:
        os.chdir(scratch)
        git = ["git", "-c", "user.name=bench", "-c", "user.email=bench@localhost"]
        subprocess.run([*git, "init", "--quiet"], check=True)
        (Path(scratch) / ".gitignore").write_text("*\n")
        subprocess.run([*git, "commit", "--quiet", "--allow-empty", "-m", "start"], check=True)
        bare(Path(scratch) / "warm"), recorded(Path(scratch) / "warm recorded")
        added = []
        for number in range(ROUNDS):
            one, other = bare(Path(scratch) / f"a{number}"), recorded(Path(scratch) / f"b{number}")
            added.append((other - one) * 1000 / STEPS)
            print(f"round {number}: bare {one:.2f} s, recorded {other:.2f} s, added {added[-1]:.2f} ms for each step")
    median = statistics.median(added)
    verdict = "met" if median <= BAR_MS else "NOT MET"
    print(f"median {median:.2f} ms for each of {STEPS} steps, publishing included; bar {BAR_MS:g} ms: {verdict}")


if __name__ == "__main__":
    main()
