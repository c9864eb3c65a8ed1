"""Which Ray cluster a file below infra/ means, in the format of `ray up`, and the connection to it.

RAY_ADDRESS, when set, says where the cluster is, as for every command of Ray. Otherwise the file does, if its provider
is `local`: a head on this machine is joined, on another one Ray Client listens. The head of a cloud's cluster is reached
through a forwarded port.
"""

import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from research_steps.errors import UsageError

# Ray's own: of the head, and of Ray Client there.
PORT, CLIENT_PORT = 6379, 10001
CONNECT_S = 5.0


@dataclass(frozen=True)
class Cluster:
    """A cluster by its name and by the address that `ray.init` takes."""

    name: str
    address: str


def read_cluster(path: Path) -> Cluster:
    """The cluster that a file means. Raises UsageError that names what is wrong with it."""
    try:
        found = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(
            f"{path} can't be read as a cluster's configuration: {' '.join(str(error).split())}."
        ) from error
    provider = _field(path, _field(path, {"": found}, "", dict), "provider", dict)
    name, kind = _field(path, found, "cluster_name", str), _field(path, provider, "type", str)
    address = os.environ.get("RAY_ADDRESS", "")
    if not address and kind == "local":
        head = _field(path, provider, "head_ip", str)
        address = f"{head}:{PORT}" if head.startswith("127.") else f"ray://{head}:{CLIENT_PORT}"
    if not address:
        raise UsageError(
            f"{path} doesn't say where the head of {name} is (provider {kind!r}): forward its port {CLIENT_PORT}, with "
            f"'ray attach --port-forward {CLIENT_PORT} {path}', say, and set RAY_ADDRESS=ray://127.0.0.1:{CLIENT_PORT}."
        )
    return Cluster(name, address)


def connect(cluster: Cluster, namespace: str) -> None:
    """Connect this process to a cluster. Raises UsageError when there is none, or not one that Ray here can talk to."""
    _check_listening(cluster)
    # Under `uv run`, Ray would otherwise copy the whole work tree to the cluster and run uv there.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    try:
        import ray
    except ImportError as error:
        raise UsageError(
            "Ray is not installed here: install the extra 'cluster' (pip install research-steps[cluster])."
        ) from error
    try:
        ray.init(cluster.address, namespace=namespace, logging_level="CRITICAL", log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        raise UsageError(
            f"No connection to the cluster {cluster.name} at {cluster.address}: {' '.join(str(error).split())}"
        ) from error


def _check_listening(cluster: Cluster) -> None:
    """Ray itself tries for minutes, and says so in many lines."""
    address = cluster.address if "://" in cluster.address else f"//{cluster.address}"
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or not port or parts.scheme not in ("", "ray"):
        raise UsageError(f"{cluster.address!r} is no address of a cluster: expected ray://HOST:PORT or HOST:PORT.")
    try:
        socket.create_connection((host, port), CONNECT_S).close()
    except OSError as error:
        raise UsageError(
            f"There is no Ray cluster at {cluster.address} ({error}): start {cluster.name}, or set RAY_ADDRESS to where "
            "it is."
        ) from error


def _field(path: Path, values: dict[str, Any], name: str, kind: type) -> Any:
    value = values.get(name)
    if not isinstance(value, kind) or not value:
        where = f"{name} in {path}" if name else str(path)
        raise UsageError(
            f"{where} is {value!r}: expected a {'mapping' if kind is dict else 'text'}, as in the configuration of a "
            "cluster for 'ray up'."
        )
    return value
