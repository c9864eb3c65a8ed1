"""A run that is killed again and again: the short version of `benchmarks/bench_kills.py`."""

import random
from pathlib import Path

import pytest

from benchmarks.bench_kills import run


@pytest.mark.parametrize("seed", [1])
def test_whatever_is_killed_whenever_every_record_stands_once(tmp_path: Path, seed: int) -> None:
    """Eight kills (-9) of driver, parent and trials, then a run to the end: every intent has one record, no record or
    entry that was seen is lost, changed or doubled, `research verify` finds nothing, and no process is left."""
    assert run(tmp_path, 8, random.Random(seed)) == []
