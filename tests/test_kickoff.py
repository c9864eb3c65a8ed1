"""`research kickoff`, `decide` and `finish`, as a person types them, with a GitHub that keeps state."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from research_steps.git import Checkout
from research_steps.publish.issue.github import repository_of

from tests.support import github_api
from tests.support.github_api import Proxy, some
from tests.support.issue_thread import environment
from tests.support.scratch_logbook import Desk, git
from tests.support.toy_thread import research

SERIES = """
from research_steps import Hypothesis, Metric, Series, main

series = Series(
    topic="toy", prefix="TOY", goal="see it run", metrics=(Metric("time_s", "min"),), tags=("grug",), stop="after three",
    motivation="it is slow", problem="too much work", baseline_case="work=2000", matrix=("work 1000 and 4000",),
    code_paths=("experiments/toy",), references=("https://example.org/paper",),
    hypotheses=(Hypothesis("H1", "less work takes less time"),), {more}
)


def thread(steps):
    raise SystemExit("kickoff runs no thread")


if __name__ == "__main__":
    main(series, thread)
"""
TEMPLATE = Path(__file__).parents[1] / ".github" / "ISSUE_TEMPLATE" / "experiment.md"


class Project:
    """A repository with a thread, its GitHub, and the command."""

    def __init__(self, root: Path, proxy: Proxy, repository: github_api.Repository) -> None:
        self.root = root
        self.repository = repository
        self.environment = {**environment(proxy), "GITHUB_REPOSITORY": repository.full_name}
        (root / "experiments" / "toy").mkdir(parents=True)
        self.declare()
        (root / ".gitignore").write_text("local_store/\n__pycache__/\n")
        (root / ".github" / "ISSUE_TEMPLATE").mkdir(parents=True)
        (root / ".github" / "ISSUE_TEMPLATE" / "experiment.md").write_text(TEMPLATE.read_text())
        git(root, "init", "--quiet", "--initial-branch=main")
        git(root, "config", "user.name", "A Person")
        git(root, "config", "user.email", "person@example.org")
        git(root, "add", "--all")
        git(root, "commit", "--quiet", "--message", "start")

    def declare(self, more: str = "") -> None:
        (self.root / "experiments" / "toy" / "__main__.py").write_text(SERIES.replace("{more}", more))

    def research(self, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        return research(self.root, *arguments, **{**self.environment, **environment})

    @property
    def logbook(self) -> str:
        return (self.root / ".agents" / "logbooks" / "toy.md").read_text()


@pytest.fixture
def project(
    tmp_path: Path, github_proxy: Proxy, github_repository: github_api.Repository, monkeypatch: pytest.MonkeyPatch
) -> Project:
    monkeypatch.delenv("RESEARCH_ACTOR", raising=False)
    return Project(tmp_path / "checkout", github_proxy, github_repository)


def test_kickoff_starts_a_series(project: Project) -> None:
    """Branch, logbook, issue with labels, links both ways, and an entry that says why, what for and when to stop."""
    for label in ("experiment", "agent-generated", "other"):
        project.repository.create_label(label)
    done = project.research("kickoff", "toy", "--create-issue", "--json", RESEARCH_ACTOR="agent:climber")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["branch"] == "research/toy" == git(project.root, "branch", "--show-current").strip()
    (number,) = project.repository.issues()
    issue = project.repository.issue(number)
    assert answer["issue"].endswith(f"/{project.repository.full_name}/issues/{number}")
    assert issue.title == "Experiment: toy" and sorted(issue.labels) == ["agent-generated", "experiment"]
    assert ".agents/logbooks/toy.md" in issue.body and "<https://example.org/paper>" in issue.body
    assert "## Hypotheses and first experiment matrix" in issue.body, "the template's own sections stay"
    assert issue.body.count("## TL;DR") == 1 and "_One or two sentences" not in issue.body
    assert f"[{project.repository.full_name}#{number}]" in project.logbook
    for part in ("kickoff", "it is slow", "too much work", "H1: less work", "work 1000 and 4000", "after three",
                 "work=2000", f"#{number}", "research/toy", "https://example.org/paper", "time\\_s"):  # fmt: skip
        assert part in project.logbook.replace("time_s", "time\\_s"), part
    again = project.research("kickoff", "toy", "--create-issue")
    assert again.returncode == 0 and "nothing new" in again.stdout
    assert project.repository.issues() == [number] and project.repository.issue(number) == issue
    assert project.logbook.count("\n### ") == 1


def test_kickoff_with_nothing_configured(project: Project) -> None:
    """No token, no remote: the series starts all the same, with the embedded issue; it moves later, in order."""
    nothing = {"GITHUB_TOKEN": "", "GITHUB_REPOSITORY": ""}
    done = project.research("kickoff", "toy", **nothing)
    assert done.returncode == 0, done.stderr
    embedded = (project.root / ".agents" / "issues" / "toy.md").read_text()
    assert "## TL;DR" in embedded and ".agents/issues/toy.md" in project.logbook
    assert project.research("decide", "toy", "Go on with H1.", "--evidence", "TOY-001", **nothing).returncode == 0
    assert "Go on with H1." in (project.root / ".agents" / "issues" / "toy.md").read_text()
    number = project.repository.create_issue("ours", "by people\r\n")
    done = project.research("sync", "toy", "--issue", str(number))
    assert done.returncode == 0, done.stderr
    (comment,) = project.repository.comments(number)
    assert (
        "Go on with H1." in comment.body
        and "(evidence: TOY-001; owner: A Person)" in project.repository.issue(number).body
    )
    assert project.repository.issue(number).body.startswith("by people\r\n")
    assert f"#{number}" in project.logbook


def test_a_public_issue_is_never_made_unasked(project: Project) -> None:
    """Without a yes there is none, even with a token; and for a private series not even with one."""
    assert project.research("kickoff", "toy").returncode == 0
    assert project.repository.issues() == []
    project.declare("private=True")
    done = project.research("kickoff", "toy", "--create-issue", "--branch", ".", "--carry-changes")
    assert done.returncode == 1 and "is private: it gets no public issue" in done.stderr
    assert project.repository.issues() == []


def test_the_private_series_stays_at_home(project: Project) -> None:
    """Its logbook is there and git doesn't see it; there is no issue, embedded or not."""
    project.declare("private=True")
    git(project.root, "commit", "--quiet", "--all", "--message", "private")
    done = project.research("kickoff", "toy")
    assert done.returncode == 0, done.stderr
    assert "kickoff" in project.logbook
    assert git(project.root, "status", "--porcelain") == ""
    assert not (project.root / ".agents" / "issues").exists()
    hidden = Desk(project.root, project.root / "local_store").record("hidden", trials=1, private=True)
    (status,) = json.loads(project.research("status", "--json").stdout)
    assert status["unpublished"] == [hidden.record.id], "its logbook shows what is private"


def test_the_branch_is_the_users(project: Project) -> None:
    """A dirty tree is never switched unasked; changes go along when they may; a named or checked-out branch is taken."""
    (project.root / "new.py").write_text("1\n")
    refused = project.research("kickoff", "toy")
    assert refused.returncode == 1 and "has uncommitted changes" in refused.stderr
    assert git(project.root, "branch", "--show-current").strip() == "main"
    assert not (project.root / ".agents").exists()
    stays = project.research("kickoff", "toy", "--branch", ".", "--json")
    assert json.loads(stays.stdout)["branch"] == "main"
    carried = project.research("kickoff", "toy", "--branch", "research/me/12-toy", "--carry-changes", "--json")
    assert json.loads(carried.stdout)["branch"] == "research/me/12-toy"
    assert (project.root / "new.py").read_text() == "1\n"
    assert json.loads(project.research("kickoff", "toy", "--json").stdout)["branch"] == "research/me/12-toy"


def test_a_lost_answer_makes_no_second_issue(project: Project, github_proxy: Proxy) -> None:
    """The issue was made and nobody heard of it: the next kickoff finds it."""
    github_proxy.fault = some(github_api.reset(forward=True), "POST", r"/issues$")
    failed = project.research("kickoff", "toy", "--create-issue")
    assert failed.returncode == 1 and "did not answer" in failed.stderr
    assert project.research("kickoff", "toy", "--create-issue").returncode == 0
    assert len(project.repository.issues()) == 1


def test_a_list_that_lags_makes_no_second_issue(project: Project, github_proxy: Proxy) -> None:
    """The answer was lost, and the list doesn't show the issue yet: it is found by its number."""
    project.repository.create_issue("an older one")
    lagging = github_api.Answer(200, {"content-type": "application/json"}, b"")

    def without_the_newest(client: github_api.Client, answer: github_api.Answer) -> None:
        shown = [issue for issue in json.loads(answer.body) if issue["number"] == 1]
        client.send(dataclasses.replace(lagging, body=json.dumps(shown).encode()))

    lost = some(github_api.reset(forward=True), "POST", r"/issues$")
    lags = some(github_api.Fault("lags", True, without_the_newest), "GET", r"/issues\?", times=9)
    github_proxy.fault = lambda *request: lost(*request) or lags(*request)
    assert project.research("kickoff", "toy", "--create-issue").returncode == 1
    done = project.research("kickoff", "toy", "--create-issue", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["issue"].endswith("/issues/2") and project.repository.issues() == [1, 2]


def test_another_issue_takes_the_place_of_a_deleted_one(project: Project, github_proxy: Proxy) -> None:
    """GitHub says that it is gone: what to do is told, and every milestone is posted on the new one."""
    deleted, other = project.repository.create_issue("one"), project.repository.create_issue("other")
    assert project.research("kickoff", "toy", "--issue", str(deleted)).returncode == 0
    assert project.research("decide", "toy", "Go on with H1.").returncode == 0
    gone = json.dumps({"message": "This issue was deleted"}).encode()
    github_proxy.fault = lambda method, path, number: (
        github_api.Fault("410", False, lambda client, _: client.send(github_api.Answer(410, {}, gone)))
        if f"/issues/{deleted}" in path
        else None
    )
    stuck = project.research("sync", "toy")
    assert stuck.returncode == 1 and "'research sync TOPIC --issue N' links another one" in stuck.stderr
    done = project.research("sync", "toy", "--issue", str(other))
    assert done.returncode == 0, done.stderr
    assert "Go on with H1." in "".join(comment.body for comment in project.repository.comments(other))
    assert f"[{project.repository.full_name}#{other}]" in project.logbook
    assert project.research("sync", "toy").returncode == 0


def test_what_many_decide_at_once_is_posted_at_once(project: Project) -> None:
    """Each command waits for its turn on the issue; none leaves its decision to a later sync, or fails."""
    assert project.research("kickoff", "toy", "--create-issue").returncode == 0
    decisions = [f"Decision number {number}." for number in range(4)]
    environment = {**os.environ, "WANDB_MODE": "disabled", **project.environment}
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "research_steps", "decide", "toy", text],
            cwd=project.root,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for text in decisions
    ]
    told = [each.communicate()[1] for each in running]
    assert [each.returncode for each in running] == [0, 0, 0, 0], told
    (number,) = project.repository.issues()
    posted = "".join(comment.body for comment in project.repository.comments(number))
    assert [posted.count(f"Result delta: {text}") for text in decisions] == [1, 1, 1, 1]
    assert all(text in project.repository.issue(number).body for text in decisions)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("kickoff", "nope"), "There is no series 'nope'"),
        (("kickoff", "toy", "--issue", "99"), "there is no such issue"),
        (("kickoff", "toy", "--create-issue", "--repository", "no slash"), "expected owner/name"),
        (("decide", "toy", "yes", "--evidence", "TOY-009"), "is no record of this series"),
        (("decide", "toy", " "), "The decision is empty"),
        (("decide", "toy", "yes", "--production-pr", "number 7"), "'number 7' is no address"),
        (("finish", "toy"), "Missing: what worked (--worked); what did not"),
    ],
)
def test_bad_input_is_one_sentence(project: Project, arguments: tuple[str, ...], told: str) -> None:
    """What, where, what was expected; and nothing is lost."""
    assert project.research("kickoff", "toy").returncode == 0
    before = project.logbook
    done = project.research(*arguments)
    assert done.returncode == 1 and told in done.stderr and "Traceback" not in done.stderr
    assert project.logbook == before


def test_the_issue_can_not_be_changed(project: Project) -> None:
    """Comments can't be moved, so another number is refused with that reason."""
    number, other = project.repository.create_issue("one"), project.repository.create_issue("other")
    assert project.research("kickoff", "toy", "--issue", str(number)).returncode == 0
    done = project.research("sync", "toy", "--issue", str(other))
    assert done.returncode == 1 and "comments can't be moved" in done.stderr


@pytest.mark.parametrize(
    ("origin", "repository"),
    [
        ("git@github.com:o/r.git", "o/r"),
        ("https://github.com/o/r", "o/r"),
        ("https://x-token:abc@GitHub.com/o/r.git", "o/r"),
        ("ssh://git@github.com:22/o/r", "o/r"),
        ("ssh://git@ssh.github.com:443/o/r.git", "o/r"),
        ("github.com:o/r", "o/r"),
        ("git@gitlab.com:x@github.com/o/r", None),
        ("https://gitlab.com/o/r", None),
        ("/somewhere/local", None),
        ("https://github.com/../..", None),
    ],
)
def test_the_repository_is_read_off_the_remote(tmp_path: Path, origin: str, repository: str | None) -> None:
    """In each way that git lets it be spelled; another host's is none."""
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "remote", "add", "origin", origin)
    name = repository_of(Checkout.find(tmp_path))
    assert name == repository


def test_labels_that_failed_come_with_the_next_kickoff(project: Project, github_proxy: Proxy) -> None:
    """The issue is linked, the labels were refused: saying it again is enough."""
    project.repository.create_label("experiment")
    number = project.repository.create_issue("ours")
    github_proxy.fault = some(github_api.unavailable(502), "POST", r"/labels$")
    assert project.research("kickoff", "toy", "--issue", str(number)).returncode == 1
    assert project.repository.issue(number).labels == []
    assert project.research("kickoff", "toy", "--issue", str(number)).returncode == 0
    assert project.repository.issue(number).labels == ["experiment"]


def test_a_template_that_is_a_link_is_not_posted(project: Project, tmp_path: Path) -> None:
    """A commit of others could lead it to a private file: no issue is made of that."""
    (tmp_path / "private").write_text("a line of a private file")
    template = project.root / ".github" / "ISSUE_TEMPLATE" / "experiment.md"
    template.unlink()
    template.symlink_to(tmp_path / "private")
    done = project.research("kickoff", "toy", "--create-issue", "--carry-changes")
    assert done.returncode == 1 and "experiment.md is a symbolic link" in done.stderr
    assert project.repository.issues() == []


def test_a_fresh_clone_knows_the_issue_and_the_kickoff(project: Project, tmp_path: Path) -> None:
    """With an empty store the logbook still tells: no second issue, no second kickoff."""
    assert project.research("kickoff", "toy", "--create-issue").returncode == 0
    git(project.root, "add", "--all")
    git(project.root, "commit", "--quiet", "--message", "the logbook")
    git(tmp_path, "clone", "--quiet", "--branch", "research/toy", str(project.root), str(tmp_path / "clone"))
    project.root = tmp_path / "clone"
    done = project.research("kickoff", "toy", "--create-issue", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["entry"] == "TOY-001"
    assert len(project.repository.issues()) == 1


def test_a_colleagues_branch_is_followed_and_another_topics_is_not_taken(project: Project, tmp_path: Path) -> None:
    """In a clone the remote's research branch is taken up; the one of another series is left."""
    git(project.root, "switch", "--quiet", "--create", "research/toy")
    git(project.root, "commit", "--quiet", "--allow-empty", "--message", "their work")
    git(project.root, "switch", "--quiet", "main")
    git(tmp_path, "clone", "--quiet", str(project.root), str(tmp_path / "clone"))
    theirs = git(project.root, "rev-parse", "research/toy")
    project.root = tmp_path / "clone"
    git(project.root, "switch", "--quiet", "--create", "research/other")
    done = project.research("kickoff", "toy", "--json")
    assert json.loads(done.stdout)["branch"] == "research/toy", done.stderr
    assert git(project.root, "rev-parse", "HEAD") == theirs


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("series = (\n", "can't be imported: SyntaxError"),
        ("import nothing_of_this_name\n", "No module named 'nothing_of_this_name'"),
        ("raise ValueError('at import')\n", "can't be imported: ValueError: at import"),
        ("raise SystemExit(2)\n", "main(…) stands below if __name__"),
        ("x = 1\n", "declares 0 series"),
    ],
)
def test_a_thread_that_can_not_be_read_is_told(project: Project, text: str, told: str) -> None:
    """One sentence, no traceback, and nothing was switched, made or recorded."""
    (project.root / "experiments" / "toy" / "__main__.py").write_text(text)
    done = project.research("kickoff", "toy", "--carry-changes")
    assert done.returncode == 1 and told in done.stderr and "Traceback" not in done.stderr
    assert git(project.root, "branch", "--show-current").strip() == "main"
    assert not (project.root / "local_store").exists()


@pytest.mark.parametrize("variable", ["GITHUB_API_URL", "GITHUB_SERVER_URL"])
def test_a_bad_address_is_told_and_an_empty_one_is_none(project: Project, variable: str) -> None:
    """GitHub's own tools take an empty variable for one that isn't set."""
    assert project.research("kickoff", "toy", "--create-issue").returncode == 0
    done = project.research("decide", "toy", "Go on.", **{variable: "no address"})
    assert done.returncode == 1 and f"{variable} is 'no address'" in done.stderr and "Traceback" not in done.stderr
    assert project.research("sync", "toy", **({variable: ""} if variable == "GITHUB_SERVER_URL" else {})).returncode == 0


def test_what_rests_on_a_private_trial_is_private(project: Project) -> None:
    """A decision that cites a trial of a private sweep stays at home with it."""
    assert project.research("kickoff", "toy").returncode == 0
    desk = Desk(project.root, project.root / "local_store")
    private = desk.record("hidden", trials=1, private=True)
    trial = private.record.rows[0].trial.id
    assert project.research("decide", "toy", "Secretly so.", "--evidence", trial).returncode == 0
    assert "Secretly so." not in project.logbook + (project.root / ".agents" / "issues" / "toy.md").read_text()


def test_a_seal_that_was_never_made_is_none(project: Project) -> None:
    """The end needs a snapshot that a tag holds, and not one that was only asked for."""
    assert project.research("kickoff", "toy").returncode == 0
    desk = Desk(project.root, project.root / "local_store")
    desk.record("baseline", step="baseline")
    desk.record("seal", trials=0, step="seal", status="failed")
    parts = [word for part in ("worked", "did-not", "limitations", "next", "conclusion") for word in (f"--{part}", "x")]
    done = project.research("finish", "toy", *parts)
    assert done.returncode == 1 and "Missing: a sealed snapshot (run the thread with --seal true)." in done.stderr
