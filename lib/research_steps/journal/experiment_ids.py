"""Experiment IDs: one sequence for each series; a number is reserved before work begins, and never given twice."""

import re
import threading
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from research_steps.errors import StoreError, UnreadableObject
from research_steps.journal.attempts import Attempts
from research_steps.journal.leases import this_process
from research_steps.journal.objects import Objects
from research_steps.records.encoding import Stored, decode
from research_steps.records.model import EntryRecord
from research_steps.records.objects import IDReservation
from research_steps.records.series import format_id
from research_steps.records.times import utc

_NUMBER = re.compile(r"[0-9]{1,9}$")
# The largest number that an ID can have here.
_LAST = 999_999_999
_RESERVATION = partial(decode, IDReservation)


@dataclass(frozen=True)
class ReservedID:
    """An experiment ID, and the step that holds it."""

    number: int
    id: str
    step_key: str


class OtherNumbers(Protocol):
    """The numbers of a series that are taken outside of its store."""

    def turn(self) -> AbstractContextManager[None]:
        """Holds off others that ask for a number, from the look at what is reserved until one is."""

    def shown(self) -> set[int]:
        """Those of entries that were published."""

    def next(self, after: int) -> int:
        """A number above this one, and above all that are taken."""


class NoOthers:
    """The store alone gives numbers."""

    def turn(self) -> AbstractContextManager[None]:
        return nullcontext()

    def shown(self) -> set[int]:
        return set()

    def next(self, after: int) -> int:
        return after + 1


class ExperimentIDs:
    """The IDs of one series. Only drivers reserve them."""

    def __init__(self, objects: Objects, attempts: Attempts) -> None:
        self._objects = objects
        self._attempts = attempts
        self._reserving = threading.Lock()

    def reserved(self) -> list[ReservedID]:
        """All reserved experiment IDs in order."""
        numbers = self._objects.numbered("claims")
        reserved = []
        for path, reservation in self._objects.final(numbers, _RESERVATION).items():
            # The number of one that can't be read is taken all the same, by a step that can't be told.
            id, step_key = "", ""
            if isinstance(reservation, IDReservation):
                id, step_key = reservation.id, reservation.step_key
            reserved.append(ReservedID(numbers[path], id, step_key))
        return reserved

    def may_hold(self, id: str) -> bool:
        """Whether a step of this series reserved an experiment ID, as far as that can be read."""
        number = _NUMBER.search(id)
        reservation = self._objects.get(self._path(int(number[0])), _RESERVATION) if number else None
        return isinstance(reservation, UnreadableObject) or (reservation is not None and reservation.id == id)

    def reserve(self, prefix: str, step_key: str, others: OtherNumbers, after: str | None = None) -> str:
        """The next free experiment ID for a step: the one that it holds unfinished, unless that was published by
        another one since, else a new one. Where the caller knows it to have finished no other one than `after`, and it
        has by now, that one: somebody else was faster."""
        # Two that ask for one step would each be given a number of their own, and neither would see the other's.
        with self._reserving, others.turn():
            # Before it is asked whether the step has finished: what it has published itself, it had finished by then.
            shown, taken = others.shown(), 0
            while True:
                reserved = self.reserved()
                own = [earlier for earlier in reserved if earlier.step_key == step_key]
                if own:
                    has_finished = self._finished(own[-1].id) is not None
                    if after not in (None, own[-1].id) if has_finished else own[-1].number not in shown:
                        return own[-1].id
                taken = others.next(max([taken, *(earlier.number for earlier in reserved)]))
                if taken > _LAST:
                    raise StoreError(
                        f"{self._objects.where(self._path(_LAST))} takes the last number of an experiment ID: remove "
                        "it, because no series has so many."
                    )
                reservation = IDReservation(
                    id=format_id(prefix, taken), step_key=step_key, claimed_at=utc(), by=this_process()
                )
                if self._objects.create(self._path(taken), reservation):
                    return reservation.id

    def latest_entry(self, step_key: str) -> Stored[EntryRecord] | None:
        """The standing entry of the newest ID that a step reserved, or None while that one is unfinished."""
        own = [reserved.id for reserved in self.reserved() if reserved.step_key == step_key]
        return self._finished(own[-1]) if own else None

    def _path(self, number: int) -> str:
        return self._objects.path(f"claims/{number:06d}.json")

    def _finished(self, id: str) -> Stored[EntryRecord] | None:
        match self._attempts.of("entry", id):
            case [*_, Stored(record=EntryRecord() as record, line=line)]:
                return Stored(record, line)
        return None
