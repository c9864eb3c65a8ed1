"""Trials that a step asks for, one after the other, on the machine that this runs on."""

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from research_steps.errors import UsageError
from research_steps.evidence.claim_text import process_text
from research_steps.evidence.table import Trial
from research_steps.git import Checkout
from research_steps.journal.progress import passed
from research_steps.journal.wandb_project import step_environment
from research_steps.records.conditions import conditions
from research_steps.records.configurations import differences
from research_steps.records.model import InterruptedRecord, TrialRecord
from research_steps.records.series import Metric
from research_steps.trial.code import Code
from research_steps.trial.context import Session
from research_steps.trial.measured import Measured, TrialSpec
from research_steps.trial.trials import measure_trial
from research_steps.trial.versions import code_at

# How often it is noted what the journal had already, for whoever watches (seconds).
NOTED_S = 1.0


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """A trial that a step asks for: of this configuration, against this baseline case, under this ID.

    Where versions of the code are compared, `code` names that of the candidate. One that `must_succeed` is measured
    again when it had failed, and when it fails the trials after it are not begun.
    One that is `new` is told when the series knows it from before.
    """

    id: str
    label: str
    config: dict[str, Any]
    case: dict[str, Any]
    replicate: int = 0
    must_succeed: bool = False
    new: bool = False
    code: str = ""


@dataclass(frozen=True)
class Codes:
    """The code that the trials of a step run: all of them that of the baseline, in one process; or, where there are
    `versions`, the candidate the one that it names, and the baseline its own beside it."""

    baseline: Code
    versions: Mapping[str, Code]

    def spec(self, config_type: str, want: Wanted) -> TrialSpec:
        parts = (config_type, want.config, want.case, want.replicate)
        if not self.versions:
            return TrialSpec(self.baseline, *parts)
        return TrialSpec(self.versions.get(want.code, self.baseline), *parts, baseline_code=self.baseline)


def codes_of(session: Session, what: Measured) -> Codes:
    """The code that the trials of a step run. Raises UsageError when it can't be had here."""
    if not what.versions:
        return Codes(what.code(), {})
    checkout, wanted = Checkout.find(Path(what.root)), dict(what.versions)
    if what.baseline_version not in wanted:
        source = session.captured.provenance
        if source.version is None:
            raise UsageError(
                "Versions of the code can't be compared here, because what is on disk is not known by a commit and a "
                f"patch: {source.patch_note or 'there is no commit'}."
            )
        wanted[what.baseline_version] = source.version
    versions = {
        name: code_at(checkout, session.journal, what.name, what.root, commit, patch)
        for name, (commit, patch) in wanted.items()
    }
    baseline = versions.pop(what.baseline_version)
    return Codes(baseline, versions)


def measure_wanted(
    session: Session,
    codes: Codes,
    config_type: str,
    id: str,
    wanted: Sequence[Wanted],
    label: str = "",
    private: bool = False,
) -> list[Trial]:
    """The trials, in the order in which they were asked for; those after a failure that must not be are missing.

    What somebody else is measuring right now is left for the end, and then waited for. How far the step of this ID and
    label is stands on the session's board; where nobody draws that, a line is said for each trial. Nothing is put on the
    W&B runs of a `private` step.
    """
    hidden = private or session.private or session.series.private
    tracker = {} if hidden else step_environment(session.journal, session.series, id, label)
    done: dict[str, Trial] = {}
    # What the journal had under another ID, which whoever watches is told now and then.
    had: list[str] = []
    noted = time.monotonic()
    pending, waiting = deque(wanted), 0
    with session.board.measuring(id, label, len(wanted)) as step:
        while pending:
            want = pending.popleft()
            step.begin(want.label)
            spec = codes.spec(config_type, want)
            trial = _tried_before(session, spec, want) if want.new and not codes.versions else None
            # Whoever has nothing else left to do waits.
            wait = waiting >= len(pending)
            trial = trial or measure_trial(
                session,
                spec,
                id=want.id,
                label=want.label,
                must_succeed=want.must_succeed,
                wait=wait,
                tracker=tracker,
                hear=step.hear,
            )
            if trial is None:
                pending.append(want)
                waiting += 1
                continue
            waiting = 0
            if trial.stored.record.id == want.id:
                # Measured for this step, though by a process that was killed, perhaps.
                trial = replace(trial, measured_here=True)
            else:
                had.append(want.id)
            done[want.id] = trial
            failed = isinstance(trial.stored.record, InterruptedRecord) or trial.stored.record.error is not None
            step.end(failed=failed, measured=trial.measured_here)
            if not session.board.is_drawn:
                # With the trial's own ID, because shards measure side by side.
                session.say(
                    f"{want.id}: {len(done)}/{len(wanted)} {want.label}: {_outcome(trial, session.series.primary)}"
                )
            if had and (not pending or time.monotonic() - noted > NOTED_S):
                passed(session.journal, id, wanted[0].id, had)
                noted = time.monotonic()
            if want.must_succeed and failed:
                break
    if session.board.is_drawn:
        among = f", {step.failed} of them failed" if step.failed else ""
        session.say(f"{id} {label}: {step.done}/{step.total} trials done{among}")
    return [done[want.id] for want in wanted if want.id in done]


def _outcome(trial: Trial, metric: Metric) -> str:
    record = trial.stored.record
    if isinstance(record, InterruptedRecord):
        return f"interrupted, {record.reason}"
    if record.error is not None:
        return f"failed, {record.error.line}"
    load = ", contended" if record.contended and metric.timed else ""
    return f"{process_text(metric, record.samples)}{load}{'' if trial.measured_here else ', from the journal'}"


def _tried_before(session: Session, spec: TrialSpec, want: Wanted) -> Trial | None:
    """Tell what is known of a configuration that the journal does not hold; with --skip_known that is taken for it."""
    if session.journal.attempts.of("trial", spec.key(session.host.facts(spec.code.variables).conditions)):
        return None
    tried = session.prior_results.about(spec.config, spec.baseline_config)
    if tried is None:
        return None
    record = tried.stored.record
    note = f"tried before as {record.id}, {tried.outcome} ({_conditions(session, record, spec)})"
    session.say(f"{want.id} ({want.label}): {note}")
    return Trial(tried.stored, False, f"skipped: {note}") if session.skip_known else None


def _conditions(session: Session, record: TrialRecord, spec: TrialSpec) -> str:
    """What was different then."""
    differ = differences(conditions(record), session.host.facts(spec.code.variables).conditions)
    parts = [f"{name} {was} then, {now} now" for name, (was, now) in differ.items()]
    parts += [] if record.code == spec.code.digest else ["the measure function's code has changed since"]
    return "; ".join(parts) or f"on {record.device_class}, like now"
