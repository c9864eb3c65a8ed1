"""Replacing a file of the checkout so that readers see the old or the new one, and the new one lasts."""

import os
from pathlib import Path

from research_steps.errors import RepositoryError


def write_aside(path: Path, data: bytes) -> None:
    """Replace a file's content so that readers see the old or the new one, and the new one lasts.

    The caller holds the lock: there is one name for the file beside it, which a killed writer leaves for the next.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            if path.exists():
                os.fchmod(file.fileno(), path.stat().st_mode & 0o7777)
                # What is replaced was whole: it must not give way to a name whose bytes are not there yet.
                os.fsync(file.fileno())
            os.replace(temporary, path)
            # The renaming changed the inode, so this fsync makes its name last, and its bytes where it is new.
            os.fsync(file.fileno())
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise RepositoryError(f"{path} could not be written: {error.strerror}. It is as it was.") from error
