"""What people attach to an entry: a profile or a plot, small enough for git and without secrets."""

import os
import re
import stat
from pathlib import Path

from research_steps.errors import UsageError
from research_steps.files import open_file
from research_steps.journal.secrets_in_files import refusals
from research_steps.records.encoding import sha256
from research_steps.records.redaction import redact

LARGEST_BYTES = 5_000_000
_LONGEST_NAME = 80
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s/]\S*")


def read_attachment(path: Path) -> tuple[str, bytes]:
    """The name that a file is kept under, which begins with its content's hash, and its bytes. Raises UsageError."""
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            raise UsageError(f"{path} can't be attached: expected a regular file, no folder, symbolic link or device.")
        with open(open_file(path, os.O_NOFOLLOW), "rb") as file:
            data = file.read(LARGEST_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{path} can't be attached: {error.strerror}. Expected a file that can be read.") from error
    if len(data) > LARGEST_BYTES:
        raise UsageError(
            f"{path} has {max(status.st_size, len(data))} bytes: expected at most {LARGEST_BYTES}, because it goes into "
            "git. Put it in a store and attach its address with --link URL."
        )
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", path.name)[-_LONGEST_NAME:]
    if redact(path.name) != path.name:
        raise UsageError("The file's name holds what looks like a secret: rename it, then attach it.")
    refusal = next(refusals(data), None)
    if refusal is not None:
        raise UsageError(f"{path} {refusal}, then attach the file.")
    return f"{sha256(data)[:12]}-{safe}", data


def check_address(address: str) -> str:
    """The address itself, once it is known to be one. Raises UsageError."""
    if not _ADDRESS.fullmatch(address):
        raise UsageError(f"{address!r} is no address: expected one such as gs://bucket/profile or https://….")
    return address
