"""Whether sweeps over seeds are right about real training: a hyperparameter that does nothing, and one that does.

    python -m benchmarks.bench_training_claims [SWEEPS]

A network of 16 hidden units is trained by gradient descent for 60 steps on a regression of 512 samples, and judged by
its loss on 512 others; its seeds scatter by 16 %. A thread measures it at five seeds and sweeps six values through
Marin's executor: of a salt of the order of the samples, which changes every run and no expectation; and of the learning
rate, which is too small. Each sweep is a series of its own, with other seeds.

Bars, with 20 sweeps of each: of the salt at most 1 is called improved in any value; of the learning rate 18 name one of
the larger values improved.
"""

import sys
import tempfile
import time
from pathlib import Path

from tests.support.untimed_thread import UntimedThread

MEASURE = """
from dataclasses import dataclass

import numpy as np

WIDTH, STEPS, SAMPLES, BATCH = 16, 60, 512, 32


@dataclass(frozen=True)
class Config:
    lr: float = 0.01
    salt: int = 0
    seed: int = 0


def measure(config):
    data = np.random.default_rng(12345)
    x = data.normal(size=(2 * SAMPLES, 8))
    y = np.sin(x[:, 0]) + 0.5 * x[:, 1] * x[:, 2] + 0.1 * data.normal(size=2 * SAMPLES)
    init, order = np.random.default_rng(config.seed), np.random.default_rng([config.seed, config.salt, 7])
    w1, b1 = init.normal(size=(8, WIDTH)) / 8**0.5, np.zeros(WIDTH)
    w2, b2 = init.normal(size=WIDTH) / WIDTH**0.5, 0.0
    for _ in range(STEPS):
        rows = order.integers(SAMPLES, size=BATCH)
        hidden = np.tanh(x[rows] @ w1 + b1)
        error = (hidden @ w2 + b2 - y[rows]) / BATCH
        back = np.outer(error, w2) * (1 - hidden**2)
        w2, b2 = w2 - config.lr * (hidden.T @ error), b2 - config.lr * error.sum()
        w1, b1 = w1 - config.lr * (x[rows].T @ back), b1 - config.lr * back.sum(0)
    predicted = np.tanh(x[SAMPLES:] @ w1 + b1) @ w2 + b2
    return {"loss": float(np.mean((predicted - y[SAMPLES:]) ** 2))}
"""
THREAD = """
    base = steps.baseline(measure, Config(), over=("seed", range({first}, {last})))
    steps.sweep(base, ({axis!r}, {values}))
"""
LOSS = 'Metric("loss", timed=False)'
SEEDS, SWEEPS = 5, 20
AXES: dict[str, list[float]] = {"salt": [1, 2, 3, 4, 5, 6], "lr": [0.008, 0.011, 0.012, 0.015, 0.02, 0.03]}
LARGER = AXES["lr"][1:]
MOST_FALSE, LEAST_FOUND = 1, 18


def improved(folder: Path, axis: str, number: int, seeds: int = SEEDS) -> list[float]:
    """The values that one sweep calls improved."""
    repository = UntimedThread(folder / "checkout")
    repository.measure(MEASURE)
    first = number * seeds
    repository.write(THREAD.format(first=first, last=first + seeds, axis=axis, values=AXES[axis]), LOSS)
    repository.commit()
    repository.ok()
    return [claim.changes[axis] for claim in repository.claims("TOY-002") if claim.verdict == "improved"]


def quick(folder: Path) -> list[str]:
    """One sweep of the learning rate: what is called improved is better."""
    values = improved(folder, "lr", 0)
    return [] if values and set(values) <= set(LARGER) else [f"called improved: {values or 'none'}"]


def main() -> None:
    sweeps = int(sys.argv[1]) if len(sys.argv) > 1 else SWEEPS
    false = finds = 0
    began = time.monotonic()
    for number in range(sweeps):
        with tempfile.TemporaryDirectory() as folder:
            salts = improved(Path(folder), "salt", number)
        with tempfile.TemporaryDirectory() as folder:
            rates = improved(Path(folder), "lr", number)
        false += bool(salts)
        finds += bool(rates) and set(rates) <= set(LARGER)
        print(
            f"sweep {number + 1}, {time.monotonic() - began:.0f} s: salt {salts or 'none'}, lr {rates or 'none'}",
            flush=True,
        )
    print(f"the salt has a value called improved: {false} of {sweeps}; bar {MOST_FALSE} of {SWEEPS}")
    print(f"a better learning rate is found, and no worse one: {finds} of {sweeps}; bar {LEAST_FOUND} of {SWEEPS}")
    sys.exit(0 if false <= MOST_FALSE and finds >= LEAST_FOUND * sweeps / SWEEPS else 1)


if __name__ == "__main__":
    main()
