"""The socket of a parent of trials, in a folder that only its user can open: nobody else is spoken to, or served.

The way there can be guessed, so that another user of the machine may have been faster. Whoever listens is given an
environment and is believed; whoever connects has code run.
"""

import os
import socket
import struct
from pathlib import Path

from research_steps.errors import LauncherError
from research_steps.files import is_private


def connect(path: Path) -> socket.socket:
    """A connection with this user's own process that listens at `path`. Raises OSError where nobody does, LauncherError
    where that may be somebody else, to whom nothing was said then: whoever listens is given an environment and believed.
    """
    require_private(path.parent)
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(str(path))
        if not is_own(connection):
            raise LauncherError(f"Another user listens at {path}: nothing was said to them. Have them or root end that.")
    except BaseException:
        connection.close()
        raise
    return connection


def is_own(connection: socket.socket) -> bool:
    """Whether this user's process is at the other end."""
    if not hasattr(socket, "SO_PEERCRED"):
        # Python has no way to ask elsewhere than on Linux: there the folder alone keeps others out.
        return True
    _, user, _ = struct.unpack("iII", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return bool(user == os.getuid())


def require_private(folder: Path) -> None:
    """Raises LauncherError unless only this user can open the folder, OSError where nothing is."""
    if not is_private(folder):
        raise LauncherError(
            f"{folder} is not a folder that only you can open, so others could read what you run and answer for it: "
            "nothing was sent. Remove it, have its owner do so, or set XDG_RUNTIME_DIR to one of yours with mode 0700."
        )
