"""What is said of a metric is one number, by one estimate and in one spelling, wherever it is read."""

import math
import random
import re
import statistics
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from research_steps.evidence.claim_text import estimate_text, process_text, with_interval
from research_steps.evidence.claims import Baseline, Candidate, make_claims
from research_steps.evidence.effects import paired_ratios
from research_steps.journal.snapshot import Snapshot
from research_steps.publish import rendering
from research_steps.publish.markdown import prose, unlinked
from research_steps.publish.terminal.records import compared, record_lines
from research_steps.publish.wandb.runs import Place, of_entry, of_trial
from research_steps.records.encoding import Stored, sha256, store_record
from research_steps.records.model import Claim, EntryRecord, Row, Samples
from research_steps.records.numbers import listed, number, quantity, ratio, spelled

from tests.support.scratch_logbook import SERIES, entry, row, trial

NAME = SERIES.primary.name


def process(id: str, seed: int, effect: float) -> Stored[Any]:
    """A trial whose pairs are skewed, as times are: their median is far from their mean."""
    dice = random.Random(seed)
    baseline = [0.005 * dice.uniform(0.99, 1.01) for _ in range(31)]
    shifted = effect * dice.uniform(0.998, 1.002)
    slow = [dice.uniform(1.15, 1.25) if at % 4 == 0 else 1.0 for at in range(31)]
    candidate = [value * shifted * more for value, more in zip(baseline, slow, strict=True)]
    samples = Samples(paired=True, order="AB" * 31, candidate={NAME: candidate}, baseline={NAME: baseline})
    key = sha256(f"{id} {seed}".encode())
    return store_record(msgspec.structs.replace(trial(id, key), samples=samples, ratios=paired_ratios(samples)))


@dataclass(frozen=True)
class Made:
    """A generated table: its trials, the claim that they make together, and the entry that says so."""

    trials: list[Stored[Any]]
    claim: Claim
    entry: Stored[EntryRecord]

    @property
    def known(self) -> Snapshot:
        return Snapshot(trials={stored.sha256: stored for stored in self.trials})

    @property
    def rows(self) -> tuple[Row, ...]:
        return self.entry.record.rows


def made(processes: int, seed: int = 0, effect: float = 1.0) -> Made:
    floor = [process(f"TOY-001.{at:02d}", 1000 * seed + at, 1 / 1.04) for at in range(1, 6)]
    trials = [process(f"TOY-002.{at:02d}", 1000 * seed + 100 + at, effect) for at in range(1, processes + 1)]
    baseline = Baseline({"work": 1}, store_record(entry("TOY-001")).ref, floor)
    (claim,) = make_claims(SERIES, baseline, [Candidate({"work": 2}, trials)])
    shown = tuple(msgspec.structs.replace(row(stored), changes={"work": 2}) for stored in trials)
    return Made(trials, claim, store_record(entry("TOY-002", rows=shown, claims=(claim,))))


def table(shown: str) -> list[str]:
    """The third column of a table's rows: what is told against the baseline."""
    return [line.strip().split(" | ")[2] for line in shown.splitlines() if re.match(r" *\| TOY-002\.", line)]


@given(seed=st.integers(0, 200), effect=st.floats(0.3, 3.0))
def test_one_claim_has_the_same_digits_on_every_surface(seed: int, effect: float) -> None:
    """Live and in 'show', in the logbook's row and the issue's, and in W&B's summary."""
    table_made = made(1, seed, effect)
    claim, stored = table_made.claim, table_made.trials[0]
    assert claim.estimate is not None
    digits = f"{ratio(claim.estimate)} ×"
    place = Place(SERIES, "toy", (), "")
    assert process_text(SERIES.primary, stored.record.samples) == f"{NAME} {digits}"
    assert digits in "\n".join(record_lines(stored.record, SERIES))
    summary = of_trial(stored, table_made.entry.record, place).summary
    assert summary[f"ratio/{NAME}"] == pytest.approx(claim.estimate, rel=1e-12)
    lowest = of_entry(table_made.entry, table_made.trials, place).summary[f"lowest ratio/{NAME}"]
    assert lowest == pytest.approx(claim.estimate, rel=1e-12)
    told = estimate_text(claim)
    primary, rows = SERIES.primary, table_made.rows
    for say in (prose, unlinked):
        shown = rendering.rows(rows, [claim], primary, "", say, table_made.known.samples)
        assert table(shown) == [told]


def test_rows_of_one_claim_average_inside_its_interval() -> None:
    """Six processes whose medians would all lie outside of it: each row shows its own by the claim's estimate."""
    six = made(6)
    assert six.claim.low is not None and six.claim.high is not None
    medians = [stored.record.ratios[NAME].median for stored in six.trials]
    assert not six.claim.low <= statistics.fmean(medians) <= six.claim.high
    for shown in (
        rendering.entry(six.entry.record, SERIES, None, six.known, "moe_hc/"),
        rendering.rows(six.rows, [six.claim], SERIES.primary, "", unlinked, six.known.samples),
    ):
        values = [float(cell.removesuffix(" ×")) for cell in table(shown)]
        assert len(values) == 6
        mean = math.exp(statistics.fmean(map(math.log, values)))
        assert six.claim.low <= mean <= six.claim.high
        assert six.claim.estimate == pytest.approx(mean, abs=1e-3)


def test_two_trials_side_by_side_tell_what_their_claims_would() -> None:
    first, second = made(2).trials
    _, lines = compared(first.record, second.record, SERIES)
    told = next(line for line in lines if "against the baseline" in line)
    for stored in (first, second):
        assert process_text(SERIES.primary, stored.record.samples).removeprefix(f"{NAME} ") in told


@pytest.mark.parametrize(
    ("metric", "value", "shown"),
    [
        ("time_s", 0.00505123, "5.05 ms"),
        ("time_s", 0.9996, "1.00 s"),
        ("time_s", 0.00099996, "1.00 ms"),
        ("time_s", 6.62e-07, "662 ns"),
        ("time_s", 0.0, "0 s"),
        ("time_s", 125.4, "125 s"),
        ("latency_ms", 0.25, "250 µs"),
        ("peak_bytes", 1572864.0, "1.50 MiB"),
        ("peak_bytes", 12.0, "12 B"),
        ("tokens_per_s", 12345.6, "12346 /s"),
        ("loss", 0.49512, "0.495"),
        ("error", 6.623e-07, "6.62e-07"),
        ("count", 2048.0, "2048"),
        ("count", 1e300, "1.00e+300"),
    ],
)
def test_a_number_has_three_digits_and_the_unit_of_its_name(metric: str, value: float, shown: str) -> None:
    assert quantity(metric, value) == shown


def test_an_interval_has_the_digits_that_tell_its_ends_apart() -> None:
    assert with_interval("ratio", 0.495, (0.491, 0.499)) == "0.495 × (0.491 to 0.499)"
    assert with_interval("ratio", 1.00004, (1.00001, 1.00008)) == "1.0000 × (1.0000 to 1.0001)"
    assert with_interval("ratio", 0.5, (0.5, 0.5)) == "0.500 × (0.500 to 0.500)"
    assert with_interval("ratio", 0.01234, (0.0121, 0.0125)) == "0.0123 × (0.0121 to 0.0125)"
    assert with_interval("absolute", -0.00123, (-0.002, -0.0001), "time_s") == "-1.23 ms (-2 ms to -100 µs)"
    assert number(12.345) == "12.3"


def test_nothing_is_spelled_as_python_spells_it() -> None:
    assert spelled({"model": {"hidden": 64, "sizes": [1, 2]}, "lr": 0.00012345}) == (
        "model.hidden=64 model.sizes=1, 2 lr=0.00012345"
    )
    assert listed({"loss": 0.5, NAME: 0.00505}, NAME) == f"{NAME} 5.05 ms, loss 0.500"
    lines = "\n".join(record_lines(made(2).entry.record, SERIES) + record_lines(made(1).trials[0].record, SERIES))
    assert "{" not in lines and "work=2" in lines
