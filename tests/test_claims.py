"""Claims from records: what may be compared, what counts as evidence, and how far it goes."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from research_steps import Metric, Series, Stop
from research_steps.evidence.claim_text import verdict_text
from research_steps.evidence.claims import Baseline, Candidate, make_claims, remade
from research_steps.evidence.comparable import incomparable
from research_steps.evidence.judgement import is_routine
from research_steps.evidence.standing import best, reached, standing, together
from research_steps.journal.snapshot import Snapshot
from research_steps.records.encoding import Stored, store_record
from research_steps.records.model import Claim, Device, Error, InterruptedRecord, Provenance, Ref, Samples, TrialRecord

from tests.support import records
from tests.support.records import PROVENANCE, WHEN, claim, entry

SERIES = Series(topic="moe_hc", prefix="MOE-HC", goal="go", metrics=[Metric("time_s")], variants=("tokens",))
CASE = {"implementation": "scatter", "tokens": 512}
DENSE = {"implementation": "dense"}
FLOOR = (0.004, -0.003, 0.002, -0.004, 0.001)


def trial(effect: float | None, number: int = 0, **changes: Any) -> Stored[TrialRecord]:
    """One process whose candidate differs from the baseline by this effect; None failed."""
    candidate = [0.02 * math.exp(effect or 0.0)] * 5
    samples = Samples(paired=True, order="AB" * 5, candidate={"time_s": candidate}, baseline={"time_s": [0.02] * 5})
    failed = Error(type="ValueError", message="no", frames=(), where="candidate", output_tail="")
    made = records.trial(
        key=f"{number:064x}",
        id=f"MOE-HC-009.{number:02d}",
        samples=None if effect is None else samples,
        status="failed" if effect is None else "ok",
        error=failed if effect is None else None,
    )
    return store_record(msgspec.structs.replace(made, **changes))


def baseline(effects: Sequence[float] = FLOOR, case: dict[str, Any] = CASE, **changes: Any) -> Baseline:
    ref = Ref(id="MOE-HC-001", key="MOE-HC-001", attempt=0, sha256="b" * 64)
    return Baseline(case, ref, [trial(effect, 50 + number, **changes) for number, effect in enumerate(effects)])


def claimed(effects: Sequence[float | None], also: Sequence[float] = (), **changes: Any) -> Claim:
    trials = [trial(effect, number, **changes) for number, effect in enumerate(effects)]
    before = [trial(effect, 20 + number) for number, effect in enumerate(also)]
    return make_claims(SERIES, baseline(), [Candidate(DENSE, trials, before)])[0]


@pytest.mark.parametrize(
    ("effects", "also", "says"),
    [
        ([-0.3], [], "improved, exploratory"),
        ([-0.3, -0.31], [], "improved, exploratory"),
        ([-0.3, -0.31, -0.305], [], "improved, replicated"),
        ([-0.3], [-0.29], "improved, exploratory"),
        ([-0.3, -0.31, -0.305], [0.1], "improved, replicated"),
        ([0.3, 0.31, 0.305], [], "regressed, replicated"),
        ([0.001, -0.001, 0.002], [], "no difference, replicated"),
        ([-0.3, 0.3], [], "inconclusive"),
        ([-0.02, -0.01], [], "inconclusive"),
        ([None], [], "failed"),
        ([-0.3, -0.31, -0.305, None], [], "improved, exploratory"),
    ],
)
def test_confidence_takes_three_processes_since_the_choice(
    effects: Sequence[float | None], also: Sequence[float], says: str
) -> None:
    """The process that chose the candidate counts neither for nor against it. One that failed is no agreement."""
    assert verdict_text(claimed(effects, also)) == says


@pytest.mark.parametrize(
    ("estimate", "confidence", "wanted", "holds"),
    [
        (0.8, "replicated", Stop(0.1), True),
        (0.8, "stable", Stop(0.1), True),
        (0.8, "exploratory", Stop(0.1), False),
        (0.8, "replicated", Stop(0.1, "stable"), False),
        (0.8, "stable", Stop(0.1, "stable"), True),
        (0.91, "replicated", Stop(0.1), False),
    ],
)
def test_a_series_may_stop_at_its_share_and_confidence(
    estimate: float, confidence: str, wanted: Stop, holds: bool
) -> None:
    """Neither a large effect that is not sure, nor a sure one that is too small."""
    series = dataclasses.replace(SERIES, stop_at=wanted)
    single = claim(metric="time_s", estimate=estimate, verdict="improved", confidence=confidence, changes=DENSE)
    assert reached(series, [single]) == (single if holds else None)
    assert reached(SERIES, [single]) is None


def test_the_trial_that_chose_the_candidate_does_not_count_for_it() -> None:
    """The best of many is partly luck, so the interval rests on what was measured after the choice."""
    assert claimed([-0.3, -0.31], [-0.9]).estimate == pytest.approx(math.exp(-0.305))


def test_a_contended_trial_is_shown_and_supports_nothing() -> None:
    """Its estimate stands in the table; no interval, no verdict. A metric that load does not change is not affected."""
    loaded = claimed([-0.3], contended="other processes kept 1.00 of 2 cores busy")
    assert loaded.verdict == "inconclusive" and loaded.low is None
    assert loaded.estimate == pytest.approx(math.exp(-0.3))
    assert "other processes kept 1.00" in loaded.why
    untimed = Series(topic="t", prefix="T", goal="go", metrics=[Metric("time_s", timed=False)])
    claims = make_claims(untimed, baseline(), [Candidate(DENSE, [trial(-0.3, contended="load")])])
    assert claims[0].verdict == "improved"


def test_a_contended_process_leaves_the_others_to_speak() -> None:
    """Of four replicates with one beside load, three count."""
    trials = [trial(-0.3, 1), trial(-0.31, 2), trial(-0.305, 3), trial(0.5, 4, contended="load")]
    judged = make_claims(SERIES, baseline(), [Candidate(DENSE, trials)])[0]
    assert (judged.processes, verdict_text(judged)) == (3, "improved, replicated")


def moved(**changes: Any) -> Provenance:
    return msgspec.structs.replace(PROVENANCE, **changes)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"code": "f" * 64}, "code: ffffffffffff | "),
        ({"device_class": "cpu/another/4"}, "device class: cpu/another/4 | cpu/some model/2"),
        ({"devices": (Device(backend="cpu", kind="cpu", count=4),)}, "devices: 4 × cpu cpu | 1 × cpu cpu"),
        ({"measure": "a:b"}, "measure function: a:b | experiments.moe_hc.measure:measure"),
        ({"provenance": moved(packages={"jax": "0.9", "numpy": "2.3.0"})}, "jax: 0.9 | 0.10.2"),
        ({"provenance": moved(packages={"numpy": "2.3.0"})}, "jax: None | 0.10.2"),
        ({"provenance": moved(env={"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--x"})}, "XLA_FLAGS: --x | None"),
        ({"provenance": moved(python="3.12.1")}, "python: 3.12 | 3.11"),
    ],
)
def test_what_was_measured_under_other_conditions_is_not_comparable(changes: dict[str, Any], told: str) -> None:
    """Both values of each difference are told, and there is no verdict."""
    judged = claimed([-0.3], **changes)
    assert judged.verdict == "not comparable" and judged.estimate is None
    assert told in judged.why


@pytest.mark.parametrize(
    "changes",
    [
        {"provenance": moved(host="another", commit="c" * 40, command="python -m other", python="3.11.2")},
        {"provenance": moved(packages={**PROVENANCE.packages, "research-steps": "9", "marin-core": "9"})},
        {"provenance": moved(env={**PROVENANCE.env, "MARIN_PREFIX": "/elsewhere"})},
        {"devices": ()},
    ],
)
def test_records_from_other_places_can_be_compared(changes: dict[str, Any]) -> None:
    """Another host of the same kind, another commit with the same code, another place for the store."""
    assert incomparable(trial(0.0, **changes).record, trial(0.0).record) == {}
    assert claimed([-0.3], **changes).verdict == "improved"


def test_candidates_that_failed_are_not_counted_in_the_correction() -> None:
    """The error is shared out between those that were compared."""
    candidates = [Candidate({"implementation": str(n)}, [trial(-0.3 if n < 3 else None, n)]) for n in range(5)]
    claims = make_claims(SERIES, baseline(), candidates)
    assert [claim.verdict for claim in claims] == ["improved"] * 3 + ["failed"] * 2
    assert {claim.candidates for claim in claims} == {3}


def test_an_interrupted_candidate_failed_for_that_reason() -> None:
    """Nothing is known of it, and it says why."""
    record = InterruptedRecord(
        schema=1, series="moe_hc", subject="trial", key="1" * 64, attempt=0, id="MOE-HC-009.01", label="",
        started_at=WHEN, finished_at=WHEN, reason="the run was stopped",
    )  # fmt: skip
    failed = make_claims(SERIES, baseline(), [Candidate(DENSE, [store_record(record)])])[0]
    assert (failed.verdict, failed.why) == ("failed", "interrupted: the run was stopped")


def test_a_metric_that_was_declared_later_has_no_claim_from_old_trials() -> None:
    """It was not measured; nothing is made up and nothing breaks."""
    both = Series(topic="t", prefix="T", goal="go", metrics=[Metric("time_s"), Metric("bytes")])
    claims = make_claims(both, baseline(), [Candidate(DENSE, [trial(-0.3)])])
    assert [claim.verdict for claim in claims] == ["improved", "failed"]


def at(tokens: int, verdict: Any = "improved", confidence: Any = "replicated") -> Claim:
    return claim(changes=DENSE, case={**CASE, "tokens": tokens}, verdict=verdict, confidence=confidence)


@pytest.mark.parametrize(
    ("claims", "stable"),
    [
        ([at(512), at(1024)], True),
        ([at(512)], False),
        ([at(512), at(512)], False),
        ([at(512), at(1024, confidence="exploratory")], False),
        ([at(512), at(1024), at(2048, "regressed")], False),
        ([at(512), at(1024), at(2048, "inconclusive", "exploratory")], True),
        ([at(512, confidence="exploratory"), at(1024, confidence="exploratory")], False),
        (
            [at(512), claim(changes=DENSE, case={**CASE, "tokens": 9, "implementation": "x"}, confidence="replicated")],
            False,
        ),
    ],
)
def test_stable_takes_two_values_of_a_variant_that_the_series_declares(claims: list[Claim], stable: bool) -> None:
    """Replicated at both, with nothing else varied, and contradicted at none."""
    assert (together(SERIES, claims)[0].confidence == "stable") is stable
    plain = Series(topic="t", prefix="T", goal="go", metrics=[Metric("time_s")])
    assert "stable" not in {claim.confidence for claim in together(plain, claims)}


def ref(name: str) -> Ref:
    return Ref(id=name, key=name, attempt=0, sha256=name)


def test_the_later_of_two_claims_counts_unless_it_rests_on_less() -> None:
    """A sweep that is extended shows a replicated candidate's first trial again, which takes nothing back."""
    sweep = entry(claims=(claim(trials=(ref("a"),)),))
    again = entry(step="replicate", claims=(claim(trials=(ref("b"), ref("c")), also=(ref("a"),), estimate=0.6),))
    fresh = entry(claims=(claim(trials=(ref("d"),), estimate=0.7),))
    assert [claim.estimate for claim in standing([sweep, again, sweep])] == [0.6]
    assert [claim.estimate for claim in standing([sweep, again, fresh])] == [0.7]
    taken_back = entry(step="retraction", claims=(claim(trials=(ref("a"),), estimate=0.8),))
    assert [claim.estimate for claim in standing([sweep, again, taken_back])] == [0.8]
    assert standing([entry()]) == [], "entries from before there were claims say nothing"


def test_the_best_is_the_largest_improvement_in_the_metrics_direction() -> None:
    """What regressed or is open is never the best, whatever its estimate."""
    claims = [
        claim(estimate=0.5), claim(estimate=0.4), claim(estimate=0.1, verdict="inconclusive"),
        claim(estimate=0.2, metric="bytes"), claim(estimate=2.0, verdict="regressed"),
    ]  # fmt: skip
    assert best(SERIES, claims) == claims[1]
    assert best(SERIES, claims[2:]) is None


def test_a_retracted_trial_leaves_a_claim_with_what_is_left() -> None:
    """Its verdict is made again from the other processes; without any it says so, and without its baseline as well."""
    trials = [trial(-0.3, 1), trial(-0.31, 2), trial(-0.305, 3)]
    base = baseline()
    rows = tuple(records.entry().rows[0].__class__(**_row(process)) for process in base.trials)
    baseline_entry = store_record(entry(step="baseline", rows=rows))
    known = Snapshot()
    for stored in (*trials, *base.trials, baseline_entry):
        known.add(stored)
    made = make_claims(SERIES, Baseline(CASE, baseline_entry.ref, base.trials), [Candidate(DENSE, trials)])
    assert verdict_text(made[0]) == "improved, replicated"
    (one_less,) = remade(SERIES, known, made, frozenset({trials[0].sha256}))
    assert (one_less.processes, verdict_text(one_less)) == (2, "improved, exploratory")
    (nothing,) = remade(SERIES, known, made, frozenset(process.sha256 for process in trials))
    assert nothing.verdict == "failed"
    (without,) = remade(
        SERIES, known, made[:1], frozenset({baseline_entry.sha256, *(process.sha256 for process in trials[:2])})
    )
    assert without.verdict == "inconclusive"


def _row(stored: Stored[Any]) -> dict[str, Any]:
    return {
        "trial": stored.ref, "changes": {}, "replicate": 0, "status": "ok", "values": {"time_s": 0.02}, "ratios": {},
        "note": "", "contended": False, "measured_here": True,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "routine"),
    [("NameError", True), ("BadMetrics", True), ("Diverged", False), ("ImportError", False), ("XlaRuntimeError", False)],
)
def test_a_slip_in_the_code_is_no_negative_result(kind: str, routine: bool) -> None:
    """A misspelled name says nothing of the candidate; a kernel that is not implemented here does."""
    error = Error(type=kind, message="no", frames=(), where="candidate", output_tail="")
    assert is_routine(trial(None, error=error).record) is routine


@given(
    st.lists(st.floats(-1, 1), min_size=1, max_size=3),
    st.lists(st.floats(-0.1, 0.1), min_size=0, max_size=5),
    st.integers(1, 5),
)
def test_every_claim_can_be_recorded_and_says_one_thing(
    effects: list[float], floor: list[float], candidates: int
) -> None:
    """Whatever was measured: an interval around its estimate or none, and a reason where there is no answer."""
    trials = [[trial(effect, 10 * n + m) for m, effect in enumerate(effects)] for n in range(candidates)]
    several = [Candidate({"implementation": str(n)}, processes) for n, processes in enumerate(trials)]
    for judged in make_claims(SERIES, baseline(floor), several):
        assert (judged.low is None) == (judged.high is None)
        if judged.low is not None and judged.high is not None and judged.estimate is not None:
            assert judged.low <= judged.estimate * (1 + 1e-12) and judged.estimate <= judged.high * (1 + 1e-12)
        assert judged.verdict in ("improved", "regressed", "no difference") or judged.why
        store_record(entry(claims=(judged,)))
