"""Which files that git does not track a thread is made of: its patch holds these, and names the others.

They are those of the experiment's folder, the code that this imports, and the code of packages that people edit in the
checkout. What trackers write and environments hold is neither kept nor named.
"""

from collections.abc import Collection, Sequence
from pathlib import Path, PurePath

from research_steps.trial.code import imported, source_folders

# Folders that W&B, MLflow, TensorBoard, Hydra, Lightning and Aim make beside the code that they run in.
TRACKERS = frozenset(("wandb", "mlruns", "runs", "tb_logs", "outputs", "multirun", "lightning_logs", ".aim"))


def made_by_tools(untracked: Collection[str]) -> set[str]:
    """Those of these untracked files that a tracker wrote, or that an environment holds."""
    named = (name.removesuffix("pyvenv.cfg") for name in untracked if name.endswith("/pyvenv.cfg"))
    environments = tuple(named)
    return {name for name in untracked if name.startswith(environments) or not TRACKERS.isdisjoint(name.split("/")[:-1])}


def thread_files(root: Path, topic: str, untracked: Sequence[str]) -> tuple[list[str], list[str]]:
    """Of the files that git does not track below `root`, those that the thread of this topic is made of, and those that
    are somebody else's."""
    folder = f"experiments/{topic}/"
    sources = tuple(f"{Path(folder).relative_to(root).as_posix()}/" for folder in source_folders(root))
    code = {name for name in untracked if name.endswith(".py") and not name.startswith(folder)}
    own = {name for name in code if name.startswith(sources)}
    if code - own:
        modules = (path.relative_to(root).with_suffix("") for path in (root / folder).rglob("*.py"))
        own |= code & imported(map(_dotted, modules), root)
    rest = [name for name in untracked if name not in own]
    made = made_by_tools(rest)
    own |= {name for name in rest if name.startswith(folder) and name not in made}
    return [name for name in untracked if name in own], [name for name in rest if name not in own | made]


def _dotted(path: PurePath) -> str:
    return ".".join(path.parts).removesuffix(".__init__")
