"""A thread that measures an existing command line: a script of the checkout, and what that imports."""

from pathlib import Path

from tests.support.toy_thread import Repository

BENCH = """
import argparse, random, sys, time
import shapes

parser = argparse.ArgumentParser()
parser.add_argument("--work", type=int)
parser.add_argument("--mode", default="ok")
asked = parser.parse_args()
if asked.mode == "fail":
    print("\\x1b[31mno such kernel\\x1b[0m, token ghp_" + "a1B2c3D4e5F6" * 3, file=sys.stderr)
    sys.exit(7)
print("warming up")
for _ in range(2):
    start = time.perf_counter()
    sum(range(asked.work * shapes.SCALE))
    took = time.perf_counter() - start
    if asked.mode == "steady":
        took = asked.work * random.uniform(0.99e-6, 1.01e-6)
    print(f"METRIC time_s={took}" if asked.mode != "silent" else f"METRIC loss={took}")
"""
THREAD = """
    base = steps.baseline(Command("python -S tools/bench.py --work {work} --mode {mode}"), Config())
    steps.seal(base, steps.sweep(base, ("mode", ["fail", "silent"])), steps.sweep(base, ("work", [8000])))
"""


def command_thread(root: Path, body: str = THREAD) -> Repository:
    """A repository that holds it, committed."""
    repository = Repository(root)
    tools = repository.root / "tools"
    tools.mkdir()
    (tools / "bench.py").write_text(BENCH)
    (tools / "shapes.py").write_text("SCALE = 1\n")
    repository.thread(body)
    main = repository.experiment / "__main__.py"
    # However long a run takes here, two of each side are taken.
    text = main.read_text().replace("max_pairs=5, sampling_s=0.2", "max_pairs=2, sampling_s=60")
    main.write_text(f"from research_steps import Command\n{text}")
    repository.commit()
    return repository


def untimed(repository: Repository) -> None:
    """Have its metric be none that load disturbs."""
    main = repository.experiment / "__main__.py"
    main.write_text(main.read_text().replace('Metric("time_s", "min")', 'Metric("time_s", "min", timed=False)'))
    repository.commit()
