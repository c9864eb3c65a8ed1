"""The side of a dev host that is on the dev host: a worker of the kept parent there, which holds one conversation.

It says what this machine is, then takes turns on it and runs trials, as the conversation asks. When the conversation is
cut off it ends, and with it the turn; only a trial that has begun goes on. Its outcome is kept in a file, locked while
the trial runs, from which another conversation takes it by name. It knows no journal and claims no IDs.
"""

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from socket import socket
from typing import IO

import msgspec

from research_steps.errors import LauncherError
from research_steps.trial.launcher.conversation import Speaker
from research_steps.trial.launcher.daemon import Daemon, DaemonTrials
from research_steps.trial.launcher.host import LocalHost, Turn
from research_steps.trial.launcher.protocol import (
    Refused,
    Request,
    TrialOutcome,
    done,
    received,
)

# A turn in which nothing is asked for is over: a line that is cut need not tell (seconds).
SILENT_S = 60.0
KEPT_S = 86400.0
NONE = b"null"


class SshOrder(msgspec.Struct, frozen=True):
    """For which folder on this machine the trials are, and whether they run in a process that stays."""

    root: str
    in_process: bool


class TakeTurn(msgspec.Struct, frozen=True, kw_only=True, tag="turn"):
    """Have a turn for one trial, as `Host.turn` says. The answer is what is left of the time to wait (seconds), and
    whether the machine is quiet."""

    id: str
    timed: bool
    wait_s: float


class Measure(msgspec.Struct, frozen=True, kw_only=True, tag="measure"):
    """Run a trial in the turn. Its outcome is the answer, and is kept under the `nonce`."""

    nonce: str
    request: Request


class Release(msgspec.Struct, frozen=True, tag="release"):
    """End the turn, and the trial that runs in it. There is no answer."""


class TakeOutcome(msgspec.Struct, frozen=True, tag="outcome"):
    """The outcome of a trial that was begun in another conversation, once it has ended. One that has none then will
    never begin."""

    nonce: str


Asked = TakeTurn | Measure | Release | TakeOutcome


def serve(connection: socket, order: bytes) -> None:
    """Hold the conversation on this connection."""
    wanted = msgspec.json.decode(order, type=SshOrder)
    root, speaker, requests = Path(wanted.root), Speaker(connection), _Requests(connection)
    _forget_old(root)
    host = LocalHost(DaemonTrials(Daemon(root), wanted.in_process))
    speaker.tell(done(host.facts()))
    while asked := requests.next():
        try:
            match asked:
                case TakeOutcome(nonce):
                    speaker.tell(_taken(root, nonce))
                case TakeTurn(id=id, timed=timed, wait_s=wait_s):
                    with host.turn(id, timed, wait_s, speaker.say) as turn:
                        speaker.tell(done((turn.left_s, turn.is_quiet)))
                        _have(turn, root, speaker, requests)
                case Measure():
                    # Too late: its turn was taken for given up.
                    return
        except LauncherError as error:
            speaker.tell(Refused(str(error)))


def _have(turn: Turn, root: Path, speaker: Speaker, requests: "_Requests") -> None:
    """Run a trial in a turn if it is asked for, until the turn is released."""
    asked = requests.next(SILENT_S)
    if isinstance(asked, Measure):
        with requests.trial(), _outcome(root, asked.nonce) as file:
            if file.read():
                raise LauncherError("The trial was given up before it began.")
            outcome = turn.run(asked.request, speaker.tell)
            file.write(msgspec.json.encode(outcome))
        speaker.tell(outcome)
        # It is recorded before somebody else has a turn.
        requests.next(SILENT_S)


def _taken(root: Path, nonce: str) -> TrialOutcome:
    with _outcome(root, nonce) as file:
        outcome = file.read()
        if not outcome:
            file.write(NONE)
    if outcome in (b"", NONE):
        raise LauncherError("The connection was cut off, and the trial has no result there.")
    return msgspec.json.decode(outcome, type=TrialOutcome)


class _Requests:
    """What is asked for, as it comes. This process ends when nobody is there any more, or its trial is given up."""

    def __init__(self, connection: socket) -> None:
        self._queue: SimpleQueue[Asked | None] = SimpleQueue()
        self._in_trial = False
        threading.Thread(target=self._read, args=(connection,), daemon=True).start()

    def next(self, timeout_s: float | None = None) -> Asked | None:
        """What is asked for next; None when nothing was for so long, or nobody is there any more."""
        with suppress(Empty):
            asked = self._queue.get(timeout=timeout_s)
            if asked is None:
                # The end stays the end, however often it is asked for.
                self._queue.put(None)
            return asked
        return None

    @contextmanager
    def trial(self) -> Iterator[None]:
        """A trial runs inside the block, whether anybody is there or not."""
        try:
            yield
        finally:
            self._in_trial = False

    def _read(self, connection: socket) -> None:
        for asked in received(connection.makefile("rb"), Asked):
            if isinstance(asked, Release) and self._in_trial:
                # The trial ends with the connection on which this process has asked its parent for it.
                os._exit(0)
            self._in_trial = isinstance(asked, Measure)
            self._queue.put(asked)
        if not self._in_trial:
            os._exit(0)
        self._queue.put(None)


@contextmanager
def _outcome(root: Path, nonce: str) -> Iterator[IO[bytes]]:
    """The file of a trial's outcome, locked: whoever finds it empty decides whether there will be one."""
    path = _folder(root) / nonce
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with path.open("a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        yield file


def _folder(root: Path) -> Path:
    return root / ".agents" / "outcomes"


def _forget_old(root: Path) -> None:
    for path in _folder(root).glob("*"):
        with suppress(OSError):
            if path.stat().st_mtime < time.time() - KEPT_S:
                path.unlink()
