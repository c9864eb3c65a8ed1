"""The work tree of a reproduction: the sealed code in a folder of its own, which goes when the reproduction is over.

Git lists it for that long. What a reproduction left that was killed, the next one in this repository removes.
"""

import fcntl
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from research_steps.errors import RepositoryError
from research_steps.git import Checkout
from research_steps.seal.bundle import Bundle

# With the host, because a clone that several machines share lists the folders of all, and shows none of the others'.
_PREFIX = f"research-reproduce-{socket.gethostname()}-"


@contextmanager
def scratch(checkout: Checkout) -> Iterator[tuple[Path, int]]:
    """A folder for a reproduction, whose work tree is `tree` in it, and the file that says that somebody is at it.

    A process that goes on when this one is killed holds the folder for as long, if it inherits that file.
    """
    for folder in _folders(checkout):
        if not _in_use(folder):
            _remove(checkout, folder)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX)).resolve()
    with (folder / "lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield folder, lock.fileno()
        finally:
            _remove(checkout, folder)


def add_sealed(checkout: Checkout, bundle: Bundle, tree: Path) -> Checkout:
    """Check out what was sealed, with its logbook and records."""
    checkout.quietly("worktree", "add", "--quiet", "--detach", str(tree), f"refs/tags/{bundle.tag}")
    return Checkout.find(tree)


def make_measured(there: Checkout, bundle: Bundle) -> bytes:
    """Change the work tree to what was measured, the commit and what differed from it, under the logbook as it was
    sealed. Returns what differed."""
    name = f".agents/logbooks/{bundle.topic}/{bundle.patch}.patch"
    patch = there.file_at("HEAD", name) if bundle.patch else b""
    if bundle.patch and not patch:
        raise RepositoryError(
            f"{bundle.tag} was measured with edits of commit {bundle.commit[:12]}, and the tag lacks {name}, which is "
            "to hold them: without them it can't be measured again."
        )
    sealed = there.git("rev-parse", "HEAD").decode().strip()
    there.quietly("checkout", "--quiet", "--detach", bundle.commit)
    if patch:
        there.quietly("apply", "--binary", "--whitespace=nowarn", "-", input=patch)
    # What git is told to ignore is in no patch, and was sealed all the same.
    for one in sorted({name for measured in bundle.measured for name in measured.files}):
        if not (there.root / one).exists() and there.file_at(sealed, one):
            there.quietly("restore", f"--source={sealed}", "--", f":(literal){one}")
    _take_submodules(there, bundle)
    # The rules of a thread ask what was swept alone, and where the baseline was moved to.
    there.quietly("restore", f"--source={sealed}", "--", ".agents/logbooks")
    return patch


def _take_submodules(there: Checkout, bundle: Bundle) -> None:
    """Each submodule at the commit that was checked out in it, by its address in .gitmodules: initialising them would
    write to the configuration of the user's repository."""
    for path, state in bundle.submodules.items():
        note, _, commit = state.rpartition(" ")
        if note.startswith("not checked out"):
            continue
        there.quietly("-c", "submodule.active=.", "submodule", "--quiet", "update", "--recursive", "--", path)
        if note:
            there.quietly("-C", path, "checkout", "--quiet", "--detach", commit)


def _folders(checkout: Checkout) -> Iterator[Path]:
    """The folders of the reproductions that git knows here, running or killed."""
    for line in os.fsdecode(checkout.git("worktree", "list", "--porcelain")).splitlines():
        tree = Path(line.removeprefix("worktree "))
        if line.startswith("worktree ") and tree.parent.name.startswith(_PREFIX):
            yield tree.parent


def _in_use(folder: Path) -> bool:
    try:
        with (folder / "lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


def _remove(checkout: Checkout, folder: Path) -> None:
    # A trial that was killed with its run may write for a moment longer.
    shutil.rmtree(folder, ignore_errors=True)
    # Where it was not made yet, or another reproduction was faster, there is nothing that git could forget.
    with suppress(RepositoryError):
        checkout.quietly("worktree", "remove", "--force", str(folder / "tree"))
