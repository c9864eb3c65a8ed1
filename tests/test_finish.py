"""A thread from its kickoff to its end, through the real executor, with a GitHub that keeps state."""

import re
from pathlib import Path

import pytest
from research_steps.actions import notes
from research_steps.errors import UsageError
from research_steps.publish.entry_writer import EntryWriter
from research_steps.publish.logbook import format as logbook_format
from research_steps.records.step_kinds import Finish

from tests.support import github_api
from tests.support.github_api import Proxy
from tests.support.hostile_text import assert_dead
from tests.support.issue_thread import environment
from tests.support.scratch_logbook import SERIES, git
from tests.support.sealed_logbook import SealedDesk
from tests.support.toy_thread import CONCLUSION, Repository, research

ENDS = Finish(worked="This.", did_not="This.", confidence="", limitations="This.", next_steps=("That.",))
PULL = "https://github.com/o/r/pull/7"


def test_a_thread_from_kickoff_to_its_end(
    tmp_path: Path, github_proxy: Proxy, github_repository: github_api.Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kickoff, a sealed run, a decision, the end: milestones in order on the issue, one final entry that agrees with the
    final comment, the body's conclusion, and the issue closed once; who opens it again is left alone. What the comments
    link and anchor is what git and the logbook hold."""
    for name, value in {**environment(github_proxy), "GITHUB_REPOSITORY": github_repository.full_name}.items():
        monkeypatch.setenv(name, value)
    repository = Repository(tmp_path)
    started = research(tmp_path, "kickoff", "toy", "--create-issue")
    assert started.returncode == 0, started.stderr
    (number,) = github_repository.issues()

    early = research(tmp_path, "finish", "toy", *CONCLUSION)
    assert early.returncode == 1
    assert "Missing: a sealed snapshot (run the thread with --seal true); a measured baseline." in early.stderr

    done = repository.run("--seal", "true")
    assert done.code == 0, done.output
    decided = ("decide", "toy", "Keep work=1000.", "--evidence", "TOY-003.01", "--production-pr", PULL)
    assert research(tmp_path, *decided).returncode == 0
    assert f"  ok   production PR: {PULL}\n" in research(tmp_path, "check", "toy", "--closing").stdout
    finished = research(tmp_path, "finish", "toy", *CONCLUSION, WANDB_MODE="offline")
    assert finished.returncode == 0, finished.stderr

    heads = [comment.body.splitlines()[2] for comment in github_repository.comments(number)]
    assert [head.split()[1] for head in heads] == ["TOY-002", "TOY-004", "TOY-005", "TOY-006", "TOY-007"]
    last = github_repository.comments(number)[-1].body
    issue = github_repository.issue(number)
    assert issue.state == "closed"
    for text in ("Do less work.", "Less work took less time.", "1. Try it at scale.", PULL):
        assert text in last and text in issue.body and text in repository.logbook.split("\n### ")[-1]
    assert_dead(last)
    assert_dead(issue.body)
    assert "`toy/TOY-005`" in last and "`toy/TOY-005`" in issue.body and "Keep work=1000." in issue.body
    assert git(tmp_path, "tag").split() == ["toy/TOY-005"]
    assert research(tmp_path, "verify", "toy").returncode == 0

    texts = [comment.body for comment in github_repository.comments(number)]
    chain = [entry.link for entry in logbook_format.parse(repository.logbook.encode()).entries]
    anchors = [re.findall(r"(?m)^<!-- research-steps chain (\w+) -->$", text) for text in texts]
    assert anchors == [[chain[at]] for at in (1, 3, 4, 5, 6)]
    pinned = re.findall(r"/(?:tree|blob)/([0-9a-f]{40})/([^)\s]+)\)", texts[2])
    assert {path.rpartition(".")[2] for _, path in pinned} == {"experiments/toy", "json", "md", "csv", "txt"}
    for commit, path in pinned:
        assert git(tmp_path, "rev-parse", "toy/TOY-005^{commit}").strip() == commit
        assert git(tmp_path, "cat-file", "-t", f"{commit}:{path}")
    assert "(once the tag is pushed)" in texts[2] and "TOY-002, TOY-003, TOY-004 by `python -m" in texts[2]

    github_repository.edit_issue(number, state="open")
    assert research(tmp_path, "finish", "toy", *CONCLUSION).returncode == 0
    assert research(tmp_path, "sync", "toy").returncode == 0
    assert github_repository.issue(number).state == "open"
    assert len(github_repository.comments(number)) == 5


def test_only_a_seal_that_stands_ends_a_thread(tmp_path: Path) -> None:
    """One that was taken back does not; one that another store has made and the logbook shows does."""
    desk = SealedDesk.make(tmp_path)
    desk.journal.declare(SERIES)
    desk.measured(step="baseline")
    desk.publish()
    tag = desk.seal()
    desk.commit()
    store = ("--prefix", str(desk.store))
    clone = desk.clone(tmp_path / "clone").with_store("empty")
    other = EntryWriter(clone.checkout, clone.journal, SERIES)
    assert notes.finish(other, "This.", ENDS).record.config["snapshot"] == tag
    assert research(desk.root, "retract", tag[4:], "too early", *store).returncode == 0
    with pytest.raises(UsageError, match=r"Missing: a sealed snapshot \(run the thread with --seal true\)\."):
        notes.finish(EntryWriter(desk.checkout, desk.journal, SERIES), "This.", ENDS)
