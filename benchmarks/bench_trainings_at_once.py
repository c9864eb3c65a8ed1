"""Recorded trainings side by side against the same ones one at a time: Levanter's Llama, with its own W&B tracker.

Bar: seven at once leave seven W&B runs (offline here), each with its own group and curve, which are those of one at a
time.

    python -m benchmarks.bench_trainings_at_once [--trainings 7]
"""

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

from research_steps.journal.journal import Journal
from research_steps.journal.store import open_store

THREAD = """
    from dataclasses import replace
    from levanter.tracker.wandb import WandbConfig
    from experiments.tiny_lr.config import TinyLr
    from experiments.tiny_lr.training import train

    for seed in range(TRAININGS):
        step = train(TinyLr(steps=20, hidden_dim=16, seed=seed))
        config = step.config.train_config
        trainer = replace(config.trainer, tracker=WandbConfig(project="tiny", mode="offline"))
        told = replace(step.config, train_config=replace(config, trainer=trainer))
        steps.recorded(replace(step, name=f"tiny_lr/train-{seed}", config=told))
"""


def curves(root: Path, trainings: int, at_once: int) -> dict[str, list[float]]:
    """The curve of each W&B run, by the step that the run is grouped by, once the thread has run."""
    from tests.support.toy_thread import HERE, Repository
    from tests.support.wandb_files import read

    repository, runs = Repository(root / "checkout"), root / "runs"
    runs.mkdir()
    shutil.copytree(HERE / "experiments" / "tiny_lr", repository.root / "experiments" / "tiny_lr")
    repository.thread(THREAD.replace("TRAININGS", str(trainings)))
    repository.commit()
    began = time.monotonic()
    environment = {"WANDB_MODE": "offline", "WANDB_DIR": str(runs), "WANDB_SILENT": "true", "HF_HUB_OFFLINE": "1"}
    done = repository.run("--max_concurrent", str(at_once), JAX_PLATFORMS="cpu", **environment)
    assert done.code == 0, done.output[-3000:]
    print(f"{trainings} trainings, {at_once} at a time: {time.monotonic() - began:.0f} s", flush=True)
    found = {}
    for run in map(read, runs.glob("**/offline-run-*/*.wandb")):
        found[f"{run.run.run_group.split()[1]}"] = [row["train/loss"] for row in run.history if "train/loss" in row]
    entries = Journal(open_store(str(repository.root / "local_store")), "toy").scan().entries
    assert len(entries) == trainings and len({stored.record.id for stored in entries.values()}) == trainings
    return found


def differences(root: Path, trainings: int, alone: int) -> list[str]:
    """What is not as one at a time, of which there are so many."""
    root.mkdir(parents=True, exist_ok=True)
    for name in ("together", "alone"):
        (root / name).mkdir()
    together, single = curves(root / "together", trainings, trainings), curves(root / "alone", alone, 1)
    counts = len(together), len(single), len({tuple(curve) for curve in together.values()})
    wrong = [] if counts == (trainings, alone, trainings) else [f"runs at once, alone, and different curves: {counts}"]
    wrong += [f"{name} has another curve" for name, curve in single.items() if curve != together.get(name)]
    return wrong + [f"{name} has no curve" for name, curve in together.items() if len(curve) < 10]


def quick(folder: Path) -> list[str]:
    """Two, and one of them alone."""
    return differences(folder / "trainings", 2, 1)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--trainings", type=int, default=7)
    count = parser.parse_args().trainings
    wrong = differences(Path(tempfile.mkdtemp(prefix="trainings-")), count, count)
    if wrong:
        sys.exit("\n".join([*wrong, "bar NOT MET"]))
    print("bar met")


if __name__ == "__main__":
    main()
