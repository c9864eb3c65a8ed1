"""Commands that set a series up, and bring what is published up to date."""

import json
import sys
from pathlib import Path

import click

from research_steps.actions import notes
from research_steps.actions.kickoff import link_issue, take_branch
from research_steps.actions.others import adopt_rows
from research_steps.cli.common import (
    OpenSeries,
    RecordCommand,
    ResearchCommand,
    SeriesCommand,
    print_result,
    series_here,
)
from research_steps.errors import UsageError
from research_steps.files import is_there
from research_steps.git import Checkout
from research_steps.journal.logbook_place import logbook_of, point_to, settle
from research_steps.journal.wandb_project import check_project, project_of
from research_steps.publish import state_text
from research_steps.publish.entry_writer import EntryWriter
from research_steps.publish.logbook import adoption
from research_steps.publish.logbook.merge import rebuild
from research_steps.publish.logbook.numbers import CheckoutNumbers
from research_steps.publish.state_here import state_here
from research_steps.publish.state_text import PLAIN
from research_steps.records.model import version_text
from research_steps.records.objects import IssueLink
from research_steps.records.series import check_topic
from research_steps.terminal import print_lines, say
from research_steps.thread.loading import load_series

_repository = click.option(
    "--repository", default="", help="owner/name. Default: GITHUB_REPOSITORY, else the remote 'origin'."
)


@click.command(cls=SeriesCommand, dry_run=True)
@click.option("--branch", default="", help="The research branch. Default: research/TOPIC; '.' is the one checked out.")
@click.option("--carry-changes", is_flag=True, help="Take uncommitted changes along to the branch.")
@click.option("--issue", type=click.IntRange(min=1), help="Take this issue of the repository.")
@click.option("--create-issue", is_flag=True, help="Make a public issue from the template, without asking.")
@_repository
def kickoff(
    series: OpenSeries, branch: str, carry_changes: bool, issue: int | None, create_issue: bool, repository: str
) -> None:
    """Start the series that experiments/TOPIC declares. It gets branch, logbook, issue, W&B project, and first entry.

    Without an issue, .agents/issues/TOPIC.md stands for it until 'research sync TOPIC --issue N'. May be repeated.
    """
    checkout, topic, journal = series.checkout, series.topic, series.journal
    declared = load_series(checkout, topic)
    asks = sys.stdin.isatty() and not series.json_output and not series.dry_run
    name = take_branch(
        checkout,
        topic,
        branch,
        lambda to: carry_changes or (asks and click.confirm(f"Take the changes along to {to}?")),
        series.dry_run,
    )
    check_project(journal, declared)
    if not series.dry_run:
        settle(checkout, declared)
    journal.declare(declared)
    open_question = issue is None and not create_issue and not declared.private
    if open_question and asks and journal.decided("issue", IssueLink) is None:
        create_issue = click.confirm("Make a public issue for it?")
    writer, project = EntryWriter(checkout, journal, declared), project_of(journal, declared)
    if series.dry_run:
        made = f"#{issue}" if issue else "a new public one" if create_issue else "none yet"
        return series.tell(notes.kickoff(writer, name, project), branch=name, issue=made)
    link = link_issue(checkout, journal, declared, issue, create_issue, repository)
    entry = notes.kickoff(writer, name, project).record
    if not series.json_output:
        local = "none, the series is private" if declared.private else f".agents/issues/{topic}.md"
        where = f"{topic}: the issue is {link.url if link else local}"
        print_lines(f"{topic}: on branch {name}, kickoff is {entry.id}", where)
    series.publish(branch=name, issue=link.url if link else None, entry=entry.id)


@click.command(cls=ResearchCommand, prefix=True, json=True, dry_run=True)
@click.argument("topic")
@click.option("--id-prefix", default="", help="Of a logbook: the series' experiment ID prefix, such as MOE-HC.")
@click.option("--from", "file", type=click.Path(path_type=Path), help="Rows of others: a table, JSON or JSON lines.")
def adopt(topic: str, id_prefix: str, file: Path | None, prefix: str | None, json_output: bool, dry_run: bool) -> None:
    """Take over a logbook, or what others measured.

    With --id-prefix entries follow at the end of a logbook that people wrote. No byte of .agents/logbooks/TOPIC.md
    changes. With --from the rows of results.tsv, autoresearch.jsonl, a CSV or an export of W&B are shown and searched;
    no claim ever rests on them. Given again, only new rows are added.
    """
    if bool(id_prefix) == (file is not None):
        raise UsageError("Expected either --id-prefix, to take over a logbook, or --from FILE, for rows of others.")
    if file is not None:
        return _adopt_rows(series_here(topic, prefix, json_output, dry_run)[0], file)
    checkout = Checkout.find()
    size = adoption.adopt(checkout, check_topic(topic), id_prefix, dry_run)
    used = sorted(CheckoutNumbers(checkout, topic, id_prefix).used())
    lines = [f"{topic}: {'would be ' if dry_run else ''}adopted, {size} bytes stay as they were"]
    if used:
        lines.append(f"{id_prefix} numbers up to {used[-1]} are used in its headings; new entries continue after them")
    data = {"topic": topic, "bytes_kept": size, "numbers_used": used, "dry_run": dry_run}
    print_result(json_output, data, lines)


def _adopt_rows(series: OpenSeries, file: Path) -> None:
    entry, unread = adopt_rows(series.writer, file)
    for problem in unread:
        say(f"{file}: not read: {problem}")
    if entry is not None:
        return series.tell(entry, unread=unread)
    data = {"topic": series.topic, "entry": None, "unread": unread}
    print_result(series.json_output, data, [f"{series.topic}: nothing new in {file}"])


@click.command(cls=SeriesCommand, dry_run=True)
@click.option("--issue", type=click.IntRange(min=1), help="Link this issue, and post everything on it, in order.")
@_repository
@click.option("--logbook", type=click.Path(path_type=Path), help="Its folder, or file, in another checkout.")
def sync(series: OpenSeries, issue: int | None, repository: str, logbook: Path | None) -> None:
    """Bring logbook, issue and W&B up to date with the journal. That goes from any checkout.

    After a merge with conflicts the logbook is rebuilt first, from the whole entries of both sides.
    """
    checkout, topic, journal = series.checkout, series.topic, series.journal
    if logbook is not None:
        point_to(checkout, journal.series(), logbook, series.dry_run)
    if series.dry_run:
        left = state_text.only_here(state_here(checkout, journal, journal.outline(series.records)), PLAIN)
        told = [*left, "A dry run: nothing was written."]
        return print_result(series.json_output, {"topic": topic, "dry_run": True, "only_here": left}, told)
    rebuilt = is_there(logbook_of(checkout, topic).path) and rebuild(checkout, topic)
    if rebuilt and not series.json_output:
        print_lines(f"{topic}: rebuilt from the whole entries of both sides of the merge")
    # A merge can be mended without the store that the entries came from.
    if not rebuilt or journal.declared() is not None:
        if issue is not None:
            link_issue(checkout, journal, journal.series(), issue, False, repository)
        series.publish(rebuilt=rebuilt)
    elif series.json_output:
        print_result(True, {"topic": topic, "rebuilt": rebuilt})


@click.command(cls=SeriesCommand, dry_run=True)
def report(series: OpenSeries) -> None:
    """Write a series with its plots as one page.

    It is made of what the store and this checkout hold, opens without a network, and can be made again, so git leaves
    it out. Where there is a docs/reports/index.md, a series that it doesn't name is put under Uncategorized there.
    """
    from research_steps.publish.report.files import report_path, write_report
    from research_steps.publish.report.index import list_report

    path = report_path(series.checkout, series.topic)
    if not series.dry_run:
        write_report(series.checkout, series.journal, series.series, series.snapshot)
    issue = series.journal.decided("issue", IssueLink)
    listed = list_report(series.checkout, series.series, issue, series.dry_run)
    lines = [str(path), *([f"{listed}: added under Uncategorized"] if listed else [])]
    lines += ["A dry run: nothing was written."] if series.dry_run else []
    data = {"report": str(path), "listed": str(listed) if listed else None, "dry_run": series.dry_run}
    print_result(series.json_output, data, lines)


@click.command(cls=SeriesCommand)
def origin(series: OpenSeries) -> None:
    """Print where this work tree comes from, as RESEARCH_ORIGIN. Engines that ship it without git take that.

    The patch of what differs from the commit is kept in the store.
    """
    from research_steps.remote.ray.jobs import keep_origin

    text = keep_origin(series.checkout, series.journal)
    print_result(series.json_output, {"topic": series.topic, "origin": json.loads(text)}, [text])


@click.command(cls=RecordCommand)
def trust(series: OpenSeries, id: str) -> None:
    """Allow code that a record names to run in this checkout. Read it first: 'research show ID --patch'.

    ID is that of a trial, or of an entry for all of its trials. What was run here needs no word.
    """
    from research_steps.trial.trust import Trust

    trials = [stored.record for stored in series.snapshot.measured(id)]
    if not trials:
        raise UsageError(f"{id} names no trial: expected one such as MOE-HC-007.03, or an entry that measured.")
    for trial in trials:
        Trust(series.checkout).add_trial(trial)
    allowed = {f"{trial.measure}, {version_text(*version)}" for trial in trials for version in trial.ran}
    data = {"topic": series.topic, "id": id, "allowed": sorted(allowed)}
    print_result(series.json_output, data, [f"allowed here: {text}" for text in sorted(allowed)])
