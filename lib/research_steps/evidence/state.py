"""The state of a thread: what is known now, derived from its records by one pure function.

Surfaces print it and decide nothing. What counts and what was retracted goes by hash, so that an experiment ID that two
branches used means one record here and not the other.
"""

import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from research_steps.evidence.background import Ledger, ledger, stuck
from research_steps.evidence.founded import claimed, founded
from research_steps.evidence.hypotheses import Item, queue
from research_steps.evidence.judgement import ROUTINE_NOTE
from research_steps.evidence.standing import best, current_claims, reached
from research_steps.evidence.visibility import belongs_in_logbook
from research_steps.journal.progress import StepProgress
from research_steps.journal.snapshot import Snapshot
from research_steps.records.encoding import Stored, canonical
from research_steps.records.model import Claim, EntryRecord, Row
from research_steps.records.objects import Seal
from research_steps.records.series import Series
from research_steps.records.step_kinds import STEP_KINDS, BaselineMeasurement, Decision, Finish, Reproduction


@dataclass(frozen=True)
class MeasuredBaseline:
    """A baseline case as it was measured last, with the median of its processes for each metric that they share."""

    entry: EntryRecord
    case: Mapping[str, Any]
    numbers: Mapping[str, float]


@dataclass(frozen=True)
class Winner:
    """The best candidate against one baseline case on one kind of machine, which is empty where no trial is known here.

    `also` are the claims on what else it changes, `close` those on other candidates whose intervals overlap with its.
    """

    claim: Claim
    device_class: str
    also: tuple[Claim, ...]
    close: tuple[Claim, ...]


@dataclass(frozen=True)
class Reading:
    """What the last interpretation or the final summary says; `retracted` are the records it rests on that count no
    more, by their IDs."""

    entry: EntryRecord
    text: str
    retracted: tuple[str, ...]


@dataclass(frozen=True)
class ThreadState:
    """What is known of a series now. Entries come in the order of their numbers.

    `claims` count now, against a baseline case in force; `best` is the best of them on the primary metric, `reached` the
    one by which the series has what it was started for. `by_older_rule` are those among them that an older version of
    this package made, which judged each look alone: a replicate renews them. `dead_ends` failed or did not help: a row
    of a table, a whole entry or a claim, each by the ID that names it. `stuck` is the number of trials without an
    improvement, once they are too many. `sealed` are the seals by the ID of their entry, `unpublished` what the logbook
    does not show yet. `unfounded` says of each claim that is not taken, because its trials are not there, why.
    """

    series: Series
    entries: tuple[Stored[EntryRecord], ...]
    retracted: frozenset[str]
    claims: tuple[Claim, ...]
    best: Claim | None
    reached: Claim | None
    by_older_rule: tuple[Claim, ...]
    winners: tuple[Winner, ...]
    baselines: tuple[MeasuredBaseline, ...]
    reading: Reading | None
    hypotheses: tuple[Item, ...]
    background: Ledger
    dead_ends: Mapping[str, Row | EntryRecord | Claim]
    decisions: tuple[EntryRecord, ...]
    revisions: tuple[EntryRecord, ...]
    kickoff: EntryRecord | None
    finish: EntryRecord | None
    production_pr: str
    stuck: int | None
    running: tuple[StepProgress, ...]
    sealed: Mapping[str, Seal]
    reproduced: tuple[EntryRecord, ...]
    unpublished: tuple[str, ...]
    unfounded: tuple[str, ...]

    @property
    def next_commands(self) -> tuple[str, ...]:
        """What to do next, as commands that can be given as they are."""
        topic = self.series.topic
        commands = [f"python -m experiments.{topic}"] if any(step.driver_gone for step in self.running) else []
        winners = [winner.claim for winner in self.winners]
        replicable = [claim for claim in winners if claim.confidence == "exploratory" or claim in self.by_older_rule]
        commands += [f"research replicate {claim.trials[0].id}" for claim in replicable]
        if self.unpublished:
            commands.append(f"research sync {topic}")
        if self.reached is not None and self._measured_since_seal():
            commands.append(f"research seal {topic}")
        return tuple(commands)

    def _measured_since_seal(self) -> bool:
        since: list[EntryRecord] = []
        for entry in self.entries:
            since = [] if entry.record.step == "seal" else [*since, entry.record]
        return any(STEP_KINDS[record.step].has_trials for record in since)


def thread_state(
    series: Series,
    snapshot: Snapshot,
    *,
    running: Iterable[StepProgress] = (),
    seals: Iterable[Seal] = (),
    shown: Collection[str] | None = None,
) -> ThreadState:
    """The state of a series after its `snapshot`; a surface leaves out of that what it may not show.

    `shown` are the hashes of the entries that the logbook shows, None where nobody asks for that.
    """
    entries = snapshot.in_order
    records = [entry.record for entry in entries]
    taken_back = snapshot.retracted
    counting = [entry for entry in entries if entry.sha256 not in taken_back]
    measured, left_out = founded(snapshot, entries)
    claims = current_claims(series, measured)
    finishes = [record for record in records if record.step == "finish"]
    return ThreadState(
        series=series,
        entries=tuple(entries),
        retracted=taken_back,
        claims=tuple(claims),
        best=best(series, claims),
        reached=reached(series, claims),
        by_older_rule=tuple(claim for claim in claims if not claim.level),
        winners=tuple(_winners(series, snapshot, claims)),
        baselines=tuple(_baselines(counting)),
        reading=_reading(counting, taken_back),
        hypotheses=tuple(queue(series, records)),
        background=ledger(records),
        dead_ends=_dead_ends(series, entries, claims, taken_back),
        decisions=tuple(record for record in records if record.step == "decision"),
        revisions=tuple(record for record in records if record.step in ("correction", "retraction", "rebase")),
        kickoff=next((record for record in records if record.step == "kickoff"), None),
        finish=finishes[-1] if finishes else None,
        production_pr=production_pr(counting),
        stuck=stuck(series, records),
        running=tuple(running),
        sealed={seal.id: seal for seal in seals},
        reproduced=tuple(record for record in records if isinstance(record.details, Reproduction)),
        unpublished=() if shown is None else tuple(unpublished(series, entries, shown)),
        unfounded=tuple(f"{entry.id} claims {claimed(claim)}, and {why}." for entry, claim, why in left_out),
    )


def numbers(baseline: EntryRecord) -> dict[str, float]:
    """What a baseline measured: the median of its processes, for each metric that they share."""
    columns = [row.values for row in baseline.rows] or [{}]
    names = set(columns[0]).intersection(*columns)
    return {name: statistics.median(values[name] for values in columns) for name in names}


def production_pr(counting: Iterable[Stored[EntryRecord]]) -> str:
    """The address of the production pull request that was named last, empty while none was. What is private names none.

    `counting` are the entries that were not retracted, oldest first.
    """
    details = [entry.record.details for entry in counting if not entry.record.private]
    named = [step.production_pr for step in details if isinstance(step, Decision | Finish) and step.production_pr]
    return named[-1] if named else ""


def _winners(series: Series, snapshot: Snapshot, claims: Sequence[Claim]) -> Iterable[Winner]:
    primary = [claim for claim in claims if claim.metric == series.primary.name]
    groups: dict[tuple[bytes, str], list[Claim]] = {}
    for claim in primary:
        groups.setdefault((canonical(claim.case), _device_class(snapshot, claim)), []).append(claim)
    for (_, device_class), alike in groups.items():
        winner = best(series, alike)
        if winner is not None:
            same = [claim for claim in claims if (claim.changes, claim.case) == (winner.changes, winner.case)]
            also = tuple(claim for claim in same if claim.metric != winner.metric)
            # What changes a variant axis is another workload.
            same_work = [claim for claim in alike if not set(claim.changes) - set(winner.changes) & set(series.variants)]
            close = tuple(claim for claim in same_work if claim is not winner and _overlap(claim, winner))
            yield Winner(winner, device_class, also, close)


def _device_class(snapshot: Snapshot, claim: Claim) -> str:
    trials = snapshot.trials_of(claim.trials)
    return trials[0].record.device_class if trials else ""


def _overlap(claim: Claim, other: Claim) -> bool:
    if claim.low is None or claim.high is None or other.low is None or other.high is None or not claim.changes:
        return False
    return claim.estimand == other.estimand and claim.low <= other.high and other.low <= claim.high


def _baselines(counting: Iterable[Stored[EntryRecord]]) -> Iterable[MeasuredBaseline]:
    newest: dict[bytes, MeasuredBaseline] = {}
    for entry in counting:
        details = entry.record.details
        if isinstance(details, BaselineMeasurement) and entry.record.status == "ok":
            measured = MeasuredBaseline(entry.record, details.baseline_case, numbers(entry.record))
            newest[canonical(details.baseline_case)] = measured
    return newest.values()


def _reading(counting: Iterable[Stored[EntryRecord]], retracted: frozenset[str]) -> Reading | None:
    done = [entry.record for entry in counting if entry.record.status == "ok"]
    last = next((record for record in reversed(done) if record.step in ("interpret", "finish")), None)
    if last is None:
        return None
    lost = sorted({ref.id for ref in last.inputs if ref.sha256 in retracted})
    return Reading(last, last.result if last.step == "finish" else last.interpretation, tuple(lost))


def _dead_ends(
    series: Series, entries: Iterable[Stored[EntryRecord]], claims: Iterable[Claim], retracted: frozenset[str]
) -> dict[str, Row | EntryRecord | Claim]:
    """What failed, and what did not help, each once; a slip in the code is neither."""
    ends: dict[str, Row | EntryRecord | Claim] = {}
    for entry in entries:
        for row in entry.record.rows:
            if row.status == "failed" and not row.note.startswith(ROUTINE_NOTE) and row.trial.sha256 not in retracted:
                ends[row.trial.id] = row
        if entry.record.status == "failed" and entry.sha256 not in retracted:
            ends[entry.record.id] = entry.record
    for claim in claims:
        if claim.metric == series.primary.name and claim.verdict in ("regressed", "no difference"):
            ends[claim.trials[0].id] = claim
    return ends


def unpublished(series: Series, entries: Iterable[Stored[EntryRecord]], shown: Collection[str]) -> Iterable[str]:
    """The IDs of the entries that the logbook will show and does not yet: `shown` are the hashes of those it does."""
    for entry in entries:
        if entry.sha256 not in shown and belongs_in_logbook(entry.record, series):
            yield entry.record.id
