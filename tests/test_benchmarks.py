"""Every benchmark's short form: its real code with tiny sizes, so that none of them is dead at the next change."""

import importlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import tests.support.toy_thread  # noqa: F401  # imports what takes long, and what changes the environment, once

SCRIPTS = sorted(path.stem for path in (Path(__file__).parents[1] / "benchmarks").glob("bench_*.py"))
# Those whose short form runs on the cluster that the tests share.
ON_RAY = ("bench_cluster_dispatch", "bench_cluster_kills")


@pytest.fixture
def unchanged() -> Iterator[None]:
    """What other tests rest on is in the end as it was: the environment and the working directory."""

    def state() -> tuple[dict[str, str], str]:
        return {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}, os.getcwd()

    before = state()
    yield
    assert state() == before


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("name", [name for name in SCRIPTS if name not in ON_RAY])
def test_a_benchmark_runs(name: str, tmp_path: Path) -> None:
    """It comes to its end, and whatever it counts or concludes is right."""
    assert importlib.import_module(f"benchmarks.{name}").quick(tmp_path) == []
