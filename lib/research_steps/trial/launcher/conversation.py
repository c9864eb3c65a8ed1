"""Both ends of a connection with a parent of trials, or with a worker that it forked: who asks, and who answers."""

import os
import signal
import socket
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from research_steps.errors import LauncherError, ResearchError
from research_steps.trial.launcher.private_socket import connect
from research_steps.trial.launcher.protocol import Answer, Done, Message, Refused, Said, Stale, done, line, received

Hear = Callable[[Message], None]


class Conversation:
    """The asking end of a connection to the socket at `path`. Where nobody listens, or not any more, nothing answers.

    Raises LauncherError where somebody else may listen."""

    def __init__(self, path: Path) -> None:
        try:
            self._socket = connect(path)
        except OSError:
            self._socket = socket.socket(socket.AF_UNIX)
        self._lines = self._socket.makefile("rb")

    def close(self) -> None:
        self._lines.close()
        self._socket.close()

    def say(self, message: msgspec.Struct) -> None:
        with suppress(OSError):
            self._socket.sendall(line(message))

    def ask(self, message: msgspec.Struct, hear: Hear) -> Answer | None:
        """Say something and wait for its answer; None when the connection ended before it. `hear` what is said
        meanwhile."""
        self.say(message)
        for heard in received(self._lines, Message):
            if isinstance(heard, Answer):
                return heard
            hear(heard)
        return None


def value_of(answer: Answer | None) -> bytes:
    """What a worker answers with. Raises what `no_value` says."""
    if isinstance(answer, Done):
        return bytes(answer.value)
    raise no_value(answer)


def no_value(answer: Answer | None) -> ResearchError:
    """Why a kept parent, or a worker of it, has not done what it was asked for."""
    match answer:
        case Refused(message):
            return ResearchError(message)
        case Stale(what):
            return LauncherError(f"{what} changed while the attempt began: try again.")
        case _:
            return LauncherError("The kept parent ended, and with it what it ran: try again.")


class Speaker:
    """The answering end of a worker's connection; whoever is gone from the other end misses what is said."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def say(self, text: str) -> None:
        """A line for a person."""
        self.tell(Said(text))

    def tell(self, message: msgspec.Struct) -> None:
        with self._lock, suppress(OSError):
            self._connection.sendall(line(message))


def answer_with(connection: socket.socket, work: Callable[[Speaker], object]) -> None:
    """Do a worker's work, and answer with what it returns, or with why it was refused. Ends early when nobody listens
    any more, as by Ctrl-C."""
    # Whoever started the parent may have had Ctrl-C ignored, as scripts do.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    speaker, finished = Speaker(connection), threading.Event()
    threading.Thread(target=_end_with, args=(connection, finished), daemon=True).start()
    try:
        answer: Answer = done(work(speaker))
    except ResearchError as error:
        answer = Refused(str(error))
    except Exception as error:  # noqa: BLE001  # whoever asked is told, and the whole of it is in the log
        traceback.print_exc()
        answer = Refused(f"{type(error).__name__}: {error}. Where, is in the log that 'research dev --status' names.")
    finished.set()
    speaker.tell(answer)


def _end_with(connection: socket.socket, finished: threading.Event) -> None:
    with suppress(OSError):
        connection.recv(1)
    if not finished.is_set():
        os.kill(os.getpid(), signal.SIGINT)
