"""Where a series has its logbook: in another checkout, as repositories of logbooks ask for, or in none."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from research_steps.errors import RepositoryError, UsageError
from research_steps.git import Checkout
from research_steps.journal.journal import Journal
from research_steps.journal.logbook_place import logbook_of, point_to, settle, topics_elsewhere
from research_steps.journal.store import open_store
from research_steps.publish.logbook.numbers import CheckoutNumbers
from research_steps.publish.logbook.surface import LogbookSurface
from research_steps.publish.logbook.verify import check, read
from research_steps.publish.publisher import publish
from research_steps.records.series import Series
from research_steps.seal import tags
from research_steps.seal.logbook_push import LogbookPush

from tests.support import git_server, github_api
from tests.support.github_api import Proxy
from tests.support.issue_thread import environment
from tests.support.scratch_logbook import SERIES, Desk, git
from tests.support.toy_thread import BODY, MAIN, Done, Repository, research

ELSEWHERE = "../marin-logbooks/marin"


@dataclass
class House:
    """A host repository with a thread, and beside it a checkout of the repository of its logbooks, which is served."""

    root: Path
    server: str
    host: Repository
    issues: github_api.Repository
    environment: dict[str, str]

    @property
    def logbooks(self) -> Path:
        return self.root / "marin-logbooks"

    def declare(self, policy: str) -> None:
        text = MAIN.replace("floor_processes=1,", f"floor_processes=1, {policy},").replace("{body}", BODY.strip("\n"))
        (self.host.experiment / "__main__.py").write_text(text)
        self.host.commit()

    def run(self, *arguments: str, **environment: str) -> Done:
        return self.host.run(*arguments, **{**self.environment, **environment})

    def research(self, *arguments: str, where: str = "marin", **environment: str) -> "subprocess.CompletedProcess[str]":
        return research(self.root / where, *arguments, **{**self.environment, **environment})

    def allow(self) -> None:
        git(self.logbooks, "config", "research.push", "true")

    def clone(self, name: str) -> Path:
        """Another checkout of the logbooks' repository."""
        git(self.root, "clone", "--quiet", f"{self.server}/community/marin-logbooks.git", name)
        for setting, value in (("user.name", "Another"), ("user.email", "another@example.org")):
            git(self.root / name, "config", setting, value)
        return self.root / name

    @property
    def remote_head(self) -> str:
        return git(self.root / "served" / "community" / "marin-logbooks.git", "rev-parse", "main").strip()


@pytest.fixture
def house(tmp_path: Path, github_proxy: Proxy, github_repository: github_api.Repository) -> Iterator[House]:
    served = tmp_path / "served" / "community" / "marin-logbooks.git"
    served.mkdir(parents=True)
    git(served, "init", "--quiet", "--bare", "--initial-branch=main")
    with git_server.serving(tmp_path / "served") as server:
        reached = {**environment(github_proxy), "GITHUB_REPOSITORY": github_repository.full_name}
        # The address of the page, whose host is that of the server.
        reached["GITHUB_SERVER_URL"] = "http://127.0.0.1"
        house = House(tmp_path, server, Repository(tmp_path / "marin"), github_repository, reached)
        house.declare(f'logbook="{ELSEWHERE}", agent_mark="🤖"')
        first = house.clone("marin-logbooks")
        (first / "marin").mkdir()
        (first / "marin" / "README.md").write_text("# Logbooks\n")
        (first / ".gitignore").write_text("*.jsonl\n")
        git(first, "add", "--all")
        git(first, "commit", "--quiet", "--message", "start")
        git(first, "push", "--quiet", "origin", "main")
        yield house


def test_a_thread_keeps_its_logbook_in_another_checkout(house: House) -> None:
    """It waits for the issue that its name begins with; then it is committed and pushed before a comment cites it, and
    everything works as with a logbook here. The host repository gets no file."""
    house.allow()
    done = house.run("--seal", "true", RESEARCH_ACTOR="agent:Tuner")
    assert done.code == 0, done.output
    assert "is named after its issue, and none is linked: 'research sync toy --issue NUMBER'" in done.output
    number = house.issues.create_issue("Experiment: toy", "")
    synced = house.research("sync", "toy", "--issue", str(number))
    assert synced.returncode == 0, synced.stderr
    assert f"toy: pushed marin/{number}-toy.md to {house.server}/community/marin-logbooks.git" in synced.stdout
    path = house.logbooks / "marin" / f"{number}-toy.md"
    text = path.read_text()
    front = text.partition("\n---\n")[0]
    for line in (f"issue: {number}", 'description: "see it run"', 'author: "Tuner"', "topic: toy", "prefix: TOY"):
        assert f"\n{line}" in front
    assert re.search(r"(?m)^### \d{4}-\d\d-\d\d \d\d:\d\d UTC - TOY-001 ", text)
    assert "\n- Source revision: `" in text and "\n- Hardware: `cpu/" in text and "\n- Evidence: records [" in text
    assert f"(marin/{number}-toy/TOY-001.jsonl)" not in text and f"({number}-toy/TOY-001.jsonl)" in text
    comments = [comment.body for comment in house.issues.comments(number)]
    cited = f"http://127.0.0.1/community/marin-logbooks/blob/{house.remote_head}/marin/{number}-toy.md"
    assert comments and all(cited in body and "\n🤖 Update: TOY-" in body for body in comments)
    assert f"[`marin/{number}-toy.md`]({cited})" in house.issues.issue(number).body
    assert git(house.logbooks, "status", "--porcelain") == ""
    held = git(house.logbooks, "ls-tree", "-r", "--name-only", "origin/main").splitlines()
    assert f"marin/{number}-toy/TOY-001.jsonl" in held and f"marin/{number}-toy/series.json" in held
    for command in (("verify", "toy"), ("show", "TOY-002"), ("check", "toy"), ("report", "toy")):
        done_too = house.research(*command)
        assert done_too.returncode == 0, (command, done_too.stdout, done_too.stderr)
    # The file that stood for the issue while none was linked.
    assert house.host.git("ls-files", "--others", "--exclude-standard") == ".agents/issues/toy.md\n"
    tag = house.host.git("tag", "--list").strip()
    sealed = house.host.git("ls-tree", "-r", "--name-only", tag).splitlines()
    assert {".agents/logbooks/toy.md", ".agents/logbooks/toy/TOY-001.jsonl"} <= set(sealed)
    again = house.run("--seal", "true")
    assert again.code == 0 and f"nothing new for {path}" in again.output, again.output


def test_nothing_is_committed_there_unless_allowed(house: House) -> None:
    """The logbook is written, and what is missing is told with the command that allows it."""
    before = house.remote_head
    number = house.issues.create_issue("Experiment: toy", "")
    assert house.run().code == 0
    assert house.research("sync", "toy", "--issue", str(number)).returncode == 0
    assert (house.logbooks / "marin" / f"{number}-toy.md").is_file() and house.remote_head == before
    assert git(house.logbooks, "rev-parse", "HEAD").strip() == before
    assert "(not pushed yet)" in house.issues.comments(number)[0].body
    told = house.research("sync", "toy", "--dry-run").stdout
    assert f"entries of the logbook not pushed: git -C {house.logbooks} config research.push true" in told


def test_a_checkout_that_nobody_told_writes_nowhere(house: House) -> None:
    """The store may be anybody's: it names no place to write. A person does, or the thread that is run."""
    number = house.issues.create_issue("Experiment: toy", "")
    assert house.run().code == 0
    assert house.research("sync", "toy", "--issue", str(number)).returncode == 0
    git(house.root, "clone", "--quiet", "marin", "work/marin")
    store = ("--prefix", str(house.host.root / "local_store"))
    synced = house.research("sync", "toy", *store, where="work/marin")
    assert synced.returncode == 1
    assert f"keeps its logbook in {ELSEWHERE}, which nobody has said here: run the thread, or" in synced.stderr
    assert not (house.root / "work" / "marin" / ".agents" / "logbooks").exists()
    missing = house.research("sync", "toy", "--logbook", "../marin-logbooks/marin", *store, where="work/marin")
    assert missing.returncode == 1 and "which is not there: clone that repository" in missing.stderr
    pointed = house.research("sync", "toy", "--logbook", str(house.logbooks / "marin"), *store, where="work/marin")
    assert pointed.returncode == 0, pointed.stderr
    assert "toy: nothing new" in pointed.stdout
    assert house.research("verify", "toy", *store, where="work/marin").returncode == 0
    shown = house.research("show", "TOY-001", where="work/marin")
    assert shown.returncode == 0, shown.stderr


def test_a_series_without_a_logbook(house: House) -> None:
    """Issue and W&B only: no repository holds a logbook, and records, claims, state, seal and verify work."""
    house.declare("logbook=None")
    number = house.issues.create_issue("Experiment: toy", "")
    kicked_off = house.research("kickoff", "toy", "--branch", ".", "--issue", str(number))
    assert kicked_off.returncode == 0, kicked_off.stderr
    done = house.run("--seal", "true")
    assert done.code == 0, done.output
    assert not (house.host.root / ".agents" / "logbooks").exists()
    assert house.host.git("ls-files", "--others", "--exclude-standard") == ""
    comments = [comment.body for comment in house.issues.comments(number)]
    assert comments and all("  - Logbook section: none; sealed tags hold the records" in body for body in comments)
    assert not any("research-steps chain" in body for body in comments)
    for command in (("verify", "toy"), ("status", "toy"), ("show", "TOY-002"), ("check", "toy")):
        told = house.research(*command)
        assert told.returncode == 0, (command, told.stdout, told.stderr)
    git(house.root, "clone", "--quiet", "marin", "work/marin")
    clone = house.research("verify", "toy", where="work/marin")
    assert clone.returncode == 0, (clone.stdout, clone.stderr)
    assert "there is no logbook .agents/logbooks/toy.md: only what the tags hold was checked" in clone.stdout
    tag = house.host.git("tag", "--list").strip()
    assert json.loads(house.host.git("show", f"{tag}:.agents/logbooks/toy/TOY-001.jsonl").splitlines()[0])


def test_what_was_sealed_from_another_checkout_is_measured_again(house: House) -> None:
    """A reproduction has the logbook of the tag, and writes to none."""
    number = house.issues.create_issue("Experiment: toy", "")
    assert house.run().code == 0
    assert house.research("sync", "toy", "--issue", str(number)).returncode == 0
    assert house.run("--seal", "true").code == 0
    before = (house.logbooks / "marin" / f"{number}-toy.md").read_bytes()
    tag = house.host.git("tag", "--list").strip()
    done = house.research("reproduce", tag, "--here")
    assert "TOY-005: appended to the logbook" in done.stdout, done.stderr
    after = (house.logbooks / "marin" / f"{number}-toy.md").read_bytes()
    assert after.startswith(before[:400]) and b"TOY-005 " in after, done.stderr


class Scratch:
    """A desk whose logbook lies in another checkout, without the executor."""

    def __init__(
        self, house: House, name: str = "desk", logbooks: str = "marin-logbooks", store: Path | None = None
    ) -> None:
        made = Desk.make(house.root / name)
        self.desk = Desk(made.root, store) if store else made
        folder = house.root / logbooks / "marin"
        self.series = Series(**{**{name: getattr(SERIES, name) for name in ("topic", "prefix", "goal", "metrics")},
                                "logbook": str(folder)})  # fmt: skip
        self.desk.journal.declare(self.series)
        self.path = folder / "12-toy.md"
        point_to(self.desk.checkout, self.series, self.path)

    def publish(self) -> tuple[list[str], tuple[str, ...]]:
        logbook = LogbookSurface(self.desk.checkout, self.desk.journal, self.series)
        push = LogbookPush(self.desk.checkout, self.series)
        published = publish(self.desk.journal, [push, logbook, push])
        return [done.what for done in published.done], published.problems


def test_others_push_meanwhile(house: House) -> None:
    """What they pushed is taken in, and what differs besides in that work tree stays as it is."""
    scratch = Scratch(house)
    house.allow()
    (house.logbooks / "notes.txt").write_text("mine\n")
    (house.logbooks / "staged.txt").write_text("staged\n")
    git(house.logbooks, "add", "staged.txt")
    other = house.clone("other")
    for number in range(3):
        scratch.desk.record(f"step {number}")
        (other / f"theirs-{number}.md").write_text("theirs\n")
        git(other, "add", "--all")
        git(other, "commit", "--quiet", "--message", "theirs")
        git(other, "pull", "--quiet", "--rebase")
        git(other, "push", "--quiet")
        done, problems = scratch.publish()
        assert problems == () and any("pushed marin/12-toy.md" in what for what in done), (done, problems)
        assert (house.logbooks / f"theirs-{number}.md").is_file()
    assert git(house.logbooks, "status", "--porcelain").splitlines() == ["A  staged.txt", "?? notes.txt"]
    held = git(house.logbooks, "ls-tree", "-r", "--name-only", "origin/main").splitlines()
    assert "marin/12-toy/TOY-003.jsonl" in held and "staged.txt" not in held
    assert git(house.logbooks, "show", "--stat", "--format=%s", "HEAD").startswith("Logbook of toy")
    assert scratch.publish() == ([], ())


def test_two_people_with_a_checkout_each(house: House) -> None:
    """What the other has pushed to the logbook meanwhile is put together with what is here, whoever comes second; what
    people wrote between entries stays."""
    mine, other = Scratch(house), house.clone("other-logbooks")
    theirs = Scratch(house, "their desk", "other-logbooks")
    house.allow()
    git(other, "config", "research.push", "true")
    for number in range(3):
        mine.desk.record(f"mine {number}")
        assert mine.publish()[1] == ()
        theirs.desk.record(f"theirs {number}")
        theirs.desk.record(f"theirs {number} too")
        assert theirs.publish()[1] == ()
        with (other / "marin" / "12-toy.md").open("a") as file:
            file.write(f"\nA remark of theirs, number {number}.\n")
        assert theirs.publish()[1] == ()
    assert mine.publish()[1] == () and house.remote_head == git(house.logbooks, "rev-parse", "HEAD").strip()
    assert theirs.publish()[1] == ()
    for scratch in (mine, theirs):
        text = scratch.path.read_text()
        labels = [name for number in range(3) for name in (f"mine {number}", f"theirs {number}", f"theirs {number} too")]
        assert [text.count(f" {label}\n") for label in labels] == [1] * 9
        assert [text.count(f"theirs, number {number}.") for number in range(3)] == [1, 1, 1]
        assert check(read(scratch.desk.checkout, "toy"), None).problems == []
    for folder in (house.logbooks, other):
        assert git(folder, "status", "--porcelain") == ""


def test_a_publisher_that_dies_while_it_puts_both_together(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries and remarks of both are there in the end."""
    mine, other = Scratch(house), house.clone("other-logbooks")
    theirs = Scratch(house, "their desk", "other-logbooks")
    house.allow()
    theirs.desk.record("theirs before")
    assert theirs.publish()[1] == ()
    git(other, "add", "--all")
    git(other, "commit", "--quiet", "--message", "by hand")
    git(other, "push", "--quiet")
    git(house.logbooks, "pull", "--quiet")
    git(other, "config", "research.push", "true")
    mine.desk.record("mine")
    assert mine.publish()[1] == ()
    with theirs.path.open("a") as file:
        file.write("\nA remark of theirs.\n")
    theirs.desk.record("theirs")
    quietly = Checkout.quietly

    def die(checkout: Checkout, *arguments: str, **options: Any) -> bytes:
        if arguments[0] == "merge":
            raise RepositoryError("killed")
        return quietly(checkout, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Checkout, "quietly", die)
        assert any("killed" in problem for problem in theirs.publish()[1])
    assert theirs.publish()[1] == () and mine.publish()[1] == ()
    for scratch in (mine, theirs):
        text = scratch.path.read_text()
        assert [text.count(line) for line in (" mine\n", " theirs\n", " theirs before\n", "A remark of theirs.")] == [
            1
        ] * 4
        assert check(read(scratch.desk.checkout, "toy"), None).problems == []


def test_two_people_with_one_store(house: House) -> None:
    """Who is merely behind takes in what the other pushed, and appends nothing twice."""
    mine, other = Scratch(house), house.clone("other-logbooks")
    theirs = Scratch(house, "their desk", "other-logbooks", mine.desk.store)
    house.allow()
    git(other, "config", "research.push", "true")
    for number in range(2):
        mine.desk.record(f"mine {number}")
        assert mine.publish()[1] == ()
        done, problems = theirs.publish()
        assert problems == () and done == []
    theirs.desk.record("theirs")
    assert theirs.publish()[1] == () and mine.publish()[1] == ()
    assert mine.path.read_bytes() == theirs.path.read_bytes() and mine.path.read_text().count("\n### ") == 3


def test_commits_of_a_person_are_not_pushed(house: House) -> None:
    """They are theirs to push; the logbook waits for that, and says so."""
    scratch = Scratch(house)
    house.allow()
    before = house.remote_head
    (house.logbooks / "draft.md").write_text("not yet\n")
    git(house.logbooks, "add", "--all")
    git(house.logbooks, "commit", "--quiet", "--message", "a draft")
    scratch.desk.record("a step")
    _, problems = scratch.publish()
    assert len(problems) == 1 and "has commits that origin lacks, and they are not ours to push" in problems[0]
    assert house.remote_head == before
    git(house.logbooks, "push", "--quiet")
    done, problems = scratch.publish()
    assert problems == () and done == [f"pushed marin/12-toy.md to {house.server}/community/marin-logbooks.git"]


def test_a_publisher_that_dies_once_the_remote_has_it(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one moves the branch to what was pushed, and goes on."""
    scratch = Scratch(house)
    house.allow()
    scratch.desk.record("a step")

    def die(*arguments: object) -> None:
        raise RepositoryError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(tags, "put_on_branch", die)
        _, problems = scratch.publish()
    assert len(problems) == 1 and house.remote_head != git(house.logbooks, "rev-parse", "HEAD").strip()
    scratch.desk.record("another step")
    _, problems = scratch.publish()
    assert problems == () and house.remote_head == git(house.logbooks, "rev-parse", "HEAD").strip(), problems
    assert git(house.logbooks, "status", "--porcelain") == ""


def test_a_push_that_is_refused_leaves_no_commit(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the remote's own rules refuse is told; the branch here stays where it was."""
    scratch = Scratch(house)
    house.allow()
    hook = house.root / "served" / "community" / "marin-logbooks.git" / "hooks" / "pre-receive"
    hook.write_text("#!/bin/sh\necho 'no logbooks on Mondays' >&2\nexit 1\n")
    hook.chmod(0o755)
    before = git(house.logbooks, "rev-parse", "HEAD")
    scratch.desk.record("a step")
    _, problems = scratch.publish()
    assert len(problems) == 1 and "no logbooks on Mondays" in problems[0]
    assert git(house.logbooks, "rev-parse", "HEAD") == before
    hook.unlink()
    assert scratch.publish()[1] == ()


def test_entries_that_only_the_remote_has_are_never_lost(house: House) -> None:
    """Where this work tree lost an entry that was pushed, it comes back."""
    scratch = Scratch(house)
    house.allow()
    scratch.desk.record("a step")
    assert scratch.publish()[1] == ()
    text = scratch.path.read_bytes()
    scratch.path.write_bytes(text[: text.index(b"<!-- research-steps entry")])
    assert publish(scratch.desk.journal, [LogbookPush(scratch.desk.checkout, scratch.series)]).problems == ()
    assert scratch.path.read_bytes() == text


def test_only_what_belongs_to_the_logbook_is_pushed(house: House) -> None:
    """Not what people wrote and nobody adopted, nor what lies beside it by chance; what they ignore stays ignored."""
    scratch = Scratch(house)
    house.allow()
    own = house.logbooks / "marin" / ".gitignore"
    own.write_text("secrets.txt\n*.jsonl\n")
    git(house.logbooks, "add", "--all")
    git(house.logbooks, "commit", "--quiet", "--message", "ignore")
    git(house.logbooks, "push", "--quiet")
    scratch.path.write_text("# toy, by hand\n")
    scratch.desk.record("a step")
    before = house.remote_head
    assert any("was written by hand" in problem for problem in scratch.publish()[1]) and house.remote_head == before
    scratch.path.write_text("")
    (house.logbooks / "marin" / "secrets.txt").write_text("mine\n")
    (house.logbooks / "marin" / "12-toy" / "scratch.bin").write_bytes(bytes(1000))
    assert scratch.publish()[1] == ()
    held = git(house.logbooks, "ls-tree", "-r", "--name-only", "origin/main").splitlines()
    assert "marin/12-toy/TOY-001.jsonl" in held and not any(name.endswith((".bin", "secrets.txt")) for name in held)
    assert own.read_text() == "secrets.txt\n*.jsonl\n"
    assert git(house.logbooks, "status", "--porcelain").splitlines() == ["?? marin/12-toy/scratch.bin"]


def test_the_logbook_of_another_series_is_left_alone(house: House) -> None:
    """Neither by its name nor because somebody names it."""
    scratch = Scratch(house)
    scratch.desk.record("a step")
    assert scratch.publish()[1] == ()
    other = replace(scratch.series, topic="other")
    for name in ("12-toy.md", "README.md"):
        with pytest.raises(UsageError, match=r"is no logbook of other: expected a file named other\.md"):
            point_to(scratch.desk.checkout, other, scratch.path.with_name(name))
    longer = Series("12-toy", "TWELVE", "another", SERIES.metrics, logbook=scratch.series.logbook)
    settle(scratch.desk.checkout, longer)
    surface = LogbookSurface(scratch.desk.checkout, Journal(scratch.desk.journal.store, "12-toy"), longer)
    before = scratch.path.read_bytes()
    told = publish(Journal(scratch.desk.journal.store, "12-toy"), [surface]).problems
    assert len(told) == 1 and scratch.path.read_bytes() == before, told


def test_a_first_run_where_the_folder_is_elsewhere(house: House) -> None:
    """What the message says to do works, though nothing was run before."""
    (house.root / "marin-logbooks").rename(house.root / "books of marin")
    done = house.run()
    assert done.code == 1 and "which is not there: clone that repository" in done.output, done.output
    pointed = house.research("sync", "toy", "--logbook", "../books of marin/marin", "--dry-run")
    assert pointed.returncode == 1
    pointed = house.research("sync", "toy", "--logbook", "../books of marin/marin")
    assert "holds no series" not in pointed.stderr
    done = house.run()
    assert done.code == 0, done.output


@pytest.mark.parametrize("policy", ["None", repr(ELSEWHERE)])
def test_a_seal_without_a_claim(house: House, policy: str) -> None:
    """There is nothing to draw yet, and it is sealed as elsewhere."""
    text = MAIN.replace("floor_processes=1,", f"floor_processes=1, logbook={policy},")
    body = "    steps.seal(steps.baseline(measure, Config()))"
    (house.host.experiment / "__main__.py").write_text(text.replace("{body}", body))
    house.host.commit()
    number = house.issues.create_issue("Experiment: toy", "")
    assert house.research("kickoff", "toy", "--branch", ".", "--issue", str(number)).returncode == 0
    done = house.run("--seal", "true")
    assert done.code == 0 and "KeyError" not in done.output, done.output
    assert house.host.git("tag", "--list").strip() == "toy/TOY-003", done.output


def test_a_logbook_that_is_gone_stops_no_other_series(house: House) -> None:
    """It is named, and the others are shown."""
    number = house.issues.create_issue("Experiment: toy", "")
    assert house.research("kickoff", "toy", "--branch", ".", "--issue", str(number)).returncode == 0
    journal = Journal(open_store(str(house.host.root / "local_store")), "other")
    journal.declare(Series("other", "OTH", "another", SERIES.metrics))
    assert house.research("log", "other", "seen").returncode == 0
    (house.root / "marin-logbooks").rename(house.root / "gone")
    for command in (("status",), ("show", "OTH-001")):
        done = house.research(*command)
        assert done.returncode == 0 and "skipped: The logbook of toy is kept in" in done.stderr, (command, done.stderr)
        assert "other" in done.stdout or "OTH-001" in done.stdout
    completed = house.research(_RESEARCH_COMPLETE="bash_complete", COMP_WORDS="research show OTH", COMP_CWORD="2")
    assert "OTH-001" in completed.stdout, completed.stderr
    assert house.research("sync", "toy", "--logbook", "../gone/marin").returncode == 0
    assert "skipped" not in house.research("status").stderr


def test_a_first_dev_trial_where_the_folder_is_elsewhere(house: House) -> None:
    """Dev mode says the same, and the same helps."""
    (house.root / "marin-logbooks").rename(house.root / "books")
    done = house.research("dev", "toy", "--set", "work=1000")
    assert done.returncode == 1 and "which is not there: clone that repository" in done.stderr, done.stderr
    assert "holds no series" not in house.research("sync", "toy", "--logbook", "../books/marin").stderr
    done = house.research("dev", "toy", "--set", "work=1000")
    assert done.returncode == 0, done.stderr


def test_both_checkouts_are_copied_together(house: House) -> None:
    """Each copy of the host has the logbook beside it."""
    assert house.run().code == 0
    shutil.copytree(house.root, house.root / "copy", ignore=shutil.ignore_patterns("served", "copy"))
    place = logbook_of(Checkout.find(house.root / "copy" / "marin"), "toy")
    assert place.path.is_relative_to(house.root / "copy" / "marin-logbooks")


def test_what_a_kill_left_of_a_note(house: House) -> None:
    """What was begun aside is not looked at; a note that can't be read is named."""
    scratch = Scratch(house)
    notes = scratch.desk.checkout.private / "logbook-places"
    (notes / ".toy.tmp").touch()
    assert topics_elsewhere(scratch.desk.checkout) == ["toy"]
    (notes / "toy").write_bytes(b"{")
    with pytest.raises(RepositoryError, match=r"can't be read .*: remove it, and run the thread of toy"):
        logbook_of(scratch.desk.checkout, "toy")


def test_two_host_checkouts_of_one_logbook_give_each_number_once(house: House) -> None:
    """Each has a store of its own, as work trees have; the numbers are the logbook's."""
    first, second = Scratch(house), Scratch(house, "second desk")
    ids = []
    for scratch in (first, second, second, first):
        numbers = CheckoutNumbers(scratch.desk.checkout, "toy", "TOY")
        ids.append(scratch.desk.journal.ids.reserve("TOY", f"step {len(ids)}", numbers))
    assert ids == ["TOY-001", "TOY-002", "TOY-003", "TOY-004"]


def test_a_fork_whose_branch_follows_another_remote(house: House) -> None:
    """What counts is where it was pushed."""
    scratch = Scratch(house)
    house.allow()
    git(house.logbooks, "remote", "add", "upstream", f"{house.server}/community/marin-logbooks.git")
    git(house.logbooks, "fetch", "--quiet", "upstream")
    git(house.logbooks, "branch", "--quiet", "--set-upstream-to", "upstream/main")
    scratch.desk.record("a step")
    assert scratch.publish()[1] == ()
    place = logbook_of(scratch.desk.checkout, "toy")
    assert place.pushed == house.remote_head


def test_a_private_logbook_in_another_checkout_is_ignored_there(house: House) -> None:
    """Whatever its folder is called."""
    (folder := house.logbooks / "marin [gpu]").mkdir()
    desk = Desk.make(house.root / "desk")
    series = Series("toy", "TOY", "see it", SERIES.metrics, private=True, logbook=str(folder))
    settle(desk.checkout, series)
    desk.record("a step")
    assert publish(desk.journal, [LogbookSurface(desk.checkout, desk.journal, series)]).problems == ()
    assert (folder / "toy.md").is_file() and git(house.logbooks, "status", "--porcelain") == ""


def test_a_folder_that_a_pull_made_a_link(house: House) -> None:
    """It leads to no other repository."""
    scratch = Scratch(house)
    shutil.rmtree(house.logbooks / "marin")
    git(house.root, "init", "--quiet", "precious")
    (house.logbooks / "marin").symlink_to(house.root / "precious")
    with pytest.raises(RepositoryError, match="is a symbolic link inside of a repository"):
        logbook_of(scratch.desk.checkout, "toy")


def test_a_link_that_others_committed_there_leads_nowhere(house: House) -> None:
    """A folder of that repository may be anybody's work: no symbolic link in it is followed."""
    scratch = Scratch(house)
    (house.root / "precious").mkdir()
    scratch.desk.record("a step")
    (house.logbooks / "marin" / "12-toy").symlink_to(house.root / "precious")
    with pytest.raises(RepositoryError, match="is a symbolic link, and a commit of others could have put it there"):
        logbook_of(scratch.desk.checkout, "toy")
    assert not any((house.root / "precious").iterdir())


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("nowhere/at/all", "which is not there: clone that repository"),
        ("marin/docs", "which is in this checkout, which keeps them in .agents/logbooks"),
        ("outside", "which is in no git repository"),
    ],
)
def test_a_place_that_can_not_be_is_told(house: House, place: str, told: str) -> None:
    (house.root / "outside").mkdir()
    (house.host.root / "docs").mkdir()
    house.declare(f'logbook="../{place}"')
    done = house.run()
    assert done.code == 1 and told in done.output, done.output
    assert house.host.measured == []


def test_several_logbooks_of_one_topic(house: House) -> None:
    """Which is meant is for a person to say; with Series(logbook=None) or here there is nothing to say."""
    scratch = Scratch(house)
    (scratch.desk.checkout.private / "logbook-places" / "toy").unlink()
    settle(scratch.desk.checkout, scratch.series)
    for name in ("12-toy.md", "13-toy.md"):
        (house.logbooks / "marin" / name).touch()
    with pytest.raises(UsageError, match=r"holds 2 logbooks of toy, 12-toy\.md and 13-toy\.md: 'research sync"):
        logbook_of(scratch.desk.checkout, "toy")
    point_to(scratch.desk.checkout, scratch.series, house.logbooks / "marin" / "12-toy.md")
    assert logbook_of(scratch.desk.checkout, "toy").path.name == "12-toy.md"
    with pytest.raises(UsageError, match="keeps its logbook in this checkout: expected one with"):
        point_to(scratch.desk.checkout, SERIES, house.logbooks / "marin")


def test_a_logbook_stays_where_it_was_begun(house: House) -> None:
    """Tags and comments name its entries, so the thread can't say another place from then on."""
    scratch = Scratch(house)
    scratch.desk.record("a step")
    assert scratch.publish()[1] == ()
    for series in (SERIES, replace(SERIES, logbook=None)):
        with pytest.raises(UsageError, match=r"its logbook was begun in .*12-toy\.md: it stays there"):
            settle(scratch.desk.checkout, series)
    desk = Desk.make(house.root / "another desk")
    desk.record("a step")
    desk.publish()
    with pytest.raises(UsageError, match=r"its logbook was begun in .*logbooks/toy\.md: it stays there"):
        settle(desk.checkout, scratch.series)


def test_without_a_repository_nothing_is_noted(tmp_path: Path) -> None:
    """A folder without git has its logbook in it."""
    assert logbook_of(Checkout.find(tmp_path), "toy").name == ".agents/logbooks/toy.md"
