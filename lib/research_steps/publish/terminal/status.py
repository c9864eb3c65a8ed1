"""What a series holds, what is running, and how far it is, as data and as text."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from research_steps.errors import RepositoryError, UnreadableObject
from research_steps.evidence.background import stuck
from research_steps.evidence.state import unpublished
from research_steps.files import read
from research_steps.git import Checkout
from research_steps.journal.journal import Journal
from research_steps.journal.progress import StepProgress, under_way
from research_steps.journal.snapshot import OpenAttempt, Outline, entries_of
from research_steps.publish.logbook import format as logbook_format
from research_steps.publish.terminal.watch import attempt_line, step_line
from research_steps.records.model import TrialRecord
from research_steps.records.objects import Intent, IssueLink

SCRATCH_SHOWN = 5


def status_of(checkout: Checkout, journal: Journal) -> tuple[dict[str, Any], list[str]]:
    """The status of a series: what `--json` prints, and its lines."""
    topic = journal.topic
    path = checkout.logbooks / f"{topic}.md"
    outline, logbook = journal.outline(path.with_suffix("")), b""
    try:
        logbook = read(path) or b""
    except RepositoryError as error:
        outline.problems.append(str(error))
    shown = logbook_format.parse(logbook).records
    entries, steps = entries_of(outline), under_way(journal, outline)
    counted = [stored.record.status for stored in outline.trials.values() if not stored.record.late]
    ended = Counter([*counted, *outline.ended.values()])
    everything: list[Any] = [*outline.entries.values(), *outline.trials.values(), *outline.interrupted.values()]
    problems = outline.problems
    series = None
    # A checkout without the store knows the entries, and not what the thread declared.
    try:
        series = journal.declared()
    except UnreadableObject as error:
        problems.append(str(error))
    if logbook_format.conflicts(logbook):
        problems.append(f"{path} has conflict markers; run 'research sync {topic}'")
    link = journal.decided("issue", IssueLink)
    private = series is not None and series.private
    data = {
        "topic": topic,
        "store": journal.store.url,
        "issue": link.url if link else "none, the series is private" if private else f".agents/issues/{topic}.md",
        "stuck": stuck(series, entries) if series else None,
        "entries": len(entries),
        "trials": ended["ok"] + ended["failed"],
        "failed": ended["failed"],
        "interrupted": len(outline.interrupted) + ended["interrupted"],
        "late": sum(stored.record.late for stored in everything),
        "plans": [
            {**asdict(step), "queued": step.queued, "running": [_attempt(intent) for intent in step.running]}
            for step in steps
        ],
        "open": [{**_attempt(attempt.intent), "orphaned": attempt.orphaned()} for attempt in outline.open],
        "scratch": _scratch(outline),
        "unpublished": list(unpublished(series, outline.in_order, shown)) if series else [],
        "newer": outline.newer,
        "problems": problems,
    }
    return data, list(_lines(data, steps, outline.open))


def _lines(data: dict[str, Any], steps: Sequence[StepProgress], attempts: Sequence[OpenAttempt]) -> Iterator[str]:
    yield f"{data['topic']}  (store: {data['store']})"
    counts = [f"{data['entries']} entries, {data['trials']} trials"]
    counts += [f"{data[name]} {name}" for name in ("failed", "interrupted", "late") if data[name]]
    yield f"  {', '.join(counts)}"
    yield f"  issue: {data['issue']}"
    yield from (f"  {step_line(step)}" for step in steps)
    yield from (f"  {attempt_line(attempt, steps)}" for attempt in attempts)
    for scratch in data["scratch"][-SCRATCH_SHOWN:]:
        count = scratch["trials"]
        yield f"  scratch: {scratch['id']} {scratch['label']}, {count} trial{'s' if count != 1 else ''}"
    if len(data["scratch"]) > SCRATCH_SHOWN:
        yield f"  scratch: {len(data['scratch']) - SCRATCH_SHOWN} more, all in --json"
    yield from (f"  not in the logbook yet: {id}; run 'research sync {data['topic']}'" for id in data["unpublished"])
    if data["stuck"] is not None:
        yield f"  no improvement in {data['stuck']} trials: forage again with 'research source'"
    yield from (f"  problem: {problem}" for problem in data["problems"])
    yield from (f"  newer: {text}" for text in data["newer"])


def _attempt(intent: Intent) -> dict[str, Any]:
    owner = intent.owner
    about = {"id": intent.id, "label": intent.label, "started_at": intent.started_at}
    return {**about, "host": owner.host, "pid": owner.pid}


def _scratch(outline: Outline) -> list[dict[str, Any]]:
    """What dev mode measured and nobody has kept, oldest first."""
    # An entry of others may have the same number; a trial that a table shows is not among these.
    kept = {stored.record.id for stored in outline.entries.values() if stored.record.mode == "dev"}
    trials = [stored.record for stored in outline.trials.values() if stored.record.mode == "dev"]
    groups: dict[str, list[TrialRecord]] = {}
    for trial in sorted(trials, key=lambda trial: trial.started_at):
        id = trial.id.rpartition(".")[0]
        if id not in kept:
            groups.setdefault(id, []).append(trial)
    return [{"id": id, "label": group[-1].label, "trials": len(group)} for id, group in groups.items()]
