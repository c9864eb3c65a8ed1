"""The checkout that a thread runs in: where it is, what is committed, and what differs from that.

Reads only; the user's index, work tree and objects stay as they are. A folder without git is a checkout too: it has
a root and no commit.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from research_steps.errors import RepositoryError

# These change while a thread runs and belong to its record, so they don't make the tree dirty.
LIVING = (".agents/logbooks", ".agents/issues")
LARGEST_UNTRACKED = 1 << 20


@dataclass(frozen=True)
class Checkout:
    """A work tree. `git_dir` is None outside a repository."""

    root: Path
    git_dir: Path | None

    @staticmethod
    def find(start: Path | None = None) -> "Checkout":
        """The checkout that holds `start` (default: the working directory)."""
        start = (start or Path.cwd()).resolve()
        found = _run(["rev-parse", "--show-toplevel", "--absolute-git-dir"], start, None)
        if found.returncode != 0:
            return Checkout(start, None)
        root, git_dir = found.stdout.decode("utf-8", "surrogateescape").splitlines()
        return Checkout(Path(root), Path(git_dir))

    @property
    def logbooks(self) -> Path:
        return self.root / ".agents" / "logbooks"

    @property
    def private(self) -> Path:
        """Where locks lie: inside the git directory, which belongs to this work tree alone."""
        return (self.git_dir or self.root / ".agents") / "research-steps"

    def git(self, *arguments: str, env: Mapping[str, str] | None = None, input: bytes | None = None) -> bytes:
        """Run git here and return what it printed. Raises RepositoryError with git's own message."""
        done = _run(list(arguments), self.root, env, input)
        if done.returncode != 0:
            message = done.stderr.decode("utf-8", "replace").strip()
            raise RepositoryError(f"git {' '.join(arguments[:3])} failed in {self.root}: {message}")
        return done.stdout

    def head(self) -> str | None:
        """The commit that is checked out, None when there is none yet."""
        if self.git_dir is None:
            return None
        found = _run(["rev-parse", "--verify", "--quiet", "HEAD^{commit}"], self.root, None)
        return found.stdout.decode().strip() or None

    def branch(self) -> str | None:
        if self.git_dir is None:
            return None
        found = _run(["symbolic-ref", "--quiet", "--short", "HEAD"], self.root, None)
        return found.stdout.decode("utf-8", "replace").strip() or None

    def user(self) -> str | None:
        found = _run(["config", "user.name"], self.root, None)
        return found.stdout.decode("utf-8", "replace").strip() or None

    def patch(self) -> tuple[bytes, str]:
        """What differs from the commit, new files included, and a note on what was left out for its size.

        Works on a copy of the index with an object folder of its own, so nothing of the repository changes.
        """
        left_out = []
        for name in self.git("ls-files", "--others", "--exclude-standard", "-z").split(b"\0"):
            path = self.root / os.fsdecode(name)
            if name and path.is_file() and path.stat().st_size > LARGEST_UNTRACKED:
                left_out.append(os.fsdecode(name))
        spec = [".", *(f":(exclude,literal){name}" for name in (*LIVING, *left_out))]
        with tempfile.TemporaryDirectory(prefix="research-patch-") as scratch:
            env = self.scratch_index(Path(scratch))
            self.git("add", "--all", "--", *spec, env=env)
            # Without config of the user's, so that the patch applies anywhere.
            options = ("--cached", "--binary", "--no-color", "--no-ext-diff", "--no-textconv", "--no-renames")
            patch = self.git("diff", *options, "HEAD", "--", *spec, env=env)
        note = f"left out, over {LARGEST_UNTRACKED} bytes: {', '.join(left_out)}" if left_out else ""
        return patch, note

    def scratch_index(self, folder: Path) -> dict[str, str]:
        """Environment for git to use a copy of the index, and to put new objects into `folder`."""
        assert self.git_dir is not None, "only called with a repository"
        if (self.git_dir / "index").exists():
            shutil.copy(self.git_dir / "index", folder / "index")
        objects = self.git("rev-parse", "--git-path", "objects").decode("utf-8", "surrogateescape").strip()
        (folder / "objects").mkdir()
        return {
            "GIT_INDEX_FILE": str(folder / "index"),
            "GIT_OBJECT_DIRECTORY": str(folder / "objects"),
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": str((self.root / objects).resolve()),
        }


def _run(
    arguments: list[str], where: Path, env: Mapping[str, str] | None, input: bytes | None = None
) -> "subprocess.CompletedProcess[bytes]":
    inherited = {name: value for name, value in os.environ.items() if name not in ("GIT_DIR", "GIT_WORK_TREE")}
    environment = {**inherited, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C", **(env or {})}
    try:
        return subprocess.run(
            ["git", *arguments], cwd=where, env=environment, input=input, capture_output=True, check=False
        )
    except FileNotFoundError as error:
        raise RepositoryError(
            "The command 'git' is not on PATH: install git, because records name the commit they were made from."
        ) from error
