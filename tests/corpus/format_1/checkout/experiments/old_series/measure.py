"""What the series measures: a cost that is drawn and untimed, and a time that the machine's load moves."""

import os
import random
import time
from dataclasses import dataclass
from itertools import count
from pathlib import Path

BROKEN = 13
MODES = {"plain": 1.0, "folded": 0.8, "blocked": 1.25}
SIDES = count()


@dataclass(frozen=True)
class Config:
    work: int = 2000
    size: int = 1
    mode: str = "plain"


def measure(config):
    if config.work == BROKEN:
        raise ValueError("no such kernel")
    while Path(f"hold-{config.work}-{config.mode}-{config.size}").exists():
        time.sleep(0.02)
    units = config.work * config.size * MODES[config.mode]
    noise = random.Random(f"{config} {os.getpid()} {next(SIDES)}")
    while True:
        start = time.perf_counter()
        sum(range(int(units)))
        took = time.perf_counter() - start
        yield {"cost": round(units * (1 + noise.gauss(0, 0.002)), 3), "time_s": round(took, 9)}
