"""Holding off other publishers of one work tree, by a lock in its git directory."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from research_steps.errors import LogbookError, SurfaceError
from research_steps.git import Checkout

LOCK_WAIT_S = 120.0


@contextmanager
def locked(
    checkout: Checkout, name: str, path: Path, failed: type[LogbookError | SurfaceError], so: str = ""
) -> Iterator[None]:
    """Holds off the others at `path` inside the block. That they don't end, and a system error inside, are told as an
    error of the class `failed`; what the latter means, `so` says."""
    # It imports asyncio, which takes longer than all that only reads.
    from filelock import FileLock, Timeout

    try:
        checkout.private.mkdir(parents=True, exist_ok=True)
        with FileLock(checkout.private / f"{name}.lock", timeout=LOCK_WAIT_S).acquire(poll_interval=0.02):
            yield
    except Timeout as error:
        raise failed(
            f"{path} has been held by another process for {LOCK_WAIT_S:.0f} s (the lock is {error.lock_file}): run "
            "'research sync' again when it is done."
        ) from error
    except OSError as error:
        raise failed(f"{error.filename or path} could not be used: {error.strerror}.{so}") from error
