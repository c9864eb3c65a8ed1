"""What a command prints: metrics among its lines, and the beginning and the end of it all, within a bounded memory."""

import json
import re
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from research_steps.errors import BadMetrics
from research_steps.records.numbers import quantity
from research_steps.records.redaction import LONGEST, redact_end, redactor
from research_steps.terminal import visible
from research_steps.trial.command import Rule

# A longer line is none that tells a metric (bytes), nor is a longer file.
LONGEST_LINE, LONGEST_FILE = 1 << 20, 16 << 20
# So many numbers are taken from one run.
MOST_SAMPLES = 20_000
# How much of its beginning, and of its end, is kept (characters).
KEPT = 2000
# How many of the last lines tell why it failed.
LAST_LINES = 10
_METRIC = re.compile(rb"METRIC\s+([^\s=]{1,200})\s*=\s*(\S{1,200})\s*$")


class Printed:
    """Takes what a command prints, as it comes, from both of its streams. May be asked once it has ended."""

    def __init__(self, rule: Rule = None) -> None:
        self._rule = rule
        self._patterns = _patterns(rule)
        self._found: dict[str, list[float]] = {}
        self._strange: dict[str, str] = {}
        self._count = 0
        self._lock = threading.Lock()
        self._size, self._head, self._tail = 0, b"", b""
        # Of each stream: the line that is not over yet, None behind what was too long for one.
        self._rest: dict[str, bytes | None] = {"stdout": b"", "stderr": b""}
        self._ends = {"stdout": b"", "stderr": b""}
        self._last_line = b""

    def take(self, stream: str, data: bytes) -> None:
        with self._lock:
            self._size += len(data)
            kept = KEPT + LONGEST
            if len(self._head) < kept:
                self._head += data[: kept - len(self._head)]
            self._tail = _end(self._tail, data)
            self._ends[stream] = _end(self._ends[stream], data)
            first, *more = data.split(b"\n")
            rest = self._rest[stream]
            begun = None if rest is None or len(rest) + len(first) > LONGEST_LINE else rest + first
            if not more:
                self._rest[stream] = begun
                return
            self._lines(stream, [*([] if begun is None else [begun]), *more[:-1]])
            self._rest[stream] = more[-1]

    def close(self) -> None:
        """It prints nothing more."""
        with self._lock:
            for stream, rest in self._rest.items():
                self._lines(stream, [rest] if rest else [])
                self._rest[stream] = b""

    def samples(self, file: Path | None = None) -> list[dict[str, float]]:
        """All samples of the metrics, by the rule; `file` is where it wrote them. Raises BadMetrics."""
        found = self._found
        if file is not None:
            found = _of_json(_content(file), str(file))
        elif self._rule is None and not found:
            found = _of_json(self._last_line, "")
        count = max(self._count, sum(map(len, found.values())))
        if count > MOST_SAMPLES:
            raise BadMetrics(f"It gave {count} numbers: expected {MOST_SAMPLES} at most, such as means of many.")
        if self._strange and not found:
            told = ", ".join(f"{name}={text!r}" for name, text in self._strange.items())
            raise BadMetrics(f"It printed {told}: expected a number.")
        longest = max(map(len, found.values()), default=1)
        uneven = {name: len(values) for name, values in found.items() if len(values) not in (1, longest)}
        if uneven:
            name, count = next(iter(uneven.items()))
            raise BadMetrics(
                f"It printed {name!r} {count} times and another metric {longest} times: expected each as often as the "
                "others, or once."
            )
        columns = {name: values * longest if len(values) == 1 else values for name, values in found.items()}
        return [{name: values[index] for name, values in columns.items()} for index in range(longest)]

    def text(self, environment: Mapping[str, str]) -> str:
        """The beginning and the end, without the secrets of this environment, in which everything can be seen."""
        clean = redactor(environment)
        if self._size <= len(self._head):
            whole = clean(self._head.decode("utf-8", "replace"))
            if len(whole) <= 2 * KEPT:
                return visible(whole)
        head = clean(self._head.decode("utf-8", "replace"))[:KEPT]
        tail = redact_end(self._tail, KEPT, clean)
        return visible(f"{head}\n… ({self._size} bytes in all) …\n{tail}")

    def failure(self, code: int, took_s: float, environment: Mapping[str, str]) -> str:
        """That it ended with this exit code, and the end of standard error, or of standard output without one."""
        end = self._ends["stderr"].strip() or self._ends["stdout"].strip()
        lines = redact_end(end, KEPT, redactor(environment)).splitlines()[-LAST_LINES:] or ["it printed nothing"]
        return visible("\n".join([f"exit code {code} after {quantity('_s', took_s)}: {lines[-1]}", *lines[:-1]]))

    def _lines(self, stream: str, lines: Sequence[bytes]) -> None:
        if stream == "stdout":
            self._last_line = next((line for line in reversed(lines) if line.strip()), self._last_line)
        if self._rule is None:
            for line in lines:
                if line.startswith(b"METRIC") and (told := _METRIC.match(line)):
                    self._add(*(part.decode("utf-8", "replace") for part in told.groups()))
        for name, pattern in self._patterns:
            for line in lines:
                for match in pattern.finditer(line.decode("utf-8", "replace")):
                    named = {name: match[min(1, pattern.groups)]} if name else match.groupdict()
                    for metric, text in named.items():
                        if text is not None:
                            self._add(metric, text)

    def _add(self, name: str, text: str) -> None:
        self._count += 1
        if self._count > MOST_SAMPLES:
            return
        try:
            self._found.setdefault(name, []).append(float(text))
        except ValueError:
            self._strange[name] = text[:80]
            if not self._found[name]:
                del self._found[name]


def _patterns(rule: Rule) -> list[tuple[str, re.Pattern[str]]]:
    if isinstance(rule, re.Pattern):
        return [("", rule)]
    return [(name, re.compile(text)) for name, text in rule.items()] if isinstance(rule, Mapping) else []


def _end(kept: bytes, data: bytes) -> bytes:
    longest = KEPT + 2 * LONGEST
    return data[-longest:] if len(data) >= longest else (kept + data)[-longest:]


def _content(file: Path) -> bytes:
    with file.open("rb") as opened:
        content = opened.read(LONGEST_FILE + 1)
    if len(content) > LONGEST_FILE:
        raise BadMetrics(f"{file} is larger than {LONGEST_FILE >> 20} MiB: expected a JSON object of metrics.")
    return content


def _of_json(text: bytes, file: str) -> dict[str, list[float]]:
    """The numbers in a JSON object, and the lists of numbers. Raises BadMetrics for a `file` that holds none."""
    try:
        values: Any = json.loads(text, parse_int=float)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        if file:
            raise BadMetrics(f'{file} holds no JSON object: expected one, such as {{"time_s": 0.012}}.')
        return {}
    listed = {name: value if isinstance(value, list) else [value] for name, value in values.items()}
    return {
        name: numbers for name, numbers in listed.items() if numbers and all(type(number) is float for number in numbers)
    }
