"""The state of a thread: one answer for every surface, by hash, whatever two branches called it."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from research_steps.evidence.standing import fixed_cases, reached
from research_steps.evidence.state import ThreadState
from research_steps.journal import snapshot
from research_steps.publish.issue import text as issue_text
from research_steps.publish.rendering import summary
from research_steps.records.encoding import store_record
from research_steps.records.model import EntryRecord, Ref
from research_steps.records.series import Metric, Series, Stop

from tests.support.records import claim, entry, state_of, with_trials

SERIES = Series(
    topic="moe_hc", prefix="MOE-HC", goal="faster", metrics=(Metric("time_s", "min"),), stop_at=Stop(0.1, "replicated")
)
CASE = {"implementation": "scatter", "tokens": 512}


def made(id: str, step: str, **changes: Any) -> EntryRecord:
    return entry(id=id, key=id, step=step, step_key=f"{id}/{changes.get('label', '')}", **changes)


def baseline(id: str, label: str, case: dict[str, Any]) -> EntryRecord:
    config = {"measure": "experiments.moe_hc.measure:measure", "baseline_case": case, "replicates": 2}
    return made(id, "baseline", label=label, config=config, rows=())


def improved(case: dict[str, Any], **changes: Any) -> Any:
    trial = Ref(id="MOE-HC-003.01", key="a" * 64, attempt=0, sha256="a" * 64)
    parts = {"verdict": "improved", "confidence": "replicated", "estimate": 0.5, "low": 0.45, "high": 0.55}
    return claim(case=case, trials=(trial,), also=(), metric="time_s", **{**parts, **changes})


@pytest.fixture
def merged() -> ThreadState:
    """Two branches used MOE-HC-002 for a baseline each; one of them was retracted, and the other carries a result."""
    good = baseline("MOE-HC-002", "ours", CASE)
    bad = baseline("MOE-HC-002", "theirs", {**CASE, "tokens": 8})
    before = state_of(SERIES, [good, bad])
    retraction = made("MOE-HC-004", "retraction", config={"retracts": "MOE-HC-002"}, inputs=(before.entries[1].ref,))
    sweep = made("MOE-HC-003", "sweep", claims=(improved(CASE),), rows=())
    return state_of(SERIES, [good, bad, sweep, retraction])


def test_a_retracted_record_takes_no_other_with_the_same_id_along(merged: ThreadState) -> None:
    """The rules, the logbook's head, the issue and the stop criterion keep the baseline that was not retracted."""
    fixed = {label: (fixed.case, fixed.entry.record.id) for label, fixed in fixed_cases(merged.entries).items()}
    assert fixed == {"ours": (CASE, "MOE-HC-002")}
    assert [baseline.case for baseline in merged.baselines] == [CASE]
    assert merged.best is not None and merged.reached == merged.best == reached(SERIES, list(merged.claims))
    links: Any = SimpleNamespace(section=str, commit=str, tags=[], snapshot=dict, record=str, logbook="", runs="")
    for text in (summary(merged, None, "toy/"), "\n".join(issue_text.sections(merged, links, 7_000).values())):
        assert "MOE-HC-002 ours" in text and "MOE-HC-002 theirs" not in text
        assert "Best against MOE-HC-001 (ours)" in text and "`implementation=dense` with time_s" in text


def test_what_rests_on_a_retracted_interpretation_says_so(merged: ThreadState) -> None:
    """By the record that it names, not by the ID."""
    good, bad = (stored.ref for stored in merged.entries[:2])
    records = [stored.record for stored in merged.entries]
    for inputs, lost in (((good,), ()), ((good, bad), ("MOE-HC-002",))):
        read = made("MOE-HC-005", "interpret", config={}, inputs=inputs, rows=())
        reading = state_of(SERIES, [*records, read]).reading
        assert reading is not None and reading.retracted == lost


def test_the_winner_comes_with_all_it_changes_and_what_is_close_to_it() -> None:
    """Nothing that speaks against the best candidate is left out of the state."""
    series = replace(SERIES, metrics=(Metric("time_s", "min"), Metric("memory", "min", timed=False)))
    worse = improved(CASE, verdict="regressed", estimate=1.3, low=1.2, high=1.4)
    memory = msgspec.structs.replace(worse, metric="memory")
    near = improved(CASE, changes={"implementation": "ring"}, estimate=0.53, low=0.5, high=0.56)
    far = improved(CASE, changes={"implementation": "sonic"}, estimate=0.9, low=0.88, high=0.92)
    sweep = made("MOE-HC-003", "sweep", claims=(improved(CASE), memory, near, far), rows=())
    state = state_of(series, [baseline("MOE-HC-002", "ours", CASE), sweep])
    (winner,) = state.winners
    assert winner.claim == state.best == improved(CASE)
    assert winner.also == (memory,) and winner.close == (near,)


def test_the_state_says_what_to_do_next() -> None:
    """As commands that can be given as they are."""
    fresh = improved(CASE, confidence="exploratory")
    base = baseline("MOE-HC-002", "ours", CASE)
    open_ended = state_of(SERIES, [base, made("MOE-HC-003", "sweep", claims=(fresh,), rows=())])
    assert open_ended.next_commands == ("research replicate MOE-HC-003.01",)
    done = state_of(SERIES, [base, made("MOE-HC-003", "replicate", claims=(improved(CASE),), rows=())])
    assert done.next_commands == ("research seal moe_hc",)


def test_the_order_in_which_records_are_read_changes_nothing(merged: ThreadState) -> None:
    """A snapshot is a set: what was finished first comes first, wherever it was found."""
    from research_steps.evidence.state import thread_state
    from research_steps.journal.snapshot import Snapshot

    backwards = Snapshot()
    for stored in reversed(merged.entries):
        backwards.add(store_record(stored.record))
    assert thread_state(SERIES, with_trials(backwards)) == merged


def test_the_entries_are_put_in_order_a_few_times_however_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """The head of a logbook with ten thousand entries is made in a moment."""
    sorted_so_often = 0
    order = snapshot.numbered_order

    def counted(entries: Any) -> Any:
        nonlocal sorted_so_often
        sorted_so_often += 1
        return order(entries)

    monkeypatch.setattr(snapshot, "numbered_order", counted)
    state_of(SERIES, [made(f"MOE-HC-{number:03d}", "note", config={}, rows=()) for number in range(200)])
    assert sorted_so_often <= 3
