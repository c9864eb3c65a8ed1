"""The options on a thread's command line: those that every thread has, and the dataclass of its own."""

import inspect
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Any

from research_steps.errors import UsageError

# Taken from the command line before the options are.
_READ_FIRST = ("dev", "config_path")
OUTCOMES = ("failed", "contended", "orphaned")


@dataclass(frozen=True)
class RunOptions:
    """Options of a thread's command line; the first eight are Marin's own."""

    prefix: str | None = None
    """The store: where steps' outputs and the journal lie. Default: MARIN_PREFIX, else local_store/ in the checkout."""

    executor_info_base_path: str | None = None
    """Where the executor's own info is written. Default: experiments/ under the prefix."""

    dry_run: bool = False
    """Say what would run; record and publish nothing."""

    force_run_failed: bool = True
    """Run steps again that failed before."""

    run_only: list[str] | None = None
    """Run only the steps whose names match these regular expressions, and what they need."""

    version: str | None = None
    """Of today's Marin: the version of steps that leave theirs to the command line, YYYY.MM.DD, or dev."""

    override: list[str] | None = None
    """Of today's Marin: versions of single steps, as NAME=VERSION."""

    max_concurrent: int | None = None
    """How many steps may run at once. Trials take turns on a machine in any case."""

    retry: str = ""
    """Measure again what ended as failed, contended or orphaned; several with commas between."""

    skip_known: bool = False
    """Don't measure what failed or did not help before; its old result stands in the table."""

    force: bool = False
    """Let steps.interact take axes that were not swept alone; that is recorded."""

    seal: bool = False
    """Run the thread's seal steps: commit the relevant files and tag the commit. Without it, where stop_at holds."""

    @property
    def outcomes_to_retry(self) -> frozenset[str]:
        """What `retry` names. Raises UsageError."""
        names = frozenset(name.strip() for name in self.retry.split(",") if name.strip())
        unknown = sorted(names - set(OUTCOMES))
        if unknown:
            raise UsageError(
                f"--retry was given {unknown[0]!r}: expected {', '.join(OUTCOMES)}, or several with commas."
            )
        return names


def own_options(thread: Callable[..., object]) -> type[Any] | None:
    """The dataclass of a thread's own options: what its second parameter is annotated with, None where it has none.

    Raises UsageError for one that can't be put beside the options of every thread, or has no value without a command
    line, as in dev mode.
    """
    required = [each for each in inspect.signature(thread).parameters.values() if each.default is each.empty]
    if len(required) < 2 or required[1].kind is not inspect.Parameter.POSITIONAL_OR_KEYWORD:
        return None
    kind = required[1].annotation
    if isinstance(kind, str):
        kind = getattr(thread, "__globals__", {}).get(kind)
    if not isinstance(kind, type) or not is_dataclass(kind):
        raise UsageError(
            f"The thread has a second parameter {required[1].name!r} without the annotation of a dataclass: expected "
            "one that holds its options, as in 'def thread(steps: Steps, options: MyOptions)'."
        )
    taken = {*_READ_FIRST, *(option.name for option in fields(RunOptions))}
    for option in fields(kind):
        if option.name in taken:
            raise UsageError(
                f"{kind.__name__} has the option {option.name!r}, which every thread has already: expected another name."
            )
        if option.init and option.default is MISSING and option.default_factory is MISSING:
            raise UsageError(f"{kind.__name__} has no default for {option.name!r}: expected one for each option.")
    return kind
