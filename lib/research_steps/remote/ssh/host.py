"""Another machine as trials run on it, reached over ssh: a `Host` that holds a conversation with a helper over there.

Before a trial has begun there, a connection that is cut off costs nothing but the turn. After that the trial goes on
by itself, and its outcome is taken when the host can be reached again, by the trial's own name: it never runs twice.
"""

import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath
from typing import TypeVar

import msgspec

from research_steps.errors import LauncherError, UsageError
from research_steps.git import Checkout
from research_steps.records.conditions import Facts
from research_steps.remote.ssh.link import DevHost, Link, Unreachable, dev_host
from research_steps.remote.ssh.sync import OWN, carry
from research_steps.remote.ssh.worker import NONE, Away
from research_steps.trial.launcher.client import Tell
from research_steps.trial.launcher.daemon import IDLE_S, STARTS, Given, Hear, answer_in, locked, stop_at
from research_steps.trial.launcher.local import Say, TrialOutcome
from research_steps.trial.launcher.protocol import (
    Done,
    Help,
    Measure,
    Message,
    Quiet,
    Refused,
    Release,
    Request,
    Said,
    Stale,
    TakeTurn,
    Waiting,
    line,
)

# For how long a host that was cut off is tried to be reached again, and how often (seconds).
AWAY_S, RETRY_S = 300.0, 2.0
T = TypeVar("T")


class SshHost:
    """A dev host with the checkout's files as they are now. `sources` are those here that the last trial imported."""

    def __init__(
        self, name: str, checkout: Checkout, folder: Path, env: Sequence[str], in_process: bool, tell: Tell
    ) -> None:
        self.closed = False
        self.sources: tuple[str, ...] = ()
        self._checkout, self._in_process, self._tell = checkout, in_process, tell
        self._link = Link(name, dev_host(checkout, name), folder)
        self._talk: _Talk | None = None
        tell(Waiting(f"connecting to {name}"))
        with locked(self._link.lock):
            is_new = self._link.connect()
            self._root = carry(checkout, self._link, is_new, tell)
        self._env = _chosen(self._link.host, env, self._root)
        self._facts = self._open()

    @property
    def facts(self) -> Facts:
        return self._facts

    @contextmanager
    def turn(self, id: str, timed: bool, wait_s: float, say: Say) -> Iterator["_RemoteTurn"]:
        def hear(message: Message) -> None:
            say(message.text) if isinstance(message, Said) else self._tell(message)

        wanted = TakeTurn(id=id, timed=timed, wait_s=wait_s)
        left = self.ask(wanted, hear)
        if left is None:
            # It was cut off since the last trial, or while it waited.
            self._facts = self._insist(self._open)
            left = self.ask(wanted, hear)
        if left is None:
            raise LauncherError(f"{self._link.name} was cut off again before {id} could begin: try again.")
        try:
            yield _RemoteTurn(self, msgspec.json.decode(left, type=float), hear)
        finally:
            if self._talk is not None:
                self._talk.say(Release())

    def measure(self, request: Request, tell: Tell) -> TrialOutcome:
        """Run a trial in the turn. Raises LauncherError when it has no result."""
        there = msgspec.structs.replace(request, root=self._there(request.root), cwd=self._there(request.cwd))
        nonce = secrets.token_hex(8)
        try:
            found = self.ask(Measure(nonce=nonce, request=there), tell) or self._taken(nonce)
        except KeyboardInterrupt:
            # It ends there when the turn is released.
            self.closed = True
            raise LauncherError("It was stopped by Ctrl-C.") from None
        outcome = msgspec.json.decode(found, type=TrialOutcome)
        if outcome.ended.result is not None:
            imported = (PurePath(source) for source in outcome.ended.result.sources)
            below = (source.relative_to(self._root) for source in imported if source.is_relative_to(self._root))
            self.sources = tuple(str(self._checkout.root / name) for name in below)
        return outcome

    def ask(self, asked: msgspec.Struct, hear: Hear) -> bytes | None:
        """The answer over there, None when the conversation was cut off. Raises LauncherError when it was refused."""
        match self._talk and self._talk.ask(asked, hear):
            case Done(value):
                return bytes(value)
            case Refused(message):
                raise LauncherError(message)
        self._talk = None
        return None

    def _open(self) -> Facts:
        """Begin a conversation; the kept parent over there is started when there is none that serves."""
        wanted = Help(
            function="research_steps.remote.ssh.worker:serve",
            libraries=("research_steps.remote.ssh.worker",),
            order=msgspec.Raw(msgspec.json.encode(Away(self._root, self._in_process))),
            env=self._env,
        )
        for _ in range(STARTS):
            self._talk = _Talk.begun(self._link.socket)
            match self._talk and self._talk.ask(wanted, self._tell):
                case Done(value):
                    return msgspec.json.decode(value, type=Facts)
                case Stale(what):
                    self._tell(Waiting(f"{what} changed: starting anew on {self._link.name}"))
                    stop_at(self._link.socket, when_done=True)
                case _:
                    self._tell(Waiting(f"starting the kept parent on {self._link.name}"))
            code = "from research_steps.trial.launcher.daemon import start; start()"
            folder = self._link.python(code, Given(self._root, self._env, IDLE_S))
            self._link.forward(f"{folder}/socket")
        raise LauncherError(f"The kept parent on {self._link.name} was started {STARTS} times and does not answer.")

    def _taken(self, nonce: str) -> bytes:
        """The outcome of a trial during which the connection was cut off."""
        name = self._link.name
        self._tell(Waiting(f"{name} was cut off: the trial goes on there, and its outcome is taken when it has ended"))
        code = f"from research_steps.remote.ssh.worker import take; take({nonce!r})"
        found = self._insist(lambda: self._link.python(code, Given(self._root, self._env, IDLE_S))).encode()
        if found == NONE:
            raise LauncherError(f"The connection to {name} was cut off, and the trial has no result there.")
        return found

    def _insist(self, work: Callable[[], T]) -> T:
        """Do it as soon as the host can be reached."""
        since = time.monotonic()
        while True:
            try:
                with locked(self._link.lock):
                    self._link.connect()
                since = time.monotonic()
                return work()
            except Unreachable as error:
                if time.monotonic() - since > AWAY_S:
                    raise
                self._tell(Waiting(f"{error} It is tried again for {AWAY_S:g} s."))
                time.sleep(RETRY_S)

    def _there(self, path: str) -> str:
        try:
            return str(PurePath(self._root) / PurePath(path).relative_to(self._checkout.root))
        except ValueError as error:
            raise LauncherError(
                f"{path} is not below {self._checkout.root}, so it is not on {self._link.name}: move the measure "
                "function into the checkout."
            ) from error


class _RemoteTurn:
    def __init__(self, host: SshHost, left_s: float, hear: Hear) -> None:
        self._host, self._hear = host, hear
        self.left_s = left_s

    def run(self, request: Request, tell: Tell) -> TrialOutcome:
        return self._host.measure(request, tell)

    def wait(self, left_s: float) -> bool:
        answer = self._host.ask(Quiet(left_s), self._hear)
        # When it is cut off now, the trial stays as it is.
        is_quiet, self.left_s = msgspec.json.decode(answer, type=tuple[bool, float]) if answer else (False, 0.0)
        return is_quiet


class _Talk:
    """A conversation on a connection."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection, self._lines = connection, connection.makefile("rb")

    @staticmethod
    def begun(path: Path) -> "_Talk | None":
        """One behind a socket, None when nobody listens there."""
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(str(path))
        except OSError:
            connection.close()
            return None
        return _Talk(connection)

    def say(self, message: msgspec.Struct) -> None:
        # One that was cut off answers nothing.
        with suppress(OSError):
            self._connection.sendall(line(message))

    def ask(self, asked: msgspec.Struct, hear: Hear) -> Message | None:
        self.say(asked)
        return answer_in(self._lines, hear)


def _chosen(host: DevHost, names: Sequence[str], root: str) -> dict[str, str]:
    """The variables that go along, by name; JAX's compilation cache is on over there as it is here."""
    for name in names:
        if name not in os.environ:
            raise UsageError(f"--env was given {name}, which is not set here: set it, or leave it out.")
    cache = {name: value for name, value in os.environ.items() if name.startswith("JAX_PERSISTENT_CACHE_")}
    chosen = {name: os.environ[name] for name in (*host.env, *names) if name in os.environ}
    return {**cache, "JAX_COMPILATION_CACHE_DIR": f"{root}/{OWN}/jax-cache", **chosen}
