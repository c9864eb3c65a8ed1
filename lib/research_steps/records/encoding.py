"""The bytes of records and objects: canonical JSON, its hash, and strict reading.

A reader refuses unknown and missing fields, and names a schema newer than its own; nothing is guessed. The bytes that
were written are what is hashed, always: a record is never encoded again to check it.
"""

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Generic, TypeVar

import msgspec

from research_steps.errors import NewerObject, UnreadableObject, UsageError
from research_steps.records import names
from research_steps.records.model import EntryRecord, InterruptedRecord, Record, Ref, TrialRecord, Versioned
from research_steps.records.objects import OBJECTS
from research_steps.records.redaction import redact_tree, redactor
from research_steps.records.series import MILESTONES, Series
from research_steps.records.step_kinds import STEP_KINDS, read_details

# What names, orders and classifies records comes from this package and is never taken for a secret.
_STRUCTURE = frozenset(
    (
        *("series", "subject", "key", "id", "nonce", "step", "step_key", "tag", "sha256", "code", "commit", "patch"),
        *("status", "mode", "kind", "where", "how", "order", "run", "machine", "measure", "config_type"),
        *("verdict", "confidence", "estimand"),
        *("started_at", "finished_at", "lease_until", "claimed_at", "sealed_at", "linked_at", "decided_at"),
        *(
            "tried_at",
            "closed_at",
            "marker",
            "planned_at",
            "told_at",
            "held",
            "pushed_at",
            "environment",
            "files",
            "submodules",
        ),
    )
)

R = TypeVar("R", TrialRecord, EntryRecord, InterruptedRecord, Record)
S = TypeVar("S", bound=msgspec.Struct)
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


def sha256(data: bytes | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()


def line_of(data: bytes) -> memoryview:
    """The line that an object holds, without the line feeds behind it; not copied, because a series holds thousands."""
    end = len(data)
    while data[end - 1 : end] == b"\n":
        end -= 1
    return memoryview(data)[:end]


def canonical(value: Any) -> bytes:
    """Canonical JSON of plain values, without the final LF. Raises ValueError on NaN, TypeError on anything else."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode("ascii")


def encode(value: msgspec.Struct) -> bytes:
    """The canonical bytes of a record or intent, without the final LF and without secrets."""
    return canonical(msgspec.to_builtins(without_secrets(value)))


def without_secrets(value: S) -> S:
    """The record, intent or bundle as it may be shown: each text in it without what looks like a secret."""
    cleaned: S = _cleaned(value, redactor())
    return cleaned


def store_record(record: R) -> Stored[R]:
    """The record as it is kept: without secrets, with its line."""
    cleaned = without_secrets(record)
    return Stored(record=cleaned, line=canonical(msgspec.to_builtins(cleaned)))


def decode_record(data: bytes, where: str, series: str = "") -> Stored[Record]:
    """Read one record strictly, of this `series` where one is named. `where` names the object in the error.

    Raises UnreadableObject; NewerObject for one that a later version wrote.
    """
    line = data.rstrip(b"\n")
    try:
        record = _RECORD.decode(line)
        told = 1 <= record.schema <= _SCHEMAS[type(record)]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        told = False
    if not told or (isinstance(record, EntryRecord) and record.step not in STEP_KINDS):
        # What is at the top tells a later version's from one that is broken.
        header = _strictly(_HEADER, line, where)
        kind = _RECORD_KINDS.get(header.kind)
        if header.kind and header.kind != "intent" and kind is None:
            raise _newer(where, f"is a record of the kind {header.kind!r}", header)
        if kind is not None:
            _check_schema(kind, header, where)
        if kind is EntryRecord and header.step not in STEP_KINDS:
            raise _newer(where, f"is an entry of the kind {header.step!r}", header)
        record = _strictly(_RECORD, line, where)
    if isinstance(record, EntryRecord):
        try:
            read_details(record.step, record.config)
        except msgspec.ValidationError as error:
            raise _broken(where, error) from error
    if series and record.series != series:
        raise UnreadableObject(
            f"{where} is a record of the series {record.series!r}: expected one of {series!r}. It was skipped and left "
            "as it is: take it away from here."
        )
    return Stored(record=record, line=line)


class ToldTrial(msgspec.Struct, frozen=True, gc=False, tag_field="kind", tag="trial"):
    """What a trial's record says of what was measured, and where; the rest is not read. By a row's hash that is known to
    be whole."""

    schema: int
    series: str
    id: names.RecordID
    config: dict[str, Any]
    device_class: str
    late: bool


def decode_told(data: bytes, series: str) -> Stored[Any] | None:
    """What a trial measured, of a record of this `series` that is known to be whole, and no late one. None where that is
    more than can be told: `decode_record` tells why."""
    try:
        record = _TOLD.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    known = 1 <= record.schema <= _SCHEMAS[TrialRecord] and record.series == series and not record.late
    return Stored(record, data.rstrip(b"\n")) if known else None


def decode(kind: type[T], data: bytes, where: str) -> T:
    """Read one object that is not a record strictly: an intent, a lease, a seal. Raises as `decode_record` does."""
    _check_schema(kind, _strictly(_HEADER, data, where), where)
    decoder: msgspec.json.Decoder[T] = _DECODERS[kind]
    return _strictly(decoder, data, where)


def decode_series(data: bytes, topic: str, where: str) -> Series:
    """The series of this topic as a thread declared it, from JSON. Raises UnreadableObject."""
    try:
        fields = msgspec.json.decode(data, type=dict[str, Any])
        # A later version may post kinds of steps that are not known here, and declare what is not asked here.
        fields["milestones"] = [kind for kind in fields.get("milestones", MILESTONES) if kind in STEP_KINDS]
        series = msgspec.convert(fields, Series)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, TypeError, UsageError) as error:
        raise UnreadableObject(f"{where} is not a series ({error}): run the thread again.") from error
    if series.topic != topic:
        raise UnreadableObject(f"{where} is the series {series.topic}, expected {topic}: run the thread again.")
    return series


class _Header(msgspec.Struct):
    """What every version writes at the top of an object, whatever else it holds."""

    schema: Annotated[int, msgspec.Meta(ge=1)]
    kind: str = ""
    step: str = ""
    provenance: Any = None


def verified(data: bytes, sha: str, where: str) -> bytes:
    """The bytes, once they are known to be those that a hash names. Raises UnreadableObject."""
    if sha256(data) != sha:
        raise UnreadableObject(
            f"{where} should have the hash {sha[:12]}, and its bytes have {sha256(data)[:12]}: it was changed after it "
            "was written. Restore it from a copy."
        )
    return data


_RECORD = msgspec.json.Decoder(Record)
_TOLD = msgspec.json.Decoder(ToldTrial)
_PATTERN = re.compile(r"`str` matching regex '.*'(?: -)?(?= |$)")
_HEADER = msgspec.json.Decoder(_Header)
_RECORD_KINDS: dict[str, type[Versioned]] = {
    "trial": TrialRecord,
    "entry": EntryRecord,
    "interrupted": InterruptedRecord,
}
_DECODERS: dict[type, "msgspec.json.Decoder[Any]"] = {kind: msgspec.json.Decoder(kind) for kind in OBJECTS}
_SCHEMAS: dict[type, int] = {
    kind: next(field.default for field in msgspec.structs.fields(kind) if field.name == "schema")
    for kind in (*_RECORD_KINDS.values(), *OBJECTS)
}


def _strictly(decoder: "msgspec.json.Decoder[T]", line: bytes, where: str) -> T:
    try:
        return decoder.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _broken(where, error) from error


def _check_schema(kind: type, header: _Header, where: str) -> None:
    if header.schema > _SCHEMAS[kind]:
        raise _newer(where, f"has schema {header.schema}, and this version reads up to {_SCHEMAS[kind]}", header)


def _newer(where: str, what: str, header: _Header) -> NewerObject:
    packages = header.provenance.get("packages") if isinstance(header.provenance, dict) else None
    version = packages.get("research-steps") if isinstance(packages, dict) else None
    wanted = f"research-steps {version} or later" if isinstance(version, str) else "the newest research-steps"
    return NewerObject(
        f"{where} is newer than this version: it {what}. It was left as it is: install {wanted} to read it."
    )


def _broken(where: str, error: Exception) -> UnreadableObject:
    # How a time or a name is spelled is written down for machines.
    told = _PATTERN.sub("text of another form", str(error))
    return UnreadableObject(
        f"{where} is not a record ({told}); it was skipped and left as it is: "
        "restore it from a copy, or delete it if it never held a result."
    )


def _cleaned(value: Any, clean: Callable[[str], str]) -> Any:
    if isinstance(value, msgspec.Struct):
        fields = {name: getattr(value, name) for name in value.__struct_fields__ if name not in _STRUCTURE}
        return msgspec.structs.replace(value, **{name: _cleaned(field, clean) for name, field in fields.items()})
    if isinstance(value, tuple):
        return tuple(_cleaned(item, clean) for item in value)
    return redact_tree(value, clean)
