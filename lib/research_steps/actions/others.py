"""Taking over what others measured, from the logs that they keep: a table with a header, JSON, or JSON lines.

All in such a file is text of somebody else: nothing of it is run, looked up or believed.
"""

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from research_steps.errors import UsageError
from research_steps.evidence.effects import LARGEST
from research_steps.evidence.others import FAILED, adopted
from research_steps.files import open_file
from research_steps.journal.attachments import LARGEST_BYTES
from research_steps.journal.entries import Finding
from research_steps.publish.entry_writer import EntryWriter, digest, short
from research_steps.records.encoding import Stored, without_secrets
from research_steps.records.model import EntryRecord
from research_steps.records.step_kinds import Adopted, OthersRow, plain_details

MOST_ROWS = 5_000
# How many rows are named that can't be read.
NAMED = 10
_OUTCOME, _NOTE = ("status", "state", "outcome"), ("description", "notes", "note", "comment")
# Where exports of W&B, and logs of agents, keep fields and metrics of a run.
_INNER = ("config", "summary", "summaryMetrics", "metrics")
# A row by its line in the file, or why there is none.
Read = Iterator[tuple[int, dict[str, Any] | str]]


class _BadRow(ValueError):
    """Why a row can't be read."""


def adopt_rows(writer: EntryWriter, path: Path) -> tuple[Stored[EntryRecord] | None, list[str]]:
    """The entry of those rows of a file that no entry has yet, None where there are none; and what could not be read,
    each with its line. Raises UsageError for a file that is no such log."""
    metrics = [metric.name for metric in writer.series.metrics]
    rows, problems = list[OthersRow](), list[str]()
    columns = dict[str, None]()
    for line, read in _rows(_text(path), path):
        try:
            if isinstance(read, str):
                raise _BadRow(read)
            rows.append(_row(read, metrics))
            columns.update(dict.fromkeys(read))
        except _BadRow as error:
            problems.append(f"line {line}: {error}")
        if len(rows) > MOST_ROWS:
            raise UsageError(
                f"{path} has more than {MOST_ROWS} rows: expected at most that many, because they go into git. Put "
                "those worth knowing into a file of their own."
            )
    if not columns.keys() & set(metrics):
        names = short(", ".join(columns)) or f"none ({'; '.join(problems[:NAMED]) or 'it has no row'})"
        raise UsageError(
            f"{path} has no column that is called as a metric of {writer.series.topic} ({', '.join(metrics)}): its "
            f"columns are {names}. Call the one with the number so."
        )
    more = [f"and {len(problems) - NAMED} more"] if len(problems) > NAMED else []
    given = without_secrets(Adopted(source=path.name, rows=tuple(rows), unread=(*problems[:NAMED], *more)))
    snapshot = writer.scan()
    known = Counter(_spelled(row) for _, old in adopted(e.record for e in snapshot.counting) for row in old.rows)
    # As often as it is not known yet.
    new = tuple(row for row in given.rows if not _taken(known, _spelled(row)))
    if not new:
        return None, list(given.unread)
    details = msgspec.structs.replace(given, rows=new)
    counts = Counter(row.outcome or "without outcome" for row in new).most_common(NAMED)
    unread = f" {len(problems)} could not be read." if problems else ""
    finding = Finding(
        f"{len(new)} rows that others measured, from {details.source}: "
        f"{', '.join(f'{count} {short(outcome)}' for outcome, count in counts)}.{unread} They are no evidence here."
    )
    retracted = sorted(entry.sha256 for entry in snapshot.entries.values() if entry.sha256 in snapshot.retracted)
    key = f"adopted/{digest(plain_details(details), retracted)}"
    return writer.write(snapshot, "adopted", key, f"rows of {details.source}", details, finding), list(details.unread)


def _text(path: Path) -> str:
    try:
        with open(open_file(path), "rb") as file:
            data = file.read(LARGEST_BYTES + 1)
    except OSError as error:
        raise UsageError(
            f"{path} can't be read: {error.strerror}. Expected a table with a header, JSON, or JSON lines."
        ) from error
    if len(data) > LARGEST_BYTES:
        raise UsageError(
            f"{path} has more than {LARGEST_BYTES} bytes: expected at most that many, because its rows go into git. Put "
            "those worth knowing into a file of their own."
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path} is no UTF-8 text (byte {data[error.start]:#04x} at {error.start}): save it as UTF-8."
        ) from error


def _rows(text: str, path: Path) -> Read:
    """The rows of a file, each as names and values."""
    match text.lstrip()[:1]:
        case "[":
            return _json_rows(text, path)
        case "{":
            return _json_lines(text)
        case _:
            return _table_rows(text, path)


def _table_rows(text: str, path: Path) -> Read:
    delimiter = "\t" if "\t" in text.lstrip().partition("\n")[0] else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] = []
    try:
        for cells in filter(any, reader):
            if not header:
                header = [cell.strip() or f"column {number}" for number, cell in enumerate(cells, 1)]
                twice = [name for name, count in Counter(header).items() if count > 1]
                if twice:
                    raise UsageError(f"{path} has two columns called {twice[0]!r}: expected a name of its own for each.")
            elif len(cells) != len(header):
                yield reader.line_num, f"it has {len(cells)} cells, expected {len(header)} as in the header"
            else:
                yield reader.line_num, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise UsageError(f"{path} can't be read as a table from line {reader.line_num} on: {error}. Mend it.") from error


def _json_rows(text: str, path: Path) -> Read:
    try:
        items = json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is no JSON that can be read ({error}): expected a list of objects.") from error
    for number, item in enumerate(items, 1):
        yield number, _flat(item) if isinstance(item, dict) else "it is no object"


def _json_lines(text: str) -> Read:
    # An agent's log says first how it calls its number.
    number_is_called = "metric"
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            item = json.loads(line, object_pairs_hook=_once)
        except (ValueError, RecursionError) as error:
            yield number, f"it is no JSON ({error})"
            continue
        if not isinstance(item, dict):
            yield number, "it is no object"
        elif item.get("type") == "config" and isinstance(item.get("metricName"), str):
            number_is_called = item["metricName"]
        else:
            yield number, {number_is_called if name == "metric" else name: value for name, value in _flat(item).items()}


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    twice = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
    if twice:
        raise _BadRow(f"it names {twice[0]!r} twice")
    return dict(pairs)


def _flat(item: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """An object with what lies in its objects, under their names; what a run is configured with by its own."""
    flat: dict[str, Any] = {}
    for name, value in item.items():
        if isinstance(value, dict) and value.keys() == {"value"}:
            value = value["value"]
        if isinstance(value, dict):
            inner = _flat(value, "" if not path and name in _INNER else f"{path}{name}.")
            flat |= {other if other not in flat else f"{name}.{other}": own for other, own in inner.items()}
        else:
            flat[path + name] = json.dumps(value) if isinstance(value, list) else value
    return flat


def _row(read: Mapping[str, Any], metrics: Iterable[str]) -> OthersRow:
    """Raises _BadRow for a metric that is no number."""
    cells = {name: value for name, value in read.items() if value not in ("", None)}
    taken = {
        what: next((name for name in cells if name.lower() in names), "")
        for what, names in (("outcome", _OUTCOME), ("note", _NOTE))
    }
    said = {what: str(cells.pop(name)).strip() if name else "" for what, name in taken.items()}
    numbers = {}
    for name in metrics:
        value = _number(name, cells.get(name))
        # What failed, diverged or is past all measure has no number: what it says stays a field.
        if value is not None and abs(value) <= LARGEST and said["outcome"].lower() not in FAILED:
            numbers[name] = value
            del cells[name]
    fields = {name: str(value) if _is_odd(value) else value for name, value in cells.items()}
    return OthersRow(fields=fields, metrics=numbers, **said)


def _number(name: str, value: Any) -> float | None:
    try:
        return None if value is None else float(str(value))
    except ValueError:
        raise _BadRow(f"{name} is {short(str(value))!r}, expected a number") from None


def _is_odd(value: Any) -> bool:
    """A number that records can't hold as one."""
    return isinstance(value, int | float) and not abs(value) <= LARGEST


def _spelled(row: OthersRow) -> str:
    return json.dumps(msgspec.to_builtins(row), sort_keys=True)


def _taken(known: Counter[str], row: str) -> bool:
    known[row] -= 1
    return known[row] >= 0
