"""Was this tried before? What the series knows of a configuration is told before it is measured again.

A trial that the journal holds under the same identity is not measured again anyway. Here are those that differ in
something else (code, versions, machine) and failed, or did not beat the baseline.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from research_steps.errors import JournalProblem
from research_steps.evidence.claim_text import estimate_text
from research_steps.evidence.judgement import is_routine
from research_steps.evidence.standing import standing
from research_steps.journal.snapshot import Snapshot, entries_of
from research_steps.records.encoding import Stored, canonical
from research_steps.records.model import Ref, TrialRecord
from research_steps.records.series import Series


@dataclass(frozen=True)
class Tried:
    """A trial that ended badly, and how."""

    stored: Stored[TrialRecord]
    outcome: str


class PriorResults:
    """What failed or did not help, by configuration and baseline case."""

    def __init__(self, series: Series, snapshot: Snapshot) -> None:
        self._trials = snapshot.trials
        self._tried: dict[bytes, Tried] = {}
        retracted = snapshot.retracted
        for stored in sorted(snapshot.trials.values(), key=lambda trial: trial.record.finished_at):
            record = stored.record
            if stored.sha256 in retracted or is_routine(record) or record.late:
                continue
            key = canonical([record.config, record.baseline_config])
            # What has worked since is no known failure.
            self._tried.pop(key, None)
            if record.error is not None:
                self._tried[key] = Tried(stored, f"failed: {record.error.line}")
        for claim in standing(entries_of(snapshot)):
            if claim.metric == series.primary.name and claim.verdict in ("regressed", "no difference"):
                for ref in claim.trials:
                    if ref.sha256 in snapshot.trials and ref.sha256 not in retracted:
                        tried = snapshot.trials[ref.sha256]
                        outcome = f"{claim.verdict}, {claim.metric} {estimate_text(claim)}"
                        self._tried[canonical([tried.record.config, claim.case])] = Tried(tried, outcome)

    def trial(self, ref: Ref) -> Stored[TrialRecord]:
        """A trial of the store or the repository. Raises JournalProblem when it is in neither."""
        if ref.sha256 not in self._trials:
            raise JournalProblem(
                f"The record of {ref.id} with hash {ref.sha256[:12]} is neither in the store nor in git."
            )
        return self._trials[ref.sha256]

    def about(self, config: Mapping[str, Any], case: Mapping[str, Any]) -> Tried | None:
        return self._tried.get(canonical([config, case]))
