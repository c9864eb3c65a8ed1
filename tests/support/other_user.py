"""A second user of this machine, as root can become one: it does not need to be able to read this checkout."""

import os
import shutil
import signal
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

NOBODY = 65534


@dataclass
class Listener:
    """Who listens as another user, on a `port` or at a path; once it has ended, `heard` is every byte that was sent."""

    port: int = 0
    heard: bytes = b""


@contextmanager
def other_user(work: Callable[[int], None]) -> Iterator[tuple[int, int]]:
    """Another user's process inside the block, which does this work with a pipe to write to; its process ID, and what
    reads that pipe. Only root can have one."""
    if os.getuid() != 0:
        pytest.skip("only root can become another user")
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.chdir("/")
            os.umask(0)
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            work(writing)
        finally:
            os._exit(1)
    os.close(writing)
    try:
        yield pid, reading
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reading)


@contextmanager
def listening(path: Path, answer: bytes) -> Iterator[Listener]:
    """Another user who listens at a path inside the block and gives everybody this answer; he makes the folder around
    it, where nobody has."""

    def bound() -> socket.socket:
        path.parent.mkdir(mode=0o755, exist_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        return listener

    with _serving(bound, answer) as listener:
        yield listener


@contextmanager
def at_port() -> Iterator[Listener]:
    """Another user who listens at a port of this machine inside the block."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with _serving(lambda: socket.create_server(("127.0.0.1", port)), b"") as listener:
        listener.port = port
        yield listener


@contextmanager
def _serving(bound: Callable[[], socket.socket], answer: bytes) -> Iterator[Listener]:
    def work(told: int) -> None:
        with bound() as listener:
            listener.listen()
            os.write(told, b"!")
            while True:
                with listener.accept()[0] as connection:
                    connection.settimeout(0.5)
                    try:
                        while data := connection.recv(1 << 16):
                            os.write(told, data)
                            connection.sendall(answer)
                    except OSError:
                        pass

    listener = Listener()
    with other_user(work) as (pid, reading):
        assert os.read(reading, 1) == b"!", "another user can't listen there"
        try:
            yield listener
        finally:
            os.kill(pid, signal.SIGKILL)
            while data := os.read(reading, 1 << 16):
                listener.heard += data


def said_to(path: Path, data: bytes) -> bytes:
    """What another user gets who says this at a socket."""

    def work(told: int) -> None:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            connection.connect(str(path))
            os.write(told, b"!")
            connection.sendall(data)
            while answer := connection.recv(1 << 16):
                os.write(told, answer)

    with other_user(work) as (_, reading):
        assert os.read(reading, 1) == b"!", f"another user can't connect to {path}"
        return b"".join(iter(lambda: os.read(reading, 1 << 16), b""))


def removed(path: Path) -> None:
    """Remove what tests have put there, whatever it is."""
    if path.is_symlink() or (path.exists() and not stat.S_ISDIR(path.lstat().st_mode)):
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)
