"""The heartbeat: a brief update when work went on for long and nothing came of it that is worth finding again.

Which one is due follows from the journal alone: the n-th whole interval since the last milestone. So every publisher
means the same one, and it is posted once.
"""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from research_steps.journal.journal import Journal
from research_steps.journal.progress import StepProgress, under_way
from research_steps.publish.issue import text as issue_text
from research_steps.publish.markdown import code, unlinked
from research_steps.records.encoding import Stored
from research_steps.records.model import Actor, EntryRecord, TrialRecord
from research_steps.records.objects import Intent
from research_steps.records.series import Series
from research_steps.records.times import parse_utc, utc

# So long nothing may run within one stretch of work.
BREAK = timedelta(hours=1)


def due(
    series: Series,
    journal: Journal,
    public: Sequence[Stored[EntryRecord]],
    now: datetime,
    shown: set[str],
    actor: Callable[[], Actor],
) -> tuple[str, str] | None:
    """Marker and text of the heartbeat of the interval that ended last, if work went on in it. `public` are entries,
    oldest first; `actor` tells who posts it."""
    interval = timedelta(seconds=series.heartbeat_s)
    milestones = [stored.record.finished_at for stored in public if stored.record.step in series.milestones]
    began = parse_utc(milestones[-1]) if milestones else None
    if began is not None and now - began < interval:
        return None
    snapshot = journal.scan()
    # Nothing private is counted, or named.
    trials = [stored.record for stored in snapshot.trials.values() if not snapshot.is_private(stored.record.id)]
    attempts = [attempt for attempt in snapshot.open if not snapshot.is_private(attempt.intent.id)]
    running = [attempt.intent for attempt in attempts if not attempt.orphaned()]
    spans = [(parse_utc(trial.started_at), parse_utc(trial.finished_at)) for trial in trials]
    spans += [(parse_utc(intent.started_at), now) for intent in running]
    stretch = _stretch(spans)
    if stretch is None:
        return None
    began = stretch[0] if began is None else max(began, stretch[0])
    count = (now - began) // interval
    marker = f"heartbeat {utc(began)}+{count}"
    # Work that ended before this interval is no work in it.
    if count < 1 or marker in shown or stretch[1] < began + (count - 1) * interval:
        return None
    progress = {step.id: step for step in under_way(journal, snapshot)}
    steps = [(intent, progress.get(intent.id)) for intent in running if intent.subject == "entry"]
    status = [_status(intent, step) for intent, step in steps]
    failed = [trial for trial in trials if trial.status == "failed" and parse_utc(trial.finished_at) >= began]
    blockers = _blockers(failed, len(attempts) - len(running))
    return marker, issue_text.heartbeat(series, actor(), status, blockers, _eta([step for _, step in steps], now))


def _stretch(spans: Sequence[tuple[datetime, datetime]]) -> tuple[datetime, datetime] | None:
    """The last stretch of work: from where no longer break comes before it, to its end."""
    last_first = sorted(spans, key=lambda span: span[1], reverse=True)
    if not last_first:
        return None
    begin, end = last_first[0]
    for start, finish in last_first[1:]:
        if begin - finish > BREAK:
            break
        begin = min(begin, start)
    return begin, end


def _status(intent: Intent, progress: StepProgress | None) -> str:
    count = f", {progress.done} of {progress.total} trials done" if progress else ""
    return f"{intent.id} {unlinked(intent.label)} runs since {intent.started_at}{count}"


def _blockers(failed: Sequence[TrialRecord], orphaned: int) -> list[str]:
    blockers = []
    if failed:
        error = failed[-1].error
        blockers.append(f"{len(failed)} trials failed, the last with {code(error.type if error else 'no reason')}")
    if orphaned:
        blockers.append(f"{orphaned} attempts are orphaned: run the thread again")
    return blockers


def _eta(steps: Sequence[StepProgress | None], now: datetime) -> str:
    """When the last of what runs should be done; unknown unless each step tells how long it takes."""
    left = [0.0 if step.done >= step.total else step.left_s for step in steps if step is not None]
    times = [seconds for seconds in left if seconds is not None]
    return utc(now + timedelta(seconds=max(times))) if times and len(times) == len(steps) else "unknown"
