"""How often chance may make a claim: over looks, over the claims of a series, and over its tables."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from research_steps import Metric, Series
from research_steps.evidence.claims import Baseline, Candidate, make_claims
from research_steps.evidence.error_spending import NextLook, looks_in, next_look, next_table, share
from research_steps.evidence.statistics import LEVEL
from research_steps.records.encoding import Stored
from research_steps.records.model import Claim, EntryRecord, Ref, Samples

from tests.support import records
from tests.support.records import claim, entry

SERIES = Series(topic="t", prefix="T", goal="go", metrics=[Metric("t"), Metric("u")])
CASE = {"width": 1}
BASE = claim().baseline.sha256


def ref(name: str) -> Ref:
    return Ref(id=name, key=name, attempt=0, sha256=name)


def confirmed(width: int, *trials: str) -> EntryRecord:
    """The entry of a candidate that was measured again in these trials."""
    about: dict[str, Any] = {"changes": {"width": width}, "case": CASE, "trials": tuple(map(ref, trials))}
    return entry(step="replicate", claims=(claim(metric="t", **about), claim(metric="u", **about)))


def table(*verdicts: Any) -> EntryRecord:
    claims = tuple(claim(metric="t", verdict=verdict, changes={"width": n}) for n, verdict in enumerate(verdicts))
    return entry(step="sweep", claims=claims)


def test_all_looks_of_a_series_together_spend_five_percent() -> None:
    """However many claims are confirmed, and however often."""
    assert sum(map(share, range(1, 100_000))) == pytest.approx(1, abs=1e-4)


def place(look: NextLook) -> tuple[int, int]:
    """Which confirmation of its series, and which look at it."""
    return look.spending.confirmation, look.spending.look


def test_a_look_counts_what_was_looked_at_before() -> None:
    """The evidence of earlier looks counts on, the error they spent is gone; another candidate is another claim."""
    first = next_look(SERIES, [], {"width": 2}, CASE, BASE, "a")
    assert (first.spending.confirmation, first.spending.look, first.trials) == (1, 1, ())
    assert first.spending.level == pytest.approx(LEVEL * share(1) ** 2)
    entries = [confirmed(2, "a", "b"), confirmed(3, "c"), confirmed(2, "a", "b", "d")]
    third = next_look(SERIES, looks_in(entries), {"width": 2}, CASE, BASE, "e")
    assert (place(third), [trial.id for trial in third.trials]) == ((1, 3), ["a", "b", "d"])
    again = next_look(SERIES, looks_in(entries), {"width": 2}, CASE, BASE, "ab")
    assert place(again) == (1, 2), "nothing of it is new"
    assert place(next_look(SERIES, looks_in(entries), {"width": 3}, CASE, BASE, "e")) == (2, 2)
    assert place(next_look(SERIES, looks_in(entries), {"width": 4}, CASE, BASE, "e")) == (3, 1)
    variant = next_look(SERIES, looks_in(entries), {"width": 2}, {"width": 9}, BASE, "e")
    assert place(variant) == (3, 1)


def test_a_baseline_that_was_measured_anew_begins_evidence_anew() -> None:
    """It may be that of another machine; the error that was spent is spent all the same."""
    entries = [confirmed(2, "a", "b"), confirmed(2, "a", "b", "d")]
    anew = next_look(SERIES, looks_in(entries), {"width": 2}, CASE, "another", "e")
    assert (place(anew), anew.trials) == ((1, 3), ())


def test_tables_spend_less_the_more_of_them_found_nothing() -> None:
    """False discoveries are 5 % of all however many sweeps there are; who finds something may go on asking."""
    assert next_table(SERIES, []).level == pytest.approx(LEVEL * share(1))
    nothing, something = [table("inconclusive")] * 4, [table("improved", "no difference")] * 4
    assert next_table(SERIES, nothing).level == pytest.approx(LEVEL * share(5))
    assert next_table(SERIES, something).level == pytest.approx(LEVEL * share(5) * 5)


def stored(number: int, id: str, samples: Samples) -> Any:
    """A trial by the bytes that tell it from others; to encode it takes longer than to judge it."""
    return Stored(records.trial(key=f"{number:064x}", id=id, samples=samples), b"%d" % number)


def process(dice: np.random.Generator, spread: float) -> Samples:
    """What one process measured whose candidate changes nothing, at this much noise from process to process."""
    ratio = float(np.exp(dice.normal(0, spread)))
    return Samples(paired=True, order="", candidate={"t": [ratio]}, baseline={"t": [1.0]})


def null_table(dice: np.random.Generator, entries: Sequence[EntryRecord], candidates: int) -> EntryRecord:
    """A sweep of so many candidates that change nothing."""

    def trial(number: int) -> Any:
        samples = Samples(
            paired=True, order="", candidate={"t": [float(np.exp(dice.normal(0, 0.03)))]}, baseline={"t": [1.0]}
        )
        return stored(number, "T-001.01", samples)

    baseline = Baseline(CASE, ref("B"), [trial(100 + number) for number in range(5)])
    tried = [Candidate({"width": number}, [trial(number)]) for number in range(2, 2 + candidates)]
    series = Series(topic="t", prefix="T", goal="go", metrics=[Metric("t")])
    return entry(step="sweep", claims=make_claims(series, baseline, tried, next_table(series, entries)))


def improved(entries: Sequence[EntryRecord]) -> bool:
    claims: list[Claim] = [claim for made in entries for claim in (made.claims or ())]
    return any(claim.verdict == "improved" for claim in claims)


def test_twenty_null_candidates_are_as_safe_in_twenty_sweeps_as_in_one() -> None:
    """One by one they were called improved ten times as often as together."""
    dice, series = np.random.default_rng(0), 300
    together = sum(improved([null_table(dice, [], 20)]) for _ in range(series))
    apart = 0
    for _ in range(series):
        entries: list[EntryRecord] = []
        for _ in range(20):
            entries.append(null_table(dice, entries, 1))
        apart += improved(entries)
    assert together <= 0.05 * series and apart <= 0.05 * series


def test_a_null_candidate_that_is_looked_at_again_and_again_stays_one() -> None:
    """Twenty looks at each of three null candidates: fewer than 5 % of series replicate an improvement."""
    dice, series_of_nulls, false = np.random.default_rng(1), 200, 0
    series = Series(topic="t", prefix="T", goal="go", metrics=[Metric("t")])
    numbers = itertools.count()

    def trial(look: int) -> Any:
        samples = Samples(
            paired=True, order="", candidate={"t": [float(np.exp(dice.normal(0, 0.02)))]}, baseline={"t": [1.0]}
        )
        return stored(next(numbers), f"T-{look:03d}.01", samples)

    for _ in range(series_of_nulls):
        entries: list[EntryRecord] = []
        baseline = Baseline(CASE, ref("B"), [trial(0) for _ in range(5)])
        for width in (2, 3, 4):
            trials: list[Any] = []
            for look in range(20):
                spending = next_look(series, looks_in(entries), {"width": width}, CASE, BASE, ["new"]).spending
                trials += [trial(20 * width + look) for _ in range(2)]
                claims = make_claims(series, baseline, [Candidate({"width": width}, trials)], spending)
                entries.append(entry(step="replicate", claims=claims))
                false += claims[0].verdict == "improved" and claims[0].confidence == "replicated"
    assert false <= 0.05 * series_of_nulls
