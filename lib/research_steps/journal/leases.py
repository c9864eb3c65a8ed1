"""Leases: who holds something in the store, and until when, without a lock server.

A lease is an object that its holder replaces while it lives. It ends when it isn't renewed, or at once when its holder
was a process of this machine that is gone.
"""

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

from research_steps.errors import StoreError, UnreadableObject
from research_steps.journal.objects import Objects
from research_steps.records.encoding import decode, encode
from research_steps.records.model import Owner
from research_steps.records.objects import Lease, PublisherLease
from research_steps.records.times import parse_utc, utc

LEASE_S = 60.0
# How long a lease can seem to last, whose holder's clock and this one differ.
LONGEST = timedelta(seconds=LEASE_S) + timedelta(hours=1)


class Leases:
    """Renews the leases that this process holds in one series; one thread does it for all of them."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._lock = threading.Lock()
        self._names: set[str] = set()
        self._keeper: threading.Thread | None = None

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

        A publisher that is stopped for longer than its lease may still write: surfaces mend what comes of that.
        """
        while True:
            turns = self._objects.numbered(f"turns/{surface}")
            last = max(turns, key=lambda path: turns[path], default="")
            turn = self._objects.get(last, partial(decode, PublisherLease)) if last else None
            # What a power cut broke was held by nobody who is still there.
            if isinstance(turn, PublisherLease):
                until = self.until(_renewal(last), parse_utc(turn.lease_until))
                if not abandoned(turn.by, until):
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
                self._put(_renewal(path), datetime.now(UTC))

    def until(self, name: str, first: datetime) -> datetime:
        """When a lease ends that was first given until `first`."""
        try:
            extended = self._objects.store.read(name)
            return first if extended is None else parse_utc(decode(Lease, extended, name).lease_until)
        except UnreadableObject:
            # A lease is not written durably; one that a power cut broke was held by nobody who is still there.
            return first

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


def abandoned(owner: Owner, until: datetime) -> bool:
    """True when a lease ran out, or its holder on this machine is gone; or when it would last for longer than anybody is
    given one, because a clock was wrong."""
    left = until - datetime.now(UTC)
    return not timedelta(0) < left < LONGEST or ended_here(owner)


def ended_here(owner: Owner) -> bool:
    """True for a process of this machine that is gone. Of one elsewhere nothing is known: False."""
    return owner.machine == machine() and not _alive(owner.pid, owner.process_started)


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
    return Owner(
        machine=machine(), host=socket.gethostname(), pid=os.getpid(), process_started=_started(os.getpid()) or 0.0
    )


def _alive(pid: int, started: float) -> bool:
    since = _started(pid)
    return since is not None and abs(since - started) < 1.0


def _started(pid: int) -> float | None:
    """When a process started, in seconds; None when it is gone or only waits to be reaped.

    Linux counts from boot, which setting the clock doesn't move; psutil elsewhere.
    """
    if sys.platform != "linux":
        import psutil

        try:
            process = psutil.Process(pid)
            return None if process.status() == psutil.STATUS_ZOMBIE else float(process.create_time())
        except psutil.NoSuchProcess:
            return None
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19]) / os.sysconf("SC_CLK_TCK")
