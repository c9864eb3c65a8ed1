"""What others measured, as their logs say: shown, searched, and never evidence. Pure functions.

A row has no trial, so that no claim, floor, winner or hypothesis can rest on it.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from research_steps.records.configurations import as_typed
from research_steps.records.model import EntryRecord
from research_steps.records.numbers import listed, spelled
from research_steps.records.step_kinds import Adopted, OthersRow

# How the logs of others call what they gave up, and what has no number worth knowing.
FAILED = frozenset(("crash", "crashed", "failed", "failure", "error", "killed", "nan", "diverged"))
GIVEN_UP = FAILED | {"discard", "discarded", "revert", "reverted", "rejected"}
# How many rows are named at once, and how much of each.
SHOWN = 3
_LONGEST = 80


def adopted(entries: Iterable[EntryRecord]) -> Iterator[tuple[EntryRecord, Adopted]]:
    """The entries that took over rows of others."""
    for entry in entries:
        if entry.step == "adopted":
            yield entry, entry.details_as(Adopted)


def tried(entries: Iterable[EntryRecord], case: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """What others say of a configuration: the `case` with what is `asked` in it. A row is of it whose fields say so, as
    far as it has any of these, and one whose words name all that is asked."""
    found = []
    for entry, details in adopted(entries):
        for number, row in enumerate(details.rows, 1):
            where = f"{entry.id}, row {number} of {details.source}"
            if _is_of(row, {**case, **asked}, asked):
                found.append(f"tried before, by others ({where}): {row_text(row)}")
            elif asked and all(_says(row.note, name, value) for name, value in asked.items()):
                found.append(f"others may have tried it ({where}): {row_text(row)}")
    return found


def given_up(details: Adopted) -> tuple[str, str] | None:
    """What others gave up, the first of it named, and how much that is; None where they gave up nothing."""
    rows = [row for row in details.rows if row.outcome.lower() in GIVEN_UP]
    named = "; ".join(short(row.note or spelled(row.fields)) for row in rows[:SHOWN])
    more = f"; and {len(rows) - SHOWN} more" if len(rows) > SHOWN else ""
    return (f"{named}{more}", f"{len(rows)} of {len(details.rows)} rows of {details.source}") if rows else None


def row_text(row: OthersRow) -> str:
    """What a row says came of it."""
    said = (row.outcome or "no outcome", listed(row.metrics), short(row.note))
    return "; ".join(filter(None, said))


def short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _is_of(row: OthersRow, case: Mapping[str, Any], asked: Mapping[str, Any]) -> bool:
    shared = row.fields.keys() & case.keys()
    return bool(asked) and asked.keys() <= shared and all(_same(row.fields[name], case[name]) for name in shared)


def _same(said: Any, value: Any) -> bool:
    return said == value or (isinstance(said, str) and as_typed(said, value) == value)


def _says(note: str, name: str, value: Any) -> bool:
    text = note.lower().replace("_", " ")
    words = (str(part).lower().replace("_", " ") for part in (name, value))
    return all(re.search(rf"(?<![\w.]){re.escape(word)}(?![\w]|\.\d)", text) for word in words)
