"""What a record may name: hashes, IDs, tags and files of a strict spelling, and nothing that leads elsewhere.

The store belongs to others. What somebody put there by hand is broken if it names anything else, and broken records are
named and left alone.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import inspect
from research_steps.errors import UnreadableObject
from research_steps.journal.journal import Journal
from research_steps.journal.store import open_store
from research_steps.records.encoding import canonical, decode, decode_record, encode, store_record
from research_steps.records.model import EntryRecord, InterruptedRecord, TrialRecord
from research_steps.records.objects import OBJECTS, IssueLink, Seal
from research_steps.records.step_kinds import STEP_KINDS
from research_steps.records.times import utc
from research_steps.seal.bundle import Bundle

from tests.support import records
from tests.support.scratch_logbook import SERIES
from tests.support.sealed_logbook import SealedDesk
from tests.support.toy_thread import research

# What people and machines say in their own words, or call things: shown, and never used. Everything else is spelled.
TEXT = {
    *("Actor.name", "Owner.machine", "Owner.host", "Provenance.command", "Provenance.host", "Provenance.branch"),
    *("Provenance.patch_note", "Device.backend", "Device.kind", "Error.type", "Error.message", "Error.frames"),
    *("Error.output_tail", "Launch.exit", "Samples.order", "Row.note", "Claim.method", "Claim.why", "Claim.over"),
    *("InterruptedRecord.label", "InterruptedRecord.reason", "TrialRecord.label", "TrialRecord.measure"),
    *("TrialRecord.config_type", "TrialRecord.device_class", "TrialRecord.contended"),
    *("EntryRecord.step", "EntryRecord.step_key", "EntryRecord.label", "EntryRecord.hypothesis", "EntryRecord.result"),
    *("EntryRecord.interpretation", "EntryRecord.next_action"),
    *("Intent.label", "TrialPlan.label", "IDReservation.step_key", "Seal.host", "Pushed.remote"),
    *("Measurement.measure", "BaselineMeasurement.measure", "Sweep.measure", "Replication.measure"),
    *("Interaction.measure", "Sweep.axis", "Interaction.forced", "Ran.function", "Ran.command", "Ran.tpu", "Ran.node"),
    *("Ran.env", "Ran.output_tail", "Decision.owner", "Decision.production_pr", "Attachment.link"),
    *("HypothesisChange.text", "HypothesisChange.because", "Rebase.baseline", "Rebase.claim"),
    *("NextExperiment.experiment", "NextExperiment.falsifier", "Brief.question"),
    *("ContradictionCheck.claim", "ContradictionCheck.found", "ContradictionCheck.looked"),
    *(f"Source.{name}" for name in ("type", "where", "version", "claim", "confidence", "notes", "supports")),
    "Source.contradicts",
    *(f"Reproduction.{name}" for name in ("commands", "not_run", "environment", "outcome")),
    *(f"Finish.{name}" for name in ("worked", "did_not", "confidence", "limitations", "next_steps")),
    *("Finish.production_pr", "Finish.docs"),
    *(f"Kickoff.{name}" for name in ("motivation", "problem", "success_metrics", "hypotheses", "tags", "branch")),
    *(f"Kickoff.{name}" for name in ("first_experiment_matrix", "baseline_case", "stop", "code_paths", "references")),
    *(
        "Kickoff.wandb_project",
        "Kickoff.issue",
        "Adopted.source",
        "Adopted.unread",
        "OthersRow.outcome",
        "OthersRow.note",
    ),
    *("SealedCommand.command", "CommandRun.argv", "CommandRun.output", "TrialProgress.text"),
    *("Hardware.device_class", "Hardware.hosts", "MeasuredWith.measure", "Elsewhere.where"),
    *("Elsewhere.why", "Bundle.branch", "Bundle.patch_note", "Bundle.recorded", "Bundle.tagger"),
}


def unspelled(kind: Any, name: str = "") -> Iterator[str]:
    """The fields below a type that take any text; the names in a mapping's values, such as a configuration, are text."""
    match kind:
        case inspect.StrType(pattern=None):
            yield name
        case inspect.StructType():
            for field in kind.fields:
                yield from unspelled(field.type, f"{kind.cls.__name__}.{field.name}")
        case inspect.UnionType():
            for inner in kind.types:
                yield from unspelled(inner, name)
        case inspect.VarTupleType() | inspect.ListType():
            yield from unspelled(kind.item_type, name)
        case inspect.DictType():
            yield from unspelled(kind.value_type, "") if isinstance(kind.value_type, inspect.StructType) else ()


def test_every_field_is_spelled_or_is_text() -> None:
    """Whoever adds a field decides which it is: what a path, a ref or an address is made of has its pattern."""
    details = [kind.details for kind in STEP_KINDS.values()]
    kinds = (EntryRecord, TrialRecord, InterruptedRecord, *OBJECTS, *details, Bundle)
    assert {name for kind in kinds for name in unspelled(inspect.type_info(kind))} == TEXT


TRIAL, ENTRY = (json.loads(store_record(record).line) for record in (records.trial(), records.entry()))
ELSEWHERE = ("../../../../tmp/x", "/etc/passwd", "--help", "", "x\n", "\x1b]0;x\x07")


def with_field(record: Any, path: str, value: Any) -> bytes:
    """The record with a field, such as 'rows.0.trial.id', replaced."""
    changed = json.loads(json.dumps(record))
    *parents, last = path.split(".")
    inner = changed
    for name in parents:
        inner = inner[int(name) if name.isdigit() else name]
    inner[last] = value
    return canonical(changed)


@pytest.mark.parametrize("value", ELSEWHERE)
@pytest.mark.parametrize(
    ("record", "path"),
    [
        *((TRIAL, name) for name in ("series", "key", "id", "code", "started_at", "finished_at")),
        *((TRIAL, f"provenance.{name}") for name in ("commit", "patch", "environment", "python")),
        *((ENTRY, name) for name in ("series", "key", "id", "started_at")),
        *((ENTRY, f"{ref}.{name}") for ref in ("rows.0.trial", "inputs.0") for name in ("id", "key", "sha256")),
    ],
)
def test_a_record_that_names_something_else_is_broken(record: Any, path: str, value: str) -> None:
    """Neither a path, nor an option, nor a line break behind the right spelling."""
    with pytest.raises(UnreadableObject, match=r"^it is not a record \(Expected"):
        decode_record(with_field(record, path, value), "it")
    *parents, last = path.split(".")
    inner = record
    for name in parents:
        inner = inner[int(name) if name.isdigit() else name]
    if inner.get(last):
        with pytest.raises(UnreadableObject):
            decode_record(with_field(record, path, f"{inner[last]}\n"), "it")


@pytest.mark.parametrize(
    ("step", "config"),
    [
        ("attachment", {"file": "../../x", "sha256": "0" * 64}),
        ("rebase", {"baseline": "b", "from": {}, "to": {}, "claim": "", "commit": "--orphan"}),
        ("rebase", {"baseline": "b", "from": {}, "to": {}, "claim": "", "patch": "../x"}),
        ("reproduction", {"tag": "toy/../../x"}),
        ("retraction", {"retracts": "TOY-001\n### TOY-002"}),
        ("hypothesis", {"hypothesis": "H1\n# x", "text": "", "state": "active", "because": ""}),
    ],
)
def test_what_a_step_records_is_spelled_too(step: str, config: Any) -> None:
    """The details of an entry are read as strictly as the rest of it."""
    with pytest.raises(UnreadableObject, match=r"^it is not a record \(Expected text of another form"):
        decode_record(canonical({**ENTRY, "step": step, "config": config}), "it")


@pytest.mark.parametrize(
    ("value", "name", "wrong"),
    [
        (Seal("TOY-001", "toy/TOY-001", "a" * 40, utc(), "h"), "tag", "../../refs/heads/main"),
        (Seal("TOY-001", "toy/TOY-001", "a" * 40, utc(), "h"), "commit", "--upload-pack=touch x"),
        (IssueLink("o/r", 1, "https://github.com/o/r/issues/1", utc()), "url", "javascript:alert(1)"),
        (IssueLink("o/r", 1, "https://github.com/o/r/issues/1", utc()), "url", "https://x) [y](z"),
        (IssueLink("o/r", 1, "https://github.com/o/r/issues/1", utc()), "repository", "../.."),
    ],
)
def test_an_object_that_names_something_else_is_broken(value: Any, name: str, wrong: str) -> None:
    """What was decided once, such as an issue's address, leads where it says."""
    assert decode(type(value), encode(value), "it") == value
    with pytest.raises(UnreadableObject, match=r"^it is not a record"):
        decode(type(value), with_field(json.loads(encode(value)), name, wrong), "it")


# -- the real commands against a store that somebody wrote to --------------------------------------------------------


@pytest.fixture
def desk(tmp_path: Path) -> SealedDesk:
    """One whose store lies deeper than its checkout, so that one name leads elsewhere from each."""
    made = SealedDesk(SealedDesk.make(tmp_path / "a" / "b").root, tmp_path / "s" / "t" / "u" / "store")
    made.journal.declare(SERIES)
    return made


def forge(desk: SealedDesk, path: str, value: str) -> None:
    """Put an entry into the store that is like another one, but for a field."""
    forged = json.loads(desk.measured("honest").line) | {"id": "TOY-666", "key": "TOY-666"}
    desk.journal.store.create("journal/toy/entries/records/TOY-666-0.json", with_field(forged, path, value) + b"\n")


def test_sync_writes_nothing_outside_for_a_forged_patch(desk: SealedDesk, tmp_path: Path) -> None:
    """A patch whose name leads out of the repository, with bytes where the store would find them: it is named and not
    written, and the honest entry is published."""
    forge(desk, "provenance.patch", "../" * 5 + "planted")
    (desk.store / "journal/toy/patches").mkdir(parents=True)
    (tmp_path / "s" / "t" / "planted.patch").write_text("planted")
    done = research(desk.root, "sync", "toy", "--prefix", str(desk.store))
    assert [path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("planted*")] == ["s"]
    assert "TOY-666-0.json is not a record" in done.stderr and done.returncode == 1
    assert desk.ids == ["TOY-001"]


def test_seal_reads_nothing_outside_for_a_forged_environment(desk: SealedDesk, tmp_path: Path) -> None:
    """The list of packages of a sealed entry leads to a private file: the entry is none, and no tag holds the file."""
    (tmp_path / "private.txt").write_text("a private file")
    lead = "../" * 7 + "private"
    (desk.store / "journal/toy/environments").mkdir(parents=True)
    assert open_store(str(desk.store)).read(f"journal/toy/environments/{lead}.txt") == b"a private file"
    forge(desk, "provenance.environment", lead)
    research(desk.root, "sync", "toy", "--prefix", str(desk.store))
    done = research(desk.root, "seal", "toy", "TOY-666", "--prefix", str(desk.store))
    listed = desk.git("log", "--all", "--format=", "--name-only", "--", ".agents")
    assert "requirements.txt" not in listed and desk.git("tag") == ""
    assert done.returncode == 1 and "'TOY-666' is no record of this series" in done.stderr


def test_another_series_declared_in_its_place_is_not_taken(desk: SealedDesk) -> None:
    """Who rewrites a series' declaration can't have another topic's files written, and is told what is wrong."""
    path = "journal/toy/series.json"
    data = json.loads(desk.journal.store.read(path) or b"")
    for topic, found in (("other", "is the series other, expected toy"), ("../../x", "is not a series")):
        desk.journal.store.put(path, canonical({**data, "topic": topic}))
        with pytest.raises(UnreadableObject, match=found):
            Journal(desk.journal.store, "toy").declared()
        done = research(desk.root, "sync", "toy", "--prefix", str(desk.store))
        assert done.returncode == 1 and found in done.stderr
        assert "Traceback" not in done.stderr
    assert not (desk.root / ".agents").exists()
