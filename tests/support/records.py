"""One whole record of each kind, as a run on a laptop would leave them; changes are given by name."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import msgspec
from research_steps.evidence.state import ThreadState, thread_state
from research_steps.journal.snapshot import Snapshot
from research_steps.records.encoding import sha256, store_record
from research_steps.records.model import (
    Actor,
    Claim,
    Device,
    EntryRecord,
    Launch,
    Provenance,
    Ratio,
    Ref,
    Row,
    Samples,
    TrialRecord,
)
from research_steps.records.series import Series
from research_steps.records.times import parse_utc, utc

WHEN = "2026-05-21T09:30:00.123Z"

PROVENANCE = Provenance(
    command="python -m experiments.moe_hc",
    actor=Actor(name="Ada Example", kind="person"),
    commit="b" * 40,
    branch="main",
    patch=None,
    patch_note="",
    host="laptop",
    python="3.11.9",
    packages={"jax": "0.10.2", "numpy": "2.3.0"},
    env={"JAX_PLATFORMS": "cpu"},
)


def trial(**changes: Any) -> TrialRecord:
    record = TrialRecord(
        series="moe_hc",
        key=sha256(b"a trial"),
        attempt=0,
        id="MOE-HC-002.01",
        label="implementation=dense",
        started_at=WHEN,
        finished_at=WHEN,
        status="ok",
        mode="executor",
        measure="experiments.moe_hc.measure:measure",
        code=sha256(b"the code"),
        config_type="experiments.moe_hc.measure:MoeConfig",
        config={"implementation": "dense", "tokens": 512, "capacity_factor": 1.25},
        baseline_config={"implementation": "scatter", "tokens": 512, "capacity_factor": 1.25},
        device_class="cpu/some model/2",
        replicate=0,
        devices=(Device(backend="cpu", kind="cpu", count=1),),
        samples=Samples(
            paired=True,
            order="ABBA" * 30,
            candidate={"time_s": [0.01 + i / 1e4 for i in range(60)]},
            baseline={"time_s": [0.02 + i / 1e4 for i in range(60)]},
        ),
        ratios={"time_s": Ratio(median=0.5, low=0.4, high=0.6, pairs=60)},
        error=None,
        contended="",
        launch=Launch(
            how="forked",
            parent_pid=1,
            parent_threads=1,
            preloaded_modules=2000,
            child_pid=2,
            exit="exit code 0",
            import_s=0.1,
            setup_s=0.5,
            sampling_s=5.0,
            cpu_s=6.0,
            peak_rss_bytes=300_000_000,
        ),
        provenance=PROVENANCE,
    )
    return msgspec.structs.replace(record, **changes)


def samples(candidate: list[float], baseline: list[float], paired: bool = True) -> Samples:
    """Samples of the metric `t`."""
    return Samples(paired=paired, order="AB" * len(candidate), candidate={"t": candidate}, baseline={"t": baseline})


def claim(**changes: Any) -> Claim:
    made = Claim(
        metric="time_s",
        changes={"implementation": "dense"},
        case={"implementation": "scatter", "tokens": 512, "capacity_factor": 1.25},
        baseline=Ref(id="MOE-HC-001", key="MOE-HC-001", attempt=0, sha256=sha256(b"the baseline")),
        trials=(Ref(id="MOE-HC-002.01", key=sha256(b"a trial"), attempt=0, sha256=sha256(b"its record")),),
        also=(),
        estimand="ratio",
        estimate=0.5,
        low=0.49,
        high=0.51,
        processes=1,
        floor_processes=5,
        candidates=1,
        min_effect=0.02,
        method="by hand",
        verdict="improved",
        confidence="exploratory",
        why="",
        level=0.05,
    )
    return msgspec.structs.replace(made, **changes)


def entry(**changes: Any) -> EntryRecord:
    row = Row(
        trial=Ref(id="MOE-HC-002.01", key=sha256(b"a trial"), attempt=0, sha256=sha256(b"its record")),
        changes={"implementation": "dense"},
        replicate=0,
        status="ok",
        values={"time_s": 0.0125},
        ratios={"time_s": Ratio(median=0.5, low=0.4, high=0.6, pairs=60)},
        note="",
        contended=False,
        measured_here=True,
    )
    record = EntryRecord(
        series="moe_hc",
        key="MOE-HC-002",
        attempt=0,
        id="MOE-HC-002",
        step="sweep",
        step_key="moe_hc/sweep-1a2b3c",
        label="implementations",
        hypothesis="H1: dense takes less time",
        started_at=WHEN,
        finished_at=WHEN,
        status="ok",
        mode="executor",
        config={"measure": "experiments.moe_hc.measure:measure", "points": [{"implementation": "dense"}]},
        rows=(row,),
        inputs=(Ref(id="MOE-HC-001", key="MOE-HC-001", attempt=0, sha256=sha256(b"the baseline")),),
        result="1 trials, best implementation=dense",
        interpretation="It takes half the time.",
        next_action="Replicate it.",
        error=None,
        provenance=PROVENANCE,
    )
    return msgspec.structs.replace(record, **changes)


def state_of(series: Series, records: Sequence[EntryRecord]) -> ThreadState:
    """The state of a thread with these entries, finished in this order."""
    known = Snapshot()
    for second, record in enumerate(records):
        later = parse_utc(record.finished_at) + timedelta(seconds=second)
        known.add(store_record(msgspec.structs.replace(record, finished_at=utc(later))))
    return thread_state(series, with_trials(known))


def with_trials(known: Snapshot) -> Snapshot:
    """The snapshot, where the trials are there that claims name."""
    claims = [claim for stored in known.entries.values() for claim in stored.record.claims or ()]
    known.unread |= {ref.sha256 for claim in claims for ref in (*claim.trials, *claim.floor)}
    return known
