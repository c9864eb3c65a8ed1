"""Commands that add to a series: kickoff, decisions, notes, attachments, the end."""

import sys
from pathlib import Path
from typing import Any

import click

from research_steps.cli.common import as_json, in_store, journal_of, publish_all, tell, writer_of, writer_with
from research_steps.cli.main import command
from research_steps.git import Checkout
from research_steps.records.objects import IssueLink
from research_steps.records.series import check_topic


@command
@click.argument("topic")
@click.option("--branch", default="", help="The research branch. Default: research/TOPIC; '.' is the one checked out.")
@click.option("--carry-changes", is_flag=True, help="Take uncommitted changes along to the branch.")
@click.option("--issue", type=click.IntRange(min=1), help="Take this issue of the repository.")
@click.option("--create-issue", is_flag=True, help="Make a public issue from the template, without asking.")
@click.option("--repository", default="", help="owner/name. Default: GITHUB_REPOSITORY, else the remote 'origin'.")
@in_store
@as_json
def kickoff(
    topic: str,
    branch: str,
    carry_changes: bool,
    issue: int | None,
    create_issue: bool,
    repository: str,
    prefix: str | None,
    json_output: bool,
) -> None:
    """Start the series that experiments/TOPIC declares: branch, logbook, issue, W&B project, and its first entry.

    Without an issue, .agents/issues/TOPIC.md stands for it until 'research sync TOPIC --issue N'. May be repeated.
    """
    from research_steps.actions import notes
    from research_steps.actions.kickoff import IssueRequest, link_issue, take_branch
    from research_steps.publish.entry_writer import EntryWriter
    from research_steps.publish.wandb.surface import check_project, project_of
    from research_steps.thread.loading import load_series

    checkout = Checkout.find()
    series = load_series(checkout, check_topic(topic))
    asks = sys.stdin.isatty() and not json_output
    name = take_branch(
        checkout, topic, branch, lambda to: carry_changes or (asks and click.confirm(f"Take the changes along to {to}?"))
    )
    journal = journal_of(checkout, topic, prefix)
    check_project(journal, series)
    journal.declare(series)
    open_question = issue is None and not create_issue and not series.private
    if open_question and asks and journal.decided("issue", IssueLink) is None:
        create_issue = click.confirm("Make a public issue for it?")
    link = link_issue(checkout, journal, series, IssueRequest(issue, create_issue, repository))
    entry = notes.kickoff(EntryWriter(checkout, journal, series), name, project_of(journal, series))
    found = {"topic": topic, "branch": name, "issue": link.url if link else None, "entry": entry.record.id}
    if not json_output:
        click.echo(f"{topic}: on branch {name}, kickoff is {entry.record.id}")
        where = link.url if link else "none, the series is private" if series.private else f".agents/issues/{topic}.md"
        click.echo(f"{topic}: the issue is {where}")
    publish_all(checkout, journal, found, json_output)


@command
@click.argument("topic")
@click.argument("decision")
@click.option("--evidence", multiple=True, metavar="ID", help="A record that it rests on, such as MOE-HC-003.05.")
@click.option("--owner", default="", help="Who answers for it. Default: who runs this.")
@click.option("--scope", is_flag=True, help="It changes the scope of the series.")
@click.option("--production-pr", default="", metavar="URL", help="The pull request that brings it to production.")
@in_store
@as_json
def decide(
    topic: str,
    decision: str,
    evidence: tuple[str, ...],
    owner: str,
    scope: bool,
    production_pr: str,
    prefix: str | None,
    json_output: bool,
) -> None:
    """Record a decision, with its evidence and owner: an entry, a comment and a line of the decision log."""
    from research_steps.actions import notes

    writer = writer_of(topic, prefix)
    tell(writer, notes.decide(writer, decision, evidence, owner, scope, production_pr), json_output)


@command
@click.argument("id")
@click.option("--interpretation", default="", help="What you make of it.")
@click.option("--next", "next_action", default="", help="What you would do next.")
@click.option("--topic", help="The series. Default: every series of this checkout is searched.")
@in_store
@as_json
def note(
    id: str, interpretation: str, next_action: str, topic: str | None, prefix: str | None, json_output: bool
) -> None:
    """Add to what the rules say of a record: an entry of its own, shown with the record that has this ID."""
    from research_steps.actions import notes

    writer = writer_with(id, topic, prefix)
    tell(writer, notes.note(writer, id, interpretation, next_action), json_output)


@command
@click.argument("id")
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--link", default="", metavar="URL", help="Instead of a FILE: where a larger one lies.")
@click.option("--note", default="", help="What it shows.")
@click.option("--topic", help="The series. Default: every series of this checkout is searched.")
@in_store
@as_json
def attach(
    id: str, file: Path | None, link: str, note: str, topic: str | None, prefix: str | None, json_output: bool
) -> None:
    """Attach a profile or a plot of at most 5 MB to a record: it is kept in the store and, with its entry, in git."""
    from research_steps.actions import notes

    writer = writer_with(id, topic, prefix)
    tell(writer, notes.attach(writer, id, file, link, note), json_output)


@command
@click.argument("topic")
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
@in_store
@as_json
def finish(topic: str, prefix: str | None, json_output: bool, **parts: Any) -> None:
    """Write the final summary, as the last entry and on the issue, and close the issue.

    Refused while a part is missing: the text parts, a sealed snapshot, a measured baseline, the end of what runs.
    """
    from research_steps.actions import notes

    writer = writer_of(topic, prefix)
    tell(writer, notes.finish(writer, **parts), json_output)
