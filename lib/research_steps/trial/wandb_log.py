"""The file of a W&B run, read as far as it goes: that of a process that was killed ends anywhere.

It is W&B's header, then protocol buffers (https://protobuf.dev/programming-guides/encoding) in the blocks of LevelDB's
log (https://github.com/google/leveldb/blob/main/doc/log_format.md) with a plain CRC-32 over type and data. The numbers
of fields are those of W&B's wandb_internal.proto:
https://github.com/wandb/wandb/blob/main/wandb/proto/wandb_internal.proto
"""

import json
import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from research_steps.errors import SurfaceError
from research_steps.files import open_file

MAGIC = b":W&B\xe1\xbe\x00"
BLOCK = 32768
PART = struct.Struct("<IHB")
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4
# A record's number is its field 1.
HISTORY, SUMMARY, CONFIG, RUN = 2, 3, 5, 17
_TEXTS, _CONFIG_OF_RUN, _TAG = {1: "id", 3: "project", 6: "group", 7: "job_type", 8: "name", 9: "notes"}, 4, 10
_ITEM, _KEYS, _VALUE = 1, (1, 2), 16
# How that value begins, which nothing else in an item is.
_VALUE_BEGINS = b"\x82\x01"
# What a file may have to be held as plain values (bytes), which take several times as much.
LARGEST = 200_000_000


class _Torn(Exception):
    """A message or a file ends before its end, or is none."""


@dataclass
class RunLog:
    """What a run's files hold of it. A row has its step as `_step`; numbers of a mapping stand below its name."""

    id: str = ""
    project: str = ""
    group: str = ""
    job_type: str = ""
    name: str = ""
    notes: str = ""
    tags: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)


def read_run(paths: Iterable[Path]) -> RunLog:
    """What the files of a run say together, one after the other: one that was resumed has several. What is no such file
    says nothing. Raises OSError where one can't be opened, SurfaceError where one has over 200 MB."""
    log = RunLog()
    for path in paths:
        with open(open_file(path, os.O_NOFOLLOW), "rb") as file:
            for kind, body in _records(file):
                with suppress(_Torn):
                    _take(log, kind, body)
    return log


def begun_run(path: Path) -> RunLog:
    """What a run's file says at its beginning, without an ID where it does not get that far. Raises as `read_run`."""
    log = RunLog()
    with open(open_file(path, os.O_NOFOLLOW), "rb") as file:
        for kind, body in _records(file):
            with suppress(_Torn):
                _take(log, kind, body)
            if log.id:
                break
    return log


def some_rows(paths: Iterable[Path], most: int) -> list[dict[str, Any]]:
    """Rows of a run's history, in their order: so many that are evenly spaced, and so many of those with the most
    values, among which is what is logged seldom. Raises as `read_run`."""
    bodies: list[bytes] = []
    for path in paths:
        with open(open_file(path, os.O_NOFOLLOW), "rb") as file:
            bodies += [body for kind, body in _records(file) if kind == HISTORY]
    fullest = sorted(range(len(bodies)), key=lambda number: bodies[number].count(_VALUE_BEGINS))[-most:]
    spaced = range(0, len(bodies), max(1, len(bodies) // most))
    log = RunLog()
    for number in sorted({*fullest, *spaced}):
        with suppress(_Torn):
            _take(log, HISTORY, bodies[number])
    return log.rows


def _take(log: RunLog, kind: int, body: bytes) -> None:
    if kind == RUN:
        parts = list(_fields(body))
        for number, part in parts:
            if number in _TEXTS:
                setattr(log, _TEXTS[number], part.decode("utf-8", "replace"))
            elif number == _CONFIG_OF_RUN:
                _set_items(log.config, part)
        log.tags = [part.decode("utf-8", "replace") for number, part in parts if number == _TAG] or log.tags
    elif kind == HISTORY:
        row: dict[str, Any] = {}
        _set_items(row, body)
        log.rows.append(row)
    else:
        _set_items(log.config if kind == CONFIG else log.summary, body)


def _set_items(values: dict[str, Any], body: bytes) -> None:
    """Set what a message of items holds: each has a key, or a nested one, and a value as JSON."""
    for number, item in _fields(body):
        if number != _ITEM:
            continue
        parts = list(_fields(item))
        *above, name = [part.decode("utf-8", "replace") for number, part in parts if number in _KEYS] or [""]
        place = values
        for outer in above:
            inner = place.get(outer)
            place[outer] = place = inner if isinstance(inner, dict) else {}
        # What is no JSON, or deeper than anybody means it, is no value.
        with suppress(ValueError, RecursionError):
            place[name] = json.loads(dict(parts)[_VALUE])


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """The fields of a protocol buffer that hold bytes; numbers are left out. Raises _Torn where it is not whole."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        match key & 7:
            case 0:
                _, at = _varint(message, at)
            case 1:
                at += 8
            case 5:
                at += 4
            case 2:
                size, at = _varint(message, at)
                at += size
                if at <= len(message):
                    yield key >> 3, message[at - size : at]
            case _:
                raise _Torn
        if at > len(message):
            raise _Torn


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(message):
        value |= (message[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if message[at - 1] < 0x80:
            return value, at
    raise _Torn


def _records(file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """The kind and body of each record, as far as they are whole. Raises SurfaceError for more than can be held."""
    data = file.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise SurfaceError(f"{file.name} has more than {LARGEST // 10**6} MB: 'wandb sync' sends it as it is.")
    with suppress(_Torn):
        for record in _whole(data):
            for number, body in _fields(record):
                if number in (HISTORY, SUMMARY, CONFIG, RUN):
                    yield number, body


def _whole(data: bytes) -> Iterator[bytes]:
    at, begun = len(MAGIC), b""
    if not data.startswith(MAGIC[:4]):
        raise _Torn
    while at + PART.size <= len(data):
        if BLOCK - at % BLOCK < PART.size:
            at += BLOCK - at % BLOCK
            continue
        checksum, size, kind = PART.unpack_from(data, at)
        body = data[at + PART.size : at + PART.size + size]
        if len(body) < size or zlib.crc32(body, zlib.crc32(bytes([kind]))) != checksum:
            return
        begun = body if kind in (FULL, FIRST) else begun + body
        if kind in (FULL, LAST):
            yield begun
        at += PART.size + size
