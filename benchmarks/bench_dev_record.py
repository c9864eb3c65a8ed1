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
from research_steps.thread.dev import attempt, warm
from research_steps.thread.dev.cases import declared, with_settings
from research_steps.thread.dev.command import environment
from research_steps.thread.loading import load_thread
from research_steps.trial.launcher.helpers import Speaker
from research_steps.trial.launcher.local import Here
from research_steps.trial.launcher.protocol import Ended, Request, Result

from benchmarks.dev_checkout import Bench, small_moe, toy

ROUNDS, BAR_MS = 60, 30.0
assert warm.__all__


class Canned:
    """Trials whose result is there at once: that of a real one."""

    closed, sources = False, ()

    def __init__(self, ended: Ended) -> None:
        self.family, self._ended = os.getpid(), ended

    def run(self, request: Request, hear: object) -> TrialOutcome:
        return self._outcome


class Silent(Speaker):
    """Nobody listens."""

    def __init__(self) -> None:
        pass

    def tell(self, message: msgspec.Struct) -> None:
        pass


def ended(trial: TrialRecord) -> Ended:
    """How a trial ended, as its parent said it."""
    assert trial.launch is not None
    launch = msgspec.to_builtins(trial.launch)
    own = {**launch, "samples": trial.samples, "error": None, "devices": trial.devices}
    fields = {name: launch[name] for name in Ended.__struct_fields__ if name in launch}
    result = Result(**{name: own[name] for name in Result.__struct_fields__ if name in own})
    return Ended(**fields, result=result, timed_out=False, launcher_cpu_s=0.0, output_tail="")


def in_child(work: Callable[[], object]) -> float:
    """The milliseconds that some work takes in a process forked for it, as a helper is."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
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
    canned = Canned(ended(bench.last()))

    def whole() -> None:
        attempt.attempt(bench.request(), Silent())

    def reading() -> None:
        os.chdir(bench.root)
        _, thread = load_thread(Checkout.find(), topic)
        with_settings(declared(thread, lambda case: True, ""), [bench.subject.setting])

    took: dict[str, list[float]] = {"whole": [], "reading": []}
    # As a helper has it, for the one that it asks for the patch.
    with patch.dict(os.environ, environment()), patch.object(attempt, "_host", lambda *_: (Here(canned), canned)):
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
