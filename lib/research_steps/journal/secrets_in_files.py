"""Whether a file holds a secret, in any layer: its text, what can be read of a binary file, also at two or four bytes a
character, and what is packed in it. Of what is packed, only so much is looked at; what can't be is told.
"""

import bz2
import gzip
import io
import lzma
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any

from research_steps.records.redaction import redact

# How much is looked at of what is packed, in bytes, and how often it may be packed.
_LARGEST_UNPACKED = 64_000_000
_DEEPEST = 3
_SHOWN = 60
_PACKED: dict[bytes, tuple[str, Callable[[IO[bytes]], Any]]] = {
    b"\x1f\x8b": ("gzip", lambda file: gzip.GzipFile(fileobj=file)),
    b"BZh": ("bzip2", bz2.BZ2File),
    b"\xfd7zXZ\0": ("xz", lzma.LZMAFile),
}
_ZSTANDARD = b"\x28\xb5\x2f\xfd"
_READABLE = re.compile(rb"[\t\r\n -~]{8,}")


def refusals(data: bytes) -> Iterator[str]:
    """Why these bytes can't be attached, and what to do: they hold what looks like a secret, or can't be checked."""
    return _refusals(data, [_LARGEST_UNPACKED], "", 0)


def _refusals(data: bytes, room: list[int], within: str, depth: int) -> Iterator[str]:
    for kind, text in _texts(data):
        clean = redact(text)
        if clean != text:
            pairs = zip(text.splitlines(), clean.splitlines(), strict=False)
            line = next((after.strip() for before, after in pairs if before != after), "")
            yield f"holds what looks like a secret, in {kind}{within} ({line[:_SHOWN]}): take it out"
    if data.startswith(_ZSTANDARD):
        yield f"can't be checked for secrets, because it is packed with zstd{within}: unpack it"
    try:
        for name, file in _packed(data):
            with file:
                unpacked = file.read(room[0] + 1)
            room[0] -= len(unpacked)
            if room[0] < 0 or depth == _DEEPEST:
                limit = f"it unpacks to more than {_LARGEST_UNPACKED} bytes" if room[0] < 0 else "it is packed too often"
                yield f"can't be checked for secrets, because {limit}: unpack it"
                return
            yield from _refusals(unpacked, room, f" of {name}{within}", depth + 1)
    except (
        OSError,
        EOFError,
        RuntimeError,
        NotImplementedError,
        zlib.error,
        lzma.LZMAError,
        zipfile.BadZipFile,
    ) as error:
        yield f"can't be checked for secrets, because it can't be unpacked{within} ({error}): mend or unpack it"


def _texts(data: bytes) -> Iterator[tuple[str, str]]:
    try:
        yield "the text", data.decode()
    except UnicodeDecodeError:
        yield "what can be read", b"\n".join(_READABLE.findall(data)).decode("ascii")
    for width in (2, 4) if b"\0" in data else ():
        for first in range(width):
            read = b"\n".join(_READABLE.findall(data[first::width]))
            yield f"what can be read at {width} bytes a character", read.decode("ascii")


def _packed(data: bytes) -> Iterator[tuple[str, IO[bytes]]]:
    """What is packed in these bytes, by what it is called."""
    for magic, (kind, opened) in _PACKED.items():
        if data.startswith(magic):
            yield f"what is packed with {kind}", opened(io.BytesIO(data))
    if zipfile.is_zipfile(io.BytesIO(data)):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for member in archive.infolist():
                yield repr(redact(member.filename)), archive.open(member)
