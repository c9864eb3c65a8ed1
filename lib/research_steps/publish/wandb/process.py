"""W&B in child processes: one that writes runs, and W&B's own command that sends them. Both end in bounded time.

A child that says nothing for too long is killed with everything that it has started.
"""

import os
import re
import select
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import msgspec

from research_steps.errors import SurfaceError
from research_steps.publish.wandb.runs import Run
from research_steps.records.redaction import redact
from research_steps.trial.launcher.processes import kill_marked

# The first answer waits for W&B's import and for the start of its service, too; each row of history takes its time, and
# a machine may be busy (seconds).
FIRST_WAIT_S = 60.0
WAIT_S, ROW_S = 30.0, 0.02
# How long sending may go on until the first run is through, and then from run to run (seconds).
FIRST_SENT_S = 40.0
SENT_S = 90.0
# A writer that dies is started again for what it left, so that one run that kills it does not keep back the others.
WRITERS = 3
AT_ONCE = 100
NO_KEY = "there is no key"
_POLL_S = 0.1
# Names a child to all that it starts. W&B's service has a session of its own, and may outlive whoever started it.
_MARK = "RESEARCH_CHILD"
# W&B prints the address of each run that it begins to send.
_ADDRESS = re.compile(r"https?://[^\s\x1b]+/runs/([0-9a-f]{16})(?![0-9a-f])")
_COLOR = re.compile(r"\x1b\[[0-9;]*m")
# The rest of the environment has nothing to do with a run that is made from records, and could get into it.
_KEPT = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR", "TZ", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH")
# These say what a run of this process is; what is sent are other runs.
_OF_A_RUN = frozenset(
    f"WANDB_{name}"
    for name in (
        *("MODE", "PROJECT", "NAME", "NOTES", "TAGS", "RUN_ID", "RUN_GROUP", "JOB_TYPE", "RESUME", "SWEEP_ID", "DIR"),
        *("SILENT", "QUIET", "CONSOLE", "SERVICE", "PROGRAM", "HOST", "USERNAME"),
    )
)
# W&B would go on for hours; what is not taken now is sent at the next pass.
_IMPATIENT = {
    "WANDB__GRAPHQL_RETRY_MAX": "2",
    "WANDB__GRAPHQL_RETRY_WAIT_MIN_SECONDS": "1",
    "WANDB__GRAPHQL_RETRY_WAIT_MAX_SECONDS": "4",
    "WANDB__GRAPHQL_TIMEOUT_SECONDS": "15",
    "WANDB__FILE_STREAM_RETRY_MAX": "3",
    "WANDB__FILE_STREAM_RETRY_WAIT_MAX_SECONDS": "4",
    "WANDB__FILE_TRANSFER_RETRY_MAX": "3",
    "WANDB__FILE_TRANSFER_RETRY_WAIT_MAX_SECONDS": "4",
    "WANDB_ERROR_REPORTING": "false",
}


class _Answer(msgspec.Struct, frozen=True):
    id: str
    problem: str


def write(folder: Path, runs: Sequence[Run]) -> Iterator[tuple[str, str]]:
    """Write runs into a folder; yields each run's ID and why it isn't in place, empty when it is."""
    left = list(runs)
    for _ in range(WRITERS):
        if not left:
            return
        reason = ""
        try:
            for answer in _answers(folder, left):
                left = [run for run in left if run.id != answer.id]
                yield answer.id, answer.problem
        except SurfaceError as error:
            reason = str(error)
        if left:
            # It was at the first of those that are left.
            yield left.pop(0).id, reason or "the process that writes W&B runs ended early"
    for run in left:
        yield run.id, f"the process that writes W&B runs has died {WRITERS} times"


def _answers(folder: Path, runs: Sequence[Run]) -> Iterator[_Answer]:
    command = [sys.executable, "-P", "-m", "research_steps.publish.wandb.writer", str(os.getpid()), str(folder)]
    environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
    environment |= {"PYTHONDONTWRITEBYTECODE": "1", "WANDB_ERROR_REPORTING": "false"}
    with tempfile.TemporaryFile() as jobs, tempfile.TemporaryFile() as said:
        for run in runs:
            jobs.write(msgspec.json.encode(run) + b"\n")
        jobs.seek(0)
        with _child(command, environment, folder, stdin=jobs, stdout=subprocess.PIPE, stderr=said) as child:
            assert child.stdout is not None
            yield from _lines(child.stdout, [len(run.history) for run in runs])
            try:
                child.wait(WAIT_S)
            except subprocess.TimeoutExpired:
                return
        if child.returncode != 0:
            raise SurfaceError(f"the process that writes W&B runs ended with {child.returncode}: {_last(said)}")


def _lines(pipe: IO[bytes], rows: Sequence[int]) -> Iterator[_Answer]:
    """Answers as they come, one for each run of so many rows of history, or until there are no more."""
    buffer, found = b"", 0
    while found < len(rows):
        patience = (WAIT_S if found else FIRST_WAIT_S) + ROW_S * rows[found]
        if not select.select([pipe], [], [], patience)[0]:
            raise SurfaceError(f"the process that writes W&B runs said nothing for {patience:.0f} s and was killed")
        data = os.read(pipe.fileno(), 1 << 16)
        if not data:
            return
        *lines, buffer = (buffer + data).split(b"\n")
        for line in lines:
            found += 1
            yield msgspec.json.decode(line, type=_Answer)


def may_have_key() -> bool:
    """Whether W&B may find a key: it looks in the environment, in netrc, and in its settings."""
    environment = os.environ
    if environment.get("WANDB_API_KEY") or environment.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    config = environment.get("WANDB_CONFIG_DIR") or "~/.config/wandb"
    places = (environment.get("NETRC") or "~/.netrc", "~/_netrc", f"{config}/settings")
    return any(Path(place).expanduser().exists() for place in places)


def send(paths: Sequence[Path], sent: Callable[[Path], bool], take: Callable[[str, str], None]) -> str:
    """Send runs with `wandb sync`; `take` is given each run's ID and address. Returns what W&B said of those left.

    That is NO_KEY when it found no key, and nothing when none are left.
    """
    said = []
    for start in range(0, len(paths), AT_ONCE):
        chunk = paths[start : start + AT_ONCE]
        why = _send(chunk, sent, take)
        if not all(map(sent, chunk)):
            said.append(why)
        if not any(map(sent, chunk)):
            break
    return said[0] if said else ""


def _send(paths: Sequence[Path], sent: Callable[[Path], bool], take: Callable[[str, str], None]) -> str:
    entity = os.environ.get("WANDB_ENTITY", "")
    chosen = ["--entity", entity] if entity else []
    command = [sys.executable, "-P", "-m", "wandb", "sync", *chosen, *(str(path.parent) for path in paths)]
    environment = {**_IMPATIENT, **{name: value for name, value in os.environ.items() if name not in _OF_A_RUN}}
    # The command's logs go there; it runs where the runs lie, whose tables are named from there.
    with tempfile.TemporaryDirectory(prefix="research-wandb-") as scratch, tempfile.TemporaryFile() as output:
        streams = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": subprocess.STDOUT}
        environment["WANDB_DIR"] = scratch
        with _child(command, environment, paths[0].parent.parent, **streams) as child:
            ended = _wait_while_sending(child, lambda: sum(map(sent, paths)))
        kept_back = _kept_back(Path(scratch))
        output.seek(0)
        text = _COLOR.sub("", output.read().decode("utf-8", "replace"))
    for found in _ADDRESS.finditer(text):
        take(found[1], found[0])
    for path in paths:
        if str(path) in kept_back:
            # As if it had never been begun: it is sent again whole.
            for receipt in (".synced", ".syncstate"):
                path.with_name(path.name + receipt).unlink(missing_ok=True)
    why = next(iter(kept_back.values()), "") or _why(text)
    return why if ended else f"it took too long. {why}".strip()


def _kept_back(scratch: Path) -> dict[str, str]:
    """The files of runs whose table W&B did not take, and why.

    It calls such a run synced, and says otherwise in its log alone.
    """
    found = {}
    for log in scratch.glob("wandb/logs/*.log"):
        for line in log.read_bytes().splitlines():
            with suppress(msgspec.MsgspecError):
                entry = msgspec.json.decode(line, type=dict[str, Any])
                message = str(entry.get("msg", ""))
                if entry.get("level") == "ERROR" and "artifact" in message.lower():
                    found[str(entry.get("sync_path", ""))] = redact(message)[:500]
    return found


def _wait_while_sending(child: "subprocess.Popen[bytes]", count: Callable[[], int]) -> bool:
    """Wait until the command ends, as long as runs get through. False when it is still at it."""
    through, deadline = 0, time.monotonic() + FIRST_SENT_S
    while time.monotonic() < deadline:
        with suppress(subprocess.TimeoutExpired):
            child.wait(_POLL_S)
            return True
        if (now := count()) > through:
            through, deadline = now, time.monotonic() + SENT_S
    return False


@contextmanager
def _child(
    command: Sequence[str], environment: dict[str, str], folder: Path, **streams: Any
) -> Iterator["subprocess.Popen[bytes]"]:
    """A child in a session of its own; nothing that it has started outlives the block."""
    mark = uuid.uuid4().hex
    environment = {**environment, _MARK: mark}
    child = subprocess.Popen(command, env=environment, cwd=folder, start_new_session=True, **streams)
    try:
        yield child
    finally:
        if child.poll() is None:
            child.kill()
        child.wait()
        if child.stdout is not None:
            child.stdout.close()
        kill_marked(_MARK, mark)


def _why(text: str) -> str:
    """What W&B says went wrong: its first error, else what it said last."""
    if "No API key" in text or "Not authenticated" in text:
        return NO_KEY
    lines = [line.removeprefix("wandb:").strip() for line in text.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR").strip() for line in lines if line.startswith(("ERROR", "Error"))]
    return redact(errors[0] if errors else lines[-1] if lines else "")[:500]


def _last(said: IO[bytes]) -> str:
    said.seek(0)
    lines = said.read().decode("utf-8", "replace").splitlines()
    return redact(next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing"))[:500]
