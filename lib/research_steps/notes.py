"""What people and agents say themselves about a series: kickoff, decisions, and the end. Each becomes an entry.

The same thing said twice is one entry, so a command that was killed may simply be given again.
"""

from collections.abc import Sequence
from typing import Any

from research_steps.entry import About, Finding, write_entry
from research_steps.errors import UsageError
from research_steps.git import Checkout
from research_steps.journal import Journal, Snapshot
from research_steps.provenance import Captured, capture, command_line
from research_steps.record import EntryRecord, Ref, Seal, StepKind, Stored, canonical, sha256
from research_steps.series import Series
from research_steps.sinks.issue import linked_issue
from research_steps.sinks.issue_text import confidence
from research_steps.sinks.logbook import numbers_used

LABEL_LENGTH = 80


class Desk:
    """One series as somebody writes about it from one checkout."""

    def __init__(self, checkout: Checkout, journal: Journal, series: Series) -> None:
        self.checkout = checkout
        self.journal = journal
        self.series = series

    def kickoff(self, branch: str | None, project: str) -> Stored[EntryRecord]:
        """The series as it starts: why, what for, where, and when to stop."""
        series, issue = self.series, linked_issue(self.checkout, self.journal)
        for stored in self._scan().entries.values():
            if stored.record.step == "kickoff" and not stored.record.late:
                return stored
        config = {
            "motivation": series.motivation,
            "problem": series.problem,
            "success_metrics": [f"{metric.name} ({metric.direction})" for metric in series.metrics]
            + ([series.success] if series.success else []),
            "hypotheses": [f"{known.id}: {known.text}" for known in series.hypotheses],
            "first_experiment_matrix": list(series.matrix),
            "baseline_case": series.baseline_case,
            "stop": series.stop,
            "code_paths": list(series.code_paths),
            "references": list(series.references),
            "tags": list(series.shared_tags(issue.number if issue else None)),
            "wandb_project": project,
            "branch": branch or "",
            "issue": f"{issue.repository}#{issue.number}" if issue else f".agents/issues/{series.topic}.md",
        }
        found = Finding(result=f"The series starts: {series.goal}", next_action="Measure the baseline case.")
        return self._write("kickoff", "kickoff", "kickoff", {k: v for k, v in config.items() if v}, found)

    def decide(self, text: str, evidence: Sequence[str], owner: str, scope: bool) -> Stored[EntryRecord]:
        """A decision, with the records that it rests on and who answers for it; or a change of the scope."""
        if not text.strip():
            raise UsageError("The decision is empty: say in a sentence what was decided.")
        captured = self._captured()
        known = self._scan()
        rests_on = [_find(known, id) for id in evidence]
        config = {"owner": owner or captured.provenance.actor.name, "scope": scope}
        label = text if len(text) <= LABEL_LENGTH else f"{text[: LABEL_LENGTH - 1]}…"
        key = f"decision/{sha256(canonical([text, list(evidence), config]))[:16]}"
        private = any(map(known.is_private, evidence))
        inputs = tuple(stored.ref for stored in rests_on)
        return self._write("decision", key, label, config, Finding(result=text), inputs, private, captured)

    def finish(
        self,
        *,
        worked: str,
        did_not: str,
        limitations: str,
        next_steps: Sequence[str],
        conclusion: str,
        production_pr: str,
    ) -> Stored[EntryRecord]:
        """The final summary. Raises UsageError that names what is missing."""
        found = self._scan()
        standing = [stored for stored in found.entries.values() if not stored.record.late]
        seals = [stored for stored in standing if stored.record.step == "seal" and self._is_sealed(stored.record)]
        parts = {
            "what worked (--worked)": worked.strip(),
            "what did not (--did-not)": did_not.strip(),
            "limitations (--limitations)": limitations.strip(),
            "next steps (--next, once for each, in order)": all(step.strip() for step in next_steps) and next_steps,
            "a conclusion (--conclusion)": conclusion.strip(),
            "a sealed snapshot (run the thread with --seal true)": seals,
            "a measured baseline": [s for s in standing if s.record.step == "baseline" and s.record.status == "ok"],
        }
        missing = [name for name, given in parts.items() if not given]
        running = [attempt.intent.id for attempt in found.open if not attempt.orphaned()]
        missing += [f"the end of {', '.join(running)}, which still runs"] if running else []
        if missing:
            raise UsageError(f"{self.series.topic} can't be finished yet. Missing: {'; '.join(missing)}.")
        last = max(seals, key=lambda stored: (stored.record.finished_at, stored.record.id))
        below = found.below(last)
        config: dict[str, Any] = {
            "worked": worked,
            "did_not": did_not,
            "confidence": confidence(last.record, [stored.record for stored in below]),
            "limitations": limitations,
            "next_steps": list(next_steps),
            "snapshot": f"{self.series.topic}/{last.record.id}",
            **({"production_pr": production_pr} if production_pr else {}),
        }
        text = f"What worked: {worked} What did not: {did_not} Limitations: {limitations}"
        steps = " ".join(f"{number}. {step}" for number, step in enumerate(next_steps, 1))
        said = Finding(result=conclusion, interpretation=text, next_action=steps)
        key = f"finish/{sha256(canonical([config, conclusion]))[:16]}"
        return self._write("finish", key, "final summary", config, said, (last.ref,), bool(last.record.private))

    def _write(
        self,
        kind: StepKind,
        key: str,
        label: str,
        config: dict[str, Any],
        said: Finding,
        inputs: tuple[Ref, ...] = (),
        private: bool = False,
        captured: Captured | None = None,
    ) -> Stored[EntryRecord]:
        about = About(kind=kind, step_key=key, label=label, hypothesis="", config=config, inputs=inputs, private=private)
        self.journal.declare(self.series)
        used = numbers_used(self.checkout, self.series.topic, self.series.prefix)
        return write_entry(self.journal, self.series, captured or self._captured(), used, about, said)

    def _is_sealed(self, record: EntryRecord) -> bool:
        return record.status == "ok" and self.journal.decided(f"seals/{record.id}", Seal) is not None

    def _captured(self) -> Captured:
        return capture(self.checkout, command_line())

    def _scan(self) -> Snapshot:
        return self.journal.scan(self.checkout.logbooks / self.series.topic)


def _find(found: Snapshot, id: str) -> Stored[Any]:
    records = found.find(id)
    if not records:
        raise UsageError(f"The evidence {id!r} is no record of this series: expected an ID such as MOE-HC-007.03.")
    kind = type(records[0].record)
    standing = sorted({one.sha256[:12] for one in records if type(one.record) is kind and not one.record.late})
    if len(standing) > 1:
        raise UsageError(
            f"The evidence {id!r} is the ID of {len(standing)} records ({', '.join(standing)}), because two branches "
            "used it: name another record that rests on the one that you mean."
        )
    return records[0]
