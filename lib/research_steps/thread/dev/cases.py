"""What dev mode measures: the baseline that the thread declares, and its case with some settings changed."""

import json
import tempfile
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from functools import partial
from io import StringIO
from typing import Any

from research_steps.errors import ResearchError, UsageError
from research_steps.records.configurations import nearest, plain, step_names, type_name
from research_steps.trial.code import Code, trace


@dataclass(frozen=True)
class DevCase:
    """A baseline of the thread: its label, its measure function and configuration as the thread gives them, the
    function's code as it is now, and the plain case."""

    label: str
    measure: Any
    config: Any
    code: Code
    case: dict[str, Any]
    private: bool = False

    @property
    def config_type(self) -> str:
        return type_name(self.config)


class _Declared(BaseException):
    """Ends the thread's function once it has declared the baseline; what it would build after that is for Marin."""

    def __init__(self, case: DevCase) -> None:
        super().__init__(case.label)
        self.case = case


class _Builders:
    """Stands in for the builders of steps, and tells the baselines that a thread declares."""

    def __init__(self, tell: Callable[[Any, Any, str, bool], object]) -> None:
        self._tell = tell

    def baseline(self, measure: Any, config: Any, *, label: str = "baseline", private: bool = False, **_: Any) -> None:
        self._tell(measure, config, label, private)

    def recorded(self, step: Any, **_: Any) -> Any:
        """The step as it is: where its output lies, a record of it changes nothing."""
        return step

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *arguments, **named: None


def declared(thread: Callable[[Any], Any], wanted: Callable[[DevCase], bool], what: str, prefix: str) -> DevCase:
    """The first baseline that the thread declares and that is wanted, with what steps of Marin have put out below
    the store's `prefix`. Raises UsageError, which says `what` was."""
    labels: list[str] = []

    def tell(measure: Any, config: Any, label: str, private: bool) -> None:
        labels.append(label)
        values = plain(config, f"baseline {label!r}", partial(_unwrapped, prefix))
        case = DevCase(label, measure, config, trace(measure), values, private)
        if wanted(case):
            raise _Declared(case)

    try:
        _call(thread, _Builders(tell), what)
    except _Declared as declaration:
        return declaration.case
    if not labels:
        raise UsageError("The thread declares no baseline: expected it to call steps.baseline, to compare with.")
    raise UsageError(f"The thread declares no baseline {what}: it has {', '.join(map(repr, labels))}.")


def measures_with(thread: Callable[[Any], Any], measure: str, config_type: str) -> bool:
    """Whether a baseline of the thread measures with this function, on this type of configuration. Raises UsageError."""
    seen: set[tuple[str, str]] = set()
    builders = _Builders(lambda measure, config, *_: seen.add((trace(measure).name, type_name(config))))
    _call(thread, builders, f"that measures with {measure}")
    return (measure, config_type) in seen


def _call(thread: Callable[[Any], Any], builders: _Builders, what: str) -> None:
    try:
        thread(builders)
    except ResearchError:
        raise
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        raise UsageError(
            f"The thread failed before it declared the baseline{f' {what}' if what else ''}: {type(error).__name__}: "
            f"{error} ({where.filename}:{where.lineno}). Dev mode builds no steps: what steps.baseline and others "
            "return is None there."
        ) from error


def with_settings(case: DevCase, settings: Sequence[str]) -> dict[str, Any]:
    """The case with settings such as 'implementation=dense' or 'model.hidden=64', read as draccus reads them.

    Raises UsageError with what draccus says is wrong.
    """
    import draccus

    values = dict(setting.partition("=")[::2] for setting in settings)
    for setting in settings:
        if "=" not in setting:
            raise UsageError(f"--set was given {setting!r}: expected key=value, such as implementation=dense.")
    if "config_path" in values and "config_path" not in case.case:
        raise UsageError("--set was given config_path, which would replace the baseline case: set its fields.")
    if case.config_type == "dict":
        changed = case.case
        for name, value in values.items():
            if hint := _hint(case.case, [name]):
                raise UsageError(f"--set was given {name!r}{hint}")
            changed = _set(changed, name.split("."), value, name)
        return changed
    stderr = StringIO()
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file, redirect_stderr(stderr):
        json.dump(case.case, file)
        file.flush()
        try:
            read = draccus.parse(type(case.config), config_path=file.name, args=[f"--{setting}" for setting in settings])
        except (Exception, SystemExit) as error:
            # draccus raises bare Exceptions, and argparse exits after it has printed how it is used.
            message = stderr.getvalue().rpartition("error:")[2] if isinstance(error, SystemExit) else str(error)
            hint = _hint(case.case, values)
            raise UsageError(f"--set {' '.join(settings)}: {' '.join(message.split())}{hint}") from error
    return plain(read, f"--set {' '.join(settings)}")


def _hint(case: dict[str, Any], names: Iterable[str]) -> str:
    """The fields that there are, and the one nearest to the first name that is none; empty where all of them are."""
    fields = list(_fields(case))
    unknown = next((name for name in names if name not in fields), None)
    if unknown is None:
        return ""
    return f": expected one of {', '.join(fields)}.{nearest(unknown, fields)}"


def _fields(case: dict[str, Any], above: str = "") -> Iterator[str]:
    """The fields of a case as --set names them, such as 'model' and 'model.hidden'."""
    for name, value in case.items():
        yield f"{above}{name}"
        if isinstance(value, dict):
            yield from _fields(value, f"{above}{name}.")


def _set(case: dict[str, Any], path: list[str], text: str, name: str) -> dict[str, Any]:
    """A copy of a case of plain values with one changed, read as a value of the kind that it had."""
    from draccus import cfgparsing

    value = case[path[0]]
    if len(path) > 1:
        return {**case, path[0]: _set(value, path[1:], text, name)}
    try:
        # YAML takes 1e-3 for text.
        value = float(text) if isinstance(value, float) else cfgparsing.parse_string(text)
    except Exception as error:
        raise UsageError(f"--set {name}={text}: {' '.join(str(error).split())}") from error
    return {**case, path[0]: value}


def _unwrapped(prefix: str, value: Any) -> Any:
    """What a configuration holds without Marin's wrappers. Marin is not imported here, unless the thread has done so."""
    match type(value).__name__:
        case "VersionedValue":
            return value.value
        case "OutputName":
            raise UsageError(
                "The baseline case holds a path of its own step, which only the executor can give: run the thread, or "
                "have the measure function ask research_steps.trial_directory() for a folder."
            )
        case "InputName" | "ExecutorStep" | "ArtifactStep":
            from research_steps.thread.marin import binding
            from research_steps.thread.marin.outputs import has_ended

            step, path = binding.output_of(value, prefix)
            if step is not None and not has_ended(binding.output_of(step, prefix)[1]):
                raise UsageError(
                    f"The baseline case rests on what the step {step.name} puts out, and {path} is not finished: run "
                    f"the thread first, or that step alone with '--run_only {step.name}'."
                )
            return step_names(path, prefix)
    return value
