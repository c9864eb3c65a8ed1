"""Kickoff: the branch, the issue and the W&B project of a series, and the entry that says how it started.

Making a public issue is a person's decision; everything here may be repeated, and finds what it made before.
"""

import re
import secrets
from collections.abc import Callable
from itertools import count

import msgspec

from research_steps.errors import SurfaceAway, SurfaceRefused, UsageError
from research_steps.files import read
from research_steps.git import Checkout
from research_steps.journal.journal import Journal
from research_steps.journal.leases import this_process
from research_steps.publish.issue.github import SETTLE_S, Clock, GitHub, check_repository, repository_of, web
from research_steps.publish.issue.linked_issue import linked_issue, may_post, named_in_logbook, permit
from research_steps.publish.issue.text import from_template
from research_steps.records.objects import IssueLink, Posting
from research_steps.records.series import Series
from research_steps.records.times import parse_utc, utc
from research_steps.trial.provenance import current_actor

# When making an issue was last tried.
LAST_TRY = "postings/new-issue"
TEMPLATE = ".github/ISSUE_TEMPLATE/experiment.md"
# Clocks differ: an issue that was made by an earlier try may say that it is a little older than the try (seconds).
CLOCKS_DIFFER_S = 600.0
NOT_FOUND, GONE = 404, 410


def take_branch(checkout: Checkout, topic: str, wanted: str, carry: Callable[[str], bool], dry_run: bool) -> str:
    """Be on the long-lived branch of the series, unless this is a `dry_run`, and return its name.

    '.' is the branch that is checked out; so is one that is a research branch already. `carry` is asked before a branch
    is switched with uncommitted changes, which go along.
    """
    if checkout.git_dir is None:
        raise UsageError(f"{checkout.root} is not in a git repository: run 'git init' and commit the thread first.")
    current = checkout.branch()
    if checkout.head() is None:
        raise UsageError(f"{checkout.root} has no commit yet: commit something first, then a branch can start from it.")
    if wanted == "." or (not wanted and current and _is_ours(current, topic)):
        if current is None:
            raise UsageError(f"No branch is checked out in {checkout.root}: name one with --branch.")
        return current
    branch = wanted or f"research/{topic}"
    if branch == current:
        return branch
    if checkout.is_dirty() and not carry(branch):
        raise UsageError(
            f"{checkout.root} has uncommitted changes: commit them, take them along to {branch} with --carry-changes, "
            "or stay on this branch with --branch ."
        )
    if not dry_run:
        checkout.switch(branch)
    return branch


def _is_ours(branch: str, topic: str) -> bool:
    """research/<topic>, or research/<user>/<issue>-<topic>."""
    return bool(re.fullmatch(rf"research/(?:[^/]+/)*(?:\d+-)?{re.escape(topic)}", branch))


def link_issue(
    checkout: Checkout, journal: Journal, series: Series, number: int | None, create: bool, repository: str
) -> IssueLink | None:
    """The issue of the series, linked for good once there is one, unless it was deleted: that with this number, or a new
    one that somebody agreed to. Raises UsageError, SurfaceError."""
    linked = linked_issue(checkout, journal)
    if number is None and not create:
        return linked
    if series.private:
        raise UsageError(f"Series {series.topic!r} is private: it gets no public issue.")
    deleted = linked is not None and number != linked.number and _is_deleted(checkout, series.topic, linked)
    if linked is not None and not deleted and number not in (None, linked.number):
        raise UsageError(
            f"Series {series.topic!r} has the issue {linked.repository}#{linked.number}, which can't be changed to "
            f"#{number}: comments can't be moved."
        )
    named = next(named_in_logbook(checkout, series.topic), None)
    if linked is None and number is None and named is not None:
        raise UsageError(
            f"The logbook of {series.topic} names the issue {named[0]}#{named[1]}, so no other is made: take that one "
            f"with --issue {named[1]} --repository {named[0]}, or take the line out."
        )
    if linked is None or deleted:
        linked = _link(checkout, journal, series, number, repository, deleted)
    # Who says only its number means one of their own repository.
    if repository.lower() != linked.repository.lower() and not may_post(checkout, series.topic, linked):
        raise UsageError(
            f"Series {series.topic!r} has the issue {linked.repository}#{linked.number}, which is not in the repository "
            f"of {checkout.root}: to post there all the same, say --repository {linked.repository}."
        )
    permit(checkout, series.topic, linked)
    _label(checkout, GitHub(linked.repository, Clock()), linked.number)
    return linked


def _is_deleted(checkout: Checkout, topic: str, link: IssueLink) -> bool:
    """Whether GitHub says so of an issue that it may be asked for from here."""
    if not may_post(checkout, topic, link):
        return False
    try:
        GitHub(link.repository, Clock()).get(f"/issues/{link.number}")
    except SurfaceRefused as error:
        if error.status != GONE:
            raise
        return True
    return False


def _link(
    checkout: Checkout, journal: Journal, series: Series, wanted: int | None, name: str, instead: bool
) -> IssueLink:
    repository = check_repository(name) if name else repository_of(checkout)
    if repository is None:
        raise UsageError(
            f"No GitHub repository is known for {checkout.root}: name it with --repository owner/name, or add a remote "
            "'origin' that is on GitHub."
        )
    # An address that can't be used is told before an issue is made.
    github, issues = GitHub(repository, Clock()), f"{web()}/{repository}/issues"
    with journal.leases.of_publisher("issue") as other:
        if other is not None:
            raise SurfaceAway(f"Process {other.pid} on {other.host} is at the issue of {series.topic}: try again.")
        number = wanted or _create(checkout, journal, series, github)
    # What it is, before anything is linked to it for good; so this needs a token.
    if github.get(f"/issues/{number}").get("pull_request"):
        raise UsageError(f"{repository}#{number} is a pull request: expected the number of an issue.")
    link = IssueLink(repository=repository, number=number, url=f"{issues}/{number}", linked_at=utc())
    if instead:
        # Nothing was decided that could still be held to.
        journal.note("issue", link)
        return link
    return journal.decide("issue", link)


def _label(checkout: Checkout, github: GitHub, number: int) -> None:
    """Give the issue the labels that it lacks and the repository has."""
    present = {label["name"] for label in github.get(f"/issues/{number}").get("labels", ())}
    labels = [name for name in _labels(checkout, github, []) if name not in present]
    if labels:
        github.write("POST", f"/issues/{number}/labels", {"labels": labels})


def _create(checkout: Checkout, journal: Journal, series: Series, github: GitHub) -> int:
    """Make the issue, unless an earlier try did."""
    wanted = Posting(marker=f"series {series.topic} {secrets.token_hex(8)}", tried_at=utc(), by=this_process())
    tried = journal.decide("issue-request", wanted)
    marker = f"<!-- research-steps {tried.marker} -->"
    last = journal.noted(LAST_TRY, Posting) or tried
    if tried != wanted:
        wait = parse_utc(last.tried_at).timestamp() + SETTLE_S - github.clock.now()
        if 0 < wait <= SETTLE_S:
            github.clock.sleep(wait)
        number = _made_before(github, marker, tried)
        if number is not None:
            return number
    template = (read(checkout.root / TEMPLATE) or b"").decode("utf-8", "replace")
    title, body, labels = from_template(template, series.topic)
    content = {"title": title, "body": f"{marker}\n{body}", "labels": _labels(checkout, github, labels)}
    journal.note(LAST_TRY, msgspec.structs.replace(tried, tried_at=utc()))
    number = github.write("POST", "/issues", content).get("number")
    if not isinstance(number, int):
        raise SurfaceAway("GitHub's answer names no issue: run 'research kickoff' again, which looks for it first.")
    return number


def _made_before(github: GitHub, marker: str, tried: Posting) -> int | None:
    oldest = parse_utc(tried.tried_at).timestamp() - CLOCKS_DIFFER_S
    newest = 0
    for issue in github.pages("/issues", state="all", sort="created", direction="desc"):
        if marker in (issue.get("body") or ""):
            return int(issue["number"])
        newest = max(newest, int(issue["number"]))
        if parse_utc(issue["created_at"]).timestamp() < oldest:
            break
    # A list may lack for a while what is there by its number; pull requests are counted along.
    for number in count(newest + 1):
        try:
            if marker in (github.get(f"/issues/{number}").get("body") or ""):
                return number
        except SurfaceRefused as error:
            if error.status == NOT_FOUND:
                return None
            if error.status != GONE:
                raise
    return None


def _labels(checkout: Checkout, github: GitHub, wanted: list[str]) -> list[str]:
    """The labels that the issue gets, as far as the repository has them."""
    agents = ["agent-generated"] if current_actor(checkout).kind == "agent" else []
    there = {label["name"] for label in github.pages("/labels")}
    return [name for name in dict.fromkeys((*wanted, "experiment", *agents)) if name in there]
