"""The steps that `research replicate` and `research confirm` run: a candidate of the journal, measured again."""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from research_steps.errors import UsageError
from research_steps.records.configurations import changes_in, plain
from research_steps.records.encoding import Stored
from research_steps.records.model import Claim, EntryRecord, TrialRecord
from research_steps.records.step_kinds import Measurement
from research_steps.thread import marin
from research_steps.thread.builders import StepBuilder, measured_by
from research_steps.thread.types import Step
from research_steps.trial.code import trace_name
from research_steps.trial.measured import Measured


def replicate_again(
    builder: StepBuilder,
    claim: Claim,
    entry: Stored[EntryRecord],
    trial: TrialRecord,
    root: Path,
    numbers: Sequence[int],
) -> Step:
    """Measure the candidate of an entry again, in processes with these numbers; the thread need not know it.

    Raises UsageError when the code under `root` is not what the trial measured.
    """
    code = trace_name(trial.measure, root)
    if code.digest != trial.code:
        raise _other_code(trial, code.digest, ", or run the thread again")
    over = next(iter(entry.record.details_as(Measurement).over.items()), None)
    return builder.add(
        "replicate",
        f"{trial.id} again",
        "",
        measured=Measured(code.name, str(root), code.digest, trial.config_type, claim.case, None, code.variables, over),
        rests_on=(msgspec.to_builtins(claim.baseline), msgspec.to_builtins(entry.ref)),
        replicates=tuple(numbers),
        candidate=claim.changes,
    )


def confirm(builder: StepBuilder, base: Step, trial: TrialRecord, numbers: Sequence[int]) -> Step:
    """Measure what dev mode found through the executor, in processes with these numbers. `base` is its baseline.

    Raises UsageError when the code is not what the trial measured.
    """
    measured = measured_by(base, f"{trial.id} confirmed")
    if measured.digest != trial.code:
        mend = f", and bring the edits back with 'research show {trial.id} --patch | git apply'"
        raise _other_code(trial, measured.digest, mend)
    case = plain(measured.case, trial.id, marin.unwrap)
    return builder.add(
        "replicate",
        f"{trial.id} confirmed",
        "",
        [base],
        measured,
        replicates=tuple(numbers),
        candidate=changes_in(trial.config, case),
        confirms=trial.id,
    )


def _other_code(trial: TrialRecord, digest: str, mend: str) -> UsageError:
    return UsageError(
        f"{trial.measure} is not the code that {trial.id} measured (digest {trial.code[:12]} then, {digest[:12]} now): "
        f"check out commit {trial.provenance.commit}{mend}."
    )
