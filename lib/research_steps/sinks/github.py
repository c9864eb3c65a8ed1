"""The experiment issue on GitHub, through PyGithub, which only this module imports.

PyGithub carries authentication, transport and errors; its own retrying and pacing are off, because it would post a
comment twice whose answer was lost. What went wrong becomes one of two answers: later (SurfaceAway, with the time that
GitHub asked for), or not without a person (SurfaceError).
"""

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from research_steps.errors import SurfaceAway, SurfaceError, UsageError
from research_steps.git import Checkout
from research_steps.journal import Journal
from research_steps.record import IssueLink, Owner
from research_steps.sinks.tracker import Comment

TIMEOUT_S = 15
WRITE_EVERY_S = 1.0
PAGE = 100
# GitHub's advice for a limit that names no time.
UNTOLD_LIMIT_S = 60.0
# GitHub's `diff` of an edit holds the whole body after it; edits come newest first.
_EDITS = """query($owner: String!, $name: String!, $number: Int!) {
  repository(owner: $owner, name: $name) { issue(number: $number) { userContentEdits(first: 5) { nodes { diff } } } }
}"""
_REPOSITORY = re.compile(r"[A-Za-z0-9._-]+/[A-Za-z0-9._-]+")


class Clock(Protocol):
    """Time as the surface needs it, in seconds."""

    def now(self) -> float: ...

    def sleep(self, seconds: float) -> None: ...


class SystemClock:
    def now(self) -> float:
        return time.time()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


@dataclass(frozen=True)
class Access:
    """How GitHub is reached from here: what the environment says, in the variables that GitHub's own tools use."""

    token: str
    api: str
    web: str

    @staticmethod
    def from_environment() -> "Access":
        return Access(
            token=os.environ.get("GITHUB_TOKEN") or os.environ.get("GH_TOKEN") or "",
            api=os.environ.get("GITHUB_API_URL", "https://api.github.com").rstrip("/"),
            web=os.environ.get("GITHUB_SERVER_URL", "https://github.com").rstrip("/"),
        )

    def repository(self, checkout: Checkout) -> str | None:
        """The repository 'owner/name': GITHUB_REPOSITORY, else the remote 'origin' when that is on GitHub."""
        given = os.environ.get("GITHUB_REPOSITORY")
        if given:
            return check_repository(given)
        host = re.escape(self.web.rpartition("://")[2])
        found = re.search(
            rf"(?:@|//)(?:[^/@]*@)?{host}[:/]({_REPOSITORY.pattern}?)(?:\.git)?/?$", checkout.origin() or ""
        )
        return found[1] if found else None


def check_repository(name: str) -> str:
    """The name itself, once it is known to be 'owner/name'. Raises UsageError."""
    if not _REPOSITORY.fullmatch(name):
        raise UsageError(f"The repository {name!r} is not usable: expected owner/name, such as marin-community/marin.")
    return name


class GitHub:
    """One repository. `clock` paces the writes: at most one a second."""

    def __init__(self, access: Access, repository: str, clock: Clock) -> None:
        self.repository = repository
        self.clock = clock
        self._access = access
        # The process before this one may have written just now.
        self._wrote = clock.now()

    def get(self, path: str, **parameters: Any) -> Any:
        return self._call("GET", path, parameters)

    def pages(self, path: str, **parameters: Any) -> Iterator[Any]:
        """Everything that a listing holds, page by page."""
        number = 1
        while True:
            page = self.get(path, **parameters, per_page=PAGE, page=number)
            yield from _items(page)
            if len(page) < PAGE:
                return
            number += 1

    def write(self, verb: str, path: str, content: Mapping[str, Any] | None = None) -> Any:
        """Change something, once: nothing here tries it again."""
        wait = self._wrote + WRITE_EVERY_S - self.clock.now()
        if wait > 0:
            self.clock.sleep(wait)
        try:
            return self._call(verb, path, None, content)
        finally:
            self._wrote = self.clock.now()

    def edits(self, number: int) -> list[str]:
        """The last bodies of an issue, newest first; empty where GitHub tells none."""
        owner, _, name = self.repository.partition("/")
        variables = {"owner": owner, "name": name, "number": number}
        try:
            answer = self._asked(lambda: self._requester.graphql_query(_EDITS, variables)[1], "POST /graphql")
            nodes = answer["data"]["repository"]["issue"]["userContentEdits"]["nodes"]
            return [str(node["diff"]) for node in nodes]
        except (SurfaceError, LookupError, TypeError):
            # It is asked for safety only, and not every server or token has it.
            return []

    @cached_property
    def _requester(self) -> Any:
        try:
            import github
        except ImportError as error:
            raise SurfaceError("GitHub needs a library: pip install 'research-steps[github]'.") from error
        if not self._access.token:
            raise SurfaceError(f"{self.repository} can't be written to: neither GITHUB_TOKEN nor GH_TOKEN is set.")
        return github.Github(
            auth=github.Auth.Token(self._access.token),
            base_url=self._access.api,
            timeout=TIMEOUT_S,
            retry=None,
            seconds_between_requests=None,
            seconds_between_writes=None,
        ).requester

    def _call(self, verb: str, path: str, parameters: Any, content: Any = None) -> Any:
        requester = self._requester
        path = f"/repos/{self.repository}{path}"
        return self._asked(
            lambda: requester.requestJsonAndCheck(verb, path, parameters, None, content)[1], f"{verb} {path}"
        )

    def _asked(self, ask: Callable[[], Any], where: str) -> Any:
        import requests
        from github import GithubException

        try:
            return ask()
        except GithubException as error:
            raise _told(error.status, error.headers or {}, error.data, where, self.clock.now()) from error
        # A truncated answer is a TypeError or ValueError inside PyGithub.
        except (requests.RequestException, TypeError, ValueError) as error:
            raise SurfaceAway(f"GitHub did not answer {where}: {type(error).__name__}.") from error


class GitHubIssue:
    """One issue. Keeps the comments that it has seen, and asks only for what may follow them."""

    def __init__(self, github: GitHub, journal: Journal, link: IssueLink) -> None:
        self.name = f"{link.repository}#{link.number}"
        self._github = github
        self._journal = journal
        self._number = link.number
        self._path = f"/issues/{link.number}"
        self._known: list[Comment] = []

    def turn(self) -> AbstractContextManager[Owner | None]:
        return self._journal.turn("issue")

    def comments(self) -> Sequence[Comment]:
        # Pages are counted from the start, so one that begins with a known comment shows whether all before it are
        # still there: its length is chosen so that it does.
        size = next(size for size in range(PAGE, 0, -1) if not self._known or len(self._known) % size)
        number = len(self._known) // size + 1
        known = self._known[(number - 1) * size :]
        while True:
            page = [
                _comment(item) for item in _items(self._github.get(f"{self._path}/comments", per_page=size, page=number))
            ]
            if [comment.id for comment in page[: len(known)]] != [comment.id for comment in known]:
                self._known = [_comment(item) for item in self._github.pages(f"{self._path}/comments")]
                return tuple(self._known)
            self._known += page[len(known) :]
            if len(page) < size:
                return tuple(self._known)
            known, number = [], number + 1

    def post(self, body: str) -> None:
        found = _comment(self._github.write("POST", f"{self._path}/comments", {"body": body}))
        self._known.append(found)

    def delete(self, comment: Comment) -> None:
        self._github.write("DELETE", f"/issues/comments/{comment.id}")
        self._known = [one for one in self._known if one.id != comment.id]

    def body(self) -> str:
        return _field(self._github.get(self._path), "body", str | None) or ""

    def write_body(self, old: str, new: str) -> str | None:
        # GitHub writes unconditionally. What came between reading and writing can only be found afterwards.
        kept = _field(self._github.write("PATCH", self._path, {"body": new}), "body", str | None)
        if kept == old:
            raise SurfaceError(f"{self.name} kept its old body: it is too long with its managed sections; shorten it.")
        edits = [text.replace("\r\n", "\n") for text in self._github.edits(self._number)]
        if len(edits) < 2 or edits[0] != new.replace("\r\n", "\n") or edits[1] == old.replace("\r\n", "\n"):
            return None
        return edits[1]

    def close(self) -> None:
        self._github.write("PATCH", self._path, {"state": "closed", "state_reason": "completed"})


def _comment(item: Any) -> Comment:
    return Comment(id=_field(item, "id", int), body=_field(item, "body", str))


def _items(page: Any) -> list[Any]:
    if not isinstance(page, list):
        raise SurfaceAway(f"GitHub answered a listing with {type(page).__name__}, expected a list.")
    return page


def _field(item: Any, name: str, kind: Any) -> Any:
    value = item.get(name) if isinstance(item, dict) else None
    if not isinstance(value, kind):
        raise SurfaceAway(
            f"GitHub's answer has {name!r} as {type(value).__name__}: it is cut off, or no answer of GitHub's."
        )
    return value


def _told(status: int, headers: Mapping[str, Any], data: Any, where: str, now: float) -> SurfaceError:
    """What a refusal means: when to come back, or that somebody has to act."""
    said = str(data.get("message", "")) if isinstance(data, dict) else ""
    lower = {name.lower(): str(value) for name, value in headers.items()}
    spent = lower.get("x-ratelimit-remaining") == "0"
    if status == 429 or (status == 403 and ("retry-after" in lower or spent or "rate limit" in said.lower())):
        after = UNTOLD_LIMIT_S
        if lower.get("retry-after", "").isdigit():
            after = float(lower["retry-after"])
        elif spent and lower.get("x-ratelimit-reset", "").isdigit():
            after = max(float(lower["x-ratelimit-reset"]) - now, 1.0)
        return SurfaceAway(f"GitHub asks to wait {after:.0f} s ({status} to {where}).", after)
    if status >= 500 or status == 408:
        return SurfaceAway(f"GitHub failed with {status} to {where}.")
    act = {
        401: "the token is not accepted: set GITHUB_TOKEN to one that is valid",
        403: "the token may not do that: it needs write access to issues",
        404: "there is no such issue or repository, or the token may not see it",
        410: "the issue was deleted, or issues are switched off",
    }.get(status, "it does not take what it was sent")
    return SurfaceError(f"GitHub answered {status} to {where}: {act}{f' ({said})' if said else ''}.")
