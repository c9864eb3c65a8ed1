"""The state of a thread: what is known now, derived from its records by one pure function.

Surfaces print it and decide nothing. What counts and what was retracted goes by hash, so that an experiment ID that two
branches used means one record here and not the other.
"""

import statistics
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import msgspec

from research_steps.evidence.background import Ledger, ledger, stuck
from research_steps.evidence.claim_text import changes_text
from research_steps.evidence.founded import claimed, founded
from research_steps.evidence.hypotheses import Item, queue
from research_steps.evidence.judgement import CONTENDED, ROUTINE_NOTE
from research_steps.evidence.others import adopted, given_up
from research_steps.evidence.standing import best, claims_in, current_claims, fixed_cases, on_primary, reached
from research_steps.evidence.statistics import gain
from research_steps.evidence.visibility import belongs_in_logbook
from research_steps.journal.progress import StepProgress
from research_steps.journal.snapshot import Snapshot
from research_steps.records.configurations import differences
from research_steps.records.encoding import Stored, canonical
from research_steps.records.model import Claim, EntryRecord
from research_steps.records.series import Series, number_of
from research_steps.records.step_kinds import STEP_KINDS, BaselineMeasurement, Decision, Finish, Reproduction

_UNSETTLED = ("inconclusive", "not comparable")


@dataclass(frozen=True)
class MeasuredBaseline:
    """A baseline case in force, by the label of its baseline: the `entry` that measured it last, with the median of its
    processes for each metric that they share and the kind of `machine`, empty where that is not known here. After a
    rebase, until it is measured there, `entry` is the rebase, and there are no `numbers`."""

    label: str
    entry: EntryRecord
    case: Mapping[str, Any]
    numbers: Mapping[str, float]
    machine: str


@dataclass(frozen=True)
class Winner:
    """The best candidate against one baseline case on one kind of machine, which is empty where no trial is known here.

    `also` are the claims on what else it changes, those on what it makes worse first; `close` those on other candidates
    whose intervals overlap with its; `variants` those on itself at other values of a variant axis.
    """

    claim: Claim
    machine: str
    also: tuple[Claim, ...]
    close: tuple[Claim, ...]
    variants: tuple[Claim, ...]


@dataclass(frozen=True)
class DeadEnd:
    """Something that failed for a reason, however often, or did not help, as its claim says. `ids` name each time, the
    oldest first. What others gave up is no evidence."""

    about: str | dict[str, Any]
    why: str
    ids: tuple[str, ...]
    claim: Claim | None = None
    by_others: bool = False

    @property
    def what(self) -> str:
        return self.about if isinstance(self.about, str) else changes_text(self.about)


@dataclass(frozen=True)
class Reading:
    """What the last interpretation or the final summary says; `retracted` are the records it rests on that count no
    more, and `before` those that changed what holds after it was written, by their IDs."""

    entry: EntryRecord
    text: str
    retracted: tuple[str, ...]
    before: tuple[str, ...]


@dataclass(frozen=True)
class ThreadState:
    """What is known of a series now. Entries come in the order of their numbers.

    `claims` count now, against a baseline case in force: of those about the same candidate one for each kind of machine,
    which `machines` names for each of them.
    `winners` are the best of them, those of the machine that measured a baseline last first, `best` the first of these,
    and `reached` the claim by which the series has what it was started for. `unsettled` say nothing yet of a candidate:
    because it was measured beside other load, can't be compared, or was not measured often enough. `by_older_rule` are
    claims that an older version of this package made, which judged each look alone: a replicate renews them. `stuck` is
    the number of trials without an improvement, once they are too many. `sealed` are the tags, `reproduced` what came of
    measuring them again. `unpublished` is what the logbook does not show yet, `only_here` what else nobody else has,
    with the command that hands it over. `unfounded` says of each claim that is not taken, because its trials are not
    there, why.
    """

    series: Series
    entries: tuple[Stored[EntryRecord], ...]
    retracted: frozenset[str]
    claims: tuple[Claim, ...]
    machines: tuple[str, ...]
    best: Claim | None
    reached: Claim | None
    by_older_rule: tuple[Claim, ...]
    winners: tuple[Winner, ...]
    unsettled: tuple[Claim, ...]
    baselines: tuple[MeasuredBaseline, ...]
    reading: Reading | None
    hypotheses: tuple[Item, ...]
    background: Ledger
    dead_ends: tuple[DeadEnd, ...]
    decisions: tuple[EntryRecord, ...]
    revisions: tuple[EntryRecord, ...]
    kickoff: EntryRecord | None
    finish: EntryRecord | None
    production_pr: str
    stuck: int | None
    running: tuple[StepProgress, ...]
    sealed: tuple[str, ...]
    reproduced: tuple[EntryRecord, ...]
    unpublished: tuple[str, ...]
    only_here: tuple[str, ...]
    unfounded: tuple[str, ...]

    def against(self, case: Mapping[str, Any], machine: str) -> list[Claim]:
        """The claims on the primary metric against a baseline case on one kind of machine."""
        here = [claim for claim, where in zip(self.claims, self.machines, strict=True) if where == machine]
        return [claim for claim in on_primary(self.series, here) if claim.case == case]

    @property
    def next_commands(self) -> tuple[str, ...]:
        """What to do next, as commands that can be given as they are, the most urgent first."""
        topic, commands = self.series.topic, list[str]()
        if any(step.driver_gone for step in self.running):
            commands.append(f"python -m experiments.{topic}")
        if self.finish is None:
            commands += self._to_measure()
        if self.unpublished:
            commands.append(f"research sync {topic}")
        if self.reached is not None and self._measured_since_seal():
            commands.append(f"research seal {topic}")
        elif self.winners and self.sealed and self.sealed[-1] not in self._measured_again:
            commands.append(f"research reproduce {self.sealed[-1]}")
        elif self.reached is not None and self.finish is None:
            commands.append(f"research check {topic} --closing")
        return tuple(commands)

    def _to_measure(self) -> list[str]:
        if not self.baselines:
            return [f"python -m experiments.{self.series.topic}"]
        moved = any(baseline.entry.step == "rebase" for baseline in self.baselines)
        commands = [f"python -m experiments.{self.series.topic}"] if moved else []
        if any(is_contended(claim) for claim in self.unsettled):
            commands.append(f"python -m experiments.{self.series.topic} --retry contended")
        for winner in self.winners:
            if winner.claim.confidence == "exploratory" or winner.claim in self.by_older_rule:
                commands.append(f"research replicate {winner.claim.trials[0].id}")
            commands += [f"research undecided {self.series.topic}"] if winner.close else []
        return list(dict.fromkeys(commands))

    @property
    def _measured_again(self) -> list[str]:
        """The tags that somebody tried to reproduce."""
        return [record.details_as(Reproduction).tag for record in self.reproduced]

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
    shown: Collection[str] | None = None,
    only_here: Iterable[str] = (),
) -> ThreadState:
    """The state of a series after its `snapshot`; a surface leaves out of that what it may not show.

    `shown` are the hashes of the entries that the logbook shows, None where nobody asks for that; `running` and
    `only_here` is what its caller found out about this checkout.
    """
    entries = snapshot.in_order
    records = [entry.record for entry in entries]
    taken_back = snapshot.retracted
    counting = [entry for entry in entries if entry.sha256 not in taken_back]
    measured, left_out = founded(snapshot, entries)
    claims = _by_machine(series, measured, machine_of_claims(snapshot))
    current = [claim for claim, _, is_variant in claims if not is_variant]
    machines = [machine for _, machine, is_variant in claims if not is_variant]
    baselines = _baselines(snapshot, counting)
    winners = sorted(_winners(series, claims), key=lambda winner: _newest_first(winner, baselines, series))
    finishes = [record for record in records if record.step == "finish"]
    return ThreadState(
        series=series,
        entries=tuple(entries),
        retracted=taken_back,
        claims=tuple(current),
        machines=tuple(machines),
        best=winners[0].claim if winners else None,
        reached=next((winner.claim for winner in winners if reached(series, [winner.claim])), None),
        by_older_rule=tuple(claim for claim in current if not claim.level),
        winners=tuple(winners),
        unsettled=tuple(claim for claim in on_primary(series, current) if claim.verdict in _UNSETTLED),
        baselines=tuple(baselines),
        reading=_reading(counting, taken_back),
        hypotheses=tuple(queue(series, records, [entry.record for entry in counting])),
        background=ledger(records),
        dead_ends=tuple(_dead_ends(series, entries, current, taken_back)),
        decisions=tuple(record for record in records if record.step == "decision"),
        revisions=tuple(record for record in records if record.step in ("correction", "retraction", "rebase")),
        kickoff=next((record for record in records if record.step == "kickoff"), None),
        finish=finishes[-1] if finishes else None,
        production_pr=production_pr(counting),
        stuck=stuck(series, records),
        running=tuple(running),
        sealed=tuple(
            f"{series.topic}/{entry.record.id}"
            for entry in counting
            # Its entry is shown once it has its tag.
            if entry.record.step == "seal" and (shown is None or entry.sha256 in shown)
        ),
        reproduced=tuple(record for record in records if isinstance(record.details, Reproduction)),
        unpublished=() if shown is None else tuple(unpublished(series, entries, shown)),
        only_here=tuple(only_here),
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


def machine_of_claims(snapshot: Snapshot) -> Callable[[Claim], str]:
    """What tells of which kind of machine a claim is: that of its baseline, each of which is looked at once."""
    of_baseline = cache(snapshot.machine_of)
    return lambda claim: of_baseline(claim.floor[0] if claim.floor else claim.baseline)


def is_contended(claim: Claim) -> bool:
    """Whether it says nothing because its trials ran beside other load."""
    return claim.why.startswith(CONTENDED)


def _by_machine(
    series: Series, entries: Sequence[Stored[EntryRecord]], machine_of: Callable[[Claim], str]
) -> list[tuple[Claim, str, bool]]:
    """The claims that count now with the kind of machine that each is of, and whether it is made at a variant of the
    baseline's case: what one machine measured replaces nothing that another one did."""
    placed = [(entry, [(claim, machine_of(claim)) for claim in claims_in(entry.record)]) for entry in entries]
    machines = dict.fromkeys(machine for _, claims in placed for _, machine in claims)
    found: list[tuple[Claim, str, bool]] = []
    for machine in machines:
        own = [_with_claims(entry, [claim for claim, where in claims if where == machine]) for entry, claims in placed]
        current, beside = current_claims(series, own)
        found += [(claim, machine, False) for claim in current] + [(claim, machine, True) for claim in beside]
    return found


def _with_claims(entry: Stored[EntryRecord], claims: Sequence[Claim]) -> Stored[EntryRecord]:
    """The entry with these of its claims."""
    if len(claims) == len(claims_in(entry.record)):
        return entry
    return Stored(msgspec.structs.replace(entry.record, claims=tuple(claims)), entry.line)


def _winners(series: Series, claims: Sequence[tuple[Claim, str, bool]]) -> Iterable[Winner]:
    groups: dict[tuple[bytes, str], list[Claim]] = {}
    primary = series.primary.name
    for claim, machine, is_variant in claims:
        if claim.metric == primary and not is_variant:
            groups.setdefault((_key(claim.case), machine), []).append(claim)
    for (_, machine), alike in groups.items():
        winner = best(series, alike)
        if winner is not None:
            here = [claim for claim, where, _ in claims if where == machine]
            same = [claim for claim in here if claim.changes == winner.changes and claim.case == winner.case]
            also = [claim for claim in same if claim.metric != winner.metric]
            # What changes a variant axis is another workload.
            others = set(series.variants) - set(winner.changes)
            same_work = [claim for claim in alike if others.isdisjoint(claim.changes)]
            close = tuple(claim for claim in same_work if claim is not winner and _overlap(claim, winner))
            at = tuple(
                claim
                for claim in on_primary(series, here)
                if claim.changes == winner.changes
                and claim is not winner
                and set(differences(claim.case, winner.case)) <= set(series.variants)
            )
            also = sorted(also, key=lambda claim: claim.verdict != "regressed")
            yield Winner(winner, machine, tuple(also), close, at)


def _newest_first(winner: Winner, baselines: Sequence[MeasuredBaseline], series: Series) -> tuple[int, bool, float]:
    """Orders the winners: those of the machine that measured a baseline last, and there by what they gain."""
    measured = [number_of(baseline.entry.id) for baseline in baselines if baseline.machine == winner.machine]
    at_variant = winner.claim.case not in [baseline.case for baseline in baselines]
    return -max(measured, default=0), at_variant, -gain(series.primary, winner.claim)


def _overlap(claim: Claim, other: Claim) -> bool:
    if claim.low is None or claim.high is None or other.low is None or other.high is None or not claim.changes:
        return False
    return claim.estimand == other.estimand and claim.low <= other.high and other.low <= claim.high


def _baselines(snapshot: Snapshot, counting: Sequence[Stored[EntryRecord]]) -> list[MeasuredBaseline]:
    """The cases in force, each as it was measured last, in the order in which that was."""
    measured: dict[bytes, Stored[EntryRecord]] = {}
    for entry in counting:
        details = entry.record.details
        if isinstance(details, BaselineMeasurement) and entry.record.status == "ok":
            measured[canonical(details.baseline_case)] = entry
    found = []
    for label, fixed in fixed_cases(counting).items():
        entry = measured.get(canonical(fixed.case), fixed.entry)
        machine = snapshot.machine_of(entry.ref)
        found.append(MeasuredBaseline(label, entry.record, fixed.case, numbers(entry.record), machine))
    return sorted(found, key=lambda baseline: number_of(baseline.entry.id))


def _reading(counting: Sequence[Stored[EntryRecord]], retracted: frozenset[str]) -> Reading | None:
    done = [entry.record for entry in counting if entry.record.status == "ok"]
    last = next((record for record in reversed(done) if record.step in ("interpret", "finish")), None)
    if last is None:
        return None
    lost = sorted({ref.id for ref in last.inputs if ref.sha256 in retracted})
    later = [record for record in done if number_of(record.id) > number_of(last.id)]
    changed = tuple(r.id for r in later if r.step in ("rebase", "correction", "retraction") or claims_in(r))
    return Reading(last, last.result if last.step == "finish" else last.interpretation, tuple(lost), changed)


def _dead_ends(
    series: Series, entries: Sequence[Stored[EntryRecord]], claims: Iterable[Claim], retracted: frozenset[str]
) -> Iterable[DeadEnd]:
    """What failed, once for each reason, unless it went well later; and what did not help. A slip in the code is
    neither."""
    failed: dict[bytes, dict[str, DeadEnd]] = {}

    def note(about: str | dict[str, Any], why: str, id: str) -> None:
        whys = failed.setdefault(_key(about), {})
        whys[why] = DeadEnd(about, why, (*(whys[why].ids if why in whys else ()), id))

    for entry in entries:
        for row in entry.record.rows:
            if row.status == "ok":
                failed.pop(_key(row.changes), None)
            elif row.status == "failed" and not row.note.startswith(ROUTINE_NOTE) and row.trial.sha256 not in retracted:
                note(row.changes, row.note, row.trial.id)
        if entry.record.status == "ok":
            failed.pop(_key(entry.record.label), None)
        elif entry.record.status == "failed" and entry.sha256 not in retracted:
            note(entry.record.label, entry.record.result, entry.record.id)
    yield from (end for whys in failed.values() for end in whys.values())
    for record, details in adopted(entry.record for entry in entries if entry.sha256 not in retracted):
        if end := given_up(details):
            yield DeadEnd(*end, (record.id,), by_others=True)
    for claim in claims:
        if claim.metric == series.primary.name and claim.verdict in ("regressed", "no difference"):
            yield DeadEnd(claim.changes, claim.why, tuple(ref.id for ref in claim.trials), claim)


def _key(about: str | dict[str, Any]) -> bytes:
    return msgspec.json.encode(about, order="deterministic")


def unpublished(series: Series, entries: Iterable[Stored[EntryRecord]], shown: Collection[str]) -> Iterable[str]:
    """The IDs of the entries that the logbook will show and does not yet: `shown` are the hashes of those it does."""
    for entry in entries:
        if entry.sha256 not in shown and belongs_in_logbook(entry.record, series):
            yield entry.record.id
