"""Another machine as trials run on it, reached over ssh: a `Host` that holds a conversation with a worker over there.

Before a trial has begun there, a connection that is cut off costs nothing but the turn. After that the trial goes on
by itself, and its outcome is taken when the host can be reached again, by the trial's own name: it never runs twice.
"""

import os
import secrets
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePath
from typing import TypeVar

import msgspec

from research_steps.errors import LauncherError, MachineLost, UsageError
from research_steps.git import Checkout
from research_steps.records.conditions import Facts
from research_steps.remote.ssh.session import DevHost, SshSession
from research_steps.remote.ssh.sync import OWN, sync
from research_steps.remote.ssh.worker import Measure, Release, SshOrder, TakeOutcome, TakeTurn
from research_steps.trial.launcher.conversation import Conversation, Hear, value_of
from research_steps.trial.launcher.daemon import STARTS, locked, stop_at
from research_steps.trial.launcher.host import Say, Turn
from research_steps.trial.launcher.protocol import (
    SOCKET,
    Answer,
    Done,
    Message,
    ParentConfig,
    Refused,
    Request,
    Said,
    Stale,
    StartWorker,
    TrialOutcome,
    Waiting,
)

# For how long a host that was cut off is tried to be reached again, and how often (seconds).
AWAY_S, RETRY_S = 300.0, 2.0
T = TypeVar("T")


class SshHost:
    """A dev host with the checkout's files as they are now. `sources` are those here that the last trial imported."""

    def __init__(
        self, name: str, checkout: Checkout, folder: Path, env: Sequence[str], in_process: bool, hear: Hear
    ) -> None:
        self.closed = False
        self.sources: tuple[str, ...] = ()
        self._checkout, self._in_process, self._hear = checkout, in_process, hear
        self._session = SshSession(name, checkout, folder)
        hear(Waiting(f"connecting to {name}"))
        with locked(self._session.lock):
            is_new = self._session.connect()
            self._root = sync(checkout, self._session, is_new, hear)
        self._env = _chosen(self._session.host, env, self._root)
        self._conversation, self._facts = self._open()

    def facts(self, variables: Collection[str] = ()) -> Facts:
        """What the host said of itself, and what goes along to it; what it sets itself is known as far as it counts for
        any code."""
        sent = {name: self._env[name] for name in variables if name in self._env}
        return msgspec.structs.replace(self._facts, env={**self._facts.env, **sent})

    @contextmanager
    def turn(self, id: str, timed: bool, wait_s: float, say: Say) -> Iterator[Turn]:
        def hear(message: Message) -> None:
            say(message.text) if isinstance(message, Said) else self._hear(message)

        wanted = TakeTurn(id=id, timed=timed, wait_s=wait_s)
        answer = self._ask(wanted, hear)
        if answer is None:
            # It was cut off since the last trial, or while it waited.
            self._conversation, self._facts = self._insist(self._open)
            answer = self._ask(wanted, hear)
        if answer is None:
            raise MachineLost(f"{self._session.name} was cut off again before {id} could begin: try again.")
        try:
            left_s, is_quiet = msgspec.json.decode(value_of(answer), type=tuple[float, bool])
            yield Turn(left_s, is_quiet, self._measure)
        finally:
            # A trial that runs in it ends there, as with Ctrl-C.
            self._conversation.say(Release())

    def _measure(self, request: Request, hear: Hear) -> TrialOutcome:
        code = replace(request.spec.code, root=self._there(request.spec.code.root))
        directory = f"{self._root}/{OWN}/trials/{request.series.topic}/{PurePath(request.directory).name}"
        spec, cwd = replace(request.spec, code=code), self._there(request.cwd)
        prefix = request.prefix if "://" in request.prefix else f"{self._root}/{OWN}/store"
        there = msgspec.structs.replace(request, spec=spec, cwd=cwd, directory=directory, prefix=prefix)
        nonce = secrets.token_hex(8)
        outcome = self._ask(Measure(nonce=nonce, request=there), hear)
        if not isinstance(outcome, TrialOutcome):
            outcome = self._taken(nonce)
        imported = (PurePath(source) for source in outcome.sources)
        below = (source.relative_to(self._root) for source in imported if source.is_relative_to(self._root))
        self.sources = tuple(str(self._checkout.root / name) for name in below) or self.sources
        return outcome

    def _ask(self, message: msgspec.Struct, hear: Hear) -> Answer | None:
        """The answer over there, None when the conversation was cut off. Raises LauncherError when it was refused."""
        answer = self._conversation.ask(message, hear)
        if isinstance(answer, Refused):
            raise LauncherError(answer.message)
        return answer

    def _open(self) -> tuple[Conversation, Facts]:
        """Begin a conversation; the kept parent over there is started when there is none that serves."""
        name = self._session.name
        wanted = StartWorker(
            function="research_steps.remote.ssh.worker:serve",
            libraries=("research_steps.remote.ssh.worker",),
            order=msgspec.Raw(msgspec.json.encode(SshOrder(self._root, self._in_process))),
            env=self._env,
        )
        for _ in range(STARTS):
            conversation = Conversation(self._session.socket)
            match conversation.ask(wanted, self._hear):
                case Done(value):
                    return conversation, msgspec.json.decode(value, type=Facts)
                case Stale(what):
                    self._hear(Waiting(f"{what} changed: starting anew on {name}"))
                    stop_at(self._session.socket, when_done=True)
                case _:
                    self._hear(Waiting(f"starting the kept parent on {name}"))
            conversation.close()
            code = "from research_steps.trial.launcher.daemon import start; start()"
            folder = self._session.python(code, msgspec.json.encode(ParentConfig(self._root, self._env)))
            self._session.forward(f"{folder}/{SOCKET}")
        raise LauncherError(f"The kept parent on {name} was started {STARTS} times and does not answer.")

    def _taken(self, nonce: str) -> TrialOutcome:
        """The outcome of a trial during which the connection was cut off."""
        name = self._session.name
        self._hear(Waiting(f"{name} was cut off: the trial goes on there, and its outcome is taken when it has ended"))

        def take() -> TrialOutcome:
            self._conversation, self._facts = self._open()
            outcome = self._ask(TakeOutcome(nonce), self._hear)
            if not isinstance(outcome, TrialOutcome):
                raise MachineLost(f"{name} was cut off again.")
            return outcome

        return self._insist(take)

    def _insist(self, work: Callable[[], T]) -> T:
        """Do it as soon as the host can be reached."""
        since = time.monotonic()
        while True:
            try:
                with locked(self._session.lock):
                    self._session.connect()
                since = time.monotonic()
                return work()
            except MachineLost as error:
                if time.monotonic() - since > AWAY_S:
                    raise
                self._hear(Waiting(f"{error} It is tried again for {AWAY_S:g} s."))
                time.sleep(RETRY_S)

    def _there(self, path: str) -> str:
        try:
            return str(PurePath(self._root) / PurePath(path).relative_to(self._checkout.root))
        except ValueError as error:
            raise LauncherError(
                f"{path} is not below {self._checkout.root}, so it is not on {self._session.name}: move the measure "
                "function into the checkout."
            ) from error


def _chosen(host: DevHost, names: Sequence[str], root: str) -> dict[str, str]:
    """The variables that go along, by name; JAX's compilation cache is on over there as it is here."""
    for name in names:
        if name not in os.environ:
            raise UsageError(f"--env was given {name}, which is not set here: set it, or leave it out.")
    cache = {name: value for name, value in os.environ.items() if name.startswith("JAX_PERSISTENT_CACHE_")}
    chosen = {name: os.environ[name] for name in (*host.env, *names) if name in os.environ}
    return {**cache, "JAX_COMPILATION_CACHE_DIR": f"{root}/{OWN}/jax-cache", **chosen}
