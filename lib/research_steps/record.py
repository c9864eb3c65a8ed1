"""Records: what the journal holds, one frozen class for each kind.

A record is the immutable outcome of one attempt. Its identity is the SHA-256 of its canonical bytes: one line of
JSON, keys sorted, no spaces, ASCII only, shortest float representation, no NaN, then one LF that the hash leaves
out. Times are UTC, ISO 8601, milliseconds, 'Z'. The bytes that were written are what is hashed, always: a record is
never encoded again to check it.

A reader refuses unknown and missing fields, and names a schema newer than its own; nothing is guessed.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Annotated, Any, Generic, Literal, TypeVar

import msgspec

from research_steps.errors import UnreadableObject
from research_steps.redaction import redact_tree, redactor

SCHEMA = 1

Status = Literal["ok", "failed", "interrupted"]
# fmt: off
StepKind = Literal[
    "kickoff", "baseline", "sweep", "replicate", "interact", "interpret", "decision", "seal", "step", "finish",
    "rebase", "note", "correction", "retraction", "attachment", "hypothesis", "source", "dev", "reproduction",
]
# fmt: on
Verdict = Literal["improved", "regressed", "no difference", "inconclusive", "failed", "not comparable"]
Confidence = Literal["exploratory", "replicated", "stable"]
Mode = Literal["executor", "dev"]
Time = Annotated[str, msgspec.Meta(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")]

# What names, orders and classifies records comes from this package and is never taken for a secret.
_STRUCTURE = frozenset(
    (
        *("series", "subject", "key", "id", "nonce", "step", "step_key", "tag", "sha256", "code", "commit", "patch"),
        *("status", "mode", "kind", "where", "how", "order", "machine", "measure", "config_type"),
        *("verdict", "confidence", "estimand"),
        *("started_at", "finished_at", "lease_until", "claimed_at", "sealed_at", "linked_at", "decided_at"),
        *("tried_at", "closed_at", "marker", "planned_at", "held", "pushed_at", "environment"),
    )
)


# Records hold no cycles, so that none is looked for in the thousands that are read.
class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    pass


class Owner(_Strict, frozen=True):
    """The process that holds an attempt; `machine` tells host, boot and PID namespace apart."""

    machine: str
    host: str
    pid: int
    process_started: float


class Actor(_Strict, frozen=True):
    """Who did it."""

    name: str
    kind: Literal["person", "agent"]


class Device(_Strict, frozen=True):
    """What the trial really ran on, as JAX saw it in the child."""

    backend: str
    kind: str
    count: int


class Provenance(_Strict, frozen=True):
    """Where a record comes from. `patch` is the SHA-256 of the difference to `commit`, kept beside the record;
    `environment` that of the list of all installed packages, kept in the journal."""

    command: str
    actor: Actor
    commit: str | None
    branch: str | None
    patch: str | None
    patch_note: str
    host: str
    python: str
    packages: dict[str, str]
    env: dict[str, str]
    environment: str | msgspec.UnsetType = msgspec.UNSET


class Error(_Strict, frozen=True):
    """An exception as data: its type, message and innermost frames, and which side of the pair it hit."""

    type: str
    message: str
    frames: tuple[str, ...]
    where: Literal["candidate", "baseline", "child", "step"]
    output_tail: str


class Launch(_Strict, frozen=True):
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


class Samples(_Strict, frozen=True):
    """All samples of a trial. `order` has one letter a sample: A candidate, B baseline, as they were taken."""

    paired: bool
    order: str
    candidate: dict[str, list[float]]
    baseline: dict[str, list[float]]


class Ratio(_Strict, frozen=True):
    """Candidate over baseline for one metric: the median of the paired ratios and their middle half."""

    median: float
    low: float
    high: float
    pairs: int


class Intent(_Strict, frozen=True, tag_field="kind", tag="intent"):
    """What is written, durably, before an attempt starts. `lease_until` may be extended beside it; `nonce` tells two
    intents of one process in one millisecond apart."""

    schema: int
    series: str
    subject: Literal["trial", "entry"]
    key: str
    attempt: int
    id: str
    label: str
    started_at: Time
    lease_until: Time
    owner: Owner
    nonce: str
    config: dict[str, Any]
    private: bool | msgspec.UnsetType = msgspec.UNSET


class Lease(_Strict, frozen=True):
    """Until when an attempt is held, where that is longer than its intent says."""

    schema: int
    lease_until: Time


class Turn(_Strict, frozen=True):
    """Whose turn it is to publish on a surface, unless its lease was extended or given back."""

    schema: int
    by: Owner
    lease_until: Time
    nonce: str


class Plan(_Strict, frozen=True):
    """How many trials a step asks for, and the driver that saw to it last, since when."""

    schema: int
    id: str
    label: str
    total: int
    by: Owner
    planned_at: Time


class Passed(_Strict, frozen=True):
    """The trials of one part of a plan that the journal had already, by the IDs that they would have got."""

    schema: int
    held: tuple[str, ...]


class ClaimedID(_Strict, frozen=True):
    """An experiment ID that a step holds from before it begins."""

    schema: int
    id: str
    step_key: str
    claimed_at: Time
    by: Owner


class IssueLink(_Strict, frozen=True):
    """The experiment issue of a series: 'owner/name' and number. Decided once: comments can't be moved."""

    schema: int
    repository: str
    number: int
    url: str
    linked_at: Time


class Project(_Strict, frozen=True):
    """The W&B project of a series. Decided once: runs can't be moved."""

    schema: int
    name: str
    decided_at: Time


class Posting(_Strict, frozen=True):
    """Written before a comment is posted: when that was last tried, and by whom; then `comment` names it, and if
    people delete that it stays away."""

    schema: int
    marker: str
    tried_at: Time
    by: Owner
    comment: int | msgspec.UnsetType = msgspec.UNSET


class FloorTrials(_Strict, frozen=True):
    """The trials of the baseline against itself that dev mode measured last for its noise floor."""

    schema: int
    trials: tuple["Ref", ...]


class Closed(_Strict, frozen=True):
    """The issue was closed for a final entry; who opens it again is left alone."""

    schema: int
    closed_at: Time


class Seal(_Strict, frozen=True):
    """Which commit an entry was sealed with: decided once, by whoever sealed it first."""

    schema: int
    id: str
    tag: str
    commit: str
    sealed_at: Time
    host: str


class Pushed(_Strict, frozen=True):
    """The tag of a seal was pushed to this remote; who deletes it there had a reason."""

    schema: int
    remote: str
    pushed_at: Time


class InterruptedRecord(_Strict, frozen=True, tag_field="kind", tag="interrupted"):
    """The end of an attempt whose lease ran out or whose launcher died: no result, for no fault of the measurement."""

    schema: int
    series: str
    subject: Literal["trial", "entry"]
    key: str
    attempt: int
    id: str
    label: str
    started_at: Time
    finished_at: Time
    reason: str
    late: bool = False

    @property
    def status(self) -> Status:
        return "interrupted"


class TrialRecord(_Strict, frozen=True, tag_field="kind", tag="trial"):
    """One measurement of one configuration in one process.

    `code` is the digest of the measure function's code, `device_class` the kind of machine it counts for.
    `contended` says who disturbed it; empty means nobody was seen to.
    """

    schema: int
    series: str
    key: str
    attempt: int
    id: str
    label: str
    started_at: Time
    finished_at: Time
    status: Literal["ok", "failed"]
    mode: Mode
    measure: str
    code: str
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


class Ref(_Strict, frozen=True):
    """Names another record: by hash, and by the attempt under which the journal keeps it."""

    id: str
    key: str
    attempt: int
    sha256: str


class Row(_Strict, frozen=True):
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


class Floor(_Strict, frozen=True):
    """How far a metric of the baseline case moves without a cause: the baseline against itself, once in each process.

    `spread` is the standard deviation of the processes' effects, `smallest` the half-width of the 95 % interval that
    one further process would have. Both are shares of the metric: 0.01 is 1 %.
    """

    spread: float
    smallest: float
    processes: int


class Claim(_Strict, frozen=True):
    """What is said of one candidate (`changes` to the baseline `case`) in one metric.

    The interval from `low` to `high` (95 %) is that of `estimand`: a ratio of candidate to baseline, or a difference of
    the two as a share of the baseline (for a metric with a target: of distances to it, as a share of the target). It
    rests on `trials`; those in `also` were made before and only asked whether they agree. Both ends are None when the
    trials support no interval; `why` says what the verdict could not say.
    """

    metric: str
    changes: dict[str, Any]
    case: dict[str, Any]
    baseline: Ref
    trials: tuple[Ref, ...]
    also: tuple[Ref, ...]
    estimand: Literal["ratio", "difference"]
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


class EntryRecord(_Strict, frozen=True, tag_field="kind", tag="entry"):
    """The outcome of one step: what becomes an entry of the logbook.

    `key` is the experiment ID it was claimed under, `step_key` the executor's own identity of the step: its output path
    below the store's prefix. `inputs` and the rows' trials are what it rests on. `claims` are what a step that measures
    or interprets says, `floor` is by metric. One that is `private`, or rests on such a one, is published nowhere.
    """

    schema: int
    series: str
    key: str
    attempt: int
    id: str
    step: StepKind
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
    floor: dict[str, Floor] | msgspec.UnsetType = msgspec.UNSET


Record = TrialRecord | EntryRecord | InterruptedRecord
R = TypeVar("R", TrialRecord, EntryRecord, InterruptedRecord, Record)


@dataclass(frozen=True)
class Stored(Generic[R]):
    """A record together with the line it is kept as; `sha256` is its identity."""

    record: R
    line: bytes

    @cached_property
    def sha256(self) -> str:
        return sha256(self.line)

    @property
    def ref(self) -> Ref:
        return Ref(id=self.record.id, key=self.record.key, attempt=self.record.attempt, sha256=self.sha256)


class _Header(msgspec.Struct):
    schema: Annotated[int, msgspec.Meta(ge=1)]


T = TypeVar("T")


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def utc(moment: datetime | None = None) -> str:
    """The moment (default: now) as records spell it, such as '2026-05-21T09:30:00.123Z'."""
    moment = datetime.now(UTC) if moment is None else moment.astimezone(UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse_utc(text: str) -> datetime:
    return datetime.fromisoformat(text)


def duration(seconds: float) -> str:
    """A duration for people: '45 s', '12 min', '3 h 30 min'."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return " ".join(filter(None, (f"{hours} h" if hours else "", f"{minutes} min" if minutes else "")))


def canonical(value: Any) -> bytes:
    """Canonical JSON of plain values, without the final LF. Raises ValueError on NaN, TypeError on anything else."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode("ascii")


def encode(value: msgspec.Struct) -> bytes:
    """The canonical bytes of a record or intent, without the final LF and without secrets."""
    return canonical(msgspec.to_builtins(_cleaned(value, redactor())))


def store_record(record: R) -> Stored[R]:
    """The record as it is kept: without secrets, with its line."""
    cleaned = _cleaned(record, redactor())
    return Stored(record=cleaned, line=canonical(msgspec.to_builtins(cleaned)))


def decode_record(data: bytes, where: str) -> Stored[Record]:
    """Read one record strictly. `where` names the object in the error. Raises UnreadableObject."""
    line = data.rstrip(b"\n")
    return Stored(record=_decode(_RECORD, line, where), line=line)


def decode(kind: type[T], data: bytes, where: str) -> T:
    """Read one object that is not a record strictly: an intent, a lease, a seal. Raises UnreadableObject."""
    decoder: msgspec.json.Decoder[T] = _DECODERS[kind]
    return _decode(decoder, data, where)


_RECORD = msgspec.json.Decoder(Record)
_HEADER = msgspec.json.Decoder(_Header)
_DECODERS: dict[type, "msgspec.json.Decoder[Any]"] = {
    kind: msgspec.json.Decoder(kind)
    for kind in (
        *(Intent, Lease, Turn, ClaimedID, Seal, Pushed, IssueLink, Project, Posting, Closed, FloorTrials, Plan, Passed),
    )
}


def _decode(decoder: "msgspec.json.Decoder[T]", line: bytes, where: str) -> T:
    try:
        found = _HEADER.decode(line).schema
        if found > SCHEMA:
            raise UnreadableObject(
                f"{where} has schema {found}, this version reads up to {SCHEMA}; it was skipped: "
                "install the newer research-steps to read it."
            )
        return decoder.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UnreadableObject(
            f"{where} is not a record ({error}); it was skipped and left as it is: "
            "restore it from a copy, or delete it if it never held a result."
        ) from error


def _cleaned(value: Any, clean: Callable[[str], str]) -> Any:
    if isinstance(value, msgspec.Struct):
        fields = {name: getattr(value, name) for name in value.__struct_fields__ if name not in _STRUCTURE}
        return msgspec.structs.replace(value, **{name: _cleaned(field, clean) for name, field in fields.items()})
    if isinstance(value, tuple):
        return tuple(_cleaned(item, clean) for item in value)
    return redact_tree(value, clean)
