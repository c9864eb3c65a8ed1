"""Repetitions over a field, such as the seed: what both sides share there cancels; replicates take new values."""

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from research_steps import Metric
from research_steps.evidence.judgement import judge
from research_steps.evidence.statistics import LEVEL
from research_steps.records.encoding import Stored
from research_steps.records.model import Samples

from tests.support import records
from tests.support.toy_thread import cli
from tests.support.untimed_thread import UntimedThread

LOSS = Metric("loss", timed=False, min_effect=0.005)
# A training whose loss is its seed's, but for what the width does, and a little of both.
TRAINING = """
import random
from dataclasses import dataclass

@dataclass(frozen=True)
class Config:
    width: int = 1
    seed: int = 0

def measure(config):
    open("measured", "a").write(f"{config.width} {config.seed}\\n")
    seed, both = random.Random(f"seed {config.seed}"), random.Random(f"{config.width} {config.seed}")
    better = 0.97 if config.width == 3 else 1.0
    return {"cost": 2.0 * better * (1 + seed.gauss(0, 0.02)) * (1 + both.gauss(0, 0.002))}
"""
THREAD = """
    base = steps.baseline(measure, Config(), over=("seed", range(5)))
    widths = steps.sweep(base, ("width", [2, 3, 4]))
    again = steps.replicate(widths, n=3)
    steps.interpret(base, widths, again)
"""


@pytest.fixture
def repository(tmp_path: Path) -> UntimedThread:
    repository = UntimedThread(tmp_path / "checkout")
    repository.measure(TRAINING)
    repository.write(THREAD)
    return repository


def test_a_sweep_over_seeds_compares_seed_by_seed(repository: UntimedThread) -> None:
    """3 % less loss is found beside seeds that scatter by 2 %, and widths that change nothing stay without a verdict
    for an improvement. Replicates take seeds that nothing was chosen by, for both sides."""
    repository.ok()

    assert len(repository.entry("TOY-001").rows) == 5
    rows = repository.entry("TOY-002").rows
    assert len(rows) == 15 and {row.note for row in rows} == {f"seed={seed}" for seed in range(5)}
    # Each row stands beside the baseline at its own seed.
    measured = [*rows, *repository.entry("TOY-003").rows]
    ratios = [row.ratios["cost"].median for row in measured if row.changes == {"width": 3}]
    assert ratios == [pytest.approx(0.97, abs=0.012)] * 8
    claims = {claim.changes["width"]: claim for claim in repository.claims("TOY-002")}
    assert claims[3].verdict == "improved" and claims[3].estimate == pytest.approx(0.97, abs=0.005)
    assert (claims[3].processes, claims[3].over) == (5, "seed")
    assert "same seed" in claims[3].method
    # What five seeds replicated needs no replication before anything else.
    assert claims[3].confidence == "replicated"
    assert repository.entry("TOY-002").next_action.startswith("Extend width=3 across size")
    assert {claims[2].verdict, claims[4].verdict} <= {"no difference", "inconclusive"}

    (again,) = repository.claims("TOY-003")
    assert (again.changes, again.verdict, again.confidence) == ({"width": 3}, "improved", "replicated")
    assert repository.measured[20:] == ["3 5", "3 6", "3 7", "1 5", "1 6", "1 7"]
    assert "`seed=6`" in repository.logbook
    shown = re.findall(r"^ +\| TOY-002\.\d\d \| `width=\d` \| ([^|]*) \|", repository.logbook, re.M)
    assert len(shown) == 15 and all(re.fullmatch(r"[01]\.\d{3} ×", cell) for cell in shown)
    assert not re.search(r"held fixed `[^`]*seed=", repository.logbook)
    assert cli(repository, "verify", "toy")[0] == 0
    assert "nothing new" in repository.ok()


def test_a_sweep_over_seeds_can_be_split_and_gone_on_with(repository: UntimedThread) -> None:
    """In shards it measures the same; by command a candidate takes the seeds that follow."""
    repository.write(THREAD.replace("[2, 3, 4]))", "[2, 3, 4]), shards=2)"))
    repository.ok()
    assert len(repository.measured) == 26
    repository.command("replicate", "TOY-003", "-n", "2").ok()
    assert repository.measured[26:] == ["3 8", "3 9", "1 8", "1 9"]
    (again,) = repository.claims("TOY-005")
    assert (again.processes, again.look, again.confidence) == (5, 2, "replicated")


@pytest.mark.parametrize("values", ["[1]", "['a', 'b']", "[1.5, 2.5]"])
def test_what_no_replicate_could_follow_is_refused(repository: UntimedThread, values: str) -> None:
    """Repetitions go over whole numbers, two at least."""
    repository.write(THREAD.replace("range(5)", values))
    refused = repository.run()
    assert refused.code == 1 and "whole numbers" in refused.output and "range(5)" in refused.output


def test_pairs_by_seed_find_what_unpaired_seeds_do_not() -> None:
    """A true 1 % at five seeds that scatter by 1 %, with a correlation of 0.9: 95 % by pairs, 23 % without."""
    dice, wins = np.random.default_rng(0), {"seed": 0, "": 0}
    null = 0
    for _ in range(400):
        shared, own = dice.normal(0, 0.01 * math.sqrt(0.9), 5), dice.normal(0, 0.01 * math.sqrt(0.1), (3, 5))

        def trials(logs: Any, start: int) -> list[Any]:
            made = []
            for seed, value in enumerate(logs):
                samples = Samples(paired=False, order="A", candidate={"loss": [math.exp(value)]}, baseline={})
                record = records.trial(key=f"{start + seed:064x}", id="L-001.01", samples=samples, config={"seed": seed})
                made.append(Stored(record, b"%d" % (start + seed)))
            return made

        baseline = trials(shared + own[0], 100)
        better, same = trials(shared + own[1] - 0.01, 0), trials(shared + own[2], 50)
        for over in wins:
            wins[over] += judge(LOSS, better, baseline, LEVEL, over=over).verdict == "improved"
        null += judge(LOSS, same, baseline, LEVEL, over="seed").verdict in ("improved", "regressed")
    assert wins["seed"] >= 0.93 * 400 and wins[""] <= 0.4 * 400
    assert null <= 0.06 * 400


def test_an_interaction_over_seeds_is_compared_seed_by_seed(repository: UntimedThread) -> None:
    """What won on each axis, together, at the seeds of the baseline; replicates of it take those that follow."""
    deeper = TRAINING.replace("width: int = 1", "width: int = 1\n    depth: int = 1")
    repository.measure(deeper.replace("2.0 * better", "2.0 * better * (0.96 if config.depth == 2 else 1.0)"))
    repository.write(
        """
    base = steps.baseline(measure, Config(), over=("seed", range(5)))
    widths = steps.sweep(base, ("width", [2, 3]))
    depths = steps.sweep(base, ("depth", [2, 3]))
    both = steps.interact(widths, depths)
    steps.replicate(both, n=3)
"""
    )
    repository.ok()
    by_step = {stored.record.step: stored.record for stored in repository.known().in_order}
    (claim,) = [claim for claim in by_step["interact"].claims or () if claim.metric == "cost"]
    assert (claim.changes, claim.verdict) == ({"width": 3, "depth": 2}, "improved")
    assert (claim.estimate, claim.processes, claim.over) == (pytest.approx(0.97 * 0.96, abs=0.006), 5, "seed")
    assert "expected if the axes did not interact" in by_step["interact"].rows[0].note
    (again,) = by_step["replicate"].claims or ()
    assert (again.changes, again.confidence, again.processes) == (claim.changes, "replicated", 3)
    assert {row.note.rpartition("; ")[2] for row in by_step["replicate"].rows} == {"seed=5", "seed=6", "seed=7"}


# A training that is best at another learning rate for each width; width 2 only looks better where its own is not tried.
TUNED = """
import math, random
from dataclasses import dataclass

@dataclass(frozen=True)
class Config:
    width: int = 1
    lr: float = 0.1
    seed: int = 0

BEST = {1: 0.4, 2: 0.1, 3: 0.2}

def measure(config):
    open("measured", "a").write(f"{config.width} {config.lr} {config.seed}\\n")
    if (config.width, config.lr) == (3, 0.4):
        return {"cost": math.nan}
    seed, both = random.Random(f"seed {config.seed}"), random.Random(f"{config} {config.seed}")
    away = abs(math.log2(config.lr / BEST[config.width]))
    better = 0.95 if config.width == 3 else 1.0
    return {"cost": (2.0 * better + 0.1 * away) * (1 + seed.gauss(0, 0.02)) * (1 + both.gauss(0, 0.002))}
"""


def test_what_is_tuned_is_compared_with_a_tuned_baseline(repository: UntimedThread) -> None:
    """On an equal budget, on seeds that tuned nothing. Width 2 is better at the baseline's learning rate, and no better
    than a baseline that has its own."""
    repository.measure(TUNED)
    body = THREAD.replace('("width", [2, 3, 4])', '("width", [2, 3]), tuned_over=("lr", [0.1, 0.2, 0.4])')
    repository.write(body)
    repository.ok()
    sweep = repository.entry("TOY-002")
    # Nine settings at five seeds, one of which is the baseline's own and was measured before.
    assert len(set(repository.measured[5:45])) == 40
    assert {line.split()[2] for line in repository.measured[5:45]} == set("01234")
    assert {line.split()[2] for line in repository.measured[-21:-6]} == set("56789")
    claims = {claim.changes["width"]: claim for claim in sweep.claims or ()}
    assert claims[2].changes == {"width": 2, "lr": 0.1} and claims[2].case["lr"] == 0.4
    assert claims[2].verdict in ("no difference", "inconclusive")
    assert (claims[3].verdict, claims[3].estimate) == ("improved", pytest.approx(0.95, abs=0.006))
    assert "lr=0.4" in sweep.interpretation and len(claims[3].also) == 5
    (again,) = repository.claims("TOY-003")
    assert (again.changes, again.case["lr"], again.confidence) == ({"width": 3, "lr": 0.2}, 0.4, "replicated")
    assert {row.note.partition(";")[0] for row in repository.entry("TOY-003").rows} == {
        f"seed={n}" for n in (10, 11, 12)
    }
    assert cli(repository, "verify", "toy")[0] == 0
    repository.command("replicate", "TOY-003.01", "-n", "2").ok()
    assert repository.claims("TOY-005")[0].look == 2


@pytest.mark.parametrize("tuned", ['("width", [1, 2])', '("lr", [0.1])', '("seed", [1, "x"]), shards=2'])
def test_a_tuning_that_tells_nothing_is_refused(repository: UntimedThread, tuned: str) -> None:
    """Over its own axis, one value, or in shards."""
    repository.measure(TUNED)
    repository.write(THREAD.replace('("width", [2, 3, 4])', f'("width", [2, 3]), tuned_over={tuned}'))
    refused = repository.run()
    assert refused.code == 1 and "is tuned over" in refused.output
