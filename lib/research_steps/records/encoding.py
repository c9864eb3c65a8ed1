"""The bytes of records and objects: canonical JSON, its hash, and strict reading.

A reader refuses unknown and missing fields, and names a schema newer than its own; nothing is guessed. The bytes that
were written are what is hashed, always: a record is never encoded again to check it.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Generic, TypeVar

import msgspec

from research_steps.errors import UnreadableObject
from research_steps.records.model import SCHEMA, EntryRecord, InterruptedRecord, Record, Ref, TrialRecord
from research_steps.records.objects import (
    Closed,
    FloorTrials,
    IDReservation,
    Intent,
    IssueLink,
    KnownTrials,
    Lease,
    Posting,
    Project,
    PublisherLease,
    Pushed,
    Seal,
    TrialPlan,
)
from research_steps.records.redaction import redact_tree, redactor

# What names, orders and classifies records comes from this package and is never taken for a secret.
_STRUCTURE = frozenset(
    (
        *("series", "subject", "key", "id", "nonce", "step", "step_key", "tag", "sha256", "code", "commit", "patch"),
        *("status", "mode", "kind", "where", "how", "order", "machine", "measure", "config_type"),
        *("verdict", "confidence", "estimand"),
        *("started_at", "finished_at", "lease_until", "claimed_at", "sealed_at", "linked_at", "decided_at"),
        *("tried_at", "closed_at", "marker", "planned_at", "held", "pushed_at", "environment"),
    )
)

R = TypeVar("R", TrialRecord, EntryRecord, InterruptedRecord, Record)
T = TypeVar("T")


@dataclass(frozen=True)
class Stored(Generic[R]):
    """A record together with the line it is kept as; `sha256` is its identity."""

    record: R
    line: bytes

    @cached_property
    def sha256(self) -> str:
        return sha256(self.line)

    @property
    def ref(self) -> Ref:
        return Ref(id=self.record.id, key=self.record.key, attempt=self.record.attempt, sha256=self.sha256)


class _Header(msgspec.Struct):
    schema: Annotated[int, msgspec.Meta(ge=1)]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def canonical(value: Any) -> bytes:
    """Canonical JSON of plain values, without the final LF. Raises ValueError on NaN, TypeError on anything else."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode("ascii")


def encode(value: msgspec.Struct) -> bytes:
    """The canonical bytes of a record or intent, without the final LF and without secrets."""
    return canonical(msgspec.to_builtins(_cleaned(value, redactor())))


def store_record(record: R) -> Stored[R]:
    """The record as it is kept: without secrets, with its line."""
    cleaned = _cleaned(record, redactor())
    return Stored(record=cleaned, line=canonical(msgspec.to_builtins(cleaned)))


def decode_record(data: bytes, where: str) -> Stored[Record]:
    """Read one record strictly. `where` names the object in the error. Raises UnreadableObject."""
    line = data.rstrip(b"\n")
    return Stored(record=_decode(_RECORD, line, where), line=line)


def decode(kind: type[T], data: bytes, where: str) -> T:
    """Read one object that is not a record strictly: an intent, a lease, a seal. Raises UnreadableObject."""
    decoder: msgspec.json.Decoder[T] = _DECODERS[kind]
    return _decode(decoder, data, where)


_RECORD = msgspec.json.Decoder(Record)
_HEADER = msgspec.json.Decoder(_Header)
_DECODERS: dict[type, "msgspec.json.Decoder[Any]"] = {
    kind: msgspec.json.Decoder(kind)
    for kind in (
        *(
            Intent,
            Lease,
            PublisherLease,
            IDReservation,
            Seal,
            Pushed,
            IssueLink,
            Project,
            Posting,
            Closed,
            FloorTrials,
            TrialPlan,
            KnownTrials,
        ),
    )
}


def _decode(decoder: "msgspec.json.Decoder[T]", line: bytes, where: str) -> T:
    try:
        found = _HEADER.decode(line).schema
        if found > SCHEMA:
            raise UnreadableObject(
                f"{where} has schema {found}, this version reads up to {SCHEMA}; it was skipped: "
                "install the newer research-steps to read it."
            )
        return decoder.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UnreadableObject(
            f"{where} is not a record ({error}); it was skipped and left as it is: "
            "restore it from a copy, or delete it if it never held a result."
        ) from error


def _cleaned(value: Any, clean: Callable[[str], str]) -> Any:
    if isinstance(value, msgspec.Struct):
        fields = {name: getattr(value, name) for name in value.__struct_fields__ if name not in _STRUCTURE}
        return msgspec.structs.replace(value, **{name: _cleaned(field, clean) for name, field in fields.items()})
    if isinstance(value, tuple):
        return tuple(_cleaned(item, clean) for item in value)
    return redact_tree(value, clean)
