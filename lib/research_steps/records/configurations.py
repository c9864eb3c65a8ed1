"""Configurations of measurements as plain, canonical JSON, and back.

A configuration is a dataclass (or a dict) of the experiment. What is recorded is its plain form; the child builds the
object again from that, so a record holds all that is needed to measure the same thing once more.
"""

import dataclasses
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from enum import Enum
from pathlib import Path
from typing import Any

from research_steps.errors import UsageError
from research_steps.records.encoding import canonical
from research_steps.records.redaction import redact

Substitute = Callable[[Any], Any]
# How a configuration spells what a step of Marin puts out: by the step's name and hash, wherever the store is.
STEP = "step:"
# What a case, or a candidate, calls the version of its code, where that is another one than the baseline's.
CODE = "code"


def nearest(name: str, fields: Iterable[str]) -> str:
    """A question that names the field nearest to one that is none; empty where nothing is near."""
    near = get_close_matches(name, list(fields), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def plain(config: Any, what: str, substitute: Substitute | None = None) -> dict[str, Any]:
    """The configuration as plain JSON values. `what` names it in the error; `substitute` maps placeholders first.

    Raises UsageError that names the field which can't be recorded or, without placeholders, not be read back.
    """
    if not isinstance(config, Mapping) and not (dataclasses.is_dataclass(config) and not isinstance(config, type)):
        raise UsageError(
            f"The configuration of {what} is {type(config).__name__}: expected a dataclass or a dict, so that each of "
            "its fields can be recorded and varied."
        )
    try:
        encoded: dict[str, Any] = _plain(config, what, "", substitute or (lambda value: value))
    except RecursionError as error:
        raise UsageError(
            f"The configuration of {what} can't be recorded: it holds itself, or is nested too deep."
        ) from error
    if substitute is None and not isinstance(config, Mapping):
        _check_read_back(type(config), encoded, what)
    return encoded


def type_name(config: Any) -> str:
    """Under which name a child finds the configuration's class: 'module:Class', or 'dict'."""
    if isinstance(config, Mapping):
        return "dict"
    kind = type(config)
    if "<locals>" in kind.__qualname__:
        raise UsageError(
            f"The configuration class {kind.__qualname__} is defined inside a function: expected it at the top level of "
            "a module, so that the process of a trial can import it."
        )
    return f"{importable_name(kind.__module__)}:{kind.__qualname__}"


def changed(config: Any, changes: Mapping[str, Any], what: str) -> Any:
    """A copy of the configuration with some fields replaced. Raises UsageError for a field it does not have."""
    is_mapping = isinstance(config, Mapping)
    fields = list(map(str, config)) if is_mapping else [field.name for field in dataclasses.fields(config)]
    for name in changes:
        if name not in fields:
            raise UsageError(
                f"{what} varies {name!r}, which {type(config).__name__} does not have: expected one of "
                f"{', '.join(fields)}."
            )
    return {**config, **changes} if is_mapping else dataclasses.replace(config, **changes)


def importable_name(module: str) -> str:
    """Under which name another process imports a module, also the one that was started as a program."""
    if module != "__main__":
        return module
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    return str(spec.name) if spec is not None else Path(getattr(main, "__file__", None) or "__main__").stem


def differences(config: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The fields in which two plain configurations differ, with both values."""
    names = [*config, *(name for name in other if name not in config)]
    return {name: (config.get(name), other.get(name)) for name in names if config.get(name) != other.get(name)}


def changes_in(config: Mapping[str, Any], case: Mapping[str, Any]) -> dict[str, Any]:
    """What a candidate changes in its baseline case."""
    return {name: mine for name, (mine, _) in differences(config, case).items()}


def configuration_of(case: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """A case without the version of its code. `other` is a configuration of the same kind, which may have a field of
    that name itself."""
    return {name: value for name, value in case.items() if name != CODE or CODE in other}


def step_names(value: Any, prefix: str) -> Any:
    """A plain value with each path below the store's `prefix` as that of a step's output, the same in every store."""
    below = f"{prefix.rstrip('/')}/"
    return _texts(value, lambda text: STEP + text[len(below) :] if text.startswith(below) else text)


def step_paths(value: Any, prefix: str) -> Any:
    """The same with the real paths in this store."""
    return _texts(value, lambda text: f"{prefix.rstrip('/')}/{text[len(STEP) :]}" if text.startswith(STEP) else text)


def _texts(value: Any, changed: Callable[[str], str]) -> Any:
    """A plain value with its texts changed."""
    if isinstance(value, str):
        return changed(value)
    if isinstance(value, dict):
        return {name: _texts(item, changed) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_texts(item, changed) for item in value)
    return value


def code_name(commit: str, patch: str | None) -> str:
    """What claims call a version of the code that has no name of its own."""
    return commit[:12] + (f"+{patch[:12]}" if patch else "")


def _plain(value: Any, what: str, path: str, substitute: Substitute) -> Any:
    value = substitute(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        # What is not given to __init__ is computed there again.
        names = [field.name for field in dataclasses.fields(value) if field.init]
        return {name: _plain(getattr(value, name), what, f"{path}.{name}", substitute) for name in names}
    if isinstance(value, Mapping):
        return {_key(name, what, path): _plain(item, what, f"{path}.{name}", substitute) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, what, f"{path}[{index}]", substitute) for index, item in enumerate(value)]
    if isinstance(value, set | frozenset):
        return sorted((_plain(item, what, f"{path}{{}}", substitute) for item in value), key=canonical)
    if isinstance(value, Enum):
        value = value.name
    elif value is not None and not isinstance(value, str | bool | int | float):
        value = _encoded(value, what, path)
    return _recordable(value, what, path)


def _check_read_back(kind: type, encoded: dict[str, Any], what: str) -> None:
    """The child builds the configuration from its plain form: it must be the same one."""
    import draccus

    try:
        again = _plain(draccus.decode(kind, encoded), what, "", lambda value: value)
    except Exception as error:
        # draccus raises bare Exceptions, with messages of several lines.
        raise UsageError(
            f"The configuration of {what} can't be read back from its record: {' '.join(str(error).split())}"
        ) from error
    for name, (value, read) in differences(encoded, again).items():
        raise UsageError(
            f"The configuration of {what} can't be read back from its record: {name} is {value!r} and comes back as "
            f"{read!r}; give it a value of the type that {kind.__name__} declares."
        )


def _encoded(value: Any, what: str, path: str) -> Any:
    import draccus

    if isinstance(value, type):
        # draccus would take a dataclass itself for one with all its defaults.
        raise _unrecordable(what, path, value)
    try:
        return draccus.encode(value)
    except Exception as error:
        # draccus raises bare Exception for a type that it has no encoder for.
        raise _unrecordable(what, path, value) from error


def _recordable(value: Any, what: str, path: str) -> Any:
    try:
        canonical(value)
        if isinstance(value, str):
            # Half of a surrogate pair is fine in a Python string and can't be read back from JSON.
            value.encode()
    except (TypeError, ValueError) as error:
        raise _unrecordable(what, path, value) from error
    return value


def _key(name: Any, what: str, path: str) -> str:
    if not isinstance(name, str) or isinstance(name, Enum):
        raise _unrecordable(what, f"{path}.{name}", name)
    _recordable(name, what, f"{path}.{name}")
    return name


def _unrecordable(what: str, path: str, value: Any) -> UsageError:
    # An int is refused for its length only, and such a one has no decimal form.
    shown = hex(value) if isinstance(value, int) else redact(repr(value))
    shown = shown if len(shown) <= 80 else f"{shown[:77]}…"
    return UsageError(
        f"The configuration of {what} can't be recorded: {path.lstrip('.')} is {shown} "
        f"({type(value).__name__}); expected finite numbers, strings, booleans, None, enums, paths, or lists, dicts and "
        "dataclasses of them."
    )


def as_typed(text: str, now: Any) -> Any:
    """A value as JSON spells it, else text, of the type that the field has now."""
    if isinstance(now, str):
        return text
    try:
        value = json.loads(text.lower() if isinstance(now, bool) else text)
    except ValueError:
        return text
    return float(value) if isinstance(now, float) and type(value) is int else value
