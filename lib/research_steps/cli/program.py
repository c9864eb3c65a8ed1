"""A thread as a program: `main(series, thread)` at the end of its file reads the command line."""

import inspect
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar, overload

from research_steps.errors import ResearchError, UsageError
from research_steps.git import Checkout
from research_steps.journal.logbook_place import settle
from research_steps.records.series import Series
from research_steps.terminal import say
from research_steps.thread.loading import refuse_below
from research_steps.thread.options import RunOptions, own_options
from research_steps.thread.types import Steps
from research_steps.trial.provenance import shipped

Options = TypeVar("Options")


@overload
def main(series: Series, thread: Callable[[Steps], object], argv: Sequence[str] | None = None) -> None: ...


@overload
def main(
    series: Series,
    thread: Callable[[Steps, Options], object],
    argv: Sequence[str] | None = None,
    *,
    options: type[Options],
) -> None: ...


def main(
    series: Series,
    thread: Callable[..., object],
    argv: Sequence[str] | None = None,
    *,
    options: type[Any] | None = None,
) -> None:
    """Run a thread as a program: parses `argv` (default: the command line), exits with 1 when a step fails. Raises
    UsageError where the file that calls it is only imported.

    `options` is a dataclass of the thread's own options, each with a default: they stand on the command line beside
    those of every thread, and the thread's function gets them as its second argument.
    """
    if argv is None:
        _refuse_imported(inspect.currentframe())
    given = sys.argv[1:] if argv is None else argv
    for_dev = _for_dev(given)
    if for_dev is not None:
        from research_steps.cli.measure import dev

        dev.main([series.topic, *for_dev], prog_name="research dev")
    from research_steps.thread.run import run

    try:
        file = Path(inspect.unwrap(thread).__code__.co_filename).absolute()
        checkout = Checkout.find()
        if file.parts[-3:] == ("experiments", series.topic, "__main__.py"):
            refuse_below(checkout, file.parents[2], series.topic)
        if checkout.git_dir is not None and not file.resolve().is_relative_to(checkout.root):
            raise UsageError(
                f"The thread lies in {file}, and this is the checkout {checkout.root}: what is recorded here would name "
                "the code of this one. Expected to be started at the top of the checkout that holds the thread."
            )
        run_options, own = _parse(given, thread, options)
        if not run_options.dry_run and shipped(checkout) is None:
            settle(checkout, series)
        run(series, thread if own is None else lambda steps: thread(steps, own), run_options)
    except ResearchError as error:
        say(f"error: {error}")
        sys.exit(1)


def _refuse_imported(here: FrameType | None) -> None:
    """A trial imports the file that holds its measure function, and must not run the thread by that."""
    caller = here.f_back if here is not None else None
    if caller is not None and caller.f_code.co_name == "<module>" and caller.f_globals.get("__name__") != "__main__":
        raise UsageError(
            f"{caller.f_code.co_filename} calls main(…) whenever it is imported: expected it below "
            "if __name__ == '__main__', because trials and commands import it."
        )


def _parse(given: Sequence[str], thread: Callable[..., object], options: type[Any] | None) -> tuple[RunOptions, Any]:
    """The options of every thread, and the thread's own. Raises UsageError."""
    import draccus
    from draccus.argparsing import ArgumentParser
    from draccus.utils import DraccusException

    declared = own_options(thread)
    if declared is not options:
        named, expected = (f"options={kind.__name__}" if kind else "no options" for kind in (options, declared))
        raise UsageError(
            f"main is given {named}, and its thread takes {expected}: expected the same dataclass in both, as in "
            "'def thread(steps: Steps, options: MyOptions)' and 'main(series, thread, options=MyOptions)'."
        )
    rest, own = [_underscored(argument) for argument in given], None
    try:
        if options is not None:
            parser = ArgumentParser(options, add_help=False)
            if "--help" in rest or "-h" in rest:
                parser.parser.print_help()
            else:
                own, rest = parser.parse_known_args(rest)
        return draccus.parse(RunOptions, args=rest), own
    except DraccusException as error:
        raise UsageError(" ".join(str(error).split())) from error


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
