"""The GitHub that other tests use: it keeps what is sent to it, and each fault reaches PyGithub as it should."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import requests
from github import Auth, Github, GithubException, GithubRetry
from github.Issue import Issue

from tests.support import github_api
from tests.support.github_api import COLLEAGUE, MAX_BODY, RESEARCHER, STRANGER, Fault, Proxy, Repository, Server, some

ROOT = Path(__file__).parent.parent
COMMENTS = r"/issues/\d+/comments$"
KILLED = """
import os, signal
from tests.support import github_api
with github_api.server() as server:
    print(server.port, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def _client(proxy: Proxy, *, login: str = RESEARCHER, retry: GithubRetry | None = None, timeout: int = 60) -> Github:
    return Github(
        auth=Auth.Token(github_api.token(login)),
        base_url=proxy.url,
        retry=retry,
        timeout=timeout,
        per_page=100,
        seconds_between_requests=None,
        seconds_between_writes=None,
    )


@pytest.fixture
def issue(github_proxy: Proxy, github_repository: Repository) -> Issue:
    """An issue as PyGithub sees it through the proxy, without retries."""
    number = github_repository.create_issue("an experiment")
    return _client(github_proxy).get_repo(github_repository.full_name).get_issue(number)


def _impatient(issue: Issue, proxy: Proxy, timeout: int) -> Issue:
    """The same issue, of a client that waits only so long (seconds) for each read."""
    return _client(proxy, timeout=timeout).create_from_raw_data(Issue, issue.raw_data)


def _await(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert condition()


def _bodies(repository: Repository) -> list[str]:
    return [comment.body for comment in repository.comments(1)]


def test_what_pygithub_writes_is_what_the_server_holds(github_proxy: Proxy, github_repository: Repository) -> None:
    """An issue, its comments, edits and labels go through the proxy, and every URL in an answer leads back to it."""
    client = _client(github_proxy)
    assert client.get_user().login == RESEARCHER
    issue = client.get_repo(github_repository.full_name).create_issue("an experiment", "the plan", labels=["experiment"])
    comment = issue.create_comment("first")
    issue.create_comment("second — 🌈")
    comment.edit("first, mended")
    issue.edit(state="closed", body="the outcome")
    assert github_repository.issues() == [issue.number]
    assert github_repository.issue(issue.number) == github_api.Issue(
        "an experiment", "the outcome", "closed", ["experiment"]
    )
    comments = github_repository.comments(issue.number)
    assert [(each.login, each.body) for each in comments] == [(RESEARCHER, "first, mended"), (RESEARCHER, "second — 🌈")]
    assert issue.url.startswith(f"{github_proxy.url}/repos/")
    assert github_proxy.count("POST", COMMENTS) == 2
    assert [each.number for each in github_proxy.requests] == list(range(1, len(github_proxy.requests) + 1))
    assert all(each.status == each.forwarded for each in github_proxy.requests)


def test_people_and_publishers_are_told_apart(github_proxy: Proxy, github_repository: Repository) -> None:
    """A member of the organization and a stranger show as such, and each can be deleted or edited behind one's back."""
    number = github_repository.create_issue("an experiment", login=STRANGER)
    member = github_repository.comment(number, "from inside", COLLEAGUE)
    stranger = github_repository.comment(number, "from outside", STRANGER)
    issue = _client(github_proxy, login=COLLEAGUE).get_repo(github_repository.full_name).get_issue(number)
    through = issue.create_comment("through the proxy")
    associations = [(each.user.login, each.raw_data["author_association"]) for each in issue.get_comments()]
    assert associations == [(COLLEAGUE, "MEMBER"), (STRANGER, "NONE"), (COLLEAGUE, "MEMBER")]
    through.delete()
    github_repository.delete_comment(member)
    github_repository.edit_comment(stranger, "mended")
    github_repository.edit_issue(number, title="another title")
    assert github_repository.comments(number) == [github_api.Comment(stranger, STRANGER, "mended")]
    assert github_repository.issue(number).title == "another title"


def test_250_comments_are_paged_through_the_proxy(
    issue: Issue, github_proxy: Proxy, github_repository: Repository
) -> None:
    """A thread of many pages arrives whole and in order; no page goes around the proxy."""
    for number in range(250):
        github_repository.comment(issue.number, str(number))
    assert [comment.body for comment in issue.get_comments()] == [str(number) for number in range(250)]
    assert github_proxy.count("GET", "/comments") == 3
    assert len(github_repository.comments(issue.number)) == 250


def test_repositories_are_apart(github_server: Server, github_repository: Repository) -> None:
    """No test sees what another one wrote."""
    other = github_server.repository()
    assert other.create_issue("elsewhere") == 1
    assert github_repository.issues() == []


def test_a_lost_answer_makes_pygithub_comment_twice(github_proxy: Proxy, github_repository: Repository) -> None:
    """PyGithub sends a POST again by default, although the server had acted on it."""
    number = github_repository.create_issue("an experiment")
    client = _client(github_proxy, retry=GithubRetry())
    issue = client.get_repo(github_repository.full_name).get_issue(number)
    github_proxy.fault = some(github_api.reset(forward=True), "POST", COMMENTS)
    issue.create_comment("once")
    assert _bodies(github_repository) == ["once", "once"]
    assert [(each.forwarded, each.status) for each in github_proxy.requests[-2:]] == [(201, None), (201, 201)]


def test_without_retries_a_lost_answer_is_an_error(
    issue: Issue, github_proxy: Proxy, github_repository: Repository
) -> None:
    """The comment is there once, and whoever posted it has to find that out."""
    github_proxy.fault = some(github_api.reset(forward=True), "POST", COMMENTS)
    with pytest.raises(requests.ConnectionError, match="reset"):
        issue.create_comment("once")
    assert _bodies(github_repository) == ["once"]
    issue.create_comment("twice")
    assert _bodies(github_repository) == ["once", "twice"]


def test_a_request_that_never_arrived_leaves_nothing(
    issue: Issue, github_proxy: Proxy, github_repository: Repository
) -> None:
    """The same error as for a lost answer, but the server knows nothing."""
    github_proxy.fault = some(github_api.reset(), "POST", COMMENTS)
    with pytest.raises(requests.ConnectionError, match="reset"):
        issue.create_comment("never")
    assert _bodies(github_repository) == []
    assert github_proxy.requests[-1].forwarded is None


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (github_api.truncate(), requests.exceptions.ChunkedEncodingError),
        (github_api.cut_json(), json.JSONDecodeError),
    ],
    ids=lambda value: value.name if isinstance(value, Fault) else "",
)
def test_half_an_answer_is_an_error_after_the_server_acted(
    fault: Fault, error: type[Exception], issue: Issue, github_proxy: Proxy, github_repository: Repository
) -> None:
    """A body that ends early, and one that has its length but is half a text."""
    github_proxy.fault = some(fault, "POST", COMMENTS)
    with pytest.raises(error):
        issue.create_comment("once")
    assert _bodies(github_repository) == ["once"]


@pytest.mark.parametrize("status", [500, 502, 503])
@pytest.mark.parametrize("forward", [False, True], ids=["before", "after"])
def test_a_gateway_fails_before_or_after_the_server_acted(
    status: int, forward: bool, issue: Issue, github_proxy: Proxy, github_repository: Repository
) -> None:
    """The status is the same; whether the comment exists is not."""
    github_proxy.fault = some(github_api.unavailable(status, forward=forward), "POST", COMMENTS)
    with pytest.raises(GithubException) as caught:
        issue.create_comment("perhaps")
    assert caught.value.status == status
    assert _bodies(github_repository) == (["perhaps"] if forward else [])


REFUSALS = {
    "401": (github_api.bad_credentials(), 401, "BadCredentialsException", {}),
    "403": (github_api.forbidden(), 403, "GithubException", {}),
    "403 retry-after": (github_api.secondary_limit(7), 403, "RateLimitExceededException", {"retry-after": "7"}),
    "403 remaining": (github_api.rate_limit(60), 403, "RateLimitExceededException", {"x-ratelimit-remaining": "0"}),
    "403 message": (github_api.secondary_limit(), 403, "RateLimitExceededException", {"x-ratelimit-remaining": "4000"}),
    "429 retry-after": (github_api.secondary_limit(7, status=429), 429, "GithubException", {"retry-after": "7"}),
    "429 remaining": (github_api.rate_limit(60, status=429), 429, "GithubException", {"x-ratelimit-remaining": "0"}),
    "429 message": (github_api.secondary_limit(status=429), 429, "GithubException", {"x-ratelimit-remaining": "4000"}),
    "422": (github_api.invalid(), 422, "GithubException", {}),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_refusal_reaches_pygithub_with_its_headers(
    name: str, issue: Issue, github_proxy: Proxy, github_repository: Repository
) -> None:
    """Who is refused can tell a limit that passes from a refusal that stays, where GitHub lets them."""
    fault, status, error, headers = REFUSALS[name]
    github_proxy.fault = some(fault, "POST", COMMENTS)
    before = time.time()
    with pytest.raises(GithubException) as caught:
        issue.create_comment("refused")
    assert (type(caught.value).__name__, caught.value.status) == (error, status)
    assert caught.value.headers is not None
    assert caught.value.headers.items() >= headers.items()
    assert ("retry-after" in caught.value.headers) == ("retry-after" in name)
    if "remaining" in name:
        assert before + 60 <= float(caught.value.headers["x-ratelimit-reset"]) <= time.time() + 61
    assert _bodies(github_repository) == []


def test_pygithub_waits_as_a_limit_says(github_proxy: Proxy, github_repository: Repository) -> None:
    """With retries, PyGithub comes back after the time that Retry-After names, and posts once."""
    number = github_repository.create_issue("an experiment")
    client = _client(github_proxy, retry=GithubRetry())
    issue = client.get_repo(github_repository.full_name).get_issue(number)
    github_proxy.fault = some(github_api.secondary_limit(1), "POST", COMMENTS)
    started = time.monotonic()
    issue.create_comment("later")
    assert time.monotonic() - started >= 1
    assert _bodies(github_repository) == ["later"]


def test_a_server_that_hangs_is_left_after_the_timeout(
    issue: Issue, github_proxy: Proxy, github_repository: Repository
) -> None:
    """Nothing is ever answered; the request may have been acted on all the same."""
    impatient = _impatient(issue, github_proxy, 1)
    github_proxy.fault = some(github_api.hang(60, forward=True), "POST", COMMENTS)
    with pytest.raises(requests.ReadTimeout):
        impatient.create_comment("once")
    _await(lambda: github_proxy.requests[-1].forwarded == 201)
    assert _bodies(github_repository) == ["once"]
    started = time.monotonic()
    github_proxy.close()
    assert time.monotonic() - started < 30, "closing waited for the one that hangs"


def test_a_hanging_connection_ends_by_itself(issue: Issue, github_proxy: Proxy, github_repository: Repository) -> None:
    """A client that would wait for ever sees the connection end."""
    github_proxy.fault = some(github_api.hang(0.1), "POST", COMMENTS)
    with pytest.raises(requests.ConnectionError, match="without response"):
        issue.create_comment("never")
    assert _bodies(github_repository) == []


def test_slow_bytes_outlast_a_timeout(issue: Issue, github_proxy: Proxy, github_repository: Repository) -> None:
    """A timeout is for the next byte, so an answer may take longer than that as a whole."""
    impatient = _impatient(issue, github_proxy, 5)
    github_proxy.fault = some(github_api.slow(6), "POST", COMMENTS)
    started = time.monotonic()
    assert impatient.create_comment("patience").body == "patience"
    assert time.monotonic() - started >= 6


def test_something_else_happens_right_before_a_request(
    issue: Issue, github_proxy: Proxy, github_repository: Repository
) -> None:
    """A colleague edits between the publisher's read and its write."""

    def before(method: str, path: str) -> None:
        if method == "PATCH":
            github_repository.edit_issue(issue.number, body="a person's words")

    github_proxy.before = before
    issue.edit(title="a new title")
    assert github_repository.issue(issue.number) == github_api.Issue("a new title", "a person's words", "open", [])


def test_a_fault_strikes_the_requests_it_is_meant_for(issue: Issue, github_proxy: Proxy) -> None:
    """The second and third comment fail, and nothing else does."""
    github_proxy.fault = some(github_api.unavailable(), "POST", COMMENTS, after=1, times=2)
    issue.create_comment("1")
    for _ in range(2):
        with pytest.raises(GithubException):
            issue.create_comment("2")
        assert issue.get_comments().totalCount == 1
    issue.create_comment("3")
    assert [each.status for each in github_proxy.requests if each.method == "POST"] == [201, 502, 502, 201]


def test_a_connection_is_kept_for_the_next_request(github_proxy: Proxy, github_repository: Repository) -> None:
    """Clients that keep their connection, as PyGithub does, are served on it, after refusals as well."""
    connection = http.client.HTTPConnection("localhost", github_proxy.port)
    connection.connect()
    kept = connection.sock
    headers = {"authorization": f"Bearer {github_api.token(RESEARCHER)}"}
    github_proxy.fault = some(github_api.cut_json(), "GET", after=1)
    for path, status in (
        ("/user", 200),
        ("/user", 200),
        ("/nothing", 404),
        (f"/repos/{github_repository.full_name}", 200),
    ):
        connection.request("GET", path, headers=headers)
        with connection.getresponse() as response:
            assert response.status == status
            assert response.read()
        assert connection.sock is kept
    connection.close()


def test_an_unknown_token_is_refused(github_proxy: Proxy, github_repository: Repository) -> None:
    """As by GitHub, which the server alone would not do."""
    with pytest.raises(GithubException, match="401"):
        _client(github_proxy, login="nobody").get_user().login  # noqa: B018
    assert github_proxy.requests[-1].status == 401


def test_what_is_too_long_is_refused(issue: Issue, github_repository: Repository) -> None:
    """A body of the most characters is stored and one more is not; an issue silently keeps the body it had."""
    comment = issue.create_comment("é" * MAX_BODY)
    for write in (issue.create_comment, comment.edit):
        with pytest.raises(GithubException, match="ody is too long") as caught:
            write("x" * (MAX_BODY + 1))
        assert caught.value.status == 422
    assert _bodies(github_repository) == ["é" * MAX_BODY]
    issue.edit(body="short")
    issue.edit(body="x" * (MAX_BODY + 1), state="closed")
    assert github_repository.issue(issue.number) == github_api.Issue("an experiment", "short", "closed", [])
    with pytest.raises(GithubException, match="title is too long"):
        issue.repository.create_issue("x" * 257)


def test_an_error_in_a_hook_is_told(github_server: Server, github_repository: Repository) -> None:
    """A test whose own hook fails does not pass because of it."""

    def before(method: str, path: str) -> None:
        raise ConnectionResetError("the hook's own")

    proxy = Proxy(github_server)
    proxy.before = before
    with pytest.raises(requests.ConnectionError):
        _client(proxy).get_repo(github_repository.full_name)
    with pytest.raises(RuntimeError, match="was forwarded"):
        proxy.close()


def test_the_server_ends_with_a_process_that_is_killed(tmp_path: Path) -> None:
    """A test run that is killed leaves no server behind."""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    killed = subprocess.run([sys.executable, "-c", KILLED], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    assert killed.returncode == -signal.SIGKILL
    deadline = time.monotonic() + 60
    with pytest.raises(ConnectionRefusedError):
        while time.monotonic() < deadline:
            socket.create_connection(("127.0.0.1", int(killed.stdout))).close()
            time.sleep(0.01)
