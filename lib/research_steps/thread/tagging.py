"""W&B runs that a recorded step starts by itself, a training run say: they get the series' tags and the step's group.

Before the step starts, Levanter's `WandbConfig` is found wherever its configuration holds one, and a copy is given
tags, group and name; the configuration itself, and so the step's version and output path, stay as they are. In the
process of the step's function, W&B's environment variables say the same for runs that the function starts in its own
way; what W&B does not take from there, because the run names tags of its own, it is given as soon as it exists. Neither
Levanter nor W&B is imported here: who has not loaded them has no run to tag.

Nothing is put on the runs of what is private: they are the function's own, and go where it sends them, but what names
the series stays away from them.
"""

import copy
import dataclasses
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from research_steps.records.redaction import redact
from research_steps.records.series import LONGEST_TAG

LONGEST_GROUP = 64
_POLL_S = 0.05
_TAGS, _GROUP = "WANDB_TAGS", "WANDB_RUN_GROUP"


@dataclass(frozen=True)
class Tagging:
    """What the W&B runs of one step are to carry. Travels to workers with the step's function."""

    tags: tuple[str, ...]
    group: str
    name: str

    @staticmethod
    def of(shared: tuple[str, ...], id: str, label: str) -> "Tagging":
        group = " ".join(redact(f"{id} {label}").split())
        tags = tuple(tag for tag in map(redact, shared) if 0 < len(tag) <= LONGEST_TAG)
        return Tagging(tags, group if len(group) <= LONGEST_GROUP else f"{group[: LONGEST_GROUP - 1]}…", id)

    @staticmethod
    def of_environment() -> "Tagging | None":
        """What a trial's process was told of its runs; None where it was told nothing."""
        tags, name = os.environ.get(_TAGS, ""), os.environ.get("WANDB_NAME", "")
        return Tagging(tuple(tags.split(",")), os.environ.get(_GROUP, ""), name) if tags and name else None

    def missing(self, tags: Any) -> tuple[str, ...]:
        """The tags that are not among these."""
        return tuple(tag for tag in self.tags if tag not in (tags or ()))


@dataclass(frozen=True)
class Tagged:
    """A step's function that tags the W&B runs which start while it runs, in a process that is its own."""

    function: Callable[[Any], Any]
    tagging: Tagging

    def __call__(self, config: Any) -> Any:
        _set_environment(self.tagging)
        with _watching(self.tagging):
            return self.function(config)


def tagged(function: Callable[[Any], Any], tagging: Tagging | None) -> Callable[[Any], Any]:
    return Tagged(function, tagging) if tagging else function


def tagged_config(config: Any, tagging: Tagging | None) -> Any:
    """The configuration with every Levanter `WandbConfig` in it tagged; itself when there is none."""
    kind = getattr(sys.modules.get("levanter.tracker.wandb"), "WandbConfig", None)
    return config if kind is None or tagging is None else _rewritten(config, kind, tagging, {})


def _rewritten(value: Any, kind: type, tagging: Tagging, done: dict[int, tuple[Any, Any]]) -> Any:
    """A copy where something in it changed. `done` keeps what is shared shared, and ends at what holds itself."""
    if id(value) not in done:
        done[id(value)] = value, value
        if isinstance(value, kind):
            changed = _tagged_fields(value, tagging)
        else:
            parts = _parts(value)
            new = {name: _rewritten(part, kind, tagging, done) for name, part in parts.items()}
            changed = {name: part for name, part in new.items() if part is not parts[name]}
        done[id(value)] = value, _with(value, changed)
    return done[id(value)][1]


def _parts(value: Any) -> Mapping[Any, Any]:
    """What a value holds, by field, key or index."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)}
    if isinstance(value, list | tuple):
        return dict(enumerate(value))
    return value if isinstance(value, Mapping) else {}


def _tagged_fields(config: Any, tagging: Tagging) -> dict[str, Any]:
    return {
        "tags": [*(config.tags or ()), *tagging.missing(config.tags)],
        "group": config.group or tagging.group,
        "name": config.name or tagging.name,
    }


def _with(value: Any, parts: Mapping[Any, Any]) -> Any:
    """A copy with other parts; not made anew, because what a dataclass does at its creation was done once."""
    if not parts:
        return value
    if isinstance(value, list | tuple) and not dataclasses.is_dataclass(value):
        items = [parts.get(index, item) for index, item in enumerate(value)]
        return getattr(type(value), "_make", type(value))(items)
    # A copy of its own kind, such as a mapping with a default for missing keys.
    changed = copy.copy(value)
    if isinstance(value, Mapping) and not dataclasses.is_dataclass(value):
        changed.update(parts)
    else:
        for name, part in parts.items():
            object.__setattr__(changed, name, part)
    return changed


def _set_environment(tagging: Tagging) -> None:
    """Say it beside what is set already. The process is the step's own."""
    tags = [tag for tag in os.environ.get(_TAGS, "").split(",") if tag]
    # W&B splits at commas; such a tag is put on once the run exists.
    os.environ[_TAGS] = ",".join([*tags, *(tag for tag in tagging.missing(tags) if "," not in tag)])
    os.environ[_GROUP] = os.environ.get(_GROUP) or tagging.group


@contextmanager
def _watching(tagging: Tagging) -> Iterator[None]:
    """Tag the process's W&B run as soon as there is one, and once more at the end."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(_POLL_S):
            _tag_run(tagging)

    watcher = threading.Thread(target=watch, name="research-wandb-tags", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
        _tag_run(tagging)


def _tag_run(tagging: Tagging) -> None:
    run = getattr(sys.modules.get("wandb"), "run", None)
    if run is None:
        return
    try:
        missing = tagging.missing(run.tags)
        if missing:
            run.tags = (*(run.tags or ()), *missing)
    # A run that ends just now, or is none of W&B's own: a tag is not worth a training run.
    except Exception:  # noqa: BLE001
        return
