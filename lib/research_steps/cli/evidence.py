"""Commands about what evidence is worth: measure it again, take it back, correct it, move the baseline to it."""

from typing import TYPE_CHECKING

import click

from research_steps.cli.common import as_json, in_store, tell, writer_with
from research_steps.cli.main import command
from research_steps.errors import UsageError

if TYPE_CHECKING:
    from research_steps.records.model import TrialRecord
    from research_steps.thread.builders import StepBuilder


@command
@click.argument("id")
@click.option("-n", "count", type=click.IntRange(min=1), default=2, help="In how many processes. Default: 2.")
@click.option("--topic", help="The series. Default: every series of this checkout is searched.")
@in_store
def replicate(id: str, count: int, topic: str | None, prefix: str | None) -> None:
    """Measure a candidate again, each time in a process of its own: the way from exploratory to replicated.

    ID is that of its row, or of the entry, whose best candidate is taken. Runs through Marin's executor.
    """
    from research_steps.actions.revisions import claim_of, next_numbers
    from research_steps.thread.loading import load_series
    from research_steps.thread.options import RunOptions
    from research_steps.thread.run import run

    writer = writer_with(id, topic, prefix)
    series, known = load_series(writer.checkout, writer.journal.topic), writer.scan()
    claim, entry, trial = claim_of(known, id, series.primary)
    numbers = next_numbers(known, count)

    def thread(builder: "StepBuilder") -> None:
        # Only now, because conditions are those that Marin leaves behind when it is imported.
        from research_steps.thread.command_steps import replicate_again

        refuse_other_conditions(trial, "Replicate")
        replicate_again(builder, claim, entry.ref, trial, writer.checkout.root, numbers)

    run(series, thread, RunOptions(prefix=prefix))


def refuse_other_conditions(trial: "TrialRecord", do: str) -> None:
    """Raises UsageError when a trial was measured under other conditions than those here."""
    from research_steps.records.conditions import conditions
    from research_steps.records.configurations import differences
    from research_steps.trial.provenance import facts_here

    apart = differences(conditions(trial), facts_here().conditions)
    if apart:
        told = "; ".join(f"{name} was {was} and is {now}" for name, (was, now) in apart.items())
        raise UsageError(f"{trial.id} was measured under other conditions: {told}. {do} it under the same ones.")


@command
@click.argument("id")
@click.argument("because")
@click.option("--topic", help="The series. Default: every series of this checkout is searched.")
@in_store
@as_json
def retract(id: str, because: str, topic: str | None, prefix: str | None, json_output: bool) -> None:
    """Take a record back, BECAUSE of something: what rested on it says so, and its verdicts are made again without it.

    Of an entry, the trials that were measured for it go as well. The next run of the thread measures them anew.
    """
    from research_steps.actions import revisions

    writer = writer_with(id, topic, prefix)
    tell(writer, revisions.retract(writer, id, because), json_output)


@command
@click.argument("id")
@click.argument("text")
@click.option("--topic", help="The series. Default: every series of this checkout is searched.")
@in_store
@as_json
def correct(id: str, text: str, topic: str | None, prefix: str | None, json_output: bool) -> None:
    """Say what was wrong in a record, in TEXT; its measurements stand, and verdicts on them are made again."""
    from research_steps.actions import revisions

    writer = writer_with(id, topic, prefix)
    tell(writer, revisions.correct(writer, id, text), json_output)


@command
@click.argument("id")
@click.option("--topic", help="The series. Default: every series of this checkout is searched.")
@in_store
@as_json
def rebase(id: str, topic: str | None, prefix: str | None, json_output: bool) -> None:
    """Move the baseline to what a record found. Refused unless that improvement is replicated."""
    from research_steps.actions import revisions

    writer = writer_with(id, topic, prefix)
    tell(writer, revisions.rebase(writer, id), json_output)
