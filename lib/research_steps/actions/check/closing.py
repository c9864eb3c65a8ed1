"""Before the issue is closed: is what it ends with there, said and current?

Asked before the final summary is written, this names what `research finish` will ask for.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from research_steps.actions.check.reading import CheckLine, Facts, is_posted, line
from research_steps.evidence.state import production_pr, thread_state
from research_steps.publish import rendering
from research_steps.publish.logbook import format as logbook_format
from research_steps.records.model import EntryRecord
from research_steps.records.objects import Closed
from research_steps.records.step_kinds import Finish

GROUP = "closing"


def _current(known: Facts) -> CheckLine:
    shown = known.found.only(lambda entry: entry.sha256 in known.shown)
    part = logbook_format.living_part(known.logbook)
    wanted = rendering.summary(thread_state(known.series, shown), known.issue).encode()
    current = part is not None and known.logbook[slice(*part)] == wanted
    wrong = [] if current else ["the head of the logbook is not what its records say"]
    return line(GROUP, "TL;DR current", known.entries, wrong, f"research sync {known.topic}")


def _measured(known: Facts) -> CheckLine:
    measured = [stored.record.id for stored in known.of_step("baseline") if stored.record.status == "ok"]
    return CheckLine(GROUP, "baseline measured", bool(measured), measured[-1] if measured else "none", "run the thread")


def _ended(known: Facts) -> CheckLine:
    running = [attempt.intent.id for attempt in known.found.open if not attempt.orphaned()]
    return line(GROUP, "nothing runs", known.entries, running, "wait for the end of the thread, or stop it")


def _concluded(known: Facts) -> CheckLine:
    return _of_finish(known, "conclusion", "--conclusion TEXT", lambda record: record.result)


def _next_steps(known: Facts) -> CheckLine:
    return _of_finish(known, "next steps", "--next TEXT", lambda record: record.details_as(Finish).next_steps)


def _final_tag(known: Facts) -> CheckLine:
    if known.series.private:
        return CheckLine(GROUP, "final tag", True, "what is private is not sealed", "")
    last = known.seals[-1].record.id if known.seals else ""
    tag = known.finish.record.details_as(Finish).snapshot if known.finish else f"{known.topic}/{last}"
    found = tag if tag in known.tags else f"{tag} is no tag of this repository" if last else "nothing is sealed"
    mend = f"run the thread with '--seal true', then 'research finish {known.topic}'; or git fetch --tags"
    return CheckLine(GROUP, "final tag", tag in known.tags, found, mend)


def _production(known: Facts) -> CheckLine:
    said = _of_finish(known, "production PR", "--production-pr URL, where there is one", lambda record: record.id)
    pull = production_pr(known.entries)
    if pull:
        return replace(said, ok=True, found=pull)
    # It need not exist: a final summary that names none says so.
    return replace(said, found="none named") if known.finish else said


def _docs(known: Facts) -> CheckLine:
    option = "--docs 'what was updated, or why nothing needs it'"
    return _of_finish(known, "docs updated or not in need of it", option, lambda record: record.details_as(Finish).docs)


def _closed(known: Facts) -> CheckLine:
    name, finish = "issue closed", known.finish
    if finish is None or known.series.private:
        return _of_finish(known, name, "--conclusion TEXT", lambda record: record.id)
    if known.issue is None:
        # The embedded issue is closed by its final comment.
        closed, where = is_posted(known, finish), f".agents/issues/{known.topic}.md"
    else:
        closed = known.journal.decided(f"closed/{finish.sha256}", Closed) is not None
        where = f"{known.issue.repository}#{known.issue.number}"
    return line(GROUP, name, [finish], [] if closed else [where], f"research sync {known.topic}")


def _of_finish(known: Facts, name: str, option: str, part: Callable[[EntryRecord], Any]) -> CheckLine:
    """Whether the final summary holds a part that only it can say."""
    command = f"research finish {known.topic}"
    if known.finish is None:
        return CheckLine(GROUP, name, False, f"pending: '{command}' writes it", f"{command} … {option}")
    record = known.finish.record
    said = bool(part(record))
    return CheckLine(GROUP, name, said, record.id if said else f"{record.id} does not say", f"{command} … {option}")


LINES = (_current, _measured, _ended, _concluded, _next_steps, _final_tag, _production, _docs, _closed)
