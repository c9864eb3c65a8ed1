"""The side of a dev host that is on the dev host: a helper of the kept parent there, which holds one conversation.

It says what this machine is, then takes turns on it and runs trials, as the conversation asks. When the conversation is
cut off it ends, and with it the turn; only a trial that has begun goes on. Its outcome is kept in a file, locked while
the trial runs, from which it is taken by name. It knows no journal and claims no IDs.
"""

import fcntl
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from socket import socket
from typing import IO, Any

import msgspec

from research_steps.errors import LauncherError
from research_steps.trial.launcher.daemon import Daemon, Given, KeptTrials
from research_steps.trial.launcher.helpers import Speaker
from research_steps.trial.launcher.local import Here, Turn
from research_steps.trial.launcher.protocol import AskedAway, Done, Measure, Quiet, Refused, Release, TakeTurn

# A turn in which nothing is asked for is over: a line that is cut need not tell (seconds).
SILENT_S = 60.0
KEPT_S = 86400.0
NONE = b"null"


class Away(msgspec.Struct, frozen=True):
    """For which folder on this machine the trials are, and whether they run in a process that stays."""

    root: str
    in_process: bool


def serve(connection: socket, order: bytes) -> None:
    """Hold the conversation on this connection."""
    away = msgspec.json.decode(order, type=Away)
    root, speaker, asking = Path(away.root), Speaker(connection), _Asking(connection)
    _forget_old(root)
    host = Here(KeptTrials(Daemon(root).folder, away.in_process))
    speaker.tell(_done(host.facts))
    while asked := asking.next():
        if isinstance(asked, TakeTurn):
            try:
                with host.turn(asked.id, asked.timed, asked.wait_s, speaker.say) as turn:
                    speaker.tell(_done(turn.left_s))
                    _have(turn, root, speaker, asking)
            except LauncherError as error:
                speaker.tell(Refused(str(error)))


def _have(turn: Turn, root: Path, speaker: Speaker, asking: "_Asking") -> None:
    """Do what is asked for in a turn, until it is released."""
    while asked := asking.next(SILENT_S):
        match asked:
            case Measure(nonce=nonce, request=request):
                with asking.trial(), _outcome(root, nonce) as file:
                    if file.read():
                        raise LauncherError("The trial was given up before it began.")
                    outcome = msgspec.json.encode(turn.run(request, speaker.tell))
                    file.write(outcome)
                speaker.tell(Done(msgspec.Raw(outcome)))
            case Quiet(left_s):
                is_quiet = turn.wait(left_s)
                speaker.tell(_done((is_quiet, turn.left_s)))
            case _:
                return


def take(nonce: str) -> None:
    """Print the outcome of a trial once it has ended, or null when it has none: then it will never begin."""
    given = msgspec.json.decode(sys.stdin.buffer.read(), type=Given)
    with _outcome(Path(given.root), nonce) as file:
        found = file.read()
        if not found:
            file.write(NONE)
    print((found or NONE).decode())


class _Asking:
    """What is asked for, as it comes. This process ends when nobody asks any more, or its trial is given up."""

    def __init__(self, connection: socket) -> None:
        self._asked: SimpleQueue[AskedAway | None] = SimpleQueue()
        self._in_trial = False
        threading.Thread(target=self._read, args=(connection,), daemon=True).start()

    def next(self, timeout_s: float | None = None) -> AskedAway | None:
        """What is asked for next, None when nothing is any more, or was for so long."""
        with suppress(Empty):
            asked = self._asked.get(timeout=timeout_s)
            if asked is None:
                # The end stays the end, however often it is asked for.
                self._asked.put(None)
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
        with suppress(OSError), connection.makefile("rb") as lines:
            for received in lines:
                if not received.endswith(b"\n"):
                    break
                asked: AskedAway = msgspec.json.decode(received, type=AskedAway)
                if isinstance(asked, Release) and self._in_trial:
                    # The trial ends with the connection on which this process has asked its parent for it.
                    os._exit(0)
                self._in_trial = isinstance(asked, Measure)
                self._asked.put(asked)
        if not self._in_trial:
            os._exit(0)
        self._asked.put(None)


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


def _done(value: Any) -> Done:
    return Done(msgspec.Raw(msgspec.json.encode(value)))
