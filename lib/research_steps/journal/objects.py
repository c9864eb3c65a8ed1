"""The objects of one series in its store, by name. One that never changes is read once and decoded once."""

import re
from collections.abc import Callable, Iterable
from typing import Any, Literal, TypeVar

import msgspec

from research_steps.errors import JournalProblem, UnreadableObject
from research_steps.journal.store import Store
from research_steps.records.encoding import Stored, decode_record, encode
from research_steps.records.model import Record

T = TypeVar("T")
Subject = Literal["trial", "entry"]
# Turns the bytes of an object, and where it lies, into what it holds. Raises UnreadableObject.
Decode = Callable[[bytes, str], T]
_NUMBERED = re.compile(r"/(\d{6,9})\.json$")
FOLDERS: dict[Subject, str] = {"entry": "entries", "trial": "trials"}


class Objects:
    """The objects below `journal/<topic>/`. `final` is for those that never change; leases and notes are not."""

    def __init__(self, store: Store, topic: str) -> None:
        self.store = store
        self.folder = f"journal/{topic}"
        self._topic = topic
        self._values: dict[str, Any] = {}
        self._records: dict[bytes, Stored[Record]] = {}

    def path(self, name: str) -> str:
        return f"{self.folder}/{name}"

    def attempt(self, subject: Subject, kind: str, key: str, number: int) -> str:
        """The path of what an attempt has of a kind: its intent, its lease or its record."""
        return f"{self.folder}/{FOLDERS[subject]}/{kind}/{key}-{number}.json"

    def where(self, path: str) -> str:
        """The object in words, for errors."""
        return f"{self.store.url}/{path}"

    def names(self, folder: str) -> list[str]:
        """The paths of what is directly inside a folder, sorted."""
        return self.store.names(self.path(folder))

    def numbered(self, folder: str) -> dict[str, int]:
        """The paths in a folder that are numbers, in order, each with its number."""
        return {path: int(match[1]) for path in self.names(folder) if (match := _NUMBERED.search(path))}

    def create(self, path: str, value: msgspec.Struct) -> bool:
        """Write durably unless the name is taken. True when these very bytes are now the object."""
        return self.store.create(path, encode(value) + b"\n")

    def final(self, paths: Iterable[str], decode: Decode[T]) -> dict[str, T | UnreadableObject]:
        """What these objects hold, by path, as far as they exist; for one that can't be read, why."""
        paths = list(paths)
        for path, data in self.store.read_many(path for path in paths if path not in self._values).items():
            self._values[path] = self.decoded(data, decode, path)
        return {path: self._values[path] for path in paths if path in self._values}

    def decoded(self, data: bytes | UnreadableObject, decode: Decode[T], path: str) -> T | UnreadableObject:
        """What was read there, or why it can't be."""
        if isinstance(data, UnreadableObject):
            return data
        try:
            return decode(data, self.where(path))
        except UnreadableObject as error:
            return error

    def get(self, path: str, decode: Decode[T]) -> T | UnreadableObject | None:
        """What this object holds, None when there is none; if it can't be read, why."""
        return self.final([path], decode).get(path)

    def read(self, path: str, decode: Decode[T]) -> T | None:
        """As `get`. Raises UnreadableObject."""
        value = self.get(path, decode)
        if isinstance(value, UnreadableObject):
            raise value
        return value

    def forget(self, path: str) -> None:
        """Read this object again when it is asked for, because it was replaced."""
        self._values.pop(path, None)

    def needed(self, path: str, decode: Decode[T]) -> T:
        """As `read`, for an object that another one rests on. Raises JournalProblem when it is gone."""
        value = self.read(path, decode)
        if value is None:
            raise JournalProblem(f"{self.where(path)} is gone, but another record rests on it. Restore it from a copy.")
        return value

    def record(self, data: bytes, where: str) -> Stored[Record]:
        """As `decode_record`, of this series; the same bytes are decoded once, in the store or in the repository."""
        line = data.rstrip(b"\n")
        stored = self._records.get(line)
        if stored is None:
            stored = self._records[line] = decode_record(line, where, self._topic)
        return stored
