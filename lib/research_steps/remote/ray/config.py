"""Which Ray cluster a file below infra/ means, in the format of `ray up`, and the connection to it.

RAY_API_SERVER_ADDRESS, when set, says where the job server of the cluster is, as for every command of Ray. Otherwise the
file does, if its provider is `local`. That of a cloud's cluster is reached through a forwarded port.

Whoever may use a cluster has a shell on it, so it asks for a token: Ray's own, which it takes from RAY_AUTH_TOKEN, from
the file that RAY_AUTH_TOKEN_PATH names, or from ~/.ray/auth_token.
"""

import os
import secrets
import socket
import sys
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import urlopen

import yaml

from research_steps.errors import MachineLost, UsageError

# Ray's own: of the head, and of the job server there.
PORT, JOBS_PORT = 6379, 8265
CONNECT_S = 5.0
# How long a server may take to begin to answer where a machine has much else to do.
ANSWER_S = 15.0
# How the kernel writes the ends of 127.0.0.1, ::1 and any address.
_HERE = ("0100007F", "01000000", "00000000")


@dataclass(frozen=True)
class Cluster:
    """A cluster by its file: its name, the kind of its provider, and its head, where the file says that."""

    file: Path
    name: str
    kind: str
    head: str | None

    @property
    def is_here(self) -> bool:
        """Whether the head is on this machine, as the file says."""
        return self.head is not None and self.head.startswith("127.")

    @property
    def job_server(self) -> str:
        """The address of its job server. Raises UsageError when nothing says it."""
        if address := os.environ.get("RAY_API_SERVER_ADDRESS"):
            return address
        if self.head is None:
            raise UsageError(
                f"{self.file} doesn't say where the job server of {self.name} is (provider {self.kind!r}): forward it "
                f"with 'ray dashboard {self.file}' in another terminal, and set "
                f"RAY_API_SERVER_ADDRESS=http://127.0.0.1:{JOBS_PORT}."
            )
        return f"http://{self.head}:{JOBS_PORT}"


def read_cluster(path: Path) -> Cluster:
    """The cluster that a file means. Raises UsageError that names what is wrong with it."""
    config = read_yaml(path, "a cluster's configuration")
    provider = _field(path, _field(path, {"": config}, "", dict), "provider", dict)
    name, kind = _field(path, config, "cluster_name", str), _field(path, provider, "type", str)
    return Cluster(path, name, kind, _field(path, provider, "head_ip", str) if kind == "local" else None)


def read_yaml(path: Path, what: str) -> Any:
    """What a YAML file holds. Raises UsageError that says what the file is for."""
    try:
        return yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"{path} can't be read as {what}: {' '.join(str(error).split())}.") from error


def connect(name: str, address: str, schemes: tuple[str, ...], **options: Any) -> None:
    """Connect this process to a cluster. Raises MachineLost when there is none, or not one that Ray here can talk to."""
    check_listening(name, address, schemes, "RAY_ADDRESS")
    ray = imported()
    try:
        ray.init(address, **options)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        raise MachineLost(f"No connection to {name} at {address}: {' '.join(str(error).split())}") from error


def imported() -> Any:
    """Ray. Raises UsageError when it is not installed."""
    if "ray" not in sys.modules:
        # It reads these when it is imported. Under `uv run`, it would otherwise copy the whole work tree to the cluster
        # and run uv there; of lines of its log that are alike it would leave out most.
        os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
        os.environ.setdefault("RAY_DEDUP_LOGS", "0")
        # Else it takes 127.0.0.1 for this machine's address on a network, where a head that is for this machine alone
        # does not listen.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        # A token is shown only in this mode, whether there is one or not.
        if os.environ.get("RAY_AUTH_TOKEN") or token_file().exists():
            os.environ.setdefault("RAY_AUTH_MODE", "token")
    try:
        import ray
    except ImportError as error:
        raise UsageError(
            "Ray is not installed here: install the extra 'cluster' (pip install research-steps[cluster])."
        ) from error
    return ray


def token_file() -> Path:
    """The file that Ray takes its token from, unless RAY_AUTH_TOKEN is set."""
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or os.path.expanduser("~/.ray/auth_token"))


def make_token() -> Path:
    """Have a token in that file, which only this user can read; returns the file. It is made once."""
    path = token_file()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
    except FileExistsError:
        # Ray's own command makes it as the umask says.
        path.chmod(0o600)
    return path


def check_listening(name: str, address: str, schemes: tuple[str, ...], variable: str) -> None:
    """Raise MachineLost when nobody listens at an address, or what does is no server of Ray; or on this machine another
    user does, unless the `variable` says that it is there. Ray itself tries for minutes, in silence or many lines."""
    try:
        parts = urlsplit(address if "://" in address else f"//{address}")
        host, port = parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        host, port = None, None
    if not host or not port or parts.scheme not in schemes:
        expected = " or ".join(f"{scheme}://HOST:PORT" if scheme else "HOST:PORT" for scheme in reversed(schemes))
        raise UsageError(f"{address!r} is no address of a cluster: expected {expected}.")
    try:
        socket.create_connection((host, port), CONNECT_S).close()
    except OSError as error:
        raise MachineLost(
            f"There is no Ray cluster at {address} ({error}): start {name}, or set {variable} to where it is."
        ) from error
    user = _listening_here(host, port) if variable not in os.environ else None
    if user not in (None, 0, os.getuid()):
        raise MachineLost(
            f"Another user (number {user}) listens at {address}, and would get your code and token: nothing was sent. "
            f"Start {name} on other ports, or set {variable} to the address if that is the cluster that you mean."
        )
    if not (_answers_http(address) if parts.scheme in ("http", "https") else _answers_grpc(host, port)):
        raise MachineLost(
            f"What listens at {address} is no Ray cluster: it did not answer as one within {ANSWER_S:g} s. Start "
            f"{name}, or set {variable} to where it is."
        )


def _answers_http(address: str) -> bool:
    try:
        with urlopen(f"{address.rstrip('/')}/api/version", timeout=ANSWER_S):
            return True
    except HTTPError:
        # Which server it is, and whether it wants a token, its client tells.
        return True
    except (OSError, HTTPException):
        return False


def _answers_grpc(host: str, port: int) -> bool:
    """Whether it begins as servers of HTTP/2 do (RFC 9113, 3.4): with the frame of its settings, which have type 4."""
    if os.environ.get("RAY_USE_TLS", "").lower() in ("1", "true"):
        return True
    with suppress(OSError), socket.create_connection((host, port), CONNECT_S) as connection:
        connection.settimeout(ANSWER_S)
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0)))
        return connection.recv(4, socket.MSG_WAITALL)[3:] == b"\4"
    return False


def _listening_here(host: str, port: int) -> int | None:
    """The number of the user who listens at a port of this machine, None where the host is another or it is not told."""
    if host in ("localhost", "127.0.0.1", "::1"):
        for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
            for fields in map(str.split, table.read_text().splitlines()[1:] if table.exists() else ()):
                address, _, number = fields[1].rpartition(":")
                # On loopback or any address; 0A is a socket that listens.
                if fields[3] == "0A" and int(number, 16) == port and address[-8:] in _HERE:
                    return int(fields[7])
    return None


def environment(names: tuple[str, ...]) -> dict[str, str]:
    """The variables of these names. Raises UsageError for one that isn't set here."""
    missing = [name for name in names if name not in os.environ]
    if missing:
        raise UsageError(
            f"--env {missing[0]} is not set here: expected the name of a variable of this environment, whose value is "
            "then sent."
        )
    return {name: os.environ[name] for name in names}


def _field(path: Path, values: dict[str, Any], name: str, kind: type) -> Any:
    value = values.get(name)
    if not isinstance(value, kind) or not value:
        where = f"{name} in {path}" if name else str(path)
        raise UsageError(
            f"{where} is {value!r}: expected a {'mapping' if kind is dict else 'text'}, as in the configuration of a "
            "cluster for 'ray up'."
        )
    return value
