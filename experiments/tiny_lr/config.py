"""What a training of the thread is, as plain fields."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TinyLr:
    """`seed` draws the initial weights and the order of the data. A step takes 16 sequences of 64 tokens (bytes).

    `steps_per_eval` steps lie between two evaluations; the last step is always evaluated.
    """

    learning_rate: float = 1e-3
    steps: int = 100
    hidden_dim: int = 64
    steps_per_eval: int = 100
    seed: int = 0
