"""Offline W&B runs on disk, as W&B's own client leaves them for `wandb sync`; written here without any W&B.

W&B's client writes in a process of its own that may hang, and says nothing where a disk takes no more. Here that is an
error. A run is written aside and moved into place when it is whole, so that being there is its receipt:

    <folder>/offline-run-20260521_093000-0123456789abcdef/run-0123456789abcdef.wandb    the run
                                                          samples.table.json            its raw table
                                                          run-….wandb.synced            W&B's own receipt of sending
                                                          address                       where W&B shows it then
             .writing-…/                                                                what is not whole yet
             .sending-…/                                                                what W&B says of what it sends

`wandb_log` tells how a run's file is made, and reads one.
"""

import hashlib
import json
import os
import shutil
import tempfile
import zlib
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from research_steps.publish.wandb.runs import Run
from research_steps.trial.wandb_log import BLOCK, FIRST, FULL, HISTORY, LAST, MAGIC, MIDDLE, PART, RUN, SUMMARY

TABLE = "samples.table.json"
_STAGING = ".writing-"
# A record's number is its field 1. These and all numbers of fields below are those of `wandb_log`.
_ARTIFACT, _EXIT, _HEADER = 8, 18, 21
_Fields = dict[int, Any]


def clear(folder: Path) -> None:
    """Remove what killed writers left. The caller holds the folder's lock."""
    for left in folder.glob(f"{_STAGING}*"):
        shutil.rmtree(left, ignore_errors=True)


def write(folder: Path, run: Run) -> None:
    """Write a run and move it into place. Raises OSError where the disk does not take it."""
    # Named as W&B names it; `wandb sync` knows offline runs by that.
    place = folder / f"offline-run-{datetime.fromtimestamp(run.started, UTC):%Y%m%d_%H%M%S}-{run.id}"
    with tempfile.TemporaryDirectory(dir=folder, prefix=_STAGING) as staging:
        whole = Path(staging) / place.name
        # W&B puts the summary there when it sends the run.
        (whole / "files").mkdir(parents=True)
        if run.table:
            _write(whole / TABLE, run.table)
        _write(whole / f"run-{run.id}.wandb", log(_records(run, f"{place.name}/{TABLE}")))
        # A folder without a run in it: what wrote there before did not move it as a whole.
        shutil.rmtree(place, ignore_errors=True)
        whole.rename(place)


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def log(records: Iterable[bytes]) -> bytes:
    """The file that holds these records."""
    data = bytearray(MAGIC)
    for record in records:
        first = True
        while first or record:
            room = BLOCK - len(data) % BLOCK - PART.size
            if room < 0:
                data += bytes(PART.size + room)
                room = BLOCK - PART.size
            body, record = record[:room], record[room:]
            kind = (FIRST if first else MIDDLE) if record else (FULL if first else LAST)
            data += PART.pack(zlib.crc32(body, zlib.crc32(bytes([kind]))), len(body), kind) + body
            first = False
    return bytes(data)


def _records(run: Run, table: str) -> Iterator[bytes]:
    """A run's records in their order, its table named by a path in the folder."""
    seconds = round(run.finished - run.started, 3)
    rows = [
        {"_step": step, "_timestamp": run.finished, "_runtime": seconds, **row} for step, row in enumerate(run.history)
    ]
    # W&B shows the last row where the summary says nothing else.
    summary = {**(rows[-1] if rows else {}), **run.summary, "_runtime": seconds, "_wandb": {"runtime": int(seconds)}}
    records: list[_Fields] = [
        # Who wrote it, and the oldest reader that W&B names.
        {_HEADER: {1: {1: "research_steps", 2: "0.70.0"}}},
        {RUN: _begun(run)},
        *({HISTORY: {1: _items(row), 2: {1: int(row["_step"])}}} for row in rows),
        # After the history, whose last row W&B takes for the summary otherwise.
        {SUMMARY: {1: _items(summary)}},
        *([{_ARTIFACT: _artifact(run, table)}] if run.table else []),
        {_EXIT: {1: run.exit_code, 2: int(seconds)}},
    ]
    for number, record in enumerate(records, 1):
        yield _message({1: number, **record})


def _begun(run: Run) -> _Fields:
    milliseconds = round(run.started * 1000)
    return {
        1: run.id,
        3: run.project,
        4: {1: _items(run.config)},
        6: run.group,
        7: run.job_type,
        8: run.name,
        9: run.notes,
        10: run.tags,
        17: {1: milliseconds // 1000, 2: milliseconds % 1000 * 10**6},
    }


def _artifact(run: Run, path: str) -> _Fields:
    """The artifact that holds a run's table, which W&B reads when it sends the run."""
    digest = b64encode(hashlib.md5(run.table, usedforsecurity=False).digest()).decode()
    of_contents = f"wandb-artifact-manifest-v1\n{TABLE}:{digest}\n".encode()
    return {
        1: run.id,
        2: run.project,
        4: "samples",
        5: run.table_name,
        6: hashlib.md5(of_contents, usedforsecurity=False).hexdigest(),
        11: "latest",
        12: {
            1: 1,
            2: "wandb-storage-policy-v1",
            3: {1: "storageLayout", 2: '"V2"'},
            4: {1: TABLE, 2: digest, 4: len(run.table), 6: path, 8: True},
        },
        14: True,
        # Drawn at random by W&B's client; here the same whenever the run is written.
        15: hashlib.sha512(run.id.encode()).hexdigest(),
        16: hashlib.sha512(run.table_name.encode()).hexdigest(),
        20: "MANIFEST_MD5",
    }


def _items(values: Mapping[str, Any]) -> list[_Fields]:
    # As W&B does, which has the numbers that are none in it too.
    return [{1: name, 16: json.dumps(value, separators=(",", ":"))} for name, value in values.items()]


def _message(fields: _Fields) -> bytes:
    """A protocol buffer of these fields, by their numbers; a list is a field that is repeated."""
    data = bytearray()
    for number, value in fields.items():
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, int):
                data += _varint(number << 3) + _varint(item)
                continue
            body = _message(item) if isinstance(item, dict) else item.encode() if isinstance(item, str) else item
            data += _varint(number << 3 | 2) + _varint(len(body)) + body
    return bytes(data)


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    data = bytearray()
    while value > 0x7F:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*data, value])
