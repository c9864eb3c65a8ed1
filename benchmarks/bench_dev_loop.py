"""Dev mode: from a saved kernel to its recorded answer, without compiling and sampling, in several ways in one run.

Bars: forked at least 10 × faster than a cold `python` process that does the same trial (and records nothing), and at
most 0.5 s. Rounds are interleaved; each saves the kernel first. A cold process imports what the kept parent has
imported; what both then do alike, set-up (compiling, checking) and sampling, is left out by their own clocks.

- watch: the edit loop of a person, from the save to the answer in the table of `research dev --watch`
- forked: the whole command `research dev`, a new process each time
- in process: the same, in the child that stays
- ordered: forked, by a process that has imported what the command imports
- ssh: the command with --host, to an sshd on loopback; bar: at most forked + 0.3 s

The harness of sshd is that of the tests; without an sshd here that way is left out, and said so.
"""

import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from research_steps.trial.code import trace_name

from benchmarks.dev_checkout import Bench, small_moe, toy
from tests.support.ssh_server import MISSING, sshd

ROUNDS = 10
ANSWER = re.compile(r"\S+-\d+\.\d+ \S.*: ")
BAR_RATIO, BAR_S, BAR_SSH_S = 10.0, 0.5, 0.3


def without_trial(bench: Bench, took_s: float) -> float:
    launch = bench.last().launch
    assert launch is not None
    return took_s - launch.setup_s - launch.sampling_s


def cold(bench: Bench, libraries: tuple[str, ...]) -> float:
    began = time.perf_counter()
    _, own_s = bench.cold(libraries=libraries)
    return time.perf_counter() - began - own_s


def command(bench: Bench, *more: str) -> float:
    began = time.perf_counter()
    bench.command("dev", bench.subject.topic, bench.subject.setting, *more)
    return without_trial(bench, time.perf_counter() - began)


def ordered(bench: Bench) -> float:
    began = time.perf_counter()
    bench.order()
    return without_trial(bench, time.perf_counter() - began)


class Watch:
    """`research dev --watch`, without a terminal: a line for each attempt."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        topic, setting = bench.subject.topic, bench.subject.setting
        self._process = subprocess.Popen(
            [sys.executable, "-u", "-m", "research_steps", "dev", topic, setting, "--watch"],
            cwd=bench.root, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        self.answer()

    def answer(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            # Beside other load there may be an answer without a verdict.
            if ANSWER.match(line):
                return
        raise RuntimeError(f"research dev --watch ended with {self._process.wait()}")

    def edited(self, number: int) -> float:
        began = time.perf_counter()
        self._bench.edit(number)
        self.answer()
        return without_trial(self._bench, time.perf_counter() - began)

    def end(self) -> None:
        self._process.terminate()
        self._process.communicate()


@contextmanager
def reachable(folder: Path, bench: Bench) -> Iterator[bool]:
    """Whether the checkout has a dev host 'away' inside the block."""
    if MISSING:
        print(f"ssh: left out, {MISSING}")
        yield False
        return
    with sshd(folder / "sshd") as there:
        hosts = bench.root / "infra" / "dev_hosts.yaml"
        hosts.parent.mkdir()
        hosts.write_text(f"away: {{python: {sys.executable}, ssh_config: {there.config}}}")
        command(bench, "--host", "away")
        yield True


def run(folder: Path, bench: Bench, rounds: int) -> dict[str, list[float]]:
    """The seconds that each way took in each round."""
    libraries = trace_name(f"experiments.{bench.subject.topic}.measure:measure", bench.root).libraries
    with reachable(folder, bench) as by_ssh:
        command(bench)
        cold(bench, libraries)
        names = ("cold", "forked", "in process", "ordered", *(["ssh"] if by_ssh else []), "watch")
        took: dict[str, list[float]] = {name: [] for name in names}
        for number in range(rounds):
            for name in took:
                if name == "watch":
                    continue
                bench.edit(number)
                if name == "in process":
                    # Its child is started first, which is what it keeps.
                    command(bench, "--in-process")
                took[name].append({
                    "cold": lambda: cold(bench, libraries),
                    "forked": lambda: command(bench),
                    "in process": lambda: command(bench, "--in-process"),
                    "ordered": lambda: ordered(bench),
                    "ssh": lambda: command(bench, "--host", "away"),
                }[name]())  # fmt: skip
            watch = Watch(bench)
            took["watch"].append(watch.edited(number))
            watch.end()
    return took


def quick(folder: Path) -> list[str]:
    """One round with an experiment of no weight: each way took some time, and all but the cold one left a record."""
    with toy(folder) as bench:
        took = run(folder, bench, 1)
        failed = [record.id for record in bench.trials() if record.status != "ok"]
        # Once before the rounds for the command and for ssh, then each way, in process and watched twice.
        expected = 1 + 6 + (2 if "ssh" in took else 0)
    problems = [f"{name} took {values} s" for name, values in took.items() if not all(value > 0 for value in values)]
    records = len(bench.trials())
    if failed or records != expected:
        problems.append(f"{records} trials, {failed} failed; expected {expected}")
    return problems


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, small_moe(Path(folder), "blocked_scan") as bench:
        took = run(Path(folder), bench, ROUNDS)
    medians = {name: statistics.median(values) for name, values in took.items()}
    for name, values in took.items():
        print(f"{name}: median {medians[name]:.3f} s ({min(values):.3f} to {max(values):.3f}), {len(values)} rounds")
    for name in ("forked", "watch"):
        ratio = statistics.median(a / b for a, b in zip(took["cold"], took[name], strict=True))
        print(f"cold ÷ {name}: {ratio:.1f} × (bar {BAR_RATIO:g}); {medians[name]:.3f} s (bar {BAR_S:g})")
    met = medians["forked"] <= BAR_S and medians["cold"] >= BAR_RATIO * medians["forked"]
    if "ssh" in medians:
        more = statistics.median(a - b for a, b in zip(took["ssh"], took["forked"], strict=True))
        print(f"ssh: {more:+.3f} s against forked (bar +{BAR_SSH_S:g})")
        met &= more <= BAR_SSH_S
    sys.exit(0 if met else 1)


if __name__ == "__main__":
    main()
