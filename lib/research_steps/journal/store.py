"""The store: durable objects by name, each created at most once, on local disk or in an object store.

The one promise that everything rests on is `create`: of any number of writers, on any number of machines, exactly one
creates an object, and nobody ever sees half of one. Local disk does it with a hard link to a complete temporary
file; S3 and GCS with a conditional put. There is no lock server, and no listing is trusted for exclusion.
"""

import errno
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from research_steps.errors import StoreError, UnreadableObject, UsageError
from research_steps.files import open_file
from research_steps.terminal import visible_line

if TYPE_CHECKING:
    from tenacity import RetryCallState

# How often an object store is asked again that can't decide between two writers (seconds between the tries).
UNDECIDED_WAITS_S = (0.1, 0.2, 0.4, 0.8)
# How long a run waits for an object store that it can't reach: what it has measured would be lost otherwise.
AWAY_S = 600.0
READ_AT_ONCE = 1 << 16
DEFAULT_STORE = "local_store"
# What opening a socket, a pipe, a device, a folder or links in a circle ends with.
_NO_FILE = (errno.EINVAL, errno.ENXIO, errno.ELOOP)
_RULES = (PermissionError, FileNotFoundError, ValueError, TypeError)

log = logging.getLogger(__name__)

T = TypeVar("T")


def store_url(root: Path, prefix: str | None) -> str:
    """Where the store of the checkout at `root` lies: as given, else MARIN_PREFIX, else local_store/ below it."""
    url = prefix or os.environ.get("MARIN_PREFIX") or str(root / DEFAULT_STORE)
    return url.rstrip("/") if "://" in url else str(Path(url).absolute())


def open_store(url: str, away_s: float = 0.0) -> "LocalStore | ObjectStore":
    """The store under a local path or an s3:// or gs:// URL (gs:// is the same code, untested here).

    One in a network that can't be reached is asked again for `away_s` (seconds).
    """
    scheme, separator, _ = url.partition("://")
    if not separator or scheme == "file":
        return LocalStore(Path(url.removeprefix("file://")).absolute())
    if scheme not in ("s3", "gs"):
        raise UsageError(
            f"The store {url!r} can't hold a journal: expected a local path, s3:// or gs://, because a journal needs "
            "conditional create."
        )
    return ObjectStore(url.rstrip("/"), away_s)


class LocalStore:
    """Objects as files below one folder. What each method promises holds for object stores too."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.url = str(root)

    def create(self, name: str, data: bytes) -> bool:
        """Write durably unless the name is taken. True when these very bytes are now the object."""
        final = self.root / name
        with _aside(final, data) as file:
            try:
                os.link(file.name, final)
            except FileExistsError:
                try:
                    return self.read(name) == data
                except UnreadableObject as error:
                    raise _refused("write", final, error.__cause__ or error) from error
            # The link changed the inode, so this one fsync makes both bytes and name last.
            os.fsync(file.fileno())
        return True

    def put(self, name: str, data: bytes) -> None:
        """Write or replace; not durable against a power cut. For the few objects that change, such as leases."""
        final = self.root / name
        with _aside(final, data) as file:
            os.replace(file.name, final)

    def read(self, name: str) -> bytes | None:
        """The object's bytes, or None when there is none. Raises UnreadableObject for what is no file."""
        try:
            # A status reads thousands, and file objects ask the system twice as much as that takes.
            file = open_file(f"{self.root}/{name}")
            try:
                size = os.fstat(file).st_size
                data = os.read(file, size + 1)
                # What grows meanwhile, or tells no size, goes on.
                return data if len(data) == size else data + b"".join(iter(partial(os.read, file, READ_AT_ONCE), b""))
            finally:
                os.close(file)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            if error.errno in _NO_FILE:
                raise UnreadableObject(
                    f"{self.root / name} is no file; it was skipped and left as it is: remove it, because no record is "
                    "there."
                ) from error
            raise _refused("read", self.root / name, error) from error

    def read_many(self, names: Iterable[str]) -> dict[str, bytes | UnreadableObject]:
        """The bytes of those that exist; of what is no file, that."""
        contents: dict[str, bytes | UnreadableObject] = {}
        for name in names:
            try:
                data: bytes | UnreadableObject | None = self.read(name)
            except UnreadableObject as error:
                data = error
            if data is not None:
                contents[name] = data
        return contents

    def written(self, name: str) -> datetime | None:
        """When an object was written, by the store's clock, which is one for all machines; None where there is none."""
        try:
            return datetime.fromtimestamp((self.root / name).stat().st_mtime, UTC)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise _refused("read", self.root / name, error) from error

    def names(self, folder: str) -> list[str]:
        """The object names directly inside a folder, sorted, with the folder."""
        try:
            return sorted(f"{folder}/{name}" for name in os.listdir(self.root / folder) if not name.startswith("."))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise _refused("list", self.root / folder, error) from error

    def give_up(self) -> None:
        """Wait no longer for a store that can't be reached, in any thread; a disk is never waited for."""


class ObjectStore:
    """Objects in a bucket, through fsspec."""

    def __init__(self, url: str, away_s: float) -> None:
        import fsspec

        self.url = url
        self._away_s = away_s
        self._given_up = threading.Event()
        try:
            fs, self._base = fsspec.core.url_to_fs(url, use_listings_cache=False)
        except ImportError as error:
            extra = {"s3": "s3", "gs": "gcs"}[url.partition(":")[0]]
            raise UsageError(f"The store {url} needs a library: pip install 'research-steps[{extra}]'.") from error
        self._fs: Any = fs
        self._refuses = False

    def create(self, name: str, data: bytes) -> bool:
        return self._ask("write", name, lambda path: self._create(path, data)) is True

    def put(self, name: str, data: bytes) -> None:
        self._ask("write", name, lambda path: self._fs.pipe_file(path, data))

    def read(self, name: str) -> bytes | None:
        data: bytes | None = self._ask("read", name, self._fs.cat_file)
        return data

    def read_many(self, names: Iterable[str]) -> dict[str, bytes | UnreadableObject]:
        wanted = list(names)
        return (self._ask("read", wanted[0], lambda path: self._read_many(wanted)) if wanted else None) or {}

    def written(self, name: str) -> datetime | None:
        written: datetime | None = self._ask("read", name, self._fs.modified)
        return written

    def names(self, folder: str) -> list[str]:
        listed = self._ask("list", folder, lambda path: self._fs.ls(path, detail=False)) or ()
        return sorted(f"{folder}/{path.rsplit('/', 1)[-1]}" for path in listed if not path.endswith("/"))

    def give_up(self) -> None:
        self._given_up.set()

    def _ask(self, verb: str, name: str, ask: Callable[[str], T]) -> T | None:
        """What the object store answers for a path, None where nothing is. While it is away it is asked again."""

        def once() -> T | None:
            try:
                return ask(f"{self._base}/{name}")
            except StoreError:
                raise
            except Exception as error:
                if isinstance(error, FileNotFoundError) and verb != "write":
                    return None
                raise _refused(verb, f"{self.url}/{name}", error) from error

        if not self._away_s:
            return once()
        import tenacity

        return tenacity.Retrying(
            retry=tenacity.retry_if_exception(_may_pass),
            wait=tenacity.wait_exponential(multiplier=0.5, max=10.0) + tenacity.wait_random(0.0, 0.5),
            stop=tenacity.stop_after_delay(self._away_s) | tenacity.stop_when_event_set(self._given_up),
            sleep=tenacity.sleep_using_event(self._given_up),
            before_sleep=self._tell_first,
            reraise=True,
        )(once)

    def _tell_first(self, state: "RetryCallState") -> None:
        if state.attempt_number == 1 and state.outcome is not None:
            log.warning(
                "%s It is asked again for %g s at most.", visible_line(str(state.outcome.exception())), self._away_s
            )

    def _create(self, path: str, data: bytes) -> bool:
        self._check_conditional_create()
        waits = list(UNDECIDED_WAITS_S)
        while True:
            try:
                self._fs.pipe_file(path, data, mode="create")
                return True
            except Exception as error:
                # Taken, or accepted while the answer was lost: what is there now tells. Stores spell the refusal
                # differently, so its type is not asked.
                with suppress(Exception):
                    return bool(self._fs.cat_file(path) == data)
                if "ConditionalRequestConflict" not in repr(error.__cause__) or not waits:
                    raise
                time.sleep(waits.pop(0))

    def _read_many(self, names: Sequence[str]) -> dict[str, bytes | UnreadableObject]:
        paths = {f"{self._base}/{name}": name for name in names}
        contents: dict[str, bytes | UnreadableObject] = {}
        for path, data in self._fs.cat(list(paths), on_error="return").items():
            if isinstance(data, bytes):
                contents[paths[path]] = data
            elif not isinstance(data, FileNotFoundError):
                raise _refused("read", f"{self.url}/{paths[path]}", data) from data
        return contents

    def _check_conditional_create(self) -> None:
        """Refuse a store that replaces an object where it should not: there every writer would be the first."""
        path = f"{self._base}/.research-steps-conditional-create"
        for _ in range(2):
            if self._refuses:
                return
            try:
                self._fs.pipe_file(path, b"\n", mode="create")
            except Exception:  # noqa: BLE001  # whatever else is wrong, the write that follows tells it
                self._refuses = True
        if not self._refuses:
            raise StoreError(
                f"The store {self.url} can't hold a journal: it replaced an object that it was asked only to create. "
                "Use one with conditional writes (If-None-Match), or a newer s3fs and botocore."
            )


class RehearsalStore:
    """A store for a dry run: what is written stands before what the one `below` holds, and is gone with this object.

    Whoever writes to it goes the whole way, with the numbers and refusals of the real one, and leaves nothing there.
    """

    def __init__(self, below: LocalStore | ObjectStore) -> None:
        self.url = below.url
        self._below = below
        self._written: dict[str, tuple[bytes, datetime]] = {}

    def create(self, name: str, data: bytes) -> bool:
        there = self.read(name)
        if there is None:
            self.put(name, data)
        return there in (None, data)

    def put(self, name: str, data: bytes) -> None:
        self._written[name] = data, datetime.now(UTC)

    def read(self, name: str) -> bytes | None:
        return self._written[name][0] if name in self._written else self._below.read(name)

    def read_many(self, names: Iterable[str]) -> dict[str, bytes | UnreadableObject]:
        wanted = list(names)
        own = {name: self._written[name][0] for name in wanted if name in self._written}
        return {**self._below.read_many(name for name in wanted if name not in own), **own}

    def written(self, name: str) -> datetime | None:
        return self._written[name][1] if name in self._written else self._below.written(name)

    def names(self, folder: str) -> list[str]:
        below = len(folder) + 1
        own = (name[:below] + name[below:].partition("/")[0] for name in self._written if name.startswith(f"{folder}/"))
        return sorted({*self._below.names(folder), *own})

    def give_up(self) -> None:
        self._below.give_up()


Store = LocalStore | ObjectStore | RehearsalStore


@contextmanager
def _aside(final: Path, data: bytes) -> Iterator[BinaryIO]:
    """A temporary file with these bytes beside the final one, gone in the end unless it was renamed. Raises
    StoreError."""
    temporary = final.parent / f".{os.getpid()}-{secrets.token_hex(6)}.tmp"
    try:
        try:
            file = temporary.open("xb")
        except FileNotFoundError:
            final.parent.mkdir(parents=True, exist_ok=True)
            file = temporary.open("xb")
        try:
            with file:
                file.write(data)
                file.flush()
                yield file
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise _refused("write", final, error) from error


def _may_pass(error: BaseException) -> bool:
    """Whether a store that failed so may answer later: what it refuses by rule, it refuses again."""
    cause = error.__cause__
    if cause is None or isinstance(cause, _RULES) or type(cause).__name__.endswith("CredentialsError"):
        return False
    return isinstance(error, StoreError)


def _refused(verb: str, where: object, error: BaseException) -> StoreError:
    reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
    return StoreError(
        f"The store could not {verb} {where}: {reason}. What was recorded before is safe; "
        "mend space, permissions or network (a folder needs a file system with hard links), then run again."
    )
