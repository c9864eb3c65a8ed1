"""The logbook as a file: where its entries are, appending to it, and checking it. Bytes in, bytes out.

An entry lies between two invisible markers:

    <!-- research-steps entry MOE-HC-007 -->
    …
    <!-- research-steps end MOE-HC-007 record=<sha256> entry=<sha256> prev=<sha256>[,<sha256>] -->

`entry` is the hash of the bytes from the first marker up to the second (CRLF read as LF), `record` of the record that
it shows, `prev` of the end markers of the entries that were last when it was appended: one, or several after a merge
of branches. So each entry vouches for those before it, and any order that puts an entry before one it names is wrong.
Markers stand at column 0, where no text of an entry can be. What people wrote around entries is theirs.
"""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from research_steps.errors import ConflictedLogbook, LogbookError
from research_steps.record import sha256

_BEGIN = re.compile(rb"^<!-- research-steps entry (?P<id>[A-Z0-9-]+) -->\r?$", re.MULTILINE)
_END = re.compile(
    rb"^<!-- research-steps end (?P<id>[A-Z0-9-]+) record=(?P<record>[0-9a-f]{64}) entry=(?P<entry>[0-9a-f]{64}) "
    rb"prev=(?P<prev>none|[0-9a-f]{64}(?:,[0-9a-f]{64})*) -->\r?$",
    re.MULTILINE,
)
_ADOPTED = re.compile(rb"^<!-- research-steps adopted bytes=(?P<bytes>\d+) sha256=(?P<sha>[0-9a-f]{64}) -->\r?$", re.M)
_CONFLICT = re.compile(rb"^(?:<{7}|>{7}|\|{7})(?: |\r?$)", re.MULTILINE)
LIVING_BEGIN = b"<!-- research-steps living part: rebuilt from records, edits are lost -->"
LIVING_END = b"<!-- research-steps end of living part -->"


@dataclass(frozen=True)
class Entry:
    """One whole entry. `start` and `end` are byte offsets, markers included; `claimed` is the hash in its marker."""

    id: str
    record: str
    claimed: str
    actual: str
    prev: tuple[str, ...]
    link: str
    start: int
    end: int


@dataclass
class Contents:
    """What a logbook holds. `torn` are offsets of entries that were begun and not finished."""

    entries: list[Entry] = field(default_factory=list)
    torn: list[int] = field(default_factory=list)

    @property
    def records(self) -> set[str]:
        return {entry.record for entry in self.entries}

    @property
    def tips(self) -> list[str]:
        """The links that no later entry names: what the next entry comes after."""
        named = {link for entry in self.entries for link in entry.prev}
        return [entry.link for entry in self.entries if entry.link not in named]


def render(id: str, record: str, text: str, prev: Iterable[str]) -> bytes:
    """A whole entry with its markers and its final LF."""
    body = f"<!-- research-steps entry {id} -->\n{text}\n".encode()
    before = ",".join(prev) or "none"
    return body + f"<!-- research-steps end {id} record={record} entry={sha256(body)} prev={before} -->\n".encode()


def parse(data: bytes, start: int | None = None) -> Contents:
    """Find the entries in a logbook, from `start` on (default: behind what was adopted)."""
    contents = Contents()
    position = adopted_end(data) if start is None else start
    while begin := _BEGIN.search(data, position):
        following = _BEGIN.search(data, begin.end())
        limit = following.start() if following else len(data)
        end = _END.search(data, begin.end(), limit)
        if end is None or end["id"] != begin["id"]:
            contents.torn.append(begin.start())
            position = begin.end()
            continue
        body = data[begin.start() : end.start()].replace(b"\r\n", b"\n")
        line = end[0].rstrip(b"\r")
        contents.entries.append(
            Entry(
                id=begin["id"].decode(),
                record=end["record"].decode(),
                claimed=end["entry"].decode(),
                actual=sha256(body),
                prev=() if end["prev"] == b"none" else tuple(end["prev"].decode().split(",")),
                link=sha256(line),
                start=begin.start(),
                end=min(end.end() + 1, len(data)),
            )
        )
        position = end.end()
    return contents


def adopted_end(data: bytes) -> int:
    """The offset behind what people wrote before the logbook was adopted, 0 when it was not."""
    markers = list(_ADOPTED.finditer(data))
    return markers[-1].end() if markers else 0


def adoption_marker(data: bytes) -> bytes:
    return f"<!-- research-steps adopted bytes={len(data)} sha256={sha256(data)} -->\n".encode()


def is_ours(data: bytes) -> bool:
    """Whether this tool made or adopted the logbook."""
    return LIVING_BEGIN in data


def conflicts(data: bytes) -> list[int]:
    """The line numbers of git's conflict markers outside what was adopted."""
    start = adopted_end(data)
    return [data.count(b"\n", 0, match.start()) + 1 for match in _CONFLICT.finditer(data, start)]


def problems(data: bytes) -> Iterator[str]:
    """Everything that shows the logbook's entries not to be as they were appended, in sentences."""
    for line in conflicts(data):
        yield f"line {line}: a conflict marker of git; run 'research sync' to rebuild from both sides"
    adopted = list(_ADOPTED.finditer(data))
    if adopted and sha256(data[: int(adopted[-1]["bytes"])]) != adopted[-1]["sha"].decode():
        yield "the part that was adopted is not as it was when it was adopted"
    contents = parse(data)
    for offset in contents.torn:
        yield f"line {_line(data, offset)}: an entry was begun here and its end is missing or belongs to another entry"
    everything = {entry.link for entry in contents.entries}
    seen: dict[str, Entry] = {}
    for entry in contents.entries:
        where = f"line {_line(data, entry.start)}: {entry.id}"
        if entry.actual != entry.claimed:
            yield f"{where} was edited after it was appended"
        if entry.link in seen:
            yield f"{where} stands twice, first at line {_line(data, seen[entry.link].start)}"
        for link in entry.prev:
            if link not in everything:
                yield f"{where} follows an entry that is missing, or whose marker was changed"
            elif link not in seen:
                yield f"{where} stands before an entry that it was appended after: entries were reordered"
        seen[entry.link] = entry
    firsts = [entry for entry in contents.entries if not entry.prev]
    for entry in firsts[1:]:
        yield f"line {_line(data, entry.start)}: {entry.id} says that it is the first entry, but {firsts[0].id} does too"


def _line(data: bytes, offset: int) -> int:
    return data.count(b"\n", 0, offset) + 1


class LogbookFile:
    """A logbook on disk, for one publisher at a time (the caller holds the lock).

    Keeps what it has read, and reads only what was appended since, so that an append costs the same however long the
    logbook is.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._identity: tuple[int, int] | None = None
        self._size = 0
        self._known: set[str] = set()
        self._tips: list[str] = []
        self._torn: int | None = None

    def refresh(self) -> None:
        """Take notice of what others did to the file. Raises ConflictedLogbook, LogbookError."""
        try:
            found = self.path.stat()
        except FileNotFoundError as error:
            raise LogbookError(
                f"{self.path} is gone: restore it with git, or run the thread again to make it."
            ) from error
        identity = (found.st_dev, found.st_ino)
        if identity != self._identity or found.st_size < self._size:
            self._known, self._tips, self._size = set(), [], 0
        elif found.st_size == self._size:
            return
        with self.path.open("rb") as file:
            file.seek(self._size)
            data = file.read()
        fresh = self._size == 0
        if fresh and not is_ours(data):
            raise LogbookError(
                f"{self.path} was written by hand: run 'research adopt {self.path.stem} --id-prefix PREFIX' to have "
                "entries follow at its end. The records are safe in the journal."
            )
        lines = conflicts(data) if fresh else [1 for _ in _CONFLICT.finditer(data)]
        if lines:
            raise ConflictedLogbook(
                f"{self.path} has conflict markers of a git merge: run 'research sync {self.path.stem}', which rebuilds "
                "it from both sides. The records are safe in the journal."
            )
        contents = parse(data, None if fresh else 0)
        for entry in contents.entries:
            self._known.add(entry.record)
            self._tips = [link for link in self._tips if link not in entry.prev] + [entry.link]
        last = contents.entries[-1].end if contents.entries else 0
        torn = [offset for offset in contents.torn if offset >= last]
        self._torn = self._size + torn[0] if torn else None
        self._identity = identity
        # What is torn is read again once it is whole.
        self._size = self._torn if self._torn is not None else found.st_size

    def holds(self, record: str) -> bool:
        """Whether an entry shows the record with this hash."""
        return record in self._known

    def append(self, id: str, record: str, text: str) -> None:
        """Append one entry, durably. Raises LogbookError and leaves the file as it was when the disk refuses."""
        entry = render(id, record, text, self._tips)
        with self.path.open("r+b", buffering=0) as file:
            end = file.seek(0, os.SEEK_END)
            if self._torn is not None:
                file.seek(self._torn)
                # What a killed publisher began is no entry; if it is anything else, somebody wrote there.
                if entry.startswith(file.read()):
                    end = self._torn
            file.seek(max(0, end - 2))
            before = file.read(min(2, end))
            gap = b"" if before in (b"", b"\n\n") else b"\n" if before.endswith(b"\n") else b"\n\n"
            try:
                file.truncate(end)
                file.seek(end)
                _write_all(file.fileno(), gap + entry)
                os.fsync(file.fileno())
            except OSError as error:
                file.truncate(end)
                raise LogbookError(
                    f"{self.path} could not be appended to: {error.strerror}. {id} is safe in the journal and is "
                    "published by 'research sync' once there is room."
                ) from error
            found = os.fstat(file.fileno())
        marker = entry.rstrip(b"\n").rsplit(b"\n", 1)[-1]
        self._known.add(record)
        self._tips = [sha256(marker)]
        self._torn = None
        self._identity, self._size = (found.st_dev, found.st_ino), found.st_size

    def replace_living(self, text: str) -> bool:
        """Rewrite the living part, aside and then renamed. True when it changed."""
        data = self.path.read_bytes()
        begin = data.find(LIVING_BEGIN, adopted_end(data))
        end = data.find(LIVING_END, begin)
        if begin < 0 or end < 0:
            return False
        changed = data[:begin] + LIVING_BEGIN + b"\n" + text.encode() + b"\n" + data[end:]
        if changed == data:
            return False
        write_aside(self.path, changed)
        found = self.path.stat()
        # Every entry moved by the same distance; nothing that is kept here depends on where they are.
        self._identity, self._size = (found.st_dev, found.st_ino), found.st_size
        return True


def write_aside(path: Path, data: bytes) -> None:
    """Replace a file's content so that readers see the old or the new one, and the new one lasts."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            if path.exists():
                os.fchmod(file.fileno(), path.stat().st_mode & 0o7777)
            os.replace(temporary, path)
            os.fsync(file.fileno())
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise LogbookError(f"{path} could not be written: {error.strerror}. Nothing was changed.") from error


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
