"""Where a record comes from: what the patch holds, that taking it changes nothing, and who and what is named.

Every repository here is a real one, made by git as a user would.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from research_steps.errors import RepositoryError, UsageError
from research_steps.git import LARGEST_FILE, Checkout
from research_steps.records.encoding import sha256, store_record
from research_steps.trial.provenance import capture, describe_error, installed

from tests.support.records import trial

COMMITTED = {
    "kept.txt": b"one\ntwo\nthree\n",
    "staged.txt": b"a\n" * 20,
    "unstaged.txt": b"b\n" * 20,
    "both.txt": b"c\n" * 20,
    "deleted.txt": b"d\n",
    "renamed.txt": b"e\n" * 20,
    "binary.bin": bytes(range(256)) * 8,
    "script.sh": b"#!/bin/sh\n",
    "becomes a link": b"f\n",
    "no newline": b"the end",
    ".gitignore": b"ignored/\n*.log\n",
    "folder/crlf.txt": b"one\r\ntwo\r\n",
}


def git(root: Path, *arguments: str, **options: Any) -> bytes:
    """Run git as a user would, with an identity and none of the machine's settings."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    env |= {f"GIT_{who}_{what}": "ada@localhost" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    env |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    allow = ("-c", "protocol.file.allow=always")
    return subprocess.run(
        ["git", *allow, *arguments], cwd=root, env=env, check=True, capture_output=True, **options
    ).stdout


def make_repository(root: Path, files: dict[str, bytes] = COMMITTED) -> Path:
    root.mkdir(parents=True)
    git(root, "init", "-q", "-b", "main")
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "first")
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_repository(tmp_path / "checkout")


def everything(folder: Path) -> dict[str, Any]:
    """All that lies in a folder, byte for byte, with what kind of file it is."""
    contents: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        contents[str(path)] = (
            mode,
            os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None,
        )
    return contents


def files_of(root: Path) -> dict[str, Any]:
    return {name.removeprefix(f"{root}/"): value for name, value in everything(root).items() if "/.git" not in name}


def patched(root: Path, tmp_path: Path, *how: str) -> tuple[Path, str]:
    """A clean clone of the commit with the patch applied to it, and the note that came with the patch.

    Taking the patch must not change a byte of repository or work tree.
    """
    before = everything(root)
    checkout = Checkout.find(root)
    commit = checkout.head()
    assert commit is not None
    patch, note = checkout.patch(commit)
    assert everything(root) == before
    clean = tmp_path / "clean"
    git(tmp_path, "clone", "-q", "--no-checkout", str(root), str(clean))
    git(clean, "checkout", "-q", "--detach", commit)
    if patch:
        git(clean, "apply", *(how or ("--index",)), input=patch)
    return clean, note


def dirty(root: Path) -> None:
    """Every kind of difference that a work tree can have."""
    (root / "staged.txt").write_bytes(b"a\n" * 10 + b"staged\n" + b"a\n" * 10)
    (root / "both.txt").write_bytes(b"staged\n" + b"c\n" * 20)
    git(root, "mv", "renamed.txt", "new name.txt")
    (root / "staged new.txt").write_bytes(b"new\n")
    git(root, "add", "-A")
    (root / "both.txt").write_bytes(b"staged\n" + b"c\n" * 20 + b"and not\n")
    (root / "unstaged.txt").write_bytes(b"")
    (root / "deleted.txt").unlink()
    (root / "binary.bin").write_bytes(bytes(reversed(range(256))) * 8)
    (root / "script.sh").chmod(0o755)
    (root / "becomes a link").unlink()
    (root / "becomes a link").symlink_to("kept.txt")
    (root / "no newline").write_bytes(b"the end, still")
    (root / "folder/crlf.txt").write_bytes(b"one\r\nTWO\r\n")
    (root / "untracked.py").write_bytes(b"x = 1\n")
    (root / "empty").write_bytes(b"")
    (root / "deep/er/new.bin").parent.mkdir(parents=True)
    (root / "deep/er/new.bin").write_bytes(os.urandom(1000))


@pytest.mark.parametrize("how", ["--index", "--verbose"], ids=["with index", "work tree only"])
def test_a_patch_makes_the_same_tree_of_the_commit(root: Path, tmp_path: Path, how: str) -> None:
    """Staged, unstaged, both, new, deleted, renamed, binary, mode, link, empty: all of it, and nothing else."""
    dirty(root)
    expected = files_of(root)
    clean, note = patched(root, tmp_path, how)
    assert note == ""
    assert files_of(clean) == expected


def test_a_change_of_the_same_size_in_the_same_second_is_in_the_patch(root: Path) -> None:
    """git tells a changed file by size and age first; one edited right after the commit looks like the committed one."""
    time.sleep(1.0 - time.time() % 1.0)
    (root / "kept.txt").write_bytes(b"before\n")
    git(root, "commit", "-q", "-a", "-m", "again")
    (root / "kept.txt").write_bytes(b"behind\n")
    time.sleep(1.0)
    assert b"\n-before\n+behind\n" in Checkout.find(root).patch()[0]


# What an editor does beside the files that it has open, until it is ended.
SWAPPING = """
import os, sys
for number in range(10**9):
    for folder in ("", "folder/"):
        names = [f"{folder}.{name}.{number % 7}.swp" for name in "abcdef"]
        for name in names:
            with open(name, "w") as file:
                file.write("x" * 2000)
        for name in names:
            os.truncate(name, 10)
            os.remove(name)
    if number == 0:
        print("begun", flush=True)
"""


def test_files_that_come_and_go_spoil_no_patch(root: Path) -> None:
    """An editor's swap files, say: the patch is taken all the same, with what was edited."""
    (root / "kept.txt").write_bytes(b"edited\n")
    with subprocess.Popen([sys.executable, "-c", SWAPPING], cwd=root, stdout=subprocess.PIPE) as editor:
        try:
            assert editor.stdout is not None and editor.stdout.readline() == b"begun\n"
            for _ in range(30):
                assert b"+edited" in Checkout.find(root).patch()[0]
        finally:
            editor.kill()


def test_a_clean_tree_has_no_patch(root: Path) -> None:
    """Also when files were only touched, and so look changed until they are read."""
    for path in root.glob("*.txt"):
        os.utime(path, (1, 1))
    assert Checkout.find(root).patch() == (b"", "")
    assert capture(Checkout.find(root), ["x"], "toy").patch is None


def test_what_is_ignored_or_belongs_to_the_record_is_not_in_the_patch(root: Path, tmp_path: Path) -> None:
    """The logbook changes while a thread runs, the store lies beside it, and neither makes the tree dirty."""
    (root / ".agents/logbooks/moe_hc").mkdir(parents=True)
    (root / ".agents/logbooks/moe_hc.md").write_text("# logbook\n")
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "logbook")
    for name in ("ignored/data", "x.log", ".agents/logbooks/moe_hc/MOE-HC-001.jsonl", ".agents/issues/moe_hc.md"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("changes\n")
    (root / "local_store/journal").mkdir(parents=True)
    (root / "local_store/journal/record.json").write_text("{}")
    (root / ".agents/logbooks/moe_hc.md").write_text("# logbook\nand more\n")
    assert Checkout.find(root).patch() == (b"", "")
    (root / ".agents/other.md").write_text("not the logbook\n")
    clean, _ = patched(root, tmp_path)
    assert git(clean, "status", "--porcelain").decode().split() == ["A", ".agents/other.md"]


def test_large_new_files_are_left_out_by_name(root: Path, tmp_path: Path) -> None:
    """A checkpoint that nobody ignored must not be copied into every record."""
    (root / "checkpoint.bin").write_bytes(bytes(LARGEST_FILE + 1))
    (root / "link").symlink_to("checkpoint.bin")
    (root / "just fits").write_bytes(bytes(LARGEST_FILE))
    (root / "binary.bin").write_bytes(os.urandom(LARGEST_FILE))
    clean, note = patched(root, tmp_path)
    assert note == f"left out, over {LARGEST_FILE} bytes: checkpoint.bin"
    expected = files_of(root)
    del expected["checkpoint.bin"]
    assert files_of(clean) == expected


def test_many_large_files_make_a_short_note(root: Path) -> None:
    """The note is in every record of the run."""
    for number in range(30):
        with (root / f"checkpoint-{number:02d}").open("wb") as file:
            file.truncate(LARGEST_FILE + 1)
    patch, note = Checkout.find(root).patch()
    assert patch == b""
    assert note.endswith("checkpoint-08, checkpoint-09 and 20 more")


HOSTILE = [
    "with space",
    "new\nline",
    ":colon",
    ":(exclude)kept.txt",
    "caf\udce9",
    "-dash",
    "*",
    "[a-z].txt",
    "é",
    '"',
    "\\",
]


def test_every_file_name_that_git_allows_is_in_the_patch(root: Path, tmp_path: Path) -> None:
    """Spaces, newlines, bytes that are no UTF-8, and what git would read as a pattern; small ones and large ones."""
    for name in HOSTILE:
        (root / name).write_bytes(b"new\n")
        (root / f"{name} large").write_bytes(bytes(LARGEST_FILE + 1))
    (root / "? looks like status").write_bytes(b"new\n")
    clean, note = patched(root, tmp_path)
    assert all((clean / name).read_bytes() == b"new\n" for name in (*HOSTILE, "? looks like status"))
    assert not list(clean.glob("*large"))
    assert "and 1 more" in note
    record = trial(provenance=capture(Checkout.find(root), ["x"], "toy").provenance)
    assert b"not of this thread" in store_record(record).line


def test_a_moved_submodule_is_in_the_patch_and_changes_inside_are_told(root: Path, tmp_path: Path) -> None:
    """A patch can say which commit a submodule is at; what was edited inside it can't be said, so a note tells."""
    library = make_repository(tmp_path / "library", {"code.py": b"x = 1\n"})
    git(root, "submodule", "--quiet", "add", str(library), "vendor/the library")
    git(root, "commit", "-q", "-m", "submodule")
    inside = root / "vendor/the library"
    (inside / "code.py").write_bytes(b"x = 2\n")
    git(inside, "commit", "-q", "-a", "-m", "moved")
    clean, note = patched(root, tmp_path)
    assert note == ""
    moved = git(inside, "rev-parse", "HEAD").decode().strip()
    assert git(clean, "ls-files", "-s", "vendor").decode().split()[1] == moved
    (inside / "code.py").write_bytes(b"x = 3\n")
    (inside / "new.py").write_bytes(b"")
    before = everything(root)
    assert Checkout.find(root).patch()[1] == "not in the patch, changes inside submodules: vendor/the library"
    assert everything(root) == before


def test_another_repository_inside_the_checkout_is_left_out_by_name(root: Path, tmp_path: Path) -> None:
    """A clone that lies in the tree is neither copied nor a reason to fail, with a commit or without."""
    make_repository(root / "nested clone", {"code.py": b"x = 1\n"})
    (root / "just begun").mkdir()
    git(root / "just begun", "init", "-q")
    (root / "just begun/code.py").write_bytes(b"")
    (root / "new.py").write_bytes(b"")
    clean, note = patched(root, tmp_path)
    assert note == "left out, repositories of their own: just begun/, nested clone/"
    assert git(clean, "status", "--porcelain").decode().split() == ["A", "new.py"]


def _noprefix(root: Path) -> None:
    for name, value in {
        "diff.noprefix": "true", "diff.mnemonicPrefix": "true", "diff.external": "false", "diff.renames": "copies",
        "diff.submodule": "log", "diff.context": "0", "color.ui": "always", "core.safecrlf": "true",
        "core.autocrlf": "input", "core.quotePath": "false", "status.showUntrackedFiles": "no", "diff.relative": "true",
        "core.splitIndex": "true", "core.untrackedCache": "true", "index.version": "4", "status.branch": "true",
        "diff.ignoreSubmodules": "all", "status.relativePaths": "true", "status.renames": "copies",
    }.items():  # fmt: skip
        git(root, "config", name, value)


def _hooks(root: Path) -> None:
    for name in ("post-index-change", "pre-commit", "reference-transaction"):
        hook = root / ".git/hooks" / name
        hook.write_text('#!/bin/sh\necho ran >> "$(git rev-parse --absolute-git-dir)/ran"\n')
        hook.chmod(0o755)


def _split_index(root: Path) -> None:
    git(root, "config", "core.splitIndex", "true")
    git(root, "update-index", "--split-index")


def _packed(root: Path) -> None:
    git(root, "gc", "-q")


def _merging(root: Path) -> None:
    git(root, "checkout", "-q", "-b", "side")
    (root / "kept.txt").write_bytes(b"one\nSIDE\nthree\n")
    git(root, "commit", "-q", "-a", "-m", "side")
    git(root, "checkout", "-q", "main")
    (root / "kept.txt").write_bytes(b"one\nMAIN\nthree\n")
    git(root, "commit", "-q", "-a", "-m", "main")
    with pytest.raises(subprocess.CalledProcessError):
        git(root, "merge", "side")


@pytest.mark.parametrize("state", [_noprefix, _hooks, _split_index, _packed, _merging], ids=lambda state: state.__name__)
def test_no_setting_or_state_of_the_repository_changes_the_patch(
    root: Path, tmp_path: Path, state: Callable[[Path], None]
) -> None:
    """Settings for diffs, hooks, a split index, packed objects, a merge that stopped: it applies all the same."""
    state(root)
    if state is not _merging:
        dirty(root)
    if state is _noprefix:
        # Line ends are what git would commit them as.
        (root / "folder/crlf.txt").write_bytes(b"one\nTWO\n")
    expected = files_of(root)
    clean, _ = patched(root, tmp_path)
    assert files_of(clean) == expected
    assert not (root / ".git/ran").exists() or state is not _hooks or _ran_by_us(root) == 0


def _ran_by_us(root: Path) -> int:
    before = (root / ".git/ran").read_bytes()
    Checkout.find(root).patch()
    return len((root / ".git/ran").read_bytes()) - len(before)


def test_a_work_tree_of_its_own_is_a_checkout_of_its_own(root: Path, tmp_path: Path) -> None:
    """`git worktree`: the patch is of this work tree, the objects are the main one's, locks lie apart."""
    other = tmp_path / "other: tree"
    git(root, "worktree", "add", "-q", "-b", "side", str(other))
    dirty(other)
    (root / "main only.txt").write_text("not here\n")
    expected = {name: value for name, value in files_of(other).items() if name != ".git"}
    checkout = Checkout.find(other / "folder")
    assert checkout.root == other
    assert checkout.branch() == "side"
    assert checkout.private != Checkout.find(root).private
    clean, _ = patched(other, tmp_path)
    assert files_of(clean) == expected


@pytest.mark.parametrize("name", ["a:b", 'quo"te', "back\\slash", "new\nline", "caf\udce9", " space "])
def test_the_checkout_may_lie_in_any_folder(tmp_path: Path, name: str) -> None:
    """Also one whose name git uses as a separator or quotes."""
    root = make_repository(tmp_path / name / "checkout", {"kept.txt": b"1\n"})
    (root / "kept.txt").write_bytes(b"2\n")
    assert Checkout.find(root).root == root
    patch, _ = Checkout.find(root).patch()
    assert b"+2\n" in patch


def test_a_run_inside_a_git_hook_is_of_its_own_repository(root: Path, tmp_path: Path) -> None:
    """A hook sets git's variables for the repository it belongs to; this one's patch and index are not touched by it."""
    other = make_repository(tmp_path / "other", {"theirs.txt": b"1\n"})
    dirty(root)
    before = everything(root), everything(other)
    plain = Checkout.find(root).patch()
    program = f"""
import os, sys
from pathlib import Path
from research_steps.git import Checkout
checkout = Checkout.find(Path({str(root)!r}))
patch, note = checkout.patch()
sys.stdout.buffer.write(patch)
"""
    hook = {
        "GIT_DIR": str(other / ".git"), "GIT_WORK_TREE": str(other), "GIT_INDEX_FILE": str(other / ".git/index"),
        "GIT_OBJECT_DIRECTORY": str(other / ".git/objects"), "GIT_PREFIX": "folder/", "GIT_LITERAL_PATHSPECS": "1",
        "GIT_EXTERNAL_DIFF": "false", "GIT_DIFF_OPTS": "-u0", "GIT_COMMON_DIR": str(other / ".git"),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=other, env={**os.environ, **hook}, check=True, capture_output=True
    )
    assert done.stdout == plain[0]
    assert (everything(root), everything(other)) == before


def test_a_folder_without_git_is_recorded_as_such(tmp_path: Path) -> None:
    """There is a root, and a note in place of a commit."""
    checkout = Checkout.find(tmp_path)
    captured = capture(checkout, ["python", "x.py"], "toy")
    assert checkout.root == tmp_path
    assert captured.patch is None
    assert captured.provenance.commit is None
    assert captured.provenance.patch_note == f"{tmp_path} is not in a git repository"


def test_a_repository_without_a_commit_is_recorded_as_such(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    (tmp_path / "new.py").write_text("")
    captured = capture(Checkout.find(tmp_path), ["x"], "toy")
    assert captured.provenance.commit is None
    assert captured.provenance.patch_note == "the repository has no commit yet"


def test_a_repository_that_git_will_not_read_is_told(root: Path) -> None:
    """In a container the checkout often belongs to another user; git's sentence says what to set."""
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    for path in [root, root / ".git"]:
        os.chown(path, 65534, 65534)
    with pytest.raises(RepositoryError, match=r"dubious ownership.*safe\.directory") as told:
        os.environ.pop("GIT_CONFIG_GLOBAL", None)
        Checkout.find(root)
    assert str(root) in str(told.value)


def test_an_unreadable_new_file_is_left_out_by_name(root: Path) -> None:
    """A file of another user in the tree is no reason to refuse the run."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    (root / "core").write_bytes(b"dumped")
    (root / "core").chmod(0o600)
    (root / "new.py").write_bytes(b"x = 1\n")
    for path in (root, *root.rglob("*")):
        if path.name != "core" and not path.is_symlink():
            path.chmod(0o777)
    # git itself must own what it reads as another user.
    subprocess.run(["chown", "-R", "65534:65534", str(root)], check=True)
    os.chown(root / "core", 0, 0)
    program = f"""
import os, sys
from pathlib import Path
from research_steps.git import Checkout
os.setgid(65534)
os.setuid(65534)
patch, note = Checkout.find(Path({str(root)!r})).patch()
assert b"new.py" in patch and b"dumped" not in patch
print(note)
"""
    for parent in root.parents:
        if str(parent).startswith("/tmp/"):
            parent.chmod(0o755)
    env = {**os.environ, "HOME": "/nonexistent"}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=False)
    assert done.stdout == "left out, not readable: core\n", done.stderr


def test_a_patch_with_a_secret_in_it_is_withheld(root: Path) -> None:
    """Neither the patch nor its hash is kept; the note says so, and such a record can't be sealed."""
    (root / "kept.txt").write_text(f"token = 'ghp_{'aB3' * 12}'\n")
    captured = capture(Checkout.find(root), ["x"], "toy")
    assert captured.patch is None
    assert captured.provenance.patch is None
    assert captured.provenance.patch_note.startswith("withheld")


def test_a_patch_that_names_secrets_without_holding_one_is_kept(root: Path) -> None:
    """Code that reads a key from the environment is ordinary code."""
    (root / "kept.txt").write_text('api_key = os.environ["WANDB_API_KEY"]\npassword = getpass()\neos_token = "</s>"\n')
    captured = capture(Checkout.find(root), ["x"], "toy")
    assert captured.patch is not None
    assert captured.provenance.patch == sha256(captured.patch)


def test_the_command_is_recorded_without_its_secrets(root: Path) -> None:
    """Options with a secret's name, assignments, known tokens, passwords in addresses."""
    argv = [
        "python", "-m", "experiments.toy", "--seal", "true", "--hub.token", "0000", "--api_key=1234", "--eos_token",
        "</s>", "DB_PASSWORD=x y", "--url", "https://ada:pw@host/", "--max_tokens", "10", "--token",
    ]  # fmt: skip
    assert capture(Checkout.find(root), argv, "toy").provenance.command == (
        "python -m experiments.toy --seal true --hub.token '[redacted]' '--api_key=[redacted]' --eos_token '</s>' "
        "'DB_PASSWORD=[redacted]' --url 'https://[redacted]@host/' --max_tokens 10 --token"
    )


def test_who_ran_it_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """RESEARCH_ACTOR says whether a person or an agent did it; otherwise it is git's user."""
    monkeypatch.delenv("RESEARCH_ACTOR", raising=False)
    git(root, "config", "user.name", "Ada Example")
    actor = capture(Checkout.find(root), ["x"], "toy").provenance.actor
    assert (actor.kind, actor.name) == ("person", "Ada Example")
    monkeypatch.setenv("RESEARCH_ACTOR", "agent:tuner: two")
    actor = capture(Checkout.find(root), ["x"], "toy").provenance.actor
    assert (actor.kind, actor.name) == ("agent", "tuner: two")


@pytest.mark.parametrize("given", ["tuner", "robot:x", "agent:", ":x", "Agent:x"])
def test_an_actor_that_is_neither_person_nor_agent_is_refused(
    root: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    """A typing error must not turn an agent into a person."""
    monkeypatch.setenv("RESEARCH_ACTOR", given)
    with pytest.raises(UsageError, match=r"RESEARCH_ACTOR is .*: expected agent:NAME or person:NAME\."):
        capture(Checkout.find(root), ["x"], "toy")


def test_a_user_without_a_name_can_run(tmp_path: Path) -> None:
    """Containers run under numbers that no account has."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    program = """
import email.parser, importlib.metadata, os
from pathlib import Path
from research_steps.git import Checkout
from research_steps.trial.provenance import capture
os.setuid(54321)
print(capture(Checkout.find(Path("/")), ["x"], "toy").provenance.actor.name)
"""
    env = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=False)
    assert done.stdout == "uid 54321\n", done.stderr


def test_a_missing_git_is_told(root: Path) -> None:
    """Records name the commit they come from, so git is needed."""
    program = f"from research_steps.git import Checkout; Checkout.find(__import__('pathlib').Path({str(root)!r}))"
    done = subprocess.run([sys.executable, "-c", program], env={"PATH": "/nonexistent"}, capture_output=True, text=True)
    assert "RepositoryError: The command 'git' is not on PATH: install git" in done.stderr


def test_an_exception_is_described_whatever_it_is(tmp_path: Path) -> None:
    """Innermost frames, files as they are named on any machine, and no second failure from a hostile message."""

    class Hostile(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no message")

    def deep(level: int) -> None:
        if level:
            deep(level - 1)
        raise Hostile

    try:
        deep(20)
    except Hostile as error:
        described = describe_error(error, "child", Path(__file__).parents[1])
    assert described.message == "<exception str() failed>"
    assert len(described.frames) == 5
    assert all(
        frame.startswith("tests/test_provenance.py:") and frame.endswith(" in deep") for frame in described.frames
    )
    assert described.type.endswith("Hostile")


def test_every_installed_package_is_pinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By version, or by the address that it came from, with the folder in it; what an installation left half is no
    package."""
    url = {
        "url": "https://example.org/marin",
        "vcs_info": {"vcs": "git", "commit_id": "1" * 40},
        "subdirectory": "lib/a",
    }
    for name, direct in (("Some_Thing", None), ("part", url), ("mine", {"url": tmp_path.as_uri(), "dir_info": {}})):
        folder = tmp_path / f"{name}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        if direct is not None:
            (folder / "direct_url.json").write_text(json.dumps(direct))
    (tmp_path / "half-1.0.dist-info").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    lines = installed(tmp_path).decode().splitlines()
    assert {"Some_Thing==1.0", f"part @ git+https://example.org/marin@{'1' * 40}#subdirectory=lib/a", "-e ."} < set(
        lines
    )
    assert not any("half" in line for line in lines) and any(line.startswith("jax==") for line in lines)
