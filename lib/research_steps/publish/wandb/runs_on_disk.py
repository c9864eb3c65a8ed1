"""The W&B runs that lie in a checkout, as `run_file` writes them: little to import for who only asks what there is."""

from pathlib import Path

from research_steps.git import Checkout


def folder_of(checkout: Checkout, topic: str) -> Path:
    return checkout.private / "wandb" / topic


def runs_in(folder: Path) -> dict[str, Path]:
    """The files of the runs that are in place, by ID."""
    return {path.stem.removeprefix("run-"): path for path in sorted(folder.glob("offline-run-*/run-*.wandb"))}


def is_sent(path: Path) -> bool:
    """Whether W&B has taken a run whole, by its own receipt."""
    return path.with_name(f"{path.name}.synced").exists()


def address_of(path: Path) -> str:
    """Where W&B shows a run, empty where it was not sent or W&B did not say so."""
    file = path.with_name("address")
    return file.read_text().strip() if is_sent(path) and file.exists() else ""
