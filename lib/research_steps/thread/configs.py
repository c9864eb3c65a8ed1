"""The configuration of a research step: what it measures, as the thread declares it and the executor resolves it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from research_steps.journal.journal import Journal
from research_steps.trial.measured import Measured


@dataclass(frozen=True)
class StepConfig:
    """The configuration of every research step, as the executor resolves it.

    `version` is what makes the step new when it changes. `points` are a sweep's changes to the baseline case, all of
    them also in a shard, which runs each `shards`-th of them from `shard` on. `replicates` are the numbers of the
    processes that measure a candidate again: the one with these changes, else the best; `across` names an axis and its
    values at which both sides are measured. An `axis` has a name where it is several fields. `axes` of an interaction
    are those that came without a sweep. `inputs` are output paths, `rests_on` references to entries that the journal has
    already. `confirms` is the trial of dev mode that a replicate measures again. A sweep that is `tuned_over` the values
    of a field chooses one for each of its points. What reads the metrics of a recorded step has its `output`, the names
    of its `function` and of what is to `read` them ('' for the default), with the `digest` of that one's code, and the
    `fields` that its outcome is known by.
    """

    version: Any
    kind: str
    label: str
    hypothesis: str
    output_path: Any
    inputs: tuple[Any, ...] = ()
    rests_on: tuple[dict[str, Any], ...] = ()
    measured: Measured | None = None
    points: tuple[dict[str, Any], ...] = ()
    axis: str = ""
    axes: tuple[tuple[str, tuple[Any, ...]], ...] = ()
    replicates: tuple[int, ...] = ()
    candidate: dict[str, Any] | None = None
    across: tuple[str, tuple[Any, ...]] | None = None
    confirms: str = ""
    tuned_over: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    top: int = 0
    shard: int = 0
    shards: int = 1
    private: bool = False
    output: Any = ""
    function: str = ""
    read: str = ""
    digest: str = ""
    fields: dict[str, Any] = field(default_factory=dict)

    @property
    def what(self) -> Measured:
        """What a measuring step measures."""
        assert self.measured is not None, "the builder gives measuring steps what they measure"
        return self.measured

    @property
    def case(self) -> dict[str, Any]:
        """The configuration of the baseline."""
        return self.what.changed({}, self.label)

    def changed(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        return self.what.changed(changes, self.label)


def research_config(step: Any) -> StepConfig | None:
    """The configuration of a research step; None for any other step."""
    config = getattr(step, "config", None)
    return config if isinstance(config, StepConfig) else None


def step_key(output_path: str, journal: Journal) -> str:
    """Marin's identity of a step: its output path below the store's prefix."""
    return output_path.removeprefix(journal.store.url.rstrip("/")).lstrip("/")
