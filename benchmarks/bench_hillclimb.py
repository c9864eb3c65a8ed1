"""A scripted agent that climbs a hill by edits in place, through `dev`, `keep`, `confirm` and `rebase` alone.

    python -m benchmarks.bench_hillclimb [RUNS]

A kernel that computes has five parts; five edits make one of them cheaper each, by 8 % of the whole as it starts. 10
others break it (it does not parse, raises, or gives nothing), and 25 change a comment. They come in random order. The
agent saves an edit and asks `research dev` whether that is better; what is left open it asks again, in three processes.
What is called improved it keeps and confirms, up to five times, until the baseline may move to it or it is no
difference; else it takes the edit back. It never gives a setting.

Bars, in 10 runs: each ends with the five and nothing else, and no baseline ever moved to another edit.
"""

import random
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.dev_checkout import DevCheckout, checkout

PARTS, BROKEN, COMMENTS = 5, 10, 25
RUNS, LOOKS = 10, 5
COST, CHEAPER = 60, 36
KERNEL = """
import time

import numpy as np

PARTS = {parts}
{more}


def cost():
    a = np.random.default_rng(0).random((32, 32)).astype(np.float32)
    while True:
        began = time.perf_counter()
        for times in PARTS:
            x = a
            for _ in range(times):
                x = (a @ x) / np.float32(16)
        yield time.perf_counter() - began
"""
DRAWN = """
import os, random

PARTS = {parts}
{more}


def cost():
    shift = random.Random(os.getpid()).gauss(1, 0.003)
    while True:
        yield sum(PARTS) * shift * random.gauss(1, 0.003)
"""
MEASURE = """
from dataclasses import dataclass

from experiments.toy.kernel import cost


@dataclass(frozen=True)
class Config:
    size: int = 1


def measure(config):
    for value in cost():
        yield {"cost": value}
"""
THREAD = """
    steps.baseline(measure, Config())
"""
BREAKS = ("PARTS = (", "raise ValueError('no such kernel')", "PARTS = None")


@dataclass(frozen=True)
class Edit:
    """Of one kind; `number` is the part that it makes cheaper, or which break or comment it is."""

    kind: str
    number: int


def edits_of(parts: int, broken: int, comments: int) -> list[Edit]:
    counts = {"cheaper": parts, "broken": broken, "comment": comments}
    return [Edit(kind, number) for kind, count in counts.items() for number in range(count)]


def kernel(text: str, edits: Sequence[Edit]) -> str:
    """The kernel with these edits."""
    cheaper = {edit.number for edit in edits if edit.kind == "cheaper"}
    more = [f"# note {edit.number}" for edit in edits if edit.kind == "comment"]
    more += [BREAKS[edit.number % len(BREAKS)] for edit in edits if edit.kind == "broken"]
    parts = [CHEAPER if number in cheaper else COST for number in range(PARTS)]
    return text.replace("{parts}", str(parts)).replace("{more}", "\n".join(more))


def climb(repository: DevCheckout, text: str, edits: Sequence[Edit]) -> tuple[list[Edit], Counter[str]]:
    """What the agent ends with, and what it did."""
    accepted: list[Edit] = []
    did: Counter[str] = Counter()
    file = repository.experiment / "kernel.py"
    for edit in edits:
        file.write_text(kernel(text, [*accepted, edit]))
        id, verdict = _attempted(repository, did)
        if verdict in ("inconclusive", "not comparable"):
            id, verdict = _attempted(repository, did, "-n", "3")
        if verdict == "improved" and _moves(repository, id, did):
            accepted.append(edit)
        file.write_text(kernel(text, accepted))
    return accepted, did


def _attempted(repository: DevCheckout, did: Counter[str], *options: str) -> tuple[str, str]:
    """The ID and verdict of an attempt; no verdict where it failed."""
    did["attempts"] += 1
    with repository.start("dev", "toy", *options) as told:
        output = "".join(told.communicate(timeout=300))
    answer = re.search(r"^(TOY-\d+)\.\d+.*: cost .* × ?(?:\(.*?\))?, ([a-z ]+)", output, re.MULTILINE)
    return (answer[1], answer[2].strip()) if answer else ("", "")


def _moves(repository: DevCheckout, id: str, did: Counter[str]) -> bool:
    """Whether the baseline moved to an attempt, after as many looks as it takes."""
    repository.research("keep", id, "--hypothesis", "H1")
    for _ in range(LOOKS):
        did["looks"] += 1
        confirmation = re.search(r"^(TOY-\d+): appended", repository.research("confirm", f"{id}.01"), re.MULTILINE)
        assert confirmation is not None, "what is confirmed is an entry"
        with repository.start("rebase", confirmation[1]) as rebase:
            refusal = "".join(rebase.communicate())
        if rebase.returncode == 0:
            did["moves"] += 1
            return True
        assert "does not carry a baseline" in refusal, refusal
        if "no difference" in refusal:
            break
    return False


def run(
    folder: Path, text: str, metric: str, edits: Sequence[Edit], sampling: str = "max_pairs=5000, sampling_s=0.7"
) -> tuple[list[Edit], Counter[str]]:
    with checkout(folder) as repository:
        repository.measure(MEASURE)
        (repository.experiment / "kernel.py").write_text(kernel(text, []))
        repository.write(THREAD, metric)
        thread = repository.experiment / "__main__.py"
        # As much sampling as a kernel takes.
        thread.write_text(thread.read_text().replace("max_pairs=20, sampling_s=5", sampling))
        repository.commit()
        repository.ok()
        return climb(repository, text, edits)


def wrong(edits: Sequence[Edit], accepted: Sequence[Edit]) -> list[str]:
    """What a run should have ended with and did not, and the other way round."""
    lost = [edit for edit in edits if edit.kind == "cheaper" and edit not in accepted]
    false = [edit for edit in accepted if edit.kind != "cheaper"]
    return [f"not found: {edit}" for edit in lost] + [f"moved to: {edit}" for edit in false]


def quick(folder: Path) -> list[str]:
    """Costs that are drawn, and four edits."""
    edits = [Edit("broken", 0), Edit("cheaper", 0), Edit("comment", 0), Edit("cheaper", 1)]
    drawn = run(folder, DRAWN, 'Metric("cost", "min", timed=False)', edits, "max_pairs=20, sampling_s=5")
    return wrong(edits, drawn[0])


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else RUNS
    failures = 0
    for number in range(runs):
        edits = edits_of(PARTS, BROKEN, COMMENTS)
        random.Random(number).shuffle(edits)
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            accepted, did = run(Path(folder), KERNEL, 'Metric("cost", "min")', edits)
        faults = wrong(edits, accepted)
        failures += bool(faults)
        told = ", ".join(f"{count} {what}" for what, count in did.items())
        print(f"run {number + 1}, {time.monotonic() - began:.0f} s: {told}; {'; '.join(faults) or 'right'}", flush=True)
    print(f"{runs - failures} of {runs} runs ended at the true best; bar all")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
