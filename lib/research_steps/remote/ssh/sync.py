"""Brings a checkout's files to a dev host: those that git tracks or would, and only what changed since the last time.

What was brought is noted in the checkout, by size and the time of its last change of any kind. Over there nothing is
touched but what was brought.
"""

import os
import stat
from contextlib import suppress
from pathlib import Path

import msgspec

from research_steps.files import write_aside
from research_steps.git import LIVING, Checkout
from research_steps.remote.ssh.session import SshSession
from research_steps.trial.launcher.conversation import Hear
from research_steps.trial.launcher.protocol import Waiting

# What the tool itself writes has no use there, and what is there in its place is that host's own.
OWN = ".agents"


class SyncedFiles(msgspec.Struct, frozen=True):
    """What a host has: in which folder, and each file with its time of change (nanoseconds), size and mode."""

    root: str
    files: dict[str, tuple[int, int, int]]


def sync(checkout: Checkout, session: SshSession, anew: bool, hear: Hear) -> str:
    """Bring what changed, or look at everything `anew`; returns the folder over there. Raises ResearchError."""
    note = checkout.private / "dev-hosts" / f"{session.key}.json"
    before = _noted(note)
    if before is None or anew:
        root = session.folder()
        before = before if before is not None and before.root == root else SyncedFiles(root, {})
    files = _files(checkout)
    changed = [name for name, state in files.items() if anew or before.files.get(name) != state]
    gone = before.files.keys() - files.keys()
    if gone:
        session.remove(before.root, gone)
    if changed:
        hear(Waiting(f"bringing {len(changed)} file{'s' if len(changed) != 1 else ''} to {session.name}"))
        session.bring(checkout.root, before.root, changed)
    if gone or changed:
        write_aside(note, msgspec.json.encode(SyncedFiles(before.root, files)))
    return before.root


def _noted(note: Path) -> SyncedFiles | None:
    try:
        return msgspec.json.decode(note.read_bytes(), type=SyncedFiles)
    except (OSError, msgspec.MsgspecError):
        return None


def _files(checkout: Checkout) -> dict[str, tuple[int, int, int]]:
    left_out = (f":(exclude,literal){name}" for name in (OWN, *LIVING))
    files = {}
    for name in checkout.files(".", *left_out):
        with suppress(OSError):
            status = os.lstat(checkout.root / name)
            # Not a repository inside this one.
            if not stat.S_ISDIR(status.st_mode):
                files[name] = (status.st_ctime_ns, status.st_size, status.st_mode)
    return files
