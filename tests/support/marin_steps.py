"""Steps of Marin, of the generation that is installed, for the threads of the tests and for what looks at their outputs.

A thread that imports `experiments.toy.marin_steps` has a copy of this file beside it.
"""

import dataclasses
import functools
import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

IS_TODAYS = find_spec("marin.execution.lazy") is not None
if IS_TODAYS:
    from marin.execution.artifact import Artifact
    from marin.execution.lazy import ArtifactStep
    from marin.execution.remote import RemoteCallable, remote

    class Returned(Artifact):
        """A dict that a step's function returned."""

        def result_payload(self) -> Any:
            return {key: value for key, value in (self.model_extra or {}).items() if key != "record"}

else:
    from marin.execution.types import ExecutorStep, this_output_path
    from marin.execution.types import versioned as marins_versioned


@dataclasses.dataclass(frozen=True)
class _Own:
    """A path in the step's own output."""

    below: str


def step(name: str, fn: Callable[[Any], Any], config: Any, resources: Any = None, version: str = "") -> Any:
    """A step that calls `fn(config)`, where steps and own paths in the configuration are resolved. A dict that it
    returns is what later steps read. Without a version each configuration has one of its own."""
    if not IS_TODAYS:
        return ExecutorStep(name=name, fn=fn, config=config, resources=resources)
    needed: list[Any] = []

    def resolved(value: Any, context: Any) -> Any:
        if isinstance(value, ArtifactStep):
            return context.artifact_path(value) if context else needed.append(value)
        if isinstance(value, _Own):
            return f"{context.output_path}/{value.below}".rstrip("/") if context else None
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = {field.name: resolved(getattr(value, field.name), context) for field in dataclasses.fields(value)}
            return dataclasses.replace(value, **fields) if context else None
        if isinstance(value, dict):
            return {key: resolved(item, context) for key, item in value.items()}
        return type(value)(resolved(item, context) for item in value) if isinstance(value, list | tuple) else value

    def returning(inner: Callable[[Any], Any]) -> Callable[[Any], Any]:
        @functools.wraps(inner)
        def run(config: Any) -> Any:
            returned = inner(config)
            return Returned(**returned) if isinstance(returned, dict) else returned

        return run

    resolved(config, None)
    run: Any = returning(fn.fn if isinstance(fn, RemoteCallable) else fn)
    if isinstance(fn, RemoteCallable):
        run = dataclasses.replace(fn, fn=run)
    elif resources is not None:
        run = remote(run, resources=resources)
    made = ArtifactStep(
        name=name,
        version=version or "dev",
        artifact_type=Returned,
        run=run,
        build_config=functools.partial(resolved, config),
        deps=tuple(needed),
    )
    return made if version else dataclasses.replace(made, version=f"2026.10.01.{int(made.fingerprint(), 16)}")


def own_path(below: str = "") -> Any:
    """A path in the output of the step that has it in its configuration."""
    if IS_TODAYS:
        return _Own(below)
    return this_output_path(below or None)


def path_of(of: Any, below: str) -> Any:
    """A path in the output of a step: the output itself, where Marin has no such paths."""
    return of if IS_TODAYS else of / below


def versioned(value: Any) -> Any:
    return value if IS_TODAYS else marins_versioned(value)


def outputs(store: Path, name: str) -> list[Path]:
    """The outputs of the steps with that name which lie in a store."""
    return sorted(store.glob(f"{name}/*" if IS_TODAYS else f"{name}-*"))


def returned(output: Path) -> Any:
    """What the step with that output returned."""
    artifact = json.loads((output / ".artifact.json").read_text())
    return artifact["result"] if IS_TODAYS else artifact
