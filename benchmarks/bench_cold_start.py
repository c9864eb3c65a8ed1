"""How long `research status` and `research verify` take from cold, beside a Python that imports fsspec and click.

Bar: at most 1.5 times that. Run in a checkout with a logbook: `python -m benchmarks.bench_cold_start [TOPIC]`.
"""

import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.dev_checkout import REPOSITORY

ROUNDS = 15
BAR = 1.5
PEER = [sys.executable, "-c", "import fsspec, click"]


def seconds(command: list[str], where: Path) -> float:
    start = time.perf_counter()
    done = subprocess.run(command, cwd=where, capture_output=True, text=True, check=False)
    elapsed = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} exited with {done.returncode}: {done.stdout}{done.stderr}")
    return elapsed


def run(where: Path, topic: str, rounds: int) -> list[str]:
    """Print what the commands take in a checkout; those that miss the bar."""
    research, missed = str(Path(sys.executable).with_name("research")), []
    print(f"{'command':<20}{'median s':>10}{'peer s':>10}{'ratio':>8}   bar {BAR}")
    for name in ("status", "verify"):
        command = [research, name, topic]
        seconds(command, where), seconds(PEER, where)
        pairs = [(seconds(command, where), seconds(PEER, where)) for _ in range(rounds)]
        mine, peer = (statistics.median(column) for column in zip(*pairs, strict=True))
        ratio = statistics.median(own / other for own, other in pairs)
        met = ratio <= BAR
        print(f"{'research ' + name:<20}{mine:>10.3f}{peer:>10.3f}{ratio:>8.2f}   {'met' if met else 'NOT MET'}")
        missed += [] if met else [name]
    return missed


def quick(folder: Path) -> list[str]:
    """One round in this repository, whose logbook is there and verifies."""
    run(REPOSITORY, "moe_hc", 1)
    return []


def main() -> None:
    sys.exit(1 if run(Path.cwd(), sys.argv[1] if len(sys.argv) > 1 else "moe_hc", ROUNDS) else 0)


if __name__ == "__main__":
    main()
