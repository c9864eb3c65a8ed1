"""Where a logbook lies, who may write to it, and how: appended to or replaced so that what was written lasts."""

import os
import re
from contextlib import AbstractContextManager, suppress
from io import FileIO
from pathlib import Path
from typing import Literal

from research_steps.errors import ConflictedLogbook, LogbookError
from research_steps.files import files_in, opened, write_aside
from research_steps.git import Checkout
from research_steps.journal.logbook_place import LogbookPlace
from research_steps.publish.lock import locked
from research_steps.publish.logbook import format as logbook_format
from research_steps.publish.logbook.handwritten import closing

# How much of what was read is compared before what follows it is taken for new.
_COMPARED = 200


def spoilt(path: Path, data: bytes) -> bool:
    """Whether a logbook was made or adopted here, as the records beside it say, and doesn't show that any more."""
    beside = path.with_suffix("")
    return not logbook_format.is_ours(data) and any(file.suffix == ".jsonl" for file in files_in(beside))


def lock(place: LogbookPlace) -> AbstractContextManager[None]:
    """Holds off other publishers of a work tree's logbook. A system error inside is told as a LogbookError."""
    return locked(place.checkout, place.topic, place.path, LogbookError)


def refuse_sparse(place: LogbookPlace) -> None:
    """Raise LogbookError where a sparse checkout leaves out a part of the logbook: nothing of that is lost."""
    checkout = place.checkout
    if checkout.git_dir is None:
        return
    listed = checkout.git("ls-files", "-t", "-z", "--", str(place.path), str(place.records)).split(b"\0")
    left_out = [os.fsdecode(line[2:]) for line in listed if line.startswith(b"S ")]
    missing = [name for name in left_out if not os.path.lexists(checkout.root / name)]
    if missing:
        more = f" and {len(missing) - 1} other files" if len(missing) > 1 else ""
        raise LogbookError(
            f"{missing[0]}{more} of the logbook are left out of {checkout.root}, which is a sparse checkout: 'git "
            f"sparse-checkout add {place.name.removesuffix('.md')}' brings them, or 'git sparse-checkout disable'."
        )


def lock_numbers(checkout: Checkout, topic: str, path: Path) -> AbstractContextManager[None]:
    """Holds off others that are given experiment numbers in this work tree, which are noted in the file `path`."""
    return locked(checkout, f"{topic}.numbers", path, LogbookError)


class LogbookFile:
    """A logbook on disk, for one publisher at a time (the caller holds the lock).

    Keeps what it has read, and reads only what was appended since, so that an append costs the same however long the
    logbook is.
    """

    def __init__(self, place: LogbookPlace) -> None:
        self.path = place.path
        self._topic = place.topic
        self._identity = (0, 0)
        self._links: set[str] = set()
        self._tips: list[str] = []
        # The last entry's end, the bytes before it, and what follows it.
        self._end = 0
        self._before = b""
        self._after = b""
        self.records: set[str] = set()
        self.unfinished = ""
        self._is_crlf = False

    def refresh(self) -> bool:
        """Take notice of what others did to the file; True when it was read whole, because others replaced it or this
        process had not read it. Raises ConflictedLogbook, LogbookError."""
        with self._open("rb") as file:
            status = os.fstat(file.fileno())
            if (status.st_dev, status.st_ino) == self._identity and self._end > 0:
                if status.st_size == self._end + len(self._after):
                    return False
                file.seek(self._end - len(self._before))
                if file.read(len(self._before)) == self._before:
                    self._read_on(file.read())
                    return False
                file.seek(0)
            data = file.read()
        if spoilt(self.path, data):
            raise LogbookError(
                f"{self.path} is spoilt: another program, such as an editor, wrote over its beginning. Close the file "
                f"there, then 'research sync {self._topic}' makes it again. The records are safe in the journal."
            )
        if not logbook_format.is_ours(data):
            raise LogbookError(
                f"{self.path} was written by hand: run 'research adopt {self._topic} --id-prefix PREFIX' to have "
                "entries follow at its end. The records are safe in the journal."
            )
        if logbook_format.conflicts(data):
            raise self._conflicted()
        self._identity = status.st_dev, status.st_ino
        self._is_crlf = logbook_format.is_crlf(data)
        self._links, self._tips, self.records = set(), [], set()
        self._end = logbook_format.adopted_end(data)
        self._before = data[max(0, self._end - _COMPARED) : self._end]
        self._read_on(data[self._end :])
        return True

    def append(self, id: str, record: str, text: str) -> None:
        """Append one entry, durably. Raises LogbookError and leaves the file as it was when the disk refuses."""
        entry = self._ended(logbook_format.render(id, record, text, self._tips))
        behind = self._without_begun(entry)
        gap = self._ended(closing(behind).encode() if behind.strip() else b"" if behind.endswith(b"\n") else b"\n")
        with self._open("r+b") as file:
            status = os.fstat(file.fileno())
            if (status.st_dev, status.st_ino, status.st_size) != (*self._identity, self._end + len(self._after)):
                raise LogbookError(
                    f"{self.path} is being changed by another program: {id} is appended at the next pass."
                )
            try:
                file.seek(self._end + len(behind))
                _write_all(file.fileno(), gap + entry)
                os.fsync(file.fileno())
            except OSError as error:
                # Where not even this is possible the next pass finds the entry unfinished.
                with suppress(OSError):
                    file.truncate(status.st_size)
                raise LogbookError(
                    f"{self.path} could not be appended to: {error.strerror}. {id} is safe in the journal and is "
                    "published by 'research sync' once there is room."
                ) from error
        self._end += len(behind)
        self._read_on(gap + entry)

    def replace_summary(self, text: str) -> None:
        """Rewrite the summary, aside and then renamed."""
        with self._open("rb") as file:
            data = file.readall()
        begin, end = logbook_format.summary_place(data)
        new = logbook_format.marked_summary(text)
        new = self._ended(new + (b"" if data[end : end + 1] in (b"\n", b"\r") else b"\n\n"))
        if data[begin:end] == new:
            return
        write_aside(self.path, data[:begin] + new + data[end:])
        if begin < self._end:
            # Every entry moved by the same distance, so that nothing has to be read again.
            status = self.path.stat()
            self._identity = status.st_dev, status.st_ino
            self._end += len(new) - (end - begin)

    def _ended(self, text: bytes) -> bytes:
        """New text with the line ends that the logbook has."""
        return logbook_format.crlf(text) if self._is_crlf else text

    def _read_on(self, data: bytes) -> None:
        """Take in what stands behind the last entry."""
        if logbook_format.conflicts(b"\n" + data):
            raise self._conflicted()
        contents = logbook_format.parse(data, 0)
        for entry in contents.chain:
            if entry.link not in self._links:
                self._links.add(entry.link)
                self._tips = [link for link in self._tips if link not in entry.prev] + [entry.link]
                self.records.add(entry.record)
        if contents.chain:
            end = contents.chain[-1].end
            self._before = data[max(0, end - _COMPARED) : end]
            self._end += end
            data = data[end:]
        self._after = data
        self.unfinished = contents.unfinished[1] if contents.unfinished else ""

    def _without_begun(self, entry: bytes) -> bytes:
        """What stands behind the last entry, without what a killed publisher began of this one."""
        starts = [0, *(match.end() for match in re.finditer(b"\n", self._after))]
        near = (at for at in starts if len(self._after) - at <= len(entry))
        return next((self._after[:at] for at in near if entry.startswith(self._after[at:])), self._after)

    def _conflicted(self) -> ConflictedLogbook:
        return ConflictedLogbook(
            f"{self.path} has conflict markers of a git merge: run 'research sync {self._topic}', which rebuilds it "
            "from both sides. The records are safe in the journal."
        )

    def _open(self, mode: Literal["rb", "r+b"]) -> FileIO:
        try:
            return opened(self.path, mode)
        except FileNotFoundError as error:
            raise LogbookError(
                f"{self.path} is gone: restore it with git, or run the thread again to make it."
            ) from error


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
