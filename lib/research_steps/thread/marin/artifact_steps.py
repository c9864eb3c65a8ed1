"""The binding to today's Marin, whose `ArtifactStep` is addressed by a name and a version that its author states.

There a changed configuration under one version is served the old output. So that what changed is made anew, and all that
rests on it, and nothing else, the NAME of a research step ends in its own fingerprint, which holds those of the steps
that it needs; its version says nothing.
"""

import dataclasses
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from marin.execution.artifact import (
    Artifact,
    ArtifactRecord,
    FingerprintMismatchError,
    is_mutable_version,
    read_record,
    result_type_name,
    write_record,
)
from marin.execution.build_context import BuildContext, VersionCodex, build_context
from marin.execution.fingerprint import register_fingerprint
from marin.execution.lazy import ArtifactStep, StepContext, lower
from marin.execution.remote import RemoteCallable
from marin.execution.step_runner import StepRunner
from marin.execution.step_status import PreviousTaskFailedError
from marin.experiment.cli import graph_handles
from rigging.filesystem.cluster_config import marin_prefix, marin_region
from rigging.filesystem.factory import url_to_fs
from rigging.provenance import LAUNCH_PROVENANCE_ENV, Provenance

from research_steps.errors import UsageError
from research_steps.git import Checkout
from research_steps.records.redaction import redact
from research_steps.thread.configs import StepConfig
from research_steps.thread.marin.outputs import forget
from research_steps.thread.marin.protocols import PLACEHOLDER, RecordedStep
from research_steps.thread.options import RunOptions
from research_steps.thread.types import Step
from research_steps.trial.provenance import command_line

# Marin takes calendar versions alone.
_VERSION = "2026.11.01"


@dataclass(frozen=True)
class _Versions(VersionCodex):  # type: ignore[misc]
    """Marin's policy of versions, where nothing is built at a version that nobody has named."""

    is_given: bool = True

    def version_for(self, name: str) -> str:
        if not self.is_given and name not in self.overrides:
            raise UsageError(
                f"The step {name!r} leaves its version to the command line, and none was given: expected --version "
                "YYYY.MM.DD, or --version dev to build it each time."
            )
        return str(super().version_for(name))


@contextmanager
def building(options: RunOptions) -> Iterator[None]:
    if options.executor_info_base_path is not None:
        raise UsageError(
            "--executor_info_base_path is an option of executor steps, and this Marin has artifact steps, which keep "
            "no such info: leave it out."
        )
    overrides = dict(named.partition("=")[::2] for named in options.override or ())
    try:
        versions = _Versions(options.version or "dev", overrides, is_given=options.version is not None)
    except ValueError as error:
        raise UsageError(f"--version or --override is none that Marin takes: {error}.") from error
    with build_context(BuildContext(versions=versions)):
        yield
    if unused := sorted(versions.unused_overrides()):
        raise UsageError(
            f"--override names {', '.join(unused)}, and no step of the thread that leaves its version to the command "
            "line has that name: look for a typing mistake, or a version in the code."
        )


class _Returned(Artifact):  # type: ignore[misc]
    """What the function of a research step returned."""

    value: Any = None


@dataclass(frozen=True, eq=False)
class ResearchStep(ArtifactStep):  # type: ignore[misc]
    """A step with the configuration that the thread declares."""

    config: StepConfig | None = None


class _Placed:
    """The configuration of a research step as it runs, which Marin writes down by what makes the step new."""

    def __init__(self, config: StepConfig) -> None:
        self.config = config


register_fingerprint(_Placed, lambda placed: placed.config.version)


def research_step(name: str, run: Callable[[StepConfig], Any], config: StepConfig, about: str) -> Step:
    needed: dict[int, ArtifactStep] = {}
    _mapped(config, lambda step: needed.setdefault(id(step), step))
    needs = tuple(needed.values())

    def build_config(context: StepContext) -> Any:
        if context.is_fingerprint:
            return {"version": config.version, "needs": [context.artifact_path(step) for step in needs]}
        return _Placed(replace(_mapped(config, context.artifact_path), output_path=context.output_path))

    unnamed: Any = ResearchStep(
        name=name,
        version=_VERSION,
        artifact_type=_Returned,
        run=lambda placed: _Returned(value=run(placed.config)),
        build_config=build_config,
        deps=needs,
        config=config,
    )
    step: Step = replace(unnamed, name=f"{name}-{unnamed.fingerprint()}")
    return step


def _mapped(value: Any, change: Callable[[ArtifactStep], Any]) -> Any:
    """The value with the steps in it changed; itself where it holds none."""
    if isinstance(value, ArtifactStep):
        return change(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.init}
        mapped = {name: _mapped(held, change) for name, held in fields.items()}
        return replace(value, **mapped) if any(mapped[name] is not held for name, held in fields.items()) else value
    if isinstance(value, Mapping):
        return {name: _mapped(held, change) for name, held in value.items()}
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return type(value)(_mapped(held, change) for held in value)
    return value


@dataclass(frozen=True)
class ArtifactPlan:
    prefix: str
    given: list[ArtifactStep]

    @property
    def steps(self) -> Sequence[Step]:
        return _graph(self.given)

    def output_path(self, step: Any) -> str:
        return str(step.path(self.prefix))

    def dependents(self, steps: Sequence[Step]) -> list[Step]:
        dependents = {self.output_path(step): step for step in steps}
        for step in _graph(self.given):
            if any(self.output_path(needed) in dependents for needed in step.deps):
                dependents.setdefault(self.output_path(step), step)
        return list(dependents.values())

    def runs_again(self, step: Any) -> bool:
        return bool(is_mutable_version(step.version))

    def run(self, options: RunOptions, max_concurrent: int) -> None:
        if not options.dry_run:
            for step in self.steps:
                _drop_cut_off(self.output_path(step))
        chosen = self.given
        if options.run_only is not None:
            chosen = [step for step in self.steps if any(re.search(name, step.name) for name in options.run_only)]
        if not logging.getLogger().handlers:
            # Else Marin has each of its steps told to the terminal.
            logging.getLogger().addHandler(logging.lastResort or logging.NullHandler())
        try:
            StepRunner().run(
                [lower(step) for step in chosen],
                dry_run=options.dry_run,
                force_run_failed=options.force_run_failed,
                max_concurrent=max_concurrent,
            )
        except (PreviousTaskFailedError, FingerprintMismatchError) as error:
            raise RuntimeError(str(error)) from error


def _drop_cut_off(path: str) -> None:
    """Remove what a kill cut off of what a step returned, before Marin, which fails on it, looks whether it ran."""
    try:
        read_record(path)
    except ValueError:
        forget(path)
        store, folder = url_to_fs(path)
        store.rm(f"{folder}/.artifact.json")


def plan(prefix: str, options: RunOptions, about: str, steps: Sequence[Step]) -> ArtifactPlan:
    # Where Marin looks for it, in the processes of trials too.
    os.environ["MARIN_PREFIX"] = prefix
    if LAUNCH_PROVENANCE_ENV not in os.environ:
        os.environ[LAUNCH_PROVENANCE_ENV] = _provenance().to_json()
    planned = ArtifactPlan(prefix, list(steps))
    recorded = {step.path(prefix): step for step in _graph(steps) if isinstance(step.run, RecordedArtifactStep)}
    for step in _graph(steps):
        _check(step, recorded.get(step.path(prefix)))
        if isinstance(step.run, RecordedArtifactStep):
            step.run.output_path = step.path(prefix)
    try:
        for step in planned.given:
            lower(step)
    except (ValueError, FingerprintMismatchError) as error:
        raise UsageError(f"Marin can't run the thread: {error}") from error
    return planned


def _check(step: Any, recorded: Any) -> None:
    """Refuse a step that can't be what it is meant to be; `recorded` is that which leaves a record at its address."""
    if recorded is not None and not isinstance(step.run, RecordedArtifactStep):
        raise UsageError(
            f"The step {step.name!r} is used both recorded and as it was: other steps depend on the one that leaves no "
            "record. Use what steps.recorded() returned everywhere."
        )
    if recorded is not None and recorded.expected_fingerprint != step.expected_fingerprint:
        raise UsageError(
            f"The thread has the step {step.name}@{step.version} twice, with different configurations, and Marin would "
            "run one of them for both: give each a name or a version of its own."
        )
    changing = [needed.name for needed in step.deps if is_mutable_version(needed.version)]
    if changing and isinstance(step, ResearchStep):
        label = step.config.label if step.config else step.name
        raise UsageError(
            f"{label!r} rests on what {', '.join(changing)} puts out, which each run builds anew (its version is dev): "
            "what is measured on it would be another thing each time. Give that step a version YYYY.MM.DD."
        )


def _graph(steps: Sequence[Any]) -> list[Any]:
    return list(graph_handles(list(steps)))


def _provenance() -> Provenance:
    """What Marin would note of this checkout, without its writing the user's index, and without secrets."""
    checkout = Checkout.find()
    with TemporaryDirectory(prefix="research-") as folder:
        index = Path(checkout.git_dir or folder, "index")
        if index.is_file():
            shutil.copy(index, folder)
        os.environ["GIT_INDEX_FILE"] = str(Path(folder, "index"))
        try:
            captured = Provenance.capture(checkout.root)
        finally:
            del os.environ["GIT_INDEX_FILE"]
    remote = redact(captured.git_remote) if captured.git_remote else None
    return replace(captured, git_remote=remote, command_line=tuple(map(redact, command_line())))


def config_of(step: Any) -> Any:
    return step.build_config(StepContext.for_fingerprint(step.runtime_args.keys(), step.deps))


def function_of(step: Any) -> str:
    function = step.run.fn if isinstance(step.run, RemoteCallable) else step.run
    return str(getattr(function, "__name__", type(function).__name__))


def unwrap(value: Any) -> Any:
    return PLACEHOLDER if isinstance(value, ArtifactStep) else value


def output_of(value: Any, prefix: str) -> tuple[Step | None, str]:
    return value, str(value.path(prefix))


def read_artifact(path: str) -> Any:
    record = read_record(path)
    if record is None:
        raise FileNotFoundError(f"{path} holds nothing that a step returned.")
    if record.result_type == result_type_name(_Returned):
        return (record.result or {}).get("value")
    return record.result


def run_inside(step: Any, output_path: str, placed: Callable[[Any], Any]) -> Any:
    StepRunner().run([lower(needed) for needed in step.deps])
    context = StepContext.for_run(
        output_path, marin_prefix(), region=marin_region(), runtime_args=step.runtime_args, deps=step.deps
    )
    function = step.run.fn if isinstance(step.run, RemoteCallable) else step.run
    returned = function(placed(step.build_config(context)))
    return returned.result_payload() if isinstance(returned, Artifact) else returned


class RecordedArtifactStep(RecordedStep):
    @property
    def is_sent(self) -> bool:
        return isinstance(self.step.run, RemoteCallable)

    def run(self, config: Any, around: Callable[[Callable[[Any], Any]], Callable[[Any], Any]]) -> None:
        fn: Any = self.step.run
        about = {"name": self.step.name, "version": self.step.version, "fingerprint": self.step.expected_fingerprint}
        record = ArtifactRecord(output_path=self.output_path, **about)
        save = partial(_save, around(fn.fn if isinstance(fn, RemoteCallable) else fn), record)
        (replace(fn, fn=save).named(self.step.name) if isinstance(fn, RemoteCallable) else save)(config)

    def saved(self) -> Any:
        record = read_record(self.output_path)
        return None if record is None or record.result is None else self.step.artifact_type.raw_load(self.output_path)


def _save(function: Callable[[Any], Any], record: ArtifactRecord, config: Any) -> None:
    """Have what the function returns lie in the output, as Marin writes it there, with more, once the step has ended."""
    returned = function(config)
    if returned is not None and not isinstance(returned, Artifact):
        raise TypeError(
            f"The step's function returned {type(returned).__name__}, which Marin doesn't save: expected an Artifact, "
            "or None for a step that only writes files."
        )
    write_record(record.model_copy(update={"result": returned.result_payload() if returned is not None else None}))


def wrap(step: Any, record: Callable[[RecordedStep, Any], Any]) -> Any:
    if step.adopt_source is not None:
        raise UsageError(f"The step {step.name!r} adopts what is there: there is nothing to run, and so none to record.")
    # Else Marin gives out, with a warning, what another configuration has put out under this version.
    pinned = replace(step, expected_fingerprint=step.expected_fingerprint or step.fingerprint())
    return replace(pinned, run=RecordedArtifactStep(pinned, function_of(step), record))
