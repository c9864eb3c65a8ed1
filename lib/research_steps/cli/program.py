"""A thread as a program: `main(series, thread)` at the end of its file reads the command line."""

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from research_steps.errors import ResearchError
from research_steps.records.series import Series

if TYPE_CHECKING:
    from research_steps.thread.builders import Steps


def main(series: Series, thread: "Callable[[Steps], Any]", argv: Sequence[str] | None = None) -> None:
    """Run a thread as a program: parses `argv` (default: the command line), exits with 1 when a step fails."""
    given = sys.argv[1:] if argv is None else argv
    for_dev = _for_dev(given)
    if for_dev is not None:
        from research_steps.cli.measure import dev

        dev.main([series.topic, *for_dev], prog_name="research dev")
    import draccus

    from research_steps.thread.run import RunOptions, run

    options = draccus.parse(RunOptions, args=[_underscored(argument) for argument in given])
    try:
        run(series, thread, options)
    except ResearchError as error:
        sys.exit(f"error: {error}")


def _for_dev(given: Sequence[str]) -> list[str] | None:
    """The options of 'research dev' among those that come with '--dev true', None without it."""
    for index, argument in enumerate(given):
        if argument in ("--dev", "--dev=true"):
            after = list(given[index + 1 :])
            return [*given[:index], *(after[1:] if argument == "--dev" and after[:1] == ["true"] else after)]
    return None


def _underscored(argument: str) -> str:
    """An option as Marin spells it: '--skip-known' becomes '--skip_known'."""
    name, equals, value = argument.partition("=")
    return name.replace("-", "_").replace("__", "--", 1) + equals + value if name.startswith("--") else argument
