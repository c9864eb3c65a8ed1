"""What `research record` costs a command, by turns with the bare command (A B A B): how much later it begins, and how
long after its end the record is in the store.

Bar: both together at most 50 ms, for a command that takes long enough that all else is done beside it; and 10,000 lines
of metrics are parsed in at most 0.2 s. Publishing the entry comes after that, and is told as well.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from research_steps import Metric, Series
from research_steps.journal.journal import Journal
from research_steps.journal.store import open_store
from research_steps.trial.printed import Printed

ROUNDS, SECONDS = 15, 3.0
BAR_MS, PARSE_BAR_S, LINES = 50.0, 0.2, 10_000
RECORD = [str(Path(sys.executable).with_name("research")), "record", "bench", "--"]
# What is run: it says when it began and when it ended, by the clock that times of files are told by.
SCRIPT = (
    "import time\nprint(time.time(), flush=True)\ntime.sleep({seconds})\nprint('METRIC time_s=1')\nprint(time.time())"
)


def checkout(folder: Path) -> Path:
    """A repository with a series of which nothing is recorded yet."""
    (folder / "experiments" / "bench").mkdir(parents=True)
    (folder / ".gitignore").write_text("local_store/\n")
    for command in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message", "state"]):
        by = ["-c", "user.name=A Person", "-c", "user.email=person@example.org"]
        subprocess.run(["git", *by, *command], cwd=folder, check=True)
    journal(folder).declare(Series("bench", "BENCH", "see what it costs", (Metric("time_s", "min"),)))
    return folder


def journal(root: Path) -> Journal:
    return Journal(open_store(str(root / "local_store")), "bench")


def took_ms(root: Path, argv: list[str]) -> dict[str, float]:
    """Milliseconds until the command began, and from its end until its record was there, and until all was over."""
    launched = time.time()
    done = subprocess.run(argv, cwd=root, capture_output=True, text=True, check=True)
    over, lines = time.time(), done.stdout.split()
    began, ended = float(lines[0]), float(lines[-1])
    entries = (root / "local_store" / "journal" / "bench" / "entries" / "records").glob("*.json")
    recorded = max([path.stat().st_mtime for path in entries], default=0.0)
    moments = {"begin": began - launched, "record": max(0.0, recorded - ended), "all": over - ended}
    return {name: seconds * 1000 for name, seconds in moments.items()}


def run(root: Path, rounds: int, seconds: float) -> float:
    """Print what the rounds took; the milliseconds that recording costs, the median of the differences."""
    bare = [sys.executable, "-S", "-c", SCRIPT.format(seconds=seconds)]
    pairs = [(took_ms(root, [*RECORD, *bare]), took_ms(root, bare)) for _ in range(rounds)]
    for name, what in (("begin", "begins later"), ("all", "is over and published later")):
        told = [mine[name] - other[name] for mine, other in pairs]
        print(f"a recorded command {what}: median {statistics.median(told):.1f} ms ({min(told):.1f} to {max(told):.1f})")
    print(f"its record is there after its end: median {statistics.median(mine['record'] for mine, _ in pairs):.1f} ms")
    cost = statistics.median(mine["begin"] - other["begin"] + mine["record"] for mine, other in pairs)
    print(f"both together: median {cost:.1f} ms, bar {BAR_MS:g} ms")
    return cost


def parsing_s() -> float:
    """Print, and return, the CPU time that the lines of metrics take (seconds)."""
    printed, text = Printed(), b"".join(b"METRIC time_s=%d.25\n" % number for number in range(LINES))
    began = time.process_time()
    printed.take("stdout", text)
    printed.close()
    assert len(printed.samples()) == LINES
    took_s = time.process_time() - began
    print(f"{LINES} lines of metrics: {took_s:.3f} s, bar {PARSE_BAR_S:g} s")
    return took_s


def quick(folder: Path) -> list[str]:
    """One round: the command was recorded."""
    root = checkout(folder)
    run(root, 1, 0.1)
    trials = journal(root).scan().trials
    return [] if len(trials) == 1 and parsing_s() <= PARSE_BAR_S else [f"{len(trials)} trials of 1"]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        cost_ms = run(checkout(Path(folder)), ROUNDS, SECONDS)
    sys.exit(0 if cost_ms <= BAR_MS and parsing_s() <= PARSE_BAR_S else 1)


if __name__ == "__main__":
    main()
