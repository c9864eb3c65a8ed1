"""The experiment issue on GitHub, through PyGithub, which only this module imports.

PyGithub carries authentication, transport and errors; its own retrying and pacing are off, because it would post a
comment twice whose answer was lost. What went wrong becomes one of two answers: later (SurfaceAway, with the time that
GitHub asked for), or not without a person (SurfaceError).
"""

import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
from contextlib import AbstractContextManager
from functools import cached_property, partial
from itertools import count
from typing import Any
from urllib.parse import urlsplit

from research_steps.errors import SurfaceAway, SurfaceError, UsageError
from research_steps.git import Checkout
from research_steps.journal.journal import Journal
from research_steps.publish.issue.comment import Comment
from research_steps.records.model import Owner
from research_steps.records.names import REPOSITORY
from research_steps.records.objects import IssueLink

# How long one read may take, and how long a whole answer (seconds).
TIMEOUT_S, DEADLINE_S = 10, 20
WRITE_EVERY_S = 1.0
PAGE = 100
# GitHub's advice for a limit that names no time.
UNTOLD_LIMIT_S = 60.0
# GitHub's `diff` of an edit holds the whole body after it; edits come newest first.
_EDITS = """query($owner: String!, $name: String!, $number: Int!) {
  repository(owner: $owner, name: $name) { issue(number: $number) { userContentEdits(first: 5) { nodes { diff } } } }
}"""
_INSIDERS = ("OWNER", "MEMBER", "COLLABORATOR", None)


class Clock:
    """Time as the surface needs it, in seconds; benchmarks and tests give it one that nobody has to wait for."""

    def now(self) -> float:
        return time.time()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


def web() -> str:
    """Where people read what is on GitHub: this and more is told by the variables that its own tools use."""
    return _address("GITHUB_SERVER_URL", "https://github.com")


def repository_of(checkout: Checkout) -> str | None:
    """The repository 'owner/name': GITHUB_REPOSITORY, else the remote 'origin' when that is on GitHub."""
    configured = os.environ.get("GITHUB_REPOSITORY")
    if configured:
        return check_repository(configured)
    # 'git@host:owner/name' is an address without a scheme.
    origin = checkout.origin() or ""
    address = urlsplit(origin if "://" in origin else f"ssh://{origin.replace(':', '/', 1)}")
    hosts = tuple(f"{before}{urlsplit(web()).hostname}" for before in ("", "www.", "ssh."))
    name = address.path.strip("/").removesuffix(".git")
    return name if address.hostname in hosts and re.fullmatch(REPOSITORY, name) else None


def check_repository(name: str) -> str:
    """The name itself, once it is known to be 'owner/name'. Raises UsageError."""
    if not re.fullmatch(REPOSITORY, name):
        raise UsageError(f"The repository {name!r} is not usable: expected owner/name, such as marin-community/marin.")
    return name


def _address(variable: str, default: str) -> str:
    address = os.environ.get(variable) or default
    if urlsplit(address).scheme not in ("http", "https") or not urlsplit(address).hostname:
        raise SurfaceError(f"{variable} is {address!r}: expected an address such as {default}.")
    return address.rstrip("/")


class GitHub:
    """One repository. `clock` paces the writes: at most one a second."""

    def __init__(self, repository: str, clock: Clock) -> None:
        self.repository = repository
        self.clock = clock
        self._api = _address("GITHUB_API_URL", "https://api.github.com")
        self._token = (os.environ.get("GITHUB_TOKEN") or os.environ.get("GH_TOKEN") or "").strip()
        # The process before this one may have written just now.
        self._wrote = clock.now()

    def get(self, path: str, **parameters: Any) -> Any:
        return self._ask("GET", f"/repos/{self._name}{path}", parameters)

    def pages(self, path: str, size: int = PAGE, first: int = 1, **parameters: Any) -> Iterator[Any]:
        """Everything that a listing holds, page by page from the first one that is wanted."""
        for number in count(first):
            page = self.get(path, **parameters, per_page=size, page=number)
            if not isinstance(page, list):
                raise SurfaceAway(f"GitHub answered a listing with {type(page).__name__}, expected a list.")
            yield from page
            if len(page) < size:
                return

    def write(self, verb: str, path: str, content: Mapping[str, Any] | None = None) -> Any:
        """Change something, once: nothing here tries it again."""
        # A clock that was set back is no reason to wait for longer.
        wait = min(self._wrote + WRITE_EVERY_S - self.clock.now(), WRITE_EVERY_S)
        if wait > 0:
            self.clock.sleep(wait)
        try:
            return self._ask(verb, f"/repos/{self._name}{path}", None, content)
        finally:
            self._wrote = self.clock.now()

    def edits(self, number: int) -> list[str]:
        """The last bodies of an issue, newest first; empty where GitHub tells none."""
        owner, _, name = self._name.partition("/")
        variables = {"owner": owner, "name": name, "number": number}
        try:
            answer = self._answer(partial(self._requester.graphql_query, _EDITS, variables), "POST /graphql")
            nodes = answer["data"]["repository"]["issue"]["userContentEdits"]["nodes"]
            return [str(node["diff"]) for node in nodes]
        except SurfaceAway:
            raise
        except (SurfaceError, LookupError, TypeError):
            # Not every server has a history, and not every token may read it.
            return []

    def check(self) -> None:
        """Raise SurfaceError when there is no token that could be used."""
        token = self._token
        if not token:
            raise SurfaceError(f"{self.repository} can't be written to: neither GITHUB_TOKEN nor GH_TOKEN is set.")
        if not (token.isascii() and token.isprintable()) or " " in token:
            raise SurfaceError("The token in GITHUB_TOKEN or GH_TOKEN is none: it has spaces or signs that none has.")

    @cached_property
    def _name(self) -> str:
        """The repository's name now: under an old one GitHub redirects, and pages and writes get lost on the way."""
        return str(_field(self._ask("GET", f"/repos/{self.repository}"), "full_name", str))

    @cached_property
    def _requester(self) -> Any:
        try:
            import github
        except ImportError as error:
            raise SurfaceError("GitHub needs a library: pip install 'research-steps[github]'.") from error
        self.check()
        return github.Github(
            auth=github.Auth.Token(self._token),
            base_url=self._api,
            timeout=TIMEOUT_S,
            retry=None,
            seconds_between_requests=None,
            seconds_between_writes=None,
        ).requester

    def _ask(self, verb: str, path: str, parameters: Any = None, content: Any = None) -> Any:
        request = partial(self._requester.requestJsonAndCheck, verb, path, parameters, None, content)
        return self._answer(request, f"{verb} {path}")

    def _answer(self, ask: Callable[[], tuple[Any, Any]], where: str) -> Any:
        """What GitHub answers, within the deadline: a timeout bounds each read only, and an answer may come in drops."""
        import requests
        from github import GithubException

        answer: futures.Future[Any] = futures.Future()

        def run() -> None:
            try:
                answer.set_result(ask()[1])
            except Exception as error:  # noqa: BLE001  # raised again below
                answer.set_exception(error)

        threading.Thread(target=run, daemon=True, name="research-github").start()
        if not futures.wait([answer], DEADLINE_S).done:
            # The connection is still being read from: the next request has one of its own.
            self.__dict__.pop("_requester", None)
            raise SurfaceAway(f"GitHub had not answered {where} whole after {DEADLINE_S} s.")
        try:
            return answer.result()
        except GithubException as error:
            raise _refusal(error.status, error.headers or {}, error.data, where, self.clock.now()) from error
        # A truncated answer is a TypeError or ValueError inside PyGithub, a redirection elsewhere one of the others.
        except (requests.RequestException, TypeError, ValueError, RuntimeError, AssertionError) as error:
            raise SurfaceAway(f"GitHub did not answer {where}: {type(error).__name__}.") from error


class GitHubIssue:
    """One issue. Keeps the comments that it has seen, and asks only for what may follow them.

    Each method raises SurfaceAway when it may work later, SurfaceError when somebody has to act.
    """

    def __init__(self, github: GitHub, journal: Journal, link: IssueLink) -> None:
        self.name = f"{link.repository}#{link.number}"
        self._github = github
        self._journal = journal
        self._number = link.number
        self._path = f"/issues/{link.number}"
        self._known: list[Comment] = []
        # What the last write of the body replaced, until it is known that nothing came in between, and what it left.
        self._replaced: str | None = None
        self._written = ""

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
        return [_comment(item) for item in self._github.pages(f"{self._path}/comments", size, first)]

    def post(self, body: str) -> Comment:
        comment = _comment(self._github.write("POST", f"{self._path}/comments", {"body": body}))
        self._known.append(comment)
        return comment

    def delete(self, comment: Comment) -> None:
        self._github.write("DELETE", f"/issues/comments/{comment.id}")
        self._known = [other for other in self._known if other.id != comment.id]

    def rewrite_body(self, merged: Callable[..., str]) -> None:
        """Make of the body what `merged(body)` says. Where somebody else saved one at the same moment that was lost and
        another since, `merged(body, lost)` has both."""
        # GitHub writes unconditionally. What came between reading and writing can only be found afterwards.
        lost = self._overwritten()
        while True:
            body = _field(self._github.get(self._path), "body", str | None) or ""
            if lost is not None and _lf(body) != self._written:
                # They went on writing: both are kept, one below the other.
                wanted = merged(body, lost)
            else:
                wanted = merged(body if lost is None else lost)
            if wanted == body:
                return
            self._replaced, self._written = _lf(body), _lf(wanted)
            if _field(self._github.write("PATCH", self._path, {"body": wanted}), "body", str | None) == body:
                self._replaced = None
                raise SurfaceError(
                    f"{self.name} kept its old body: it is too long with its managed sections; shorten it."
                )
            lost = self._overwritten()
            if lost is None:
                return

    def _overwritten(self) -> str | None:
        """What somebody else wrote between our reading the body and our last writing it, if that replaced it."""
        if self._replaced is None:
            return None
        edits = [_lf(text) for text in self._github.edits(self._number)]
        replaced, self._replaced = self._replaced, None
        at = edits.index(self._written) if self._written in edits else len(edits)
        before = edits[at + 1] if at + 1 < len(edits) else replaced
        return before if before != replaced else None

    def close(self) -> None:
        self._github.write("PATCH", self._path, {"state": "closed", "state_reason": "completed"})


def _comment(item: Any) -> Comment:
    author = _field(item, "user", dict | None) or {}
    login = str(author.get("login", ""))
    # Whoever can read the logbook could write a comment that looks like a receipt.
    trusted = item.get("author_association") in _INSIDERS or login.endswith("[bot]")
    return Comment(_field(item, "id", int), _field(item, "body", str), login, not trusted)


def _lf(text: str) -> str:
    return text.replace("\r\n", "\n")


def _field(item: Any, name: str, kind: Any) -> Any:
    value = item.get(name) if isinstance(item, dict) else None
    if not isinstance(value, kind):
        raise SurfaceAway(
            f"GitHub's answer has {name!r} as {type(value).__name__}: it is cut off, or no answer of GitHub's."
        )
    return value


def _refusal(status: int, headers: Mapping[str, Any], data: Any, where: str, now: float) -> SurfaceError:
    """What a refusal means: when to come back, or that somebody has to act."""
    message = str(data.get("message", "")) if isinstance(data, dict) else ""
    lower = {name.lower(): str(value) for name, value in headers.items()}
    spent = lower.get("x-ratelimit-remaining") == "0"
    if status == 429 or (status == 403 and ("retry-after" in lower or spent or "rate limit" in message.lower())):
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
    return SurfaceError(f"GitHub answered {status} to {where}: {act}{f' ({message})' if message else ''}.")
