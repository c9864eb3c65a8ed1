"""Whether a claim was reproduced: the sealed processes and the fresh ones, held against each other by rule.

A fresh effect is expected inside the prediction interval that the sealed processes give, and with the same verdict. What
was measured under other conditions is not comparable, and says what differs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from research_steps.evidence.claim_text import candidate_text, changes_text, effect_text
from research_steps.evidence.comparable import incomparable
from research_steps.evidence.judgement import NO_SCALE, usable
from research_steps.evidence.prediction import Repeat, common_shift, expected, repeat_effect
from research_steps.evidence.standing import DECIDED, about, best, standing, together
from research_steps.journal.snapshot import Snapshot, entries_of
from research_steps.records.model import Claim
from research_steps.records.series import Metric, Series

Outcome = Literal["reproduced", "not reproduced", "not comparable"]


@dataclass(frozen=True)
class Judged:
    """What became of one sealed claim. `fresh` is the claim that the fresh run made of the same thing, `repeat` the
    processes of both where they can be compared; then `now` says what the fresh estimate is, and where it should lie."""

    sealed: Claim
    fresh: Claim | None
    outcome: Outcome = "reproduced"
    why: str = ""
    repeat: Repeat | None = None
    now: str = ""


def deciding(series: Series, claims: Sequence[Claim]) -> list[Claim]:
    """What a seal stands for: its replicated claims on the primary metric; without any its best candidate, else all."""
    primary = [c for c in claims if c.metric == series.primary.name and c.changes and c.estimate is not None]
    winner = best(series, primary)
    return [claim for claim in primary if claim.confidence != "exploratory"] or ([winner] if winner else primary)


def judge(series: Series, claims: Sequence[Claim], sealed: Snapshot, fresh: Snapshot) -> list[Judged]:
    """What became of each claim that a seal stands for."""
    metric = series.primary
    again = {about(claim): claim for claim in together(series, standing(entries_of(fresh)))}
    paired = [_paired(metric, claim, again.get(about(claim)), sealed, fresh) for claim in deciding(series, claims)]
    alike = [pair.repeat for pair in paired if pair.repeat is not None]
    judged = [_by_itself(metric, pair, alike) for pair in paired]
    # One that is outside alone would pull along the others, which are not.
    inside = [claim.repeat for claim in judged if claim.repeat is not None and claim.outcome != "not reproduced"]
    moved = _moved_together(metric, inside)
    return [_in_order(_contradicted(claim, moved), claims, again) for claim in judged]


def told(judged: Judged, case: Mapping[str, object]) -> str:
    """One claim in a sentence: what was sealed, what it is now, and where that was expected."""
    claim, why = judged.sealed, f", {judged.why}" if judged.why else ""
    sealed = f"{claim.metric} {effect_text(claim.estimand, claim.estimate, claim.metric)} sealed"
    return f"{candidate_text(claim, case)}: {sealed}{judged.now}: {judged.outcome}{why}"


def _paired(metric: Metric, claim: Claim, again: Claim | None, sealed: Snapshot, fresh: Snapshot) -> Judged:
    """A sealed claim with the processes of both times, or why they can't be compared."""
    if again is None:
        failed = next((entry.record for entry in fresh.entries.values() if entry.record.error is not None), None)
        why = f" (the {failed.step} failed: {failed.error.line})" if failed and failed.error else ""
        return Judged(claim, None, "not comparable", f"the commands measured no such candidate this time{why}")
    # The fresh trial that chose no candidate counts: which one is measured again was known before.
    ended = fresh.trials_of((*again.trials, *again.also))
    before, now = usable(metric, sealed.trials_of(claim.trials)), usable(metric, ended)
    floors = [
        usable(metric, snapshot.trials_of(snapshot.floor_trials(of)))
        for snapshot, of in ((sealed, claim), (fresh, again))
    ]
    repeat = Repeat(*([trial.samples for trial in side if trial.samples] for side in (before, now, *floors)))
    apart = [incomparable(before[0], trial.record) for trial in ended] if before else []
    differ = {name: pair for differences in apart for name, pair in differences.items()}
    result: Outcome = "not comparable"
    if not before:
        why = f"nothing undisturbed was sealed: {claim.why or 'what it rests on was disturbed, or is not in the tag'}"
    elif differ:
        why = "; ".join(f"{name}: {then} sealed, {here} here" for name, (then, here) in differ.items())
    elif again.verdict == "failed" and ended:
        result, why = "not reproduced", f"it failed: {again.why}"
    elif not now:
        # What was only interrupted says nothing about it.
        why = again.why or "nothing was measured undisturbed"
    elif not repeat.is_paired and not all(floors):
        why = "no undisturbed process of the baseline to compare with"
    else:
        return Judged(claim, again, repeat=repeat)
    return Judged(claim, again, result, why)


def _by_itself(metric: Metric, judged: Judged, alike: Sequence[Repeat]) -> Judged:
    """A claim by its own estimate and verdict, where it can be compared."""
    sealed, fresh, repeat = judged.sealed, judged.fresh, judged.repeat
    if fresh is None or repeat is None:
        return judged
    interval = expected(metric, repeat, alike, sealed.candidates)
    if interval is None or interval.ends is None:
        why = "too few processes to know how they scatter" if interval else NO_SCALE
        return replace(judged, outcome="not comparable", why=why)
    effect = repeat_effect(metric, interval.scale, repeat.now, repeat.floor_now)
    result, why = judged.outcome, fresh.why
    if not interval.low <= effect <= interval.high:
        processes = f"{len(repeat.now)} process{'es' if len(repeat.now) > 1 else ''}"
        result, why = "not reproduced", f"outside of what was expected of {processes}"
    elif fresh.verdict != sealed.verdict and sealed.verdict in DECIDED:
        result = "not reproduced" if fresh.verdict in DECIDED else "not comparable"
        why = f"{fresh.verdict}, {sealed.verdict} when it was sealed; {fresh.why}".removesuffix("; ")
    shown = partial(effect_text, interval.scale.estimand, metric=metric.name)
    low, high = (shown(end).removesuffix(" ×") for end in interval.ends)
    now = f", {shown(interval.scale.shown(effect))} now (expected: {low} to {high})"
    return replace(judged, outcome=result, why=why, now=now)


def _moved_together(metric: Metric, alike: Sequence[Repeat]) -> str:
    """What contradicts several claims that each may hold alone: they all moved, and in one direction."""
    if len(alike) < 2 or not all(repeat.is_paired for repeat in alike):
        return ""
    moved = common_shift(metric, alike)
    if moved is None or moved[1].low <= moved[0] <= moved[1].high:
        return ""
    shift, interval = moved
    scale = interval.scale
    ends = (shift, interval.low, interval.high)
    by, least, most = (effect_text(scale.estimand, scale.shown(at), metric.name) for at in ends)
    return f"all {len(alike)} of them together have moved by {by} (expected: {least.removesuffix(' ×')} to {most})"


def _contradicted(judged: Judged, why: str) -> Judged:
    return replace(judged, outcome="not reproduced", why=why) if why and judged.outcome == "reproduced" else judged


def _in_order(judged: Judged, claims: Sequence[Claim], again: Mapping[bytes, Claim]) -> Judged:
    """Not reproduced where a candidate that was clearly better than another one is now clearly worse."""
    sealed, fresh = judged.sealed, judged.fresh
    for other in claims:
        now = again.get(about(other))
        if fresh is not None and now is not None and (other.metric, other.case) == (sealed.metric, sealed.case):
            fell, rose = _above(sealed, other) and _above(now, fresh), _above(other, sealed) and _above(fresh, now)
            if fell or rose:
                return _contradicted(judged, f"its order with {changes_text(other.changes)} has turned round")
    return judged


def _above(claim: Claim, other: Claim) -> bool:
    """Whether the whole interval of a claim lies above that of another, in the same kind of estimate."""
    low, high = claim.low, other.high
    return claim.estimand == other.estimand and low is not None and high is not None and low > high
