"""What the rest of this package asks of Marin, which each of its generations does in its own way.

`executor_steps` is that with `ExecutorStep`, and `artifact_steps` today's, with `ArtifactStep`. What they do alike is in
`jobs` and `outputs`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from research_steps.thread.configs import StepConfig
from research_steps.thread.options import RunOptions
from research_steps.thread.types import AnyStep, Step

# Stands in a configuration for what is only known when its step runs, and counted in the step's identity beside it.
PLACEHOLDER = "<resolved by Marin>"


class Plan(Protocol):
    """A thread as Marin resolved it. `steps` are its steps and all that they depend on, each behind what it needs."""

    @property
    def steps(self) -> Sequence[Step]: ...

    def output_path(self, step: Step) -> str: ...

    def dependents(self, steps: Sequence[Step]) -> list[Step]:
        """The given steps and every step that rests on them."""
        ...

    def runs_again(self, step: Step) -> bool:
        """Whether Marin runs the step each time, although it has ended before."""
        ...

    def run(self, options: RunOptions, max_concurrent: int) -> None:
        """Run the steps. Raises RuntimeError where one has failed."""
        ...


class RecordedStep(ABC):
    """The function of an existing step, with a record of each run around it; what it was is in `step`.

    One that Marin sends elsewhere runs there; its ID and records stay with the driver. `output_path` is known once the
    thread is planned.
    """

    def __init__(self, step: Any, name: str, record: Callable[["RecordedStep", Any], Any]) -> None:
        """`name` is that of its function."""
        self.step = step
        self.output_path = ""
        self._record = record
        self.__name__ = name

    def __call__(self, config: Any) -> Any:
        return self._record(self, config)

    @property
    @abstractmethod
    def is_sent(self) -> bool:
        """Whether Marin has Fray run it, in place of the driver."""

    @abstractmethod
    def run(self, config: Any, around: Callable[[Callable[[Any], Any]], Callable[[Any], Any]]) -> None:
        """Run the step as Marin would have, and save what it returns. `around` wraps its function, where it runs.
        Raises TypeError for what Marin can't save."""

    @abstractmethod
    def saved(self) -> Any:
        """What the step's function is to return to Marin: what was saved."""


class Binding(Protocol):
    """One generation of Marin."""

    def building(self, options: RunOptions) -> AbstractContextManager[None]:
        """Around `thread(steps)`. Raises UsageError for options that this generation doesn't have."""
        ...

    def research_step(self, name: str, run: Callable[[StepConfig], Any], config: StepConfig, about: str) -> Step:
        """A step that runs this function with its configuration, where paths of steps are resolved."""
        ...

    def plan(self, prefix: str, options: RunOptions, about: str, steps: Sequence[Step]) -> Plan:
        """Resolve the steps. Raises UsageError for what can't be run as it is meant."""
        ...

    def wrap(self, step: AnyStep, record: Callable[[RecordedStep, Any], Any]) -> AnyStep:
        """The step with a record around it. Its name, configuration and so its output path stay as they are."""
        ...

    def config_of(self, step: Step) -> Any:
        """The configuration of an existing step."""
        ...

    def function_of(self, step: Step) -> str:
        """The name of a step's function."""
        ...

    def unwrap(self, value: Any) -> Any:
        """A configuration value without Marin's wrappers: what is versioned by itself, and a mark for what is resolved
        later."""
        ...

    def output_of(self, value: Any, prefix: str) -> tuple[Step | None, str]:
        """The path that Marin would give for a step, or a path of one, and the step; None for a path of its own."""
        ...

    def read_artifact(self, path: str) -> Any:
        """What a step returned, read from its output path. Raises FileNotFoundError and ValueError."""
        ...

    def run_inside(self, step: Any, output_path: str, placed: Callable[[Any], Any]) -> Any:
        """What the function of a step returns, called here with its output at this path and its configuration as
        `placed` gives it; steps that this holds are run by Marin first. No lock is taken for the path: it is whose who
        calls."""
        ...
