"""Commands about snapshots: make one, measure one again."""

import click
import msgspec

from research_steps.cli.common import as_json, in_store, journal_of, tell, writer_of
from research_steps.cli.main import command
from research_steps.git import Checkout
from research_steps.records.series import Series


@command
@click.argument("topic")
@click.argument("ids", nargs=-1, metavar="[ID]...")
@in_store
@as_json
def seal(topic: str, ids: tuple[str, ...], prefix: str | None, json_output: bool) -> None:
    """Tag a commit of the relevant files and a repro bundle: all that the records with these IDs rest on.

    Without an ID, of what the newest interpretation rests on. The tag is pushed where 'git config research.push true'
    allows it.
    """
    from research_steps.actions import notes

    writer = writer_of(topic, prefix)
    tell(writer, notes.seal(writer, ids), json_output)


@command
@click.argument("tag")
@click.option("--here", is_flag=True, help="In the environment that this runs in, not in one built from the tag.")
@in_store
@as_json
def reproduce(tag: str, here: bool, prefix: str | None, json_output: bool) -> None:
    """Measure again what TAG sealed, such as moe_hc/MOE-HC-009, and record whether it holds.

    Its commands run in a work tree, an environment and a store of their own. The outcome (reproduced, not reproduced,
    not comparable) is an entry of the series here.
    """
    from research_steps.publish.entry_writer import EntryWriter
    from research_steps.records.step_kinds import Reproduction
    from research_steps.seal import bundle
    from research_steps.seal.reproduce.reporting import report
    from research_steps.seal.reproduce.rerun import rerun

    checkout = Checkout.find()
    sealed = bundle.read(checkout, tag)
    journal = journal_of(checkout, sealed.topic, prefix)
    # In a clone whose store is empty, what was sealed says what it is about.
    writer = EntryWriter(checkout, journal, journal.declared() or msgspec.convert(sealed.series, Series))
    again = rerun(checkout, sealed, here, lambda line: click.echo(f"{tag}: {line}", err=True))
    entry = report(writer, sealed, again, here)
    if not json_output:
        click.echo(entry.record.result)
    tell(writer, entry, json_output, outcome=entry.record.details_as(Reproduction).outcome)
