"""A series: one research thread, as its file declares it, and the labels that its findings carry.

Plain frozen values. What a series decides about a run (metrics, sampling, limits) is here, and its policy: what is shown
where. Where its store lies is not.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from research_steps.errors import UsageError
from research_steps.records.names import HYPOTHESIS, METRIC, PREFIX, TOPIC
from research_steps.records.redaction import redact_tree, redactor
from research_steps.records.step_kinds import STEP_KINDS

# The kinds of steps whose entries are worth finding again on the issue, unless the series says otherwise.
MILESTONES = tuple(name for name, kind in STEP_KINDS.items() if kind.milestone)
LONGEST_TAG = 64
LONGEST_MARK = 16
# Where the logbooks of a checkout lie, unless a series says otherwise; in a sealed tag always.
HERE = ".agents/logbooks"
# What a series says in its own words; the rest names things.
_TEXTS = (
    *("goal", "constraints", "stop", "motivation", "problem", "success", "baseline_case"),
    *("matrix", "code_paths", "references", "tags"),
)


@dataclass(frozen=True)
class Metric:
    """One number that `measure` reports.

    `direction` says which way is better: 'min', 'max', or 'target' for closer to `target`. Effects smaller than
    `min_effect`, a share of the baseline (0.02 is 2 %), are no difference, and neither are those smaller than
    `min_effect_abs`, in the metric's own unit. `timed` metrics change when others load the machine, so that a contended
    trial supports no claim on them.

    An `exact` metric has no noise (bytes, FLOPs, counted instructions): what it gives twice is confirmed, where of any
    other metric two identical observations count as one. A `budget` (tokens, FLOPs) is no result: unless both sides
    spent the same of it they are not comparable. A trial whose value is above `diverged_above`, such as that of a loss,
    has diverged, as one whose primary metric is NaN or infinite has: a result, with no number to compare.

    `at=("tokens", 1e9)` judges a metric at a declared budget: its value is taken from what the trial tells by step (see
    `progress`), where `tokens` is 1e9, between two steps by a straight line. `measure` need not return it then.
    """

    name: str
    direction: Literal["min", "max", "target"] = "min"
    target: float | None = None
    min_effect: float = 0.02
    timed: bool = True
    min_effect_abs: float = 0.0
    exact: bool = False
    budget: bool = False
    diverged_above: float | None = None
    at: tuple[str, float] | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(METRIC, self.name):
            raise UsageError(
                f"Metric name {self.name!r} is not usable: expected a letter, then letters, digits or _ . / -, "
                "at most 64 characters, such as time_s."
            )
        has = f"Metric {self.name!r} has"
        if self.direction not in ("min", "max", "target"):
            raise UsageError(f"{has} direction {self.direction!r}: expected 'min', 'max' or 'target'.")
        if (self.direction == "target") != (self.target is not None) or not math.isfinite(self.target or 0.0):
            raise UsageError(
                f"{has} direction {self.direction!r} and target={self.target}: expected a finite target with the "
                "direction 'target', and none otherwise."
            )
        if not 0 < self.min_effect < 1:
            raise UsageError(f"{has} min_effect={self.min_effect}: expected a share, such as 0.02.")
        if not 0 <= self.min_effect_abs < math.inf:
            raise UsageError(f"{has} min_effect_abs={self.min_effect_abs}: expected a finite number, 0 or more.")
        if not math.isfinite(self.diverged_above or 0.0):
            raise UsageError(f"{has} diverged_above={self.diverged_above}: expected a finite number.")
        if self.at is not None and not _is_budget(self.at):
            raise UsageError(f"{has} at={self.at!r}: expected what is spent, and how much, such as ('tokens', 1e9).")


def _is_budget(at: Sequence[object]) -> bool:
    match at:
        case [str(name), int() | float() as amount]:
            return re.fullmatch(METRIC, name) is not None and 0 < amount < math.inf
    return False


@dataclass(frozen=True)
class Hypothesis:
    """One item of the hypothesis queue as the thread starts out: 'H1' and what it says."""

    id: str
    text: str

    def __post_init__(self) -> None:
        if not re.fullmatch(HYPOTHESIS, self.id):
            raise UsageError(f"Hypothesis ID {self.id!r} is not usable: expected H1, H2, …")


@dataclass(frozen=True)
class Stop:
    """When a thread has what it was started for: its best candidate improves the primary metric by at least this share
    of the baseline (0.1 is 10 %), with at least this confidence."""

    improvement: float
    confidence: Literal["replicated", "stable"] = "replicated"

    def __post_init__(self) -> None:
        if not 0 < self.improvement < math.inf:
            raise UsageError(f"Stop has improvement={self.improvement}: expected a share above 0, such as 0.1.")
        if self.confidence not in ("replicated", "stable"):
            raise UsageError(f"Stop has confidence={self.confidence!r}: expected 'replicated' or 'stable'.")


@dataclass(frozen=True)
class Series:
    """One research thread. The first metric is the primary one.

    `motivation` to `references` are what `research kickoff` records. `milestones` are the kinds of steps whose entries
    are posted on the issue, `heartbeat_s` (seconds) how long it may stay silent while work goes on. A `private` series
    reaches no public surface. W&B runs go to `wandb_project` (default: the topic), or to that of the series `parent`.
    `logbook` is the folder of its logbook: in this checkout, or in another one, such as '../marin-logbooks/marin', where
    it is named after the issue too; None has none anywhere but in sealed tags. What agents post on the issue begins with
    `agent_mark`, where the host repository asks for one.
    A trial samples until the primary metric is known well enough for its `min_effect`, or `max_pairs` were taken, or
    `sampling_s` (seconds) are over; `time_limit_s` (seconds), where it is given, ends its
    process, as a failure. Before a trial a loaded
    machine is waited for up to `contention_wait_s` (seconds). The baseline is measured against itself in
    `floor_processes` processes. `variants` are the fields over which a result has to hold to be stable. A thread is
    stuck after `stuck_after` trials without an improvement. `stop` says in words when it ends; where `stop_at` holds, a
    run seals what it found without being asked. Sequences are kept as tuples.
    """

    topic: str
    prefix: str
    goal: str
    metrics: Sequence[Metric]
    hypotheses: Sequence[Hypothesis] = ()
    tags: Sequence[str] = ()
    constraints: str = ""
    stop: str = ""
    stop_at: Stop | None = None
    motivation: str = ""
    problem: str = ""
    success: str = ""
    baseline_case: str = ""
    matrix: Sequence[str] = ()
    code_paths: Sequence[str] = ()
    references: Sequence[str] = ()
    milestones: Sequence[str] = MILESTONES
    heartbeat_s: float = 6 * 3600.0
    private: bool = False
    wandb_project: str = ""
    parent: str = ""
    logbook: str | None = HERE
    agent_mark: str = ""
    max_pairs: int = 400
    sampling_s: float = 5.0
    time_limit_s: float | None = None
    contention_wait_s: float = 60.0
    floor_processes: int = 5
    variants: Sequence[str] = ()
    stuck_after: int = 20

    def __post_init__(self) -> None:
        check_topic(self.topic)
        check_prefix(self.topic, self.prefix)
        has = f"Series {self.topic!r} has"
        texts = ("tags", "matrix", "code_paths", "references", "milestones", "variants")
        for name, kind in (("metrics", Metric), ("hypotheses", Hypothesis), *((name, str) for name in texts)):
            values = getattr(self, name)
            listed = isinstance(values, Sequence) and not isinstance(values, str)
            if not listed or not all(isinstance(value, kind) for value in values):
                raise UsageError(f"{has} {name}={values!r}: expected a tuple of {kind.__name__}.")
            object.__setattr__(self, name, tuple(values))
        if not self.metrics:
            raise UsageError(f"{has} no metric: give at least one, such as Metric('time_s', 'min').")
        if self.metrics[0].budget:
            raise UsageError(f"{has} the budget {self.metrics[0].name!r} as its first metric: expected a result there.")
        _refuse_repeats(self.topic, "metric", [metric.name for metric in self.metrics])
        _refuse_repeats(self.topic, "hypothesis", [hypothesis.id for hypothesis in self.hypotheses])
        for tag in self.tags:
            if not 0 < len(tag) <= LONGEST_TAG:
                raise UsageError(f"{has} a tag of {len(tag)} characters: expected 1 to {LONGEST_TAG}.")
        shared = self.shared_tags(None)
        if len(shared) > 3:
            raise UsageError(
                f"{has} the shared tags {', '.join(shared)}: expected at most 3 with the prefix, because the issue's "
                "number is the fourth."
            )
        unknown = sorted(set(self.milestones) - set(STEP_KINDS))
        if unknown:
            raise UsageError(f"{has} the milestone {unknown[0]!r}: expected some of {', '.join(STEP_KINDS)}.")
        if self.parent and self.wandb_project:
            raise UsageError(
                f"Series {self.topic!r} names the parent {self.parent!r} and the W&B project {self.wandb_project!r}: "
                "expected one of them, because runs of a follow-up go where its parent's are."
            )
        if self.parent:
            check_topic(self.parent)
        if self.logbook is not None:
            object.__setattr__(self, "logbook", self.logbook.rstrip("/") or self.logbook)
        if self.logbook is not None and (not self.logbook.strip() or not self.logbook.isprintable()):
            raise UsageError(
                f"{has} logbook={self.logbook!r}: expected '{HERE}', a folder in another checkout, such as "
                "'../marin-logbooks/marin', or None for no logbook."
            )
        if not self.agent_mark.isprintable() or len(self.agent_mark) > LONGEST_MARK:
            raise UsageError(f"{has} agent_mark={self.agent_mark!r}: expected at most {LONGEST_MARK} characters, as 🤖.")
        for name in ("max_pairs", "sampling_s", "time_limit_s", "heartbeat_s", "floor_processes", "stuck_after"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise UsageError(f"{has} {name}={value}: expected a finite number above 0.")
        if not 0 <= self.contention_wait_s < math.inf:
            raise UsageError(f"{has} contention_wait_s={self.contention_wait_s}: expected a finite number, 0 or more.")

    @property
    def primary(self) -> Metric:
        return self.metrics[0]

    def shared_tags(self, issue: int | None) -> tuple[str, ...]:
        """The two to four tags that every run of the series carries: its prefix, its own, and its issue's number."""
        tags = dict.fromkeys((self.prefix, *self.tags))
        if len(tags) == 1:
            tags[self.topic] = None
        return (*tags, *([f"#{issue}"] if issue is not None else []))

    def without_secrets(self) -> "Series":
        """The series as it may be written down: its text comes from a file, and is no record that was cleaned before."""
        clean = redactor()
        texts = {name: redact_tree(getattr(self, name), clean) for name in _TEXTS}
        hypotheses = tuple(replace(hypothesis, text=clean(hypothesis.text)) for hypothesis in self.hypotheses)
        return replace(self, hypotheses=hypotheses, **texts)


def check_topic(topic: str) -> str:
    """The topic itself, once it is known to be a safe file name. Raises UsageError."""
    if not re.fullmatch(TOPIC, topic):
        shown = topic if len(topic) <= 80 else f"{topic[:77]}… ({len(topic)} characters)"
        usable = re.sub(r"[^a-z0-9_-]+", "_", topic.lower()).strip("_-")[:64] or "moe_hc"
        raise UsageError(
            f"Topic {shown!r} is not usable as a name: expected lower-case letters, digits, _ and -, "
            f"at most 64 characters, such as {usable}; a logbook of that name is renamed with 'git mv' first."
        )
    return topic


def check_prefix(topic: str, prefix: str) -> str:
    """The experiment ID prefix itself, once it is known to be one. Raises UsageError."""
    if not re.fullmatch(PREFIX, prefix):
        capitals = re.sub(r"^[^A-Z]+", "", re.sub(r"[^A-Z0-9]+", "-", prefix.upper()))
        usable = capitals[:32].rstrip("-") or "MOE-HC"
        raise UsageError(
            f"Series {topic!r} has the experiment ID prefix {prefix!r}: expected capitals, digits and inner hyphens, at "
            f"most 32 characters, such as {usable}."
        )
    return prefix


def format_id(prefix: str, number: int) -> str:
    """The experiment ID, such as MOE-HC-007."""
    return f"{prefix}-{number:03d}"


def number_of(id: str) -> int:
    """The number of an experiment ID: 7 of MOE-HC-007."""
    return int(id.rpartition("-")[2])


def trial_id(experiment_id: str, index: int) -> str:
    """The label of a sweep's trial, counted from 1, such as MOE-HC-007.03."""
    return f"{experiment_id}.{index:02d}"


def _refuse_repeats(topic: str, what: str, names: list[str]) -> None:
    for name in sorted(set(names)):
        if names.count(name) > 1:
            raise UsageError(f"Series {topic!r} declares the {what} {name!r} twice: give each a name of its own.")
