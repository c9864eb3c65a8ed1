"""A commit of some paths only, in the parts that `git commit --only` is made of.

A tree and a commit are objects that nobody sees until something names them; so which commit counts can be decided in
between. They are made with an index of their own. Only `put_on_branch` changes what the user sees, and of that only the
paths of the commit.
"""

import hashlib
import os
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from research_steps.errors import RepositoryError
from research_steps.git import LARGEST_UNTRACKED, Checkout
from research_steps.records.redaction import redact
from research_steps.seal.bundle import Elsewhere

# How a tree marks the commit of a submodule.
GITLINK = "160000"


@dataclass(frozen=True)
class Paths:
    """Files that a commit takes from the work tree, those that are gone there, and those that it leaves out."""

    names: tuple[str, ...]
    gone: tuple[str, ...]
    left_out: tuple[Elsewhere, ...]


def refuse_unfinished(checkout: Checkout) -> None:
    """Raise RepositoryError while a merge, a rebase or the like waits: its end decides what the work tree is."""
    waiting = checkout.unfinished()
    if waiting is None and checkout.git("ls-files", "--unmerged", "-z"):
        waiting = "a conflict"
    if waiting is not None:
        raise RepositoryError(
            f"{waiting} is unfinished in {checkout.root}: finish or abort it first ('git status' says how)."
        )


def paths_below(checkout: Checkout, base: str, wanted: Sequence[str], always: Iterable[str]) -> Paths:
    """The files under `wanted` that git tracks here or at `base`, or would track; and those of `always`, which it may be
    told to ignore."""
    spec = ("-z", "--", *(f":(literal){name}" for name in wanted))
    known = ("-t", "--cached", "--others", "--exclude-standard")
    listed = _names(checkout.git("ls-files", *known, *spec)) if wanted else set()
    # A sparse checkout holds a part of what is tracked; the rest is not gone.
    sparse = {line[2:] for line in listed if line.startswith("S ")}
    tree = checkout.git("ls-tree", "-r", base, *spec) if wanted else b""
    modes = {line.partition("\t")[2]: line[:6] for line in _names(tree)}
    names, gone, left_out = set(), set(), []
    for name in sorted({line[2:] for line in listed} | set(modes)):
        path = checkout.root / name
        if name in sparse and not os.path.lexists(path):
            continue
        if path.is_dir() and modes.get(name) == GITLINK:
            names.add(name)
        elif (path / ".git").exists():
            why = f"a repository of its own, at commit {Checkout.find(path).head()}"
            left_out.append(Elsewhere(name, why, None, None))
        elif _is_gone(path):
            gone.add(name)
        elif not path.is_symlink() and path.stat().st_size > LARGEST_UNTRACKED:
            left_out += _too_large(checkout, base, name)
        else:
            names.add(name)
    names |= {name for name in always if not _is_gone(checkout.root / name) and not _is_in_another(checkout.root, name)}
    for name in always:
        _refuse_behind_link(checkout, name, names)
    return Paths(tuple(sorted(names)), tuple(sorted(gone)), tuple(left_out))


def make_tree(checkout: Checkout, base: str, paths: Paths, added: Mapping[str, bytes]) -> str:
    """The tree of `base` with these files as they are in the work tree, and files with this content beside them."""
    with tempfile.TemporaryDirectory(prefix="research-seal-") as scratch:
        env = {"GIT_INDEX_FILE": str(Path(scratch) / "index")}
        # What a sparse checkout leaves out of the work tree, git would leave as it is here, too.
        checkout.quietly("-c", "core.sparseCheckout=false", "read-tree", base, env=env)
        for option, names in (("--force-remove", paths.gone), ("--add", paths.names)):
            listed = b"".join(os.fsencode(name) + b"\0" for name in names)
            checkout.quietly("update-index", option, "--replace", "-z", "--stdin", env=env, input=listed)
        for name, content in added.items():
            blob = checkout.quietly("hash-object", "-w", "--stdin", input=content).decode().strip()
            checkout.quietly("update-index", "--add", "--replace", "--cacheinfo", f"100644,{blob},{name}", env=env)
        return checkout.quietly("write-tree", env=env).decode().strip()


def gitlinks(checkout: Checkout, commit: str, patch: bytes) -> dict[str, str]:
    """The commits that a commit, with a patch upon it, names for its submodules, by path."""
    with tempfile.TemporaryDirectory(prefix="research-seal-") as scratch:
        env = {"GIT_INDEX_FILE": str(Path(scratch) / "index")}
        checkout.quietly("read-tree", commit, env=env)
        if b"\n+Subproject commit " in patch:
            checkout.quietly("apply", "--cached", "--binary", "--whitespace=nowarn", "-", env=env, input=patch)
        listed = checkout.quietly("ls-files", "--stage", "-z", env=env)
    lines = (line.partition("\t") for line in _names(listed) if line.startswith(GITLINK))
    return {name: entry.split()[1] for entry, _, name in lines}


def refuse_secrets(checkout: Checkout, base: str, tree: str, wanted: Sequence[str]) -> None:
    """Raise RepositoryError when what a tree adds to `base` under these paths holds what looks like a secret."""
    # As text, whatever an attribute calls it.
    options = ("-r", "--patch", "--text", "--unified=0", "--no-ext-diff", "--no-textconv", "--no-renames")
    spec = (f":(literal){name}" for name in wanted)
    patch = checkout.quietly("diff-tree", *options, base, tree, "--", *spec).decode("utf-8", "replace")
    for file in re.split(r"(?m)^diff --git ", patch)[1:]:
        lines = file.split("\n")
        added = "\n".join(line[1:] for line in lines if line.startswith("+"))
        if redact(added) != added:
            raise RepositoryError(
                f"{lines[0].rpartition(' b/')[2]} in {checkout.root} holds what looks like a secret, and a "
                "tag can be pushed: take it out, or have git ignore the file."
            )


def make_commit(checkout: Checkout, tree: str, base: str, message: str, when: str, env: Mapping[str, str]) -> str:
    """A commit of a tree upon `base`, with this time (seconds since 1970, zone); signed where git is told to."""
    dates = {**env, "GIT_AUTHOR_DATE": when, "GIT_COMMITTER_DATE": when}
    signed = ["-S"] if checkout.is_set("commit.gpgSign") else []
    made = checkout.quietly("commit-tree", *signed, tree, "-p", base, "-F", "-", env=dates, input=message.encode())
    return made.decode().strip()


def make_tag(checkout: Checkout, name: str, commit: str, message: str, env: Mapping[str, str]) -> None:
    """An annotated tag; signed where git is told to. Raises RepositoryError when it can't be."""
    # Without --annotate, which would overrule a setting to sign those that are.
    checkout.quietly("tag", "--file=-", "--cleanup=whitespace", name, commit, env=env, input=message.encode())
    signed = checkout.is_set("tag.gpgSign") or checkout.is_set("tag.forceSignAnnotated")
    # Where an SSH key fails, some versions of git make the tag without a signature and call that a success.
    if signed and b"\n-----BEGIN " not in checkout.git("cat-file", "tag", f"refs/tags/{name}"):
        checkout.quietly("tag", "--delete", name)
        raise RepositoryError(
            f"git did not sign the tag {name}, as {checkout.root} is configured to: see that 'git tag --sign NAME' can "
            f"(user.signingKey is {checkout.setting('user.signingKey')}), then 'research sync {name.partition('/')[0]}'."
        )


def changed(checkout: Checkout, commit: str) -> list[str]:
    """The files in which a commit differs from its parent."""
    options = ("-r", "--name-only", "--no-commit-id", "--no-renames", "-z")
    return sorted(_names(checkout.git("diff-tree", *options, commit)))


def put_on_branch(checkout: Checkout, commit: str, branch: str, names: Sequence[str]) -> None:
    """Move the branch that is checked out from the commit's parent to it, and these of its paths in the index."""
    parent = checkout.git("rev-parse", f"{commit}^").decode().strip()
    # First the index, whose lock says that the user's own git is at work.
    lines = []
    there = {line.partition(b"\t")[2]: line for line in checkout.git("ls-tree", "-r", "-z", commit).split(b"\0") if line}
    for name in map(os.fsencode, names):
        entry = there.get(name)
        mode, _, sha = entry.partition(b"\t")[0].split(b" ") if entry else (b"0", b"", b"0" * len(parent))
        lines.append(b"%b %b\t%b\0" % (mode, sha, name))
    # Without hooks, but otherwise as the user has set it: this index goes on being theirs. What a sparse checkout leaves
    # out stays marked so, also where somebody has put such a file into the work tree.
    kept = ("-c", "core.hooksPath=/dev/null", "-c", "sparse.expectFilesOutsideOfPatterns=true")
    checkout.git(*kept, "update-index", "-z", "--index-info", input=b"".join(lines))
    checkout.quietly("update-ref", "-m", f"seal: {commit[:12]}", f"refs/heads/{branch}", commit, parent)


def _is_gone(path: Path) -> bool:
    """Whether git would find no such file: nothing is there, a folder is, or it lies behind a symbolic link."""
    return path.parent.resolve() != path.parent or not (path.is_symlink() or path.is_file())


def _refuse_behind_link(checkout: Checkout, name: str, names: set[str]) -> None:
    """Raise RepositoryError where a file lies behind a symbolic link, and where that leads is not taken either."""
    path = checkout.root / name
    led = path.resolve()
    if path.parent == path.parent.resolve() or not path.is_file() or _is_in_another(checkout.root, name):
        return
    if not led.is_relative_to(checkout.root) or led.relative_to(checkout.root).as_posix() not in names:
        raise RepositoryError(
            f"{name} in {checkout.root} lies behind a symbolic link to {led.parent}, and git keeps the link alone: put "
            "the folder itself there."
        )


def _is_in_another(root: Path, name: str) -> bool:
    """Whether a file belongs to a repository inside of this one, such as a submodule, whose commit stands for it."""
    return any((root / folder / ".git").exists() for folder in list(Path(name).parents)[:-1])


def _too_large(checkout: Checkout, base: str, name: str) -> list[Elsewhere]:
    """A large file unless `base` holds it as it is, so that nothing has to be added."""
    tracked = checkout.git("ls-tree", "-z", base, "--", f":(literal){name}")
    path = checkout.root / name
    if tracked and tracked.split()[2] == checkout.git("hash-object", "--", name).strip():
        return []
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    why = f"larger than {LARGEST_UNTRACKED} bytes, which a commit should not be"
    return [Elsewhere(name, why, path.stat().st_size, digest)]


def _names(listed: bytes) -> set[str]:
    return {os.fsdecode(name) for name in listed.split(b"\0") if name}
