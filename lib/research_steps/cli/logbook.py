"""Commands about the logbook as a file: bring it up to date, take over one that people wrote."""

import click

from research_steps.cli.common import as_json, in_store, journal_of, print_json, publish_all
from research_steps.cli.main import command
from research_steps.git import Checkout
from research_steps.records.series import check_topic


@command
@click.argument("topic")
@click.option("--issue", type=click.IntRange(min=1), help="Link this issue, and post everything on it, in order.")
@click.option("--repository", default="", help="owner/name of the issue. Default: as for kickoff.")
@in_store
@as_json
def sync(topic: str, issue: int | None, repository: str, prefix: str | None, json_output: bool) -> None:
    """Bring logbook, issue and W&B up to date with the journal, from any checkout.

    After a merge with conflicts the logbook is rebuilt first, from the whole entries of both sides.
    """
    from research_steps.actions.kickoff import IssueRequest, link_issue
    from research_steps.publish.logbook.surface import path_of, rebuild

    checkout = Checkout.find()
    journal = journal_of(checkout, topic, prefix)
    rebuilt = path_of(checkout, topic).exists() and rebuild(checkout, topic)
    found = {"topic": topic, "rebuilt": rebuilt}
    if rebuilt and not json_output:
        click.echo(f"{topic}: rebuilt from the whole entries of both sides of the merge")
    # A merge can be mended without the store that the entries came from.
    if not rebuilt or journal.store.read(f"journal/{topic}/series.json") is not None:
        if issue is not None:
            link_issue(checkout, journal, journal.series(), IssueRequest(issue, repository=repository))
        publish_all(checkout, journal, found, json_output)
    elif json_output:
        print_json(found)


@command
@click.argument("topic")
@click.option("--id-prefix", required=True, help="The series' experiment ID prefix, such as MOE-HC.")
@as_json
def adopt(topic: str, id_prefix: str, json_output: bool) -> None:
    """Have entries follow at the end of .agents/logbooks/TOPIC.md, which people wrote; no byte of it changes."""
    from research_steps.publish.logbook.surface import adopt as take
    from research_steps.publish.logbook.surface import numbers_used

    checkout = Checkout.find()
    size = take(checkout, check_topic(topic), id_prefix)
    used = sorted(numbers_used(checkout, topic, id_prefix))
    if json_output:
        print_json({"topic": topic, "bytes_kept": size, "numbers_used": used})
        return
    click.echo(f"{topic}: adopted, {size} bytes stay as they were")
    if used:
        click.echo(f"{id_prefix} numbers up to {used[-1]} are used in its headings; new entries continue after them")
