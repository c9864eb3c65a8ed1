"""A Ray cluster of several nodes on this machine, ended by its own processes alone.

Its workers are on loopback addresses, or each in a network namespace of its own, whose link can be cut.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

RAY = Path(sys.executable).with_name("ray")
START_S = 90.0


def eventually(holds: Callable[[], object], within_s: float) -> None:
    until = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < until, f"not within {within_s} s"
        time.sleep(0.1)


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@dataclass
class Node:
    """One node: the process of `ray start --block`, its address, and its network namespace if it has one."""

    process: psutil.Process
    ip: str
    namespace: str = ""

    def workers(self, name: str = "") -> list[psutil.Process]:
        """Its worker processes that run a task of this name now."""
        found = []
        for process in self.process.children(recursive=True):
            try:
                title = " ".join(process.cmdline())
            except psutil.Error:
                continue
            if title.startswith("ray::") and name in title and "IDLE" not in title:
                found.append(process)
        return found

    def cut(self, off: bool) -> None:
        """Take its link away, or bring it back."""
        ip("link", "set", f"{self.namespace}a", "down" if off else "up")


@dataclass
class Cluster:
    """A running cluster: `address` is for drivers, `jobs` is its job server where it has one."""

    address: str
    jobs: str
    nodes: list[Node] = field(default_factory=list)

    def environment(self, **more: str) -> dict[str, str]:
        return {**os.environ, "RAY_ADDRESS": self.address, "WANDB_MODE": "disabled", **more}


@contextmanager
def cluster(
    workers: int = 0,
    *,
    head_cpus: int = 2,
    worker_cpus: int = 2,
    resources: Mapping[str, float] | None = None,
    jobs: bool = False,
    network: tuple[str, list[str]] | None = None,
    env: Mapping[str, str] | None = None,
) -> Iterator[Cluster]:
    """A head, with a job server if wanted, and so many further nodes, in the namespaces of a `network` if given. What
    is in `env` all their processes see."""
    # Ray's sockets lie there, and their paths must be short.
    folder = Path(tempfile.mkdtemp(prefix="r", dir="/tmp"))
    environment = {
        **os.environ, "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0", "RAY_USAGE_STATS_ENABLED": "0",
        "GRPC_ENABLE_FORK_SUPPORT": "0", "PATH": f"{RAY.parent}:{os.environ['PATH']}", **(env or {}),
    }  # fmt: skip
    environment.pop("RAY_ADDRESS", None)
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        head, links = network or ("127.0.0.1", [""] * workers)
        port, dashboard, client = free_ports(3)
        common = ["--block", "--object-store-memory=80000000", "--min-worker-port=0", "--max-worker-port=0"]
        common += ["--dashboard-agent-listen-port=0"]
        found = Cluster(f"{head}:{port}", f"http://{head}:{dashboard}")
        shown = [f"--include-dashboard={'true' if jobs else 'false'}", f"--dashboard-host={head}"]
        shown += [f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}"]
        asked = ["--head", f"--port={port}", f"--num-cpus={head_cpus}", f"--node-ip-address={head}", *shown]
        asked += [f"--resources={json.dumps(resources)}"] if resources else []
        found.nodes.append(stack.enter_context(_node([*asked, *common], head, "", folder, environment)))
        for number, link in enumerate(links, 2):
            address = f"{head.rpartition('.')[0]}.{number}"
            argv = [f"--address={found.address}", f"--node-ip-address={address}", f"--num-cpus={worker_cpus}", *common]
            found.nodes.append(stack.enter_context(_node(argv, address, link, folder, environment)))
        yield found


@contextmanager
def _node(
    arguments: list[str], address: str, namespace: str, folder: Path, environment: dict[str, str]
) -> Iterator[Node]:
    inside = ["ip", "netns", "exec", namespace] if namespace else []
    log = folder / f"{address}.log"
    # Its own, because a node deletes work trees that no job of its own needs.
    arguments = [*arguments, f"--temp-dir={folder / address.rpartition('.')[2]}"]
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*inside, str(RAY), "start", *arguments], env=environment, stdout=file, stderr=file, start_new_session=True
        )
    try:
        eventually(lambda: b"now block forever" in log.read_bytes() or process.poll() is not None, START_S)
        assert process.poll() is None, log.read_text()
        yield Node(psutil.Process(process.pid), address, namespace)
    finally:
        if process.poll() is None:
            processes = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
            process.send_signal(signal.SIGTERM)
            for one in psutil.wait_procs(processes, timeout=10)[1]:
                one.kill()
        process.wait()


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
            one = f"{name}n{number}"
            ip("netns", "add", one)
            stack.callback(ip, "netns", "del", one)
            ip("link", "add", f"{one}a", "type", "veth", "peer", "name", "eth0", "netns", one)
            ip("link", "set", f"{one}a", "master", name, "up")
            ip("-n", one, "addr", "add", f"{subnet}.{number}/24", "dev", "eth0")
            ip("-n", one, "link", "set", "eth0", "up")
            ip("-n", one, "link", "set", "lo", "up")
            names.append(one)
        yield f"{subnet}.1", names


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
