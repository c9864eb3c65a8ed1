"""Commands that hand a result over: seal it, measure a seal again, and finish the thread."""

from typing import Any

import click

from research_steps.actions import notes
from research_steps.cli.common import OpenSeries, ResearchCommand, SeriesCommand, print_result
from research_steps.git import Checkout
from research_steps.publish.entry_writer import EntryWriter
from research_steps.records.series import check_topic
from research_steps.records.step_kinds import Finish, Reproduction
from research_steps.terminal import print_lines, say

# How 'research reproduce' ends; 2 is that of a wrong command line.
EXITS = {"reproduced": 0, "not reproduced": 3, "not comparable": 4}


@click.command(cls=SeriesCommand, dry_run=True)
@click.argument("ids", nargs=-1, metavar="[ID]...")
def seal(series: OpenSeries, ids: tuple[str, ...]) -> None:
    """Tag a commit of the relevant files, with a repro bundle. It is of all that the records with these IDs rest on.

    Without an ID, of what the newest interpretation rests on. The tag is pushed where 'git config research.push true'
    allows it.
    """
    series.tell(notes.seal(series.writer, ids))


@click.command(cls=ResearchCommand, prefix=True, json=True)
@click.argument("tag")
@click.option("--here", is_flag=True, help="In the environment that this runs in, not in one built from the tag.")
def reproduce(tag: str, here: bool, prefix: str | None, json_output: bool) -> None:
    """Measure again what TAG sealed, and record whether it holds. TAG is one such as moe_hc/MOE-HC-009.

    Its thread runs in a work tree, an environment and a store of its own, with the options that were sealed and without
    the secrets of the environment here. The outcome is an entry of the series here, and the exit code: 0 reproduced,
    3 not reproduced, 4 not comparable; 1 when there is none, or when it is reproduced and was not published.
    """
    from research_steps.seal import bundle
    from research_steps.seal.reproduce.reporting import report
    from research_steps.seal.reproduce.rerun import rerun
    from research_steps.seal.reproduce.trusted import checked

    def tell(line: str) -> None:
        say(f"{tag}: {line}")

    checkout = Checkout.find()
    bundle.read(checkout, tag)
    # Which a clone may know by its tag alone.
    series = OpenSeries(checkout, check_topic(tag.rpartition("/")[0]), prefix, json_output)
    sealed = checked(checkout, series.journal, tag, tell)
    # In a clone whose store is empty, what was sealed says what it is about.
    declared = series.journal.declared() or sealed.declared
    again = rerun(checkout, sealed, here, tell)
    entry = report(EntryWriter(checkout, series.journal, declared), sealed, again)
    if not json_output:
        print_lines(entry.record.result)
    outcome = entry.record.details_as(Reproduction).outcome
    series.tell(entry, EXITS[outcome], outcome=outcome)


@click.command(cls=ResearchCommand, prefix=True, json=True)
@click.argument("tag")
def badge(tag: str, prefix: str | None, json_output: bool) -> None:
    """Print what TAG sealed as a small SVG. It is grey once it was not reproduced.

    For a pull request: write it to a file that is committed there. A tag that does not agree with itself has none.
    """
    from research_steps.seal import bundle
    from research_steps.seal.badge import badge as drawn
    from research_steps.seal.reproduce.trusted import checked

    checkout = Checkout.find()
    bundle.read(checkout, tag)
    series = OpenSeries(checkout, check_topic(tag.rpartition("/")[0]), prefix)
    sealed = checked(checkout, series.journal, tag, say)
    known = series.journal.published(series.records)
    again = [entry.record for entry in known.counting if entry.record.step == "reproduction"]
    svg = drawn(sealed, again)
    print_result(json_output, {"tag": tag, "svg": svg}, svg.splitlines())


@click.command(cls=SeriesCommand, dry_run=True)
@click.option("--worked", default="", help="What worked.")
@click.option("--did-not", default="", help="What did not.")
@click.option("--limitations", default="", help="What the conclusion does not cover.")
@click.option("--next", "next_steps", multiple=True, help="A next step; once for each, in order.")
@click.option("--conclusion", default="", help="What is now known.")
@click.option(
    "--production-pr",
    default="",
    metavar="URL",
    help="The pull request that came of it. Default: the one that the newest decision names.",
)
@click.option("--docs", default="", help="Which documentation was updated, or why none needs it.")
def finish(series: OpenSeries, conclusion: str, **parts: Any) -> None:
    """Write the final summary, and close the issue. The summary is the last entry, and stands on the issue.

    Refused while a part is missing: the text parts, a sealed snapshot, a measured baseline, the end of what runs.
    """
    series.tell(notes.finish(series.writer, conclusion, Finish(confidence="", **parts)))
