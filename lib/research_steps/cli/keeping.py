"""Commands about what dev mode found: make it an entry, measure it through the executor."""

from typing import TYPE_CHECKING

import click

from research_steps.cli.common import as_json, in_store, journal_of, tell, topics
from research_steps.cli.main import command
from research_steps.errors import UsageError
from research_steps.git import Checkout
from research_steps.journal.journal import Journal
from research_steps.thread.loading import load_thread, series_of

if TYPE_CHECKING:
    from research_steps.thread.builders import StepBuilder


@command
@click.argument("id")
@click.option("--hypothesis", required=True, help="What it tests, such as H2.")
@click.option("--interpretation", default="", help="What it means. Default: what follows by rule.")
@click.option("--next", "next_action", default="", help="What to do next. Default: what follows by rule.")
@click.option("--label", default="", help="What the entry is called. Default: what the last attempt changed.")
@click.option("--topic", help="The series. Default: every series of this checkout is searched.")
@in_store
@as_json
def keep(
    id: str,
    hypothesis: str,
    interpretation: str,
    next_action: str,
    label: str,
    topic: str | None,
    prefix: str | None,
    json_output: bool,
) -> None:
    """Make an entry of what dev mode found under ID, such as MOE-HC-031; or of one attempt there, MOE-HC-031.02, beside
    the others that were tried."""
    from research_steps.evidence import hypotheses
    from research_steps.journal.snapshot import entries_of
    from research_steps.publish.entry_writer import EntryWriter
    from research_steps.thread.dev import keep as keeping
    from research_steps.thread.dev.evidence import DevEvidence

    checkout = Checkout.find()
    experiment, _, trial = id.partition(".")
    journal, occasion = _held(checkout, experiment, topic, prefix)
    series = series_of(checkout, journal)
    known = journal.published(checkout.logbooks / journal.topic)
    kept = keeping.KeptAttempt(
        checkout,
        DevEvidence.of(series, journal, known),
        experiment,
        occasion,
        chosen=id if trial else "",
        label=label,
        hypothesis=hypotheses.spelled_out(hypotheses.queue(series, entries_of(known)), hypothesis),
        interpretation=interpretation,
        next_action=next_action,
    )
    tell(EntryWriter(checkout, journal, series), keeping.keep(kept), json_output)


@command
@click.argument("id")
@click.option("-n", "count", type=click.IntRange(min=1), default=2, help="In how many processes. Default: 2.")
@click.option("--topic", help="The series. Default: every series of this checkout is searched.")
@in_store
def confirm(id: str, count: int, topic: str | None, prefix: str | None) -> None:
    """Measure what dev mode found in trial ID, such as MOE-HC-031.02, through Marin's executor, with its baseline."""
    from research_steps.actions.revisions import next_numbers
    from research_steps.cli.evidence import refuse_other_conditions
    from research_steps.journal.snapshot import find
    from research_steps.records.model import TrialRecord
    from research_steps.thread.dev.cases import DevCase, declared
    from research_steps.thread.options import RunOptions
    from research_steps.thread.run import run

    checkout = Checkout.find()
    journal, _ = _held(checkout, id.partition(".")[0], topic, prefix)
    series, thread = load_thread(checkout, journal.topic)
    known = journal.scan(checkout.logbooks / journal.topic)
    trial = find(known, id).record
    if not isinstance(trial, TrialRecord) or trial.mode != "dev" or trial.status != "ok":
        raise UsageError(f"{id} is no trial of dev mode that succeeded: expected one such as {id.partition('.')[0]}.01.")

    def wanted(found: DevCase) -> bool:
        return found.case == trial.baseline_config

    case = declared(thread, wanted, f"with the case that {id} was compared with")
    numbers = next_numbers(known, count)

    def confirming(builder: "StepBuilder") -> None:
        from research_steps.thread import command_steps

        refuse_other_conditions(trial, "Confirm")
        base = builder.baseline(case.measure, case.config, label=case.label)
        command_steps.confirm(builder, base, trial, numbers)

    run(series, confirming, RunOptions(prefix=prefix))


def _held(checkout: Checkout, id: str, topic: str | None, prefix: str | None) -> tuple[Journal, str]:
    """The journal in which dev mode holds an experiment ID, and the step key of that. Raises UsageError."""
    for name in topics(checkout, topic, prefix):
        journal = journal_of(checkout, name, prefix)
        held = [
            claim.step_key for claim in journal.ids.reserved() if claim.id == id and claim.step_key.startswith("dev/")
        ]
        if held:
            return journal, held[-1]
    raise UsageError(f"{id} is no experiment ID of dev mode here: 'research status' tells what is scratch.")
