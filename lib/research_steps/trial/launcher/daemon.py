"""The kept parent of a checkout: it goes on when the command that started it ends, so that the next one is fast.

There is one for each checkout and interpreter, in a folder that only its user can open: in the user's runtime folder,
or else in the temporary one, where it is told if another user was faster. It is started when it is first needed, on
this machine or, by `start`, on one that is reached over ssh; it ends when it was idle for half an hour. One that is
older than what changed since (the environment, what is installed, a library that people edit) is replaced.
A command has it fork a worker, which does the work and speaks with the command.
"""

import fcntl
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from research_steps.errors import LauncherError, ResearchError
from research_steps.files import is_private
from research_steps.records.encoding import sha256
from research_steps.records.times import utc
from research_steps.trial.launcher.conversation import Conversation, Hear, no_value
from research_steps.trial.launcher.launcher import start_parent
from research_steps.trial.launcher.private_socket import connect
from research_steps.trial.launcher.processes import kill_session
from research_steps.trial.launcher.protocol import (
    SOCKET,
    ParentConfig,
    Request,
    Shutdown,
    TrialOutcome,
    line,
)

# The path of a socket has at most 103 bytes on some systems.
LONGEST_BASE = 60
IDLE_S = 1800.0
# How long it may take to end, while it imports a library, say (seconds).
END_S = 30.0
LOG, STATE = "log", "state.json"
# A parent that changes under the command's hands is replaced so often before it gives up.
STARTS = 3


class State(msgspec.Struct, frozen=True):
    """What is known of a kept parent from its folder."""

    pid: int
    root: str
    python: str
    since: str


@dataclass(frozen=True)
class Daemon:
    """The kept parent of a checkout on this machine, whether it runs or not."""

    root: Path
    idle_s: float = IDLE_S

    @property
    def folder(self) -> Path:
        name = f"research-{os.getuid()}-{sha256(f'{self.root} {os.path.abspath(sys.executable)}'.encode())[:16]}"
        return Path(short_base(os.environ.get("XDG_RUNTIME_DIR", "")), name)

    @property
    def socket(self) -> Path:
        return self.folder / SOCKET

    def state(self) -> State | None:
        """What runs now, None when nothing does."""
        return self._last() if self._listens() else None

    def ensure(self, env: Mapping[str, str]) -> Path:
        """The folder of the running parent, started now with these variables if there is none. Raises LauncherError."""
        folder = self.folder
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        if self._listens():
            return folder
        with locked(folder / "start"):
            if not self._listens():
                # What a parent that was killed has left in its session, which nobody else can have joined.
                if (last := self._last()) is not None and not Path(f"/proc/{last.pid}").exists():
                    kill_session(last.pid)
                with (folder / LOG).open("wb") as log:
                    start_parent(ParentConfig(str(self.root), dict(env), self.idle_s), log)
        return folder

    def note_start(self) -> None:
        """Leave in its folder what it is: called by the parent itself, once it listens."""
        state = State(pid=os.getpid(), root=str(self.root), python=sys.executable, since=utc())
        (self.folder / STATE).write_bytes(msgspec.json.encode(state))

    def note_end(self) -> None:
        """Leave nothing of this process in its folder but the log, while it still listens, so that none of it is the
        next parent's. A runtime folder goes when its user does, and another parent may have come since."""
        with suppress(FileNotFoundError), locked(self.folder / "start"):
            if (last := self._last()) is not None and last.pid == os.getpid():
                for name in (SOCKET, STATE):
                    (self.folder / name).unlink(missing_ok=True)

    def stop(self) -> None:
        """End it and everything below it."""
        stop_at(self.socket)

    def _listens(self) -> bool:
        try:
            connect(self.socket).close()
        except OSError:
            return False
        return True

    def _last(self) -> State | None:
        try:
            return msgspec.json.decode((self.folder / STATE).read_bytes(), type=State)
        except (OSError, msgspec.MsgspecError):
            return None


class DaemonTrials:
    """The trials of a kept parent, for one of its workers and shown live; used as a `Launcher` is."""

    def __init__(self, daemon: Daemon, in_process: bool) -> None:
        self.closed = False
        self.family = os.getppid()
        self._daemon = daemon
        self._in_process = in_process

    def run(self, request: Request, hear: Hear) -> TrialOutcome:
        asked = msgspec.structs.replace(request, env=dict(os.environ), live=True, in_process=self._in_process)
        with closing(Conversation(self._daemon.socket)) as conversation:
            answer = conversation.ask(asked, hear)
        if isinstance(answer, TrialOutcome):
            return answer
        self.closed = answer is None
        raise no_value(answer)


def stop_at(path: Path, when_done: bool = False) -> None:
    """End the kept parent that listens at a socket, or behind one, if there is one: now, or `when_done` with what it
    runs for others. Raises LauncherError when it does not end, or is not this user's."""
    try:
        connection = connect(path)
    except OSError:
        return
    with connection:
        try:
            connection.sendall(line(Shutdown(when_done)))
        except OSError:
            return
        # It closes this when it ends.
        connection.settimeout(None if when_done else END_S)
        try:
            connection.recv(1)
        except TimeoutError as error:
            raise LauncherError(
                f"The kept parent did not end within {END_S:g} s: it imports a library, perhaps; try again."
            ) from error
        except OSError:
            # It ended before it had read everything.
            pass


def short_base(preferred: str = "") -> str:
    """The preferred folder, if it is for this user alone, or else a temporary one, with a path that leaves room for that
    of a socket."""
    is_usable = os.access(preferred, os.W_OK | os.X_OK) and is_private(Path(preferred))
    base = preferred if is_usable else tempfile.gettempdir()
    return base if len(base) < LONGEST_BASE else "/tmp"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file inside the block."""
    with path.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def start() -> None:
    """Have a kept parent run as it is given on standard input, and say in which folder: asked for over ssh."""
    config = msgspec.json.decode(sys.stdin.buffer.read(), type=ParentConfig)
    os.environ.update(config.env)
    try:
        print(Daemon(Path(config.root)).ensure(config.env))
    except ResearchError as error:
        sys.exit(str(error))
