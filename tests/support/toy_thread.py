"""A small thread in a real git repository, and a way to run it as `python -m experiments.toy` does, without paying
for Marin's import each time: the run is a forked child of a process that has imported it. So are the commands."""

import contextlib
import importlib
import inspect
import json
import os
import pkgutil
import runpy
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import markdown_it  # noqa: F401  # imported late, as tenacity is
import research_steps.thread.builders  # imports Marin once, for all the runs forked from here
import research_steps.thread.dev.preload
import tenacity  # noqa: F401
from click.testing import CliRunner
from research_steps.cli.main import main
from research_steps.journal.journal import Journal
from research_steps.journal.store import open_store
from research_steps.records.encoding import Stored

HERE = Path(__file__).parents[2]
RESEARCH = [sys.executable, "-m", "research_steps"]

# And all of this package, which a run imports as it goes, but for the binding to the Marin that is not installed.
for _found in pkgutil.walk_packages(research_steps.__path__, "research_steps."):
    if not _found.name.endswith(("__main__", "executor_steps", "artifact_steps")):
        importlib.import_module(_found.name)
# Marin looks for its caller's file among those of all modules, which 'inspect' remembers once it has looked.
inspect.getmodule(None, "no such file")

MEASURE = """
import os, time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Config:
    work: int = 2000
    mode: str = "ok"
    data: str = ""
    out: str = ""


def measure(config):
    if config.mode == "raise":
        raise ValueError("no such kernel")
    if config.mode == "exit":
        os._exit(3)
    if config.mode == "needs file" and not Path("needed").exists():
        raise FileNotFoundError("needed")
    Path("measured").open("a").write(f"{config.work} {config.mode} {config.data}\\n")
    while True:
        start = time.perf_counter()
        sum(range(config.work))
        yield {"time_s": time.perf_counter() - start}
"""

MAIN = """
from experiments.toy.measure import Config, measure
from research_steps import Hypothesis, Metric, Resources, Series, main

series = Series(
    topic="toy", prefix="TOY", goal="see it run", metrics=(Metric("time_s", "min"),), max_pairs=5, sampling_s=0.2,
    time_limit_s=60, contention_wait_s=0, floor_processes=1, hypotheses=(Hypothesis("H1", "less work takes less time"),),
)


def thread(steps):
{body}


if __name__ == "__main__":
    main(series, thread)
"""

BODY = """
    base = steps.baseline(measure, Config())
    works = steps.sweep(base, ("work", [1000, 4000]), hypothesis="H1")
    steps.seal(steps.interpret(base, works))
"""


@dataclass(frozen=True)
class Done:
    """How a run ended, and everything that it printed."""

    code: int
    output: str


def fork(
    where: Path,
    module: str,
    arguments: Sequence[str],
    stdout: int,
    stderr: int,
    environment: Mapping[str, str],
    before: Callable[[], None] = lambda: None,
) -> int:
    """Start `python -m MODULE ARGUMENTS` there as a child of this process, which has imported what takes long.

    Its process ID. These open files take what it prints; `before` is called in it first.
    """
    pid = os.fork()
    if pid != 0:
        return pid
    code = 1
    try:
        os.dup2(stdout, 1)
        os.dup2(stderr, 2)
        os.chdir(where)
        os.environ.update(environment)
        sys.stdin = os.fdopen(os.open(os.devnull, os.O_RDONLY))
        sys.stdout = os.fdopen(1, "w", buffering=1)
        sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace")
        # Another 'experiments' is this repository's own, which the tests may have imported.
        sys.path[:] = [str(where), *(path for path in sys.path if path != str(HERE))]
        for name in [name for name in sys.modules if name.split(".")[0] == "experiments"]:
            del sys.modules[name]
        sys.argv = [module, *arguments]
        before()
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1 if error.code else 0
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
    except BaseException:  # noqa: BLE001  # this is the top of the child
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            _end_ray()
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _end_ray() -> None:
    """What Ray does at the end of a process, which waits a while for what its workers print."""
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        ray.shutdown(_exiting_interpreter=True)


def research(where: Path, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """What the command `research` does there, in a child of this process. Like a run, without W&B unless told."""
    with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
        environment = {"WANDB_MODE": "disabled", **environment}
        pid = fork(where, "research_steps", arguments, stdout.fileno(), stderr.fileno(), environment)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        # The child's writing has moved this process's place in them, too.
        stdout.seek(0)
        stderr.seek(0)
        return subprocess.CompletedProcess(arguments, code, stdout.read(), stderr.read())


def age_locks(store: Path) -> None:
    """Marin's locks as they are 90 s after their driver was killed, when it gives them up."""
    for path in store.rglob(".executor_status.lock"):
        data = path.read_bytes()
        if not data:
            # A kill or a full disk cut it off, and Marin takes it for none.
            continue
        lease = json.loads(data)
        aside = path.with_name(".older")
        aside.write_text(json.dumps({**lease, "timestamp": lease["timestamp"] - 90}))
        aside.replace(path)


def copy_marin_steps(experiment: Path) -> None:
    """Have a thread find its steps of Marin beside it."""
    shutil.copy(HERE / "tests" / "support" / "marin_steps.py", experiment)


class Repository:
    """A checkout with one thread in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.experiment = root / "experiments" / "toy"
        self.experiment.mkdir(parents=True)
        (root / "experiments" / "__init__.py").touch()
        (self.experiment / "__init__.py").touch()
        (root / ".gitignore").write_text("local_store/\n__pycache__/\nmeasured\nneeded\n")
        self.measure(MEASURE)
        self.thread(BODY)
        self.git("init", "--quiet", "--initial-branch=main")
        self.git("config", "user.name", "A Person")
        self.git("config", "user.email", "person@example.org")
        self.commit()

    def measure(self, text: str) -> None:
        self._write("measure.py", text)

    def thread(self, body: str) -> None:
        self._write("__main__.py", MAIN.replace("{body}", body.strip("\n")))

    def _write(self, name: str, text: str) -> None:
        (self.experiment / name).write_text(text)
        if "experiments.toy.marin_steps" in text:
            copy_marin_steps(self.experiment)

    def spread(self) -> None:
        """Have the thread for a cluster, whose records are the same wherever it runs."""
        self.measure(STEADY)
        self.thread(SPREAD)

    def git(self, *arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=self.root, capture_output=True, text=True, check=True)
        return done.stdout

    def commit(self) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", "state")

    def run(self, *arguments: str, **environment: str) -> Done:
        """Run the thread in a child of this process, with these arguments and environment variables."""
        read, write = os.pipe()
        pid = fork(self.root, "experiments.toy", arguments, write, write, {"WANDB_MODE": "disabled", **environment})
        os.close(write)
        with os.fdopen(read, "r", errors="replace") as pipe:
            output = pipe.read()
        return Done(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), output)

    @property
    def logbook(self) -> str:
        return (self.root / ".agents" / "logbooks" / "toy.md").read_text()

    @property
    def ids(self) -> list[str]:
        """The experiment IDs of the logbook's entries, in order."""
        headings = [line for line in self.logbook.splitlines() if line.startswith("### ")]
        return [heading.split(" - ")[1].split(" ")[0] for heading in headings]

    @property
    def measured(self) -> list[str]:
        """One line for each time a side of a trial was set up."""
        path = self.root / "measured"
        return path.read_text().splitlines() if path.exists() else []


# What a conclusion is made of, as arguments of `research finish`.
CONCLUSION = (
    *("--worked", "Less work took less time.", "--did-not", "Nothing else was tried, @everyone."),
    *("--limitations", "One machine.", "--next", "Try it at scale.", "--next", "Ship it; closes #1."),
    *("--conclusion", "Do less work."),
)
# Times that no other load changes, so that wherever it runs the same candidate is the best.
STEADY = (
    MEASURE.replace("import os, time", "import os, random, time")
    .replace("    while True:", '    drawn = random.Random(Path("measured").stat().st_size)\n    while True:')
    .replace("time.perf_counter() - start}", "config.work * drawn.uniform(1, 1.001)}")
)
# A thread for a cluster: what a claim rests on, in jobs and in shards. With one candidate, because which of several is
# replicated hangs on what else loads the machine; the other value is the baseline's own.
SPREAD = """
    base = steps.baseline(measure, Config(), resources=Resources(ram="200m"))
    works = steps.sweep(base, ("work", [1000, 2000]), shards=2, hypothesis="H1")
    steps.interpret(base, works, steps.replicate(works, n=1))
"""
_OF_A_PLACE = {
    *("provenance", "started_at", "finished_at", "launch", "samples", "ratios", "contended", "claims", "floor"),
    *("interpretation", "next_action", "result", "sha256", "step_key", "values", "note"),
}


def told(store: Path) -> list[Any]:
    """What the records of a run say, but for where, when and how fast."""

    def without(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: without(inner) for name, inner in value.items() if name not in _OF_A_PLACE}
        # Tables have the best candidate first.
        return sorted(map(without, value), key=str) if isinstance(value, list) else value

    snapshot = Journal(open_store(str(store)), "toy").scan()
    records: list[Stored[Any]] = [*snapshot.entries.values(), *snapshot.trials.values(), *snapshot.interrupted.values()]
    plain = [without(json.loads(stored.line)) for stored in records]
    return sorted(plain, key=lambda record: (record["id"], record["attempt"]))


def started(root: Path) -> Repository:
    """A checkout whose series was kicked off, on the branch that it is on."""
    repository = Repository(root)
    assert research(root, "kickoff", "toy", "--branch", ".").returncode == 0
    return repository


def cli(repository: Repository, *arguments: str) -> tuple[int, str]:
    """The exit code and output of `research …` in this process, for what runs no thread."""
    with contextlib.chdir(repository.root):
        done = CliRunner().invoke(main, list(arguments))
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output
