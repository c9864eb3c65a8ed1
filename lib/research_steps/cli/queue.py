"""The commands about the hypothesis queue: add, block, falsify, promote, list."""

import click

from research_steps.cli.common import as_json, in_store, print_json, tell, writer_of
from research_steps.cli.main import command
from research_steps.evidence.hypotheses import queue
from research_steps.records.step_kinds import HypothesisChange, HypothesisState


@click.group()
def hypothesis() -> None:
    """The hypothesis queue: what is active, blocked, falsified or promoted, and what that rests on."""


_evidence = click.option("--evidence", multiple=True, metavar="ID", help="A record that it rests on; may be repeated.")
_needs_evidence = click.option(
    "--evidence", multiple=True, required=True, metavar="ID", help="A record that it rests on; may be repeated."
)


@command
@click.argument("topic")
@click.argument("text")
@click.option("--next-test", default="", help="What to measure first.")
@_evidence
@in_store
@as_json
def add(topic: str, text: str, next_test: str, evidence: tuple[str, ...], prefix: str | None, json_output: bool) -> None:
    """Add a hypothesis under the next free number."""
    from research_steps.actions import notes

    writer = writer_of(topic, prefix)
    entry = notes.add_hypothesis(writer, text, next_test, evidence)
    tell(writer, entry, json_output, hypothesis=entry.record.details_as(HypothesisChange).hypothesis)


@command
@click.argument("topic")
@click.argument("name", metavar="HYPOTHESIS")
@click.option("--resume-when", required=True, help="What has to be there before it goes on.")
@_evidence
@in_store
@as_json
def block(
    topic: str, name: str, resume_when: str, evidence: tuple[str, ...], prefix: str | None, json_output: bool
) -> None:
    """A hypothesis can't be tested for now. HYPOTHESIS is its ID, such as H3, or its text."""
    _change(topic, name, "blocked", resume_when, evidence, prefix, json_output)


@command
@click.argument("topic")
@click.argument("name", metavar="HYPOTHESIS")
@click.option("--because", required=True, help="Why it is given up.")
@_needs_evidence
@in_store
@as_json
def falsify(
    topic: str, name: str, because: str, evidence: tuple[str, ...], prefix: str | None, json_output: bool
) -> None:
    """A hypothesis does not hold. HYPOTHESIS is its ID, such as H3, or its text."""
    _change(topic, name, "falsified", because, evidence, prefix, json_output)


@command
@click.argument("topic")
@click.argument("name", metavar="HYPOTHESIS")
@click.option("--decision", required=True, help="What production does now.")
@_needs_evidence
@in_store
@as_json
def promote(
    topic: str, name: str, decision: str, evidence: tuple[str, ...], prefix: str | None, json_output: bool
) -> None:
    """A hypothesis holds, and production follows it. HYPOTHESIS is its ID, such as H3, or its text."""
    _change(topic, name, "promoted", decision, evidence, prefix, json_output)


@command
@click.argument("topic")
@in_store
@as_json
def list_(topic: str, prefix: str | None, json_output: bool) -> None:
    """The queue by state, each with what its last change says and rests on."""
    from research_steps.journal.snapshot import entries_of
    from research_steps.publish import rendering
    from research_steps.publish.markdown import one_line

    writer = writer_of(topic, prefix)
    items = queue(writer.series, entries_of(writer.scan()))
    if not json_output:
        click.echo("\n".join(rendering.hypotheses(items, one_line, str)))
        return
    print_json(
        [
            {
                "id": item.id,
                "text": item.text,
                "state": item.state,
                "because": item.because,
                "evidence": item.evidence,
                "entry": item.changes[-1].id if item.changes else None,
                "changed_at": item.changes[-1].finished_at if item.changes else None,
            }
            for item in items
        ]
    )


for _command, _name in ((add, "add"), (block, "block"), (falsify, "falsify"), (promote, "promote"), (list_, "list")):
    hypothesis.add_command(_command, _name)


def _change(
    topic: str,
    name: str,
    state: HypothesisState,
    because: str,
    evidence: tuple[str, ...],
    prefix: str | None,
    json_output: bool,
) -> None:
    from research_steps.actions import notes

    writer = writer_of(topic, prefix)
    tell(writer, notes.change_hypothesis(writer, name, state, because, evidence), json_output)
