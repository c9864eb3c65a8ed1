"""What dev mode compares an attempt with: the noise floor of its baseline, and the best that is known so far."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from research_steps.errors import StoreError
from research_steps.evidence.claim_text import changes_text, estimate_text
from research_steps.evidence.claims import Baseline
from research_steps.evidence.standing import FixedCase, best, fixed_cases, standing
from research_steps.journal.journal import Journal
from research_steps.records.conditions import conditions
from research_steps.records.configurations import CODE, code_name, configuration_of
from research_steps.records.encoding import Stored, canonical, sha256
from research_steps.records.model import Claim, EntryRecord, InterruptedRecord, Ref, TrialRecord, Version
from research_steps.records.objects import FloorTrials
from research_steps.records.series import Series
from research_steps.records.step_kinds import Measurement


@dataclass(frozen=True)
class DevEvidence:
    """What a series knows that an attempt is compared with: its entries that count, in the order of their end, and the
    hashes of the records that were retracted."""

    series: Series
    journal: Journal
    entries: list[Stored[EntryRecord]]
    retracted: frozenset[str]

    def fixed(self, case: Mapping[str, Any], label: str = "") -> FixedCase | None:
        """A baseline case as it was fixed last, with its code; None where it was not."""
        wanted = dict(case)
        for name, fixed in reversed(fixed_cases(self.entries).items()):
            if label in ("", name) and configuration_of(fixed.case, wanted) == wanted:
                return fixed
        return None

    def case(self, record: TrialRecord) -> dict[str, Any]:
        """What a trial was compared with, as claims name it: the case that is fixed, or that with another version of
        the code."""
        fixed, version = self.fixed(record.baseline_config), record.baseline_version
        if isinstance(version, Version) and (fixed is None or fixed.version != (version.commit, version.patch)):
            return {**record.baseline_config, CODE: code_name(version.commit, version.patch)}
        return fixed.case if fixed is not None else record.baseline_config

    def floor(self, record: TrialRecord) -> Baseline | None:
        """The noise floor for a trial: of the newest baseline entry with its case and conditions, else of dev mode."""
        case, fixed = self.case(record), self.fixed(record.baseline_config)
        for entry in reversed(self.entries):
            baseline = entry.record
            if baseline.step == "baseline" and baseline.status == "ok" and case_of(baseline) == case:
                trials = self._trials(row.trial for row in baseline.rows)
                if self._serves(trials, record):
                    return Baseline(case, entry.ref, trials)
        floor = self.journal.noted(floor_name(record), FloorTrials)
        trials = self._trials(floor.trials) if floor is not None else []
        if not self._serves(trials, record):
            return None
        if isinstance(record.baseline_version, Version) and fixed is not None and fixed.case == case:
            return Baseline(case, fixed.entry.ref, trials, beside=True)
        return Baseline(case, trials[0].ref, trials)

    def keep_floor(self, trials: Sequence[Stored[TrialRecord]]) -> None:
        """Have these be the noise floor that dev mode measured for what they were measured for."""
        refs = tuple(trial.ref for trial in trials)
        self.journal.note(floor_name(trials[0].record), FloorTrials(trials=refs))

    def best(self, case: Mapping[str, Any]) -> Claim | None:
        """The best that the series knows of this case."""
        claims = standing(entry.record for entry in self.entries)
        return best(self.series, [claim for claim in claims if claim.case == case])

    def tried(self, changes: Mapping[str, Any], case: Mapping[str, Any]) -> str:
        """What is known against a configuration, empty when nothing is."""
        outcome = ""
        entries = [stored.record for stored in self.entries]
        for entry in entries:
            if case_of(entry) == case:
                failed = (row for row in entry.rows if row.changes == changes and row.status == "failed")
                outcome = next((f"{row.trial.id} {row.note}" for row in failed), outcome)
        primary = self.series.primary.name
        for claim in standing(entries):
            same = (claim.metric, claim.changes, claim.case) == (primary, changes, case)
            if same and claim.verdict in ("regressed", "no difference"):
                outcome = f"{claim.trials[0].id} {claim.verdict}, {primary} {estimate_text(claim)}"
        return f"tried before: {changes_text(changes)}: {outcome}" if outcome else ""

    def _trials(self, refs: Iterable[Ref]) -> list[Stored[TrialRecord]]:
        try:
            trials = [self.journal.load("trial", ref) for ref in refs]
        except StoreError:
            # In a clone whose store is another one. A floor with a trial less is none.
            return []
        return [] if any(trial.sha256 in self.retracted for trial in trials) else trials

    def _serves(self, trials: Sequence[Stored[Any]], record: TrialRecord) -> bool:
        """Whether trials of the baseline tell how a trial's ratio scatters, or are what it is compared with."""
        first = trials[0].record if trials else None
        if first is None or isinstance(first, InterruptedRecord) or conditions(first) != conditions(record):
            return False
        if self.series.primary.timed and not record.contended:
            # What was measured beside other load tells nothing; it is measured again now that the machine is quiet.
            quiet = sum(not trial.record.contended for trial in trials)
            if quiet < min(2, self.series.floor_processes):
                return False
        if _is_paired(record):
            return bool((first.measure, first.baseline_version) == (record.measure, record.baseline_version))
        return bool((first.measure, first.code) == (record.measure, record.baseline_code))


def case_of(entry: EntryRecord) -> dict[str, Any] | None:
    """The baseline case of an entry that measured, None for another."""
    details = entry.details
    return details.baseline_case if isinstance(details, Measurement) else None


def floor_name(record: TrialRecord) -> str:
    """Under which name the journal keeps the noise floor that dev mode measured for such trials."""
    code = "" if _is_paired(record) else record.baseline_code
    if _is_paired(record) and isinstance(record.baseline_version, Version):
        code = f"{record.baseline_version.commit} {record.baseline_version.patch}"
    return f"floors/{sha256(canonical([record.measure, code, record.baseline_config, conditions(record)]))}"


def _is_paired(record: TrialRecord) -> bool:
    return record.samples is not None and record.samples.paired
