"""Commands that say something about a series: hypotheses, sources, notes, files, decisions, and what was wrong."""

from pathlib import Path
from typing import Any

import click

from research_steps.actions import notes, revisions, sources
from research_steps.cli.common import OpenSeries, RecordCommand, SeriesCommand, print_result
from research_steps.evidence import background, hypotheses
from research_steps.journal.snapshot import entries_of
from research_steps.publish import background_text, rendering
from research_steps.publish.markdown import one_line
from research_steps.records.step_kinds import HypothesisChange, Source
from research_steps.terminal import print_text

_evidence, _needs_evidence = (
    click.option(
        "--evidence", multiple=True, required=required, metavar="ID", help="A record that it rests on; may be repeated."
    )
    for required in (False, True)
)
_TYPES = ("paper", "code", "issue", "run", "doc", "person")
_hypothesis = click.argument("name", metavar="HYPOTHESIS")


@click.group()
def hypothesis() -> None:
    """Hypotheses: active, blocked, supported, falsified or promoted. Each names what that rests on."""


@hypothesis.command("add", cls=SeriesCommand, dry_run=True)
@click.argument("text")
@click.option("--next-test", default="", help="What to measure first.")
@_evidence
def add_hypothesis(series: OpenSeries, **options: Any) -> None:
    """Add a hypothesis under the next free number."""
    entry = notes.add_hypothesis(series.writer, **options)
    series.tell(entry, hypothesis=entry.record.details_as(HypothesisChange).hypothesis)


@hypothesis.command("next", cls=SeriesCommand, dry_run=True)
@_hypothesis
@click.argument("because", metavar="TEST")
@_evidence
def next_hypothesis(series: OpenSeries, **options: Any) -> None:
    """Name the next test of an active hypothesis. HYPOTHESIS is its ID, such as H3, or its text."""
    series.tell(notes.next_test(series.writer, "active", **options))


@hypothesis.command("resume", cls=SeriesCommand, dry_run=True)
@_hypothesis
@click.argument("because", metavar="TEST")
@_evidence
def resume_hypothesis(series: OpenSeries, **options: Any) -> None:
    """A blocked hypothesis is active again, with its next TEST. HYPOTHESIS is its ID, such as H3, or its text."""
    series.tell(notes.next_test(series.writer, "blocked", **options))


@hypothesis.command("block", cls=SeriesCommand, dry_run=True)
@_hypothesis
@click.option("--resume-when", "because", required=True, help="What has to be there before it goes on.")
@_evidence
def block_hypothesis(series: OpenSeries, **options: Any) -> None:
    """A hypothesis can't be tested for now. HYPOTHESIS is its ID, such as H3, or its text."""
    series.tell(notes.change_hypothesis(series.writer, state="blocked", **options))


@hypothesis.command("support", cls=SeriesCommand, dry_run=True)
@_hypothesis
@click.option("--because", required=True, help="What speaks for it.")
@_needs_evidence
def support_hypothesis(series: OpenSeries, **options: Any) -> None:
    """A hypothesis holds as far as it was tested. HYPOTHESIS is its ID, such as H3, or its text."""
    series.tell(notes.change_hypothesis(series.writer, state="supported", **options))


@hypothesis.command("falsify", cls=SeriesCommand, dry_run=True)
@_hypothesis
@click.option("--because", required=True, help="Why it is given up.")
@_needs_evidence
def falsify_hypothesis(series: OpenSeries, **options: Any) -> None:
    """A hypothesis does not hold. HYPOTHESIS is its ID, such as H3, or its text."""
    series.tell(notes.change_hypothesis(series.writer, state="falsified", **options))


@hypothesis.command("promote", cls=SeriesCommand, dry_run=True)
@_hypothesis
@click.option("--decision", "because", required=True, help="What production does now.")
@_needs_evidence
def promote_hypothesis(series: OpenSeries, **options: Any) -> None:
    """A hypothesis holds, and production follows it. HYPOTHESIS is its ID, such as H3, or its text."""
    series.tell(notes.change_hypothesis(series.writer, state="promoted", **options))


@hypothesis.command("list", cls=SeriesCommand)
def list_hypotheses(series: OpenSeries) -> None:
    """The queue by state, each with its last change and its evidence."""
    known = series.snapshot
    items = hypotheses.queue(series.series, entries_of(known), [stored.record for stored in known.counting])
    data = [
        {
            **{name: getattr(item, name) for name in ("id", "text", "state", "because", "evidence")},
            "entry": item.changes[-1].id if item.changes else None,
            "changed_at": item.changes[-1].finished_at if item.changes else None,
        }
        for item in items
    ]
    print_result(series.json_output, data, rendering.hypotheses(items, one_line, str))


@click.group()
def source() -> None:
    """Background research: what others found, what to try next. What speaks against it is recorded, too."""


@source.command("add", cls=SeriesCommand, dry_run=True)
@click.option("--type", type=click.Choice(_TYPES), required=True, help="What kind of source it is.")
@click.option("--where", required=True, help="Its address, path, name, or the ID of a record of this series.")
@click.option("--version", required=True, help="Which version of it, or of which date.")
@click.option("--claim", required=True, help="What it says, in a sentence.")
@click.option("--confidence", type=click.Choice(("low", "medium", "high")), required=True, help="How sure that is.")
@click.option("--notes", default="", help="What else matters, such as its setup.")
@click.option("--internal", is_flag=True, help="It is our own work.")
@click.option("--supports", multiple=True, help="A hypothesis (H1), a source's ID, or a claim; may be repeated.")
@click.option("--contradicts", multiple=True, help="A hypothesis (H1), a source's ID, or a claim; may be repeated.")
def add_source(series: OpenSeries, **options: Any) -> None:
    """Add a source to the ledger."""
    series.tell(sources.add_source(series.writer, Source(**options)))


@source.command("checked", cls=SeriesCommand, dry_run=True)
@click.option("--claim", "id", required=True, metavar="ID", help="The source whose claim was looked at.")
@click.option("--found", "contradiction", default="", help="What contradicts it, and where that stands.")
@click.option("--none", "nowhere", default="", help="Nothing contradicts it: where you looked.")
def check_source(series: OpenSeries, **looked: str) -> None:
    """Record a contradiction pass. Somebody looked for what speaks against a source's claim."""
    series.tell(sources.check_claim(series.writer, **looked))


@source.command("list", cls=SeriesCommand)
def list_sources(series: OpenSeries) -> None:
    """The ledger: each source, its claim, and whether it was checked. That is whether it had a contradiction pass."""
    ledger = background.ledger(entries_of(series.snapshot))
    unchecked = ledger.unchecked()
    data = [{"id": entry.id, **entry.config, "checked": entry not in unchecked} for entry in ledger.sources]
    lines = [
        f"{background_text.source(entry, one_line, str)}{'. No contradiction pass yet' if entry in unchecked else ''}"
        for entry in ledger.sources
    ]
    print_result(series.json_output, data, lines or ["- none"])


@source.command("brief", cls=SeriesCommand, dry_run=True)
@click.option("--question", default="", help="What has to be known. Default: as in the brief before.")
@click.option(
    "--next", "ranked", multiple=True, metavar="'EXPERIMENT :: FALSIFIER'",
    help="What to run next, and what result would speak against it; once for each, in order of rank.",
)  # fmt: skip
def brief(series: OpenSeries, question: str, ranked: tuple[str, ...]) -> None:
    """Write the background brief from the records, and print it. It is .agents/logbooks/TOPIC/background.md."""
    entry, text = sources.brief(series.writer, question, ranked)
    if not series.json_output:
        print_text(text)
    series.tell(entry, text=text)


@click.command(cls=RecordCommand, dry_run=True)
@click.option("--interpretation", default="", help="What you make of it.")
@click.option("--next", "next_action", default="", help="What you would do next.")
def note(series: OpenSeries, **options: str) -> None:
    """Add to what the rules say of the record with this ID. It is an entry of its own, shown with the record."""
    series.tell(notes.note(series.writer, **options))


@click.command(cls=RecordCommand, dry_run=True)
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--link", default="", metavar="URL", help="Instead of a FILE: where a larger one lies.")
@click.option("--note", default="", help="What it shows.")
def attach(series: OpenSeries, **options: Any) -> None:
    """Attach a profile or a plot of at most 5 MB to a record. It is kept in the store and, with its entry, in git."""
    series.tell(notes.attach(series.writer, **options))


@click.command(cls=SeriesCommand, dry_run=True)
@click.argument("text")
@click.option("--file", type=click.Path(path_type=Path), help="What shows it, of at most 5 MB; kept as by 'attach'.")
@click.option("--label", default="", help="What the entry is called. Default: the beginning of TEXT.")
def log(series: OpenSeries, **options: Any) -> None:
    """Write a free entry. TEXT says what happened: a job was preempted, a pull request is open.

    The same given twice in a row is one entry, so that a command that was killed may be given again.
    """
    series.tell(notes.log(series.writer, **options))


@click.command(cls=SeriesCommand, dry_run=True)
@click.argument("text", metavar="DECISION")
@_evidence
@click.option("--owner", default="", help="Who answers for it. Default: who runs this.")
@click.option("--scope", is_flag=True, help="It changes the scope of the series.")
@click.option("--production-pr", default="", metavar="URL", help="The pull request that brings it to production.")
def decide(series: OpenSeries, **options: Any) -> None:
    """Record a decision, with its evidence and owner. It is an entry, a comment and a line of the decision log."""
    series.tell(notes.decide(series.writer, **options))


@click.command(cls=RecordCommand, dry_run=True)
@click.argument("text")
def correct(series: OpenSeries, id: str, text: str) -> None:
    """Say in TEXT what was wrong in a record. Its measurements stand, and verdicts on them are made again."""
    series.tell(revisions.correct(series.writer, id, text))


@click.command(cls=RecordCommand, dry_run=True)
@click.argument("because")
def retract(series: OpenSeries, id: str, because: str) -> None:
    """Take a record back, BECAUSE of something. What rested on it says so, and its verdicts are made again without it.

    Of an entry, the trials that were measured for it go as well. The next run of the thread measures them anew.
    """
    series.tell(revisions.retract(series.writer, id, because))


@click.command(cls=RecordCommand, dry_run=True)
def rebase(series: OpenSeries, id: str) -> None:
    """Move the baseline to what a record found. Refused unless that improvement is replicated."""
    series.tell(revisions.rebase(series.writer, id))
