"""What dev mode compares an attempt with: the noise floor of its baseline, and the best that is known so far."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from research_steps.errors import StoreError
from research_steps.evidence.claim_text import changes_text, estimate_text
from research_steps.evidence.claims import Baseline
from research_steps.evidence.standing import best, standing
from research_steps.journal.journal import Journal
from research_steps.journal.snapshot import Snapshot
from research_steps.records.conditions import conditions
from research_steps.records.encoding import Stored, canonical, sha256
from research_steps.records.model import Claim, EntryRecord, InterruptedRecord, Ref, TrialRecord
from research_steps.records.objects import FloorTrials
from research_steps.records.series import Series
from research_steps.records.step_kinds import Measurement


@dataclass(frozen=True)
class DevEvidence:
    """What a series knows that an attempt is compared with: its entries that count, in the order of their end, and the
    hashes of the records that are `gone`, because they were retracted."""

    series: Series
    journal: Journal
    entries: list[Stored[EntryRecord]]
    gone: frozenset[str]

    @staticmethod
    def of(series: Series, journal: Journal, published: Snapshot) -> "DevEvidence":
        gone = published.retracted
        return DevEvidence(series, journal, [one for one in published.in_order if one.sha256 not in gone], gone)

    def floor(self, record: TrialRecord) -> Baseline | None:
        """The noise floor for a trial: of the newest baseline entry with its case and conditions, else of dev mode."""
        for entry in reversed(self.entries):
            found, case = entry.record, record.baseline_config
            if found.step == "baseline" and found.status == "ok" and case_of(found) == case:
                trials = self._trials(row.trial for row in found.rows)
                if self._serves(trials, record):
                    return Baseline(record.baseline_config, entry.ref, trials)
        held = self.journal.noted(floor_name(record), FloorTrials)
        trials = self._trials(held.trials) if held is not None else []
        return Baseline(record.baseline_config, trials[0].ref, trials) if self._serves(trials, record) else None

    def keep_floor(self, trials: Sequence[Stored[TrialRecord]]) -> None:
        """Have these be the noise floor that dev mode measured for what they were measured for."""
        refs = tuple(trial.ref for trial in trials)
        self.journal.note(floor_name(trials[0].record), FloorTrials(trials=refs))

    def best(self, case: Mapping[str, Any]) -> Claim | None:
        """The best that the series knows of this case."""
        known = standing(entry.record for entry in self.entries)
        return best(self.series, [claim for claim in known if claim.case == case])

    def tried(self, changes: Mapping[str, Any], case: Mapping[str, Any]) -> str:
        """What is known against a configuration, empty when nothing is."""
        said = ""
        for entry in (one.record for one in self.entries):
            if case_of(entry) == case:
                failed = (row for row in entry.rows if row.changes == changes and row.status == "failed")
                said = next((f"{row.trial.id} {row.note}" for row in failed), said)
        primary = self.series.primary.name
        for claim in standing(entry.record for entry in self.entries):
            same = (claim.metric, claim.changes, claim.case) == (primary, changes, case)
            if same and claim.verdict in ("regressed", "no difference"):
                said = f"{claim.trials[0].id} {claim.verdict}, {primary} {estimate_text(claim)}"
        return f"tried before: {changes_text(changes)}: {said}" if said else ""

    def _trials(self, refs: Iterable[Ref]) -> list[Stored[TrialRecord]]:
        found = []
        for ref in refs:
            try:
                found.append(self.journal.load("trial", ref))
            except StoreError:
                # In a clone whose store is another one. A floor with a trial less is none.
                return []
        return [] if any(one.sha256 in self.gone for one in found) else found

    def _serves(self, trials: Sequence[Stored[Any]], record: TrialRecord) -> bool:
        """Whether trials of the baseline tell how a trial's ratio scatters, or are what it is compared with."""
        first = trials[0].record if trials else None
        if first is None or isinstance(first, InterruptedRecord) or conditions(first) != conditions(record):
            return False
        if self.series.primary.timed and not record.contended:
            # What was measured beside other load tells nothing; it is measured again now that the machine is quiet.
            quiet = sum(not one.record.contended for one in trials)
            if quiet < min(2, self.series.floor_processes):
                return False
        return first.measure == record.measure and (first.code == record.code or _is_paired(record))


def case_of(entry: EntryRecord) -> dict[str, Any] | None:
    """The baseline case of an entry that measured, None for another."""
    details = entry.details
    return details.baseline_case if isinstance(details, Measurement) else None


def floor_name(record: TrialRecord) -> str:
    """Under which name the journal keeps the noise floor that dev mode measured for such trials."""
    code = "" if _is_paired(record) else record.code
    return f"floors/{sha256(canonical([record.measure, code, record.baseline_config, conditions(record)]))}"


def _is_paired(record: TrialRecord) -> bool:
    return record.samples is not None and record.samples.paired
