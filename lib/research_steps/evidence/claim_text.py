"""Claims in words, the same on every surface."""

from collections.abc import Mapping
from typing import Any

from research_steps.evidence.effects import medians, own_estimate
from research_steps.evidence.standing import DECIDED
from research_steps.records.configurations import changes_in
from research_steps.records.model import Claim, Samples
from research_steps.records.numbers import DIGITS, quantity, ratio, spelled
from research_steps.records.series import Metric

# Ends that so many digits don't tell apart are told as the same.
MOST_DIGITS = 6


def claim_text(claim: Claim) -> str:
    """A claim in a few words: '0.454 × (0.441 to 0.467), improved, replicated'."""
    return f"{estimate_text(claim)}, {verdict_text(claim)}"


def verdict_text(claim: Claim) -> str:
    """The verdict, with its confidence where it says something."""
    return f"{claim.verdict}, {claim.confidence}" if claim.verdict in DECIDED else claim.verdict


def repetitions_text(claim: Claim) -> str:
    """What a claim counts: '3 processes', or '3 seeds' where repetitions go over that field."""
    if claim.over:
        return f"{claim.processes} {claim.over}{'' if claim.processes == 1 else 's'}"
    return f"{claim.processes} process{'' if claim.processes == 1 else 'es'}"


def changes_text(changes: Mapping[str, Any]) -> str:
    """A candidate as what it changes in the baseline case."""
    return spelled(changes) or "baseline case"


def variant_text(claim: Claim, case: Mapping[str, Any]) -> str:
    """At which variant of the baseline case a claim was made, empty when at none."""
    variant = changes_in(claim.case, case)
    return f" at {changes_text(variant)}" if variant else ""


def candidate_text(claim: Claim, case: Mapping[str, Any]) -> str:
    """What was compared with the baseline `case`, and at which variant of that."""
    return changes_text(claim.changes) + variant_text(claim, case)


def estimate_text(claim: Claim) -> str:
    """The estimate with its interval, with as many digits as tell the ends apart."""
    if claim.estimate is None or claim.low is None or claim.high is None:
        return effect_text(claim.estimand, claim.estimate, claim.metric)
    return with_interval(claim.estimand, claim.estimate, (claim.low, claim.high), claim.metric)


def relative_text(claim: Claim) -> str:
    """How much more or less that is than the baseline, where the estimate is a ratio."""
    if claim.estimand != "ratio" or claim.estimate is None or claim.verdict not in ("improved", "regressed"):
        return ""
    return f", {100 * abs(1 - claim.estimate):.3g} % {'less' if claim.estimate < 1 else 'more'}"


def with_interval(estimand: str, effect: float, ends: tuple[float, float], metric: str = "") -> str:
    """An effect with both ends of its interval: '0.495 × (0.491 to 0.499)'."""
    for digits in range(DIGITS, MOST_DIGITS + 1):
        told, low, high = (effect_text(estimand, value, metric, digits) for value in (effect, *ends))
        if low != high:
            break
    else:
        # They are the same, or as good as that.
        told, low, high = (effect_text(estimand, value, metric) for value in (effect, *ends))
    return f"{told} ({low.removesuffix(' ×')} to {high.removesuffix(' ×')})"


def effect_text(estimand: str, effect: float | None, metric: str = "", digits: int = DIGITS) -> str:
    """An estimate or an end of its interval, as a ratio to the baseline or as a difference from it: as a share, or in
    the metric's own unit, which its name tells."""
    if effect is None:
        return "no estimate"
    if estimand == "ratio":
        return f"{ratio(effect, digits)} ×"
    return f"{effect:+.{digits - 1}%}" if estimand == "difference" else quantity(metric, effect, digits, "+")


def process_text(metric: Metric, samples: Samples | None) -> str:
    """What one process says of a metric: by its pairs with the baseline, else what it measured, the median."""
    own = own_estimate(metric, samples)
    if own is not None:
        return f"{metric.name} {effect_text(own.estimand, own.value, metric.name)}"
    values = medians(samples.candidate) if samples is not None else {}
    return (
        f"{metric.name} {quantity(metric.name, values[metric.name])}" if metric.name in values else f"no {metric.name}"
    )
