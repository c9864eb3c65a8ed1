"""Commands that measure: in dev mode, and through Marin's executor."""

import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click
import msgspec

from research_steps.cli.common import (
    INTERRUPTED,
    OpenSeries,
    RecordCommand,
    ResearchCommand,
    SearchCommand,
    print_result,
)
from research_steps.errors import UsageError
from research_steps.git import Checkout
from research_steps.journal.store import store_url
from research_steps.records.model import TrialRecord
from research_steps.records.names import named
from research_steps.records.series import check_topic
from research_steps.terminal import print_json, print_lines, say
from research_steps.thread.dev.messages import Attempted, DevRequest
from research_steps.thread.loading import load_thread
from research_steps.thread.options import RunOptions

if TYPE_CHECKING:
    from research_steps.thread.builders import StepBuilder

_processes = click.option(
    "-n", "count", type=click.IntRange(min=1), default=3, help="In how many processes. Default: 3."
)


@click.command(cls=ResearchCommand, prefix=True, json=True)
@click.argument("topic", required=False)
@click.argument("more", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change the baseline case, as draccus reads it."
)
@click.option("--baseline", default="", metavar="LABEL", help="Which baseline. Default: the first of the thread.")
@click.option(
    "--against", default="", metavar="REF", help="Run the baseline on this commit, or trial. Default: as it was fixed."
)
@click.option("-n", "processes", type=click.IntRange(min=1), default=1, help="In how many processes. Default: 1.")
@click.option("--label", default="", help="Make it an entry of this name at once; without, it is scratch.")
@click.option("--hypothesis", default="", help="Make it an entry that tests this, such as H2.")
@click.option(
    "--in-process", is_flag=True, help="In a process that stays, with the accelerator's backend that it has started."
)
@click.option("--watch", is_flag=True, help="Again whenever a file that it imports is saved, until Ctrl-C.")
@click.option("--host", default="", metavar="NAME", help="On another machine: of infra/dev_hosts.yaml, or of ssh.")
@click.option("--env", multiple=True, metavar="NAME", help="A variable that --host is given, with its value here.")
@click.option("--status", "show", is_flag=True, help="Tell what the kept parent of this checkout is.")
@click.option("--stop", is_flag=True, help="End the kept parent of this checkout.")
def dev(
    topic: str | None,
    more: tuple[str, ...],
    settings: tuple[str, ...],
    watch: bool,
    show: bool,
    stop: bool,
    prefix: str | None,
    json_output: bool,
    **asked: Any,
) -> None:
    """Measure one configuration of TOPIC now, against its baseline. Without the executor; recorded, and exploratory.

    The code is what is on disk now; the baseline keeps its own, so that without --set this asks whether an edit is
    better. The first call starts a parent process that keeps what is imported.
    """
    from research_steps.thread.dev.command import new_occasion, order
    from research_steps.thread.dev.progress_line import ProgressLine
    from research_steps.trial.provenance import command_line

    checkout = Checkout.find()
    if show or stop:
        _tell_of(checkout, stop, json_output)
        return
    if topic is None:
        raise UsageError("No topic was given: expected 'research dev TOPIC'; 'research status' tells which there are.")
    if asked["env"] and not asked["host"]:
        raise UsageError("--env was given without --host: here, what is measured sees the whole environment.")
    request = DevRequest(
        cwd=str(checkout.root),
        store=store_url(checkout.root, prefix),
        topic=check_topic(topic),
        command=tuple(command_line()),
        occasion=new_occasion(),
        settings=(*settings, *more),
        **asked,
    )
    if watch:
        if json_output:
            raise UsageError("--watch is for people to follow: for data leave it out, with --json alone.")
        _watch(checkout, request)
        return
    with ProgressLine(show=say if json_output else print_lines) as progress:
        answer = msgspec.json.decode(order(checkout, request, progress.hear), type=Attempted)
    if json_output:
        print_json(_answer_data(request.topic, answer))
    if answer.status != "ok":
        sys.exit(1)


def _watch(checkout: Checkout, request: DevRequest) -> None:
    from research_steps.thread.dev.watch import watch

    if request.label or request.hypothesis:
        raise UsageError(
            "--watch was given with --label or --hypothesis: its attempts are scratch until you keep them as one entry. "
            "Leave these out; 'research keep' takes them when the session has ended."
        )
    if not watch(checkout, request):
        sys.exit(INTERRUPTED)


def _answer_data(topic: str, answer: Attempted) -> dict[str, Any]:
    claim = answer.claim
    return {
        "topic": topic,
        "id": answer.id,
        "trials": answer.ids,
        "what": answer.what,
        "status": answer.status,
        "verdict": answer.verdict,
        "ratio": answer.estimate,
        "interval": [claim.low, claim.high] if claim and answer.estimate is not None else None,
        "text": answer.told,
        "claim": msgspec.to_builtins(claim),
    }


def _tell_of(checkout: Checkout, stop: bool, json_output: bool) -> None:
    from research_steps.trial.launcher.daemon import Daemon

    daemon = Daemon(checkout.root)
    state = daemon.state()
    if state is None:
        lines = [f"No kept parent runs for {daemon.root}."]
        return print_result(json_output, {"root": str(daemon.root), "parent": None, "stopped": False}, lines)
    who = f"process {state.pid} since {state.since}, {state.python}"
    lines = [f"The kept parent of {state.root}: {who}; log: {daemon.folder / 'log'}"]
    if stop:
        daemon.stop()
        lines.append("It was stopped.")
    parent = {"pid": state.pid, "since": state.since, "python": state.python, "log": str(daemon.folder / "log")}
    return print_result(json_output, {"root": str(state.root), "parent": parent, "stopped": stop}, lines)


@click.command(cls=SearchCommand, dry_run=True)
@click.argument("id")
@click.option("--hypothesis", required=True, help="What it tests, such as H2.")
@click.option("--interpretation", default="", help="What it means. Default: what follows by rule.")
@click.option("--next", "next_action", default="", help="What to do next. Default: what follows by rule.")
@click.option("--label", default="", help="What the entry is called. Default: what the last attempt changed.")
def keep(everywhere: list[OpenSeries], id: str, hypothesis: str, **texts: str) -> None:
    """Make an entry of what dev mode found under ID. That is one such as MOE-HC-031; or of one attempt there,
    MOE-HC-031.02, beside the others that were tried."""
    from research_steps.evidence import hypotheses
    from research_steps.journal.snapshot import entries_of
    from research_steps.thread.dev.evidence import DevEvidence
    from research_steps.thread.dev.keep import KeptAttempt
    from research_steps.thread.dev.keep import keep as make_entry

    experiment, _, trial = named(id)[0].partition(".")
    series, occasion = _reserved(everywhere, experiment)
    snapshot = series.journal.published(series.records)
    attempt = KeptAttempt(
        series.checkout,
        DevEvidence(series.series, series.journal, snapshot.counting, snapshot.retracted),
        experiment,
        occasion,
        chosen=named(id)[0] if trial else "",
        hypothesis=hypotheses.spelled_out(hypotheses.queue(series.series, entries_of(snapshot)), hypothesis),
        **texts,
    )
    series.tell(make_entry(attempt))


@click.command(cls=SearchCommand, dry_run=True)
@click.argument("id")
@_processes
def confirm(everywhere: list[OpenSeries], id: str, count: int) -> None:
    """Measure what dev mode found through Marin's executor. ID is that of its trial, such as MOE-HC-031.02, whose
    baseline is measured with it.

    Both run the code that the trial ran, whatever the work tree holds by now.
    """
    from research_steps.actions.revisions import next_numbers
    from research_steps.journal.snapshot import find
    from research_steps.thread.dev.cases import declared
    from research_steps.thread.dev.evidence import DevEvidence
    from research_steps.thread.dev.keep import changes_of

    series, _ = _reserved(everywhere, named(id)[0].partition(".")[0])
    trial = find(series.snapshot, id).record
    if not isinstance(trial, TrialRecord) or trial.mode != "dev" or trial.status != "ok":
        raise UsageError(f"{id} is no trial of dev mode that succeeded: expected one such as MOE-HC-031.02.")
    snapshot = series.snapshot
    evidence = DevEvidence(series.series, series.journal, snapshot.counting, snapshot.retracted)
    changes, case, numbers = changes_of(trial), evidence.case(trial), next_numbers(snapshot, count)

    def confirming(builder: "StepBuilder") -> None:
        from research_steps.thread import command_steps

        _refuse_other_conditions(trial, "Confirm")
        again = command_steps.Again(series.checkout, series.journal, trial, changes, case, numbers)
        if again.is_on_disk:
            thread = load_thread(series.checkout, series.topic)[1]
            compared_with = f"with the case that {id} was compared with"
            is_wanted, prefix = (lambda case: case.case == trial.baseline_config), series.journal.store.url
            baseline = declared(thread, is_wanted, compared_with, prefix)
            base = builder.baseline(baseline.measure, baseline.config, label=baseline.label)
            command_steps.confirm(builder, again, base)
            return
        fixed = evidence.fixed(trial.baseline_config)
        if fixed is None:
            raise UsageError(
                f"The baseline that {id} was compared with is in no entry yet: run 'python -m experiments."
                f"{series.topic}' on the code that it has, so that claims can rest on it."
            )
        command_steps.confirm_version(builder, again, fixed.entry.ref)

    _run(series, confirming)


def _run(series: OpenSeries, thread: "Callable[[StepBuilder], object]") -> None:
    """Run the one step that this builds; for programs print the entry that it made. In a dry run tell what it does."""
    if series.dry_run:
        return _tell_of_dry_run(series, thread)
    from research_steps.thread.run import run

    before = series.snapshot.entries
    run(series.series, thread, RunOptions(prefix=series.prefix))
    if series.json_output:
        after = series.journal.scan(series.records).entries.values()
        made = [stored for stored in after if stored.sha256 not in before and stored.record.step == "replicate"]
        entries = [{"sha256": stored.sha256, **json.loads(stored.line)} for stored in made]
        print_json({"topic": series.topic, "entries": entries})


def _tell_of_dry_run(series: OpenSeries, thread: "Callable[[StepBuilder], object]") -> None:
    from research_steps.evidence.claim_text import changes_text
    from research_steps.thread.builders import StepBuilder
    from research_steps.thread.configs import research_config

    builder = StepBuilder(series.series)
    thread(builder)
    step = research_config(builder.built[-1])
    assert step is not None and step.candidate is not None, "it is a replication"
    where = f"at {step.what.over[0]}" if step.what.over else "in the processes"
    numbers = ", ".join(map(str, step.replicates))
    what = f"{changes_text(step.candidate)} would be measured {where} {numbers}, beside its baseline"
    data = {"topic": series.topic, "dry_run": True, "label": step.label, "changes": step.candidate}
    lines = [f"{step.label}: {what}", "A dry run: nothing was measured or written."]
    print_result(series.json_output, {**data, "replicates": list(step.replicates)}, lines)


def _reserved(everywhere: list[OpenSeries], id: str) -> tuple[OpenSeries, str]:
    """The series in which dev mode holds an experiment ID, and the step key of that. Raises UsageError."""
    for series in everywhere:
        for reserved in reversed(series.journal.ids.reserved()):
            if reserved.id == id and reserved.step_key.startswith("dev/"):
                return series, reserved.step_key
    raise UsageError(f"{id} is no experiment ID of dev mode here: 'research status' tells what is scratch.")


@click.command(cls=RecordCommand, dry_run=True)
@_processes
def replicate(series: OpenSeries, id: str, count: int) -> None:
    """Measure a candidate again, in processes of their own. This is the way from exploratory to replicated.

    ID is that of its row, or of the entry, whose best candidate is taken. Runs through Marin's executor, on the code
    that was measured.
    """
    from research_steps.actions.revisions import claim_of, next_numbers

    claim, entry, trial = claim_of(series.snapshot, id, series.series.primary)
    numbers = next_numbers(series.snapshot, count)

    def thread(builder: "StepBuilder") -> None:
        from research_steps.thread.command_steps import Again, replicate_again

        # Only now, because conditions are those that Marin leaves behind when it is imported.
        _refuse_other_conditions(trial, "Replicate")
        again = Again(series.checkout, series.journal, trial, claim.changes, claim.case, numbers)
        replicate_again(builder, again, claim, entry)

    _run(series, thread)


def _refuse_other_conditions(trial: TrialRecord, do: str) -> None:
    """Raises UsageError when a trial was measured under other conditions than those here."""
    from research_steps.records.conditions import conditions
    from research_steps.records.configurations import differences
    from research_steps.trial.provenance import facts_here

    apart = differences(conditions(trial), facts_here(trial.provenance.env).conditions)
    if apart:
        changes = "; ".join(f"{name} was {was} and is {now}" for name, (was, now) in apart.items())
        raise UsageError(f"{trial.id} was measured under other conditions: {changes}. {do} it under the same ones.")
