"""Sends offline runs by W&B's own command, in a child process that ends in bounded time.

When no run gets through for too long it is killed, with everything that it has started. What it says lies in
`.sending-…/` beside the runs until it was read, so that a sender that is killed leaves it to the next one.
"""

import os
import re
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from research_steps.files import write_aside
from research_steps.publish.wandb.runs_on_disk import is_sent, runs_in
from research_steps.records.redaction import redact
from research_steps.trial.launcher.processes import kill_marked

# How long sending may go on until the first run is through, and then from run to run (seconds).
PATIENCE_S = 60.0
AT_ONCE = 100
NO_KEY = "there is no key"
_POLL_S = 0.1
_SENDING = ".sending-"
# Names a child to all that it starts. W&B's service has a session of its own, and may outlive whoever started it.
_MARK = "RESEARCH_CHILD"
# W&B prints the address of each run that it begins to send, as its server spells it. The issue links to it, so nothing
# is taken that would end a link.
_RUN_URL = re.compile(r"https?://[\w.~:/%$&+=@-]+/runs/([\w-](?:[\w.-]*[\w-])?)", re.ASCII)
# These say what a run of this process is; what is sent are other runs.
_OF_A_RUN = re.compile(
    "WANDB_(MODE|PROJECT|NAME|NOTES|TAGS|RUN_ID|RUN_GROUP|JOB_TYPE|RESUME|SWEEP_ID|DIR|SILENT|QUIET|CONSOLE|SERVICE"
    "|PROGRAM|HOST|USERNAME)"
)
# W&B would go on for hours; what is not taken now is sent at the next pass.
_IMPATIENT = {
    # Whoever is killed leaves what it has said.
    "PYTHONUNBUFFERED": "1",
    "WANDB_ERROR_REPORTING": "false",
    "WANDB__GRAPHQL_TIMEOUT_SECONDS": "15",
    **{f"WANDB__{what}_RETRY_MAX": "3" for what in ("GRAPHQL", "FILE_STREAM", "FILE_TRANSFER")},
    **{f"WANDB__{what}_RETRY_WAIT_MAX_SECONDS": "4" for what in ("GRAPHQL", "FILE_STREAM", "FILE_TRANSFER")},
}


def may_have_key() -> bool:
    """Whether W&B may find a key: it looks in the environment, in netrc, and in its settings."""
    environment = os.environ
    if environment.get("WANDB_API_KEY") or environment.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    config = environment.get("WANDB_CONFIG_DIR") or "~/.config/wandb"
    places = (environment.get("NETRC") or "~/.netrc", "~/_netrc", f"{config}/settings")
    return any(Path(place).expanduser().exists() for place in places)


def send(paths: Sequence[Path]) -> str:
    """Send runs with `wandb sync`, and keep the address of each. Returns why some are left: NO_KEY, or what W&B said."""
    reason = ""
    for start in range(0, len(paths), AT_ONCE):
        chunk = paths[start : start + AT_ONCE]
        why = _send(chunk)
        left = [path for path in chunk if not is_sent(path)]
        reason = reason or (why if left else "")
        if left == chunk:
            break
    return reason


def take_up(folder: Path) -> None:
    """Read what senders left that were killed, and end what they started. The caller holds the folder's lock."""
    for left in folder.glob(f"{_SENDING}*"):
        kill_marked(_MARK, left.name)
        _take(left)
        shutil.rmtree(left, ignore_errors=True)


def _send(paths: Sequence[Path]) -> str:
    """Send some runs. Returns what W&B said went wrong, else what it said last."""
    scratch = paths[0].parent.parent / f"{_SENDING}{uuid.uuid4().hex}"
    scratch.mkdir()
    try:
        ended = _sync(paths, scratch)
        text, refused = _take(scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if "No API key" in text or "Not authenticated" in text:
        return NO_KEY
    lines = [line.removeprefix("wandb:").strip() for line in text.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR").strip() for line in lines if line.startswith(("ERROR", "Error"))]
    why = redact([*refused.values(), *errors, *lines[-1:], ""][0])[:500]
    return why if ended else f"it took too long. {why}".strip()


def _take(scratch: Path) -> tuple[str, dict[str, str]]:
    """What a sender said. Keeps the address of each run that it began, and takes back the receipt of one whose table was
    refused, of which it returns why."""
    by_id = runs_in(scratch.parent)
    output = scratch / "output"
    text = redact(output.read_bytes().decode("utf-8", "replace")) if output.exists() else ""
    for url in _RUN_URL.finditer(text):
        if url[1] in by_id:
            write_aside(by_id[url[1]].with_name("address"), f"{url[0]}\n".encode())
    refused = _refused_tables(scratch)
    for path in by_id.values():
        if str(path) in refused:
            # As if it had never been begun: it is sent again whole.
            for receipt in (".synced", ".syncstate"):
                path.with_name(path.name + receipt).unlink(missing_ok=True)
    return text, refused


def _sync(paths: Sequence[Path], scratch: Path) -> bool:
    """Run `wandb sync` for as long as runs get through; what it says goes to `scratch`. Returns whether it ended by
    itself."""
    entity = os.environ.get("WANDB_ENTITY", "")
    command = ["wandb", "sync", *(["--entity", entity] if entity else []), *(str(path.parent) for path in paths)]
    environment = {name: value for name, value in os.environ.items() if not _OF_A_RUN.fullmatch(name)}
    environment = {**_IMPATIENT, **environment, "WANDB_DIR": str(scratch), _MARK: scratch.name}
    with (scratch / "output").open("wb") as output:
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", *command],
            env=environment,
            # Where the runs lie: their tables are named from there.
            cwd=paths[0].parent.parent,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            sent, deadline = 0, time.monotonic() + PATIENCE_S
            while child.poll() is None and time.monotonic() < deadline:
                with suppress(subprocess.TimeoutExpired):
                    child.wait(_POLL_S)
                if (now := sum(map(is_sent, paths))) > sent:
                    sent, deadline = now, time.monotonic() + PATIENCE_S
            ended = child.poll() is not None
        finally:
            child.kill()
            child.wait()
            kill_marked(_MARK, scratch.name)
        return ended


def _refused_tables(scratch: Path) -> dict[str, str]:
    """The files of runs whose table W&B did not take, and why: it calls such a run synced, and says otherwise in its
    log alone."""
    refused = {}
    for log in scratch.glob("wandb/logs/*.log"):
        for line in log.read_bytes().splitlines():
            with suppress(msgspec.MsgspecError):
                entry = msgspec.json.decode(line, type=dict[str, Any])
                message = str(entry.get("msg", ""))
                if entry.get("level") == "ERROR" and "artifact" in message.lower():
                    refused[str(entry.get("sync_path", ""))] = message
    return refused
