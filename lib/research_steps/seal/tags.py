"""Sealed tags in git: their commit of some paths only, in the parts that `git commit --only` is made of; how they are
pushed, and what they hold.

A tree and a commit are objects that nobody sees until something names them; so which commit counts can be decided in
between. They are made with an index of their own. Only `put_on_branch` changes what the user sees, and of that only the
paths of the commit. Only the one tag is pushed, never by force.
"""

import hashlib
import io
import math
import os
import re
import shlex
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from research_steps.errors import RepositoryError
from research_steps.git import LARGEST_FILE, Checkout
from research_steps.publish.logbook.verify import Files
from research_steps.records.redaction import redact
from research_steps.seal.bundle import Bundle, Elsewhere
from research_steps.trial.thread_files import made_by_tools

# How a tree marks the commit of a submodule.
GITLINK = "160000"
# How long a remote may take to accept a tag (seconds).
PATIENCE_S = 120.0
# How much later git gives up by itself, so that it is always the wait here that is told (seconds).
_LATER_S = 5


@dataclass(frozen=True)
class Paths:
    """Files that a commit takes from the work tree, those that are gone there, and those that it leaves out."""

    names: tuple[str, ...]
    gone: tuple[str, ...]
    left_out: tuple[Elsewhere, ...]


def paths_below(checkout: Checkout, base: str, wanted: Sequence[str], always: Iterable[str]) -> Paths:
    """The files under `wanted` that git tracks here or at `base`, or would track; and those of `always`, which it may be
    told to ignore. Raises RepositoryError when one of these lies where git can't follow."""
    root, spec = checkout.root, ("-z", "--", *(f":(literal){name}" for name in wanted))
    listing = ("-t", "--cached", "--others", "--exclude-standard")
    listed = _names(checkout.git("ls-files", *listing, *spec)) if wanted else set()
    # A sparse checkout holds a part of what is tracked; the rest is not gone.
    sparse = {line[2:] for line in listed if line.startswith("S ")}
    listed -= {f"? {name}" for name in made_by_tools({line[2:] for line in listed if line.startswith("? ")})}
    tree = _names(checkout.git("ls-tree", "-r", base, *spec)) if wanted else set()
    committed = {name: entry.split() for entry, _, name in (line.partition("\t") for line in tree)}
    names, gone, left_out = set(), set(), []
    for name in sorted({line[2:] for line in listed} | set(committed)):
        path = root / name
        mode, _, blob = committed.get(name, ["", "", ""])
        if name in sparse and not os.path.lexists(path):
            continue
        if path.is_dir() and mode == GITLINK:
            names.add(name)
        elif (path / ".git").exists():
            why = f"a repository of its own, at commit {Checkout.find(path).head()}"
            left_out.append(Elsewhere(name, why, None, None))
        elif _is_gone(path):
            gone.add(name)
        elif path.is_symlink() or path.stat().st_size <= LARGEST_FILE:
            names.add(name)
        elif blob != checkout.git("hash-object", "--", name).decode().strip():
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            why = f"larger than {LARGEST_FILE} bytes, which a commit should not be"
            left_out.append(Elsewhere(name, why, path.stat().st_size, digest))
    # What belongs to a repository inside of this one, such as a submodule, its commit stands for.
    own = [name for name in always if not any((root / folder / ".git").exists() for folder in Path(name).parents[:-1])]
    names |= {name for name in own if not _is_gone(root / name)}
    for path in (root / name for name in own):
        if path.is_file() and _is_gone(path) and path.resolve() not in {root / name for name in names}:
            raise RepositoryError(
                f"{path.relative_to(root)} in {root} lies behind a symbolic link to {path.resolve().parent}, and git "
                "keeps the link alone: put the folder itself there."
            )
    return Paths(tuple(sorted(names)), tuple(sorted(gone)), tuple(left_out))


def make_tree(checkout: Checkout, base: str, paths: Paths, added: Mapping[str, bytes]) -> str:
    """The tree of `base` with these files as they are in the work tree, and files with this content beside them."""
    with _index_of(checkout, base) as git:
        for option, names in (("--force-remove", paths.gone), ("--add", paths.names)):
            listed = b"".join(os.fsencode(name) + b"\0" for name in names)
            git("update-index", option, "--replace", "-z", "--stdin", input=listed)
        for name, content in added.items():
            blob = git("hash-object", "-w", "--stdin", input=content).decode().strip()
            git("update-index", "--add", "--replace", "--cacheinfo", f"100644,{blob},{name}")
        return git("write-tree").decode().strip()


def gitlinks(checkout: Checkout, commit: str, patch: bytes) -> dict[str, str]:
    """The commits that a commit, with a patch upon it, names for its submodules, by path."""
    with _index_of(checkout, commit) as git:
        if b"\n+Subproject commit " in patch:
            git("apply", "--cached", "--binary", "--whitespace=nowarn", "-", input=patch)
        listed = git("ls-files", "--stage", "-z")
    lines = (line.partition("\t") for line in _names(listed) if line.startswith(GITLINK))
    return {name: entry.split()[1] for entry, _, name in lines}


def refuse_secrets(checkout: Checkout, base: str, tree: str, wanted: Sequence[str], mend: str = "") -> None:
    """Raise RepositoryError when what a tree adds to `base` under these paths holds what looks like a secret; `mend` is
    what else can be done about it."""
    # As text, whatever an attribute calls it.
    options = ("-r", "--patch", "--text", "--unified=0", "--no-ext-diff", "--no-textconv", "--no-renames")
    spec = (f":(literal){name}" for name in wanted)
    patch = checkout.quietly("diff-tree", *options, base, tree, "--", *spec).decode("utf-8", "replace")
    for file in re.split(r"(?m)^diff --git ", patch)[1:]:
        lines = file.split("\n")
        added = "\n".join(line[1:] for line in lines if line.startswith("+"))
        name = lines[0].rpartition(" b/")[2]
        if redact(added) != added or redact(name) != name:
            raise RepositoryError(
                f"{redact(name)} in {checkout.root} holds what looks like a secret, and what is committed can be "
                f"pushed: take it out{mend}."
            )


def make_commit(checkout: Checkout, tree: str, base: str, message: str, when: str) -> str:
    """A commit of a tree upon `base`, with this time (seconds since 1970, zone); signed where git is told to."""
    env = {"GIT_AUTHOR_DATE": when, "GIT_COMMITTER_DATE": when}
    signed = ["-S"] if checkout.is_set("commit.gpgSign") else []
    arguments = (*_identity(checkout), "commit-tree", *signed, tree, "-p", base, "-F", "-")
    return checkout.quietly(*arguments, env=env, input=message.encode()).decode().strip()


def refuse_name_in_the_way(checkout: Checkout, tag: str) -> None:
    """Raise RepositoryError where a tag is named like the folder of this one: git keeps each as a file of that name."""
    topic = tag.partition("/")[0]
    ref = f"refs/tags/{topic}"
    if ref in checkout.git("for-each-ref", "--format=%(refname)", ref).decode().split():
        raise RepositoryError(
            f"{checkout.root} has a tag named {topic}, which leaves git no room for {tag}: rename it with 'git tag "
            f"NAME {topic}', then 'git tag --delete {topic}'."
        )


def tagger_here(checkout: Checkout) -> str:
    """Who git says makes a tag here: 'Name <address>'."""
    return checkout.git(*_identity(checkout), "var", "GIT_COMMITTER_IDENT").decode().rsplit(" ", 2)[0]


def signs_here(checkout: Checkout) -> bool:
    """Whether git is told to sign tags."""
    return checkout.is_set("tag.gpgSign") or checkout.is_set("tag.forceSignAnnotated")


def make_tag(checkout: Checkout, sealed: Bundle, commit: str, message: str, when: str) -> None:
    """The annotated tag of a bundle with the tagger that this names and this time (seconds since 1970, zone); signed
    where git is told to. Raises RepositoryError when it can't be."""
    name, signed = sealed.tag, signs_here(checkout)
    if sealed.signed and not signed:
        raise RepositoryError(
            f"it was sealed with a signature, and git in {checkout.root} is not told to sign: 'git fetch --tags' brings "
            f"the tag {name} from where it was pushed, 'git config tag.gpgSign true' has git sign it here."
        )
    refuse_name_in_the_way(checkout, name)
    who, _, address = (sealed.tagger or tagger_here(checkout)).removesuffix(">").partition(" <")
    env = {"GIT_COMMITTER_NAME": who, "GIT_COMMITTER_EMAIL": address, "GIT_COMMITTER_DATE": when}
    # Without --annotate, which would overrule a setting to sign those that are.
    checkout.quietly("tag", "--file=-", "--cleanup=whitespace", name, commit, env=env, input=message.encode())
    # Where an SSH key fails, some versions of git make the tag without a signature and call that a success.
    if signed and b"\n-----BEGIN " not in checkout.git("cat-file", "tag", f"refs/tags/{name}"):
        checkout.quietly("tag", "--delete", name)
        raise RepositoryError(
            f"git did not sign the tag {name}, as {checkout.root} is configured to: see that 'git tag --sign NAME' can "
            f"(user.signingKey is {checkout.setting('user.signingKey')}), then 'research sync {name.partition('/')[0]}'."
        )


def to_remote(checkout: Checkout, *arguments: str) -> None:
    """Run a command of git that talks to a remote, for so long at most. Raises RepositoryError."""
    ssh = os.environ.get("GIT_SSH_COMMAND") or checkout.setting("core.sshCommand")
    ssh = ssh or shlex.quote(os.environ.get("GIT_SSH", "ssh"))
    # Nobody is there to type a password, and the terminal is the user's.
    ssh += " -oBatchMode=yes -oConnectTimeout=20 -oServerAliveInterval=30"
    env = {"GIT_TERMINAL_PROMPT": "0", "GIT_SSH_COMMAND": ssh}
    # What git starts for a connection outlives it, and ends by itself (bytes a second, seconds).
    slow = ("-c", "http.lowSpeedLimit=1", "-c", f"http.lowSpeedTime={math.ceil(PATIENCE_S) + _LATER_S}")
    checkout.git(*slow, *arguments, "--recurse-submodules=no", env=env, timeout_s=PATIENCE_S)


def push(checkout: Checkout, tag: str, seal: str) -> str:
    """Push a tag and return the remote's address; `seal` is how people name its record. Raises RepositoryError with what
    the remote said."""
    ref = f"refs/tags/{tag}"
    try:
        to_remote(checkout, "push", "--quiet", "--no-follow-tags", "origin", f"{ref}:{ref}")
    except RepositoryError as error:
        topic = tag.partition("/")[0]
        if "already exists" in str(error):
            raise RepositoryError(
                f"its tag {tag} is made here, and {redact(checkout.origin() or 'origin')} has another one of that name, "
                f"because another branch used the ID. 'research retract {seal} BECAUSE', then 'research seal {topic} "
                "ID …' with the IDs that it rests on: that seals the same under an ID of its own."
            ) from error
        raise RepositoryError(
            f"its tag {tag} is made here, and the remote did not take it: {redact(str(error))} 'research sync {topic}' "
            "tries again."
        ) from error
    return redact(checkout.origin() or "origin")


def changed(checkout: Checkout, commit: str) -> dict[str, str]:
    """The files in which a commit differs from its parent, with their mode and hash there."""
    listed = checkout.git("diff-tree", "-r", "--no-commit-id", "--no-renames", "-z", commit).split(b"\0")
    entries = (entry.decode().split() for entry in listed[:-1:2])
    names = map(os.fsdecode, listed[1::2])
    return {name: f"{mode} {blob}" for name, (_, mode, _, blob, _) in zip(names, entries, strict=True)}


def put_on_branch(checkout: Checkout, commit: str, branch: str) -> None:
    """Move the branch that is checked out from the commit's parent to it, and the paths of the commit in the index."""
    # First the index, whose lock says that the user's own git is at work.
    lines = (f"{entry}\t{name}\0" for name, entry in changed(checkout, commit).items())
    # Without hooks, but otherwise as the user has set it: this index goes on being theirs. What a sparse checkout leaves
    # out stays marked so, also where somebody has put such a file into the work tree.
    settings = ("-c", "core.hooksPath=/dev/null", "-c", "sparse.expectFilesOutsideOfPatterns=true")
    checkout.git(*settings, "update-index", "-z", "--index-info", input=os.fsencode("".join(lines)))
    message = ("-m", f"research-steps: {commit[:12]}")
    checkout.quietly("update-ref", *message, f"refs/heads/{branch}", commit, f"{commit}^")


def receipt(checkout: Checkout, tag: str) -> Path:
    """What says, in the work tree that sealed an entry, with which commit it did."""
    return checkout.private / f"{tag.replace('/', '.')}.sealed"


def waiting(checkout: Checkout, tag: str) -> Path:
    """Holds the commit that is to be put on the research branch of this work tree, until it is."""
    return receipt(checkout, tag).with_suffix(".commit")


def files_at(checkout: Checkout, topic: str, commit: str) -> Files:
    """What a commit holds of a logbook, which is empty where it is not there, and of what lies beside it."""
    path, folder = f".agents/logbooks/{topic}.md", f".agents/logbooks/{topic}/"
    listed = checkout.git("ls-tree", "-r", "-z", commit, "--", path, folder).decode("utf-8", "surrogateescape")
    named = {name: meta.split()[2] for meta, _, name in (line.partition("\t") for line in listed.split("\0") if line)}
    tree = {name: data or b"" for name, data in zip(named, blobs(checkout, named.values()), strict=True)}
    return Files(topic, tree.pop(path, b""), {name.removeprefix(folder): data for name, data in tree.items()})


def blobs(checkout: Checkout, names: Iterable[str]) -> Iterator[bytes | None]:
    """The contents of objects in their order, None for one that is not there."""
    out = io.BytesIO(checkout.git("cat-file", "--batch", input="".join(f"{name}\n" for name in names).encode()))
    for head in iter(out.readline, b""):
        yield None if head.endswith(b" missing\n") else out.read(int(head.split()[-1]) + 1)[:-1]


@contextmanager
def _index_of(checkout: Checkout, commit: str) -> Iterator[Callable[..., bytes]]:
    """Git with an index of its own, which holds what the commit does."""
    with tempfile.TemporaryDirectory(prefix="research-seal-") as scratch:
        git = partial(checkout.quietly, env={"GIT_INDEX_FILE": str(Path(scratch) / "index")})
        # What a sparse checkout leaves out of the work tree, git would leave as it is here, too.
        git("-c", "core.sparseCheckout=false", "read-tree", commit)
        yield git


def _identity(checkout: Checkout) -> Sequence[str]:
    """An identity for git where the user has set none, beside git's own variables: sealing must not fail for that."""
    unset = checkout.user() is None
    return ("-c", "user.name=research-steps", "-c", "user.email=research-steps@localhost") if unset else ()


def _is_gone(path: Path) -> bool:
    """Whether git would find no such file: nothing is there, a folder is, or it lies behind a symbolic link."""
    return path.parent.resolve() != path.parent or not (path.is_symlink() or path.is_file())


def _names(listed: bytes) -> set[str]:
    return {os.fsdecode(name) for name in listed.split(b"\0") if name}
