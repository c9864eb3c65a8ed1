"""A helper's side of its connection: it says what it is at, and in the end its answer, or why there is none."""

import os
import signal
import socket
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress

import msgspec

from research_steps.errors import ResearchError
from research_steps.trial.launcher.protocol import Done, Refused, Said, line


class Speaker:
    """Speaks on a connection; whoever is gone from its other end misses it."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def say(self, text: str) -> None:
        """A line for a person."""
        self.tell(Said(text))

    def tell(self, message: msgspec.Struct) -> None:
        with self._lock, suppress(OSError):
            self._connection.sendall(line(message))


def help_with(connection: socket.socket, work: Callable[[Speaker], object]) -> None:
    """Do the work and answer with what it returns, or with why it was refused. Ends early when nobody listens any more,
    as by Ctrl-C."""
    # Whoever started the parent may have had Ctrl-C ignored, as scripts do.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    speaker, finished = Speaker(connection), threading.Event()
    threading.Thread(target=_end_with, args=(connection, finished), daemon=True).start()
    try:
        last: msgspec.Struct = Done(msgspec.Raw(msgspec.json.encode(work(speaker))))
    except ResearchError as error:
        last = Refused(str(error))
    except Exception as error:  # noqa: BLE001  # whoever asked is told, and the whole of it is in the log
        traceback.print_exc()
        last = Refused(f"{type(error).__name__}: {error}. Where, is in the log that 'research dev --status' names.")
    finished.set()
    speaker.tell(last)


def _end_with(connection: socket.socket, finished: threading.Event) -> None:
    with suppress(OSError):
        connection.recv(1)
    if not finished.is_set():
        os.kill(os.getpid(), signal.SIGINT)
