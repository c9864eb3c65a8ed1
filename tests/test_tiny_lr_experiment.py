"""The tiny_lr experiment: a training by Marin's own step as a measure function, without a network.

The trainings run for real, one after the other in a child process: narrower and shorter than those of the thread.
"""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
STEPS = 20
CONFIGS: dict[str, dict[str, Any]] = {
    "base": {"learning_rate": 1e-2},
    "evaluated more often": {"learning_rate": 1e-2, "steps_per_eval": 5},
    "diverges": {"learning_rate": 1e30},
}
PROGRAM = """
import json, os, sys
import marin.training.training
from experiments.tiny_lr.config import TinyLr
from experiments.tiny_lr.measure import measure

configs = json.loads(sys.argv[1])
found = {}
for name, config in configs.items():
    # As a trial has one.
    os.environ["RESEARCH_TRIAL_DIRECTORY"] = os.path.join(os.environ["MARIN_PREFIX"], name)
    found[name] = measure(TinyLr(steps=int(sys.argv[2]), hidden_dim=16, **config))
print(json.dumps(found))
"""


def run(program: str, *arguments: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=REPOSITORY,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, float]]:
    """What each training measured; nothing is looked up on a hub, nor reported to W&B."""
    offline = {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled", "JAX_PLATFORMS": "cpu"}
    prefix = str(tmp_path_factory.mktemp("store"))
    found: dict[str, dict[str, float]] = json.loads(
        run(PROGRAM, json.dumps(CONFIGS), str(STEPS), MARIN_PREFIX=prefix, **offline)
    )
    return found


def test_importing_the_measure_loads_no_heavy_library() -> None:
    """A thread file can import the measure function and make configurations without paying for Marin."""
    program = (
        "import sys; from experiments.tiny_lr.measure import measure; "
        "print(sorted({'jax', 'numpy', 'levanter', 'marin', 'fray', 'tokenizers'} & set(sys.modules)))"
    )
    assert run(program) == "[]"


def test_a_training_by_marins_step_learns_and_repeats(trained: dict[str, dict[str, float]]) -> None:
    """It spends its budget of tokens, ends below the loss of guessing bytes, and ends the same however often it is
    evaluated."""
    base = trained["base"]
    assert base["tokens"] == STEPS * 16 * 64
    assert 0 < base["eval_loss"] < math.log(256)
    assert trained["evaluated more often"] == base


def test_a_training_that_diverges_gives_a_loss_that_says_so(trained: dict[str, dict[str, float]]) -> None:
    """It is measured to its end, so that the record says that it diverged and not that it crashed."""
    assert not math.isfinite(trained["diverges"]["eval_loss"])
