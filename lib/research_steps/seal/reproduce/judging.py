"""Whether a claim was reproduced: the sealed processes and the fresh ones, held against each other by rule.

A fresh effect is expected inside the prediction interval that the sealed processes give, and with the same verdict. What
was measured under other conditions is not comparable, and says what differs.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from research_steps.evidence.claim_text import changes_text, variant_text
from research_steps.evidence.claims import incomparable
from research_steps.evidence.prediction import Repeat, common_shift, expected, repeat_effect
from research_steps.evidence.standing import DECIDED, best, standing, together
from research_steps.evidence.statistics import Interval
from research_steps.journal.snapshot import Snapshot, entries_of
from research_steps.records.encoding import canonical
from research_steps.records.model import Claim, Ref, TrialRecord
from research_steps.records.series import Metric, Series

Outcome = Literal["reproduced", "not reproduced", "not comparable"]


@dataclass(frozen=True)
class Judged:
    """What became of one sealed claim. `now` is the fresh estimate, where there is one, `expected` where it should lie;
    `fresh` is the claim that the fresh run made."""

    sealed: Claim
    fresh: Claim | None
    outcome: Outcome
    why: str = ""
    now: float | None = None
    expected: Interval | None = None


@dataclass(frozen=True)
class _Pair:
    """A sealed claim and the fresh one about the same thing, with the trials that count for each."""

    sealed: Claim
    fresh: Claim
    before: Sequence[TrialRecord]
    now: Sequence[TrialRecord]
    floor_before: Sequence[TrialRecord]
    floor_now: Sequence[TrialRecord]

    @property
    def repeat(self) -> Repeat:
        sides = (self.before, self.now, self.floor_before, self.floor_now)
        return Repeat(*([one.samples for one in side if one.samples is not None] for side in sides))


def deciding(series: Series, claims: Sequence[Claim]) -> list[Claim]:
    """What a seal stands for: its replicated claims on the primary metric; without any its best candidate, else all."""
    primary = [one for one in claims if one.metric == series.primary.name and one.changes and one.estimate is not None]
    found = best(series, primary)
    return [one for one in primary if one.confidence != "exploratory"] or ([found] if found else primary)


def judge(series: Series, claims: Sequence[Claim], sealed: Snapshot, fresh: Snapshot) -> list[Judged]:
    """What became of each claim that a seal stands for."""
    again = {_about(claim): claim for claim in together(series, standing(entries_of(fresh)))}
    metric = series.primary
    found = [_paired(metric, claim, again.get(_about(claim)), sealed, fresh) for claim in deciding(series, claims)]
    alike = [one.repeat for one in found if isinstance(one, _Pair)]
    judged = [one if isinstance(one, Judged) else _judged(metric, one, alike) for one in found]
    # One that is outside alone would pull along the others, which are not.
    inside = [
        pair.repeat
        for pair, one in zip(found, judged, strict=True)
        if isinstance(pair, _Pair) and one.outcome != "not reproduced"
    ]
    why = _moved_together(metric, inside)
    return [_in_order(series, _contradicted(one, why), claims, again) for one in judged]


def outcome(judged: Sequence[Judged]) -> Outcome:
    """What it amounts to: reproduced only when every claim was, not reproduced when any was not."""
    outcomes = {one.outcome for one in judged}
    if "not reproduced" in outcomes:
        return "not reproduced"
    return "reproduced" if outcomes == {"reproduced"} else "not comparable"


def told(judged: Judged, case: dict[str, object]) -> str:
    """One claim in a sentence: what was sealed, what it is now, and where that was expected."""
    claim, interval = judged.sealed, judged.expected
    what = f"{changes_text(claim.changes)}{variant_text(claim, case)}: {claim.metric}"
    what += f" {_shown(claim.estimand, claim.estimate)} sealed"
    if judged.now is not None and interval is not None and interval.ends is not None:
        low, high = (_shown(interval.estimand, end).removesuffix(" ×") for end in interval.ends)
        what += f", {_shown(interval.estimand, judged.now)} now (expected: {low} to {high})"
    return f"{what}: {judged.outcome}{f', {judged.why}' if judged.why else ''}"


def _paired(metric: Metric, claim: Claim, again: Claim | None, sealed: Snapshot, fresh: Snapshot) -> Judged | _Pair:
    if again is None:
        return Judged(claim, None, "not comparable", _nothing_of_it(fresh))
    before = _usable(metric, sealed, claim.trials)
    if not before:
        why = claim.why or "what it rests on was disturbed, or is not in the tag"
        return Judged(claim, again, "not comparable", f"nothing undisturbed was sealed: {why}")
    # The fresh trial that chose no candidate counts: which one is measured again was known before.
    measured = [*again.trials, *again.also]
    ran = (one.record for one in fresh.trials_of(measured))
    differ = {name: values for one in ran for name, values in incomparable(before[0], one).items()}
    if differ:
        why = "; ".join(f"{name}: {was} sealed, {found} here" for name, (was, found) in differ.items())
        return Judged(claim, again, "not comparable", why)
    if again.verdict == "failed":
        if not fresh.trials_of(measured):
            # What was only interrupted says nothing about it.
            return Judged(claim, again, "not comparable", again.why)
        return Judged(claim, again, "not reproduced", f"it failed: {again.why}")
    now = _usable(metric, fresh, measured)
    if not now:
        return Judged(claim, again, "not comparable", again.why or "nothing was measured undisturbed")
    floors = [
        _usable(metric, held, held.baseline_trials(one.baseline)) for held, one in ((sealed, claim), (fresh, again))
    ]
    pair = _Pair(claim, again, before, now, *floors)
    if not pair.repeat.is_paired and not all(floors):
        return Judged(claim, again, "not comparable", "no undisturbed process of the baseline to compare with")
    return pair


def _judged(metric: Metric, pair: _Pair, alike: Sequence[Repeat]) -> Judged:
    repeat = pair.repeat
    interval = expected(metric, repeat, alike, pair.sealed.candidates)
    if interval.ends is None:
        return Judged(pair.sealed, pair.fresh, "not comparable", "too few processes to know how they scatter")
    effect = repeat_effect(metric, interval.estimand, repeat.now, repeat.floor_now)
    outcome: Outcome = "reproduced"
    why = pair.fresh.why
    if not interval.low <= effect <= interval.high:
        processes = f"{len(repeat.now)} process{'es' if len(repeat.now) > 1 else ''}"
        outcome, why = "not reproduced", f"outside of what was expected of {processes}"
    elif pair.fresh.verdict != pair.sealed.verdict and pair.sealed.verdict in DECIDED:
        outcome = "not reproduced" if pair.fresh.verdict in DECIDED else "not comparable"
        why = f"{pair.fresh.verdict}, {pair.sealed.verdict} when it was sealed; {pair.fresh.why}".removesuffix("; ")
    return Judged(pair.sealed, pair.fresh, outcome, why, interval.shown(effect), interval)


def _moved_together(metric: Metric, alike: Sequence[Repeat]) -> str:
    """What contradicts several claims that each may hold alone: they all moved, and in one direction."""
    if len(alike) < 2 or not all(one.is_paired for one in alike):
        return ""
    shift, interval = common_shift(metric, alike)
    if interval.low <= shift <= interval.high:
        return ""
    moved, least, most = (_shown(interval.estimand, interval.shown(one)) for one in (shift, interval.low, interval.high))
    return f"all {len(alike)} of them together have moved by {moved} (expected: {least.removesuffix(' ×')} to {most})"


def _contradicted(judged: Judged, why: str) -> Judged:
    return replace(judged, outcome="not reproduced", why=why) if why and judged.outcome == "reproduced" else judged


def _nothing_of_it(fresh: Snapshot) -> str:
    """Why a candidate may not have been measured this time."""
    failed = [(one.record.step, one.record.error) for one in fresh.entries.values()]
    errors = [f"the {step} failed: {error.type}: {error.message}" for step, error in failed if error is not None]
    why = f" ({errors[0].splitlines()[0]})" if errors else ""
    return f"the commands measured no such candidate this time{why}"


def _in_order(series: Series, judged: Judged, claims: Sequence[Claim], again: dict[bytes, Claim]) -> Judged:
    """Not reproduced where a candidate that was clearly better than another one is now clearly worse."""
    if judged.outcome != "reproduced" or judged.fresh is None:
        return judged
    for other in claims:
        now = again.get(_about(other))
        if other.metric == judged.sealed.metric and other.case == judged.sealed.case and now is not None:
            was, is_now = _above(judged.sealed, other), _above(judged.fresh, now)
            if was is not None and is_now is not None and was != is_now:
                why = f"its order with {changes_text(other.changes)} has turned round"
                return _contradicted(judged, why)
    return judged


def _above(one: Claim, other: Claim) -> bool | None:
    """Whether the whole interval of one claim lies above that of another; None where they overlap or differ in kind."""
    ends = (one.low, one.high, other.low, other.high)
    if any(end is None for end in ends) or one.estimand != other.estimand:
        return None
    low, high, their_low, their_high = (end for end in ends if end is not None)
    return True if low > their_high else False if high < their_low else None


def _usable(metric: Metric, held: Snapshot, refs: Iterable[Ref]) -> list[TrialRecord]:
    """The trials that succeeded, measured the metric, and were not disturbed in it."""
    records = (one.record for one in held.trials_of(refs))
    return [one for one in records if not (metric.timed and one.contended) and _measured(one, metric)]


def _measured(trial: TrialRecord, metric: Metric) -> bool:
    return trial.samples is not None and metric.name in trial.samples.candidate


def _about(claim: Claim) -> bytes:
    return canonical([claim.metric, claim.changes, claim.case])


def _shown(kind: str, value: float | None) -> str:
    if value is None:
        return "no estimate"
    return f"{value:.3f} ×" if kind == "ratio" else f"{value:+.2%}"
