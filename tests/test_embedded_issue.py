"""The embedded issue in a real repository: whatever git takes away or damages there comes back from the records."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from research_steps.git import Checkout
from research_steps.journal.journal import Journal
from research_steps.journal.store import open_store
from research_steps.publish.issue.local_file import IssueFile

from tests.support.sealed_logbook import SealedDesk
from tests.support.toy_thread import research

NUMBER = 5


@pytest.fixture
def desk(tmp_path: Path) -> SealedDesk:
    """A desk whose milestones are posted, anchored and not committed."""
    made = SealedDesk.make(tmp_path)
    for number in range(NUMBER):
        made.measured(f"finding {number}", step="interpret", trials=0)
    assert made.publish().problems == ()
    assert made.checked().milestones == NUMBER
    return made


def shown(desk: SealedDesk) -> list[str]:
    return [comment.marker for comment in IssueFile(Checkout.find(desk.root), "toy").comments()]


def stash(desk: SealedDesk) -> None:
    desk.git("stash", "--quiet", "--include-untracked")


def reset(desk: SealedDesk) -> None:
    desk.git("add", "--all")
    desk.git("reset", "--quiet", "--hard")


def switch(desk: SealedDesk) -> None:
    desk.git("switch", "--quiet", "--create", "other")
    desk.commit()
    desk.git("switch", "--quiet", "main")


@pytest.mark.parametrize("take_away", [stash, reset, switch])
def test_what_git_takes_away_comes_back(desk: SealedDesk, take_away: Callable[[SealedDesk], None]) -> None:
    """Every milestone with its anchor, in order, by the same sync that brings the logbook back."""
    before = shown(desk), desk.issue.read_bytes()
    take_away(desk)
    assert not desk.issue.exists()
    assert desk.sync()[1].problems == ()
    assert (shown(desk), desk.issue.read_bytes()) == before
    checked = desk.checked()
    assert (checked.milestones, checked.problems) == (NUMBER, ())


def test_a_milestone_that_is_posted_late_stands_in_order(desk: SealedDesk) -> None:
    """By its number, and not at the end; what people wrote stays behind the update that it is about."""
    issue, in_order = IssueFile(desk.checkout, "toy"), shown(desk)
    for late in (issue.comments()[0], issue.comments()[3]):
        issue.delete(late)
    issue.post("Of the last one.\n")
    assert desk.sync()[1].problems == ()
    assert shown(desk) == [*in_order, ""]
    assert [comment.id for comment in issue.comments()] == list(range(1, NUMBER + 2))
    assert (desk.checked().milestones, desk.checked().problems) == (NUMBER, ())
    before = desk.issue.read_bytes()
    assert desk.sync()[1].problems == () and desk.issue.read_bytes() == before


def test_another_work_tree_shows_all_of_it(desk: SealedDesk, tmp_path: Path) -> None:
    """With the same store, as two branches side by side."""
    desk.git("worktree", "add", "--quiet", str(tmp_path / "beside"))
    beside = SealedDesk(tmp_path / "beside", desk.store)
    assert beside.publish().problems == ()
    assert shown(beside) == shown(desk)


def two_branches(desk: SealedDesk) -> tuple[str, str]:
    """Two branches, with a store each, that go on with one committed issue; returns what each posted last."""
    desk.commit()
    desk.git("switch", "--quiet", "--create", "theirs")
    other = desk.with_store("other")
    theirs = other.measured("of the other branch", step="interpret", trials=0).sha256
    assert other.publish().problems == ()
    desk.commit()
    desk.git("switch", "--quiet", "main")
    mine = desk.measured("of this branch", step="interpret", trials=0).sha256
    assert desk.publish().problems == ()
    desk.commit()
    return mine, theirs


@pytest.mark.parametrize("attribute", ["", ".agents/issues/*.md merge=union"], ids=["conflict", "union"])
def test_a_merge_of_two_branches_is_mended(tmp_path: Path, attribute: str) -> None:
    """Neither git's markers nor doubled or torn comments stay: verify and check tell of them, and sync makes the issue
    again from the records of both sides."""
    desk = SealedDesk.make(tmp_path, attribute)
    desk.measured("the first", step="interpret", trials=0)
    assert desk.publish().problems == ()
    mine, theirs = two_branches(desk)
    desk.merge("theirs")
    found = [problem for problem in desk.checked().problems if "issues/toy.md" in problem]
    assert found and found[0].endswith("'research sync toy' makes it again from the records"), found
    assert desk.sync()[1].problems == ()
    markers = shown(desk)
    assert len(set(markers)) == len(markers) == 3 and {f"record {mine}", f"record {theirs}"} <= {*markers}
    text = desk.issue.read_text()
    assert "<<<<<<<" not in text and "\n=======\n" not in text and text.count("## TL;DR") == 1
    assert desk.checked().problems == ()
    kept = (desk.root / ".git" / "research-steps" / "toy.issue.before-rebuild.md").read_text()
    assert "of this branch" in kept and "of the other branch" in kept


def test_what_people_wrote_stays_when_it_is_made_again(desk: SealedDesk) -> None:
    """A comment of theirs, and their part of the body."""
    issue = IssueFile(desk.checkout, "toy")
    issue.post("I would try H2 first.\n")
    issue.rewrite_body(lambda body: f"By hand.\n\n{body}")
    desk.issue.write_text(desk.issue.read_text() + f"<!-- research-steps comment 9 -->\n{issue.comments()[0].body}")
    assert desk.sync()[1].problems == ()
    text = desk.issue.read_text()
    assert text.startswith("By hand.\n") and text.count("I would try H2 first.") == 1
    assert desk.checked().milestones == NUMBER


def test_check_names_a_damaged_issue(desk: SealedDesk) -> None:
    """As the command does, with the store of the thread; and a milestone that is not there is pending."""
    Journal(open_store(str(desk.store)), "toy").declare(desk.surface.series)
    desk.issue.write_text(f"<<<<<<< HEAD\n{desk.issue.read_text()}")
    told = research(desk.root, "check", "toy", "--prefix", str(desk.store))
    assert "posts pending: 1: .agents/issues/toy.md has conflict markers of git" in told.stdout, told.stdout
    desk.issue.unlink()
    told = research(desk.root, "check", "toy", "--prefix", str(desk.store))
    assert f"posts pending: {NUMBER}: TOY-001" in told.stdout, told.stdout
    done = research(desk.root, "sync", "toy", "--prefix", str(desk.store))
    assert done.returncode == 0 and len(shown(desk)) == NUMBER, done.stderr
    assert subprocess.run(["grep", "-q", "<<<<<<<", str(desk.issue)]).returncode == 1
