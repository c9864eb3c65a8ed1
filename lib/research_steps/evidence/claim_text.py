"""Claims in words, the same on every surface."""

from collections.abc import Mapping
from typing import Any

from research_steps.evidence.standing import DECIDED
from research_steps.records.configurations import changes_in
from research_steps.records.model import Claim


def claim_text(claim: Claim) -> str:
    """A claim in a few words: '0.454 × (0.441 to 0.467), improved, replicated'."""
    return f"{estimate_text(claim)}, {verdict_text(claim)}"


def verdict_text(claim: Claim) -> str:
    """The verdict, with its confidence where it says something."""
    return f"{claim.verdict}, {claim.confidence}" if claim.verdict in DECIDED else claim.verdict


def changes_text(changes: Mapping[str, Any]) -> str:
    """A candidate as what it changes in the baseline case."""
    return " ".join(f"{name}={value}" for name, value in changes.items()) or "baseline case"


def variant_text(claim: Claim, case: Mapping[str, Any]) -> str:
    """At which variant of the baseline case a claim was made, empty when at none."""
    variant = changes_in(claim.case, case)
    return f" at {changes_text(variant)}" if variant else ""


def candidate_text(claim: Claim, case: Mapping[str, Any]) -> str:
    """What was compared with the baseline `case`, and at which variant of that."""
    return changes_text(claim.changes) + variant_text(claim, case)


def estimate_text(claim: Claim) -> str:
    """The estimate with its interval."""
    low, high = (effect_text(claim.estimand, end).removesuffix(" ×") for end in (claim.low, claim.high))
    interval = f" ({low} to {high})" if claim.low is not None else ""
    return effect_text(claim.estimand, claim.estimate) + interval


def relative_text(claim: Claim) -> str:
    """How much more or less that is than the baseline, where the estimate is a ratio."""
    if claim.estimand != "ratio" or claim.estimate is None or claim.verdict not in ("improved", "regressed"):
        return ""
    return f", {100 * abs(1 - claim.estimate):.3g} % {'less' if claim.estimate < 1 else 'more'}"


def effect_text(estimand: str, effect: float | None) -> str:
    """An estimate or an end of its interval, as a ratio to the baseline or as a difference from it: as a share, or in
    the metric's own unit."""
    if effect is None:
        return "no estimate"
    if estimand == "ratio":
        return f"{effect:.3f} ×"
    return f"{effect:+.2%}" if estimand == "difference" else f"{effect:+.4g}"
