"""Records: what the journal holds, one frozen class for each kind.

A record is the immutable outcome of one attempt. Its identity is the SHA-256 of its canonical bytes: one line of
JSON, keys sorted, no spaces, ASCII only, shortest float representation, no NaN, then one LF that the hash leaves
out. Times are UTC, ISO 8601, milliseconds, 'Z'.
"""

from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import msgspec

from research_steps.errors import JournalProblem
from research_steps.records import names
from research_steps.records.step_kinds import Details, read_details
from research_steps.records.times import Time

D = TypeVar("D", bound=Details)

Status = Literal["ok", "failed", "interrupted"]
Verdict = Literal["improved", "regressed", "no difference", "inconclusive", "failed", "not comparable"]
Estimand = Literal["ratio", "difference", "absolute"]
Confidence = Literal["exploratory", "replicated", "stable"]
Mode = Literal["executor", "dev"]


# Records hold no cycles, so that none is looked for in the thousands that are read.
class Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    pass


class Versioned(Strict, frozen=True, kw_only=True):
    """An object of the journal. Each kind counts its own schemas: one that comes to hold more gets the next number here,
    and the new fields a default that tells that an older one has none."""

    schema: int = 1


class Owner(Strict, frozen=True):
    """The process that holds an attempt; `machine` tells host, boot and PID namespace apart."""

    machine: str
    host: str
    pid: int
    process_started: float


class Actor(Strict, frozen=True):
    """Who did it."""

    name: str
    kind: Literal["person", "agent"]


class Device(Strict, frozen=True):
    """What the trial really ran on, as JAX saw it in the child."""

    backend: str
    kind: str
    count: int

    def __str__(self) -> str:
        return f"{self.count} × {self.backend} {self.kind}"


class Provenance(Strict, frozen=True):
    """Where a record comes from. `patch` is the SHA-256 of the difference to `commit`, kept beside the record;
    `environment` that of the list of all installed packages, kept in the journal."""

    command: str
    actor: Actor
    commit: names.Commit | None
    branch: str | None
    patch: names.Hash | None
    patch_note: str
    host: str
    python: names.PythonVersion
    packages: dict[str, str]
    env: dict[str, str]
    environment: names.Hash | msgspec.UnsetType = msgspec.UNSET

    @property
    def version(self) -> tuple[str, str | None] | None:
        """The commit and patch that the code can be had again by; None without a commit, or where the patch is not
        whole."""
        return (self.commit, self.patch) if self.commit is not None and self.is_whole else None

    @property
    def is_whole(self) -> bool:
        """Whether the patch was not withheld, and holds every change of what git tracks."""
        return not self.patch_note.startswith(("withheld", "not in the patch"))


@dataclass(frozen=True)
class Captured:
    """A run's provenance, and the bytes of its patch when the tree was dirty."""

    provenance: Provenance
    patch: bytes | None


class Error(Strict, frozen=True):
    """An exception as data: its type, message and innermost frames, and which side of the pair it hit."""

    type: str
    message: str
    frames: tuple[str, ...]
    where: Literal["candidate", "baseline", "child", "step"]
    output_tail: str

    @property
    def line(self) -> str:
        """The type with the first line of the message."""
        return f"{self.type}: {(self.message.splitlines() or [''])[0]}"


class Launch(Strict, frozen=True):
    """How the trial's process ran: forked for it alone, or one that stays with its backend (in-process). Durations in
    seconds, memory in bytes."""

    how: Literal["forked", "in-process"]
    parent_pid: int
    parent_threads: int
    preloaded_modules: int
    child_pid: int
    exit: str
    import_s: float
    setup_s: float
    sampling_s: float
    cpu_s: float
    peak_rss_bytes: int


class CommandRun(Strict, frozen=True):
    """One run of a command line: its arguments, its exit code as a shell tells it, how long it took (seconds), and the
    beginning and the end of what it printed."""

    argv: tuple[str, ...]
    exit: int
    duration_s: float
    output: str


class Samples(Strict, frozen=True):
    """All samples of a trial. `order` has one letter a sample: A candidate, B baseline, as they were taken."""

    paired: bool
    order: str
    candidate: dict[str, list[float]]
    baseline: dict[str, list[float]]


class Ratio(Strict, frozen=True):
    """Candidate over baseline for one metric: the median of the paired ratios and their middle half."""

    median: float
    low: float
    high: float
    pairs: int


class Version(Strict, frozen=True):
    """The code that one side of a pair ran: a commit, the SHA-256 of the patch on it, and the digest of the measure
    function's code there."""

    commit: names.Commit
    patch: names.Hash | None
    code: names.Hash

    def __str__(self) -> str:
        return version_text(self.commit, self.patch)


def version_text(commit: str, patch: str | None) -> str:
    """A version of the code in a few words."""
    return f"commit {commit[:12]}" + (f" with patch {patch[:12]}" if patch else "")


class InterruptedRecord(Versioned, frozen=True, tag_field="kind", tag="interrupted"):
    """The end of an attempt whose lease ran out or whose launcher died: no result, for no fault of the measurement."""

    series: names.Topic
    subject: Literal["trial", "entry"]
    key: names.Key
    attempt: names.Attempt
    id: names.RecordID
    label: str
    started_at: Time
    finished_at: Time
    reason: str
    late: bool = False

    @property
    def status(self) -> Status:
        return "interrupted"


class TrackedRun(Strict, frozen=True):
    """A W&B run that a trial started: its ID, its project, and the name of its folder in the trial's directory. One that
    was resumed has several folders."""

    id: names.RunID
    project: names.ProjectName
    folder: names.RunFolder


class TrialRecord(Versioned, frozen=True, kw_only=True, tag_field="kind", tag="trial"):
    """One measurement of one configuration in one process.

    `code` is the digest of the measure function's code, `device_class` the kind of machine it counts for.
    `contended` says who disturbed it; empty means nobody was seen to. `without` tells of metrics that are not among the
    samples, because they were no finite number, what they were. `baseline_version` is the code of the baseline's side,
    which ran in a process of its own then; unset where one process held both sides, on the same code. `curves` are what
    the trial told of its metrics while it ran, by step, in all attempts; `interruptions` counts those before this one.
    `command` is the last run of the candidate's, where a command is measured, or the one that failed. `runs` are
    those of W&B that all attempts have started, oldest first.
    """

    schema: int = 5

    series: names.Topic
    key: names.Hash
    attempt: names.Attempt
    id: names.RecordID
    label: str
    started_at: Time
    finished_at: Time
    status: Literal["ok", "failed"]
    mode: Mode
    measure: str
    code: names.Hash
    config_type: str
    config: dict[str, Any]
    baseline_config: dict[str, Any]
    device_class: str
    replicate: int
    devices: tuple[Device, ...]
    samples: Samples | None
    ratios: dict[str, Ratio]
    error: Error | None
    contended: str
    launch: Launch | None
    provenance: Provenance
    late: bool = False
    without: dict[str, str] | msgspec.UnsetType = msgspec.UNSET
    baseline_version: Version | msgspec.UnsetType = msgspec.UNSET
    curves: dict[str, list[tuple[int, float]]] | msgspec.UnsetType = msgspec.UNSET
    interruptions: int | msgspec.UnsetType = msgspec.UNSET
    command: CommandRun | msgspec.UnsetType = msgspec.UNSET
    runs: tuple[TrackedRun, ...] | msgspec.UnsetType = msgspec.UNSET

    @property
    def baseline_code(self) -> str:
        """The digest of the code that the baseline's side ran."""
        return self.baseline_version.code if isinstance(self.baseline_version, Version) else self.code

    @property
    def run_names(self) -> list[str]:
        """The W&B runs that it started, each once, as 'project/ID'."""
        return list(dict.fromkeys(f"{run.project}/{run.id}" for run in self.runs or ()))

    @property
    def ran(self) -> tuple[tuple[str, str | None], ...]:
        """The commit and patch of the code of each side, as far as they are known."""
        own, baseline = self.provenance.version, self.baseline_version
        versions = (own, (baseline.commit, baseline.patch) if isinstance(baseline, Version) else None)
        return tuple(version for version in versions if version is not None)


class Ref(Strict, frozen=True):
    """Names another record: by hash, and by the attempt under which the journal keeps it."""

    id: names.RecordID
    key: names.Key
    attempt: names.Attempt
    sha256: names.Hash


class Row(Strict, frozen=True):
    """One line of an entry's table. `changes` is what differs from the baseline case; `values` are medians."""

    trial: Ref
    changes: dict[str, Any]
    replicate: int
    status: Status
    values: dict[str, float]
    ratios: dict[str, Ratio]
    note: str
    contended: bool
    measured_here: bool


class Floor(Strict, frozen=True):
    """How far a metric of the baseline case moves without a cause: the baseline against itself, once in each process.

    `spread` is the standard deviation of the processes' effects, `smallest` the half-width of the 95 % interval that
    one further process would have. Both are shares of the metric: 0.01 is 1 %.
    """

    spread: float
    smallest: float
    processes: int


class Claim(Strict, frozen=True, omit_defaults=True):
    """What is said of one candidate (`changes` to the baseline `case`) in one metric.

    The interval from `low` to `high` (95 %) is that of `estimand`: a ratio of candidate to baseline, a difference of the
    two as a share of the baseline (for a metric with a target: of distances to it, as a share of the target), or one in
    the metric's own unit. It counts for all `candidates` of its table together; the verdict asks with an error of
    `level`. It rests on `trials`, against those of the `baseline`'s entry, or those in `floor` where the baseline was
    measured in the candidates' own table; those in `also` were made before and chose the candidate. Where repetitions
    go `over` a field, such as the seed, both sides are compared at each of its values. Both ends are None when the
    trials support no interval; `why` says what the verdict could not say.

    A claim that is confirmed is the series' `confirmation`-th, and this is the `look`-th time that it is; both are 0 for
    others. `expected` is what the best of many is to be expected to show when it is measured again. A claim whose
    `level` is 0 was made by an older rule, which judged each look alone.
    """

    metric: names.MetricName
    changes: dict[str, Any]
    case: dict[str, Any]
    baseline: Ref
    trials: tuple[Ref, ...]
    also: tuple[Ref, ...]
    estimand: Estimand
    estimate: float | None
    low: float | None
    high: float | None
    processes: int
    floor_processes: int
    candidates: int
    min_effect: float
    method: str
    verdict: Verdict
    confidence: Confidence
    why: str
    level: float = 0.0
    floor: tuple[Ref, ...] = ()
    confirmation: int = 0
    look: int = 0
    expected: float | None = None
    over: str = ""


class EntryRecord(Versioned, frozen=True, kw_only=True, tag_field="kind", tag="entry"):
    """The outcome of one step: what becomes an entry of the logbook.

    `key` is the experiment ID it was claimed under, `step_key` the executor's own identity of the step: its output path
    below the store's prefix. `inputs` and the rows' trials are what it rests on. `claims` are what a step that measures
    or interprets says, `floor` is by metric. One that is `private`, or rests on such a one, is published nowhere.
    """

    series: names.Topic
    schema: int = 2
    key: names.ExperimentID
    attempt: names.Attempt
    id: names.ExperimentID
    step: str
    step_key: str
    label: str
    hypothesis: str
    started_at: Time
    finished_at: Time
    status: Literal["ok", "failed"]
    mode: Mode
    config: dict[str, Any]
    rows: tuple[Row, ...]
    inputs: tuple[Ref, ...]
    result: str
    interpretation: str
    next_action: str
    error: Error | None
    provenance: Provenance
    late: bool = False
    private: bool | msgspec.UnsetType = msgspec.UNSET
    claims: tuple[Claim, ...] | msgspec.UnsetType = msgspec.UNSET
    floor: dict[names.MetricName, Floor] | msgspec.UnsetType = msgspec.UNSET

    @property
    def details(self) -> Details:
        """What the entry records of its step: `config` as the type that its kind has."""
        return read_details(self.step, self.config)

    def details_as(self, kind: type[D]) -> D:
        """The details of a step whose kind is known. Raises JournalProblem for one of another kind."""
        details = self.details
        if not isinstance(details, kind):
            raise JournalProblem(f"{self.id} is a {self.step}, which has no {kind.__name__}")
        return details


Record = TrialRecord | EntryRecord | InterruptedRecord
