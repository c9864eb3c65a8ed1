"""What runs on a held node: an actor that holds its resources, and one command at a time in a copy of a work tree.

The code is sent to the node, which need not have this package: it uses the standard library and Ray. The actor ends
itself when nothing was heard of its holder for HEARD_S, and a command when nothing was heard of its caller for as long.
Whatever the actor dies of, the sweeper outlives it, kills the command with its process group and deletes the copy.
"""

import hashlib
import os
import secrets
import shutil
import signal
import stat
import subprocess
import tarfile
import tempfile
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

HEARD_S = 20.0
# The same of a caller that packs and sends a work tree.
SENDING_S = 600.0
# How long a call waits at the node for something to tell, so that calls follow each other without a pause.
BEAT_S = 5.0
POLL_S = 1.0
_CHUNK = 1 << 18
# What Ray sets for its own workers; a command sees the environment that the node's Ray was started with.
_OF_WORKERS = ("RAY_RAYLET_PID", "RAY_JOB_ID", "SPT_NOENV", "PYTHONBREAKPOINT", "OMP_NUM_THREADS")
# Reads which process group runs now, 0 for none, until the actor is gone.
_SWEEPER = """
trap '' HUP INT TERM
last=0
while read -r group; do last=$group; done
if [ "$last" -gt 0 ]; then kill -s KILL -- "-$last"; sleep 1; fi
rm -rf -- "$1"
"""


class NodeTurn:
    """One caller's turn: its command, and what that prints, read as far as it was fetched."""

    def __init__(self, by: str) -> None:
        self.by = by
        self.token = secrets.token_hex(8)
        self.heard = time.monotonic()
        self.process: subprocess.Popen[bytes] | None = None
        self.printed: list[IO[bytes]] = []

    def signal(self, number: int) -> None:
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)


class Allocation:
    """The actor. Its methods are called side by side, those of a turn by one caller only."""

    def __init__(self, by: str, tpu_type: str) -> None:
        import ray

        self._folder = Path(tempfile.mkdtemp(prefix="research-dev-tpu-"))
        self._tree = self._folder / "tree"
        self._tree.mkdir()
        self._sent = self._folder / "sent.tar.gz"
        # Not a child of this process, because Ray kills those with it.
        self._sweeper = subprocess.Popen(
            ["setsid", "--fork", "sh", "-c", _SWEEPER, "sh", str(self._folder)], stdin=subprocess.PIPE, text=True
        )
        self._about = {
            "by": f"{by}, since {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC",
            "node": os.uname().nodename,
            "ip": ray.util.get_node_ip_address(),
            "type": tpu_type,
        }
        self._actor = ray.get_runtime_context().current_actor
        self._heard = time.monotonic()
        self._released = threading.Event()
        self._released_by = ""
        self._lock = threading.Lock()
        self._turn: NodeTurn | None = None
        self._names: set[str] = set()
        threading.Thread(target=self._watch, daemon=True).start()

    def about(self) -> dict[str, str]:
        """Who holds this since when, and where it is."""
        return self._about

    def user(self) -> str:
        """Whose command runs, empty when none does."""
        turn = self._turn
        return turn.by if turn is not None else ""

    def beat(self) -> str:
        """The holder lives. Returns after BEAT_S, or at once when it was released, by whom."""
        self._heard = time.monotonic()
        self._released.wait(BEAT_S)
        return self._released_by

    def release(self, by: str) -> None:
        """Have the holder told, which then kills this actor. For one that is silent HEARD_S stay the limit."""
        self._released_by = by
        self._released.set()

    def begin(self, by: str) -> tuple[str, str]:
        """Take the turn: its token, or else whose turn it is."""
        with self._lock:
            if self._turn is not None:
                return "", self._turn.by
            self._turn = NodeTurn(by)
            self._sent.write_bytes(b"")
            return self._turn.token, ""

    def missing(self, token: str, wanted: dict[str, str]) -> list[str]:
        """Delete what the caller no longer has; returns the files that are not here as it has them."""
        self._mine(token)
        for name in self._names - wanted.keys():
            with suppress(OSError):
                (self._tree / name).unlink()
                # Ends at the first folder that still holds something.
                for parent in list(Path(name).parents)[:-1]:
                    (self._tree / parent).rmdir()
        self._names = set(wanted)
        missing = [name for name, digest in wanted.items() if file_digest(self._tree / name) != digest]
        for name in missing:
            # Where a file or link comes, a folder may have been.
            if (self._tree / name).is_dir() and not (self._tree / name).is_symlink():
                shutil.rmtree(self._tree / name)
        return missing

    def send(self, token: str, part: bytes) -> None:
        """The next bytes of the archive of what was missing."""
        self._mine(token)
        with self._sent.open("ab") as file:
            file.write(part)

    def start(self, token: str, argv: list[str], env: dict[str, str]) -> None:
        """Unpack what was sent, and start the command."""
        turn = self._mine(token)
        if self._sent.stat().st_size:
            with tarfile.open(self._sent) as archive:
                archive.extractall(self._tree, filter="tar")
        node = {name: value for name, value in os.environ.items() if name not in _OF_WORKERS}
        # Files, so that neither a slow caller nor a lost daemon that keeps a pipe open stops anything.
        with (self._folder / "stdout").open("wb") as out, (self._folder / "stderr").open("wb") as err:
            turn.process = subprocess.Popen(
                # Ray may have been started where these were ignored. That there is no such command is told by `env`.
                ["env", "--default-signal=INT,TERM,HUP", *argv],
                cwd=self._tree,
                env={**node, "PYTHONUNBUFFERED": "1", **env},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        self._tell_sweeper(turn.process.pid)
        turn.printed = [(self._folder / stream).open("rb") for stream in ("stdout", "stderr")]

    def output(self, token: str) -> tuple[bytes, bytes, int | None]:
        """What was printed since the last call, waiting for it a while; after the last of it, the exit status."""
        turn = self._mine(token)
        until = time.monotonic() + POLL_S
        while True:
            # Before reading: what a command prints is there when it ends.
            status = turn.process.poll() if turn.process is not None else None
            out, err = (stream.read(_CHUNK) for stream in turn.printed)
            if status is not None and not out and not err:
                if status == -signal.SIGKILL:
                    # Ray kills it just before it kills this actor, and then it has no status.
                    time.sleep(1)
                self._end(turn)
                return b"", b"", status
            if out or err or time.monotonic() > until:
                return out, err, None
            time.sleep(0.02)

    def signal(self, token: str, number: int) -> None:
        """Send a signal to the command and everything in its process group."""
        self._mine(token).signal(number)

    def end(self, token: str) -> None:
        """Kill the command, if there is one, and give the turn back."""
        self._end(self._mine(token))

    def _mine(self, token: str) -> NodeTurn:
        turn = self._turn
        if turn is None or turn.token != token:
            raise LookupError("nothing was heard of the caller for too long, so its turn was ended")
        turn.heard = time.monotonic()
        return turn

    def _end(self, turn: NodeTurn) -> None:
        # What the command left behind would disturb the next one.
        turn.signal(signal.SIGKILL)
        self._tell_sweeper(0)
        self._turn = None

    def _tell_sweeper(self, group: int) -> None:
        assert self._sweeper.stdin is not None
        print(group, file=self._sweeper.stdin, flush=True)

    def _watch(self) -> None:
        import ray

        while time.monotonic() - self._heard < HEARD_S:
            time.sleep(1)
            turn = self._turn
            if turn is not None and time.monotonic() - turn.heard > (HEARD_S if turn.process else SENDING_S):
                self._end(turn)
        # An actor that only exits keeps its name until its owner is gone.
        ray.kill(self._actor)
        time.sleep(HEARD_S)
        os._exit(1)


def file_digest(path: Path) -> str:
    """What a copy of a file has to be like: its kind, whether it can be run, its content; empty for what is no file."""
    try:
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            return f"link {os.readlink(path)}"
        if not stat.S_ISREG(mode):
            return ""
        with path.open("rb") as file:
            return f"{'run' if mode & stat.S_IXUSR else 'file'} {hashlib.file_digest(file, 'sha256').hexdigest()}"
    except OSError:
        return ""
