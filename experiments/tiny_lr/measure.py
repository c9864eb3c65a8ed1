"""The measure function of the thread: train once, by Marin's own step, and say how well that went.

Importing this module loads nothing heavy; Marin and Levanter come in when a trial starts.
"""

import json
from pathlib import Path

from research_steps import run

from experiments.tiny_lr.config import TinyLr


def measure(config: TinyLr) -> dict[str, float]:
    """`{"eval_loss", "tokens"}`: the loss on held-out text in nats a token after the last step, and the tokens taken."""
    from experiments.tiny_lr.training import train

    return dict(run(train(config), read=evaluated))


def evaluated(output: str) -> dict[str, float]:
    """What Levanter's tracker left of the last evaluation."""
    found = json.loads(Path(output, "eval_results.json").read_text())
    return {"eval_loss": found["eval/loss"], "tokens": found["throughput/total_tokens"]}
