"""States that a user's repository may be in, each made by real git upon files of its own, so that they combine."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

CODE, OUTSIDE = "experiments/toy/more", "outside"
# Those that a commit or a tag could run, and one that git asks what has changed.
HOOKS = (
    "pre-commit", "prepare-commit-msg", "commit-msg", "post-commit", "pre-merge-commit", "pre-rebase", "post-checkout",
    "post-rewrite", "reference-transaction", "post-index-change", "pre-auto-gc", "fsmonitor-watchman",
)  # fmt: skip
# What a name may hold that some command takes for something else.
ODD = ("a b", "ünï", "new\nline", "-rf", "[a]*", ":(top)x", 'quo"te', "back\\slash", os.fsdecode(b"\xff\xfe"), "tab\t")


class Place:
    """A work tree with tracked files to be changed: each state has one of its own inside of the experiment, and one
    outside of it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def git(self, *arguments: str, input: bytes | None = None) -> bytes:
        return git(self.root, *arguments, input=input)

    def both(self, state: str) -> list[str]:
        """The state's tracked files, by their paths."""
        return [f"{folder}/{state}.txt" for folder in (CODE, OUTSIDE)]

    def new(self, name: str) -> list[str]:
        return [f"{folder}/new/{name}" for folder in (CODE, OUTSIDE)]

    def write(self, name: str, text: str = "changed\n") -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def git(where: Path, *arguments: str, input: bytes | None = None) -> bytes:
    free = ("-c", "protocol.file.allow=always")
    done = subprocess.run(["git", *free, *arguments], cwd=where, input=input, capture_output=True, check=False)
    assert done.returncode == 0, (arguments, done.stderr)
    return done.stdout


def prepare(root: Path, elsewhere: Path) -> None:
    """The files of all states, and two submodules, to be committed."""
    place = Place(root)
    for state in STATES:
        for name in place.both(state):
            place.write(name, f"{state}\n")
    for folder in (CODE, OUTSIDE):
        place.write(f"{folder}/folder/a", "a\n")
        place.write(f"{folder}/linked/a", "a\n")
        place.write(f"{folder}/sparse/a", "a\n")
        place.write(f"{folder}/sparse/b", "b\n")
        place.write(f"{folder}/ends.crlf", "a\n")
    with (root / ".gitignore").open("a") as file:
        file.write("*.ignored\n")
    (root / ".gitattributes").write_text("*.crlf text eol=crlf\n")
    source = elsewhere / "library"
    source.mkdir()
    git(source, "init", "--quiet", "--initial-branch=main")
    for name, value in (("user.name", "A Person"), ("user.email", "person@example.org")):
        git(source, "config", name, value)
    for number in range(2):
        (source / "kernel.py").write_text(f"NUMBER = {number}\n")
        git(source, "add", "kernel.py")
        git(source, "commit", "--quiet", "--message", f"state {number}")
    for folder in (CODE, OUTSIDE):
        git(root, "submodule", "--quiet", "add", str(source), f"{folder}/module")


def edited(place: Place) -> None:
    for name in place.both("edited"):
        place.write(name)


def staged(place: Place) -> None:
    for name in place.both("staged"):
        place.write(name)
        place.git("add", name)


def staged_and_edited(place: Place) -> None:
    for name in place.both("staged_and_edited"):
        place.write(name, "staged\n")
        place.git("add", name)
        place.write(name, "edited afterwards\n")


def deleted(place: Place) -> None:
    for name in place.both("deleted"):
        (place.root / name).unlink()


def removed(place: Place) -> None:
    place.git("rm", "--quiet", *place.both("removed"))


def removed_from_the_index(place: Place) -> None:
    place.git("rm", "--quiet", "--cached", *place.both("removed_from_the_index"))


def renamed(place: Place) -> None:
    for name in place.both("renamed"):
        place.git("mv", name, f"{name}.other")


def moved(place: Place) -> None:
    for name in place.both("moved"):
        (place.root / name).rename(place.root / f"{name}.other")


def executable(place: Place) -> None:
    for name in place.both("executable"):
        (place.root / name).chmod(0o755)


def untracked(place: Place) -> None:
    for name in place.new("untracked"):
        place.write(name)


def added(place: Place) -> None:
    for name in place.new("added"):
        place.write(name)
        place.git("add", name)


def added_and_deleted(place: Place) -> None:
    for name in place.new("added_and_deleted"):
        place.write(name)
        place.git("add", name)
        (place.root / name).unlink()


def intended(place: Place) -> None:
    for name in place.new("intended"):
        place.write(name)
        place.git("add", "--intent-to-add", name)


def assumed_unchanged(place: Place) -> None:
    for name in place.both("assumed_unchanged"):
        place.git("update-index", "--assume-unchanged", name)
        place.write(name)


def skipped(place: Place) -> None:
    for name in place.both("skipped"):
        place.git("update-index", "--skip-worktree", name)
        place.write(name)


def ignored(place: Place) -> None:
    for name in place.new("one.ignored"):
        place.write(name)


def ignored_and_added(place: Place) -> None:
    for name in place.new("two.ignored"):
        place.write(name)
        place.git("add", "--force", name)


def oddly_named(place: Place) -> None:
    for odd in ODD:
        for name in place.new(odd):
            place.write(name)
        place.git("add", "--", f":(literal){OUTSIDE}/new/{odd}")


def links(place: Place) -> None:
    for name in place.new("dangling"):
        (place.root / name).parent.mkdir(exist_ok=True)
        (place.root / name).symlink_to("nowhere")
    for name in place.both("links"):
        (place.root / name).unlink()
        (place.root / name).symlink_to("edited.txt")


def kinds_changed(place: Place) -> None:
    """A file becomes a folder, a folder a file, another one a link to a folder."""
    for folder in (CODE, OUTSIDE):
        name = f"{folder}/kinds_changed.txt"
        (place.root / name).unlink()
        place.write(f"{name}/inner")
        (place.root / folder / "folder" / "a").unlink()
        (place.root / folder / "folder").rmdir()
        place.write(f"{folder}/folder")
        (place.root / folder / "linked").rename(place.root / folder / "leads")
        (place.root / folder / "linked").symlink_to("leads")


def carriage_returns(place: Place) -> None:
    for folder in (CODE, OUTSIDE):
        (place.root / folder / "ends.crlf").write_bytes(b"a\r\nb\r\n")


def nested(place: Place) -> None:
    """Repositories that git knows nothing of."""
    for name in place.new("nested"):
        (place.root / name).mkdir(parents=True, exist_ok=True)
        git(place.root / name, "init", "--quiet")
        place.write(f"{name}/file")


def submodules_changed(place: Place) -> None:
    """One that is dirty, and one at another commit."""
    inside, outside = (place.root / folder / "module" for folder in (CODE, OUTSIDE))
    if (inside / ".git").exists():
        git(inside, "checkout", "--quiet", "HEAD^")
        (outside / "new").write_text("new\n")


def submodule_gone(place: Place) -> None:
    place.git("submodule", "--quiet", "deinit", "--force", f"{OUTSIDE}/module")


def hooks(place: Place) -> None:
    """Hooks that fail, and tell that they ran."""
    folder = place.root / os.fsdecode(place.git("rev-parse", "--git-path", "hooks").rstrip(b"\n"))
    folder.mkdir(exist_ok=True)
    for name in HOOKS:
        (folder / name).write_text(f"#!/bin/sh\ntouch '{place.root.parent}/ran-{name}'\nexit 1\n")
        (folder / name).chmod(0o755)


def stashed(place: Place) -> None:
    for name in place.both("stashed"):
        place.write(name)
    place.git("stash", "push", "--quiet", "--", *place.both("stashed"))


def split_index(place: Place) -> None:
    place.git("config", "core.splitIndex", "true")
    place.git("update-index", "--split-index")


def sparse(place: Place) -> None:
    """Only a part of what is tracked is in the work tree, and of the rest what somebody put there."""
    patterns = f"/*\n!/{OUTSIDE}/sparse/\n!/{CODE}/sparse/\n"
    place.git("sparse-checkout", "set", "--no-cone", "--stdin", input=patterns.encode())
    for folder in (CODE, OUTSIDE):
        place.write(f"{folder}/sparse/b")
        place.write(f"{folder}/sparse/new")


def configured(place: Place) -> None:
    """Settings that change what commands print or do."""
    settings = {
        "core.quotePath": "true", "diff.noprefix": "true", "diff.mnemonicPrefix": "true", "color.ui": "always",
        "status.showUntrackedFiles": "no", "core.logAllRefUpdates": "always", "tag.sort": "-creatordate",
        "core.autocrlf": "input", "core.safecrlf": "true", "commit.gpgSign": "false", "user.useConfigOnly": "true",
        "commit.template": "/nonexistent", "commit.cleanup": "verbatim", "diff.renames": "copies", "core.pager": "false",
        "core.untrackedCache": "true", "i18n.commitEncoding": "latin1", "log.showSignature": "true",
    }  # fmt: skip
    for name, value in settings.items():
        place.git("config", name, value)


def branches(place: Place) -> None:
    """Names that could be taken for the series' own."""
    for name in ("toy", "research/toy-2", "TOY-004"):
        place.git("update-ref", f"refs/heads/{name}", "HEAD")
    place.git("update-ref", "refs/tags/research/toy", "HEAD")


# In the order in which they are made: some keep git from making others.
STATES: dict[str, Callable[[Place], None]] = {
    made.__name__: made
    for made in (
        *(stashed, submodule_gone, edited, staged, staged_and_edited, deleted, removed, removed_from_the_index, renamed),
        *(moved, executable, untracked, added, added_and_deleted, intended, assumed_unchanged, skipped, ignored),
        *(ignored_and_added, oddly_named, links, kinds_changed, carriage_returns, nested, submodules_changed, sparse),
        *(split_index, configured, branches, hooks),
    )
}


def put_in(place: Place, states: set[str]) -> None:
    for name, make in STATES.items():
        if name in states:
            make(place)
