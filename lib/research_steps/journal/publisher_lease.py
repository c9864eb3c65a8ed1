"""Whose turn it is to publish on a surface: one publisher at a time, by a numbered object with a lease for each turn."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial

from research_steps.journal.journal import Journal
from research_steps.journal.leases import abandoned, lease_end, this_process
from research_steps.records.encoding import decode
from research_steps.records.model import Owner
from research_steps.records.objects import PublisherLease
from research_steps.records.times import parse_utc, utc

_LEASE = partial(decode, PublisherLease)


@contextmanager
def publisher_lease(journal: Journal, surface: str) -> Iterator[Owner | None]:
    """Hold the publisher's lease of a surface inside the block; yields the process that has it, if not this one.

    A publisher that is stopped for longer than its lease may still write: surfaces mend what comes of that.
    """
    objects, leases = journal.objects, journal.leases
    while True:
        number = max(objects.numbered(f"turns/{surface}").values(), default=0)
        last, path = (objects.path(f"turns/{surface}/{turn:06d}.json") for turn in (number, number + 1))
        turn = objects.final([last], _LEASE).get(last)
        # What a power cut broke was held by nobody who is still there.
        if isinstance(turn, PublisherLease):
            until = leases.until(_renewals(last), parse_utc(turn.lease_until))
            # Nobody is given a lease for so long: a clock was wrong.
            if not abandoned(turn.by, until) and until < lease_end() + timedelta(hours=1):
                yield turn.by
                return
        until = lease_end()
        mine = PublisherLease(by=this_process(), lease_until=utc(until), nonce=secrets.token_hex(8))
        if objects.create(path, mine):
            break
    try:
        with leases.held(_renewals(path), until):
            yield None
    finally:
        leases.end(_renewals(path))


def _renewals(turn: str) -> str:
    """The path of the lease that a turn was extended to."""
    folder, _, name = turn.rpartition("/")
    return f"{folder}/leases/{name}"
