"""Entries: what a step, a person or an agent adds to the series' log, from its experiment ID to its record.

What steps do around this (sessions, retries) is theirs; here is what every entry has in common, and the way of those
that nothing is measured for: kickoff, decision, finish.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import msgspec

from research_steps.journal.journal import Journal
from research_steps.records.encoding import Stored
from research_steps.records.model import SCHEMA, Captured, Claim, EntryRecord, Error, Floor, Mode, Ref, Row
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
    journal: Journal, captured: Captured, about: About, id: str, attempt: int, started: str, found: Finding
) -> Stored[EntryRecord]:
    """Record how an attempt of an entry ended; late, when somebody else had ended it."""
    record = EntryRecord(
        schema=SCHEMA,
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
        status="failed" if found.error else "ok",
        mode=about.mode,
        config=plain_details(about.details),
        rows=found.rows,
        inputs=about.inputs,
        result=found.result,
        interpretation=found.interpretation,
        next_action=found.next_action,
        error=found.error,
        provenance=captured.provenance,
        private=True if about.private else msgspec.UNSET,
        claims=msgspec.UNSET if found.claims is None else found.claims,
        floor=msgspec.UNSET if found.floor is None else found.floor,
    )
    return journal.attempts.finish("entry", record)


def write_entry(
    journal: Journal,
    series: Series,
    captured: Captured,
    used: Iterable[int],
    about: About,
    said: Callable[[str], Finding],
) -> Stored[EntryRecord]:
    """Add an entry that says something by itself, once for each `step_key`, whoever is killed in between.

    `said` is told the experiment ID.
    """
    if captured.patch is not None and captured.provenance.patch is not None:
        journal.keep_patch(captured.provenance.patch, captured.patch)
    while True:
        held = journal.ids.latest_entry(about.step_key)
        if held is not None:
            return held
        id = journal.ids.reserve(series.prefix, about.step_key, used)
        attempt = journal.attempts.next("entry", id, lambda stored: True, lambda line: None)
        if isinstance(attempt, Stored):
            if isinstance(attempt.record, EntryRecord):
                continue
            attempt = attempt.record.attempt + 1
        with journal.attempts.begin(
            "entry", id, attempt, id=id, label=about.label, config=plain_details(about.details), private=about.private
        ) as begun:
            if begun:
                finish_entry(journal, captured, about, id, attempt, utc(), said(id))
