"""How long `research status` and `research verify` take from cold, beside a Python that imports fsspec and click.

Bar: at most 1.5 times that. Run in a checkout with a logbook: `python benchmarks/bench_cold_start.py [topic]`.
"""

import statistics
import subprocess
import sys
import time
from pathlib import Path

ROUNDS = 15
BAR = 1.5
PEER = [sys.executable, "-c", "import fsspec, click"]


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    elapsed = time.perf_counter() - start
    if done.returncode:
        sys.exit(f"{' '.join(command)} exited with {done.returncode}: {done.stdout}{done.stderr}")
    return elapsed


def main() -> None:
    topic = sys.argv[1] if len(sys.argv) > 1 else "moe_hc"
    research = str(Path(sys.executable).with_name("research"))
    print(f"{'command':<20}{'median s':>10}{'peer s':>10}{'ratio':>8}   bar {BAR}")
    for name in ("status", "verify"):
        command = [research, name, topic]
        seconds(command), seconds(PEER)
        pairs = [(seconds(command), seconds(PEER)) for _ in range(ROUNDS)]
        mine, peer = (statistics.median(column) for column in zip(*pairs, strict=True))
        ratio = statistics.median(one / other for one, other in pairs)
        print(
            f"{'research ' + name:<20}{mine:>10.3f}{peer:>10.3f}{ratio:>8.2f}   {'met' if ratio <= BAR else 'NOT MET'}"
        )


if __name__ == "__main__":
    main()
