"""What a series holds, what is running, and how far it is, as data and as text."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import msgspec

from research_steps.errors import ResearchError
from research_steps.evidence.hypotheses import SAYS
from research_steps.evidence.state import ThreadState
from research_steps.files import read
from research_steps.git import Checkout
from research_steps.journal.journal import Journal
from research_steps.journal.logbook_place import logbook_of
from research_steps.journal.progress import under_way
from research_steps.journal.snapshot import Outline, entries_of
from research_steps.publish import state_text
from research_steps.publish.logbook import format as logbook_format
from research_steps.publish.state_here import state_here
from research_steps.publish.state_text import PLAIN
from research_steps.publish.terminal.forest import forest
from research_steps.publish.terminal.layout import ROOM, labelled, shortened, wrapped
from research_steps.publish.terminal.watch import attempt_line, step_line
from research_steps.records.model import TrialRecord
from research_steps.records.objects import Intent, IssueLink

SCRATCH_SHOWN = 3
# Of a section of the screen, and of the baselines that something is best against.
SHOWN, ANSWERS = 3, 3
# Sections whose lines are cut where they are too long for the screen: all of it is in the brief.
CUT = ("Not settled", "Baselines", "Hypotheses", "Dead ends")


def status_of(checkout: Checkout, journal: Journal, whole: bool, detailed: bool) -> tuple[dict[str, Any], list[str]]:
    """The status of a series: what `--json` prints, `detailed` with the state in sentences, and its lines: its `whole`
    first screen, or a few."""
    topic = journal.topic
    place = logbook_of(checkout, topic)
    outline, logbook, state = journal.outline(place.records), b"", None
    try:
        logbook = read(place.path) or b""
        state = state_here(checkout, journal, outline)
    except ResearchError as error:
        outline.problems.append(str(error))
    entries = entries_of(outline)
    # Where nothing tells what the series is, its steps measure all the same.
    steps = state.running if state else under_way(journal, outline)
    counted = [stored.record.status for stored in outline.trials.values() if not stored.record.late]
    ended = Counter([*counted, *outline.ended.values()])
    everything: list[Any] = [*outline.entries.values(), *outline.trials.values(), *outline.interrupted.values()]
    problems = outline.problems
    if logbook_format.conflicts(logbook):
        problems.append(f"{place.path} has conflict markers; run 'research sync {topic}'")
    link = journal.decided("issue", IssueLink)
    private = state is not None and state.series.private
    data = {
        "topic": topic,
        "store": journal.store.url,
        "issue": link.url if link else "none, the series is private" if private else f".agents/issues/{topic}.md",
        "state": state_text.as_data(state) if state and detailed else None,
        "stuck": state.stuck if state else None,
        "entries": len(entries),
        "trials": ended["ok"] + ended["failed"],
        "failed": ended["failed"],
        "interrupted": len(outline.interrupted) + ended["interrupted"],
        "late": sum(stored.record.late for stored in everything),
        "plans": [
            {
                **asdict(step),
                "queued": step.queued,
                "running": [_attempt(intent) for intent in step.running],
                "told": [msgspec.to_builtins(told) for told in step.told],
            }
            for step in steps
        ],
        "open": [{**_attempt(attempt.intent), "orphaned": attempt.orphaned()} for attempt in outline.open],
        "scratch": _scratch(outline),
        "unpublished": list(state.unpublished) if state else [],
        "newer": outline.newer,
        "problems": problems,
    }
    beside = [*(step_line(step) for step in steps), *(attempt_line(attempt, steps) for attempt in outline.open)]
    beside += _beside(data)
    if whole and state is not None:
        return data, [*screen(state, _counts(data)), *(f"  {line}" for line in beside)]
    answers = [answer.best for answer in state_text.answers(state, PLAIN)[:1]] if state else []
    return data, [f"{topic}  {_counts(data)}", *(f"  {line}" for line in (*answers, *beside))]


def screen(state: ThreadState, counts: str) -> list[str]:
    """What is known of a thread, on one screen of 80 columns."""
    answers = state_text.answers(state, PLAIN)
    hypotheses = [
        f"{item.id} {item.state}: {item.text}"
        + (f"; {SAYS[item.state]}: {item.because}" if item.because else "")
        + (f"; rests on {', '.join(item.evidence)}" if item.evidence else "")
        for item in state.hypotheses
    ]
    lines = [f"{state.series.topic}  {counts}", *labelled("Question", wrapped(state.series.goal, ROOM))]
    lines += labelled("Stop at", wrapped(state_text.stop(state, PLAIN), ROOM))
    for answer in answers[:ANSWERS]:
        lines += ["", *wrapped(answer.best), *(f"! {line}" for text in answer.against for line in wrapped(text))]
        lines += [f"  {shortened(text)}" for text in answer.more]
    plot = forest(state)
    lines += ["", *plot, ""] if plot else [""]
    sections = {
        "Not settled": state_text.unsettled(state, PLAIN),
        "Baselines": state_text.baselines(state, PLAIN),
        "Hypotheses": hypotheses,
        "Dead ends": state_text.dead_ends(state, PLAIN, SHOWN),
        "Not counted": list(state.unfounded),
        "Sealed": [state_text.sealed(state, PLAIN)] if state.sealed else [],
        "Only here": state_text.only_here(state, PLAIN),
        "Next": list(state.next_commands),
    }
    return [*lines, *_sections(sections, {"Dead ends": len(state.dead_ends)})]


def _sections(sections: Mapping[str, Sequence[str]], counts: Mapping[str, int]) -> list[str]:
    """Lines beside their headings, of which at most so many are shown; `counts` of what is not all given."""
    lines = []
    for heading, texts in sections.items():
        more = counts.get(heading, len(texts)) - SHOWN
        # The rest is to be acted on, and stays whole.
        cut = heading in CUT
        shown = [line for text in texts[:SHOWN] for line in ([shortened(text, ROOM)] if cut else wrapped(text, ROOM))]
        lines += labelled(heading, [*shown, *([f"… and {more} more: --json"] if more > 0 else [])])
    return lines


def _counts(data: dict[str, Any]) -> str:
    counts = [f"{data['entries']} entries, {data['trials']} trials"]
    counts += [f"{data[name]} {name}" for name in ("failed", "interrupted", "late") if data[name]]
    return f"{', '.join(counts)}; store {data['store']}"


def _beside(data: dict[str, Any]) -> list[str]:
    """What is on this machine and in this store beside what is known of the thread."""
    scratch, stuck = data["scratch"], data["stuck"]
    lines = [
        f"scratch: {found['id']} {found['label']}, {found['trials']} trial{'s' if found['trials'] != 1 else ''}"
        for found in scratch[-SCRATCH_SHOWN:]
    ]
    lines += [f"scratch: {len(scratch) - SCRATCH_SHOWN} more, all in --json"] if len(scratch) > SCRATCH_SHOWN else []
    lines += [] if stuck is None else [f"no improvement in {stuck} trials: forage again with 'research source'"]
    return [*lines, *(f"problem: {text}" for text in data["problems"]), *(f"newer: {text}" for text in data["newer"])]


def _attempt(intent: Intent) -> dict[str, Any]:
    owner = intent.owner
    about = {"id": intent.id, "label": intent.label, "started_at": intent.started_at}
    return {**about, "host": owner.host, "pid": owner.pid}


def _scratch(outline: Outline) -> list[dict[str, Any]]:
    """What dev mode measured and nobody has kept, oldest first."""
    # An entry of others may have the same number; a trial that a table shows is not among these.
    kept = {stored.record.id for stored in outline.entries.values() if stored.record.mode == "dev"}
    untold = [stored for sha, stored in outline.trials.items() if sha not in outline.in_tables]
    trials = [stored.record for stored in untold if stored.record.mode == "dev"]
    groups: dict[str, list[TrialRecord]] = {}
    for trial in sorted(trials, key=lambda trial: trial.started_at):
        id = trial.id.rpartition(".")[0]
        if id not in kept:
            groups.setdefault(id, []).append(trial)
    return [{"id": id, "label": group[-1].label, "trials": len(group)} for id, group in groups.items()]
