"""The steps that `research replicate` and `research confirm` run: a candidate of the journal, measured again.

It is measured by the code that it was measured with, whatever the work tree holds by now: where that is other code, by a
copy of that version.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from research_steps.errors import UsageError
from research_steps.git import Checkout
from research_steps.journal.journal import Journal
from research_steps.records.configurations import CODE, configuration_of
from research_steps.records.encoding import Stored
from research_steps.records.model import Claim, EntryRecord, Ref, TrialRecord, Version
from research_steps.records.step_kinds import Measurement
from research_steps.thread.builders import StepBuilder, measured_by
from research_steps.thread.dev.cases import measures_with
from research_steps.thread.loading import load_thread
from research_steps.thread.types import Step
from research_steps.trial.code import Code, trace_name
from research_steps.trial.measured import Measured
from research_steps.trial.trust import Trust
from research_steps.trial.versions import code_at


@dataclass(frozen=True)
class Again:
    """A `trial` of a candidate that is measured again, in processes with these `numbers`: the `changes` to the baseline
    `case`, as claims name them, in the checkout and journal that hold it."""

    checkout: Checkout
    journal: Journal
    trial: TrialRecord
    changes: dict[str, Any]
    case: dict[str, Any]
    numbers: Sequence[int]

    def measured(self, over: tuple[str, tuple[int, ...]] | None = None) -> Measured:
        """What is measured, by the versions of the code that the trial ran. Raises UsageError without these, and where
        only the record says what measures."""
        self._check_measure()
        trial, versions = self.trial, self._versions()
        code = next(iter(versions.values())) if versions else trace_name(trial.measure, self.checkout.root)
        case = configuration_of(self.case, trial.baseline_config)
        parts = (code.name, str(self.checkout.root), code.digest, trial.config_type, case, None, code.variables, over)
        named = {name: version.tree.version for name, version in versions.items() if version.tree is not None}
        return Measured(*parts, versions=named, baseline_version=str(self.case.get(CODE, "")) if versions else "")

    @property
    def is_on_disk(self) -> bool:
        """Whether the code on disk is what both sides of the trial ran."""
        if isinstance(self.trial.baseline_version, Version):
            return False
        try:
            return trace_name(self.trial.measure, self.checkout.root).digest == self.trial.code
        except UsageError:
            # It was moved, or does not even parse.
            return False

    def _check_measure(self) -> None:
        """Raises UsageError where no thread that was run in this checkout measures like that, nor the one here."""
        trial, topic = self.trial, self.journal.topic
        if Trust(self.checkout).has_measure(trial.measure, trial.config_type):
            return
        _, thread = load_thread(self.checkout, topic)
        if not measures_with(thread, trial.measure, trial.config_type):
            raise UsageError(
                f"{trial.id} says that it measured with {trial.measure} on a {trial.config_type}, and no baseline of "
                f"experiments/{topic}/__main__.py does: a record can name any function, so it is not called. Where it "
                f"is right, allow it to run here with 'research trust {trial.id}'."
            )

    def _versions(self) -> dict[str, Code]:
        """The code of the baseline, then that of the candidate where it is another one; nothing where it is on disk."""
        if self.is_on_disk:
            return {}
        trial, name = self.trial, str(self.case.get(CODE, ""))
        mine, baseline = trial.provenance.version, trial.baseline_version
        if mine is None:
            raise UsageError(
                f"The code that {trial.id} measured can't be had again, because it is not known by a commit and a patch "
                f"({trial.provenance.patch_note or 'there is no commit'}): bring it back, and measure it anew."
            )
        theirs = (baseline.commit, baseline.patch) if isinstance(baseline, Version) else mine
        wanted = {name: theirs} | ({str(self.changes[CODE]): mine} if isinstance(baseline, Version) else {})
        return {
            name: code_at(self.checkout, self.journal, trial.measure, self.checkout.root, *version)
            for name, version in wanted.items()
        }


def replicate_again(builder: StepBuilder, again: Again, claim: Claim, entry: Stored[EntryRecord]) -> Step:
    """Measure the candidate of an entry again; the thread need not know it. Raises UsageError."""
    over = next(iter(entry.record.details_as(Measurement).over.items()), None)
    return builder.add(
        "replicate",
        f"{again.trial.id} again",
        "",
        measured=again.measured(over),
        rests_on=(msgspec.to_builtins(claim.baseline), msgspec.to_builtins(entry.ref)),
        replicates=tuple(again.numbers),
        candidate=claim.changes,
    )


def confirm(builder: StepBuilder, again: Again, base: Step) -> Step:
    """Measure what dev mode found through the executor, by the code on disk. `base` is its baseline."""
    measured = measured_by(base, f"{again.trial.id} confirmed")
    return _confirm(builder, again, measured, inputs=[base])


def confirm_version(builder: StepBuilder, again: Again, base: Ref) -> Step:
    """Measure what dev mode found through the executor, by its own version of the code. `base` is the entry that fixed
    its baseline. Raises UsageError."""
    return _confirm(builder, again, again.measured(), rests_on=(msgspec.to_builtins(base),))


def _confirm(builder: StepBuilder, again: Again, measured: Measured, **parts: Any) -> Step:
    return builder.add(
        "replicate",
        f"{again.trial.id} confirmed",
        "",
        measured=measured,
        replicates=tuple(again.numbers),
        candidate=again.changes,
        confirms=again.trial.id,
        **parts,
    )
