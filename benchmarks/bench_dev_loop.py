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

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dev_checkout import Bench, small_moe
from research_steps.trial.code import trace_name

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.support.ssh_server import MISSING, sshd

ROUNDS = 10
BAR_RATIO, BAR_S, BAR_SSH_S = 10.0, 0.5, 0.3
SETTING = "implementation=blocked_scan"
COLD = """
import importlib, json, sys
from contextlib import suppress
from dataclasses import asdict
sys.path.insert(0, sys.argv[1])
for name in json.loads(sys.argv[2]):
    with suppress(Exception):
        importlib.import_module(name)
from research_steps.trial.launcher.sampling import sample
from experiments.moe_hc.__main__ import series
from experiments.moe_hc.measure import MoeConfig, measure
sampled = sample(
    measure, MoeConfig(implementation="blocked_scan"), MoeConfig(implementation="scatter"),
    metrics=("time_s", "max_rel_error"), primary=series.primary, max_pairs=series.max_pairs,
    sampling_s=series.sampling_s, seed=1,
)
print(json.dumps(sampled.setup_s + sampled.sampling_s))
"""


def cold(bench: Bench, libraries: tuple[str, ...]) -> float:

    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", COLD, str(bench.root), json.dumps(libraries)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return time.perf_counter() - began - float(done.stdout.splitlines()[-1])


def without_trial(bench: Bench, took_s: float) -> float:
    launch = bench.last().launch
    assert launch is not None
    return took_s - launch.setup_s - launch.sampling_s


def command(bench: Bench, *more: str) -> float:
    began = time.perf_counter()
    bench.command("dev", "moe_hc", SETTING, *more)
    return without_trial(bench, time.perf_counter() - began)


def ordered(bench: Bench) -> float:
    began = time.perf_counter()
    bench.order(SETTING)
    return without_trial(bench, time.perf_counter() - began)


class Watch:
    """`research dev --watch`, without a terminal: a line for each attempt."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._process = subprocess.Popen(
            [sys.executable, "-u", "-m", "research_steps", "dev", "moe_hc", SETTING, "--watch"],
            cwd=bench.root, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        self.answer()

    def answer(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if " × " in line and "best so far" not in line:
                return

    def edited(self, number: int) -> float:
        began = time.perf_counter()
        self._bench.edit(number)
        self.answer()
        return without_trial(self._bench, time.perf_counter() - began)

    def end(self) -> None:
        self._process.terminate()
        self._process.wait()


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
        bench.command("dev", "moe_hc", SETTING, "--host", "away")
        yield True


def main() -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        small_moe(Path(folder)) as bench,
        reachable(Path(folder), bench) as by_ssh,
    ):
        libraries = trace_name("experiments.moe_hc.measure:measure", bench.root).libraries
        bench.command("dev", "moe_hc", SETTING)
        cold(bench, libraries)
        names = ("cold", "forked", "in process", "ordered", *(["ssh"] if by_ssh else []), "watch")
        took: dict[str, list[float]] = {name: [] for name in names}
        for number in range(ROUNDS):
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
