"""What recording costs in one attempt of dev mode: patch, experiment ID, intent, record, and what they say.

Bar: at most 30 ms a trial. It is an attempt's whole work in its helper, with a trial whose result is there at once, less
the same work that is not recording: reading the thread, its settings, and the digest of the code. The checkout is dirty,
and holds the attempts before.
"""

import json
import os
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import msgspec
from research_steps.git import Checkout
from research_steps.records.model import TrialRecord
from research_steps.thread.dev import attempt, preload
from research_steps.thread.dev.cases import declared, with_settings
from research_steps.thread.dev.command import environment
from research_steps.thread.loading import load_thread
from research_steps.trial.launcher.conversation import Hear, Speaker
from research_steps.trial.launcher.daemon import Daemon, DaemonTrials
from research_steps.trial.launcher.host import LocalHost
from research_steps.trial.launcher.protocol import Request, TrialOutcome

from benchmarks.dev_checkout import Bench, small_moe, toy

ROUNDS, BAR_MS = 60, 30.0
assert preload.__all__


class Canned(DaemonTrials):
    """Trials whose result is there at once: that of a real one."""

    def __init__(self, daemon: Daemon, outcome: TrialOutcome) -> None:
        super().__init__(daemon, in_process=False)
        self.family, self._outcome = os.getpid(), outcome

    def run(self, request: Request, hear: Hear) -> TrialOutcome:
        return self._outcome


class Silent(Speaker):
    """Nobody listens."""

    def __init__(self) -> None:
        pass

    def tell(self, message: msgspec.Struct) -> None:
        pass


def outcome(trial: TrialRecord) -> TrialOutcome:
    """How a trial ended, as its machine said it."""
    assert trial.launch is not None
    return TrialOutcome(
        samples=trial.samples, error=None, devices=trial.devices, sources=(), launch=trial.launch, launcher_cpu_s=0.0,
        started_at=trial.started_at, finished_at=trial.finished_at,
    )  # fmt: skip


def in_child(work: Callable[[], object]) -> float:
    """The milliseconds that some work takes in a process forked for it, as a helper is."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            # Another checkout's may have been imported here.
            for name in [name for name in sys.modules if name.split(".")[0] == "experiments"]:
                del sys.modules[name]
            began = time.perf_counter()
            work()
            os.write(write, json.dumps((time.perf_counter() - began) * 1000).encode())
        except BaseException:  # noqa: BLE001  # this is the top of the process
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(pid, 0)
    with os.fdopen(read) as pipe:
        return float(pipe.read())


def run(bench: Bench, rounds: int) -> dict[str, list[float]]:
    """The milliseconds of each round: of the whole, of what is no recording, and of the rest."""
    topic = bench.subject.topic
    bench.order()
    host = LocalHost(Canned(Daemon(bench.root), outcome(bench.last())))

    def whole() -> None:
        attempt.attempt(bench.request(), Silent())

    def reading() -> None:
        os.chdir(bench.root)
        _, thread = load_thread(Checkout.find(), topic)
        with_settings(declared(thread, lambda case: True, "", ""), [bench.subject.setting])

    took: dict[str, list[float]] = {"whole": [], "reading": []}
    # As a helper has it, for the one that it asks for the patch.
    with patch.dict(os.environ, environment()), patch.object(attempt, "LocalHost", lambda *_: host):
        for number in range(rounds):
            bench.edit(number)
            took["whole"].append(in_child(whole))
            took["reading"].append(in_child(reading))
    return {**took, "recording": [a - b for a, b in zip(took["whole"], took["reading"], strict=True)]}


def quick(folder: Path) -> list[str]:
    """Two rounds with an experiment of no weight: each left the record of a trial."""
    with toy(folder) as bench:
        took = run(bench, 2)
        trials = [record for record in bench.trials() if record.status == "ok" and record.samples]
    return [] if len(trials) == 3 and min(took["reading"]) > 0 else [f"{len(trials)} good trials of 3; took {took} ms"]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, small_moe(Path(folder), "blocked_scan") as bench:
        took = run(bench, ROUNDS)
    for name, values in took.items():
        print(f"{name}: median {statistics.median(values):.1f} ms ({min(values):.1f} to {max(values):.1f})")
    print(f"bar {BAR_MS:g} ms")
    sys.exit(0 if statistics.median(took["recording"]) <= BAR_MS else 1)


if __name__ == "__main__":
    main()
