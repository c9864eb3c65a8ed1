"""The kept parent of a checkout: it goes on when the command that started it ends, so that the next one is fast.

There is one for each checkout and interpreter, in a folder that only its user can open. It is started when it is
first needed, on this machine or, by `start`, on one that is reached over ssh; it ends when it was idle for half an hour.
One that is older than what changed since (the environment, what is installed, a library that people edit) is replaced.
A command has it fork a helper, which does the work and speaks with the command.
"""

import fcntl
import os
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

import msgspec

from research_steps.errors import LauncherError, ResearchError
from research_steps.records.encoding import sha256
from research_steps.records.times import utc
from research_steps.trial.launcher.client import Tell, ask
from research_steps.trial.launcher.processes import kill_session
from research_steps.trial.launcher.protocol import (
    LONGEST_BASE,
    SOCKET,
    Done,
    Ended,
    Help,
    Message,
    Refused,
    Request,
    Shutdown,
    Stale,
    Waiting,
    line,
)

IDLE_S = 1800.0
# How long it may take to end, while it imports a library, say (seconds).
END_S = 30.0
LOG = "log"
# A parent that changes under the command's hands is replaced so often before it gives up.
STARTS = 3
# Told by a helper that outlived it for a moment, or by the command where the helper did not.
_ENDED = "The kept parent ended, and with it what it ran: try again."


class State(msgspec.Struct, frozen=True):
    """What is known of a kept parent from its folder."""

    pid: int
    root: str
    python: str
    since: str


class Given(msgspec.Struct, frozen=True):
    """What a parent is started with: for which checkout, under which environment, and how long it may be idle."""

    root: str
    env: dict[str, str]
    idle_s: float


@dataclass(frozen=True)
class Daemon:
    """The kept parent of a checkout on this machine, whether it runs or not."""

    root: Path
    idle_s: float = IDLE_S

    @property
    def folder(self) -> Path:
        base = os.environ.get("XDG_RUNTIME_DIR", "")
        if not os.access(base, os.W_OK | os.X_OK):
            base = tempfile.gettempdir()
        name = f"research-{os.getuid()}-{sha256(f'{self.root} {os.path.abspath(sys.executable)}'.encode())[:16]}"
        return Path(base if len(base) < LONGEST_BASE else "/tmp", name)

    def state(self) -> State | None:
        """What runs now, None when nothing does."""
        found = self._last()
        return found if found is not None and self._connects() else None

    def ensure(self, env: Mapping[str, str]) -> Path:
        """The folder of the running parent, started now if there is none. Raises LauncherError."""
        if self._connects():
            return self.folder
        folder = _private(self.folder)
        with locked(folder / "start"):
            if not self._connects():
                self._clean_up()
                self._start(folder, env)
        return folder

    def stop(self) -> bool:
        """End it and everything below it; False when there was none."""
        return stop_at(self.folder / SOCKET)

    def retire(self) -> None:
        """Have it end once what it runs for others has ended, and wait for that."""
        stop_at(self.folder / SOCKET, when_done=True)

    def _connects(self) -> bool:
        with socket.socket(socket.AF_UNIX) as connection:
            try:
                connection.connect(str(self.folder / SOCKET))
            except OSError:
                return False
        return True

    def _last(self) -> State | None:
        try:
            return msgspec.json.decode((self.folder / "state.json").read_bytes(), type=State)
        except (OSError, msgspec.MsgspecError):
            return None

    def _clean_up(self) -> None:
        """End what a parent that was killed has left in its session, which nobody else can have joined."""
        last = self._last()
        if last is not None and not Path(f"/proc/{last.pid}").exists():
            kill_session(last.pid)

    def _start(self, folder: Path, env: Mapping[str, str]) -> None:
        given = msgspec.json.encode(Given(str(self.root), dict(env), self.idle_s))
        with (folder / LOG).open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-P", "-u", "-c", "from research_steps.trial.launcher.daemon import main; main()"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, **env},
                cwd="/",
                start_new_session=True,
            )
        assert process.stdin is not None and process.stdout is not None, "both are pipes"
        with process.stdin, process.stdout, suppress(BrokenPipeError):
            process.stdin.write(given)
            process.stdin.close()
            started = process.stdout.read()
        if started != b"ready":
            raise LauncherError(
                f"The kept parent of {self.root} did not start (exit code {process.wait()}): see {folder / LOG}, and "
                "check that research_steps imports in this Python."
            )


class KeptTrials:
    """The trials of the kept parent in a folder, for one of its helpers, shown live. Ctrl-C ends the one that runs, and
    the run."""

    def __init__(self, folder: Path, in_process: bool) -> None:
        self.closed = False
        self.family = os.getppid()
        self.sources: tuple[str, ...] = ()
        self._folder = folder
        self._in_process = in_process

    def run(self, request: Request, tell: Tell) -> Ended:
        asked = msgspec.structs.replace(request, env=dict(os.environ), live=True, in_process=self._in_process)
        try:
            answer = ask(self._folder, asked, tell)
        except KeyboardInterrupt:
            self.closed = True
            raise LauncherError("It was stopped by Ctrl-C.") from None
        if isinstance(answer, Stale):
            raise LauncherError(f"{answer.what} changed while the attempt began: try again.")
        if answer is None:
            self.closed = True
            raise LauncherError(_ENDED)
        if answer.result is not None:
            self.sources = answer.result.sources
        return answer


def stop_at(path: Path, when_done: bool = False) -> bool:
    """End the kept parent that listens at a socket, or behind one, or wait until it is `when_done` with what it runs;
    False when there is none. Raises LauncherError when it does not end."""
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(str(path))
            connection.sendall(line(Shutdown(when_done)))
        except OSError:
            return False
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
    return True


Hear = Callable[[Message], None]


def asked_of(path: Path, wanted: Help) -> socket.socket:
    """A connection to the kept parent that listens at a socket, on which it was asked for help. Raises LauncherError."""
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(str(path))
        connection.sendall(line(wanted))
    except OSError as error:
        connection.close()
        raise LauncherError(_ENDED) from error
    return connection


def have_done(
    ask_for: Callable[[Help], socket.socket], restart: Callable[[], object], wanted: Help, hear: Hear
) -> bytes:
    """Have a helper of a kept parent do something, and return its answer; `hear` what is said meanwhile.

    Raises ResearchError with what the helper refuses, LauncherError when the parent can't be reached or ended.
    """
    for _ in range(STARTS):
        with ask_for(wanted) as connection, connection.makefile("rb") as lines:
            last = answer_in(lines, hear)
        if not isinstance(last, Stale):
            return _done(last)
        hear(Waiting(f"{last.what} changed: starting anew, once what runs for others has ended"))
        restart()
    raise LauncherError(f"The kept parent was started {STARTS} times, and each time something changed: try again.")


class Asked:
    """What another helper of the kept parent that listens at a socket does, beside what is done inside the block."""

    def __init__(self, path: Path, wanted: Help) -> None:
        self._connection = asked_of(path, wanted)

    def __enter__(self) -> "Asked":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._connection.close()

    def answer(self, hear: Hear) -> bytes:
        """Wait for its answer. Raises ResearchError."""
        with self._connection.makefile("rb") as lines:
            return _done(answer_in(lines, hear))


def _done(last: Message | None) -> bytes:
    match last:
        case Done(value):
            return bytes(value)
        case Refused(message):
            raise ResearchError(message)
        case Stale(what):
            raise LauncherError(f"{what} changed while the attempt began: try again.")
        case _:
            raise LauncherError(_ENDED)


def answer_in(lines: IO[bytes], hear: Hear) -> Message | None:
    """The next answer of a helper; None when the connection ended before it. `hear` what is said meanwhile."""
    with suppress(OSError):
        for received in lines:
            if received.endswith(b"\n"):
                message: Message = msgspec.json.decode(received, type=Message)
                if isinstance(message, Done | Refused | Stale):
                    return message
                hear(message)
    return None


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file inside the block."""
    with path.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _private(folder: Path) -> Path:
    """The folder, made for this user alone, and refused when it is anybody else's."""
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise LauncherError(
            f"{folder} is not a folder that only you can open, because others could then have it run "
            "what they like: remove it."
        )
    return folder


def start() -> None:
    """Have a kept parent run as it is given on standard input, and say in which folder: asked for over ssh."""
    given = msgspec.json.decode(sys.stdin.buffer.read(), type=Given)
    # This folder goes when the last session of its user ends, and the parent must not go with it.
    os.environ.pop("XDG_RUNTIME_DIR", None)
    os.environ.update(given.env)
    try:
        print(Daemon(Path(given.root), given.idle_s).ensure(given.env))
    except ResearchError as error:
        sys.exit(str(error))


def main() -> None:
    """Be a kept parent, as it is given on standard input; say 'ready' on standard output once it listens."""
    given = msgspec.json.decode(sys.stdin.buffer.read(), type=Given)
    kept = Daemon(Path(given.root))
    base = {name: value for name, value in os.environ.items() if name not in given.env}
    # Only now, because what is imported reads the environment, which this process was started with.
    from research_steps.trial.launcher.parent import Keeping, Parent

    path = kept.folder / SOCKET
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        state = State(pid=os.getpid(), root=given.root, python=sys.executable, since=utc())
        (kept.folder / "state.json").write_bytes(msgspec.json.encode(state))
        parent = Parent(listener, kept.folder, keeping=Keeping(kept.root, base, given.idle_s))
        with open(os.devnull) as nothing:
            os.dup2(nothing.fileno(), 0)
        os.write(1, b"ready")
        os.dup2(2, 1)
        parent.serve()
        with locked(kept.folder / "start"):
            # Before nobody listens any more, so that it is not the next parent's. The log stays, and is begun anew.
            for name in (SOCKET, "state.json", "result"):
                (kept.folder / name).unlink(missing_ok=True)
    # The exit handlers of the libraries have nothing here to end.
    os._exit(0)
