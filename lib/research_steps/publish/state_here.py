"""The state of a thread in this checkout: what is known of it, what runs, and what nobody else has."""

import shlex
from collections.abc import Iterable, Iterator, Sized

from research_steps.evidence.state import ThreadState, thread_state
from research_steps.files import read
from research_steps.git import Checkout
from research_steps.journal.journal import Journal
from research_steps.journal.logbook_place import logbook_of
from research_steps.journal.progress import under_way
from research_steps.journal.snapshot import Outline
from research_steps.publish.logbook.format import parse
from research_steps.publish.wandb.runs_on_disk import folder_of, is_sent, runs_in
from research_steps.records.objects import IssueLink, Pushed
from research_steps.records.series import Series


def state_here(checkout: Checkout, journal: Journal, outline: Outline) -> ThreadState:
    """The state after what was read of the journal, with the steps that measure. Raises ResearchError where nothing
    tells what the series is."""
    place = logbook_of(checkout, journal.topic)
    series, shown = journal.series(place.records), parse(read(place.path) or b"").records
    seals = [entry.record.id for entry in outline.in_order if entry.record.step == "seal" and entry.sha256 in shown]
    here = _only_here(checkout, journal, series, seals)
    return thread_state(series, outline, running=under_way(journal, outline), shown=shown, only_here=here)


def _only_here(checkout: Checkout, journal: Journal, series: Series, seals: Iterable[str]) -> Iterator[str]:
    """What nobody else has, in a sentence each with the command that hands it over; `seals` are the IDs of the entries
    whose tags there are. A private series is meant for here."""
    if series.private or checkout.git_dir is None:
        return
    topic, origin = series.topic, checkout.origin()
    remote = "origin" if origin else "REMOTE"
    tags = [f"{topic}/{id}" for id in seals if journal.decided(f"pushed/{id}", Pushed) is None]
    if tags:
        yield f"{_some(tags, 'tag')} not pushed: git push {remote} {tags[-1]}"
    place = logbook_of(checkout, topic)
    pushed = place.pushed
    there = parse(place.checkout.file_at(pushed, place.name)).records if pushed else {}
    missing = [entry.id for entry in parse(read(place.path) or b"").entries if entry.record not in there]
    if missing and place.kind != "none":
        allow = f"git -C {shlex.quote(str(place.checkout.root))} config research.push true, then research sync {topic}"
        is_allowed = place.checkout.is_set("research.push")
        elsewhere = f"research sync {topic}, which says why" if is_allowed else allow
        mend = elsewhere if place.kind == "elsewhere" else f"git push {remote}"
        yield f"{_some(missing, 'entry', 'entries')} of the logbook not pushed: {mend}"
    waiting = [path for path in runs_in(folder_of(checkout, topic)).values() if not is_sent(path)]
    if waiting:
        yield f"{_some(waiting, 'W&B run')} not sent: wandb login, then research sync {topic}"
    if journal.decided("issue", IssueLink) is None:
        yield f"the issue is a file, .agents/issues/{topic}.md: research sync {topic} --issue NUMBER"


def _some(found: Sized, one: str, several: str = "") -> str:
    return f"{len(found)} {one if len(found) == 1 else several or f'{one}s'}"
