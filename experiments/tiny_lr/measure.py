"""The measure function of the thread: train once, by Marin's own step, and say how well that went.

Importing this module loads nothing heavy; Marin and Levanter come in when a trial starts.
"""

import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.tiny_lr.config import TinyLr

if TYPE_CHECKING:
    from marin.execution.types import ExecutorStep


def measure(config: TinyLr) -> dict[str, float]:
    """`{"eval_loss", "tokens"}`: the loss on held-out text in nats a token after the last step, and the tokens taken."""
    from experiments.tiny_lr.training import train

    os.environ.setdefault("MARIN_PREFIX", str(Path("local_store").absolute()))
    with tempfile.TemporaryDirectory() as output:
        return run(train(config), output)


def run(step: "ExecutorStep", output: str) -> dict[str, float]:
    """Run the step here, with its output in this folder, and return what Levanter says of it."""
    from marin.execution.executor import instantiate_config

    step.fn(instantiate_config(step.config, output, {}, output))
    found = json.loads(Path(output, "eval_results.json").read_text())
    return {"eval_loss": found["eval/loss"], "tokens": found["throughput/total_tokens"]}
