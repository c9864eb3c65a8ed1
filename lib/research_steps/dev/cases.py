"""What dev mode measures: the baseline that the thread declares, and its case with some settings changed."""

import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from io import StringIO
from typing import Any

from research_steps.code import Code, trace
from research_steps.config import plain, type_name
from research_steps.errors import UsageError


@dataclass(frozen=True)
class DevCase:
    """A baseline of the thread: its label, the code of its measure function as it is now, and the case."""

    label: str
    code: Code
    config_type: str
    case: dict[str, Any]


class _Found(BaseException):
    """Ends the thread's function once it has declared the baseline; what it would build after that is for Marin."""

    def __init__(self, measure: Any, config: Any, label: str) -> None:
        super().__init__(label)
        self.measure, self.config, self.label = measure, config, label


class _Baselines:
    """Stands in for the builders of steps, until the wanted baseline is declared."""

    def __init__(self, wanted: str) -> None:
        self._wanted = wanted
        self.labels: list[str] = []

    def baseline(self, measure: Any, config: Any, *, label: str = "baseline", **_: Any) -> None:
        self.labels.append(label)
        if self._wanted in ("", label):
            raise _Found(measure, config, label)

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *arguments, **named: None


def declared(thread: Callable[[Any], Any], wanted: str) -> DevCase:
    """The baseline with this label, or the first one that the thread declares. Raises UsageError."""
    baselines = _Baselines(wanted)
    try:
        thread(baselines)
    except _Found as found:
        case = plain(found.config, f"baseline {found.label!r}", _given)
        return DevCase(found.label, trace(found.measure), type_name(found.config), case)
    labels = ", ".join(map(repr, baselines.labels)) or "none"
    raise UsageError(
        f"The thread declares no baseline {wanted!r}: expected one of {labels}."
        if wanted
        else "The thread declares no baseline: expected it to call steps.baseline, with what everything is compared."
    )


def with_settings(case: DevCase, settings: Sequence[str]) -> dict[str, Any]:
    """The case with settings such as 'implementation=dense' or 'model.hidden=64', read as draccus reads them.

    Raises UsageError with what draccus says is wrong.
    """
    import draccus
    from draccus import cfgparsing

    for setting in settings:
        if "=" not in setting:
            raise UsageError(f"--set was given {setting!r}: expected key=value, such as implementation=dense.")
    if case.config_type == "dict":
        given = dict(setting.split("=", 1) for setting in settings)
        for name in given:
            if name not in case.case:
                raise UsageError(f"--set was given {name!r}: expected one of {', '.join(case.case)}.")
        return {**case.case, **{name: cfgparsing.parse_string(value) for name, value in given.items()}}
    module, _, name = case.config_type.partition(":")
    kind: Any = sys.modules[module]
    for part in name.split("."):
        kind = getattr(kind, part)
    said = StringIO()
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file, redirect_stderr(said):
        json.dump(case.case, file)
        file.flush()
        try:
            read = draccus.parse(kind, config_path=file.name, args=[f"--{setting}" for setting in settings])
        except (Exception, SystemExit) as error:
            # draccus raises bare Exceptions, and argparse exits after it has printed how it is used.
            told = said.getvalue().rpartition("error:")[2] if isinstance(error, SystemExit) else str(error)
            raise UsageError(f"--set {' '.join(settings)}: {' '.join(told.split())}") from error
    return plain(read, f"--set {' '.join(settings)}")


def _given(value: Any) -> Any:
    """What a configuration holds without Marin's wrapper, which is not imported here."""
    if type(value).__name__ == "VersionedValue":
        return value.value
    if type(value).__name__ in ("InputName", "OutputName", "ExecutorStep"):
        raise UsageError(
            "The baseline case rests on what another step puts out, which only the executor can make: run the thread, "
            "or give the baseline of dev mode a case of plain values."
        )
    return value
