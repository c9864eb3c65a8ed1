"""The builders of a thread as Marin has them: what `steps` is in `thread(steps)` when Marin runs it.

What each does is told in `types`; here is what it refuses, and the step of Marin that it makes.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from research_steps.errors import UsageError
from research_steps.evidence.claim_text import changes_text
from research_steps.records.configurations import CODE, changed, plain, type_name
from research_steps.records.resources import Resources
from research_steps.records.series import Metric, Series
from research_steps.thread.configs import StepConfig, research_config
from research_steps.thread.marin import binding
from research_steps.thread.marin.jobs import has_engine
from research_steps.thread.recorded import record
from research_steps.thread.step_body import run_step
from research_steps.thread.types import AnyStep, Axis, Config, Metrics, Step, Steps
from research_steps.trial.code import trace
from research_steps.trial.command import Command
from research_steps.trial.measured import Measured
from research_steps.trial.provenance import facts_here

# In so many processes what was tuned is judged, where repetitions go over no field.
JUDGED = 3
# Of these a step's identity always held the value; the fields that came later change none of what is there.
FIRST_FIELDS = frozenset(("name", "direction", "target", "min_effect", "timed"))


class StepBuilder(Steps):
    """Builds the steps of one series. `built` holds them, in order."""

    def __init__(self, series: Series, version: Callable[[str], tuple[str, str | None]] | None = None) -> None:
        """`version` finds the commit and patch of a version of the code by its name."""
        self.series = series
        self.built: list[Step] = []
        self._version = version
        # Of what was recorded with its metrics: the step that reads them, and the baselines that train it anew.
        self._outcomes: dict[int, Step] = {}
        self._trained: dict[str, Step] = {}

    def baseline(
        self,
        measure: Callable[[Config], Metrics | Iterator[Metrics] | Step] | Command,
        config: Config,
        *,
        label: str = "baseline",
        hypothesis: str = "",
        over: Axis | None = None,
        private: bool = False,
        resources: Resources | None = None,
    ) -> Step:
        code = trace(measure)
        repeated = _repeated(over, config, label)
        measured = Measured(
            code.name, code.root, code.digest, type_name(config), config, resources, code.variables, repeated
        )
        case = plain(config, f"baseline {label!r}", binding.unwrap)
        if isinstance(measure, Command):
            # Whether it has all that the command asks for.
            measure.arguments(case)
        built = [other for step in self.built if (other := research_config(step)) is not None]
        namesakes = [other for other in built if other.kind == "baseline" and other.label == label]
        if any(plain(other.what.case, f"baseline {label!r}", binding.unwrap) != case for other in namesakes):
            raise UsageError(
                f"The thread has two baselines {label!r} with different cases: give each a label of its own, by which "
                "it stays fixed."
            )
        replicates = tuple(range(1 if repeated else self.series.floor_processes))
        return self.add("baseline", label, hypothesis, measured=measured, replicates=replicates, private=private)

    def sweep(
        self,
        base: Step,
        axis: Axis,
        *,
        label: str = "",
        step: Callable[[dict[str, Any]], Step | Metrics] | None = None,
        over: Axis | None = None,
        tuned_over: Axis | None = None,
        hypothesis: str = "",
        shards: int = 1,
        private: bool = False,
    ) -> Step:
        name, values = axis
        label = label or name
        base = self._trained_baseline(base, step, over, label)
        if not values:
            raise UsageError(f"The sweep {label!r} has no values for {name!r}: give at least one.")
        if shards < 1:
            raise UsageError(f"The sweep {label!r} has shards={shards}: expected 1 or more.")
        measured = self._with_versions(measured_by(base, label), name, values, label, shards)
        points = _points(measured, name, values, label)
        for index, point in enumerate(points):
            if not measured.versions:
                changed(measured.case, point, f"The sweep {label!r}")
            if point in points[:index]:
                raise UsageError(f"The sweep {label!r} has {changes_text(point)} twice: give each value once.")
        parts = self._tuning(tuned_over, measured, name, label, shards) if tuned_over is not None else {}
        if name not in points[0]:
            parts["axis"] = name
        common: dict[str, Any] = {"points": points, "shards": shards, "private": private}
        before = [
            self.add("shard", f"{label} shard {shard}", "", [base], measured, shard=shard, **common)
            for shard in range(shards if shards > 1 else 0)
        ]
        return self.add("sweep", label, hypothesis, [base, *before], measured, points=points, private=private, **parts)

    def replicate(
        self,
        candidates: Step,
        *,
        n: int = 3,
        across: Axis | None = None,
        label: str = "",
        hypothesis: str = "",
        private: bool = False,
    ) -> Step:
        if n < 1:
            raise UsageError(f"replicate has n={n}: expected 1 or more.")
        config = _config(candidates, ("sweep", "interact"), "replicate")
        label = label or f"replication of {config.label}" + (f" across {across[0]}" if across else "")
        # Not those that judged a sweep which was tuned.
        first = max(config.replicates, default=0) + 1
        parts: dict[str, Any] = {"replicates": tuple(range(first, first + n))}
        if across is not None:
            axis, values = across
            for value in values:
                changed(config.what.case, {axis: value}, label)
            if config.points and axis in config.points[0]:
                raise UsageError(
                    f"{label!r} goes across {axis!r}, which is what its sweep varies: expected another field."
                )
            if axis not in self.series.variants:
                raise UsageError(
                    f"{label!r} goes across {axis!r}, which Series {self.series.topic!r} does not declare relevant: add "
                    f"it to its variants, which are {', '.join(self.series.variants) or 'none'}."
                )
            parts["across"] = (axis, tuple(values))
        inputs = [config.inputs[0], candidates]
        return self.add("replicate", label, hypothesis, inputs, config.measured, private=private, **parts)

    def interact(
        self,
        *sweeps: Step | Axis,
        top: int = 1,
        label: str = "",
        hypothesis: str = "",
        private: bool = False,
    ) -> Step:
        given = [sweep for sweep in sweeps if not isinstance(sweep, tuple)]
        named = tuple((axis, tuple(values)) for axis, values in (sweep for sweep in sweeps if isinstance(sweep, tuple)))
        if len(sweeps) < 2 or not given:
            raise UsageError(
                f"interact was given {len(given)} sweeps and {len(named)} axes: expected two or more, each of another "
                "axis, and at least one sweep."
            )
        configs = [_config(sweep, ("sweep",), "interact") for sweep in given]
        axes = [*(name for config in configs for name in config.points[0]), *(axis for axis, _ in named)]
        if len(set(axes)) < len(axes):
            raise UsageError(f"interact was given the axes {', '.join(axes)}: expected each sweep to vary another one.")
        base = configs[0].inputs[0]
        if any(config.inputs[0] is not base for config in configs):
            raise UsageError(
                f"interact was given sweeps over {', '.join(axes)} with different baselines: expected one baseline."
            )
        label = label or " × ".join(axes)
        for axis, values in named:
            for value in values:
                changed(configs[0].what.case, {axis: value}, f"The interaction {label!r}")
        inputs = [base, *given]
        parts: dict[str, Any] = {"axes": named} if named else {}
        return self.add("interact", label, hypothesis, inputs, configs[0].measured, top=top, private=private, **parts)

    def interpret(self, *measured: Step, label: str = "interpretation", private: bool = False) -> Step:
        inputs = self._with_outcomes(measured)
        for step in inputs:
            _config(step, ("baseline", "sweep", "replicate", "interact", "outcome"), "interpret")
        return self.add("interpret", label, "", inputs, private=private)

    def seal(self, *steps: Step, label: str = "seal") -> Step:
        inputs = self._with_outcomes(steps)
        for step in inputs:
            _config(step, ("baseline", "sweep", "replicate", "interact", "interpret", "outcome"), "seal")
        return self.add("seal", label, "", inputs)

    def recorded(
        self,
        step: AnyStep,
        *,
        metrics: bool | Callable[[str], Metrics] = False,
        fields: Sequence[str] | Mapping[str, Any] = (),
        label: str = "",
        hypothesis: str = "",
        private: bool = False,
    ) -> AnyStep:
        timed = bool(metrics) and any(metric.timed for metric in self.series.metrics)
        parts: dict[str, Any] = {"label": label, "hypothesis": hypothesis, "private": private, "timed": timed}
        wrapped = binding.wrap(step, partial(record, **parts))
        self.built.append(wrapped)
        if metrics:
            code = trace(metrics) if callable(metrics) else None
            self._outcomes[id(wrapped)] = self.add(
                "outcome",
                label or step.name,
                hypothesis,
                output=wrapped,
                function=binding.function_of(wrapped),
                read=code.name if code else "",
                digest=code.digest if code else "",
                fields=_chosen(step, fields),
                private=private,
            )
        return wrapped

    def _with_outcomes(self, steps: Sequence[Step]) -> list[Step]:
        """The steps, with those that read the metrics in place of the recorded ones."""
        return [self._outcomes.get(id(step), step) for step in steps]

    def _trained_baseline(self, base: Step, train: Callable[..., Any] | None, over: Axis | None, label: str) -> Step:
        """The baseline of a sweep: the given one, or that which measures a recorded step's fields by its training."""
        if train is None and over is None:
            return base
        outcome = self._outcomes.get(id(base))
        if train is None or outcome is None:
            raise UsageError(
                f"The sweep {label!r} has {'over' if train is None else 'step'}=…: expected step=train, a function of "
                "the fields that returns a step, and a base of steps.recorded(…, metrics=True, fields=…)."
            )
        config = _config(outcome, ("outcome",), "sweep")
        name = f"{config.label} by {train.__name__}" + (f" over {over[0]}={list(over[1])}" if over else "")
        key = f"{id(base)} {name}"
        if key not in self._trained:
            self._trained[key] = self.baseline(train, config.fields, label=name, over=over, private=config.private)
        return self._trained[key]

    def _tuning(self, tuned_over: Axis, measured: Measured, axis: str, label: str, shards: int) -> dict[str, Any]:
        """What a sweep has that tunes each of its points over a field. Raises UsageError."""
        field, values = tuned_over[0], tuple(tuned_over[1])
        if field == axis or len(values) < 2 or shards > 1 or measured.versions:
            raise UsageError(
                f"The sweep {label!r} of {axis!r} is tuned over {field}={list(values)!r}: expected another field, two "
                "values or more, and neither shards nor versions of the code."
            )
        for value in values:
            changed(measured.case, {field: value}, f"The tuning of {label!r}")
        count = len(measured.repetitions) if measured.over is not None else JUDGED
        return {"tuned_over": {field: values}, "replicates": tuple(range(1, count + 1))}

    def _with_versions(self, measured: Measured, axis: str, values: Sequence[Any], label: str, shards: int) -> Measured:
        """What a sweep measures, with the versions of the code that it goes over, if it does. Raises UsageError."""
        fields = plain(measured.case, f"sweep {label!r}", binding.unwrap)
        if axis != CODE or CODE in fields:
            return measured
        if self._version is None or shards > 1 or measured.resources is not None:
            raise UsageError(
                f"The sweep {label!r} goes over versions of the code, which takes a checkout: run it on one machine, "
                "without shards and resources."
            )
        return replace(measured, versions={str(name): self._version(str(name)) for name in values})

    def add(
        self,
        kind: str,
        label: str,
        hypothesis: str,
        inputs: Sequence[Any] = (),
        measured: Measured | None = None,
        **parts: Any,
    ) -> Step:
        """A step of one kind, built from the parts of its configuration."""
        metrics = [_identity(metric) for metric in self.series.metrics]
        version: dict[str, Any] = {"series": self.series.topic, "kind": kind, "metrics": metrics}
        if measured is not None:
            version |= {
                "measure": measured.name,
                "code": measured.digest,
                "case": plain(measured.case, f"{kind} {label!r}", binding.unwrap),
                "conditions": _conditions(measured),
            }
            if measured.over is not None:
                version["over"] = list(measured.over)
            if measured.versions:
                version["versions"] = {name: list(version) for name, version in measured.versions.items()}
        # What the shards of a sweep are is not what it measures: splitting it otherwise measures nothing again.
        # And what is private from now on is recorded anew, without a new measurement.
        version |= {
            name: plain({"value": value}, f"{kind} {label!r}", binding.unwrap)["value"]
            for name, value in parts.items()
            if (kind == "shard" or name not in ("shard", "shards")) and (name != "private" or value)
        }
        config = StepConfig(
            version=version,
            kind=kind,
            label=label,
            hypothesis=hypothesis,
            output_path="",
            inputs=tuple(inputs),
            measured=measured,
            **parts,
        )
        slug = re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-")
        name = f"{self.series.topic}/{slug if slug.startswith(kind) else f'{kind}-{slug}'.rstrip('-')}"
        step = binding.research_step(name, run_step, config, hypothesis or label)
        self.built.append(step)
        return step


def _chosen(step: Step, fields: Sequence[str] | Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a step's configuration with these names, such as 'model.hidden'; or what is given. Raises
    UsageError."""
    what = f"recorded step {step.name!r}"
    if isinstance(fields, str):
        raise UsageError(f"The {what} has fields={fields!r}: expected a list of names, such as [{fields!r}].")
    chosen = dict(fields) if isinstance(fields, Mapping) else {}
    for name in () if isinstance(fields, Mapping) else fields:
        value = binding.config_of(step)
        for part in name.split("."):
            value = binding.unwrap(value)
            held = value if isinstance(value, Mapping) else getattr(value, "__dict__", {})
            if part not in held:
                raise UsageError(f"The {what} has no field {name!r}: expected one of {', '.join(map(str, held))}.")
            value = held[part]
        chosen[name] = value
    plain(chosen, what, binding.unwrap)
    return chosen


def _points(measured: Measured, axis: str, values: Sequence[Any], label: str) -> tuple[dict[str, Any], ...]:
    """What each value of an axis changes. Of an axis that is no field each value changes several together. Raises
    UsageError where these are not the same ones."""
    if axis == CODE or axis in plain(measured.case, label, binding.unwrap) or not isinstance(values[0], Mapping):
        return tuple({axis: value} for value in values)
    points = tuple(dict(value) if isinstance(value, Mapping) else {} for value in values)
    if not points[0] or any(point.keys() != points[0].keys() for point in points):
        raise UsageError(
            f"The sweep {label!r} of {axis!r}, which is no field, has the values {list(values)!r}: expected each to be "
            "a dict of the same fields, which it changes together."
        )
    return points


def _repeated(over: Axis | None, config: Any, label: str) -> tuple[str, tuple[int, ...]] | None:
    """The field that a repetition varies, with its values. Raises UsageError."""
    if over is None:
        return None
    field, values = over[0], tuple(over[1])
    numbers = [value for value in values if type(value) is int]
    if len(numbers) < len(values) or len(set(numbers)) < 2:
        raise UsageError(
            f"The baseline {label!r} goes over {field}={list(values)!r}: expected two or more different whole numbers, "
            "such as range(5), because replicates take those that follow."
        )
    changed(config, {field: numbers[0]}, f"The baseline {label!r}")
    return field, tuple(dict.fromkeys(numbers))


def _identity(metric: Metric) -> dict[str, Any]:
    """What makes a step new when its metric changes: all but what is as it was before there was such a thing to say."""
    fields = asdict(metric)
    return {name: value for name, value in fields.items() if name in FIRST_FIELDS or value}


def _conditions(measured: Measured) -> dict[str, str]:
    """Under what a step measures. Where a cluster finds the machine, what it asks for counts, not the driver's own."""
    here = facts_here(measured.variables).conditions
    if measured.resources is None or not has_engine():
        return here
    return {**here, "device class": "", **measured.resources.kind}


def _config(step: Any, kinds: Sequence[str], user: str) -> StepConfig:
    config = research_config(step)
    if config is None or config.kind not in kinds:
        given = config.kind if config is not None else getattr(step, "name", repr(step))
        raise UsageError(f"{user} was given {given!r}: expected a step made by steps.{' or steps.'.join(kinds)}.")
    return config


def measured_by(base: Step, label: str) -> Measured:
    measured = _config(base, ("baseline",), f"The sweep {label!r}").measured
    assert measured is not None, "a baseline measures something"
    return measured
