"""Sealing: what the tag holds, what the user's repository is afterwards, and what happens where it can't be done."""

import contextlib
import csv
import dataclasses
import io
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Barrier

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from packaging.requirements import Requirement
from research_steps.actions import notes
from research_steps.errors import RepositoryError
from research_steps.git import Checkout
from research_steps.journal.journal import Journal
from research_steps.journal.store import open_store
from research_steps.publish.entry_writer import EntryWriter
from research_steps.publish.logbook.surface import LogbookSurface
from research_steps.publish.publisher import Published, publish
from research_steps.records.encoding import sha256
from research_steps.records.objects import Seal
from research_steps.seal import bundle, contents, tags
from research_steps.seal.sealing import Sealer
from research_steps.seal.verify import verify

from tests.support import unusual_repositories
from tests.support.toy_thread import MAIN, MEASURE, Repository, research
from tests.support.unusual_repositories import CODE, Place, git

TAG, BRANCH = "toy/TOY-004", "research/toy"
SECRET = "s3cret-of-nobody"


@dataclass(frozen=True)
class Copy:
    """A copy of the thread that was run, with its store."""

    root: Path
    store: Path

    def git(self, *arguments: str) -> str:
        return git(self.root, *arguments).decode("utf-8", "surrogateescape")

    @property
    def desk(self) -> EntryWriter:
        journal = Journal(open_store(str(self.store)), "toy")
        return EntryWriter(Checkout.find(self.root), journal, journal.series())

    def seal(self, final: bool = True) -> Published:
        """What the publisher does for seals alone."""
        desk = self.desk
        sealer = Sealer(desk.checkout, desk.journal, desk.series)
        return publish(desk.journal, [sealer], final)

    def sync(self) -> Published:
        desk = self.desk
        logbook = LogbookSurface(desk.checkout, desk.journal, desk.series)
        return publish(desk.journal, [logbook, Sealer(desk.checkout, desk.journal, desk.series), logbook])

    def names(self, revision: str) -> dict[str, str]:
        """The files of a commit, with mode and hash."""
        lines = self.git("ls-tree", "-r", "-z", revision).split("\0")
        return {line.partition("\t")[2]: line.partition("\t")[0] for line in lines if line}

    def decided(self, id: str = "TOY-004") -> Seal | None:
        return self.desk.journal.decided(f"seals/{id}", Seal)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A thread that was run in a repository of many kinds of files, and whose seal was asked for; a folder that holds
    it alone."""
    folder = tmp_path_factory.mktemp("ran")
    repository = Repository(folder / "checkout")
    repository.measure(MEASURE.replace('out: str = ""', 'out: str = ""\n    seed: int = 7'))
    unusual_repositories.prepare(repository.root, tmp_path_factory.mktemp("library"))
    repository.commit()
    done = repository.run(XLA_FLAGS="--xla_cpu_enable_fast_math=false", MARIN_API_KEY=SECRET)
    assert done.code == 0, done.output
    notes.seal(Copy(repository.root, repository.root / "local_store").desk, ())
    return folder


@pytest.fixture
def copy(ran: Path, tmp_path: Path) -> Copy:
    return copied(ran, tmp_path / "copy")


def copied(ran: Path, where: Path) -> Copy:
    shutil.copytree(ran, where, symlinks=True, dirs_exist_ok=True)
    (where / "checkout" / "local_store").rename(where / "store")
    return Copy(where / "checkout", where / "store")


def bytes_below(folder: Path) -> Iterator[tuple[str, object]]:
    """All that there is below a folder, but for what is no user's: objects, which have no other content, and locks."""
    for name in sorted(os.listdir(folder)):
        path = folder / name
        if path.is_symlink():
            yield str(path), os.readlink(path)
        elif path.is_dir():
            if name not in ("objects", "research-steps"):
                yield from bytes_below(path)
        else:
            status = path.stat()
            yield str(path), (status.st_mode, status.st_mtime_ns if ".git" not in path.parts else 0, path.read_bytes())


def flags(copy: Copy) -> dict[str, tuple[str, ...]]:
    """The index, by path, with all that it keeps of a file."""
    listed = copy.git("ls-files", "--stage", "-v", "--debug", "-z")
    entries = re.findall(r"(\S [0-7]{6} [0-9a-f]{40} \d)\t([^\0]*)\0((?:  .*\n)*)", listed)
    assert len(entries) == listed.count("\0")
    # CE_UPDATE_IN_BASE tells in which part of a split index an entry lies, and nothing of the entry.
    return {name: (entry, re.sub(r"(?<=flags: )\w+", masked, kept)) for entry, name, kept in entries}


def masked(flags: re.Match[str]) -> str:
    return f"{int(flags[0], 16) & ~(1 << 27):x}"


def prepared(ran: Path, where: Path, head: str, states: set[str]) -> Copy:
    copy = copied(ran, where)
    match head:
        case "branch":
            copy.git("switch", "--quiet", "--create", BRANCH)
        case "branch ahead":
            copy.git("switch", "--quiet", "--create", BRANCH)
            copy.git("add", ".agents")
            copy.git("commit", "--quiet", "--message", "the logbook")
        case "unrelated branch":
            copy.git("switch", "--quiet", "--create", BRANCH)
            copy.git("commit", "--quiet", "--amend", "--message", "another one")
        case "detached":
            copy.git("switch", "--quiet", "--detach")
        case "work tree":
            copy.git("worktree", "add", "--quiet", "-b", "other", str(where / "linked"))
            shutil.copytree(copy.root / ".agents", where / "linked" / ".agents")
            copy = Copy(where / "linked", copy.store)
        case "work tree on branch":
            copy.git("worktree", "add", "--quiet", "-b", BRANCH, str(where / "linked"))
            shutil.copytree(copy.root / ".agents", where / "linked" / ".agents")
            copy = Copy(where / "linked", copy.store)
    unusual_repositories.put_in(Place(copy.root), states)
    # Of a file as young as the index git forgets the size when it writes that again: none is.
    index, later = Path(copy.git("rev-parse", "--absolute-git-dir").strip()) / "index", time.time() + 5
    os.utime(index, (later, later))
    return copy


HEADS = ("main", "branch", "branch ahead", "unrelated branch", "detached", "work tree", "work tree on branch")
EVERYTHING = set(unusual_repositories.STATES)


# An example takes seconds, so that one that fails is not made smaller.
@settings(
    max_examples=12,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
)
@given(head=st.sampled_from(HEADS), states=st.sets(st.sampled_from(sorted(unusual_repositories.STATES))))
@example(head="main", states=EVERYTHING)
@example(head="branch ahead", states=EVERYTHING)
@example(head="work tree", states=EVERYTHING)
def test_a_seal_takes_what_is_relevant_and_changes_nothing_else(
    ran: Path, tmp_path_factory: pytest.TempPathFactory, head: str, states: set[str]
) -> None:
    """Whatever state index, work tree, HEAD, stash, refs, submodules and settings are in: nothing but the tag is new
    where the research branch isn't checked out; where it is, only the paths of the commit on it."""
    where = tmp_path_factory.mktemp("any")
    copy = prepared(ran, where, head, states)
    before, index, at = dict(bytes_below(where)), flags(copy), copy.git("rev-parse", "HEAD").strip()

    published = copy.seal()

    after, kept = dict(bytes_below(where)), flags(copy)
    assert published.problems == ()
    measured = next(iter(copy.desk.scan().trials.values())).record.provenance.commit
    onto = head in ("branch", "branch ahead", "work tree on branch")
    assert copy.git("rev-parse", f"{TAG}^{{commit}}^").strip() == (at if onto else measured)
    assert copy.git("cat-file", "-t", TAG).strip() == "tag"
    assert_right(copy, states)
    new, old = copy.names(TAG), copy.names(f"{TAG}^")
    committed = {name for name in {**new, **old} if new.get(name) != old.get(name)}
    assert committed and all(name.startswith((".agents/logbooks/toy", "experiments/toy/")) for name in committed)
    changed = {name for name in {*before, *after} if before.get(name) != after.get(name)}
    changed = {name for name in changed if not name.startswith(str(copy.store))}
    changed -= {str(where / "checkout/.git" / folder / TAG) for folder in ("refs/tags", "logs/refs/tags")}
    if not onto:
        assert changed == set()
        return
    assert (
        copy.git("rev-parse", "HEAD", f"refs/heads/{BRANCH}").split()
        == [copy.git("rev-parse", f"{TAG}^{{commit}}").strip()] * 2
    )
    bundle = {str(copy.root / name) for name in committed if name.startswith(".agents/logbooks/toy/TOY-004.")}
    theirs = Path(copy.git("rev-parse", "--absolute-git-dir").strip())
    moved = {str(theirs / "index"), str(theirs / "logs/HEAD")}
    moved |= {str(where / f"checkout/.git/{kind}/{BRANCH}") for kind in ("refs/heads", "logs/refs/heads")}
    assert {name for name in changed if "sharedindex" not in name} == moved | bundle
    for name in (name for name in moved if "/logs/" in name):
        assert after[name][2].startswith(before[name][2])  # type: ignore[index]
    shown = {line[3:] for line in copy.git("status", "--porcelain", "--no-renames", "-z").split("\0")}
    assert not shown & committed
    assert {name for name in {*index, *kept} if index.get(name) != kept.get(name)} <= committed


def assert_right(copy: Copy, states: set[str]) -> None:
    """The tag's files are what 'git add' makes of the work tree."""
    env = {**os.environ, "GIT_INDEX_FILE": str(copy.store / "index")}

    def run(*arguments: str) -> None:
        subprocess.run(["git", "-c", "core.sparseCheckout=false", "-c", "core.splitIndex=false", "-c",
                        "core.safecrlf=false", "-c", "core.hooksPath=/dev/null", *arguments],
                       cwd=copy.root, env=env, check=True, capture_output=True)  # fmt: skip

    run("read-tree", f"{TAG}^")
    here = [f":(exclude){CODE}/new/nested", f":(exclude){CODE}/sparse/a"] if states & {"nested", "sparse"} else []
    run("add", "--all", "--", "experiments/toy", ".agents/logbooks", *here)
    if "ignored_and_added" in states:
        run("add", "--force", "--", f"{CODE}/new/two.ignored")
    tree = subprocess.run(["git", "write-tree"], cwd=copy.root, env=env, check=True, capture_output=True, text=True)
    expected, sealed = copy.names(tree.stdout.strip()), copy.names(TAG)
    bundle = {name for name in sealed if name.startswith(".agents/logbooks/toy/TOY-004.")}
    assert len(bundle) == 4
    assert {entry for entry in sealed.items() ^ expected.items() if entry[0] not in bundle} == set()


def test_with_an_index_that_the_user_locks_the_branch_waits(copy: Copy) -> None:
    """While the user's own git is at work the tag is made, and the next sync puts the commit on the branch."""
    copy.git("switch", "--quiet", "--create", BRANCH)
    head = copy.git("rev-parse", "HEAD")
    lock = copy.root / ".git" / "index.lock"
    lock.touch()
    published = copy.seal()
    assert "index.lock" in published.problems[0]
    assert [change.what for change in published.done] == [f"sealed as {TAG}"]
    assert copy.git("rev-parse", "HEAD") == head
    lock.unlink()
    assert [change.what for change in copy.seal().done] == [f"committed to {BRANCH}"]
    assert copy.git("rev-parse", "HEAD") == copy.git("rev-parse", f"{TAG}^{{commit}}")
    assert copy.seal().done == ()


@pytest.mark.parametrize("head", ["branch, taken back", "branch made later"])
def test_the_branch_is_the_users(copy: Copy, head: str) -> None:
    """A seal that was taken off the branch again stays off it, and one that was made beside it is not put on it."""
    if head == "branch, taken back":
        copy.git("switch", "--quiet", "--create", BRANCH)
    assert copy.seal().problems == ()
    if head == "branch, taken back":
        copy.git("reset", "--quiet", "HEAD^")
    else:
        copy.git("switch", "--quiet", "--create", BRANCH)
    before = copy.git("rev-parse", "HEAD")
    assert copy.seal() == Published()
    assert copy.git("rev-parse", "HEAD") == before


def conflict(copy: Copy, how: str) -> None:
    """Leave something unfinished in the repository."""
    for branch, text in (("theirs", "theirs\n"), ("ours", "ours\n")):
        copy.git("switch", "--quiet", "--create", branch, "main")
        (copy.root / "outside" / "edited.txt").write_text(text)
        copy.git("commit", "--quiet", "--all", "--message", branch)
    commands = {
        "a merge": ("merge", "theirs"),
        "a rebase": ("rebase", "theirs"),
        "a cherry-pick": ("cherry-pick", "theirs"),
        "a revert": ("revert", "--no-edit", "theirs"),
        "a conflict": ("stash", "pop"),
    }
    if how == "a conflict":
        (copy.root / "outside" / "edited.txt").write_text("mine\n")
        copy.git("stash")
        (copy.root / "outside" / "edited.txt").write_text("another\n")
        copy.git("commit", "--quiet", "--all", "--message", "another")
    if how == "a revert":
        copy.git("merge", "--quiet", "--strategy=ours", "theirs")
    done = subprocess.run(["git", *commands[how]], cwd=copy.root, capture_output=True, check=False)
    assert done.returncode != 0, done


@pytest.mark.parametrize("how", ["a merge", "a rebase", "a cherry-pick", "a revert", "a conflict"])
def test_what_is_unfinished_is_refused_and_sealed_once_it_is_over(copy: Copy, how: str) -> None:
    """The sentence says what waits; nothing is made until it is finished or aborted, then the next sync seals."""
    copy.git("add", ".agents")
    copy.git("commit", "--quiet", "--message", "the logbook")
    conflict(copy, how)
    before = dict(bytes_below(copy.root / ".git"))
    published = copy.seal()
    assert published.done == () and len(published.problems) == 1
    assert (
        f"TOY-004 is not sealed: {how} is unfinished in {copy.root}: finish or abort it first" in published.problems[0]
    )
    assert dict(bytes_below(copy.root / ".git")) == before
    with pytest.raises(RepositoryError, match=f"{how} is unfinished"):
        notes.seal(copy.desk, ["TOY-002"])
    match how:
        case "a conflict":
            copy.git("checkout", "--quiet", "HEAD", "--", "outside/edited.txt")
        case _:
            copy.git(how.removeprefix("a "), "--abort")
    assert [change.what for change in copy.seal().done] == [f"sealed as {TAG}"]


@pytest.mark.parametrize("change", ["edited", "broken", "deleted"])
def test_code_that_is_not_what_was_measured_is_refused(copy: Copy, change: str) -> None:
    """The sentence names the measure function; with the old code back, the next sync seals."""
    path = copy.root / "experiments" / "toy" / "measure.py"
    text = path.read_text()
    if change == "deleted":
        path.unlink()
    else:
        path.write_text(text + ("\nEDITED = 1\n" if change == "edited" else "\ndef (\n"))
    published = copy.seal()
    assert published.done == ()
    expected = {"edited": "is not what TOY-002.0", "broken": "does not parse", "deleted": "no source file of"}
    (problem,) = published.problems
    assert re.search("experiments[./]toy[./]measure", problem) and expected[change] in problem
    assert copy.git("tag", "--list").split() == []
    path.write_text(text)
    assert [change.what for change in copy.seal().done] == [f"sealed as {TAG}"]


def test_ignored_code_and_records_are_in_the_tag_all_the_same(copy: Copy) -> None:
    """What was measured and what says so belongs to the snapshot, whatever .gitignore says; plots that belong to no
    entry don't, and the logbook's size is no reason to leave it out."""
    copy.git("rm", "--quiet", "--cached", "experiments/toy/measure.py")
    copy.git("commit", "--quiet", "--message", "not tracked any more")
    with (copy.root / ".gitignore").open("a") as file:
        file.write("measure.py\n*.jsonl\n.agents/\n*.png\n")
    plot = copy.root / "experiments" / "toy" / "plot.png"
    plot.write_bytes(b"png")
    (copy.root.parent / "kept.png").write_bytes(os.urandom(2 << 20))
    notes.attach(copy.desk, "TOY-002", copy.root.parent / "kept.png", "", "")
    published = copy.sync()
    # The branch lacks them, which is told.
    assert len(published.problems) == 1 and "git ignores .agents/logbooks as a whole" in published.problems[0]
    names = copy.names(TAG)
    assert "experiments/toy/measure.py" in names and "experiments/toy/plot.png" not in names
    assert {f".agents/logbooks/toy/TOY-00{number}.jsonl" for number in (1, 2, 3)} < names.keys()
    assert any(name.startswith(".agents/logbooks/toy/attachments/") for name in names)
    assert bundle.read(copy.desk.checkout, TAG).elsewhere == ()


def test_measured_code_of_a_submodule_is_held_by_its_commit(copy: Copy) -> None:
    """What a measure function imports from there does not make files of the submodule."""
    kernel = f"{CODE}/module/kernel.py"
    paths = tags.paths_below(copy.desk.checkout, "HEAD", [CODE, kernel], [kernel])
    assert f"{CODE}/module" in paths.names and kernel not in paths.names
    tree = tags.make_tree(copy.desk.checkout, "HEAD", paths, {})
    assert copy.names(tree)[f"{CODE}/module"].startswith("160000 commit")


def test_a_secret_in_the_experiment_is_refused(copy: Copy) -> None:
    """A tag can be pushed, so an untracked file with a token in it stops the seal; the sentence names the file only."""
    secret = "ghp_" + "a1B2" * 9
    for name in ("experiments/toy/notes.txt", "experiments/toy/new line.bin"):
        path = copy.root / name
        path.write_bytes(b"\x00\x0c\xff\r\xe2\x80\xa8 token\r" + secret.encode() + b"\n")
        published = copy.seal()
        assert "holds what looks like a secret" in published.problems[0]
        assert name in published.problems[0] and secret not in published.problems[0]
        path.unlink()
    assert copy.git("tag", "--list") == ""
    assert [change.what for change in copy.seal().done] == [f"sealed as {TAG}"]


def test_a_secret_that_people_write_into_the_logbook_is_refused(copy: Copy) -> None:
    """Of records it is kept away before; and what lies beside them and belongs to none is not sealed at all."""
    secret = "ghp_" + "a1B2" * 9
    (copy.root / ".agents/logbooks/toy/notes.txt").write_text(secret)
    assert copy.sync().problems == () and not any("notes.txt" in name for name in copy.names(TAG))
    with (copy.root / ".agents/logbooks/toy.md").open("a") as file:
        file.write(f"\nThe token is {secret}.\n")
    notes.seal(copy.desk, ["TOY-002"])
    (problem,) = copy.seal().problems
    assert ".agents/logbooks/toy.md in " in problem and "looks like a secret" in problem and secret not in problem


def test_other_experiments_are_not_sealed(copy: Copy) -> None:
    """Of a measure function outside of the thread's folder it is the files that it runs; of one in another experiment's
    folder that folder, too."""
    for name in ("experiments/kernels.py", "experiments/other/idea.py", "experiments/shared/table.csv"):
        (copy.root / name).parent.mkdir(exist_ok=True)
        (copy.root / name).touch()
    desk = copy.desk
    measured = (
        bundle.MeasuredWith("experiments.kernels:measure", "", {"experiments/kernels.py": ""}),
        bundle.MeasuredWith("experiments.shared.kernels:measure", "", {}),
    )
    paths = contents.code_paths(desk.checkout, desk.series, measured)
    assert paths == ["experiments/kernels.py", "experiments/shared", "experiments/toy"]


def test_measured_code_behind_a_link_out_of_the_checkout_is_refused(copy: Copy) -> None:
    """Git would keep the link alone, and the tag would hold nothing of what was measured."""
    elsewhere = copy.root.parent / "elsewhere"
    (copy.root / "experiments" / "toy").rename(elsewhere)
    (copy.root / "experiments" / "toy").symlink_to(elsewhere)
    (problem,) = copy.seal().problems
    assert f"lies behind a symbolic link to {elsewhere}" in problem
    assert copy.git("tag", "--list") == ""


def test_what_is_named_by_its_hash_is_sealed_byte_for_byte(copy: Copy) -> None:
    """Whatever line ends git is told to keep, so that the tag agrees with itself."""
    (copy.root / ".gitattributes").write_text("* text=auto\n")
    table = copy.root.parent / "table.csv"
    table.write_bytes(b"a,b\r\n1,2\r\n")
    notes.attach(copy.desk, "TOY-002", table, "", "")
    assert copy.sync().problems == ()
    (name,) = [name for name in copy.names(TAG) if name.endswith("-table.csv")]
    assert git(copy.root, "cat-file", "blob", f"{TAG}:{name}") == table.read_bytes()
    verified = verify(copy.desk.checkout, "toy", copy.desk.journal)
    assert verified.problems == () and verified.tags == (TAG,)


def test_submodules_are_told_as_they_were_measured(copy: Copy) -> None:
    """Not as they are when it is sealed; and one that is not checked out is told to be so."""
    measured = copy.desk.scan().find("TOY-002")[0].record.provenance.commit
    inside = copy.git("rev-parse", f"{measured}:{CODE}/module").strip()
    copy.git("-C", f"{CODE}/module", "checkout", "--quiet", "HEAD^")
    copy.git("submodule", "--quiet", "deinit", "--force", "outside/module")
    assert copy.seal().problems == ()
    outside = copy.git("rev-parse", f"{measured}:outside/module").strip()
    assert bundle.read(copy.desk.checkout, TAG).submodules == {
        f"{CODE}/module": inside, "outside/module": f"not checked out, {outside}",
    }  # fmt: skip


def test_a_moved_submodule_is_told_by_its_patch(copy: Copy) -> None:
    """Its commit stands in what differed from the commit."""
    before = copy.git("rev-parse", f"HEAD:{CODE}/module").strip()
    copy.git("-C", f"{CODE}/module", "checkout", "--quiet", "HEAD^")
    now = copy.git("-C", f"{CODE}/module", "rev-parse", "HEAD").strip()
    patch, _ = copy.desk.checkout.patch()
    assert tags.gitlinks(copy.desk.checkout, "HEAD", b"")[f"{CODE}/module"] == before != now
    assert tags.gitlinks(copy.desk.checkout, "HEAD", patch)[f"{CODE}/module"] == now


def test_a_bundle_without_the_store_says_that_it_lists_no_packages(copy: Copy) -> None:
    """The list lies in that store alone; the rest is sealed."""
    shutil.rmtree(copy.store / "journal" / "toy" / "environments")
    assert copy.seal().problems == ()
    assert bundle.UNLISTED in bundle.read(copy.desk.checkout, TAG).elsewhere
    assert not any(name.endswith("requirements.txt") for name in copy.names(TAG))
    page = copy.git("cat-file", "blob", f"{TAG}:.agents/logbooks/toy/TOY-004.bundle.md")
    assert "requirements.txt" not in page and "Not in here: `a list of all installed packages`" in page


def test_a_withheld_patch_is_not_sealed_and_has_a_way_out(tmp_path: Path) -> None:
    """A secret in the work tree keeps its patch out of the records, so nobody could get the number again. Retracted, and
    measured again without the secret, by this run or one before, it is sealed, and the first request is forgotten."""
    repository = Repository(tmp_path / "checkout")
    (repository.experiment / "notes.txt").write_text("ghp_" + "a1B2" * 9)
    done = repository.run("--seal", "true")
    assert done.code == 0, done.output
    assert "TOY-004 is not sealed: the patch of TOY-001, TOY-002, TOY-003 was withheld for a secret" in done.output
    (repository.experiment / "notes.txt").write_text("harmless")
    refused = research(repository.root, "seal", "toy")
    assert refused.returncode == 1 and "was withheld for a secret" in refused.stderr
    for id in ("TOY-001", "TOY-002", "TOY-003"):
        assert research(repository.root, "retract", id, "a secret").returncode == 0
    done = repository.run()
    assert done.code == 0 and repository.git("tag", "--list") == "", done.output
    done = repository.run("--seal", "true")
    assert done.code == 0 and "not published" not in done.output, done.output
    (tag,) = repository.git("tag", "--list").split()
    patch = f".agents/logbooks/toy/{bundle.read(Checkout.find(repository.root), tag).patch}.patch"
    assert "+harmless" in repository.git("cat-file", "blob", f"{tag}:{patch}")
    assert f"Patch: [{patch[21:]}]({patch[21:]})" in repository.git(
        "cat-file", "blob", f"{tag}:{bundle.name_of('toy', tag[4:], 'bundle.md')}"
    )


def test_a_large_file_is_named_by_its_hash(copy: Copy) -> None:
    """Over a mebibyte it stays out of the commit; the bundle says where it lies, how large it is, and its SHA-256."""
    data = os.urandom((1 << 20) + 1)
    (copy.root / "experiments" / "toy" / "weights.bin").write_bytes(data)
    copy.git("-C", "experiments", "init", "--quiet", "toy/other")
    assert copy.seal().problems == ()
    assert "experiments/toy/weights.bin" not in copy.names(TAG)
    large, other = sorted(bundle.read(copy.desk.checkout, TAG).elsewhere, key=lambda file: file.where, reverse=True)
    assert (large.where, large.bytes, large.sha256) == ("experiments/toy/weights.bin", len(data), sha256(data))
    assert (other.where, other.why) == ("experiments/toy/other/", "a repository of its own, at commit None")


def test_a_lost_record_is_refused(copy: Copy) -> None:
    """A claim whose trials nobody has any more is not sealed; once they are there, it is."""
    path = copy.root / ".agents" / "logbooks" / "toy" / "TOY-002.jsonl"
    data = path.read_bytes()
    path.unlink()
    published = copy.seal()
    assert "TOY-002, TOY-002.01, TOY-002.02, which it rests on, is not beside the logbook" in published.problems[0]
    path.write_bytes(data)
    assert [change.what for change in copy.seal().done] == [f"sealed as {TAG}"]


@pytest.mark.parametrize("signed", ["tag", "commit", "both"])
def test_tag_and_commit_are_signed_where_git_is_told_to(copy: Copy, signed: str) -> None:
    """With a key that fails the sentence says so; once it works, the next sync signs."""
    key = copy.root.parent / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    (copy.root.parent / "signers").write_text(f"person@example.org {key.with_suffix('.pub').read_text()}")
    for name, value in {
        "gpg.format": "ssh", "user.signingKey": str(copy.root.parent / "none"),
        "gpg.ssh.allowedSignersFile": str(copy.root.parent / "signers"),
        "tag.gpgSign": str(signed != "commit").lower(), "commit.gpgSign": str(signed != "tag").lower(),
    }.items():  # fmt: skip
        copy.git("config", name, value)
    failed = copy.seal()
    assert failed.done == () and "TOY-004 is not sealed: git" in failed.problems[0]
    assert "none" in failed.problems[0]
    assert copy.git("tag", "--list") == ""
    copy.git("config", "user.signingKey", str(key))
    assert copy.seal().problems == ()
    if signed != "commit":
        copy.git("tag", "--verify", TAG)
    if signed != "tag":
        copy.git("verify-commit", f"{TAG}^{{commit}}")


@pytest.fixture
def remote(copy: Copy) -> Path:
    path = copy.root.parent / "remote.git"
    git(copy.root, "clone", "--quiet", "--bare", str(copy.root), str(path))
    copy.git("remote", "add", "origin", str(path))
    return path


def test_only_the_tag_is_pushed_and_only_where_that_is_allowed(copy: Copy, remote: Path) -> None:
    """No other branch or tag goes along, whatever is configured; pushed once, it is not pushed again."""
    copy.git("tag", "--annotate", "--message", "mine", "mine")
    copy.git("config", "push.followTags", "true")
    copy.git("config", "push.recurseSubmodules", "on-demand")
    copy.git("switch", "--quiet", "--create", BRANCH)
    before = git(remote, "for-each-ref").decode()
    assert [change.what for change in copy.seal().done] == [f"sealed as {TAG}", f"committed to {BRANCH}"]
    assert git(remote, "for-each-ref").decode() == before
    copy.git("config", "research.push", "true")
    assert [change.what for change in copy.seal().done] == [f"pushed {TAG} to {remote}"]
    pushed = set(git(remote, "for-each-ref").decode().splitlines()) - set(before.splitlines())
    assert [line.split("\t")[1] for line in pushed] == [f"refs/tags/{TAG}"]
    git(remote, "tag", "--delete", TAG)
    assert copy.seal() == Published()


def test_a_push_that_fails_is_told_and_tried_again(copy: Copy, remote: Path) -> None:
    """The tag is made; what the remote said stands in the sentence."""
    copy.git("config", "research.push", "true")
    hook = remote / "hooks" / "pre-receive"
    hook.write_text("#!/bin/sh\necho no tags here >&2\nexit 1\n")
    hook.chmod(0o755)
    failed = copy.seal()
    assert [change.what for change in failed.done] == [f"sealed as {TAG}"]
    assert f"TOY-004 is not pushed: its tag {TAG} is made here, and the remote did" in failed.problems[0]
    assert "no tags here" in failed.problems[0]
    hook.unlink()
    assert [change.what for change in copy.seal().done] == [f"pushed {TAG} to {remote}"]


def test_a_tag_of_the_remote_is_never_overwritten(copy: Copy, remote: Path) -> None:
    """Somebody else's tag of that name stays, and is told."""
    copy.git("config", "research.push", "true")
    git(remote, "update-ref", f"refs/tags/{TAG}", "main")
    before = git(remote, "for-each-ref")
    assert "has another one of that name" in copy.seal().problems[0]
    assert git(remote, "for-each-ref") == before


def test_a_tag_that_names_another_commit_is_told_and_stays(copy: Copy) -> None:
    """Whoever made it sees both commits, and what to do."""
    copy.git("tag", TAG, "HEAD")
    published = copy.seal()
    assert f"the tag {TAG} names" in published.problems[0] and "see who moved it" in published.problems[0]
    assert copy.git("rev-parse", TAG) == copy.git("rev-parse", "HEAD")
    copy.git("tag", "--delete", TAG)
    assert [change.what for change in copy.seal().done] == [f"sealed as {TAG}"]


def test_a_remote_that_gives_no_answer_is_waited_for_only_so_long(copy: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that takes the connection and says nothing."""
    monkeypatch.setattr(tags, "PATIENCE_S", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        copy.git("remote", "add", "origin", f"http://user:pa55word1@127.0.0.1:{server.getsockname()[1]}/x")
        copy.git("config", "research.push", "true")
        problem = copy.seal().problems[0]
        assert "git push in " in problem and "gave no answer in 1 s" in problem and "pa55word1" not in problem
        # What git has started for the connection ends, too, though the server keeps that open.
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and processes_about(f"@127.0.0.1:{server.getsockname()[1]}/x"):
            time.sleep(0.05)
        assert not processes_about(f"@127.0.0.1:{server.getsockname()[1]}/x")


def processes_about(words: str) -> list[str]:
    """The commands that run and name this."""
    commands = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            commands.append(path.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace"))
    return [line for line in commands if words in line]


@pytest.mark.parametrize(
    ("head", "when"),
    [
        ("main", "objects"),
        ("main", "decided"),
        *(("branch", when) for when in ("objects", "decided", "tagged", "index")),
    ],
)
def test_a_killed_seal_ends_with_one_tag_on_the_same_commit(copy: Copy, head: str, when: str, tmp_path: Path) -> None:
    """A git that kills the process that called it, before it makes the commit, the tag, the index or the branch."""
    if head == "branch":
        copy.git("switch", "--quiet", "--create", BRANCH)
    word = {"objects": "commit-tree", "decided": "tag", "tagged": "--index-info", "index": "update-ref"}[when]
    real = shutil.which("git")
    (tmp_path / "bin").mkdir()
    fake = tmp_path / "bin" / "git"
    fake.write_text(
        f'#!/bin/sh\nfor word; do [ "$word" = {word} ] && kill -KILL $PPID && exit 1; done\nexec {real} "$@"\n'
    )
    fake.chmod(0o755)
    killed = research(copy.root, "sync", "toy", "--prefix", str(copy.store), PATH=f"{fake.parent}:{os.environ['PATH']}")
    assert killed.returncode == -signal.SIGKILL, killed
    decided = copy.decided()
    published = copy.sync()
    assert published.problems == ()
    assert copy.git("tag", "--list").split() == [TAG]
    sealed = copy.git("rev-parse", f"{TAG}^{{commit}}").strip()
    assert (decided is None) == (when == "objects")
    assert decided is None or decided.commit == sealed
    assert copy.git("cat-file", "-t", TAG).strip() == "tag"
    assert (copy.git("rev-parse", "HEAD").strip() == sealed) == (head == "branch")
    shown = {line[3:] for line in copy.git("status", "--porcelain").splitlines()}
    assert head == "main" or shown <= {
        ".agents/logbooks/toy.md",
        ".agents/logbooks/toy/TOY-004.jsonl",
        ".agents/logbooks/toy/forest.svg",
        ".agents/issues/",
    }
    assert copy.sync() == Published()


def test_two_at_once_make_one_tag(copy: Copy) -> None:
    """Both publishers end well."""
    copy.git("switch", "--quiet", "--create", BRANCH)
    begin = Barrier(2)

    def sync() -> Published:
        begin.wait(20)
        return copy.sync()

    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(sync) for _ in range(2)]
        published = [future.result() for future in both]
    assert [result.problems for result in published] == [(), ()]
    done = [change.what for result in published for change in result.done]
    assert sorted(done) == ["appended to the logbook", f"committed to {BRANCH}", f"sealed as {TAG}"]


def test_a_second_seal_lies_on_top_of_the_first(copy: Copy) -> None:
    """On the branch the second commit follows the first and holds its bundle; its tag holds the first seal's entry."""
    copy.git("switch", "--quiet", "--create", BRANCH)
    assert copy.sync().problems == ()
    notes.seal(copy.desk, ["TOY-002"])
    assert copy.sync().problems == ()
    first, second = TAG, "toy/TOY-005"
    assert copy.git("rev-parse", f"{second}^{{commit}}^") == copy.git("rev-parse", f"{first}^{{commit}}")
    assert {".agents/logbooks/toy/TOY-004.bundle.json", ".agents/logbooks/toy/TOY-004.jsonl"} < copy.names(second).keys()
    assert notes.seal(copy.desk, ["TOY-002"]).record.id == "TOY-005", "the same seal twice is one"


def test_another_clone_with_the_same_store_seals_what_was_asked_for(copy: Copy) -> None:
    """Who asked may be gone; whoever syncs next makes the tag, and the first clone makes no other."""
    clone = copy.root.parent / "clone"
    git(copy.root, "clone", "--quiet", str(copy.root), str(clone))
    for name, value in (("user.name", "Another"), ("user.email", "another@example.org")):
        git(clone, "config", name, value)
    other = Copy(clone, copy.store)
    assert other.sync().problems == ()
    assert other.git("tag", "--list").split() == [TAG]
    assert copy.sync().problems == ()
    assert copy.git("tag", "--list") == ""
    copy.git("fetch", "--quiet", str(clone), f"refs/tags/{TAG}:refs/tags/{TAG}")
    assert copy.sync() == Published()


def test_a_seal_that_was_taken_back_can_be_asked_for_again(copy: Copy) -> None:
    """By the same words; it is another entry, and another tag."""
    assert copy.sync().problems == ()
    refused = research(copy.root, "retract", "TOY-004", "too early", "--prefix", str(copy.store))
    assert refused.returncode == 0, refused.stderr
    asked = notes.seal(copy.desk, ()).record.id
    assert asked == "TOY-006" == notes.seal(copy.desk, ()).record.id
    assert [change.what for change in copy.sync().done if "seal" in change.what] == ["sealed as toy/TOY-006"]


def test_a_commit_that_is_gone_before_it_has_a_tag_is_told(copy: Copy) -> None:
    """A key that fails, and git tidying up meanwhile: the seal is not forgotten in silence."""
    for name, value in (("gpg.format", "ssh"), ("user.signingKey", "/nowhere"), ("tag.gpgSign", "true")):
        copy.git("config", name, value)
    assert copy.seal().done == ()
    copy.git("config", "tag.gpgSign", "false")
    copy.git("prune", "--expire=now")
    (problem,) = copy.seal().problems
    assert problem.startswith("TOY-004 is not sealed: it was sealed here with commit ") and "is gone" in problem


def test_a_file_that_is_gone_leaves_a_branch_with_long_names(tmp_path: Path) -> None:
    """Of a repository whose objects are named by SHA-256."""
    git(tmp_path, "init", "--quiet", "--initial-branch=research/toy", "--object-format=sha256")
    (tmp_path / "gone").touch()
    (tmp_path / "kept").touch()
    git(tmp_path, "add", ".")
    identity = {f"GIT_{who}_{what}": "A" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    checkout = Checkout.find(tmp_path)
    checkout.git("commit", "--quiet", "--message", "both", env=identity)
    (tmp_path / "gone").unlink()
    head = checkout.head() or ""
    paths = tags.paths_below(checkout, head, ["gone", "kept"], ())
    tree = tags.make_tree(checkout, head, paths, {})
    commit = tags.make_commit(checkout, tree, head, "one", "1767225600 +0000")
    tags.put_on_branch(checkout, commit, BRANCH)
    assert checkout.head() == commit and git(tmp_path, "status", "--porcelain") == b""


def test_what_is_private_is_not_sealed(copy: Copy) -> None:
    """Neither asked for nor published."""
    desk = copy.desk
    series = dataclasses.replace(desk.series, private=True)
    with pytest.raises(RepositoryError, match="what is private is not sealed"):
        notes.seal(EntryWriter(desk.checkout, desk.journal, series), ())
    (problem,) = Sealer(desk.checkout, desk.journal, series).publish(desk.journal.entries(), True)
    assert isinstance(problem, str) and "private" in problem


def test_without_git_or_without_a_commit_there_is_nothing_to_seal(copy: Copy) -> None:
    """The sentence says what is missing; `research seal` asks for nothing that can't be done."""
    shutil.rmtree(copy.root / ".git")
    assert "has no git repository" in copy.seal().problems[0]
    refused = research(copy.root, "seal", "toy", "TOY-002", "--prefix", str(copy.store))
    assert refused.returncode == 1 and "has no git repository" in refused.stderr and "Traceback" not in refused.stderr
    copy.git("init", "--quiet")
    assert "has no commit to build on" in copy.seal().problems[0]


@pytest.mark.parametrize(("improvement", "holds"), [(0.1, True), (0.99, False)])
def test_the_stop_criterion_seals_by_itself(tmp_path: Path, improvement: float, holds: bool) -> None:
    """Without --seal, once a candidate improves as much as the series wants, with replicates; then nothing is new, until
    something of it is taken back."""
    repository = Repository(tmp_path / "checkout")
    # Times of its own, which no other load changes.
    repository.measure(MEASURE.replace("time.perf_counter() - start}", "config.work * random.uniform(1, 1.001)}"))
    repository.measure(
        (repository.experiment / "measure.py").read_text().replace("import os, time", "import os, random, time")
    )
    body = """
    base = steps.baseline(measure, Config())
    works = steps.sweep(base, ("work", [1000]), hypothesis="H1")
    steps.seal(steps.interpret(base, works, steps.replicate(works, n=3)))
"""
    main = MAIN.replace("{body}", body.strip("\n")).replace("import Hypothesis,", "import Hypothesis, Stop,")
    main = main.replace("floor_processes=1", f"floor_processes=2, stop_at=Stop({improvement})")
    main = main.replace('Metric("time_s", "min")', 'Metric("time_s", "min", timed=False)')
    (repository.experiment / "__main__.py").write_text(main)
    repository.commit()
    done = repository.run()
    assert done.code == 0, done.output
    assert ("the stop criterion holds" in done.output) == holds, done.output
    assert repository.git("tag", "--list").split() == (["toy/TOY-005"] if holds else [])
    if not holds:
        return
    done = repository.run()
    assert done.code == 0 and "nothing new" in done.output, done.output
    assert repository.git("tag", "--list").split() == ["toy/TOY-005"]
    assert research(repository.root, "retract", "TOY-003", "measured beside other load").returncode == 0
    done = repository.run()
    assert done.code == 0 and "the stop criterion holds" in done.output, done.output
    _, again = repository.git("tag", "--list").split()
    assert "TOY-003" not in {ref.id for ref in bundle.read(Checkout.find(repository.root), again).records}


def test_the_bundle_says_what_the_records_say(copy: Copy) -> None:
    """Commands, configurations, hardware, environment, packages, records with their hashes, and the comparison."""
    assert copy.seal().problems == ()
    sealed, known = bundle.read(copy.desk.checkout, TAG), copy.desk.scan()
    records = {**known.entries, **known.trials}
    assert {ref.sha256: ref.id for ref in sealed.records} == {
        sha: stored.record.id for sha, stored in records.items() if stored.record.id != "TOY-004"
    }
    trials = [stored.record for stored in known.trials.values()]
    assert sealed.commands == (bundle.SealedCommand("python -m experiments.toy", ("TOY-001", "TOY-002", "TOY-003")),)
    assert (sealed.commit, sealed.branch, sealed.python) == (
        trials[0].provenance.commit, "main", platform.python_version(),
    )  # fmt: skip
    assert sealed.packages == trials[0].provenance.packages and sealed.packages["research-steps"]
    assert sealed.environment == trials[0].provenance.env
    assert sealed.environment["XLA_FLAGS"] == "--xla_cpu_enable_fast_math=false"
    assert sealed.seeds["configurations"] == {"seed": [7]}
    (kind,) = sealed.hardware
    assert kind.device_class == trials[0].device_class and kind.hosts == (socket.gethostname(),)
    assert kind.devices == trials[0].devices
    (measured,) = sealed.measured
    assert measured.code == trials[0].code
    assert "experiments/toy/measure.py" in measured.files
    for name, sha in measured.files.items():
        assert sha256(copy.git("cat-file", "blob", f"{TAG}:{name}").encode()) == sha
    assert set(sealed.submodules) == {f"{CODE}/module", "outside/module"}
    assert sealed.series["goal"] == "see it run"
    claims = {claim.changes["work"]: claim for claim in known.find("TOY-002")[0].record.claims}
    text = copy.git("cat-file", "blob", f"{TAG}:.agents/logbooks/toy/TOY-004.table.csv")
    rows = {row["candidate"]: row for row in csv.DictReader(io.StringIO(text))}
    assert rows.keys() == {"work=1000", "work=4000"}
    for work, claim in claims.items():
        row = rows[f"work={work}"]
        assert float(row["estimate"]) == claim.estimate and row["verdict"] == claim.verdict
        assert row["trials"] == claim.trials[0].id and row["metric"] == "time_s"
    files = [copy.git("cat-file", "blob", f"{TAG}:{name}") for name in copy.names(TAG) if "/TOY-004." in name]
    assert len(files) == 4 and all(len(file) < 20_000 and SECRET not in file for file in files)


def test_the_page_and_the_message_can_be_read(copy: Copy) -> None:
    """What it found comes first, every link leads to a file of the tag, and the message says how to go on."""
    assert copy.seal().problems == ()
    page = copy.git("cat-file", "blob", f"{TAG}:.agents/logbooks/toy/TOY-004.bundle.md")
    assert page.startswith(f"# {TAG}\n\nGoal: see it run\n\n## What it found\n\n- work=")
    links = re.findall(r"\]\(([^)]*)\)", page)
    assert links and {f".agents/logbooks/toy/{link}" for link in links} <= copy.names(TAG).keys()
    for ref in bundle.read(copy.desk.checkout, TAG).records:
        assert ref.sha256 in page or "." in ref.id
    message = copy.git("for-each-ref", "--format=%(contents)", f"refs/tags/{TAG}")
    assert "What it found:\n- work=1000: time_s " in message and f"research reproduce {TAG}" in message
    assert "see it run" in message and "Rests on TOY-001, TOY-002, TOY-003; measured at commit" in message


def test_the_requirements_are_pinned(copy: Copy) -> None:
    """Every line is a requirement with its version or address, a path in the checkout, or a comment."""
    assert copy.seal().problems == ()
    text = copy.git("cat-file", "blob", f"{TAG}:.agents/logbooks/toy/TOY-004.requirements.txt")
    for line in text.splitlines():
        if not line.startswith(("#", "-e ./")):
            assert re.search("==| @ ", line) and Requirement(line)
    assert "numpy==" in text
