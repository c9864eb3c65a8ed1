"""What a thread is written with, as types: `Steps`, the builders in `thread(steps)`, and `Step`, which they return.

They say what an editor shows and a type checker holds; what builds Marin's steps is `builders`, which this does not
import.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, SupportsFloat, TypeVar

from research_steps.records.resources import Resources
from research_steps.trial.command import Command

Config = TypeVar("Config")
Metrics = Mapping[str, SupportsFloat]
Axis = tuple[str, Sequence[object]]


class Step(Protocol):
    """A step of a thread, one of Marin's: an `ExecutorStep`, or an `ArtifactStep` of today's Marin."""

    @property
    def name(self) -> str: ...


AnyStep = TypeVar("AnyStep", bound=Step)


class Steps(Protocol):
    """The builders of a thread. Each method adds one step of Marin to it and returns it, so that it can be given
    to other steps, research steps and plain ones alike.

    `label` is what a step is called in the logbook and in its output path; `hypothesis` is what it tests, as text or as
    the ID of one in the queue, such as 'H1'. What is built with `private=True`, and all that rests on it, is published
    nowhere: its records stay in the journal. Raises UsageError for what can't be measured.
    """

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
        """Measure the baseline case against itself, in `floor_processes` processes: their spread is the noise floor. If
        one fails, that is recorded and raised.

        With `over`, `(field, values)`, such as `("seed", range(5))`, a repetition varies that field: this case and all
        that is compared with it is measured at each value, and compared value by value. Replicates take the numbers
        that follow, which nothing was chosen by.

        `measure` yields its metrics for as long as it is asked, or returns them once, or returns one of Marin's steps,
        which is run for them as `research_steps.run` does; or it is a `Command`, of which each run is a sample, and one
        alone where that takes longer than `sampling_s`. `config` is a dataclass or dict,
        and may hold Marin's `versioned(…)`, steps and paths of steps. With `resources` a cluster's engine finds the
        machine, for this step and for all that is compared with it.
        """
        ...

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
        """Measure one axis, `(field, values)`, value by value against the baseline case of `base`. Fields that move
        together have an axis of any other name, with values such as `{"batch": 16, "steps": 50}`.

        A trial that fails is a row. The field `code` goes over versions of the code: commits, branches or tags of git,
        or the IDs of trials; each is compared with what is on disk, in two processes. `tuned_over` another field,
        `(field, values)`, each value of the axis and the baseline have their own best of these, and are judged by trials
        that chose none: at further seeds, or in three processes more. With `step=train` the `base` is a recorded step
        with metrics: a function that builds the step for changed fields trains it anew, as baseline and as candidates,
        at each value of `over`, so that like is compared with like. With `shards` above 1 the points are split into so
        many steps that can run side by side.
        """
        ...

    def interact(
        self,
        *sweeps: Step | Axis,
        top: int = 1,
        label: str = "",
        hypothesis: str = "",
        private: bool = False,
    ) -> Step:
        """Measure axes together, in every combination: the best `top` values of each sweep, and all values of an axis
        that is given as `(field, values)`, which must have been swept alone in an earlier run."""
        ...

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
        """Measure the best candidate of a sweep or interaction `n` more times, each in a process of its own.

        With `across`, `(field, values)`, that is done at each value of a variant axis, for candidate and baseline alike:
        what holds there too is stable.
        """
        ...

    def interpret(self, *measured: Step, label: str = "interpretation", private: bool = False) -> Step:
        """Say by rule what the given steps found, and what to do next."""
        ...

    def seal(self, *steps: Step, label: str = "seal") -> Step:
        """Tag a commit of the relevant files once the given steps are done. Runs with `--seal true`, or where `stop_at`
        of the series holds."""
        ...

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
        """An existing step of Marin with a record of its run, in a process of its own; its output path stays as it is.

        With `metrics` its outcome is a trial record too, also where it ran long ago: the numbers that it returned or
        that Levanter left (True), or what a function of its output path gives. Its configuration there are these
        `fields`: of the step's, by their names such as 'model.hidden', or given with values. It can be interpreted and
        sealed.

        Use the returned step everywhere: the thread is refused when another step depends on the unwrapped one.
        """
        ...
