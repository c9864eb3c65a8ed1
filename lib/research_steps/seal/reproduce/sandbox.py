"""Where a reproduction runs: the sealed code in a folder of its own, which goes when the reproduction is over, and an
environment that is built from the sealed list of packages, or the one that is here.

Git lists the work tree for that long. What a reproduction left that was killed, the next one in this repository removes.
"""

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from research_steps.errors import RepositoryError, UsageError
from research_steps.files import is_private
from research_steps.git import Checkout
from research_steps.records.conditions import ENVIRONMENT, PLACES
from research_steps.records.redaction import redact, redactor
from research_steps.records.secret_names import is_secret
from research_steps.seal.bundle import Bundle

# With the host, because a clone that several machines share lists the folders of all, and shows none of the others'.
_PREFIX = f"research-reproduce-{socket.gethostname()}-"
# A cluster's machines don't see a store of this one.
_ELSEWHERE = ("RAY_ADDRESS",)
# Where Python finds more than its environment holds.
_MORE = ("PYTHONPATH", "PYTHONHOME", "PYTHONUSERBASE")


@contextmanager
def scratch(checkout: Checkout) -> Iterator[tuple[Path, int]]:
    """A folder for a reproduction, whose work tree is `tree` in it, and the file that says that somebody is at it.

    A process that goes on when this one is killed holds the folder for as long, if it inherits that file.
    """
    listed = os.fsdecode(checkout.git("worktree", "list", "--porcelain")).splitlines()
    trees = (Path(line.removeprefix("worktree ")) for line in listed if line.startswith("worktree "))
    for left in (tree.parent for tree in trees if tree.parent.name.startswith(_PREFIX)):
        with suppress(BlockingIOError):
            with suppress(FileNotFoundError):
                if not is_private(left):
                    # It was removed, and another user has taken its name.
                    continue
                with (left / "lock").open("rb") as lock:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(checkout, left)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX)).resolve()
    with (folder / "lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            with _ended_as_by_ctrl_c():
                yield folder, lock.fileno()
        finally:
            _remove(checkout, folder)


@contextmanager
def _ended_as_by_ctrl_c() -> Iterator[None]:
    """SIGTERM, and a terminal that is closed, end what is inside as Ctrl-C does: with all that it started."""
    asked = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, signal.default_int_handler) for number in asked}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def add_measured(checkout: Checkout, bundle: Bundle, patch: bytes, tree: Path) -> Checkout:
    """Check out what was measured, the commit and what differed from it, under the logbook as it was sealed."""
    checkout.quietly("worktree", "add", "--quiet", "--detach", str(tree), bundle.commit)
    there, tag = Checkout.find(tree), f"refs/tags/{bundle.tag}"
    if patch:
        there.quietly("apply", "--binary", "--whitespace=nowarn", "-", input=patch)
    # What git is told to ignore is in no patch, and was sealed all the same.
    for file in sorted({file for function in bundle.measured for file in function.files}):
        if not (there.root / file).exists() and there.file_at(tag, file):
            there.quietly("restore", f"--source={tag}", "--", f":(literal){file}")
    for path, state in bundle.submodules.items():
        note, _, commit = state.rpartition(" ")
        if not note.startswith("not checked out"):
            # By its address in .gitmodules: initialising it would write to the configuration of the user's repository.
            there.quietly("-c", "submodule.active=.", "submodule", "--quiet", "update", "--recursive", "--", path)
            there.quietly("-C", path, "checkout", "--quiet", "--detach", commit)
    # The rules of a thread ask what was swept alone, and where the baseline was moved to.
    there.quietly("restore", f"--source={tag}", "--", ".agents/logbooks")
    return there


def variables(bundle: Bundle, store: Path, here: bool) -> dict[str, str]:
    """The variables of a reproduction: those here that are no secrets, but for what decides a result, which is as it was
    sealed."""
    others = {*_ELSEWHERE, *(() if here else _MORE), *left_out()}
    inherited = {name: value for name, value in os.environ.items() if not _decides(name) and name not in others}
    sealed = {name: value for name, value in bundle.environment.items() if _decides(name)}
    # Runs that the code itself starts there are nobody's.
    return {**inherited, **sealed, "MARIN_PREFIX": str(store), "WANDB_MODE": "disabled"}


def left_out() -> list[str]:
    """The variables here that are secrets, by their names or values. The code of a tag is somebody's, and gets none."""
    clean = redactor()
    return sorted(name for name, value in os.environ.items() if is_secret(name, value) or clean(value) != value)


def _decides(name: str) -> bool:
    return name.startswith(ENVIRONMENT) and not name.startswith(PLACES)


def build_environment(
    bundle: Bundle, requirements: bytes, tree: Path, folder: Path, env: Mapping[str, str], say: Callable[[str], None]
) -> Path:
    """Install exactly the sealed packages into a new virtual environment; returns its interpreter.

    Raises UsageError when they are not known, or can't be had here.
    """
    if not requirements:
        raise UsageError(
            f"{bundle.tag} holds no list of packages, because none was recorded, or it was sealed with another store "
            "than that of the run: reproduce it with --here, in an environment like the one that it names."
        )
    (pins := folder / "requirements.txt").write_bytes(requirements)
    lines = requirements.decode().splitlines()
    if own := next((line for line in lines if line.startswith("# research-steps==")), None):
        # Told now, and not by its thread once everything else was installed.
        raise UsageError(
            f"The environment of {bundle.tag} can't be built: {own.removeprefix('# ')}, and its thread can't run "
            "without it. Reproduce it with --here, in an environment that has research-steps and the packages in "
            f"{bundle.id}.requirements.txt."
        )
    unpinned = [line for line in lines if line.startswith("# ")]
    for line in unpinned:
        say(f"not installed: {line.removeprefix('# ')}")
    uv = shutil.which("uv", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]))
    if uv is None:
        raise UsageError("The sealed environment is built with uv, which is not on PATH: install it, or give --here.")
    say(f"building the environment of {bundle.tag}: Python {bundle.python}, {len(lines) - len(unpinned)} packages")
    version, python = bundle.python.rpartition(".")[0], folder / "env" / "bin" / "python"
    # What PATH calls python may be another one than what runs.
    interpreter = sys.executable if version == ".".join(map(str, sys.version_info[:2])) else version
    for command in (
        ["venv", "--quiet", "--no-python-downloads", "--python", interpreter, str(folder / "env")],
        # --no-deps: the list is whole, and says more than what packages say of each other.
        ["pip", "install", "--quiet", "--python", str(python), "--no-deps", "--requirement", str(pins)],
    ):
        done = subprocess.run([uv, *command], cwd=tree, env=env, capture_output=True, text=True, errors="replace")
        if done.returncode != 0:
            last = "; ".join(redact(done.stderr).strip().splitlines()[-3:]) or "it said nothing"
            raise UsageError(
                f"uv {command[0]} failed while the sealed environment was built: {last}. See to what it misses, or "
                "reproduce with --here, in an environment of your own."
            )
    return python


def _remove(checkout: Checkout, folder: Path) -> None:
    # A trial that was killed with its run may write for a moment longer.
    shutil.rmtree(folder, ignore_errors=True)
    # Where it was not made yet, or another reproduction was faster, there is nothing that git could forget.
    with suppress(RepositoryError):
        checkout.quietly("worktree", "remove", "--force", str(folder / "tree"))
