"""The logbook as a file: where its entries are, and whether they are as they were appended. Bytes in, bytes out.

An entry lies between two invisible markers:

    <!-- research-steps entry MOE-HC-007 -->
    …
    <!-- research-steps end MOE-HC-007 record=<sha256> entry=<sha256> prev=<sha256>[,<sha256>] -->

`entry` is the hash of the bytes from the first marker up to the second (CRLF read as LF), `record` of the record that
it shows, `prev` of the end markers of the entries that were last when it was appended: one, or several after a merge
of branches. So each entry vouches for those before it, and any order that puts an entry before one it names is wrong.
Nothing in the file vouches for its end: that the last entries were cut off, or the last one written anew together with
its hashes, can be seen only by comparing with a copy, such as the one that a sealed tag holds.

Two branches may have shown one record each. After their merge it is shown once; of the other entry only the end marker
stays, spelled 'shown' for 'end', because later entries name it.

Markers stand at column 0, where no text of an entry can be. What people wrote around entries is theirs.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from research_steps.publish.logbook.handwritten import closing
from research_steps.records.encoding import sha256

_MARKER = re.compile(rb"<!-- research-steps [^\n]*")
_BEGIN = re.compile(rb"<!-- research-steps entry (?P<id>[A-Z0-9-]+) -->")
_END = re.compile(
    rb"<!-- research-steps (?P<kind>end|shown) (?P<id>[A-Z0-9-]+) record=(?P<record>[0-9a-f]{64}) "
    rb"entry=(?P<entry>[0-9a-f]{64}) prev=(?P<prev>none|[0-9a-f]{64}(?:,[0-9a-f]{64})*) -->"
)
_ADOPTED = re.compile(rb"<!-- research-steps adopted [^\n]*sha256=(?P<sha>[0-9a-f]{64}) -->")
# Behind a line break and not with '^', for which the whole file would be read byte by byte.
_CONFLICT = re.compile(rb"\n(?:<{7}|>{7}|\|{7})(?: |\r?\n|\Z)")
# In how many adoption markers of a text that was changed the true one is looked for; each costs reading all above it.
QUOTED = 20
MADE_HERE = "made-by: research-steps"
_SUMMARY_BEGIN = b"<!-- research-steps living part: rebuilt from records, edits are lost -->"
_SUMMARY_END = b"<!-- research-steps end of living part -->"
# What the summary stands before: the heading of the log, as a new or an adopted logbook has it, and the first entry.
HEADINGS = ("## Experiment Log", "## Recorded experiment log")
_HEADING = re.compile(rb"(?m)^(?:%b)\r?$" % "|".join(HEADINGS).encode())
_FIRST_ENTRY = b"\n<!-- research-steps entry "


@dataclass(frozen=True)
class Entry:
    """One entry, markers included, between the offsets `start` and `end`.

    `link` is what later entries name it by, `whole` whether its bytes are those that its marker vouches for. Of an
    entry whose record is shown `above`, only the end marker is here.
    """

    id: str
    record: str
    prev: tuple[str, ...]
    link: str
    start: int
    end: int
    whole: bool
    above: bool


@dataclass
class LogbookContents:
    """What a logbook holds, in its order. `torn` are offsets of entries with one end missing; `unfinished` is offset and
    ID of one that was begun at the end, as a publisher leaves it that is killed while it appends."""

    chain: list[Entry] = field(default_factory=list)
    torn: list[int] = field(default_factory=list)
    unfinished: tuple[int, str] | None = None

    @property
    def entries(self) -> list[Entry]:
        return [entry for entry in self.chain if not entry.above]

    @property
    def records(self) -> set[str]:
        return {entry.record for entry in self.chain}

    @property
    def tips(self) -> set[str]:
        """The links of the last entries, which no other one follows."""
        return {entry.link for entry in self.chain} - {link for entry in self.chain for link in entry.prev}


def front_matter(**values: str) -> str:
    """The head of a logbook that is made here, by which it is known to be."""
    return "\n".join(["---", *(f"{name}: {value}" for name, value in values.items()), MADE_HERE, "---"])


def adoption_marker(above: bytes, topic: str, prefix: str) -> bytes:
    """What ends the part that people wrote: entries are looked for behind it."""
    return f"<!-- research-steps adopted topic={topic} prefix={prefix} sha256={_hash(above)} -->\n".encode()


def log_part(summary: str, heading: str) -> bytes:
    """The summary, and the heading of a log without entries."""
    return b"%b\n\n%b\n" % (marked_summary(summary), heading.encode())


def marked_summary(summary: str) -> bytes:
    """The summary between its markers."""
    return b"%b\n%b\n%b" % (_SUMMARY_BEGIN, summary.encode(), _SUMMARY_END)


def render(id: str, record: str, text: str, prev: Iterable[str]) -> bytes:
    """A whole entry with its markers and its final LF."""
    body = f"<!-- research-steps entry {id} -->\n{text}\n".encode()
    before = ",".join(prev) or "none"
    return body + f"<!-- research-steps end {id} record={record} entry={sha256(body)} prev={before} -->\n".encode()


def shown_above(entry: bytes) -> bytes:
    """What stays of a whole entry whose record another entry shows."""
    return entry[entry.rindex(b"<!-- research-steps end ") :].replace(b" end ", b" shown ", 1)


def parse(data: bytes, start: int | None = None) -> LogbookContents:
    """Find the entries in a logbook, from `start` on (default: behind what was adopted)."""
    contents = LogbookContents()
    begun: tuple[int, bytes] | None = None
    for offset, line in _markers(data, adopted_end(data) if start is None else start):
        if begin := _BEGIN.fullmatch(line):
            if begun is not None:
                contents.torn.append(begun[0])
            begun = offset, begin["id"]
        elif end := _END.fullmatch(line):
            if end["kind"] == b"shown":
                contents.chain.append(_entry(end, data, offset, offset))
            elif begun is not None and begun[1] == end["id"]:
                contents.chain.append(_entry(end, data, begun[0], offset))
                begun = None
            else:
                contents.torn.append(offset if begun is None else begun[0])
                begun = None
    contents.unfinished = (begun[0], begun[1].decode()) if begun is not None else None
    return contents


def adopted_end(data: bytes) -> int:
    """The offset behind what people wrote before the logbook was adopted, 0 when it was not."""
    return _adoption(data)[0]


def is_ours(data: bytes) -> bool:
    """Whether this tool made or adopted the logbook."""
    return _made_here(data) or adopted_end(data) > 0


def summary_span(data: bytes) -> tuple[int, int] | None:
    """Between which offsets the text of the summary is, None when somebody took a marker of it away."""
    begin, end = _summary_markers(data)
    return (begin + len(_SUMMARY_BEGIN) + 1, end - 1) if 0 <= begin < end else None


def summary_place(data: bytes) -> tuple[int, int]:
    """Between which offsets the summary and its markers belong. Where its end was taken away it ends before the log;
    where both were, it goes there, and what stands above stays."""
    begin, end = _summary_markers(data)
    if end >= 0:
        return begin if 0 <= begin < end else end, end + len(_SUMMARY_END)
    first = _first_entry(data)
    headings = _HEADING.finditer(data, max(begin, adopted_end(data)), first)
    log = max((heading.start() for heading in headings), default=first)
    return (begin if begin >= 0 else log), log


def _summary_markers(data: bytes) -> tuple[int, int]:
    """Where the markers of the summary begin, each -1 where it isn't there. Behind the first entry is none of them."""
    start, first = max(0, adopted_end(data) - 1), _first_entry(data)
    begin = data.find(b"\n" + _SUMMARY_BEGIN, start, first)
    end = data.find(b"\n" + _SUMMARY_END, max(begin, start), first)
    return (begin + 1 if begin >= 0 else -1), (end + 1 if end >= 0 else -1)


def _first_entry(data: bytes) -> int:
    """Where the first entry begins; the end where there is none."""
    at = data.find(_FIRST_ENTRY, max(0, adopted_end(data) - 1))
    return at + 1 if at >= 0 else len(data)


def conflicts(data: bytes) -> list[int]:
    """The line numbers of git's conflict markers outside what was adopted."""
    end, intact = _adoption(data)
    return [_line(data, match.start() + 1) for match in _CONFLICT.finditer(data, end if intact else 0)]


def record_lines(data: bytes) -> list[bytes]:
    """The lines of a record file without git's conflict markers, between which every record is whole."""
    return [line for line in data.splitlines() if not line.startswith((b"<<<<<<<", b"|||||||", b"=======", b">>>>>>>"))]


def problems(data: bytes) -> Iterator[tuple[int, str]]:
    """Everything that shows the logbook not to be as it was appended to: in which line, and what."""
    for line in conflicts(data):
        yield line, "a conflict marker of git; 'research sync' rebuilds the logbook from both sides"
    end, intact = _adoption(data)
    if not intact:
        yield _line(data, end), "what stands above was changed after it was adopted"
    if is_ours(data) and summary_span(data) is None:
        yield _line(data, summary_place(data)[0]), "the summary lost a marker; 'research sync' writes it again"
    contents = parse(data)
    for offset in contents.torn:
        yield _line(data, offset), "an entry begins or ends here, and its other end is missing"
    if contents.unfinished is not None:
        offset, id = contents.unfinished
        yield _line(data, offset), f"{id} was begun and not finished; 'research sync' finishes it"
    yield from _broken_links(data, contents)


def _broken_links(data: bytes, contents: LogbookContents) -> Iterator[tuple[int, str]]:
    links = {entry.link for entry in contents.chain}
    shown = {entry.record for entry in contents.entries}
    seen_links: set[str] = set()
    seen_records: set[str] = set()
    for entry in contents.chain:
        faults = []
        if not entry.whole:
            faults.append("was edited after it was appended")
        if entry.link in seen_links:
            faults.append("stands twice")
        elif not entry.above and entry.record in seen_records:
            faults.append("shows a record that another entry shows")
        if entry.above and entry.record not in shown:
            faults.append("is said to be shown by another entry, which is missing")
        for link in entry.prev:
            if link not in links:
                faults.append("follows an entry that is missing, or whose marker was changed")
            elif link not in seen_links:
                faults.append("stands before an entry that it was appended after: entries were reordered")
        yield from ((_line(data, entry.start), f"{entry.id} {what}") for what in faults)
        seen_links.add(entry.link)
        if not entry.above:
            seen_records.add(entry.record)


def _markers(data: bytes, start: int) -> Iterator[tuple[int, bytes]]:
    """Offset and text of every line that could be a marker."""
    for match in _MARKER.finditer(data, start):
        if match.start() == 0 or data[match.start() - 1] == 0x0A:
            yield match.start(), match[0].removesuffix(b"\r")


def _entry(marker: "re.Match[bytes]", data: bytes, start: int, marker_at: int) -> Entry:
    above = marker["kind"] == b"shown"
    line_end = data.find(b"\n", marker_at)
    return Entry(
        id=marker["id"].decode(),
        record=marker["record"].decode(),
        prev=() if marker["prev"] == b"none" else tuple(marker["prev"].decode().split(",")),
        link=sha256(marker[0].replace(b" shown ", b" end ", 1)),
        start=start,
        end=line_end + 1 if line_end >= 0 else len(data),
        whole=above or _hash(data[start:marker_at]) == marker["entry"].decode(),
        above=above,
    )


def _made_here(data: bytes) -> bool:
    front, closed, _ = data[:4096].removeprefix(b"\xef\xbb\xbf").partition(b"\n---")
    return bool(closed) and front.startswith(b"---") and MADE_HERE.encode() in front.splitlines()


def adopted_again(data: bytes) -> bytes | None:
    """An adopted logbook whose marker holds for what people have by now above it; None where it does already."""
    end, intact = _adoption(data)
    if intact:
        return None
    above = data[: data.rindex(b"<!-- research-steps adopted ", 0, end)]
    marker = re.sub(rb"sha256=[0-9a-f]{64}", f"sha256={_hash(above)}".encode(), data[len(above) : end])
    return above + marker + data[end:]


def _adoption(data: bytes) -> tuple[int, bool]:
    """Where the adopted part ends, and whether it is as it was."""
    changed: list[tuple[int, int]] = []
    if _made_here(data):
        return 0, True
    above, seen = hashlib.sha256(), 0
    for offset, line in _markers(data, 0):
        if marker := _ADOPTED.fullmatch(line):
            end = offset + len(line)
            above.update(lf(data[seen:offset]))
            seen = offset
            if above.hexdigest() == marker["sha"].decode():
                return end, True
            changed.append((offset, end))
    # Somebody edited the adopted part. A marker inside a fence there was quoted by people, who quote a few.
    quoted = changed[:QUOTED]
    return next(((end, False) for offset, end in quoted if not closing(data[:offset]).strip()), (0, True))


def _hash(data: bytes) -> str:
    return sha256(lf(data))


def lf(data: bytes) -> bytes:
    """The same with LF for CRLF, which git may write on a check-out."""
    return data.replace(b"\r\n", b"\n")


def is_crlf(data: bytes) -> bool:
    """Whether each line ends in CRLF, as on a check-out where git writes that."""
    return 0 < data.count(b"\n") == data.count(b"\r\n")


def crlf(data: bytes) -> bytes:
    return lf(data).replace(b"\n", b"\r\n")


def _line(data: bytes, offset: int) -> int:
    return data.count(b"\n", 0, offset) + 1
