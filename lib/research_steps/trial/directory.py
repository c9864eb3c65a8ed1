"""A trial's directory: what one attempt at it leaves there, such as a checkpoint, the next one finds.

It belongs to the trial's key and lies below the store, beside the journal, where neither git nor anything that checks
records looks. Where the store is in a network it is a folder of this machine's cache.

    <store>/trials/<topic>/<key>/output.log                    what the trial has printed, in all attempts
                                 candidate/, baseline/         what each side of the pair keeps
                                 candidate/progress.jsonl      how far it was, and when (see `progress`)
"""

import os
from contextlib import suppress
from pathlib import Path
from typing import IO

from research_steps.errors import Side, UsageError
from research_steps.files import open_file, users_folder
from research_steps.records.encoding import sha256
from research_steps.records.redaction import LONGEST, redact_end, redactor

# Names the directory of the side that runs, in the trial's process and in what that starts.
VARIABLE = "RESEARCH_TRIAL_DIRECTORY"
OUTPUT, PROGRESS = "output.log", "progress.jsonl"
# How much of the output is shown (bytes).
SHOWN = 16_384
SIDES: tuple[Side, Side] = ("candidate", "baseline")


def trial_directory() -> str:
    """The folder that this trial may keep files in, the same one for every attempt at it: a training that was killed
    finds its checkpoints there. Each side of a pair has its own, and so has each configuration, replicate and version of
    the code. Raises UsageError outside of a trial's process."""
    folder = os.environ.get(VARIABLE)
    if not folder:
        raise UsageError(
            f"trial_directory() was called outside of a trial ({VARIABLE} is not set): call it in the measure function, "
            "or in a process that this starts with its environment."
        )
    os.makedirs(folder, exist_ok=True)
    return folder


def directory_of(store: str, topic: str, key: str) -> Path:
    """Where the directory of a trial lies, for a store by its URL."""
    if "://" in store:
        return users_folder("XDG_CACHE_HOME", ".cache").joinpath(
            "research_steps", "trials", sha256(store.encode())[:16], topic, key
        )
    return Path(store, "trials", topic, key)


def enter(directory: str, side: Side) -> None:
    """This process runs a side of the trial from now on."""
    os.environ[VARIABLE] = os.path.join(directory, side)


def open_output(directory: str) -> IO[bytes]:
    """The file that takes what the trial prints, after what earlier attempts have printed."""
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    ignored = folder.parents[1] / ".gitignore"
    if not ignored.exists():
        ignored.write_text("*\n")
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
    return os.fdopen(os.open(folder / OUTPUT, flags, 0o600), "r+b", buffering=0)


def output_end(directory: Path) -> str | None:
    """The end of what the trial has printed, without what looks like a secret; None where nothing is kept."""
    try:
        with open(open_file(directory / OUTPUT, os.O_NOFOLLOW), "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - SHOWN - 2 * LONGEST))
            return redact_end(file.read(), SHOWN, redactor())
    except FileNotFoundError:
        return None


def tidy(directory: str) -> None:
    """Take away the directory of a trial that has ended and kept nothing in it: what it printed goes with it."""
    folder = Path(directory)
    for side in SIDES:
        with suppress(OSError):
            (folder / side).rmdir()
    with suppress(OSError):
        if set(os.listdir(folder)) <= {OUTPUT}:
            (folder / OUTPUT).unlink(missing_ok=True)
            folder.rmdir()


def changed_at(directory: Path) -> float:
    """When anything was last written there but what the trial printed and told, in seconds since 1970; 0 where nothing
    was."""
    latest = 0.0
    for side in SIDES:
        for folder, _, names in os.walk(directory / side):
            for name in names if folder != str(directory / side) else set(names) - {PROGRESS}:
                with suppress(OSError):
                    latest = max(latest, os.stat(os.path.join(folder, name), follow_symlinks=False).st_mtime)
    return latest
