"""The command `research status`: what each series holds, what is running, and how far it is."""

import gc
from collections import Counter
from dataclasses import asdict
from typing import Any

import click

from research_steps.cli.common import as_json, in_store, journal_of, print_json, topics
from research_steps.cli.main import command
from research_steps.cli.watching import attempt_told, told, watch
from research_steps.errors import UnreadableObject, UsageError
from research_steps.git import Checkout
from research_steps.journal.progress import under_way
from research_steps.journal.snapshot import Outline
from research_steps.records.model import TrialRecord
from research_steps.records.objects import Intent, IssueLink

SCRATCH_SHOWN = 5


@command
@click.argument("topic", required=False)
@click.option("--watch", "follow", is_flag=True, help="Follow what runs, until nothing does or Ctrl-C.")
@in_store
@as_json
def status(topic: str | None, follow: bool, prefix: str | None, json_output: bool) -> None:
    """What each series holds, what is running, and what was left open.

    An attempt is orphaned when its process is gone or its lease ran out; running the thread again ends it as
    interrupted and goes on.
    """
    checkout = Checkout.find()
    if follow:
        if json_output:
            raise UsageError("--watch is for people to follow: for data ask again and again, with --json alone.")
        watch([journal_of(checkout, name, prefix) for name in topics(checkout, topic, prefix)])
        return
    # What is read is held until the end, so looking for garbage finds none, over and over.
    gc.disable()
    found = [_status(checkout, name, prefix) for name in topics(checkout, topic, prefix)]
    if json_output:
        print_json([{**series, **_as_data(series)} for series in found])
        return
    for series in found:
        click.echo(f"{series['topic']}  (store: {series['store']})")
        counts = [f"{series['entries']} entries, {series['trials']} trials"]
        counts += [f"{series[name]} {name}" for name in ("failed", "interrupted", "late") if series[name]]
        click.echo(f"  {', '.join(counts)}")
        click.echo(f"  issue: {series['issue']}")
        for progress in series["plans"]:
            click.echo(f"  {told(progress)}")
        for attempt in series["open"]:
            click.echo(f"  {attempt_told(attempt)}")
        for scratch in series["scratch"][-SCRATCH_SHOWN:]:
            click.echo(f"  scratch: {scratch['id']} {scratch['label']}, {_trials(scratch['trials'])}")
        if len(series["scratch"]) > SCRATCH_SHOWN:
            click.echo(f"  scratch: {len(series['scratch']) - SCRATCH_SHOWN} more, all in --json")
        for id in series["unpublished"]:
            click.echo(f"  not in the logbook yet: {id}; run 'research sync {series['topic']}'")
        if series["stuck"] is not None:
            click.echo(f"  no improvement in {series['stuck']} trials: forage again with 'research source'")
        for name in ("problem", "newer"):
            for text in series["problems" if name == "problem" else name]:
                click.echo(f"  {name}: {text}")
    if not found:
        click.echo("No series here: no logbook in .agents/logbooks/ and no journal in the store.")


def _status(checkout: Checkout, topic: str, prefix: str | None) -> dict[str, Any]:
    from research_steps.evidence.background import stuck
    from research_steps.publish.logbook import format as logbook_format

    journal = journal_of(checkout, topic, prefix)
    path = checkout.logbooks / f"{topic}.md"
    found = journal.outline(path.with_suffix(""))
    data = path.read_bytes() if path.is_file() else b""
    shown = logbook_format.parse(data).records
    standing = [stored for stored in found.entries.values() if not stored.record.late]
    standing.sort(key=lambda stored: (stored.record.finished_at, stored.record.id))
    counted = [stored.record.status for stored in found.trials.values() if not stored.record.late]
    ended = Counter([*counted, *found.ended.values()])
    everything: list[Any] = [*found.entries.values(), *found.trials.values(), *found.interrupted.values()]
    conflicts = logbook_format.conflicts(data)
    link = journal.decided("issue", IssueLink)
    series = None
    # A checkout without the store knows the entries, and not what the thread declared.
    try:
        series = journal.declared()
    except UnreadableObject as error:
        found.problems.append(str(error))
    private = series is not None and series.private
    return {
        "topic": topic,
        "store": journal.store.url,
        "issue": link.url if link else "none, the series is private" if private else f".agents/issues/{topic}.md",
        "stuck": stuck(series, [stored.record for stored in standing]) if series else None,
        "entries": len(standing),
        "trials": ended["ok"] + ended["failed"],
        "failed": ended["failed"],
        "interrupted": len(found.interrupted) + ended["interrupted"],
        "late": sum(stored.record.late for stored in everything),
        "plans": under_way(journal, found),
        "open": found.open,
        "scratch": _scratch(found),
        "unpublished": sorted(
            stored.record.id for stored in standing if stored.sha256 not in shown and not stored.record.private
        ),
        "newer": found.newer,
        "problems": found.problems
        + ([f"{path} has conflict markers; run 'research sync {topic}'"] if conflicts else []),
    }


def _as_data(series: dict[str, Any]) -> dict[str, Any]:
    """What of a series is printed as JSON in other words than it is kept in."""
    plans = [
        {**asdict(one), "queued": one.queued, "running": [_attempt(intent) for intent in one.running]}
        for one in series["plans"]
    ]
    attempts = [{**_attempt(one.intent), "orphaned": one.orphaned()} for one in series["open"]]
    return {"plans": plans, "open": attempts}


def _attempt(intent: Intent) -> dict[str, Any]:
    found = {"id": intent.id, "label": intent.label, "started_at": intent.started_at}
    return {**found, "host": intent.owner.host, "pid": intent.owner.pid}


def _scratch(found: Outline) -> list[dict[str, Any]]:
    """What dev mode measured and nobody has kept, oldest first."""
    kept = {stored.record.id for stored in found.entries.values()}
    left = [stored.record for stored in found.trials.values() if stored.record.mode == "dev"]
    groups: dict[str, list[TrialRecord]] = {}
    for record in sorted(left, key=lambda one: one.started_at):
        id = record.id.rpartition(".")[0]
        if id not in kept:
            groups.setdefault(id, []).append(record)
    return [{"id": id, "label": group[-1].label, "trials": len(group)} for id, group in groups.items()]


def _trials(count: int) -> str:
    return f"{count} trial{'s' if count != 1 else ''}"
