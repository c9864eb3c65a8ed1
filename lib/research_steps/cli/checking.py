"""The command that holds a series against the checklists. It changes nothing."""

import sys
from dataclasses import asdict

import click

from research_steps.cli.common import as_json, in_store, journal_of, print_json
from research_steps.cli.main import command
from research_steps.git import Checkout
from research_steps.thread.loading import series_of


@command
@click.argument("topic")
@click.option("--closing", is_flag=True, help="Also what holds before the issue is closed.")
@in_store
@as_json
def check(topic: str, closing: bool, prefix: str | None, json_output: bool) -> None:
    """Whether a result may be posted, and a thread closed: the checklists, and where record and surfaces drifted apart.

    Exits with 1 when a line fails; each that does says how to mend it.
    """
    from research_steps.actions.check import check as ask

    checkout = Checkout.find()
    journal = journal_of(checkout, topic, prefix)
    lines = ask(checkout, journal, series_of(checkout, journal), closing)
    failed = sum(not line.ok for line in lines)
    if json_output:
        print_json({"topic": topic, "failed": failed, "lines": [asdict(line) for line in lines]})
    else:
        group = ""
        for line in lines:
            if line.group != group:
                group = line.group
                click.echo(group)
            click.echo(f"  {'ok  ' if line.ok else 'FAIL'} {line.name}: {line.found}")
            if not line.ok:
                click.echo(f"       mend: {line.mend}")
        click.echo(f"{topic}: {len(lines)} lines, {failed or 'none'} failed")
    if failed:
        sys.exit(1)
