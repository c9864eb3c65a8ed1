"""The kinds of step and of action: what an entry of each kind records of itself, and what every surface needs to know.

A new kind is one entry in this table, and the body that measures or says it. In the bytes of an entry its details are
the object `config`; a reader takes what it knows from there, so that a kind may record more later.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import msgspec

from research_steps.records import names

HypothesisState = Literal["active", "blocked", "supported", "promoted", "falsified"]


class Details(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What an entry records of its step, beside what every entry has. Of a seal, a note or an interpretation nothing."""


class Measurement(Details, frozen=True, kw_only=True):
    """The function that measured, as 'module:function', the baseline case that everything is compared with, and the
    numbers of the field that a repetition goes `over`."""

    measure: str = ""
    baseline_case: dict[str, Any] = {}
    over: dict[str, tuple[int, ...]] = {}


class BaselineMeasurement(Measurement, frozen=True, kw_only=True):
    """In how many processes the baseline case was measured against itself, and the digest of the code."""

    replicates: int = 0
    digest: names.MaybeHash = ""


class Sweep(Measurement, frozen=True, kw_only=True):
    """Every point as its change to the baseline case, the axis that they vary, and the values of the field that each was
    `tuned_over`."""

    points: tuple[dict[str, Any], ...] = ()
    axis: str = ""
    tuned_over: dict[str, tuple[Any, ...]] = {}


class Replication(Measurement, frozen=True, kw_only=True):
    """How many processes measured the candidate again, at which values of which variant axis. `candidate` is what was
    named, None for the best; `confirms` the trial of dev mode that it came from."""

    replicates: int = 0
    candidate: dict[str, Any] | None = None
    confirms: names.MaybeRecordID = ""
    across: dict[str, tuple[Any, ...]] = {}


class Interaction(Measurement, frozen=True, kw_only=True):
    """How many of the best of each sweep were combined, the axes that came without a sweep, and the rules that this
    broke because it was forced to."""

    top: int = 0
    axes: dict[str, tuple[Any, ...]] = {}
    forced: tuple[str, ...] = ()


class Ran(Details, frozen=True, kw_only=True):
    """A step of Marin by its function and configuration; or, as it was recorded before, a command on a TPU, with its
    exit code as a shell tells it, its time in seconds and the end of its output."""

    function: str = ""
    config: msgspec.UnsetType | Any = msgspec.UNSET
    command: str = ""
    tpu: str = ""
    node: str = ""
    env: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET
    exit: int | msgspec.UnsetType = msgspec.UNSET
    duration_s: float | msgspec.UnsetType = msgspec.UNSET
    output_tail: str | msgspec.UnsetType = msgspec.UNSET


class Kickoff(Details, frozen=True, kw_only=True):
    """The series as it started, in its own words."""

    motivation: str = ""
    problem: str = ""
    success_metrics: tuple[str, ...] = ()
    hypotheses: tuple[str, ...] = ()
    first_experiment_matrix: tuple[str, ...] = ()
    baseline_case: str = ""
    stop: str = ""
    code_paths: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    wandb_project: str = ""
    branch: str = ""
    issue: str = ""


class Decision(Details, frozen=True, kw_only=True):
    """Who answers for it, and whether it changes the scope of the thread."""

    owner: str
    scope: bool
    production_pr: str = ""


class Attachment(Details, frozen=True, kw_only=True):
    """A file by its name in the journal, its hash and size; or the address of one."""

    file: names.MaybeAttachedFile = ""
    sha256: names.MaybeHash = ""
    bytes: int | msgspec.UnsetType = msgspec.UNSET
    link: str = ""


class HypothesisChange(Details, frozen=True, kw_only=True):
    """A hypothesis, what it is from now on, and why: the next test, resume condition, decision, what supports it or
    stopping reason. `again` where an active one was there before."""

    hypothesis: names.HypothesisID
    text: str
    state: HypothesisState
    because: str
    again: bool = False


class Source(Details, frozen=True, kw_only=True, tag_field="kind", tag="source"):
    """Prior work with its claim, and the hypotheses or claims that this supports or contradicts."""

    type: str
    where: str
    version: str
    claim: str
    confidence: str
    notes: str
    internal: bool
    supports: tuple[str, ...]
    contradicts: tuple[str, ...]


class ContradictionCheck(Details, frozen=True, kw_only=True, tag_field="kind", tag="check"):
    """What contradicts a source's claim as far as somebody found it, or where they looked for it in vain."""

    claim: str
    found: str
    looked: str


class NextExperiment(Details, frozen=True, kw_only=True):
    """What to try next, and what would show it to be wrong."""

    experiment: str
    falsifier: str


class Brief(Details, frozen=True, kw_only=True, tag_field="kind", tag="brief"):
    """The question of background research, and the next experiments by rank."""

    question: str
    next: tuple[NextExperiment, ...]


class OthersRow(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What somebody else measured once, as their log says it."""

    fields: dict[str, Any] = {}
    metrics: dict[str, float] = {}
    outcome: str = ""
    note: str = ""


class Adopted(Details, frozen=True, kw_only=True):
    """Rows of others' logs, the name of the file that they come from, and which of its rows could not be read. They are
    shown and searched; nothing rests on them."""

    source: str
    rows: tuple[OthersRow, ...]
    unread: tuple[str, ...] = ()


class Rebase(Details, frozen=True, kw_only=True):
    """From where to where the case of a baseline moved, by its label, and by which claim; and the code that it has from
    then on: a commit, the patch on it and the digest of the measure function's."""

    baseline: str
    before: dict[str, Any] = msgspec.field(name="from")
    to: dict[str, Any]
    claim: str
    commit: names.MaybeCommit = ""
    patch: names.MaybeHash = ""
    digest: names.MaybeHash = ""


class Correction(Details, frozen=True, kw_only=True):
    """The ID of what it corrects."""

    corrects: names.MaybeRecordID = ""


class Retraction(Details, frozen=True, kw_only=True):
    """The ID of what it takes back."""

    retracts: names.MaybeRecordID = ""


class Reproduction(Details, frozen=True, kw_only=True):
    """The tag that was measured again, by which commands with which exit codes, and what came of it."""

    tag: names.MaybeTag = ""
    commit: names.MaybeCommit = ""
    commands: tuple[str, ...] = ()
    exits: tuple[int, ...] = ()
    not_run: tuple[str, ...] = ()
    environment: str = ""
    outcome: str = ""


class Finish(Details, frozen=True, kw_only=True):
    """The end of a thread. `confidence` is computed; `snapshot` is the tag of its last seal."""

    worked: str
    did_not: str
    confidence: str
    limitations: str
    next_steps: tuple[str, ...]
    snapshot: names.MaybeTag = ""
    production_pr: str = ""
    docs: str = ""


@dataclass(frozen=True)
class KindOfStep:
    """What is known of one kind. `change` tells people what such a step did, `milestone` whether others should find it
    later. `has_trials` is true where its table holds trials, `compares` where these are candidates against a baseline,
    `tabulates` where each row is one candidate. `concerns` is true of what is said about one other record."""

    details: Any
    change: str
    milestone: bool = False
    has_trials: bool = False
    compares: bool = False
    tabulates: bool = False
    concerns: bool = False


# fmt: off
STEP_KINDS: Mapping[str, KindOfStep] = MappingProxyType({
    "kickoff": KindOfStep(Kickoff, "Started the series."),
    "baseline": KindOfStep(
        BaselineMeasurement, "Measured the baseline case against itself.", milestone=True, has_trials=True),
    "sweep": KindOfStep(
        Sweep, "Varied one axis against the baseline.", has_trials=True, compares=True, tabulates=True),
    "replicate": KindOfStep(
        Replication, "Measured the best candidate again, each time in a process of its own.",
        has_trials=True, compares=True),
    "interact": KindOfStep(
        Interaction, "Measured the best values of several axes together.",
        has_trials=True, compares=True, tabulates=True),
    "dev": KindOfStep(
        Measurement, "Measured in dev mode, without the executor.", has_trials=True, tabulates=True),
    "step": KindOfStep(Ran, "Ran a step."),
    "outcome": KindOfStep(Ran, "Read the metrics of a step that was run.", has_trials=True),
    "interpret": KindOfStep(Details, "Read the measurements together.", milestone=True),
    "hypothesis": KindOfStep(HypothesisChange, "Changed the hypothesis queue."),
    # A kind of its own: versions that know no such state name what is newer by its kind, and call other states broken.
    "support": KindOfStep(HypothesisChange, "Found a hypothesis supported."),
    "source": KindOfStep(Source | ContradictionCheck | Brief, "Looked for prior work."),
    "adopted": KindOfStep(Adopted, "Took over what others measured."),
    "note": KindOfStep(Details, "Added an interpretation.", concerns=True),
    "attachment": KindOfStep(Attachment, "Attached a file.", concerns=True),
    "log": KindOfStep(Attachment, "Noted what happened."),
    "decision": KindOfStep(Decision, "Decided.", milestone=True),
    "rebase": KindOfStep(Rebase, "Moved the baseline.", milestone=True),
    "correction": KindOfStep(Correction, "Corrected what was said.", milestone=True, concerns=True),
    "retraction": KindOfStep(Retraction, "Took a record back.", milestone=True, concerns=True),
    "seal": KindOfStep(
        Details,
        "Sealed what was found: a tag over the logbook, its records, the code and a bundle to reproduce from.",
        milestone=True),
    "reproduction": KindOfStep(
        Reproduction, "Ran a sealed snapshot again, in a fresh store.", milestone=True),
    "finish": KindOfStep(Finish, "Finished the thread.", milestone=True),
})
# fmt: on


def plain_details(details: Details) -> dict[str, Any]:
    """The details as they are recorded: plain JSON values by name, in the order of their names."""
    # As they are read again: msgspec's own JSON takes no integer of more than 64 bits.
    fields: dict[str, Any] = json.loads(json.dumps(msgspec.to_builtins(details), sort_keys=True))
    return fields


def read_details(step: str, fields: Mapping[str, Any]) -> Details:
    """The details of a step of this kind from what was recorded. Raises msgspec.ValidationError."""
    details: Details = msgspec.convert(fields, STEP_KINDS[step].details)
    return details
