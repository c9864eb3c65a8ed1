"""A repository on GitHub, through requests, which only this module imports.

Nothing is sent twice by itself: a comment whose answer was lost would be posted again. What went wrong becomes one of
three answers: later (SurfaceAway, with the time that GitHub asked for), not this (SurfaceRefused, with its status), or
not without a person (SurfaceError).
"""

import os
import re
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent import futures
from email.utils import mktime_tz, parsedate_tz
from functools import cached_property
from itertools import count
from typing import Any
from urllib.parse import urljoin, urlsplit

from research_steps.errors import SurfaceAway, SurfaceError, SurfaceRefused, UsageError
from research_steps.git import Checkout
from research_steps.records.names import REPOSITORY

# How long one read may take, and how long a whole answer (seconds).
TIMEOUT_S, DEADLINE_S = 10, 20
WRITE_EVERY_S = 1.0
PAGE = 100
# What was accepted may show a moment later (seconds).
SETTLE_S = 5.0
# GitHub's advice for a limit that names no time.
UNTOLD_LIMIT_S = 60.0
# GitHub's `diff` of an edit holds the whole body after it; edits come newest first.
_EDITS = """query($owner: String!, $name: String!, $number: Int!) {
  repository(owner: $owner, name: $name) { issue(number: $number) { userContentEdits(first: 100) { nodes { diff } } } }
}"""
_MOVED = (301, 302, 307, 308)
# How often one request is sent on to another address.
_MOVES = 3


class Clock:
    """Time as the surface needs it, in seconds; benchmarks and tests give it one that nobody has to wait for."""

    def now(self) -> float:
        """The time of day, which may be set."""
        return time.time()

    def monotonic(self) -> float:
        """What durations are told by: the same for all processes of this machine until it is started anew."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


def web() -> str:
    """Where people read what is on GitHub: this and more is told by the variables that its own tools use."""
    return _address("GITHUB_SERVER_URL", "https://github.com")


def repository_of(checkout: Checkout) -> str | None:
    """The repository 'owner/name': GITHUB_REPOSITORY, else that of the remote."""
    configured = os.environ.get("GITHUB_REPOSITORY")
    return check_repository(configured) if configured else repository_of_remote(checkout)


def repository_of_remote(checkout: Checkout) -> str | None:
    """The repository 'owner/name' of the remote 'origin', None where that is not on GitHub."""
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
        self._wrote = clock.monotonic()

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

    def pace(self) -> bool:
        """Wait until something may be written. True where that took time: what was read before may be old by now."""
        wait = self._wrote + WRITE_EVERY_S - self.clock.monotonic()
        if wait > 0:
            self.clock.sleep(wait)
        return wait > 0

    def write(self, verb: str, path: str, content: Mapping[str, Any] | None = None) -> Any:
        """Change something, once: nothing here tries it again."""
        self.pace()
        try:
            return self._ask(verb, f"/repos/{self._name}{path}", None, content)
        finally:
            self._wrote = self.clock.monotonic()

    def edits(self, number: int) -> list[str | None] | None:
        """The last 100 bodies of an issue, newest first, each None whose text people deleted; None where the server
        keeps no history. Raises SurfaceError while it can't be told."""
        owner, _, name = self._name.partition("/")
        content = {"query": _EDITS, "variables": {"owner": owner, "name": name, "number": number}}
        try:
            answer = self._ask("POST", "/graphql", None, content)
        except SurfaceRefused as error:
            if error.status == 404:
                return None
            raise
        # GitHub tells what is wrong with a query in an answer of 200.
        for told in answer.get("errors") or () if isinstance(answer, dict) else ():
            limited = told.get("type") == "RATE_LIMITED"
            what = f"{told.get('type', 'an error')} ({told.get('message', '')})"
            raise SurfaceAway(f"GitHub answered the query for edits with {what}.", UNTOLD_LIMIT_S if limited else 0.0)
        found = answer
        for key in ("data", "repository", "issue", "userContentEdits"):
            found = field(found, key, dict)
        return [field(node, "diff", str | None) for node in field(found, "nodes", list)]

    @cached_property
    def login(self) -> str:
        """Whose token it is; empty for that of an app, which may not ask."""
        try:
            return str(field(self._ask("GET", "/user"), "login", str))
        except SurfaceRefused:
            return ""

    def check(self) -> None:
        """Raise SurfaceError when there is no token that could be used."""
        token = self._token
        if not token:
            raise SurfaceError(f"{self.repository} can't be written to: neither GITHUB_TOKEN nor GH_TOKEN is set.")
        if not (token.isascii() and token.isprintable()) or " " in token:
            raise SurfaceError("The token in GITHUB_TOKEN or GH_TOKEN is none: it has spaces or signs that none has.")

    @cached_property
    def _name(self) -> str:
        """The repository's name now, which is asked for again whenever GitHub sends a request elsewhere."""
        return str(field(self._ask("GET", f"/repos/{self.repository}"), "full_name", str))

    @cached_property
    def _session(self) -> Any:
        try:
            import requests
        except ImportError as error:
            raise SurfaceError("GitHub needs a library: pip install 'research-steps[github]'.") from error
        self.check()
        session = requests.Session()
        session.headers.update({"Accept": "application/vnd.github+json", "User-Agent": "research-steps"})
        # In a header alone, what netrc holds would take its place.
        session.auth = _Bearer(self._token)
        return session

    def _ask(self, verb: str, path: str, parameters: Any = None, content: Any = None) -> Any:
        """What GitHub answers. A renamed repository and a moved issue are followed with the same request, within this
        API."""
        # Of a server of one's own, the REST API lies in a folder beside the other one.
        address = f"{self._api.removesuffix('/v3') if path == '/graphql' else self._api}{path}"
        where = f"{verb} {path}"
        for _ in range(_MOVES):
            answer = self._answer(where, method=verb, url=address, params=parameters, json=content)
            if answer.status_code not in _MOVED:
                return _content(answer, where)
            self.__dict__.pop("_name", None)
            address = urljoin(address, answer.headers.get("location", ""))
            if not address.startswith(f"{self._api}/"):
                raise SurfaceAway(f"GitHub answered {where} with another server's address, {address[:200]!r}.")
            # A new address without the query stands for the old path alone.
            parameters = None if urlsplit(address).query else parameters
        raise SurfaceAway(f"GitHub sent {where} on to another address {_MOVES} times.")

    def _answer(self, where: str, **request: Any) -> Any:
        """The response, within the deadline: a timeout bounds each read only, and an answer may come in drops."""
        session = self._session
        import requests

        answer: futures.Future[Any] = futures.Future()

        def run() -> None:
            try:
                answer.set_result(session.request(**request, timeout=TIMEOUT_S, allow_redirects=False))
            except Exception as error:  # noqa: BLE001  # raised again below
                answer.set_exception(error)

        threading.Thread(target=run, daemon=True, name="research-github").start()
        if not futures.wait([answer], DEADLINE_S).done:
            # The connection is still being read from: the next request has one of its own.
            self.__dict__.pop("_session", None)
            raise SurfaceAway(f"GitHub had not answered {where} whole after {DEADLINE_S} s.")
        try:
            return answer.result()
        except requests.RequestException as error:
            raise SurfaceAway(f"GitHub did not answer {where}: {type(error).__name__}.") from error


class _Bearer:
    """Authenticates a request."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: Any) -> Any:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def field(item: Any, name: str, kind: Any) -> Any:
    """A field of an answer, once it is known to be of this kind. Raises SurfaceAway."""
    value = item.get(name) if isinstance(item, dict) else None
    if not isinstance(value, kind):
        raise SurfaceAway(
            f"GitHub's answer has {name!r} as {type(value).__name__}: it is cut off, or no answer of GitHub's."
        )
    return value


def _content(answer: Any, where: str) -> Any:
    """What a response holds. Raises what a refusal means."""
    try:
        data = answer.json() if answer.content else None
    except ValueError as error:
        if answer.ok:
            raise SurfaceAway(f"GitHub did not answer {where}: {type(error).__name__}.") from error
        data = None
    if answer.ok:
        return data
    raise _refusal(answer.status_code, answer.headers, data, where)


def _refusal(status: int, headers: Mapping[str, str], data: Any, where: str) -> SurfaceError:
    """What a refusal means: when to come back, or that somebody has to act."""
    message = str(data.get("message", "")) if isinstance(data, dict) else ""
    lower = {name.lower(): value for name, value in headers.items()}
    spent = lower.get("x-ratelimit-remaining") == "0"
    limited = status == 403 and ("retry-after" in lower or spent or "rate limit" in message.lower())
    # As GitHub refuses those who write too fast, beside its limits.
    hasty = status == 422 and "submitted too quickly" in str(data)
    if status == 429 or limited or hasty:
        after = UNTOLD_LIMIT_S
        if lower.get("retry-after", "").isdigit():
            after = float(lower["retry-after"])
        elif spent and lower.get("x-ratelimit-reset", "").isdigit() and (date := parsedate_tz(lower.get("date"))):
            # By GitHub's clock, not by this one.
            after = max(float(lower["x-ratelimit-reset"]) - mktime_tz(date), 1.0)
        return SurfaceAway(f"GitHub asks to wait {after:.0f} s ({status} to {where}).", after)
    if status >= 500 or status == 408:
        return SurfaceAway(f"GitHub failed with {status} to {where}.")
    act = {
        401: "the token is not accepted: set GITHUB_TOKEN to one that is valid",
        403: "the token may not do that: it needs write access to issues",
        404: "there is no such issue or repository, or the token may not see it",
        410: "the issue was deleted, or issues are switched off: 'research sync TOPIC --issue N' links another one",
    }.get(status, "it does not take what it was sent")
    told = f"GitHub answered {status} to {where}: {act}{f' ({message})' if message else ''}."
    return SurfaceRefused(told, where.partition(" ")[0], status)
