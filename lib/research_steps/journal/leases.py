"""Leases: who holds something in the store, and until when, without a lock server.

A lease is an object that its holder replaces while it lives. It ends when it isn't renewed, or at once when its holder
was a process of this machine that is gone; one that is there and goes on holds it whatever any clock says. How long ago
it was renewed tells the store, because the clocks of machines differ, and jump.
"""

import math
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

from research_steps.errors import StoreError, UnreadableObject
from research_steps.journal.objects import Objects
from research_steps.records.encoding import decode, encode
from research_steps.records.model import Owner
from research_steps.records.objects import Lease, PublisherLease
from research_steps.records.times import parse_utc, utc

LEASE_S = 60.0
# How far the clock of a holder may be from that of the store. What says that it ends at another time is no lease.
LARGEST_SKEW = timedelta(hours=1)
GIVEN_BACK = datetime.fromtimestamp(0, UTC)
# The nonces of the attempts that this process is at.
AT_WORK: set[str] = set()


class Leases:
    """Renews the leases that this process holds in one series; one thread does it for all of them."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._lock = threading.Lock()
        self._names: set[str] = set()
        self._keeper: threading.Thread | None = None
        # When the store was last asked for its time: on the clock of this process that nobody sets (seconds).
        self._asked_at, self._time = -math.inf, GIVEN_BACK

    @contextmanager
    def renewing(self, name: str, until: datetime) -> Iterator[None]:
        """Renew a lease that was given until then, until the block ends."""
        if until - datetime.now(UTC) < timedelta(seconds=LEASE_S * 2 / 3):
            # The store took long to tell of it.
            self._put(name, lease_end())
        with self._lock:
            self._names.add(name)
            if self._keeper is None:
                self._keeper = threading.Thread(target=self._keep, daemon=True, name="research-leases")
                self._keeper.start()
        try:
            yield
        finally:
            with self._lock:
                self._names.discard(name)

    @contextmanager
    def of_publisher(self, surface: str) -> Iterator[Owner | None]:
        """Hold the publisher's lease of a surface inside the block; yields the process that has it, if not this one.

        One that could not give it back, or is stopped for longer than it lasts, loses it, and may still write: surfaces
        mend what comes of that.
        """
        while True:
            turns = self._objects.numbered(f"turns/{surface}")
            last = max(turns, key=lambda path: turns[path], default="")
            turn = self._objects.get(last, partial(decode, PublisherLease)) if last else None
            # What a power cut broke was held by nobody who is still there.
            if isinstance(turn, PublisherLease) and goes_on(turn.by) is not False:
                until = self.until(last, _renewal(last), parse_utc(turn.lease_until))
                if until > datetime.now(UTC):
                    yield turn.by
                    return
            path = self._objects.path(f"turns/{surface}/{turns.get(last, 0) + 1:06d}.json")
            until = lease_end()
            mine = PublisherLease(by=this_process(), lease_until=utc(until), nonce=secrets.token_hex(8))
            if self._objects.create(path, mine):
                break
        try:
            with self.renewing(_renewal(path), until):
                yield None
        finally:
            # A store that is away keeps it until it runs out by itself.
            with suppress(StoreError):
                self._put(_renewal(path), GIVEN_BACK)

    def until(self, given: str, renewal: str, first: datetime, length: timedelta = timedelta.max) -> datetime:
        """When a lease ends, by the clock of this process, that its owner was given with an object, and may have renewed
        by another. By the owner's clock it was given until `first`, for no longer than LEASE_S in any case."""
        renewed = self._renewed(renewal)
        name, stated = (given, first) if renewed is None else (renewal, renewed)
        written, now = self._objects.store.written(name), datetime.now(UTC)
        length = min(length, timedelta(seconds=LEASE_S))
        if written is None or abs(written + length - stated) > LARGEST_SKEW:
            return now
        try:
            return now + (written + length - self.now())
        except StoreError:
            # Who may write nothing there can't know how old it is, nor take it over.
            return now + length

    def age(self, name: str) -> timedelta | None:
        """How long ago an object of the store was written; None where there is none. Raises StoreError."""
        written = self._objects.store.written(name)
        return None if written is None else self.now() - written

    def now(self) -> datetime:
        """The time by the store's clock. What all write, to ask for it, says nothing else."""
        age_s = time.monotonic() - self._asked_at
        if age_s > LEASE_S:
            path = self._objects.path("clock")
            self._objects.store.put(path, b"\n")
            written = self._objects.store.written(path)
            if written is None:
                raise StoreError(f"{self._objects.where(path)} was written and is not there.")
            self._asked_at, self._time, age_s = time.monotonic(), written, 0.0
        return self._time + timedelta(seconds=age_s)

    def _renewed(self, path: str) -> datetime | None:
        """Until when a lease was renewed last, by its holder's clock; None where it was not."""
        try:
            renewal = self._objects.store.read(path)
            return None if renewal is None else parse_utc(decode(Lease, renewal, path).lease_until)
        except UnreadableObject:
            # It is not written durably; one that a power cut broke was held by nobody who is still there.
            return None

    def _put(self, name: str, until: datetime) -> None:
        self._objects.store.put(name, encode(Lease(lease_until=utc(until))) + b"\n")

    def _keep(self) -> None:
        while True:
            time.sleep(LEASE_S / 3)
            with self._lock:
                if not self._names:
                    self._keeper = None
                    return
                names = list(self._names)
            for name in names:
                # A store that is away for a while ends the lease at worst; a record is then kept as late. One that
                # was given back in the meantime stays so.
                with self._lock, suppress(StoreError):
                    if name in self._names:
                        self._put(name, lease_end())


def _renewal(turn: str) -> str:
    """The path of the lease by which a publisher's turn is renewed."""
    folder, _, name = turn.rpartition("/")
    return f"{folder}/leases/{name}"


def lease_end() -> datetime:
    """When a lease ends that is given or renewed now."""
    return datetime.now(UTC) + timedelta(seconds=LEASE_S)


def goes_on(owner: Owner) -> bool | None:
    """Whether a process of this machine is there. None for one elsewhere, of which nothing is known, and for one that is
    stopped, which may never go on."""
    if owner.machine != machine():
        return None
    process = _process(owner.pid)
    if process is None or abs(process.started - owner.process_started) >= 1.0:
        return False
    return None if process.is_stopped else True


@cache
def machine() -> str:
    """This machine since its last boot, as seen from this PID namespace."""
    parts = [socket.gethostname()]
    if sys.platform == "linux":
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")]
    else:
        import psutil

        parts.append(f"{psutil.boot_time():.0f}")
    return "/".join(parts)


def this_process() -> Owner:
    process = _process(os.getpid())
    started = process.started if process is not None else 0.0
    return Owner(machine=machine(), host=socket.gethostname(), pid=os.getpid(), process_started=started)


class _Process(NamedTuple):
    started: float
    is_stopped: bool


def _process(pid: int) -> _Process | None:
    """When a process started, in seconds, and whether it is stopped; None when it is gone or only waits to be reaped.

    Linux counts from boot, which setting the clock doesn't move; psutil elsewhere.
    """
    if sys.platform != "linux":
        import psutil

        try:
            process = psutil.Process(pid)
            status, started = process.status(), float(process.create_time())
        except psutil.NoSuchProcess:
            return None
        return None if status == psutil.STATUS_ZOMBIE else _Process(started, status == psutil.STATUS_STOPPED)
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    if fields[0] in (b"Z", b"X"):
        return None
    return _Process(int(fields[19]) / os.sysconf("SC_CLK_TCK"), fields[0] in (b"T", b"t"))
