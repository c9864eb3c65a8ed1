"""Entries: what a step, a person or an agent adds to the series' log, from its experiment ID to its record.

The journal is asked before anything else, so that whoever was killed on the way, or gives the same command again, adds
nothing twice.
"""

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from research_steps.errors import LauncherError
from research_steps.journal.experiment_ids import OtherNumbers
from research_steps.journal.journal import Journal
from research_steps.records.encoding import Stored
from research_steps.records.model import Captured, Claim, EntryRecord, Error, Floor, Mode, Ref, Row
from research_steps.records.series import Series
from research_steps.records.step_kinds import Details, plain_details
from research_steps.records.times import utc


@dataclass(frozen=True)
class About:
    """What an entry says of its step before the step has run."""

    kind: str
    step_key: str
    label: str
    hypothesis: str
    details: Details
    inputs: tuple[Ref, ...] = ()
    private: bool = False
    mode: Mode = "executor"


@dataclass(frozen=True)
class Finding:
    """What a step found: the parts of its entry that only it can tell."""

    result: str
    rows: tuple[Row, ...] = ()
    interpretation: str = ""
    next_action: str = ""
    error: Error | None = None
    claims: tuple[Claim, ...] | None = None
    floor: dict[str, Floor] | None = None


def finish_entry(
    journal: Journal, captured: Captured, about: About, id: str, attempt: int, started: str, finding: Finding
) -> Stored[EntryRecord]:
    """Record how an attempt of an entry ended; late, when somebody else had ended it."""
    record = EntryRecord(
        series=journal.topic,
        key=id,
        attempt=attempt,
        id=id,
        step=about.kind,
        step_key=about.step_key,
        label=about.label,
        hypothesis=about.hypothesis,
        started_at=started,
        finished_at=utc(),
        status="failed" if finding.error else "ok",
        mode=about.mode,
        config=plain_details(about.details),
        rows=finding.rows,
        inputs=about.inputs,
        result=finding.result,
        interpretation=finding.interpretation,
        next_action=finding.next_action,
        error=finding.error,
        provenance=captured.provenance,
        private=True if about.private else msgspec.UNSET,
        claims=msgspec.UNSET if finding.claims is None else finding.claims,
        floor=msgspec.UNSET if finding.floor is None else finding.floor,
    )
    return journal.attempts.finish("entry", record)


def write_entry(
    journal: Journal,
    series: Series,
    captured: Captured,
    others: OtherNumbers,
    about: About,
    body: Callable[[str], Finding],
    *,
    accept: Callable[[EntryRecord], bool] = lambda record: True,
    say: Callable[[str], None] = lambda line: None,
) -> Stored[EntryRecord]:
    """The newest entry of this `step_key` if `accept` takes it, else a new one, whoever is killed in between.

    `body` is given the experiment ID. What ends its run ends this attempt and no other one, which somebody else may have
    begun by then; what else it raises leaves it open. `say` is told of another process that is at this entry, and waited
    for.
    """
    journal.keep_patch(captured.provenance.patch, captured.patch)
    while True:
        newest = journal.ids.latest_entry(about.step_key)
        if newest is not None and accept(newest.record):
            return newest
        id = journal.ids.reserve(series.prefix, about.step_key, others, newest.record.id if newest is not None else "")
        attempt = journal.attempts.next("entry", id, lambda stored: True, say)
        if isinstance(attempt, Stored):
            if isinstance(attempt.record, EntryRecord):
                continue
            attempt = attempt.record.attempt + 1
        with journal.attempts.begin(
            "entry", id, attempt, id=id, label=about.label, config=plain_details(about.details), private=about.private
        ) as begun:
            if not begun:
                continue
            try:
                finding = body(id)
            except (LauncherError, KeyboardInterrupt) as error:
                journal.attempts.interrupt(begun, str(error) or "the run was stopped")
                raise
            stored = finish_entry(journal, captured, about, id, attempt, begun.intent.started_at, finding)
        standing = journal.ids.latest_entry(about.step_key) if stored.record.late else stored
        if standing is not None:
            return standing
