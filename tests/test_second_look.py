"""What was discarded for a reason that has changed since is listed for a second look."""

from typing import Any

import msgspec
import pytest
from research_steps.evidence.second_look import Conditions, second_look
from research_steps.records.model import EntryRecord
from research_steps.records.series import Metric, Series

from tests.support.records import PROVENANCE, claim, entry

SERIES = Series(topic="moe_hc", prefix="MOE-HC", goal="faster", metrics=(Metric("time_s", "min"),), variants=("tokens",))
CASE = {"implementation": "scatter", "tokens": 512}
HERE = Conditions(CASE, PROVENANCE.packages, "cpu")


def made(id: str, verdict: str, case: dict[str, Any] | None = None, **packages: str) -> EntryRecord:
    source = msgspec.structs.replace(PROVENANCE, packages={**PROVENANCE.packages, **packages})
    said = claim(changes={"chunk": 4}, case=case or CASE, verdict=verdict)
    return entry(id=id, key=id, provenance=source, claims=(said,))


@pytest.mark.parametrize(
    ("discarded", "machine", "why"),
    [
        (
            made("MOE-HC-002", "regressed", {**CASE, "implementation": "dense"}),
            "cpu",
            "baseline moved, implementation dense",
        ),
        (made("MOE-HC-002", "failed", jax="0.9.0"), "cpu", "failed): jax 0.9.0 → 0.10.2"),
        (made("MOE-HC-002", "no difference"), "gpu", "the machine, gpu → cpu"),
        (made("MOE-HC-002", "regressed"), "cpu", ""),
        (made("MOE-HC-002", "regressed", {**CASE, "tokens": 8}), "cpu", ""),
        (made("MOE-HC-002", "regressed", **{"research-steps": "0.0.1"}), "cpu", ""),
        (made("MOE-HC-002", "improved", jax="0.9.0"), "cpu", ""),
    ],
)
def test_a_discard_whose_reason_changed_is_named(discarded: EntryRecord, machine: str, why: str) -> None:
    """With what changed: the baseline, a library or the machine; nothing else, and nothing that was no discard."""
    looked = second_look(SERIES, [discarded], [HERE], lambda claim: machine)
    assert len(looked) == bool(why) and all(why in text and "chunk=4" in text for text in looked)


def test_what_was_measured_again_needs_no_second_look() -> None:
    """Against the baseline in force now, as it is now."""
    before = made("MOE-HC-002", "regressed", {**CASE, "implementation": "dense"}, jax="0.9.0")
    assert len(second_look(SERIES, [before], [HERE], lambda claim: "cpu")) == 1
    assert second_look(SERIES, [before, made("MOE-HC-003", "regressed")], [HERE], lambda claim: "cpu") == ()
    assert second_look(SERIES, [before], [], lambda claim: "cpu") == ()
