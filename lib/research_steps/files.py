"""Files of the checkout: read and replaced so that what git brought leads nowhere, and so that what was written lasts.

Below `.agents` and `.github` lies what is published, and what others committed with it: no symbolic link there is
followed, neither as a file nor on the way to one, and nothing but a regular file is opened, because a FIFO would hang.
Each of these raises RepositoryError where it finds something else. Anywhere else only the file itself is looked at; a
folder that other users of the machine might have made is asked for its owner and mode.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import Literal

from research_steps.errors import RepositoryError, UsageError

# Folders of a checkout with what is published: no link is followed below what holds them.
_BROUGHT = (".agents", ".github")
_FOLDER = os.O_RDONLY | os.O_DIRECTORY
_KINDS = {
    stat.S_IFLNK: "a symbolic link", stat.S_IFDIR: "a folder", stat.S_IFREG: "a file", stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket", stat.S_IFBLK: "a device", stat.S_IFCHR: "a device",
}  # fmt: skip


def users_folder(variable: str, default: str) -> Path:
    """Where this user's own files of a kind lie: what the variable names, else this folder of the home. Raises
    UsageError where there is neither."""
    given = os.environ.get(variable)
    try:
        return Path(given) if given else Path.home() / default
    except RuntimeError as error:
        raise UsageError(
            f"This user has no home directory, and {variable} is not set: set HOME, or {variable} to a folder that is "
            "yours alone."
        ) from error


def read(path: Path) -> bytes | None:
    """A file's content, None where there is none."""
    try:
        with opened(path) as file:
            return file.readall()
    except FileNotFoundError:
        return None


def is_there(path: Path) -> bool:
    """Whether there is such a file."""
    try:
        with _folder(path.parent) as folder:
            _is_file(path, folder)
            return True
    except FileNotFoundError:
        return False
    except OSError as error:
        raise RepositoryError(f"{path} could not be looked at: {error.strerror}.") from error


def opened(path: Path, mode: Literal["rb", "r+b"] = "rb") -> FileIO:
    """A file, unbuffered. Raises FileNotFoundError where there is none."""
    try:
        with _folder(path.parent) as folder:
            _is_file(path, folder)
            return _opened(path, folder, mode)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise RepositoryError(f"{path} could not be opened: {error.strerror}.") from error


def files_in(folder: Path) -> list[Path]:
    """All in a folder but the folders in it, sorted; none where it isn't there. What can't be read is among them."""
    try:
        with _folder(folder) as descriptor, os.scandir(descriptor) as entries:
            return sorted(folder / entry.name for entry in entries if not entry.is_dir(follow_symlinks=False))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RepositoryError(f"{folder} could not be listed: {error.strerror}.") from error


def opened_in(folder: Path, suffix: str = "") -> Iterator[tuple[Path, FileIO]]:
    """The files in a folder whose names end so, sorted, one open at a time: a long series has thousands, and to come to
    each of them from above takes longer than to read it."""
    try:
        with _folder(folder) as descriptor:
            with os.scandir(descriptor) as entries:
                named = {folder / entry.name: entry for entry in entries if entry.name.endswith(suffix)}
            for path, entry in sorted(named.items()):
                if entry.is_dir(follow_symlinks=False):
                    continue
                # One that a writer has just renamed is there by its other name.
                with suppress(FileNotFoundError):
                    if not entry.is_file(follow_symlinks=False):
                        _is_file(path, descriptor)
                    with _opened(path, descriptor, "rb") as file:
                        yield path, file
    except FileNotFoundError:
        return
    except OSError as error:
        raise RepositoryError(f"{folder} could not be read: {error.strerror}.") from error


def is_private(folder: Path) -> bool:
    """Whether only this user can open a folder, so that nobody else has put there what is in it. What leads to a folder
    elsewhere is none. Raises OSError where nothing is."""
    status = folder.lstat()
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o077


def open_file(path: str | Path, flags: int = 0) -> int:
    """A descriptor to read a file by. Raises OSError for what is none: a pipe that somebody put there would be waited
    for, and a device does as it likes."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | flags)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return descriptor


def refuse_links(base: Path, path: Path) -> None:
    """Raise RepositoryError where a symbolic link leads on from a folder of another checkout, which is `base`, to what
    lies below it."""
    here = base
    for name in path.relative_to(base).parts:
        here /= name
        if here.is_symlink():
            raise _refusal(here, here.lstat().st_mode, "a file" if here == path else "a folder")


def write_aside(path: Path, data: bytes) -> None:
    """Replace a file's content so that readers see the old or the new one, and the new one lasts.

    The caller holds the lock: there is one name for the file beside it, which a killed writer leaves for the next.
    """
    temporary = f".{path.name}.tmp"
    try:
        with _folder(path.parent, make=True) as folder:
            mode = None
            with suppress(FileNotFoundError):
                mode = _is_file(path, folder)
            try:
                _unlink(temporary, folder)
                new = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=folder)
                with open(new, "wb") as file:
                    file.write(data)
                    file.flush()
                    if mode is not None:
                        os.fchmod(file.fileno(), mode)
                        # What is replaced was whole: it must not give way to a name whose bytes are not there yet.
                        os.fsync(file.fileno())
                    os.replace(temporary, path.name, src_dir_fd=folder, dst_dir_fd=folder)
                    # The renaming changed the inode, so this fsync makes its name last, and its bytes where it is new.
                    os.fsync(file.fileno())
            except OSError:
                _unlink(temporary, folder)
                raise
    except OSError as error:
        raise RepositoryError(f"{path} could not be written: {error.strerror}. It is as it was.") from error


@contextmanager
def _folder(path: Path, make: bool = False) -> Iterator[int]:
    """A folder, as a descriptor that nobody can lead elsewhere any more. Raises OSError."""
    at = max((number for number, name in enumerate(path.parts) if name in _BROUGHT), default=len(path.parts))
    here, below = Path(*path.parts[:at]), path.parts[at:]
    if make:
        here.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(here, _FOLDER)
    try:
        for name in below:
            here /= name
            if make:
                with suppress(FileExistsError):
                    os.mkdir(name, dir_fd=descriptor)
            status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
            if not stat.S_ISDIR(status.st_mode):
                raise _refusal(here, status.st_mode, "a folder")
            inner = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        yield descriptor
    finally:
        os.close(descriptor)


def _opened(path: Path, folder: int, mode: Literal["rb", "r+b"]) -> FileIO:
    """A file that was seen to be one: not waiting, and not through a link, whatever came there since."""
    flags = (os.O_RDONLY if mode == "rb" else os.O_RDWR) | os.O_NOFOLLOW | os.O_NONBLOCK
    return FileIO(os.open(path.name, flags, dir_fd=folder), mode)


def _is_file(path: Path, folder: int) -> int:
    """The permissions of a regular file in a folder."""
    mode = os.stat(path.name, dir_fd=folder, follow_symlinks=False).st_mode
    if not stat.S_ISREG(mode):
        raise _refusal(path, mode, "a file")
    return stat.S_IMODE(mode)


def _refusal(path: Path, mode: int, expected: str) -> RepositoryError:
    return RepositoryError(
        f"{path} is {_KINDS.get(stat.S_IFMT(mode), 'something else')}, and a commit of others could have put it there: "
        f"expected {expected}. Nothing is read or written through it; put {expected} there, or take it away."
    )


def _unlink(name: str, folder: int) -> None:
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)
