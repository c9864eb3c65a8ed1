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
from research_steps.thread.dev import attempt, warm
from research_steps.thread.dev.cases import declared, with_settings
from research_steps.thread.dev.command import environment, new_occasion
from research_steps.thread.dev.messages import DevRequest
from research_steps.thread.loading import load_thread
from research_steps.trial.launcher.helpers import Speaker
from research_steps.trial.launcher.host import LocalHost
from research_steps.trial.launcher.protocol import Ended, Request

ROUNDS, BAR_MS = 60, 30.0
SETTINGS = ("implementation=blocked_scan",)
assert warm.__all__


class Canned:
    """Trials whose result is there at once: that of a real one."""

    def __init__(self, ended: Ended) -> None:
        self.closed, self.family, self.sources, self._ended = False, os.getpid(), (), ended

    def run(self, request: Request, tell: object) -> Ended:
        return self._ended


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
        launch = msgspec.to_builtins(trial.launch)
        result = {**launch, "samples": trial.samples, "error": None, "devices": trial.devices, "sources": ()}
        known = {
            name: result[name]
            for name in ("samples", "error", "devices", "import_s", "setup_s", "sampling_s", "sources")
        }
        fields = {name: launch[name] for name in launch if name in Ended.__struct_fields__}
        from research_steps.trial.launcher.protocol import Result

        ended = Ended(**fields, result=Result(**known), timed_out=False, launcher_cpu_s=0.0, output_tail="")
        attempt._host = lambda *_: (LocalHost(Canned(ended)), Canned(ended))  # type: ignore[assignment]

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
