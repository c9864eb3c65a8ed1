"""Writes W&B runs, offline, in a process of its own: `python -m research_steps.publish.wandb.writer <parent> <folder>`.

Reads runs from its input, one JSON line each, and answers with one line each: written, or why not. The only module that
imports wandb. A run is written in a staging folder, read back from its file, and moved into place when it is whole:

    <folder>/offline-run-20260521_093000-0123456789abcdef/run-0123456789abcdef.wandb    the run, and its receipt
                                                          samples.table.json            its raw table
                                                          run-….wandb.synced            W&B's own receipt of sending
             .writing-<pid>/                                                            staging, removed by the next

W&B itself is told to find out nothing: what a run holds is what the job says.
"""

import importlib
import json
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import psutil

from research_steps.publish.wandb import run_file
from research_steps.publish.wandb.runs import Run
from research_steps.trial.launcher.processes import die_with_parent

STAGING = ".writing-"
TABLE = "samples.table.json"
# How long a run's file may take to become whole, which is less than the driver waits for an answer, and how long where
# the disk takes no more (seconds).
PATIENCE_S, HASTE_S, POLL_S = 20.0, 0.2, 0.002
# What a disk is tried with (bytes), which is more than W&B writes at once.
TRIED = 1 << 16
# How long W&B's service may take to end (seconds).
CLOSE_S = 3.0
SERVICE_EVERY_S = 0.25
_SETTINGS: dict[str, Any] = {
    "mode": "offline",
    "api_key": None,
    "base_url": "https://api.wandb.ai",
    "console": "off",
    "disable_code": True,
    "disable_git": True,
    "disable_job_creation": True,
    "host": "",
    "init_timeout": 30.0,
    "label_disable": True,
    "program": "",
    "sagemaker_disable": True,
    "save_code": False,
    "silent": True,
    "symlink": False,
    "x_disable_machine_info": True,
    "x_disable_meta": True,
    "x_disable_stats": True,
    "x_disable_viewer": True,
    "x_executable": "",
    "x_save_requirements": False,
    # The file is read once, when it is finished.
    "x_transaction_log_flush_interval": 0.0,
}


_PLACES = {"root": "HOME", "config": "WANDB_CONFIG_DIR", "cache": "WANDB_CACHE_DIR", "data": "WANDB_DATA_DIR"}


class Answer(msgspec.Struct, frozen=True):
    """What became of one run; an empty problem says that it is in place."""

    id: str
    problem: str


@dataclass
class RunContents:
    """What a run's file holds, as W&B would send it."""

    run: Any = None
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    artifacts: list[Any] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    exit_code: int | None = None


def folder_of(root: Path, run: Run) -> Path:
    """A run's place, named as W&B names it; `wandb sync` knows offline runs by that."""
    started = datetime.fromtimestamp(run.started, UTC).strftime("%Y%m%d_%H%M%S")
    return root / f"offline-run-{started}-{run.id}"


def read(path: Path) -> RunContents:
    """Read a run's file. Raises ValueError where it is not whole."""
    protocol: Any = importlib.import_module("wandb.proto.wandb_internal_pb2")
    found = RunContents()
    for data in run_file.records(path.read_bytes()):
        record = protocol.Record.FromString(data)
        kind = record.WhichOneof("record_type")
        found.kinds.append(kind)
        match kind:
            case "run":
                found.run = record.run
                found.config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
            case "config":
                found.config |= {item.key: json.loads(item.value_json) for item in record.config.update}
            case "history":
                found.history.append({_key(item): json.loads(item.value_json) for item in record.history.item})
            case "summary":
                found.summary |= {_key(item): json.loads(item.value_json) for item in record.summary.update}
            case "artifact":
                found.artifacts.append(record.artifact)
            case "exit":
                found.exit_code = record.exit.exit_code
    return found


def _key(item: Any) -> str:
    return ".".join(item.nested_key) or str(item.key)


def lost(run: Run, found: RunContents) -> str:
    """What of a run its file does not hold, empty when it is whole."""
    wanted = {"id": run.id, "project": run.project, "name": run.name, "group": run.group, "job type": run.job_type}
    held = found.run and {
        "id": found.run.run_id,
        "project": found.run.project,
        "name": found.run.display_name,
        "group": found.run.run_group,
        "job type": found.run.job_type,
    }
    if found.kinds[:1] != ["header"] or held != wanted:
        return "its beginning"
    if list(found.run.tags) != run.tags or found.run.notes != run.notes:
        return "its tags or notes"
    if not _within(run.config, found.config):
        return "its configuration"
    if len(found.history) != len(run.history) or not all(map(_within, run.history, found.history)):
        return f"some of its {len(run.history)} rows of history"
    if not _within(run.summary, found.summary):
        return "its summary"
    if len(found.artifacts) != (run.table is not None):
        return "its table"
    return "" if found.exit_code == run.exit_code and found.kinds[-1] == "exit" else "its end"


def _within(wanted: dict[str, Any], found: dict[str, Any]) -> bool:
    return all(name in found and found[name] == value for name, value in wanted.items())


@contextmanager
def staging(root: Path) -> Iterator[Path]:
    """A folder for what is not whole yet. What killed writers left is removed first."""
    for left in root.glob(f"{STAGING}*"):
        shutil.rmtree(left, ignore_errors=True)
    for place in root.glob("offline-run-*"):
        if not list(place.glob("*.wandb")):
            shutil.rmtree(place, ignore_errors=True)
    folder = root / f"{STAGING}{os.getpid()}"
    # W&B keeps a folder of its own in its root, and logs, settings and caches where it is told to.
    for name, variable in _PLACES.items():
        (folder / name).mkdir(parents=True)
        os.environ[variable] = str(folder / name)
    # For Python alone: the service puts a socket into TMPDIR, and the name of a socket has to be short.
    tempfile.tempdir = str(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Writer:
    """Writes runs into a folder, one after the other."""

    def __init__(self, root: Path, folder: Path) -> None:
        import wandb

        self._root = root
        self._folder = folder / "root"
        self._ended = threading.Event()
        threading.Thread(target=_end_with_service, args=[self._ended], daemon=True).start()
        # For all runs, which take less time so than each with settings of its own.
        known = {name: value for name, value in _SETTINGS.items() if name in wandb.Settings.model_fields}
        wandb.setup(settings=wandb.Settings(**known, root_dir=str(self._folder)))

    def write(self, run: Run) -> str:
        """Write one run. Returns why it isn't in place, empty when it is."""
        place = folder_of(self._root, run)
        try:
            # W&B puts the summary there when it sends the run.
            (place / "files").mkdir(parents=True, exist_ok=True)
            if run.table is not None:
                _write(place / TABLE, run.table.encode())
            self._record(run, place)
            (path,) = self._folder.glob(f"*/offline-run-*-{run.id}/run-{run.id}.wandb")
            wait_until_whole(run, path)
            _move(path, place / path.name)
            return ""
        # Whatever W&B raises for one run is that run's problem.
        except Exception as error:  # noqa: BLE001
            shutil.rmtree(place, ignore_errors=True)
            return f"{type(error).__name__}: {error}"
        finally:
            for left in self._folder.glob("*/offline-run-*"):
                shutil.rmtree(left, ignore_errors=True)

    def close(self) -> None:
        import wandb

        self._ended.set()
        # The runs are in place; what its service still has to say matters to nobody.
        with suppress(Exception):
            wandb.teardown()
        # But not into a folder that is being removed.
        _, left = psutil.wait_procs(psutil.Process().children(), timeout=CLOSE_S)
        for service in left:
            service.kill()

    def _record(self, run: Run, place: Path) -> None:
        import wandb

        with _begun_at(run.started):
            begun = wandb.init(
                project=run.project,
                id=run.id,
                name=run.name,
                group=run.group,
                job_type=run.job_type,
                tags=run.tags,
                notes=run.notes,
                config=run.config,
            )
        try:
            for row in run.history:
                begun.log({**row, "_timestamp": run.finished})
            # After the history, whose last row W&B takes for the summary otherwise.
            begun.summary.update(run.summary)
            if run.table is not None:
                artifact = wandb.Artifact(run.table.name, type="samples")
                # Not copied, because it lies where it stays; and named from the folder that W&B works in, here and when
                # it sends the run, because what it is named by is sent along.
                artifact.add_file(f"{place.name}/{TABLE}", name=TABLE, policy="immutable", skip_cache=True)
                begun.log_artifact(artifact)
        finally:
            begun.finish(exit_code=run.exit_code)


def wait_until_whole(run: Run, path: Path) -> None:
    """W&B finishes a run's file some milliseconds after it has said so, later on a busy machine. Raises ValueError when
    it never does, and OSError where the disk takes no more.
    """
    problem = _still_wrong(run, path, HASTE_S)
    if problem:
        _try_disk(path.parent)
        problem = _still_wrong(run, path, PATIENCE_S)
    if problem:
        raise ValueError(problem)


def _still_wrong(run: Run, path: Path, patience_s: float) -> str:
    """What is wrong with a run's file after so many seconds, empty as soon as it is whole."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            missing = lost(run, read(path))
            problem = missing and f"its file lacks {missing}"
        except ValueError as error:
            problem = str(error)
        if not problem or time.monotonic() > deadline:
            return problem
        time.sleep(POLL_S)


def _try_disk(folder: Path) -> None:
    """Raise OSError when a file in a folder can't have a few bytes more."""
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(bytes(TRIED))


@contextmanager
def _begun_at(moment: float) -> Iterator[None]:
    """Have a run begin when its trial did; W&B has no setting for that, and takes the time of writing otherwise."""
    module: Any = importlib.import_module("wandb.sdk.wandb_init")
    plain = module.Run

    class Dated(plain):  # type: ignore[misc, valid-type]
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            self._start_time = moment

    module.Run = Dated
    try:
        yield
    finally:
        module.Run = plain


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _move(path: Path, to: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.replace(path, to)
        # The renaming changed the inode, so this fsync makes its name last.
        os.fsync(file.fileno())


def _end_with_service(ended: threading.Event) -> None:
    """End this process when W&B's service dies, from its start on: its client would wait for it for minutes."""
    here = psutil.Process()
    seen: set[int] = set()
    while not ended.wait(SERVICE_EVERY_S):
        services = {child.pid for child in here.children() if _alive(child, seen)}
        if not seen <= services:
            print("W&B's service has died", file=sys.stderr, flush=True)
            os._exit(1)


def _alive(child: psutil.Process, seen: set[int]) -> bool:
    """Whether a child lives, noted in `seen` when it is a service of W&B."""
    try:
        if "wandb" in child.name():
            seen.add(child.pid)
        return bool(child.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def work(root: Path, answers: BinaryIO) -> None:
    """Write the runs that the input holds, and answer for each."""
    decoder = msgspec.json.Decoder(Run)
    os.chdir(root)
    with staging(root) as folder:
        writer = Writer(root, folder)
        for line in sys.stdin.buffer:
            run = decoder.decode(line)
            answers.write(msgspec.json.encode(Answer(run.id, writer.write(run))) + b"\n")
        writer.close()


def main() -> None:
    parent, root = int(sys.argv[1]), Path(sys.argv[2])
    die_with_parent(parent)
    # W&B prints where it likes; the answers have a way of their own.
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    try:
        work(root, answers)
    except BaseException as error:  # noqa: BLE001  # this is the top of the process
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        # Threads of W&B that wait for a service which is not there would hold a plain exit up.
        os._exit(1)


if __name__ == "__main__":
    main()
