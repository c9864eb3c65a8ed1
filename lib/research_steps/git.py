"""The checkout that a thread runs in: where it is, what is committed, and what differs from that.

Reads only, but for `switch` and `exclude`; the user's index, work tree and objects stay as they are. A folder without
git is a checkout too: it has a root and no commit.
"""

import hashlib
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from research_steps.errors import RepositoryError
from research_steps.files import users_folder

# These change while a thread runs and belong to its record, so they don't make the tree dirty.
LIVING = (".agents/logbooks", ".agents/issues", "local_store")
_BESIDE_LIVING = (".", *(f":(exclude,literal){name}" for name in LIVING))
# Of files that git does not track, those that belong in a patch, and those that its note names.
Choose = Callable[[Sequence[str]], tuple[Collection[str], Collection[str]]]
# Of what is kept in a patch or a seal's commit, in bytes.
LARGEST_FILE = 1 << 20
NAMES_SHOWN = 10
# How often git is asked to take in a work tree in which files come and go, and how it says that they did.
TRIES = 20
_CHANGED_MEANWHILE = ("No such file or directory", "short read while indexing")
# A git hook sets these for the repository that it belongs to; each would make git read or write something else here.
_FOREIGN = frozenset(
    (
        *("GIT_DIR", "GIT_WORK_TREE", "GIT_COMMON_DIR", "GIT_PREFIX", "GIT_NAMESPACE", "GIT_INDEX_FILE"),
        *("GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_QUARANTINE_PATH", "GIT_DIFF_OPTS"),
        *("GIT_LITERAL_PATHSPECS", "GIT_GLOB_PATHSPECS", "GIT_NOGLOB_PATHSPECS", "GIT_ICASE_PATHSPECS"),
    )
)
# What git leaves in its directory while something waits to be finished, and what that is called.
_UNFINISHED = {
    "rebase-merge": "a rebase", "rebase-apply": "a rebase or 'git am'", "MERGE_HEAD": "a merge",
    "CHERRY_PICK_HEAD": "a cherry-pick", "REVERT_HEAD": "a revert", "sequencer": "a sequence of commits",
}  # fmt: skip
# With the scratch index: nothing of the user's configuration may write to the repository, run a hook, or refuse a file.
_QUIET = ("core.hooksPath=/dev/null", "core.splitIndex=false", "core.fsmonitor=false", "core.safecrlf=false")


@dataclass(frozen=True)
class Checkout:
    """A work tree. `git_dir`, and the folder of its `objects`, are None outside a repository; `state` is then where what
    is its alone lies, where that isn't among the user's own files."""

    root: Path
    git_dir: Path | None
    objects: Path | None = None
    state: Path | None = None

    @staticmethod
    def find(start: Path | None = None) -> "Checkout":
        """The checkout that holds `start` (default: the working directory).

        Raises RepositoryError when there is a repository that git won't read, such as one of another user.
        """
        start = (start or Path.cwd()).resolve()
        # The word between the paths tells them apart whatever they hold.
        word = "--is-inside-work-tree"
        arguments = ["rev-parse", "--show-toplevel", word, "--absolute-git-dir", word, "--git-path", "objects"]
        done = _run(arguments, start)
        if done.returncode != 0 and b"not a git repository" in done.stderr:
            return Checkout(start, None)
        paths = _printed(done, arguments, start).removesuffix(b"\n").split(b"\ntrue\n")
        root, git_dir, objects = (Path(os.fsdecode(path)) for path in paths)
        return Checkout(root, git_dir, start / objects)

    @property
    def private(self) -> Path:
        """Where lies what is this work tree's alone and nobody else can bring: inside the git directory; without git,
        among the user's own files."""
        if self.git_dir is not None:
            return self.git_dir / "research-steps"
        if self.state is not None:
            return self.state
        state = users_folder("XDG_STATE_HOME", ".local/state")
        return state / "research-steps" / hashlib.sha256(os.fsencode(self.root)).hexdigest()[:16]

    def git(
        self,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        input: bytes | None = None,
        timeout_s: float | None = None,
    ) -> bytes:
        """Run git here and return what it printed. Raises RepositoryError with git's own message."""
        return _printed(_run(arguments, self.root, env, input, timeout_s), arguments, self.root)

    def quietly(self, *arguments: str, env: Mapping[str, str] | None = None, input: bytes | None = None) -> bytes:
        """As `git`, without the user's hooks and without settings that would write more, or refuse a file."""
        quiet = [word for setting in _QUIET for word in ("-c", setting)]
        return self.git(*quiet, *arguments, env=env, input=input)

    def _answer(self, *arguments: str) -> str | None:
        """What git prints in answer to a question, None where it fails."""
        done = _run(arguments, self.root)
        return done.stdout.decode("utf-8", "replace").removesuffix("\n") if done.returncode == 0 else None

    def commit_of(self, name: str) -> str | None:
        """The commit that a revision names here, None when there is none."""
        return self._answer("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")

    def head(self) -> str | None:
        """The commit that is checked out, None when there is none yet."""
        return self.commit_of("HEAD")

    def branch(self) -> str | None:
        """The branch that is checked out, None when there is none."""
        # Not --short, which says more where a tag has the same name.
        name = self._answer("symbolic-ref", "--quiet", "HEAD")
        return name.removeprefix("refs/heads/") if name else None

    def user(self) -> str | None:
        return (self.setting("user.name") or "").strip() or None

    def is_dirty(self) -> bool:
        """Whether anything differs from the commit, but for what changes while a thread runs."""
        return bool(self.git("status", "--porcelain", "--", *_BESIDE_LIVING).strip())

    def switch(self, branch: str) -> None:
        """Check a branch out, made here if it is new; uncommitted changes go along, or git refuses."""
        self.git("check-ref-format", "--branch", branch)
        # One that the remote has is taken from there, and follows it.
        names = (f"refs/heads/{branch}", f"refs/remotes/origin/{branch}")
        self.git("switch", *([] if any(map(self.commit_of, names)) else ["--create"]), branch)

    def pushed(self) -> str | None:
        """The commit of the checked-out branch that its remote was last seen to have."""
        branch = self.branch()
        names = ("@{upstream}", f"refs/remotes/origin/{branch}") if branch else ()
        return next(filter(None, map(self.commit_of, names)), None)

    def tags(self, folder: str) -> dict[str, str]:
        """The tags whose names begin with a folder, such as a topic, with the commits that they name."""
        if self.git_dir is None:
            return {}
        # Of an annotated tag the second is the commit; of a light one the first is.
        fields = "--format=%(refname:strip=2) %(objectname) %(*objectname)"
        lines = self.git("for-each-ref", fields, f"refs/tags/{folder}/").decode().splitlines()
        return {parts[0]: parts[-1] for parts in map(str.split, lines)}

    def files(self, *paths: str) -> list[str]:
        """The files below these paths that git tracks, or would: what is new and not ignored. Raises RepositoryError."""
        if self.git_dir is None:
            raise RepositoryError(f"{self.root} is not in a git repository, which tells what to copy: run 'git init'.")
        listed = self.git("ls-files", "--cached", "--others", "--exclude-standard", "-z", "--", *paths)
        return sorted({os.fsdecode(name) for name in listed.split(b"\0") if name})

    def is_ancestor(self, commit: str, of: str) -> bool:
        """Whether a commit is in the history of another one, or the same."""
        return self._answer("merge-base", "--is-ancestor", commit, of) is not None

    def setting(self, name: str) -> str | None:
        """A setting of git's configuration, None when it is not set."""
        return self._answer("config", "--get", name)

    def is_set(self, name: str) -> bool:
        """Whether a setting of git's configuration is true."""
        return self._answer("config", "--type=bool", "--get", name) == "true"

    def unfinished(self) -> str | None:
        """What waits to be finished or aborted here, such as 'a merge'; None when nothing does."""
        if self.git_dir is None:
            return None
        return next((what for name, what in _UNFINISHED.items() if (self.git_dir / name).exists()), None)

    def submodules(self) -> dict[str, str]:
        """The submodules by path: the commit that is checked out in each, with what `git submodule` says of it."""
        if self.git_dir is None or not (self.root / ".gitmodules").exists():
            return {}
        # Another repository that was added without being a submodule is told in no list of them.
        listing = ("config", "-z", "--file", ".gitmodules", "--get-regexp", r"^submodule\..*\.path$")
        named = {setting.partition(b"\n")[2] for setting in _run(listing, self.root).stdout.split(b"\0")}
        staged = self.git("ls-files", "--stage", "-z").split(b"\0")
        links = {line.partition(b"\t")[2] for line in staged if line.startswith(b"160")}
        paths = [f":(literal){os.fsdecode(path)}" for path in sorted(named & links)]
        lines = self.git("submodule", "status", "--", *paths).decode("utf-8", "replace").splitlines() if paths else []
        # The first column tells one that is not there ('-') or not at the commit of the tree ('+').
        states = {"-": "not checked out, ", "+": "not what the tree names, ", "U": "in conflict, "}
        return {line[42:].rpartition(" (")[0] or line[42:]: states.get(line[0], "") + line[1:41] for line in lines}

    def is_pushed(self, commit: str) -> bool:
        """Whether a remote was seen to have this commit."""
        return bool(self._answer("branch", "--remotes", "--contains", commit))

    def file_at(self, commit: str, name: str) -> bytes:
        """A file's content in a commit; empty when it isn't there."""
        done = _run(["cat-file", "blob", f"{commit}:{name}"], self.root)
        return done.stdout if done.returncode == 0 else b""

    def origin(self) -> str | None:
        """The address of the remote 'origin', None when there is none."""
        return self._answer("remote", "get-url", "origin") or None

    def exclude(self, *patterns: str) -> None:
        """Have git ignore these in this repository, by its own list of exclusions; the user's .gitignore stays."""
        if self.git_dir is None:
            return
        path = self.root / os.fsdecode(self.git("rev-parse", "--git-path", "info/exclude").removesuffix(b"\n"))
        excluded = path.read_text().splitlines() if path.exists() else []
        missing = [pattern for pattern in patterns if pattern not in excluded]
        if missing:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a") as file:
                file.write("".join(f"{pattern}\n" for pattern in missing))

    def ignores(self, *paths: Path) -> bool:
        """Whether git ignores any of these paths here; what it tracks it ignores no more."""
        return self.git_dir is not None and bool(self._answer("check-ignore", *map(str, paths)))

    def patch(self, commit: str = "HEAD", choose: Choose | None = None) -> tuple[bytes, str]:
        """What differs from a commit, and a note on what is not in it. Of files that git doesn't track all belong to it
        that `choose`, if there is one, takes.

        Works on a copy of the index with an object folder of its own, so nothing of the repository changes.
        """
        untracked, submodules, changed = list[str](), list[str](), dict[str, tuple[str, str]]()
        shown = ("--porcelain=v2", "-z", "--untracked-files=all", "--ignore-submodules=none", "--no-renames")
        for line in self.git("status", *shown, "--", *_BESIDE_LIVING).split(b"\0"):
            if line.startswith(b"? "):
                untracked.append(os.fsdecode(line[2:]))
            elif line.startswith(b"1 "):
                _, _, module, mode, _, _, blob, _, path = line.split(b" ", 8)
                if module.startswith(b"S"):
                    submodules += [os.fsdecode(path)] if module[2:] != b".." else []
                else:
                    changed[os.fsdecode(path)] = mode.decode(), blob.decode()
        before = self._sizes(blob for _, blob in changed.values())
        heavy = [name for name, size in zip(changed, before, strict=True) if max(size, self._size(name)) > LARGEST_FILE]
        own, others = choose(untracked) if choose else (untracked, ())
        repositories = [name for name in own if name.endswith("/")]
        files = [name for name in own if name not in repositories]
        large = [name for name in files if self._size(name) > LARGEST_FILE]
        closed = [name for name in files if name not in large and not _readable(self.root / name)]
        left_out = {*large, *closed, *repositories}
        with tempfile.TemporaryDirectory(prefix="research-patch-") as scratch:
            env = self._scratch_index(Path(scratch))
            # Not what is living: git refuses to add a path by an exclusion that the user ignores.
            spec = ("add", "--update", "--pathspec-from-file=-", "--pathspec-file-nul")
            self._take_in(env, spec, (".", *(f":(exclude,literal){name}" for name in heavy)))
            files = [name for name in files if name not in left_out]
            if files:
                self._take_in(env, ("update-index", "--add", "--remove", "-z", "--stdin"), files)
            if heavy:
                # As the commit has them, also where another version was staged.
                kept = "".join(f"{changed[name][0]} {changed[name][1]}\t{name}\0" for name in heavy)
                self.quietly("update-index", "-z", "--index-info", env=env, input=os.fsencode(kept))
            tree = self.quietly("write-tree", env=env).decode().strip()
            # Between two trees, whatever is edited meanwhile; plumbing knows none of the user's settings for diffs.
            options = ("-r", "--patch", "--binary", "--no-ext-diff", "--no-textconv", "--ignore-submodules=none")
            patch = self.git("diff-tree", *options, commit, tree, "--", *_BESIDE_LIVING, env=env)
        missing: dict[str, Collection[str]] = {
            f"not in the patch, changes of files over {LARGEST_FILE} bytes": heavy,
            "not in the patch, changes inside submodules": submodules,
            f"left out, over {LARGEST_FILE} bytes": large,
            "left out, not readable": closed,
            "left out, repositories of their own": repositories,
            "untracked, and not of this thread": others,
        }
        return patch, "; ".join(_note(what, names) for what, names in missing.items() if names)

    def _size(self, name: str) -> int:
        """How many bytes a file has, 0 where there is none, or something else."""
        with suppress(FileNotFoundError, NotADirectoryError):
            status = (self.root / name).lstat()
            return status.st_size if stat.S_ISREG(status.st_mode) else 0
        return 0

    def _sizes(self, blobs: Iterable[str]) -> list[int]:
        """How many bytes each of these objects has, 0 for one that is not there."""
        asked = "".join(f"{blob}\n" for blob in blobs)
        lines = self.git("cat-file", "--batch-check=%(objectsize)", input=asked.encode()).splitlines() if asked else []
        return [int(line) if line.isdigit() else 0 for line in lines]

    def _take_in(self, env: Mapping[str, str], command: Sequence[str], names: Iterable[str]) -> None:
        """Put what lies in the work tree into an index, whatever editors make, cut and remove there meanwhile."""
        listed = os.fsencode("".join(f"{name}\0" for name in names))
        for left in reversed(range(TRIES)):
            try:
                self.quietly(*command, env=env, input=listed)
                return
            except RepositoryError as error:
                if left == 0 or not any(sign in str(error) for sign in _CHANGED_MEANWHILE):
                    raise

    def export(self, commit: str, patch: bytes | None, folder: Path) -> None:
        """Write the files of a commit, with a patch on them, below a folder. Submodules are left out.

        Raises RepositoryError when the commit is not here, or the patch is not one of it.
        """
        with tempfile.TemporaryDirectory(prefix="research-export-") as scratch:
            env = self._scratch_index(Path(scratch))
            self.quietly("read-tree", commit, env=env)
            if patch:
                self.quietly("apply", "--cached", "--binary", "--whitespace=nowarn", "-", env=env, input=patch)
            self.quietly("checkout-index", "--all", f"--prefix={folder}/", env=env)

    def _scratch_index(self, folder: Path) -> dict[str, str]:
        """Environment for git to use a copy of the index, and to put new objects into `folder`."""
        assert self.git_dir is not None, "only called with a repository"
        if (self.git_dir / "index").exists():
            # With its time, by which git knows that a file of the same age may have changed since.
            shutil.copy2(self.git_dir / "index", folder / "index")
        (folder / "objects").mkdir()
        # In quotes, because a colon separates such folders.
        quoted = str(self.objects).replace("\\", "\\\\").replace('"', '\\"')
        return {
            "GIT_INDEX_FILE": str(folder / "index"),
            "GIT_OBJECT_DIRECTORY": str(folder / "objects"),
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": f'"{quoted}"',
        }


def _readable(path: Path) -> bool:
    """Whether git can take a file in, if it is still there."""
    return path.is_symlink() or not path.exists() or os.access(path, os.R_OK)


def _note(what: str, names: Collection[str]) -> str:
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    # A name that is no UTF-8 is spelled out.
    shown = (os.fsencode(name).decode("utf-8", "backslashreplace") for name in sorted(names)[:NAMES_SHOWN])
    return f"{what}: {', '.join(shown)}{more}"


def _printed(done: "subprocess.CompletedProcess[bytes]", arguments: Sequence[str], where: Path) -> bytes:
    if done.returncode != 0:
        message = " ".join(done.stderr.decode("utf-8", "replace").split())
        raise RepositoryError(f"git {_named(arguments)} failed in {where}: {message}")
    return done.stdout


def _named(arguments: Sequence[str]) -> str:
    """Which command of git these are for, behind the settings."""
    return next(argument for argument in arguments if argument != "-c" and "=" not in argument)


def _run(
    arguments: Sequence[str],
    where: Path,
    env: Mapping[str, str] | None = None,
    input: bytes | None = None,
    timeout_s: float | None = None,
) -> "subprocess.CompletedProcess[bytes]":
    inherited = {name: value for name, value in os.environ.items() if name not in _FOREIGN}
    environment = {**inherited, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C", **(env or {})}
    try:
        return subprocess.run(
            ["git", *arguments], cwd=where, env=environment, input=input, capture_output=True, timeout=timeout_s
        )
    except subprocess.TimeoutExpired as error:
        raise RepositoryError(f"git {_named(arguments)} in {where} gave no answer in {timeout_s:g} s.") from error
    except FileNotFoundError as error:
        raise RepositoryError(
            "The command 'git' is not on PATH: install git, because records name the commit they were made from."
        ) from error
