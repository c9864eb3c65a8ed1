"""W&B runs that a trial starts: what they are told, and where they lie once it has ended.

Whatever calls `wandb.init` in a trial's process, or in one that this starts, finds in its environment the project,
group, name and tags that a run made from records would have; what the code names itself stands. Their files lie in the
trial's directory, whoever wrote them, and tell which runs there are. W&B is not imported here.

    <directory>/wandb/offline-run-20261130_143019-osbm4jwc/run-osbm4jwc.wandb
"""

import os
import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from research_steps.errors import SurfaceError
from research_steps.records.model import TrackedRun, TrialRecord
from research_steps.records.names import PROJECT, RUN_FOLDER
from research_steps.trial.directory import directory_of
from research_steps.trial.wandb_log import begun_run

FOLDER = "wandb"
# Where W&B shows a run whose code named no project.
_NO_PROJECT = "uncategorized"


def tell_runs(tracker: Mapping[str, str], directory: str) -> None:
    """Have the W&B runs of this process find these variables, and leave their files in the trial's directory; nothing
    where there are none."""
    if tracker:
        os.environ.update({**tracker, "WANDB_DIR": directory})


def end_open_run() -> None:
    """End the W&B run of this process that the measure function left open: nothing else would write it to its end."""
    run: Any = getattr(sys.modules.get("wandb"), "run", None)
    # Whatever W&B says, the trial is over.
    with suppress(Exception):
        if run is not None:
            run.finish()


def runs_in_directory(directory: Path) -> tuple[TrackedRun, ...]:
    """The W&B runs that all attempts at a trial have started, oldest first."""
    runs = []
    for folder in sorted(Path(directory, FOLDER).glob("*run-*-*"), key=lambda path: path.name.removeprefix("offline-")):
        if re.fullmatch(RUN_FOLDER, folder.name) and folder.is_dir() and not folder.is_symlink():
            id = folder.name.removeprefix("offline-").split("-", 2)[2]
            with suppress(OSError, SurfaceError):
                log = begun_run(folder / f"run-{id}.wandb")
                # One that was killed before its first word is none.
                if log.id == id:
                    project = log.project if re.fullmatch(PROJECT, log.project) else _NO_PROJECT
                    runs.append(TrackedRun(id, project, folder.name))
    return tuple(runs)


def files_of(store: str, record: TrialRecord) -> dict[str, list[Path]]:
    """Where the files of a trial's W&B runs lie, by the run's ID, for a store by its URL; they need not be there."""
    folder = directory_of(store, record.series, record.key) / FOLDER
    files: dict[str, list[Path]] = {}
    for run in record.runs or ():
        files.setdefault(run.id, []).append(folder / run.folder / f"run-{run.id}.wandb")
    return files
