"""Who may use a cluster: what `make cluster` starts answers this machine alone, and nobody without its token."""

import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest
from research_steps.errors import MachineLost
from research_steps.remote.ray import config
from research_steps.remote.ray.config import check_listening

from tests.support.other_user import NOBODY, at_port, removed
from tests.support.ray_cluster import AUTHENTICATED, Cluster
from tests.support.toy_thread import RESEARCH, Repository

CONNECT = """
import sys, ray
ray.init(sys.argv[1], logging_level="CRITICAL", log_to_driver=False)
print("connected, and", ray.get(ray.remote(lambda: "ran").remote()))
"""
SUBMIT = """
import sys
from ray.job_submission import JobSubmissionClient
JobSubmissionClient(sys.argv[1]).submit_job(entrypoint="true")
print("submitted")
"""


def tried(script: str, address: str, token: str = "") -> str:
    """What a script of Ray says that shows a token, or none."""
    environment = {name: value for name, value in os.environ.items() if name not in AUTHENTICATED}
    shown = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token} if token else {"HOME": "/nonexistent"}
    done = subprocess.run(
        [sys.executable, "-c", script, address],
        env={**environment, **shown},
        capture_output=True,
        text=True,
        timeout=240,
    )
    return done.stdout + done.stderr


def test_a_cluster_listens_on_loopback_alone(ray: Cluster) -> None:
    """Each port of each process of what `make cluster` starts, whatever it is for."""
    head = ray.nodes[0].process
    listening = {
        (process.name(), at.laddr.ip, at.laddr.port)
        for process in (head, *head.children(recursive=True))
        for at in process.net_connections("inet")
        if at.status == psutil.CONN_LISTEN
    }
    assert {int(address.rpartition(":")[2]) for address in (ray.address, ray.client, ray.jobs)} < {
        port for _, _, port in listening
    }
    assert [at for at in listening if at[1].removeprefix("::ffff:") != "127.0.0.1"] == []


def test_nobody_uses_a_cluster_without_its_token(ray: Cluster) -> None:
    """No job, no Ray Client and no driver, with no token or a wrong one; with it each of them works."""
    ways = [(SUBMIT, ray.jobs), (CONNECT, ray.client), (CONNECT, ray.address)]
    token = AUTHENTICATED["RAY_AUTH_TOKEN"]
    with ThreadPoolExecutor(3) as pool:
        for shown in ("", "wrong" * 12):
            told = list(pool.map(lambda way, shown=shown: tried(*way, shown), ways))
            assert not any("submitted" in text or "connected" in text for text in told), told
        job, client, driver = pool.map(lambda way: tried(*way, token), ways)
    assert "submitted" in job, job
    assert "connected, and ran" in client, client
    assert "connected, and ran" in driver, driver
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{ray.jobs}/api/jobs/")


class _Opening(BaseHTTPRequestHandler):
    """Hands everything on to a job server with the token, as a proxy that somebody leaves open."""

    behind = ""

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))) or None
        shown = {"Authorization": f"Bearer {AUTHENTICATED['RAY_AUTH_TOKEN']}"}
        kind = {"Content-Type": self.headers["Content-Type"]} if "Content-Type" in self.headers else {}
        asked = urllib.request.Request(self.behind + self.path, body, {**shown, **kind}, method=self.command)
        try:
            with urllib.request.urlopen(asked) as answer:
                code, data = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            code, data = error.code, error.read()
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_POST = do_PUT = do_DELETE = do_GET

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def opened(job_server: str) -> Iterator[str]:
    """A job server that asks for no token."""
    handler = type("Opening", (_Opening,), {"behind": job_server})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()


def submit(repository: Repository, server: str, store: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    cluster = Path(__file__).parents[1] / "infra" / "local.yaml"
    argv = [*RESEARCH, "submit", "--cluster", str(cluster), "--prefix", str(store), "--no-wait"]
    inherited = {name: value for name, value in os.environ.items() if name not in AUTHENTICATED}
    return subprocess.run(
        [*argv, "--", "python", "-m", "experiments.toy", "--help"],
        cwd=repository.root,
        env={**inherited, "RAY_API_SERVER_ADDRESS": server, "WANDB_MODE": "disabled", **environment},
        capture_output=True,
        text=True,
    )


def test_submit_shows_the_token_and_says_where_none_is_asked_for(ray: Cluster, tmp_path: Path) -> None:
    """It finds the token where Ray does, in a file of the user's; the token is in no record. A cluster that asks for
    none is used, since it is the user's, and one sentence says what that means."""
    repository, store = Repository(tmp_path / "checkout"), tmp_path / "store"
    repository.commit()
    home = tmp_path / "home"
    (home / ".ray").mkdir(parents=True)

    refused = submit(repository, ray.jobs, store, HOME=str(home))
    assert refused.returncode == 1 and "Traceback" not in refused.stderr
    assert f"takes jobs only from who has its token, and {home}/.ray/auth_token" in refused.stderr

    token = AUTHENTICATED["RAY_AUTH_TOKEN"]
    (home / ".ray" / "auth_token").write_text(token)
    taken = submit(repository, ray.jobs, store, HOME=str(home))
    assert taken.returncode == 0, taken.stderr
    assert "asks for no token" not in taken.stderr + taken.stdout

    with opened(ray.jobs) as server:
        told = submit(repository, server, tmp_path / "other", HOME=str(tmp_path / "nowhere"))
    assert told.returncode == 0, told.stderr
    assert f"{server} asks for no token: whoever reaches it can run anything there" in told.stderr + told.stdout
    written = [path for folder in (store, repository.root) for path in folder.rglob("*") if path.is_file()]
    assert written and not any(token.encode() in path.read_bytes() for path in written)


# -- what `make cluster` prepares --------------------------------------------------------------------------------------


def start(home: Path, tmp: Path) -> "subprocess.CompletedProcess[str]":
    """What `make cluster` says and does before it starts Ray, in whose place it shows where Ray's files would lie."""
    file = home / "cluster.yaml"
    file.write_text("head_start_ray_commands: ['printenv RAY_TMPDIR #']\n")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return subprocess.run(
        [sys.executable, "-m", "research_steps.remote.ray", str(file)],
        env={**inherited, "HOME": str(home), "TMPDIR": str(tmp)},
        capture_output=True,
        text=True,
    )


def test_the_token_is_made_once_and_is_the_users_own(tmp_path: Path) -> None:
    """In the file where Ray looks for it, which nobody else can read; Ray's sockets lie in a private folder."""
    token = tmp_path / ".ray" / "auth_token"
    first = start(tmp_path, tmp_path)
    assert first.returncode == 0, first.stderr
    assert str(token) in first.stdout
    folder = Path(first.stdout.splitlines()[-2])
    assert folder.is_relative_to(tmp_path) and folder.stat().st_mode & 0o777 == 0o700
    made = token.read_text()
    assert len(made) == 64 and token.stat().st_mode & 0o777 == 0o600
    token.chmod(0o644)
    assert start(tmp_path, tmp_path).returncode == 0
    assert token.read_text() == made and token.stat().st_mode & 0o777 == 0o600


def test_a_folder_of_another_user_gets_none_of_rays_sockets(tmp_path: Path) -> None:
    """Its path can be guessed; that he was faster is told, and nothing is started."""
    if os.getuid() != 0:
        pytest.skip("only root can give files away")
    with tempfile.TemporaryDirectory() as tmp:
        theirs = Path(tmp, f"research-ray-{os.getuid()}")
        theirs.mkdir()
        os.chown(theirs, NOBODY, NOBODY)
        done = start(tmp_path, Path(tmp))
        assert done.returncode == 1
        assert f"{theirs} is not a folder that only you can open" in done.stderr
        removed(theirs)


@pytest.mark.parametrize(("scheme", "variable"), [("", "RAY_ADDRESS"), ("http", "RAY_API_SERVER_ADDRESS")])
def test_a_port_that_is_no_cluster_is_told_soon(monkeypatch: pytest.MonkeyPatch, scheme: str, variable: str) -> None:
    """Also when whoever listens there never says a word."""
    monkeypatch.setattr(config, "ANSWER_S", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"{scheme}://127.0.0.1:{silent.getsockname()[1]}".removeprefix("://")
        monkeypatch.setenv(variable, address)
        began = time.monotonic()
        with pytest.raises(MachineLost, match=rf"{address} is no Ray cluster: .* or set {variable} to where it is"):
            check_listening("local", address, (scheme,), variable)
        assert time.monotonic() - began < 10


def test_a_port_of_another_user_gets_neither_code_nor_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who listens where the user's own cluster would is told; to use it needs the user's word."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with at_port() as listener:
        address = f"127.0.0.1:{listener.port}"
        with pytest.raises(MachineLost, match=rf"Another user \(number {NOBODY}\) listens at {address}"):
            check_listening("local", address, ("",), "RAY_ADDRESS")
        assert listener.heard == b""
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(MachineLost, match=f"What listens at {address} is no Ray cluster"):
            check_listening("local", address, ("",), "RAY_ADDRESS")
