"""The commands about background research: the ledger of sources, contradiction passes, and the brief."""

from typing import Any

import click

from research_steps.cli.common import as_json, in_store, print_json, tell, writer_of
from research_steps.cli.main import command
from research_steps.evidence.background import ledger

TYPES = ("paper", "code", "issue", "run", "doc", "person")


@click.group()
def source() -> None:
    """Background research: what others found, what speaks against it, and what to try next."""


@command
@click.argument("topic")
@click.option("--type", type=click.Choice(TYPES), required=True, help="What kind of source it is.")
@click.option("--where", required=True, help="Its address, path, name, or the ID of a record of this series.")
@click.option("--version", required=True, help="Which version of it, or of which date.")
@click.option("--claim", required=True, help="What it says, in a sentence.")
@click.option("--confidence", type=click.Choice(("low", "medium", "high")), required=True, help="How sure that is.")
@click.option("--notes", default="", help="What else matters, such as its setup.")
@click.option("--internal", is_flag=True, help="It is our own work.")
@click.option("--supports", multiple=True, help="A hypothesis (H1), a source's ID, or a claim; may be repeated.")
@click.option("--contradicts", multiple=True, help="A hypothesis (H1), a source's ID, or a claim; may be repeated.")
@in_store
@as_json
def add(
    topic: str,
    supports: tuple[str, ...],
    contradicts: tuple[str, ...],
    prefix: str | None,
    json_output: bool,
    **fields: Any,
) -> None:
    """Add a source to the ledger."""
    from research_steps.actions.sources import add_source

    writer = writer_of(topic, prefix)
    tell(writer, add_source(writer, fields, supports, contradicts), json_output)


@command
@click.argument("topic")
@click.option("--claim", "id", required=True, metavar="ID", help="The source whose claim was looked at.")
@click.option("--found", default="", help="What contradicts it, and where that stands.")
@click.option("--none", "looked", default="", help="Nothing contradicts it: where you looked.")
@in_store
@as_json
def checked(topic: str, id: str, found: str, looked: str, prefix: str | None, json_output: bool) -> None:
    """Record a contradiction pass: somebody looked for what speaks against a source's claim."""
    from research_steps.actions.sources import check_claim

    writer = writer_of(topic, prefix)
    tell(writer, check_claim(writer, id, found, looked), json_output)


@command
@click.argument("topic")
@in_store
@as_json
def list_(topic: str, prefix: str | None, json_output: bool) -> None:
    """The ledger: each source with its claim, and which claims had a contradiction pass."""
    from research_steps.journal.snapshot import entries_of
    from research_steps.publish import background_text
    from research_steps.publish.markdown import one_line

    found = ledger(entries_of(writer_of(topic, prefix).scan()))
    unchecked = found.unchecked()
    if json_output:
        print_json([{"id": one.id, **one.config, "checked": one not in unchecked} for one in found.sources])
        return
    for one in found.sources:
        passed = ". No contradiction pass yet" if one in unchecked else ""
        click.echo(f"{background_text.source(one, one_line, str)}{passed}")
    if not found.sources:
        click.echo("- none")


@command
@click.argument("topic")
@click.option("--question", default="", help="What has to be known. Default: as in the brief before.")
@click.option(
    "--next", "ranked", multiple=True, metavar="'EXPERIMENT :: FALSIFIER'",
    help="What to run next, and what result would speak against it; once for each, in order of rank.",
)  # fmt: skip
@in_store
@as_json
def brief(topic: str, question: str, ranked: tuple[str, ...], prefix: str | None, json_output: bool) -> None:
    """Write .agents/logbooks/TOPIC/background.md from the records, and print it."""
    from research_steps.actions.sources import ask, write_brief

    writer = writer_of(topic, prefix)
    entry = ask(writer, question, ranked)
    text = write_brief(writer)
    if not json_output:
        click.echo(text)
    tell(writer, entry, json_output, text=text)


for _command, _name in ((add, "add"), (checked, "checked"), (list_, "list"), (brief, "brief")):
    source.add_command(_command, _name)
