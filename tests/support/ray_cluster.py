"""A Ray cluster of several nodes on this machine, ended by its own processes alone.

Its nodes are on loopback addresses, or each in a network namespace of its own, whose link can be cut.
"""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

# All clusters and clients of this process have one token, which is its own; and its clients look for a head on loopback.
AUTHENTICATED = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
os.environ |= {**AUTHENTICATED, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}

RAY = Path(sys.executable).with_name("ray")
# `ray start` of a further node takes 127.0.0.1 for this machine's address on a network, where the head does not listen.
HERE = "from ray._private import services; services.resolve_ip_for_localhost = str; from ray.scripts.scripts import main"
LOCAL = Path(__file__).parents[2] / "infra" / "local.yaml"
START_S = 240.0
END_S = 120.0
SMALL = ["--object-store-memory=80000000", "--min-worker-port=0", "--max-worker-port=0"]
SMALL += ["--dashboard-agent-listen-port=0"]


def eventually(holds: Callable[[], object], within_s: float) -> None:
    until = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < until, f"not within {within_s} s"
        time.sleep(0.1)


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [bound.getsockname()[1] for bound in sockets]
    for bound in sockets:
        bound.close()
    return ports


@dataclass
class Node:
    """One node: the process of `ray start --block`, its address, and its network namespace if it has one."""

    process: psutil.Process
    ip: str
    namespace: str = ""

    def workers(self, name: str = "") -> list[psutil.Process]:
        """Its worker processes that run a task of this name now."""
        working = []
        for process in self.process.children(recursive=True):
            try:
                title = " ".join(process.cmdline())
            except psutil.Error:
                continue
            if title.startswith("ray::") and name in title and "IDLE" not in title:
                working.append(process)
        return working

    def runs(self) -> bool:
        """A node is there for as long as its raylet is."""
        # `make cluster` waits for Ray's command, whose child a raylet is. Other children may end meanwhile.
        with suppress(psutil.Error):
            for head in (self.process, *self.process.children()):
                if any(map(_is_raylet, _children(head))):
                    return True
        return False

    def cut(self, off: bool) -> None:
        """Take its link away, or bring it back."""
        ip("link", "set", f"{self.namespace}a", "down" if off else "up")


def _children(process: psutil.Process) -> list[psutil.Process]:
    with suppress(psutil.Error):
        return process.children()
    return []


def _is_raylet(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return process.name() == "raylet" and process.status() != psutil.STATUS_ZOMBIE
    return False


@dataclass
class Cluster:
    """A running cluster: `address` is for drivers, `client` for Ray Client, `jobs` the job server where it has one."""

    address: str
    client: str
    jobs: str
    nodes: list[Node] = field(default_factory=list)

    def environment(self, **more: str) -> dict[str, str]:
        return {**os.environ, "RAY_ADDRESS": self.address, "WANDB_MODE": "disabled", **more}


@contextmanager
def cluster(
    *,
    head_cpus: int,
    jobs: bool = False,
    network: tuple[str, list[str]] = ("127.0.0.1", []),
    env: Mapping[str, str] | None = None,
) -> Iterator[Cluster]:
    """A head, with a job server if wanted, and a further node in each namespace of a `network`. What is in `env` all
    their processes see."""
    with ExitStack() as stack:
        folder, environment = stack.enter_context(_folder()), {**_environment(), **(env or {})}
        head, links = network

        def asked(port: int, client: int, *dashboard: int) -> list[str]:
            shown = [f"--include-dashboard={'true' if jobs else 'false'}", f"--dashboard-host={head}"]
            shown += [*(f"--dashboard-port={number}" for number in dashboard), f"--ray-client-server-port={client}"]
            return ["--head", f"--port={port}", f"--num-cpus={head_cpus}", f"--node-ip-address={head}", *shown]

        first, ports = stack.enter_context(_node(asked, head, "", folder, environment, 3 if jobs else 2))
        running = _cluster_at(head, *ports)
        running.nodes.append(first)
        for link in links:
            stack.enter_context(_further_node(running, link, folder, environment))
        yield running


@contextmanager
def local() -> Iterator[Cluster]:
    """What `make cluster` starts, on other ports and with the resources of a v4-8 host, and a second node, which has no
    TPU. What ends the first is what a terminal sends for Ctrl-C, and nothing of it is left then."""
    more = ["--num-cpus=2", """--resources='{"TPU": 4, "TPU-v4-8-head": 1}'""", *SMALL]
    with _folder() as folder:

        def make_cluster(port: int, client: int, dashboard: int) -> list[str]:
            told = LOCAL.read_text()
            for shown, taken in ((6379, port), (10001, client), (8265, dashboard)):
                told = told.replace(str(shown), str(taken))
            assert told.count("ray start") == 1
            file = folder / "cluster.yaml"
            file.write_text(told.replace("ray start", " ".join(["ray start", *more])))
            return [sys.executable, "-m", "research_steps.remote.ray", str(file)]

        environment = {**_without_rays(), "RAY_TMPDIR": str(folder)}
        with _started(make_cluster, folder / "log", environment, 3, ctrl_c=True) as (process, ports):
            running = _cluster_at("127.0.0.1", *ports)
            running.nodes.append(Node(process, "127.0.0.1"))
            with _further_node(running, "", folder, _environment()):
                yield running


def _cluster_at(head: str, port: int, client: int, dashboard: int = 0) -> Cluster:
    return Cluster(f"{head}:{port}", f"ray://{head}:{client}", f"http://{head}:{dashboard}" if dashboard else "")


@contextmanager
def _folder() -> Iterator[Path]:
    # Ray's sockets lie there, and their paths must be short.
    folder = Path(tempfile.mkdtemp(prefix="r", dir="/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _without_rays() -> dict[str, str]:
    others = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return {**others, "RAY_AUTH_TOKEN": AUTHENTICATED["RAY_AUTH_TOKEN"]}


def _environment() -> dict[str, str]:
    rays = {
        "RAY_AUTH_MODE": "token",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "GRPC_ENABLE_FORK_SUPPORT": "0",
    }
    return {**_without_rays(), **rays, "PATH": f"{RAY.parent}:{os.environ['PATH']}"}


@contextmanager
def _node(
    asked: Callable[..., list[str]], address: str, namespace: str, folder: Path, env: dict[str, str], count: int = 0
) -> Iterator[tuple[Node, list[int]]]:
    inside = ["ip", "netns", "exec", namespace] if namespace else []
    # Its own, because a node deletes work trees that no job of its own needs.
    own = f"--temp-dir={folder / address.rpartition('.')[2]}"

    def start(*ports: int) -> list[str]:
        return [*inside, sys.executable, "-c", f"{HERE}; main()", "start", "--block", *asked(*ports), *SMALL, own]

    with _started(start, folder / f"{address}.log", env, count) as (process, ports):
        yield Node(process, address, namespace), ports


@contextmanager
def _further_node(running: Cluster, namespace: str, folder: Path, env: dict[str, str]) -> Iterator[None]:
    """One more node of two cores, on the address that follows those of the others."""
    address = f"{running.nodes[0].ip.rpartition('.')[0]}.{len(running.nodes) + 1}"
    argv = [f"--address={running.address}", f"--node-ip-address={address}", "--num-cpus=2"]
    with _node(lambda: argv, address, namespace, folder, env) as (node, _):
        running.nodes.append(node)
        yield


@contextmanager
def _started(
    command: Callable[..., list[str]], log: Path, environment: Mapping[str, str], count: int, ctrl_c: bool = False
) -> Iterator[tuple[psutil.Process, list[int]]]:
    """A process that was started on so many free ports, and those ports."""
    process, ports = _begun(command, log, environment, count)
    try:
        yield psutil.Process(process.pid), ports
    finally:
        left = _end(process, ctrl_c)
        if ctrl_c:
            assert (left, process.returncode) == ([], 0), "make cluster ends with all that it started"
            assert b"The cluster has ended" in log.read_bytes()


def _begun(
    command: Callable[..., list[str]], log: Path, environment: Mapping[str, str], count: int
) -> "tuple[subprocess.Popen[bytes], list[int]]":
    """Ray gives each node 30 s to start, which is too little now and then where much else starts at the same time. And
    somebody else may take a port before it does: each try has ports of its own."""
    for _ in range(3):
        ports = free_ports(count)
        with log.open("wb") as file:
            process = subprocess.Popen(
                command(*ports), env=environment, stdout=file, stderr=file, start_new_session=True
            )
        until = time.monotonic() + START_S
        try:
            while process.poll() is None and time.monotonic() < until:
                if b"now block forever" in log.read_bytes() and set(ports) <= _listening(process.pid):
                    return process, ports
                time.sleep(0.1)
        except BaseException:
            _end(process)
            raise
        _end(process)
    raise AssertionError(log.read_text())


def _listening(pid: int) -> set[int]:
    """The ports on which a process listens, or what it started."""
    ports = set()
    for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
        with suppress(psutil.Error):
            ports |= {at.laddr.port for at in process.net_connections("tcp") if at.status == psutil.CONN_LISTEN}
    return ports


def _end(process: "subprocess.Popen[bytes]", ctrl_c: bool = False) -> list[psutil.Process]:
    """End a process and all that it started; what did not end by itself."""
    left = []
    if process.poll() is None:
        processes = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        if ctrl_c:
            os.killpg(process.pid, signal.SIGINT)
        else:
            process.send_signal(signal.SIGTERM)
        left = psutil.wait_procs(processes, timeout=END_S)[1]
        for survivor in left:
            with suppress(psutil.NoSuchProcess):
                survivor.kill()
    process.wait()
    return left


@contextmanager
def network(count: int) -> Iterator[tuple[str, list[str]]]:
    """A bridge on this machine and so many namespaces on it: the bridge's address, and their names."""
    name, subnet = f"rs{os.getpid() % 100000}", f"10.211.{os.getpid() % 250}"
    with ExitStack() as stack:
        ip("link", "add", name, "type", "bridge")
        stack.callback(ip, "link", "del", name)
        ip("addr", "add", f"{subnet}.1/24", "dev", name)
        ip("link", "set", name, "up")
        names = []
        for number in range(2, count + 2):
            namespace = f"{name}n{number}"
            ip("netns", "add", namespace)
            stack.callback(ip, "netns", "del", namespace)
            ip("link", "add", f"{namespace}a", "type", "veth", "peer", "name", "eth0", "netns", namespace)
            ip("link", "set", f"{namespace}a", "master", name, "up")
            ip("-n", namespace, "addr", "add", f"{subnet}.{number}/24", "dev", "eth0")
            ip("-n", namespace, "link", "set", "eth0", "up")
            ip("-n", namespace, "link", "set", "lo", "up")
            names.append(namespace)
        yield f"{subnet}.1", names


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
