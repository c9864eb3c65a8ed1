"""The file of an offline W&B run, read back: W&B's header, then records in the blocks of LevelDB's log format.

Reads what W&B's own client writes and what this package writes. The format:
https://github.com/google/leveldb/blob/main/doc/log_format.md, after ':W&B' and three more bytes, with a plain CRC-32
over type and data.
"""

import importlib
import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_MAGIC = b":W&B"
_HEADER = 7
_BLOCK = 32768
_CHUNK = struct.Struct("<IHB")
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


@dataclass
class RunContents:
    """What a run's file holds, as W&B would send it."""

    run: Any = None
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    artifacts: list[Any] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    exit_code: int | None = None


def read(path: Path) -> RunContents:
    """Read a run's file. Raises ValueError where it is not whole."""
    protocol: Any = importlib.import_module("wandb.proto.wandb_internal_pb2")
    contents = RunContents()
    for data in records(path.read_bytes()):
        record = protocol.Record.FromString(data)
        kind = record.WhichOneof("record_type")
        contents.kinds.append(kind)
        match kind:
            case "run":
                contents.run = record.run
                contents.config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
            case "config":
                contents.config |= {item.key: json.loads(item.value_json) for item in record.config.update}
            case "history":
                contents.history.append({_key(item): json.loads(item.value_json) for item in record.history.item})
            case "summary":
                contents.summary |= {_key(item): json.loads(item.value_json) for item in record.summary.update}
            case "artifact":
                contents.artifacts.append(record.artifact)
            case "exit":
                contents.exit_code = record.exit.exit_code
    return contents


def _key(item: Any) -> str:
    return ".".join(item.nested_key) or str(item.key)


def records(data: bytes) -> Iterator[bytes]:
    """The records of a file, each a serialised `wandb_internal.Record`. Raises ValueError where it is not whole."""
    if len(data) < _HEADER or not data.startswith(_MAGIC):
        raise ValueError("it does not begin as a W&B run does")
    at = _HEADER
    # What a record has so far. Its first part may be empty, at the end of a block.
    begun: bytes | None = None
    while at < len(data):
        left = _BLOCK - at % _BLOCK
        if left < _CHUNK.size:
            at += left
            continue
        if len(data) - at < _CHUNK.size:
            raise ValueError(f"it ends in the middle of a record, at byte {len(data)}")
        checksum, length, kind = _CHUNK.unpack_from(data, at)
        body = data[at + _CHUNK.size : at + _CHUNK.size + length]
        if len(body) < length or zlib.crc32(body, zlib.crc32(bytes([kind]))) != checksum:
            raise ValueError(f"its record at byte {at} is torn")
        if kind not in (_FULL, _FIRST, _MIDDLE, _LAST) or (kind in (_MIDDLE, _LAST)) != (begun is not None):
            raise ValueError(f"its record at byte {at} has lost a part")
        begun = (begun or b"") + body
        if kind in (_FULL, _LAST):
            yield begun
            begun = None
        at += _CHUNK.size + length
    if begun is not None:
        raise ValueError("its last record has no end")
