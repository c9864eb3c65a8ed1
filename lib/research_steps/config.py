"""Configurations of measurements as plain, canonical JSON, and back.

A configuration is a dataclass (or a dict) of the experiment. What is recorded is its plain form; the child builds the
object again from that, so a record holds all that is needed to measure the same thing once more.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from research_steps.errors import UsageError
from research_steps.record import canonical


def plain(config: Any, what: str, substitute: Callable[[Any], Any] = lambda value: value) -> dict[str, Any]:
    """The configuration as plain JSON values. `what` names it in the error; `substitute` maps placeholders first.

    Raises UsageError that names the field which can't be recorded.
    """
    if not isinstance(config, Mapping) and not (dataclasses.is_dataclass(config) and not isinstance(config, type)):
        raise UsageError(
            f"The configuration of {what} is {type(config).__name__}: expected a dataclass or a dict, so that each of "
            "its fields can be recorded and varied."
        )
    encoded = _plain(config, what, "", substitute)
    assert isinstance(encoded, dict), "a dataclass or mapping becomes a dict"
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
    module = kind.__module__
    if module == "__main__":
        import sys

        spec = getattr(sys.modules["__main__"], "__spec__", None)
        module = spec.name if spec is not None else module
    return f"{module}:{kind.__qualname__}"


def changed(config: Any, changes: Mapping[str, Any], what: str) -> Any:
    """A copy of the configuration with some fields replaced. Raises UsageError for a field it does not have."""
    fields = field_names(config)
    for name in changes:
        if name not in fields:
            raise UsageError(
                f"{what} varies {name!r}, which {type(config).__name__} does not have: expected one of "
                f"{', '.join(fields)}."
            )
    if isinstance(config, Mapping):
        return {**config, **changes}
    return dataclasses.replace(config, **changes)


def field_names(config: Any) -> list[str]:
    if isinstance(config, Mapping):
        return [str(name) for name in config]
    return [field.name for field in dataclasses.fields(config)]


def differences(config: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The fields in which two plain configurations differ, with both values."""
    names = [*config, *(name for name in other if name not in config)]
    return {name: (config.get(name), other.get(name)) for name in names if config.get(name) != other.get(name)}


def _plain(value: Any, what: str, path: str, substitute: Callable[[Any], Any]) -> Any:
    value = substitute(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return {name: _plain(getattr(value, name), what, f"{path}.{name}", substitute) for name in names}
    if isinstance(value, Mapping):
        return {_key(name, what, path): _plain(item, what, f"{path}.{name}", substitute) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, what, f"{path}[{index}]", substitute) for index, item in enumerate(value)]
    if value is None or isinstance(value, str | bool | int):
        return value
    if not isinstance(value, float):
        value = _encoded(value, what, path)
    try:
        canonical(value)
    except (TypeError, ValueError) as error:
        raise _unrecordable(what, path, value) from error
    return value


def _encoded(value: Any, what: str, path: str) -> Any:
    import draccus

    try:
        return draccus.encode(value)
    except Exception as error:
        # draccus raises bare Exception for a type that it has no encoder for.
        raise _unrecordable(what, path, value) from error


def _key(name: Any, what: str, path: str) -> str:
    if not isinstance(name, str):
        raise _unrecordable(what, f"{path}.{name}", name)
    return name


def _unrecordable(what: str, path: str, value: Any) -> UsageError:
    return UsageError(
        f"The configuration of {what} can't be recorded: {path.lstrip('.')} is {value!r} "
        f"({type(value).__name__}); expected finite numbers, strings, booleans, None, enums, paths, or lists, dicts and "
        "dataclasses of them."
    )
