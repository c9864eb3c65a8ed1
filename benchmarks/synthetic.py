"""A checkout, a store, and trials that cost nothing: what the benchmarks of recording record."""

import subprocess
from pathlib import Path

from research_steps import Metric, Series
from research_steps.evidence.effects import medians, paired_ratios
from research_steps.git import Checkout
from research_steps.journal.experiment_ids import NoOthers
from research_steps.journal.journal import Journal
from research_steps.records.encoding import Stored, sha256
from research_steps.records.model import Captured, EntryRecord, Ref, Row, Samples, TrialRecord
from research_steps.records.times import utc
from research_steps.trial.provenance import capture

SERIES = Series(topic="bench", prefix="BENCH", goal="measure the recording", metrics=(Metric("time_s"),))
SAMPLES = Samples(
    paired=True,
    order="AB" * 30,
    candidate={"time_s": [0.010 + i / 1e5 for i in range(30)]},
    baseline={"time_s": [0.012 + i / 1e5 for i in range(30)]},
)


def checkout(root: Path) -> Checkout:
    """A new repository with one commit."""
    git = ["git", "-c", "user.name=bench", "-c", "user.email=bench@localhost"]
    subprocess.run([*git, "init", "--quiet", str(root)], check=True)
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "-m", "start"], cwd=root, check=True)
    return Checkout.find(root)


def captured(where: Checkout) -> Captured:
    return capture(where, ["python", "-m", "experiments.bench"], "bench")


def trial(id: str, key: str, run: Captured) -> TrialRecord:
    """A finished trial with 30 pairs."""
    return TrialRecord(
        series=SERIES.topic, key=key, attempt=0, id=id, label="work=1", started_at=utc(),
        finished_at=utc(), status="ok", mode="executor", measure="experiments.bench.measure:measure",
        code=sha256(b"code"), config_type="dict", config={"work": 1}, baseline_config={"work": 2},
        device_class="cpu/any/2", replicate=0, devices=(), samples=SAMPLES, ratios=paired_ratios(SAMPLES), error=None,
        contended="", launch=None, provenance=run.provenance,
    )  # fmt: skip


def entry(id: str, step_key: str, measured: Stored[TrialRecord], run: Captured) -> EntryRecord:
    """A finished step that rests on one trial."""
    record = measured.record
    row = Row(
        trial=Ref(id=record.id, key=record.key, attempt=record.attempt, sha256=measured.sha256), changes={"work": 1},
        replicate=0, status="ok", values=medians(SAMPLES.candidate), ratios=record.ratios, note="", contended=False,
        measured_here=True,
    )  # fmt: skip
    return EntryRecord(
        series=SERIES.topic, key=id, attempt=0, id=id, step="sweep", step_key=step_key, label="work",
        hypothesis="", started_at=utc(), finished_at=utc(), status="ok", mode="executor", config={"work": 1},
        rows=(row,), inputs=(), result="1 trial", interpretation="", next_action="", error=None,
        provenance=run.provenance,
    )  # fmt: skip


def record_trial(journal: Journal, id: str, key: str, run: Captured) -> Stored[TrialRecord]:
    """Intent and record of one trial, as a step leaves them."""
    with journal.attempts.begin("trial", key, 0, id=id, label="work=1", config={"work": 1}) as begun:
        assert begun, f"nobody else measures {key}"
        stored: Stored[TrialRecord] = journal.attempts.finish("trial", trial(id, key, run))
    return stored


def record_step(journal: Journal, step_key: str, run: Captured) -> Stored[EntryRecord]:
    """A step with one trial: claimed ID, intents and records."""
    id = journal.ids.reserve(SERIES.prefix, step_key, NoOthers())
    with journal.attempts.begin("entry", id, 0, id=id, label="work", config={}) as begun:
        assert begun, f"nobody else holds {id}"
        measured = record_trial(journal, id, sha256(step_key.encode()), run)
        stored: Stored[EntryRecord] = journal.attempts.finish("entry", entry(id, step_key, measured, run))
    return stored
