"""The builders of a thread: `steps` in `thread(steps)`.

Each method adds one Marin `ExecutorStep` to the thread and returns it, so that it can be given to other steps,
research steps and plain ones alike.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from research_steps.errors import UsageError
from research_steps.journal.entries import About, Finding
from research_steps.records.configurations import changed, differences, plain, type_name
from research_steps.records.model import Claim, Ref, TrialRecord
from research_steps.records.objects import IssueLink
from research_steps.records.resources import Resources
from research_steps.records.series import Series
from research_steps.records.step_kinds import Ran
from research_steps.thread.configs import StepConfig, step_key
from research_steps.thread.marin import executor_steps as marin
from research_steps.thread.step_body import record_step, run_step
from research_steps.thread.tagging import Tagging, tagged, tagged_config
from research_steps.trial.code import Measure, trace, trace_name
from research_steps.trial.context import Session, current
from research_steps.trial.measured import Measured
from research_steps.trial.provenance import conditions_here


class Steps:
    """Builds the steps of one series. `all` holds what was built, in order.

    What is built with `private=True`, and all that rests on it, is published nowhere: its records stay in the journal.
    """

    def __init__(self, series: Series) -> None:
        self.series = series
        self.all: list[Any] = []

    def baseline(
        self,
        measure: Measure,
        config: Any,
        *,
        label: str = "baseline",
        hypothesis: str = "",
        private: bool = False,
        resources: Resources | None = None,
    ) -> Any:
        """Measure the baseline case against itself, in `floor_processes` processes: their spread is the noise floor. If
        one fails, that is recorded and raised.

        `config` is a dataclass or dict, and may hold Marin's `versioned(…)`, steps and paths of steps. With `resources`
        a cluster's engine finds the machine, for this step and for all that is compared with it.
        """
        code = trace(measure)
        measured = Measured(code.name, str(code.root), code.digest, type_name(config), config, resources)
        case = plain(config, f"baseline {label!r}", marin.unwrap)
        built = (step.config for step in self.all if isinstance(step.config, StepConfig))
        held = [one for one in built if one.kind == "baseline" and one.label == label]
        if any(plain(one.what.case, f"baseline {label!r}", marin.unwrap) != case for one in held):
            raise UsageError(
                f"The thread has two baselines {label!r} with different cases: give each a label of its own, by which "
                "it stays fixed."
            )
        replicates = tuple(range(self.series.floor_processes))
        return self._add("baseline", label, hypothesis, measured=measured, replicates=replicates, private=private)

    def sweep(
        self,
        base: Any,
        axis: tuple[str, Sequence[Any]],
        *,
        label: str = "",
        hypothesis: str = "",
        shards: int = 1,
        private: bool = False,
    ) -> Any:
        """Measure one axis, `(field, values)`, value by value against the baseline case of `base`.

        A trial that fails is a row. With `shards` above 1 the points are split into so many steps that can run side by
        side.
        """
        name, values = axis
        label = label or name
        if not values:
            raise UsageError(f"The sweep {label!r} has no values for {name!r}: give at least one.")
        if shards < 1:
            raise UsageError(f"The sweep {label!r} has shards={shards}: expected 1 or more.")
        measured = _measured(base, label)
        points = tuple({name: value} for value in values)
        for index, point in enumerate(points):
            changed(measured.case, point, f"The sweep {label!r}")
            if point in points[:index]:
                raise UsageError(f"The sweep {label!r} has {name}={point[name]!r} twice: give each value once.")
        before = [
            self._add("shard", f"{label} shard {shard}", "", [base], measured, points=points, shard=shard, shards=shards)
            for shard in range(shards if shards > 1 else 0)
        ]
        return self._add("sweep", label, hypothesis, [base, *before], measured, points=points, private=private)

    def replicate(
        self,
        found: Any,
        *,
        n: int = 2,
        across: tuple[str, Sequence[Any]] | None = None,
        label: str = "",
        hypothesis: str = "",
        private: bool = False,
    ) -> Any:
        """Measure the best candidate of a sweep or interaction `n` more times, each in a process of its own.

        With `across`, `(field, values)`, that is done at each value of a variant axis, for candidate and baseline alike:
        what holds there too is stable.
        """
        if n < 1:
            raise UsageError(f"replicate has n={n}: expected 1 or more.")
        config = _config(found, ("sweep", "interact"), "replicate")
        label = label or f"replication of {config.label}" + (f" across {across[0]}" if across else "")
        parts: dict[str, Any] = {"replicates": tuple(range(1, n + 1))}
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
        inputs = [config.inputs[0], found]
        return self._add("replicate", label, hypothesis, inputs, config.measured, private=private, **parts)

    def replicate_again(self, claim: Claim, entry: Ref, trial: TrialRecord, root: Path, numbers: Sequence[int]) -> Any:
        """Measure the candidate of an entry again, in processes with these numbers; the thread need not know it.

        Raises UsageError when the code under `root` is not what the trial measured.
        """
        code = trace_name(trial.measure, root)
        if code.digest != trial.code:
            raise UsageError(
                f"{trial.measure} is not the code that {trial.id} measured (digest {trial.code[:12]} then, "
                f"{code.digest[:12]} now): check out commit {trial.provenance.commit}, or run the thread again."
            )
        return self._add(
            "replicate",
            f"{trial.id} again",
            "",
            measured=Measured(code.name, str(root), code.digest, trial.config_type, claim.case),
            rests_on=(msgspec.to_builtins(claim.baseline), msgspec.to_builtins(entry)),
            replicates=tuple(numbers),
            candidate=claim.changes,
        )

    def confirm(self, base: Any, trial: TrialRecord, numbers: Sequence[int]) -> Any:
        """Measure what dev mode found through the executor, in processes with these numbers. `base` is its baseline.

        Raises UsageError when the code is not what the trial measured.
        """
        measured = _measured(base, f"{trial.id} confirmed")
        if measured.digest != trial.code:
            raise UsageError(
                f"{trial.measure} is not the code that {trial.id} measured (digest {trial.code[:12]} then, "
                f"{measured.digest[:12]} now): check out commit {trial.provenance.commit}, and bring the edits back "
                f"with 'research show {trial.id} --patch | git apply'."
            )
        case = plain(measured.case, trial.id, marin.unwrap)
        candidate = {name: mine for name, (mine, _) in differences(trial.config, case).items()}
        return self._add(
            "replicate",
            f"{trial.id} confirmed",
            "",
            [base],
            measured,
            replicates=tuple(numbers),
            candidate=candidate,
            confirms=trial.id,
        )

    def interact(
        self,
        *sweeps: Any,
        top: int = 1,
        label: str = "",
        hypothesis: str = "",
        private: bool = False,
    ) -> Any:
        """Measure axes together, in every combination: the best `top` values of each sweep, and all values of an axis
        that is given as `(field, values)`, which must have been swept alone in an earlier run."""
        given = [sweep for sweep in sweeps if not isinstance(sweep, tuple)]
        named = tuple((axis, tuple(values)) for axis, values in (sweep for sweep in sweeps if isinstance(sweep, tuple)))
        if len(sweeps) < 2 or not given:
            raise UsageError(
                f"interact was given {len(given)} sweeps and {len(named)} axes: expected two or more, each of another "
                "axis, and at least one sweep."
            )
        configs = [_config(sweep, ("sweep",), "interact") for sweep in given]
        axes = [*(next(iter(config.points[0])) for config in configs), *(axis for axis, _ in named)]
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
        return self._add("interact", label, hypothesis, inputs, configs[0].measured, top=top, private=private, **parts)

    def interpret(self, *measured: Any, label: str = "interpretation", private: bool = False) -> Any:
        """Say by rule what the given steps found, and what to do next."""
        for step in measured:
            _config(step, ("baseline", "sweep", "replicate", "interact"), "interpret")
        return self._add("interpret", label, "", measured, private=private)

    def seal(self, *steps: Any, label: str = "seal") -> Any:
        """Tag a commit of the relevant files once the given steps are done. Runs with `--seal true`, or where `stop_at`
        of the series holds."""
        for step in steps:
            _config(step, ("baseline", "sweep", "replicate", "interact", "interpret"), "seal")
        return self._add("seal", label, "", steps)

    def recorded(self, step: Any, *, label: str = "", hypothesis: str = "", private: bool = False) -> Any:
        """An existing ExecutorStep with a record of its run; its output path stays as it is.

        Use the returned step everywhere: the thread is refused when another step depends on the unwrapped one.
        """

        def record(recorded: marin.Recorded, config: Any) -> Any:
            session = current()
            returned: list[Any] = []

            def body(id: str) -> Finding:
                tagging = None if private or session.series.private else _tagging(session, id, about.label)
                returned.append(recorded.run(tagged_config(config, tagging), partial(tagged, tagging=tagging)))
                return Finding(result=f"{recorded.step.name} finished")

            about = About(
                kind="step",
                step_key=step_key(recorded.output_path, session.journal),
                label=label or recorded.step.name,
                hypothesis=session.hypothesis(hypothesis),
                details=Ran(function=recorded.__name__, config=_shown(config)),
                private=private,
            )
            record_step(session, about, body)
            # A step that was recorded before the executor noted its success has left its result behind.
            return returned[0] if returned else marin.read_artifact(recorded.output_path)

        wrapped = marin.wrap(step, record)
        self.all.append(wrapped)
        return wrapped

    def _add(
        self,
        kind: str,
        label: str,
        hypothesis: str,
        inputs: Sequence[Any] = (),
        measured: Measured | None = None,
        **parts: Any,
    ) -> Any:
        metrics = [asdict(metric) for metric in self.series.metrics]
        version: dict[str, Any] = {"series": self.series.topic, "kind": kind, "metrics": metrics}
        if measured is not None:
            version |= {
                "measure": measured.name,
                "code": measured.digest,
                "case": plain(measured.case, f"{kind} {label!r}", marin.unwrap),
                "conditions": _conditions(measured),
            }
        # What the shards of a sweep are is not what it measures: splitting it otherwise measures nothing again.
        # And what is private from now on is recorded anew, without a new measurement.
        version |= {
            name: plain({"value": value}, f"{kind} {label!r}", marin.unwrap)["value"]
            for name, value in parts.items()
            if (kind == "shard" or name not in ("shard", "shards")) and (name != "private" or value)
        }
        config = StepConfig(
            version=marin.version(version),
            kind=kind,
            label=label,
            hypothesis=hypothesis,
            output_path=marin.here(),
            inputs=tuple(inputs),
            measured=measured,
            **parts,
        )
        slug = re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-")
        name = f"{self.series.topic}/{slug if slug.startswith(kind) else f'{kind}-{slug}'.rstrip('-')}"
        step = marin.make_step(name, run_step, config, hypothesis or label)
        self.all.append(step)
        return step


Thread = Callable[[Steps], Any]


def _conditions(measured: Measured) -> dict[str, str]:
    """Under what a step measures. Where a cluster finds the machine, what it asks for counts, not the driver's own."""
    here = conditions_here()
    if measured.resources is None or not marin.has_engine():
        return here
    return {**here, "device class": "", **measured.resources.kind}


def _tagging(session: Session, id: str, label: str) -> Tagging:
    link = session.journal.decided("issue", IssueLink)
    return Tagging.of(session.series.shared_tags(link.number if link else None), id, label)


def _config(step: Any, kinds: Sequence[str], user: str) -> StepConfig:
    config = getattr(step, "config", None)
    if not isinstance(config, StepConfig) or config.kind not in kinds:
        found = config.kind if isinstance(config, StepConfig) else getattr(step, "name", repr(step))
        raise UsageError(f"{user} was given {found!r}: expected a step made by steps.{' or steps.'.join(kinds)}.")
    return config


def _measured(base: Any, label: str) -> Measured:
    measured = _config(base, ("baseline",), f"The sweep {label!r}").measured
    assert measured is not None, "a baseline measures something"
    return measured


def _shown(config: Any) -> Any:
    """A foreign step's configuration as far as it is plain: it is shown, nothing is computed from it."""
    if isinstance(config, Mapping):
        return {str(name): _shown(value) for name, value in config.items()}
    if hasattr(config, "__dataclass_fields__") and not isinstance(config, type):
        return {name: _shown(getattr(config, name)) for name in config.__dataclass_fields__}
    if isinstance(config, list | tuple):
        return [_shown(value) for value in config]
    try:
        json.dumps(config, allow_nan=False)
    except (TypeError, ValueError):
        return repr(config)
    return config
