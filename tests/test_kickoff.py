"""`research kickoff`, `decide` and `finish`, as a person types them, with a GitHub that keeps state."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import github_api
from tests.github_api import Proxy, some
from tests.issues import environment
from tests.logbooks import git

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
        self.environment = {**os.environ, **environment(proxy), "GITHUB_REPOSITORY": repository.full_name}
        self.environment.pop("RESEARCH_ACTOR", None)
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
        command = [sys.executable, "-m", "research_steps", *arguments]
        return subprocess.run(
            command, cwd=self.root, env={**self.environment, **environment}, capture_output=True, text=True,
            stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip

    @property
    def logbook(self) -> str:
        return (self.root / ".agents" / "logbooks" / "toy.md").read_text()


@pytest.fixture
def project(tmp_path: Path, github_proxy: Proxy, github_repository: github_api.Repository) -> Iterator[Project]:
    yield Project(tmp_path / "checkout", github_proxy, github_repository)


def test_kickoff_starts_a_series(project: Project) -> None:
    """Branch, logbook, issue with labels, links both ways, and an entry that says why, what for and when to stop."""
    for label in ("experiment", "agent-generated", "other"):
        project.repository.create_label(label)
    done = project.research("kickoff", "toy", "--create-issue", "--json", RESEARCH_ACTOR="agent:climber")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["branch"] == "research/toy" == git(project.root, "branch", "--show-current").strip()
    (number,) = project.repository.issues()
    issue = project.repository.issue(number)
    assert found["issue"].endswith(f"/{project.repository.full_name}/issues/{number}")
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


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("kickoff", "nope"), "There is no thread experiments/nope/__main__.py"),
        (("kickoff", "toy", "--issue", "99"), "there is no such issue"),
        (("kickoff", "toy", "--create-issue", "--repository", "no slash"), "expected owner/name"),
        (("decide", "toy", "yes", "--evidence", "TOY-009"), "is no record of this series"),
        (("decide", "toy", " "), "The decision is empty"),
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
    one, other = project.repository.create_issue("one"), project.repository.create_issue("other")
    assert project.research("kickoff", "toy", "--issue", str(one)).returncode == 0
    done = project.research("sync", "toy", "--issue", str(other))
    assert done.returncode == 1 and "comments can't be moved" in done.stderr
