"""What the report of a long thread costs: 2,000 trials of 60 pairs and two metrics, as in `bench_large_series`.

Bar: `research report` takes at most 5 s (the whole process), and the file has at most 3 MB. Medians of fresh processes.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.bench_large_series import SERIES, Size, build

FULL = Size(2, 24, 40)
ROUNDS = 5
BAR_S, BAR_BYTES = 5.0, 3_000_000


def run(root: Path, size: Size, rounds: int) -> tuple[Path, int, float]:
    """The report, how many trials it holds, and the median of the seconds that it took."""
    thread = build(root, size)
    command = [sys.executable, "-m", "research_steps", "report", SERIES.topic]
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
        seconds.append(time.perf_counter() - start)
    path = Path(done.stdout.splitlines()[0])
    median = statistics.median(seconds)
    size_mb = path.stat().st_size / 1e6
    print(f"{thread.trials} trials in {thread.entries} entries: {median:.2f} s (bar {BAR_S}), {size_mb:.2f} MB (bar 3)")
    return path, thread.trials, median


def quick(folder: Path) -> list[str]:
    """One chapter of two short sweeps: each of its trials stands in the file once."""
    path, trials, _ = run(folder / "checkout", Size(1, 2, 3), 1)
    rows = path.read_text().count('<tr id="BENCH-')
    return [] if rows == trials else [f"{rows} rows of trials, not {trials}"]


def main() -> None:
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".bench-") as scratch:
        path, _, seconds = run(Path(scratch) / "checkout", FULL, ROUNDS)
        missed = seconds > BAR_S or path.stat().st_size > BAR_BYTES
    if missed:
        sys.exit("bar NOT MET")
    print("bar met")


if __name__ == "__main__":
    main()
