"""The experiment issue on GitHub: its comments, and whose turn it is to write."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from research_steps.journal.journal import Journal
from research_steps.publish.issue.body import IssueBody
from research_steps.publish.issue.comment import Comment
from research_steps.publish.issue.github import PAGE, GitHub, field
from research_steps.records.model import Owner
from research_steps.records.objects import IssueLink

_INSIDERS = ("OWNER", "MEMBER", "COLLABORATOR", None)


class GitHubIssue:
    """One issue. Keeps the comments that it has seen, and asks only for what may follow them.

    Each method raises SurfaceAway when it may work later, SurfaceError when somebody has to act.
    """

    def __init__(self, github: GitHub, journal: Journal, link: IssueLink) -> None:
        self.name = f"{link.repository}#{link.number}"
        self._github = github
        self._journal = journal
        self._path = f"/issues/{link.number}"
        self._body = IssueBody(github, journal, link)
        self._known: list[Comment] = []

    def turn(self) -> AbstractContextManager[Owner | None]:
        """Hold off other publishers inside the block; yields the one that is at it already, if any."""
        self._github.check()
        return self._journal.leases.of_publisher("issue")

    def comments(self) -> Sequence[Comment]:
        """All comments, oldest first, those included that came since this was last asked."""
        # Pages are counted from the start, so one that begins with a known comment shows whether all before it are
        # still there: its length is chosen so that it does.
        size = next(size for size in range(PAGE, 0, -1) if not self._known or len(self._known) % size)
        before = len(self._known) // size * size
        there = self._listed(size, before // size + 1)
        expected = [comment.id for comment in self._known[before:]]
        if [comment.id for comment in there[: len(expected)]] != expected:
            before, there = 0, self._listed()
        self._known[before:] = there
        return tuple(self._known)

    def _listed(self, size: int = PAGE, first: int = 1) -> list[Comment]:
        pages = self._github.pages(f"{self._path}/comments", size, first)
        # Where one more came to be shown between two pages, the next one begins with the last comment again.
        return list({comment.id: comment for comment in map(self._comment, pages)}.values())

    def post(self, body: str) -> Comment:
        comment = self._comment(self._github.write("POST", f"{self._path}/comments", {"body": body}))
        self._known.append(comment)
        return comment

    def delete(self, comment: Comment) -> None:
        self._github.write("DELETE", f"/issues/comments/{comment.id}")
        self._known = [other for other in self._known if other.id != comment.id]

    def rewrite_body(self, merged: Callable[[str], str]) -> None:
        self._body.rewrite(merged)

    def close(self) -> None:
        self._github.write("PATCH", self._path, {"state": "closed", "state_reason": "completed"})

    def _comment(self, item: Any) -> Comment:
        author = field(item, "user", dict | None) or {}
        comment = Comment(field(item, "id", int), field(item, "body", str), str(author.get("login", "")))
        # Whoever can read the logbook could write a comment that looks like a receipt.
        trusted = item.get("author_association") in _INSIDERS or comment.author.endswith("[bot]")
        if trusted or not comment.marker or comment.author == self._github.login:
            return comment
        return Comment(comment.id, comment.body, comment.author, outsider=True)
