"""What the commands share: options, the series they are about, and the pass over the surfaces that ends most of them."""

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from research_steps.errors import UsageError
from research_steps.git import Checkout
from research_steps.journal.store import open_store, store_url
from research_steps.records.series import check_topic

if TYPE_CHECKING:
    from research_steps.journal.journal import Journal
    from research_steps.publish.entry_writer import EntryWriter
    from research_steps.records.encoding import Stored
    from research_steps.records.model import EntryRecord

as_json = click.option("--json", "json_output", is_flag=True, help="Print one JSON document instead of text.")
in_store = click.option("--prefix", help="The store. Default: MARIN_PREFIX, else local_store/ in the checkout.")


def journal_of(checkout: Checkout, topic: str, prefix: str | None) -> "Journal":
    """The journal of a series in the store that was named."""
    from research_steps.journal.journal import Journal

    return Journal(open_store(store_url(checkout.root, prefix)), check_topic(topic))


def writer_of(topic: str, prefix: str | None) -> "EntryWriter":
    """Where somebody writes about a series."""
    from research_steps.publish.entry_writer import EntryWriter
    from research_steps.thread.loading import series_of

    checkout = Checkout.find()
    journal = journal_of(checkout, topic, prefix)
    return EntryWriter(checkout, journal, series_of(checkout, journal))


def writer_with(id: str, topic: str | None, prefix: str | None) -> "EntryWriter":
    """Where somebody writes about the series that holds a record. Raises UsageError when none does."""
    from research_steps.publish.entry_writer import EntryWriter
    from research_steps.thread.loading import series_of

    checkout = Checkout.find()
    for journal in journals_with(checkout, id, topic, prefix):
        if journal.scan(checkout.logbooks / journal.topic).find(id):
            return EntryWriter(checkout, journal, series_of(checkout, journal))
    raise UsageError(
        f"No record has the ID {id!r}: expected one such as MOE-HC-007; 'research status' tells what is here."
    )


def journals_with(checkout: Checkout, id: str, topic: str | None, prefix: str | None) -> "list[Journal]":
    """The journals of the series that reserved an experiment ID or published it; of every series where none did."""
    journals = [journal_of(checkout, name, prefix) for name in topics(checkout, topic, prefix)]
    owner = id.partition(".")[0]
    published = {path.parent.name for path in checkout.logbooks.glob("*/*.jsonl") if path.stem == owner}
    return [one for one in journals if one.topic in published or one.ids.may_hold(owner)] or journals


def tell(writer: "EntryWriter", entry: "Stored[EntryRecord]", json_output: bool, **more: Any) -> None:
    """Say what was written, and publish it."""
    record = entry.record
    if not json_output:
        click.echo(f"{record.id}: {record.label}")
    publish_all(writer.checkout, writer.journal, {"topic": writer.series.topic, "entry": record.id, **more}, json_output)


def publish_all(checkout: Checkout, journal: "Journal", found: dict[str, Any], json_output: bool) -> None:
    """One pass over all surfaces, told; exits with 1 when something is left to publish."""
    from research_steps.publish.publisher import publish
    from research_steps.thread.surfaces import surfaces_of

    published = publish(journal, surfaces_of(checkout, journal, journal.series()))
    if json_output:
        print_json({**found, "done": [asdict(done) for done in published.done], "problems": published.problems})
    else:
        for done in published.done:
            click.echo(f"{done.id}: {done.what}")
        if not published.done:
            click.echo(f"{journal.topic}: nothing new")
        for problem in published.problems:
            click.echo(f"not published: {problem}", err=True)
        for text in published.left_out:
            click.echo(f"left out: {text}", err=True)
    if published.problems:
        sys.exit(1)


def topics(checkout: Checkout, topic: str | None, prefix: str | None) -> list[str]:
    if topic is not None:
        return [check_topic(topic)]
    store = open_store(store_url(checkout.root, prefix))
    logbooks = {path.stem for path in checkout.logbooks.glob("*.md")}
    return sorted(logbooks | {name.rsplit("/", 1)[-1] for name in store.names("journal")})


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2))
