"""A bad network and killed publishers: the short version of `benchmarks/bench_issue.py`."""

import os
import random
from pathlib import Path

from benchmarks.bench_issue import run


def test_every_milestone_has_one_comment_whatever_fails(tmp_path: Path) -> None:
    """A third of the requests fail, half of them after they were acted on, and the publisher is killed three times."""
    problems, _, _ = run(tmp_path, 30, 3, 0.3, random.Random(5))
    assert problems == []


def test_without_faults_a_milestone_costs_two_requests(tmp_path: Path) -> None:
    """One to look whether it is there, one to post it; beyond the first listing."""
    before = dict(os.environ)
    problems, requests, listing = run(tmp_path, 12, 0, 0.0, random.Random(5))
    assert problems == []
    assert dict(os.environ) == before, "other tests would look for that GitHub"
    assert (requests - listing) / 12 <= 2
