"""The command that records a command of the user's own, with what it printed passed through."""

import sys
from contextlib import redirect_stdout, suppress

import click

from research_steps.cli.common import ResearchCommand, series_here
from research_steps.cli.recorded_command import RecordedCommand, begun_early
from research_steps.errors import ResearchError
from research_steps.terminal import print_lines, say

# What a shell gives a command that is not there, or can't be run.
NOT_FOUND, NO_PROGRAM = 127, 126


@click.command(cls=ResearchCommand, prefix=True, dry_run=True)
@click.argument("topic")
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="What it was configured with; may be repeated."
)
@click.option(
    "--metrics", "rules", multiple=True, metavar="FILE|NAME=EXPRESSION",
    help="Where its numbers are. Default: lines 'METRIC name=value', or a JSON object as the last line.",
)  # fmt: skip
@click.option("--label", default="", help="What the entry is called. Default: the command.")
@click.option("--hypothesis", default="", help="What it tests, such as H2.")
@click.argument("argv", metavar="-- COMMAND...", nargs=-1, required=True)
def record(
    topic: str,
    settings: tuple[str, ...],
    rules: tuple[str, ...],
    label: str,
    hypothesis: str,
    argv: tuple[str, ...],
    prefix: str | None,
    dry_run: bool,
) -> None:
    """Run a command, and leave a record of it. That is an entry with its metrics, exit code, time and output.

    What it prints passes through, signals go on to it, and the exit code is its own.
    """
    running = begun_early()
    try:
        from research_steps.actions.recordings import Recording, rule_of, settings_of

        series, chosen = series_here(topic, prefix, dry_run=dry_run)[0], settings_of(settings)
        rule_of(rules)
        checkout, journal, declared = series.checkout, series.journal, series.series
        if not dry_run:
            running = running or RecordedCommand(argv)
        recording = Recording(checkout, journal, declared, argv, chosen, rules, label, hypothesis)
    except OSError as error:
        say(f"error: {argv[0]} can't be run: {error.strerror}")
        code = NOT_FOUND if isinstance(error, FileNotFoundError) else NO_PROGRAM
        sys.exit(code)
    except ResearchError as error:
        if running is None:
            raise
        say(f"error: {error} The command goes on, and is not recorded.")
        running.give_to(lambda stream, data: None)
        code, _ = running.wait()
        sys.exit(code)
    if running is None:
        print_lines(recording.planned, "A dry run: nothing was run or written.")
        return
    running.give_to(recording.printed.take)
    code, entry = recording.end(running.wait, running.signals)
    running.let_go()
    # What is printed to stdout is the command's, and so is the exit code; what wasn't published is told.
    with redirect_stdout(sys.stderr), suppress(SystemExit):
        if entry is None:
            say("The command was told to end, and is recorded as interrupted.")
        else:
            series.tell(entry)
    sys.exit(code)
