"""What a journal keeps beside its records: intents, leases, reserved IDs, and what is decided once."""

from typing import Annotated, Any, Literal

import msgspec

from research_steps.records import names
from research_steps.records.model import Owner, Ref, Strict, Versioned
from research_steps.records.times import Time


class Intent(Versioned, frozen=True, kw_only=True, tag_field="kind", tag="intent"):
    """What is written, durably, before an attempt starts. `lease_until` may be extended beside it; `nonce` tells two
    intents of one process in one millisecond apart, and `run` those of one run, on all its machines, from others'."""

    series: names.Topic
    subject: Literal["trial", "entry"]
    key: names.Key
    attempt: names.Attempt
    id: names.RecordID
    label: str
    started_at: Time
    lease_until: Time
    owner: Owner
    nonce: names.Nonce
    config: dict[str, Any]
    private: bool | msgspec.UnsetType = msgspec.UNSET
    run: names.Nonce | msgspec.UnsetType = msgspec.UNSET
    schema: int = 2


class Lease(Versioned, frozen=True):
    """Until when an attempt is held, where that is longer than its intent says."""

    lease_until: Time


class PublisherLease(Versioned, frozen=True):
    """Whose turn it is to publish on a surface, unless its lease was extended or given back."""

    by: Owner
    lease_until: Time
    nonce: names.Nonce


class TrialPlan(Versioned, frozen=True):
    """How many trials a step asks for, and the driver that saw to it last, since when."""

    id: names.ExperimentID
    label: str
    total: int
    by: Owner
    planned_at: Time


class KnownTrials(Versioned, frozen=True):
    """The trials of one part of a plan that the journal had already, by the IDs that they would have got."""

    held: tuple[names.RecordID, ...]


class TrialProgress(Versioned, frozen=True, kw_only=True):
    """How far an attempt at a trial was, as it told last: it had `reached` a step `of` so many; `text` is for people."""

    id: names.RecordID
    attempt: names.Attempt
    reached: int
    of: int | None
    text: str
    told_at: Time


class IDReservation(Versioned, frozen=True):
    """An experiment ID that a step holds from before it begins."""

    id: names.ReservedName
    step_key: str
    claimed_at: Time
    by: Owner


class IssueLink(Versioned, frozen=True):
    """The experiment issue of a series: 'owner/name' and number. Decided once, because comments can't be moved; another
    one takes its place only where it was deleted."""

    repository: names.Repository
    number: Annotated[int, msgspec.Meta(ge=1)]
    url: names.WebAddress
    linked_at: Time


class Project(Versioned, frozen=True):
    """The W&B project of a series. Decided once: runs can't be moved."""

    name: names.ProjectName
    decided_at: Time


class Posting(Versioned, frozen=True):
    """Written before a comment is posted: when that was last tried, and by whom. `comment` names it once the issue was
    seen to show it, and if people delete that it stays away."""

    marker: names.Marker
    tried_at: Time
    by: Owner
    comment: int | msgspec.UnsetType = msgspec.UNSET


class BodyWrite(Strict, frozen=True):
    """One body of the issue that was replaced by another one."""

    replaced: names.Hash
    written: names.Hash


class BodyWrites(Versioned, frozen=True):
    """The last writes of the issue's body, each noted before it is sent, and when that was last done; `settled` once
    nothing can have come in between that is not known."""

    pairs: tuple[BodyWrite, ...]
    written_at: Time
    settled: bool


class FloorTrials(Versioned, frozen=True):
    """The trials of the baseline against itself that dev mode measured last for its noise floor."""

    trials: tuple[Ref, ...]


class Closed(Versioned, frozen=True):
    """The issue was closed for a final entry; who opens it again is left alone."""

    closed_at: Time


class Seal(Versioned, frozen=True):
    """Which commit an entry was sealed with: decided once, by whoever sealed it first."""

    id: names.ExperimentID
    tag: names.TagName
    commit: names.Commit
    sealed_at: Time
    host: str


class Pushed(Versioned, frozen=True):
    """The tag of a seal was pushed to this remote; who deletes it there had a reason."""

    remote: str
    pushed_at: Time


OBJECTS: tuple[type[Versioned], ...] = (
    *(Intent, Lease, PublisherLease, IDReservation, TrialPlan, KnownTrials, TrialProgress, FloorTrials),
    *(IssueLink, Project, Posting, BodyWrites, Closed, Seal, Pushed),
)
