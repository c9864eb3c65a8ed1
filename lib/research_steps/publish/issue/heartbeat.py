"""The heartbeat: a brief update when work went on for long and nothing came of it that is worth finding again.

Which one is due follows from the journal alone: the n-th whole interval since the last milestone. So every publisher
means the same one, and it is posted once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from research_steps.journal.journal import Journal
from research_steps.journal.snapshot import OpenAttempt, Snapshot
from research_steps.publish.issue import text as issue_text
from research_steps.publish.markdown import code, unlinked
from research_steps.records.encoding import Stored
from research_steps.records.model import EntryRecord, TrialRecord
from research_steps.records.series import Series
from research_steps.records.times import parse_utc, utc

# So long nothing may run within one stretch of work.
BREAK = timedelta(hours=1)


@dataclass(frozen=True)
class Heartbeat:
    """One that is due: its marker and what it says."""

    marker: str
    text: str


def due(
    series: Series, journal: Journal, public: Sequence[Stored[EntryRecord]], now: datetime, shown: set[str]
) -> Heartbeat | None:
    """The heartbeat of the interval that ended last, if work went on in it. `public` are entries, oldest first."""
    interval = timedelta(seconds=series.heartbeat_s)
    milestones = [stored.record.finished_at for stored in public if stored.record.step in series.milestones]
    began = parse_utc(milestones[-1]) if milestones else None
    if began is not None and now - began < interval:
        return None
    found = journal.scan()
    # Nothing private is counted, or named.
    trials = [stored for stored in found.trials.values() if not found.is_private(stored.record.id)]
    running = [attempt for attempt in found.open if not (attempt.orphaned() or found.is_private(attempt.intent.id))]
    spans = [(parse_utc(stored.record.started_at), parse_utc(stored.record.finished_at)) for stored in trials]
    spans += [(parse_utc(attempt.intent.started_at), now) for attempt in running]
    stretch = _stretch(spans)
    if stretch is None:
        return None
    began = stretch[0] if began is None else max(began, stretch[0])
    count = (now - began) // interval
    marker = f"heartbeat {utc(began)}+{count}"
    # Work that ended before this interval is no work in it.
    if count < 1 or marker in shown or stretch[1] < began + (count - 1) * interval:
        return None
    recent = [stored for stored in trials if parse_utc(stored.record.finished_at) >= began]
    steps = [attempt for attempt in running if attempt.intent.subject == "entry"]
    status = [_status(attempt, found) for attempt in steps]
    text = issue_text.heartbeat(series, status, _blockers(found, recent), _eta(steps, found, now))
    return Heartbeat(marker, text)


def _stretch(spans: Sequence[tuple[datetime, datetime]]) -> tuple[datetime, datetime] | None:
    """The last stretch of work: from where no longer break comes before it, to its end."""
    begin = end = None
    for start, finish in sorted(spans, key=lambda span: span[1], reverse=True):
        if begin is None or end is None:
            begin, end = start, finish
        elif begin - finish > BREAK:
            break
        else:
            begin = min(begin, start)
    return None if begin is None or end is None else (begin, end)


def _status(attempt: OpenAttempt, found: Snapshot) -> str:
    done, planned = _progress(attempt, found)
    count = f", {done} of {planned} trials done" if planned else f", {done} trials done" if done else ""
    return f"{attempt.intent.id} {unlinked(attempt.intent.label)} runs since {attempt.intent.started_at}{count}"


def _progress(attempt: OpenAttempt, found: Snapshot) -> tuple[int, int]:
    done = sum(stored.record.id.startswith(f"{attempt.intent.id}.") for stored in found.trials.values())
    config = attempt.intent.config
    return done, len(config.get("points", ())) or int(config.get("replicates", 0))


def _blockers(found: Snapshot, recent: Sequence[Stored[TrialRecord]]) -> list[str]:
    failed = [stored.record for stored in recent if stored.record.status == "failed"]
    blockers = []
    if failed:
        error = failed[-1].error
        blockers.append(f"{len(failed)} trials failed, the last with {code(error.type if error else 'no reason')}")
    orphaned = sum(attempt.orphaned() and not found.is_private(attempt.intent.id) for attempt in found.open)
    if orphaned:
        blockers.append(f"{orphaned} attempts are orphaned: run the thread again")
    return blockers


def _eta(steps: Sequence[OpenAttempt], found: Snapshot, now: datetime) -> str:
    """When what runs should be done, by the mean time of its trials so far."""
    left = 0.0
    for attempt in steps:
        mine = [s.record for s in found.trials.values() if s.record.id.startswith(f"{attempt.intent.id}.")]
        done, planned = _progress(attempt, found)
        if not mine or not planned:
            return "unknown"
        took = [(parse_utc(one.finished_at) - parse_utc(one.started_at)).total_seconds() for one in mine]
        left += max(planned - done, 0) * sum(took) / len(took)
    return f"{utc(now + timedelta(seconds=left))}" if steps else "unknown"
