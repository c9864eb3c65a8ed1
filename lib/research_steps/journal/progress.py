"""How far a step is that measures many trials: what it has planned, and what became of each trial since.

The driver notes how many trials the step asks for, and whoever measures a part of them which ones the journal had
already. The rest is told by the intents and records under the step's experiment ID: nothing is counted while it
measures, so nobody who dies leaves a wrong count behind. A trial that tells how far it is has that noted now and then.

    <store>/journal/<topic>/plans/MOE-HC-031.json          TrialPlan
                            plans/MOE-HC-031/<part>.json   KnownTrials
                            running/<key>.json             TrialProgress
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from research_steps.errors import UnreadableObject
from research_steps.journal.journal import Journal
from research_steps.journal.leases import goes_on, this_process
from research_steps.journal.snapshot import Snapshot
from research_steps.records.model import InterruptedRecord, TrialRecord
from research_steps.records.objects import Intent, KnownTrials, TrialPlan, TrialProgress
from research_steps.records.times import parse_utc, utc

# How many of the newest ends tell how fast a step goes.
NEWEST = 20


@dataclass(frozen=True)
class StepProgress:
    """How far one step is. Each of its trials counts once, by its newest attempt.

    `done` are all that have ended: among them `failed` (interrupted ones too) and `held`, which the journal had
    already. What is neither done nor running is queued, the `orphaned` among them; `told` is how far those that run are,
    as they told; `left_s` is in seconds.
    """

    id: str
    label: str
    total: int
    done: int
    failed: int
    held: int
    running: tuple[Intent, ...]
    orphaned: tuple[str, ...]
    driver_gone: bool
    left_s: float | None
    told: tuple[TrialProgress, ...] = ()

    @property
    def queued(self) -> int:
        return self.total - self.done - len(self.running)


def plan(journal: Journal, id: str, label: str, total: int) -> None:
    """Note how many trials the step with this experiment ID asks for. Called by the driver before they begin."""
    trial_plan = TrialPlan(id=id, label=label, total=total, by=this_process(), planned_at=utc())
    # What a power cut broke is noted again.
    with suppress(UnreadableObject):
        noted = journal.noted(f"plans/{id}", TrialPlan)
        if noted is not None and (noted.label, noted.total, noted.by) == (label, total, trial_plan.by):
            return
    journal.note(f"plans/{id}", trial_plan)


def passed(journal: Journal, id: str, part: str, ids: Iterable[str]) -> None:
    """Note which trials of a part of a plan need not be measured, because the journal has them; replaces the last note.

    `ids` are those that they would have got (MOE-HC-031.03), whatever they are called in the journal.
    """
    journal.note(f"plans/{id}/{part}", KnownTrials(held=tuple(ids)))


def reached_at(journal: Journal, intent: Intent, step: int, of: int | None, text: str) -> None:
    """Note how far an attempt at a trial is."""
    told = TrialProgress(id=intent.id, attempt=intent.attempt, reached=step, of=of, text=text, told_at=utc())
    journal.note(f"running/{intent.key}", told)


def under_way(journal: Journal, snapshot: Snapshot) -> list[StepProgress]:
    """How far each step is that has a plan and no entry yet, given what the journal holds.

    A note that can't be read is named in the snapshot.
    """
    ended = {stored.record.id for stored in snapshot.entries.values() if not stored.record.late}
    progresses: list[StepProgress] = []
    running = {attempt.intent.key: attempt.intent for attempt in snapshot.open if attempt.intent.subject == "trial"}
    told = []
    for key, note in journal.notes("running", TrialProgress, running.__contains__).items() if running else ():
        if isinstance(note, UnreadableObject):
            snapshot.leave_out(note)
        elif note.attempt == running[key].attempt:
            told.append(note)
    for noted in journal.notes("plans", TrialPlan, lambda id: id not in ended).values():
        if isinstance(noted, UnreadableObject):
            snapshot.leave_out(noted)
            continue
        parts = journal.notes(f"plans/{noted.id}", KnownTrials).values()
        for part in parts:
            if isinstance(part, UnreadableObject):
                snapshot.leave_out(part)
        known = {id for part in parts if isinstance(part, KnownTrials) for id in part.held}
        progress = _progress(noted, known, snapshot, _driver_gone(journal, noted, snapshot))
        here = {intent.id for intent in progress.running}
        progresses.append(replace(progress, told=tuple(note for note in told if note.id in here)))
    return progresses


def _progress(plan: TrialPlan, known: set[str], snapshot: Snapshot, driver_gone: bool) -> StepProgress:
    records: list[TrialRecord | InterruptedRecord] = [trial.record for trial in snapshot.trials.values()]
    records += [interrupted.record for interrupted in snapshot.interrupted.values()]
    mine = (record for record in records if _owner(record.id) == plan.id and not record.late)
    newest = {record.id: record for record in sorted(mine, key=lambda record: record.started_at)}
    # Another step may have taken a trial into its own entry already, which is then read in place of its record.
    rows = [row for entry in snapshot.entries.values() for row in entry.record.rows if _owner(row.trial.id) == plan.id]
    ended = {row.trial.id: row.status for row in rows} | {id: record.status for id, record in newest.items()}
    attempts = [attempt for attempt in snapshot.open if _owner(attempt.intent.id) == plan.id]
    begun = {attempt.intent.id for attempt in attempts}
    ended = {id: status for id, status in ended.items() if id not in begun}
    known = known - ended.keys() - begun
    running = tuple(attempt.intent for attempt in attempts if not attempt.orphaned())
    fresh = [record for id, record in newest.items() if id in ended and record.started_at >= plan.planned_at]
    done = len(ended) + len(known)
    return StepProgress(
        id=plan.id,
        label=plan.label,
        total=plan.total,
        done=done,
        failed=sum(status != "ok" for status in ended.values()),
        held=len(known),
        running=running,
        orphaned=tuple(sorted(begun - {intent.id for intent in running})),
        driver_gone=driver_gone,
        left_s=None if driver_gone else _left_s(fresh, plan.total - done, len(running)),
    )


def _left_s(ended: Sequence[TrialRecord | InterruptedRecord], left: int, running: int) -> float | None:
    """How long the trials that are left take, at the rate of those that ended last.

    Machines come and go, so only the newest ends count: NEWEST of them, or two rounds of all that run now, because
    trials that began together end together. Up to now, so that the rate falls when machines are lost. What ended
    before this driver began is not given here: nobody may have measured in between.
    """
    if len(ended) < 2 or left <= 0:
        return None
    ends = sorted(record.finished_at for record in ended)
    counted = max(NEWEST, 2 * running)
    since = ends[-counted - 1] if len(ends) > counted else min(record.started_at for record in ended)
    # The clock of the machine that ended the last one may be ahead.
    now = max(datetime.now(UTC), parse_utc(ends[-1]))
    return left * (now - parse_utc(since)).total_seconds() / min(counted, len(ends))


def _driver_gone(journal: Journal, plan: TrialPlan, snapshot: Snapshot) -> bool:
    """Whether nobody sees to the step any more, as far as that is known.

    Its entry's attempt tells it from any machine; a step in shards begins that last, and until then only the machine
    of its driver can tell.
    """
    for attempt in snapshot.open:
        if attempt.intent.id == plan.id:
            return attempt.orphaned()
    stopped = (stored.record for stored in snapshot.interrupted.values() if stored.record.id == plan.id)
    last = max(stopped, key=lambda record: record.attempt, default=None)
    intent = journal.attempts.begun("entry", last) if last is not None else None
    if intent is not None and intent.owner == plan.by:
        return True
    return goes_on(plan.by) is False


def _owner(trial: str) -> str:
    """The experiment ID of the step that a trial's ID belongs to."""
    return trial.rpartition(".")[0]
