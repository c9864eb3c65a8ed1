"""A command line as a measure: its template, which a configuration fills in, and how its output tells metrics.

No shell reads it. The template is split first, as a shell would, and each argument is filled in alone, so that no value
can add one. It runs at the top of the repository; the files there that it names are its code.
"""

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from glob import escape
from itertools import pairwise
from pathlib import Path
from string import Formatter
from typing import Any

from research_steps.errors import UsageError
from research_steps.records.configurations import nearest
from research_steps.records.encoding import canonical
from research_steps.records.redaction import redact

# How records name one as a measure, where a function is 'module:function': its template, and its rule if it has one.
_PREFIX, _RULE = "command:", " # metrics "
Rule = str | Mapping[str, str] | re.Pattern[str] | None


@dataclass(frozen=True)
class Command:
    """A command line that measures, such as `Command("python bench.py --tokens {tokens}")`, with fields of the
    configuration in braces: `{model.hidden}` for one in another, `{{` for a brace.

    `metrics` tells where its numbers are. By default: lines `METRIC name=value` that it prints, or else a JSON object as
    the last line of standard output. A text names the JSON file that it writes; a mapping has a regular expression for
    each name, whose first group is the number; a compiled one has a named group for each. What is printed several times
    are several samples. Raises UsageError for a template that can't be split or filled in.
    """

    template: str
    metrics: Rule = None

    def __post_init__(self) -> None:
        try:
            words = self._words
            fields = list(_fields(*words, *([self.metrics] if isinstance(self.metrics, str) else [])))
        except ValueError as error:
            raise UsageError(f"The command {self.template!r} can't be read ({error}): quote it so.") from error
        odd = next((field for field in fields if not re.fullmatch(r"[^\W\d]\w*(\.\w+)*", field)), None)
        if not words or odd is not None or _RULE in self.template:
            what = f"the field {{{odd}}}" if odd is not None else "no program" if not words else f"{_RULE!r}"
            raise UsageError(
                f"The command {self.template!r} has {what}: expected a program and its arguments, with fields of the "
                "configuration such as {tokens}, and braces that are none doubled."
            )
        patterns = self.metrics.values() if isinstance(self.metrics, Mapping) else ()
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise UsageError(f"{pattern!r} is no regular expression: {error}.") from error
        if isinstance(self.metrics, re.Pattern) and not self.metrics.groupindex:
            raise UsageError(f"{self.metrics.pattern!r} has no named group: expected one for each metric.")

    @property
    def name(self) -> str:
        """What records name it by, which says all of it. Raises UsageError where it holds a secret."""
        name = f"{_PREFIX}{self.template}"
        match self.metrics:
            case None:
                pass
            case re.Pattern(pattern=pattern):
                name += f"{_RULE}{canonical({'groups': pattern}).decode()}"
            case rule:
                name += f"{_RULE}{canonical(dict(rule) if isinstance(rule, Mapping) else rule).decode()}"
        if redact(name) != name:
            raise UsageError(
                f"The command {redact(self.template)!r} holds what looks like a secret: a record names it in full, so "
                "let it read that from its environment."
            )
        return name

    @staticmethod
    def named(name: str) -> "Command | None":
        """The command that a record names; None for a function."""
        if not name.startswith(_PREFIX):
            return None
        template, _, rule = name.removeprefix(_PREFIX).partition(_RULE)
        metrics = json.loads(rule) if rule else None
        if isinstance(metrics, dict) and list(metrics) == ["groups"]:
            return Command(template, re.compile(metrics["groups"]))
        return Command(template, metrics)

    def arguments(self, config: Mapping[str, Any]) -> list[str]:
        """The arguments for a plain configuration. Raises UsageError for a field that it does not have."""
        return [_filled(word, config) for word in self._words]

    def file(self, config: Mapping[str, Any]) -> str | None:
        """The file that it writes its metrics to, None where it prints them."""
        return _filled(self.metrics, config) if isinstance(self.metrics, str) else None

    def modules(self) -> list[str]:
        """The modules that it has Python run by name."""
        words = self._words
        return [module for option, module in pairwise(words) if option == "-m"]

    def files(self, root: Path) -> list[Path]:
        """The files below `root` that it names, whole or behind a '='; where a field is part of a name, all that fit.

        Raises UsageError for one that is named by an absolute path, which is another file in another checkout."""
        found: dict[Path, None] = {}
        for word in self._words:
            for named in (word, word.partition("=")[2]):
                pattern = "".join(
                    escape(literal) + ("" if field is None else "*") for literal, field, *_ in Formatter().parse(named)
                )
                if Path(named).is_absolute() and Path(named).is_relative_to(root):
                    raise UsageError(
                        f"The command {self.template!r} names {named}: expected {Path(named).relative_to(root)}, "
                        "because it runs at the top of the repository, also in another copy of it."
                    )
                # A field alone may be anything; one with an ending is a file. What it writes is none of its code.
                ending = Path(pattern).suffix
                plain = not any(field is not None for _, field, *_ in Formatter().parse(named))
                if named in ("", self.metrics) or Path(named).is_absolute() or not (plain or ending.strip("*.")):
                    continue
                found |= dict.fromkeys(path for path in sorted(root.glob(pattern)) if path.is_file())
        return [path for path in found if path.resolve().is_relative_to(root.resolve())]

    @property
    def _words(self) -> list[str]:
        return shlex.split(self.template)


def _fields(*words: str) -> Iterator[str]:
    for word in words:
        for _, field, format, conversion in Formatter().parse(word):
            if field is not None:
                yield f"{field}{'!' if conversion else ''}{':' if format else ''}"


def _filled(word: str, config: Mapping[str, Any]) -> str:
    parts = []
    for literal, field, *_ in Formatter().parse(word):
        parts += [literal, "" if field is None else _value(field, config)]
    return "".join(parts)


def _value(field: str, config: Mapping[str, Any]) -> str:
    value: Any = config
    for name in field.split("."):
        if not isinstance(value, Mapping) or name not in value:
            there = list(map(str, value)) if isinstance(value, Mapping) else []
            raise UsageError(
                f"The command has the field {{{field}}}, which its configuration does not have: expected one of "
                f"{', '.join(there) or 'none'}.{nearest(name, there)}"
            )
        value = value[name]
    if not isinstance(value, str | int | float):
        raise UsageError(
            f"The command has the field {{{field}}}, which is {value!r}: expected text, a number or a truth."
        )
    return str(value)
