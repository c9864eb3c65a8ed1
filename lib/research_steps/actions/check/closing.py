"""Before the issue is closed: is what it ends with there, said and current?

Asked before the final summary is written, this names what `research finish` will ask for.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from research_steps.actions.check.reading import CheckedThread, CheckLine, line
from research_steps.evidence.state import production_pr
from research_steps.publish.logbook import format as logbook_format
from research_steps.publish.logbook.surface import summary
from research_steps.records.model import EntryRecord
from research_steps.records.objects import Closed
from research_steps.records.step_kinds import Finish

GROUP = "closing"


def _current(thread: CheckedThread) -> CheckLine:
    span = logbook_format.summary_span(thread.files.logbook)
    wanted = summary(thread.series, thread.snapshot, thread.shown, thread.issue, thread.place.beside).encode()
    current = span is not None and thread.files.logbook[slice(*span)] == wanted
    wrong = [] if current else ["the head of the logbook is not what its records say"]
    return line(GROUP, "TL;DR current", thread.entries, wrong, f"research sync {thread.topic}")


def _measured(thread: CheckedThread) -> CheckLine:
    measured = [stored.record.id for stored in thread.succeeded("baseline")]
    return CheckLine(GROUP, "baseline measured", bool(measured), measured[-1] if measured else "none", "run the thread")


def _ended(thread: CheckedThread) -> CheckLine:
    return line(GROUP, "nothing runs", thread.entries, thread.running, "wait for the end of the thread, or stop it")


def _final_tag(thread: CheckedThread) -> CheckLine:
    if thread.series.private:
        return CheckLine(GROUP, "final tag", True, "what is private is not sealed", "")
    last = thread.seals[-1].record.id if thread.seals else ""
    tag = thread.finish.record.details_as(Finish).snapshot if thread.finish else f"{thread.topic}/{last}"
    finding = tag if tag in thread.tags else f"{tag} is no tag of this repository" if last else "nothing is sealed"
    mend = f"run the thread with '--seal true', then 'research finish {thread.topic}'; or git fetch --tags"
    return CheckLine(GROUP, "final tag", tag in thread.tags, finding, mend)


def _production(thread: CheckedThread) -> CheckLine:
    asked = _said(thread, "production PR", "--production-pr URL, where there is one")
    pull = production_pr(thread.entries)
    if pull:
        return replace(asked, ok=True, found=pull)
    # It need not exist: a final summary that names none says so.
    return replace(asked, found="none named") if thread.finish else asked


def _closed(thread: CheckedThread) -> CheckLine:
    name, finish = "issue closed", thread.finish
    if finish is None or thread.series.private:
        return _said(thread, name, "--conclusion TEXT")
    if thread.issue is None:
        # The embedded issue is closed by its final comment.
        closed, where = thread.is_posted(finish), f".agents/issues/{thread.topic}.md"
    else:
        closed = thread.journal.decided(f"closed/{finish.sha256}", Closed) is not None
        where = f"{thread.issue.repository}#{thread.issue.number}"
    return line(GROUP, name, [finish], [] if closed else [where], f"research sync {thread.topic}")


def _said(
    thread: CheckedThread, name: str, option: str, part: Callable[[EntryRecord], Any] = lambda record: True
) -> CheckLine:
    """Whether there is a final summary, and whether it holds a part that only it can say."""
    command = f"research finish {thread.topic}"
    if thread.finish is None:
        return CheckLine(GROUP, name, False, f"pending: '{command}' writes it", f"{command} … {option}")
    record = thread.finish.record
    has_part = bool(part(record))
    return CheckLine(
        GROUP, name, has_part, record.id if has_part else f"{record.id} does not say", f"{command} … {option}"
    )


LINES = (
    _current,
    _measured,
    _ended,
    partial(_said, name="conclusion", option="--conclusion TEXT", part=lambda record: record.result),
    partial(_said, name="next steps", option="--next TEXT", part=lambda record: record.details_as(Finish).next_steps),
    _final_tag,
    _production,
    partial(
        _said,
        name="docs updated or not in need of it",
        option="--docs 'what was updated, or why nothing needs it'",
        part=lambda record: record.details_as(Finish).docs,
    ),
    _closed,
)
