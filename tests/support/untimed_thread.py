"""A small thread whose metric is drawn and untimed, so that no verdict hangs on this machine's load."""

import os
from pathlib import Path

from research_steps.journal.journal import Journal
from research_steps.journal.snapshot import Snapshot
from research_steps.journal.store import open_store
from research_steps.records.model import Claim, EntryRecord

from tests.support.ray_cluster import eventually
from tests.support.toy_thread import Repository, fork

MEASURE = """
import os, random, time
from dataclasses import dataclass
from itertools import count
from pathlib import Path

BROKEN = 13
SIDES = count()


@dataclass(frozen=True)
class Config:
    work: int = 2000
    size: int = 1
    mode: str = "paired"


def measure(config):
    if config.work == BROKEN:
        raise ValueError("no such kernel")
    Path("measured").open("a").write(f"{config.work} {config.size} {config.mode}\\n")
    while Path("hold").exists() and len(Path("measured").read_text().splitlines()) > int(Path("hold").read_text()):
        time.sleep(0.02)
    # The two sides of the baseline against itself draw apart.
    noise = random.Random(f"{config} {os.getpid()} {next(SIDES)}")
    if config.mode == "alone":
        return {"cost": config.work * config.size * (1 + noise.gauss(0, 0.003))}
    return paired(config, noise)


def paired(config, noise):
    while True:
        yield {"cost": config.work * config.size * (1 + noise.gauss(0, 0.003))}
"""

MAIN = """
from experiments.toy.measure import Config, measure
from research_steps import Metric, Series, main

series = Series(
    topic="toy", prefix="TOY", goal="see what holds", metrics=({metric},), max_pairs=20, sampling_s=5,
    time_limit_s=60, contention_wait_s=0, floor_processes=3, variants=("size",),
)


def thread(steps):
{body}


if __name__ == "__main__":
    main(series, thread)
"""
COST = 'Metric("cost", "min", timed=False)'
SWEEP = """
    base = steps.baseline(measure, Config())
    works = steps.sweep(base, ("work", [1000, 4000, 2004, 13]))
    steps.interpret(base, works)
"""
REPLICATED = SWEEP.replace(
    "steps.interpret(base, works)", "steps.interpret(base, works, steps.replicate(works, n=3))"
).replace("[1000, 4000, 2004, 13]", "[4000, 1000]")


class UntimedThread(Repository):
    """A checkout whose thread is measured without a clock."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        (root / ".gitignore").write_text("local_store/\n__pycache__/\nmeasured\nhold\n")
        self.measure(MEASURE)
        self.write(SWEEP)
        self.commit()

    def write(self, body: str, metric: str = COST) -> None:
        text = MAIN.replace("{body}", body.strip("\n")).replace("{metric}", metric)
        (self.experiment / "__main__.py").write_text(text)

    def ok(self, *arguments: str, **environment: str) -> str:
        done = self.run("--max_concurrent", "1", *arguments, **environment)
        assert done.code == 0, done.output
        return done.output

    def command(self, *arguments: str) -> "Command":
        return Command(self, arguments)

    def known(self) -> Snapshot:
        return Journal(open_store(str(self.root / "local_store")), "toy").scan()

    def entry(self, id: str) -> EntryRecord:
        (record,) = [stored.record for stored in self.known().entries.values() if stored.record.id == id]
        return record

    def claims(self, id: str) -> list[Claim]:
        return list(self.entry(id).claims or ())

    def says(self, id: str) -> dict[str, str]:
        """Verdict and confidence of each candidate in an entry."""
        return {f"{claim.changes}": f"{claim.verdict}, {claim.confidence}" for claim in self.claims(id)}

    @property
    def head(self) -> str:
        """The summary of the logbook."""
        return self.logbook.partition("## Experiment Log")[0]


class Command:
    """`research …`, or the thread, in a child of this process, which has imported Marin already."""

    def __init__(self, repository: UntimedThread, arguments: tuple[str, ...], module: str = "research_steps") -> None:
        self._output = repository.root.parent / "output"
        self.is_over = False
        with self._output.open("w") as file:
            output = file.fileno()
            self.pid = fork(repository.root, module, arguments, output, output, {"WANDB_MODE": "disabled"})

    def wait_for(self, text: str) -> None:
        """Until it has printed this."""
        eventually(lambda: text in self.output, 60)

    @property
    def output(self) -> str:
        """What it has printed up to now."""
        return self._output.read_text()

    def ended(self) -> tuple[int, str]:
        self.is_over = True
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return code, self.output

    def ok(self) -> str:
        code, output = self.ended()
        assert code == 0, output
        return output
