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
from pathlib import Path

import msgspec
from dev_checkout import small_moe
from research_steps.git import Checkout
from research_steps.thread.dev import attempt, preload
from research_steps.thread.dev.cases import declared, with_settings
from research_steps.thread.dev.command import environment, new_occasion
from research_steps.thread.dev.messages import DevRequest
from research_steps.thread.loading import load_thread
from research_steps.trial.launcher.conversation import Speaker
from research_steps.trial.launcher.host import LocalHost
from research_steps.trial.launcher.protocol import Request, TrialOutcome

ROUNDS, BAR_MS = 60, 30.0
SETTINGS = ("implementation=blocked_scan",)
assert preload.__all__


class Canned:
    """Trials whose result is there at once: that of a real one."""

    def __init__(self, outcome: TrialOutcome) -> None:
        self.closed, self.family, self._outcome = False, os.getpid(), outcome

    def run(self, request: Request, hear: object) -> TrialOutcome:
        return self._outcome


class Silent(Speaker):
    """Nobody listens."""

    def __init__(self) -> None:
        pass

    def tell(self, message: msgspec.Struct) -> None:
        pass


def in_child(work: "object") -> float:
    """The milliseconds that some work takes in a process forked for it, as a helper is."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        began = time.perf_counter()
        work()  # type: ignore[operator]
        os.write(write, json.dumps((time.perf_counter() - began) * 1000).encode())
        os._exit(0)
    os.close(write)
    os.waitpid(pid, 0)
    with os.fdopen(read) as found:
        return float(found.read())


def main() -> None:
    # As a helper has it, for the one that it asks for the patch.
    os.environ.update(environment())
    with tempfile.TemporaryDirectory() as folder, small_moe(Path(folder)) as bench:
        bench.order(*SETTINGS)
        trial = bench.last()
        assert trial.launch is not None
        outcome = TrialOutcome(
            samples=trial.samples, error=None, devices=trial.devices, sources=(), launch=trial.launch,
            launcher_cpu_s=0.0, started_at=trial.started_at, finished_at=trial.finished_at,
        )  # fmt: skip
        attempt._host = lambda *_: LocalHost(Canned(outcome))  # type: ignore[assignment]

        def whole() -> None:
            asked = DevRequest(
                cwd=str(bench.root), store=f"{bench.root}/local_store", topic="moe_hc", command=("benchmark",),
                occasion=new_occasion(), settings=SETTINGS,
            )  # fmt: skip
            attempt.attempt(asked, Silent())

        def reading() -> None:
            os.chdir(bench.root)
            _, thread = load_thread(Checkout.find(), "moe_hc")
            with_settings(declared(thread, lambda found: True, ""), SETTINGS)

        took: dict[str, list[float]] = {"whole": [], "reading": []}
        for number in range(ROUNDS):
            bench.edit(number)
            took["whole"].append(in_child(whole))
            took["reading"].append(in_child(reading))
    recording = [a - b for a, b in zip(took["whole"], took["reading"], strict=True)]
    for name, values in {**took, "recording": recording}.items():
        print(f"{name}: median {statistics.median(values):.1f} ms ({min(values):.1f} to {max(values):.1f})")
    print(f"bar {BAR_MS:g} ms")
    sys.exit(0 if statistics.median(recording) <= BAR_MS else 1)


if __name__ == "__main__":
    main()
