"""Milestones on an issue behind a proxy that faults 30 % of the requests, half of those after the server committed.

Bars: 500 milestones, the publisher killed (-9) 20 times at random moments: each record in exactly one comment, in order;
without faults at most 2 requests a milestone beyond the first listing. The GitHub is the tests' (emulate, with its own
state), the publisher a process of its own whose clock passes as soon as it sleeps.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from research_steps.records.series import Metric, Series

from tests.support import github_api
from tests.support.issue_thread import Thread, environment
from tests.support.scratch_logbook import Desk

ROOT = Path(__file__).resolve().parents[1]
BAR = 2

SERIES = Series(topic="toy", prefix="TOY", goal="see it published", metrics=(Metric("time_s", "min"),))
FAULTS_BEFORE = (
    github_api.reset(),
    github_api.unavailable(502),
    github_api.secondary_limit(2),
    github_api.rate_limit(5),
)
FAULTS_AFTER = (
    github_api.reset(forward=True),
    github_api.unavailable(502, forward=True),
    github_api.truncate(),
    github_api.cut_json(),
)
PUBLISHER = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from tests.support.issue_thread import Clock
from tests.support.scratch_logbook import Desk
from benchmarks.bench_issue import SERIES
from research_steps.publish.publisher import publish
from research_steps.publish.issue.surface import IssueSurface
desk = Desk(Path(sys.argv[2]), Path(sys.argv[3]))
clock = Clock()
surface = IssueSurface(desk.checkout, desk.journal, SERIES, lambda sha256: "", clock)
while True:
    published = publish(desk.journal, [surface], final=False)
    if not published.problems:
        break
    clock.sleep(120)
"""


def run(folder: Path, milestones: int, kills: int, rate: float, chance: random.Random) -> tuple[list[str], int, int]:
    """What is wrong in the end, how many requests were made, and how many of them were the first listing's."""
    problems: list[str] = []
    with github_api.server() as server, github_api.Proxy(server) as proxy:
        thread = Thread(Desk.make(folder), SERIES, server.repository())
        records = [thread.milestone(f"finding {number}") for number in range(milestones)]
        drawing = threading.Lock()

        def fault(method: str, path: str, number: int) -> github_api.Fault | None:
            with drawing:
                if chance.random() >= rate:
                    return None
                return chance.choice(FAULTS_AFTER if chance.random() < 0.5 else FAULTS_BEFORE)

        proxy.fault = fault
        command = [sys.executable, "-c", PUBLISHER, str(ROOT), str(thread.desk.root), str(thread.desk.store)]
        reaching = {**os.environ, **environment(proxy)}
        left = kills
        while True:
            publisher = subprocess.Popen(command, env=reaching, stdout=subprocess.DEVNULL)
            try:
                # A kill comes at a moment within what a twentieth of the milestones takes.
                if left:
                    shown = proxy.count("POST")
                    target = shown + chance.randint(0, max(1, milestones // (kills + 1)))
                    while publisher.poll() is None and proxy.count("POST") < target:
                        time.sleep(0.001)
                    time.sleep(chance.random() * 0.02)
                    publisher.send_signal(signal.SIGKILL)
                    left -= 1
                if publisher.wait(timeout=600) == 0:
                    break
                if publisher.returncode != -signal.SIGKILL:
                    problems.append(f"a publisher ended with {publisher.returncode}")
                    break
            finally:
                publisher.kill()
                publisher.wait()
        shown_records = thread.shown
        if shown_records != records:
            missing = len(set(records) - set(shown_records))
            doubled = len(shown_records) - len(set(shown_records))
            problems.append(f"{missing} missing, {doubled} doubled, or not in order")
        if left:
            problems.append(f"only {kills - left} of {kills} kills came before the end")
        return problems, proxy.count("", "/comments"), 1


def quick(folder: Path) -> list[str]:
    """30 milestones, a third of whose requests fail, with three kills; and 12 without faults, which hold the bar."""
    problems, _, _ = run(folder / "faults", 30, 3, 0.3, random.Random(5))
    others, requests, listing = run(folder / "plain", 12, 0, 0.0, random.Random(5))
    each = (requests - listing) / 12
    return problems + others + ([] if each <= BAR else [f"{each:.2f} requests for a milestone, at most {BAR}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--milestones", type=int, default=500)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=random.randrange(1000))
    options = parser.parse_args()
    print(f"seed {options.seed}")
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="research-bench-") as scratch:
        start = time.perf_counter()
        problems, requests, listing = run(Path(scratch) / "plain", options.milestones, 0, 0.0, chance)
        each = (requests - listing) / options.milestones
        took = time.perf_counter() - start
        print(
            f"no faults: {options.milestones} milestones, {each:.3f} requests each (bar {BAR}), {took:.0f} s {problems}"
        )
        start = time.perf_counter()
        wrong, requests, _ = run(Path(scratch) / "faults", options.milestones, options.kills, 0.3, chance)
        took = time.perf_counter() - start
        print(
            f"30 % faults, {options.kills} kills: {options.milestones} milestones, {requests} requests, {took:.0f} s, "
            f"{wrong or 'each record in exactly one comment, in order'}"
        )
    if problems or wrong or each > BAR:
        sys.exit(1)


if __name__ == "__main__":
    main()
