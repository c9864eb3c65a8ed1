"""Claims that nobody made: written into a logbook, its records or a store with every hash made to fit.

`research verify` makes each claim again from its trials, and what rests on no trial is nobody's best so far.
"""

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from research_steps import Stop
from research_steps.evidence.state import thread_state
from research_steps.journal.journal import Journal
from research_steps.journal.snapshot import Snapshot
from research_steps.journal.store import open_store
from research_steps.publish.logbook import format as logbook_format
from research_steps.publish.rendering import entry as render_entry
from research_steps.records.encoding import canonical, decode_record, sha256
from research_steps.records.model import EntryRecord

from tests.support.toy_thread import cli
from tests.support.untimed_thread import COST, MEASURE, REPLICATED, UntimedThread

Change = Callable[[dict[str, Any]], Any]
QUANTUM = {"work": 1}
WONDER = {"estimate": 0.05, "low": 0.04, "high": 0.06, "verdict": "improved", "confidence": "stable", "processes": 12}


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> UntimedThread:
    """A baseline, a sweep, a replicate and an interpretation, of two metrics; published and committed."""
    repository = UntimedThread(tmp_path_factory.mktemp("ran") / "checkout")
    repository.measure(MEASURE.replace('yield {"cost":', 'yield {"bytes": config.work, "cost":'))
    repository.write(REPLICATED, f'{COST}, Metric("bytes", timed=False, exact=True)')
    repository.ok()
    repository.commit()
    return repository


@pytest.fixture
def repository(ran: UntimedThread, tmp_path: Path) -> UntimedThread:
    return at(shutil.copytree(ran.root, tmp_path / "checkout", symlinks=True))


def at(root: Path) -> UntimedThread:
    repository = object.__new__(UntimedThread)
    repository.root, repository.experiment = root, root / "experiments" / "toy"
    return repository


def clone_of(repository: UntimedThread) -> UntimedThread:
    """A clone, whose store is empty."""
    repository.git("add", "--all")
    repository.git("commit", "--quiet", "--allow-empty", "--message", "as it is")
    where = repository.root.with_name("clone")
    shutil.rmtree(where, ignore_errors=True)
    subprocess.run(["git", "clone", "--quiet", str(repository.root), str(where)], check=True)
    return at(where)


def forged(repository: UntimedThread, change: Change, source: str = "TOY-003", others: bytes = b"") -> bytes:
    """An entry at the end of the logbook, made of that of `source`, with its record beside it; every hash fits."""
    beside = repository.root / ".agents" / "logbooks" / "toy"
    lines = (beside / f"{source}.jsonl").read_bytes().splitlines()
    (record,) = [json.loads(line) for line in lines if b'"kind":"entry"' in line]
    record |= {"id": "TOY-009", "key": "TOY-009", "rows": [], "finished_at": "2099-01-01T00:00:00.000Z"}
    change(record)
    line = canonical(record)
    (beside / "TOY-009.jsonl").write_bytes(line + b"\n" + others)
    made = decode_record(line, "it").record
    assert isinstance(made, EntryRecord)
    text = render_entry(made, journal_of(repository).series(), None, Snapshot(), "toy/")
    logbook = beside.with_suffix(".md")
    tips = logbook_format.parse(logbook.read_bytes()).tips
    with logbook.open("ab") as file:
        file.write(b"\n" + logbook_format.render("TOY-009", sha256(line), text, sorted(tips)))
    return line


def journal_of(repository: UntimedThread) -> Journal:
    return Journal(open_store(str(repository.root / "local_store")), "toy")


def claims(**fields: Any) -> Change:
    """Each of an entry's claims with these fields."""
    return lambda record: [claim.update(fields) for claim in record["claims"]]


def nowhere(record: dict[str, Any]) -> None:
    for claim in record["claims"]:
        refs = [{**ref, "sha256": sha256(ref["id"].encode())} for ref in claim["trials"]]
        claim.update(WONDER, changes=QUANTUM, trials=refs * 4)


FORGED: dict[str, tuple[Change, str, str]] = {
    "trials that are nowhere": (nowhere, "TOY-003", "which it names, are neither in the store nor in git"),
    "no trial": (claims(**WONDER, changes=QUANTUM, trials=[]), "TOY-003", "it names no trial"),
    "trials of another": (claims(**WONDER, changes=QUANTUM), "TOY-003", "measured another configuration"),
    "estimate": (claims(**WONDER), "TOY-003", "its trials say "),
    "older rule": (claims(**WONDER, level=0.0), "TOY-003", "its trials say "),
    "interval": (claims(low=0.49999, high=0.50001), "TOY-003", "its trials say "),
    "verdict": (claims(verdict="improved"), "TOY-002", ", regressed, "),
    "confidence": (claims(confidence="stable"), "TOY-003", "its trials say "),
    "processes": (claims(processes=12), "TOY-003", ", 12 processes: its trials say "),
    "level": (claims(level=0.5), "TOY-003", "its trials say "),
    "interpretation": (claims(**WONDER), "TOY-004", "no entry that it rests on makes this claim"),
    "certainty": (claims(confidence="stable"), "TOY-004", "what it rests on does not make it so sure"),
}


@pytest.mark.parametrize("how", FORGED)
def test_a_forged_claim_is_named_with_the_store_and_without(repository: UntimedThread, how: str) -> None:
    """Whoever verifies it, in the checkout or in a clone that has nothing but what is published."""
    change, source, says = FORGED[how]
    forged(repository, change, source)
    for checkout in (repository, clone_of(repository)):
        code, output = cli(checkout, "verify", "toy")
        told = [line for line in output.splitlines() if line.startswith("TOY-009: its claim work=")]
        assert code == 1 and told and all(says in line for line in told), output


@pytest.mark.parametrize("how", ["trials that are nowhere", "no trial", "trials of another"])
def test_what_was_not_measured_is_not_the_best_so_far(repository: UntimedThread, how: str) -> None:
    """Neither in the logbook, nor on the issue, nor for the stop criterion, nor sealed; and the surfaces say so in a
    sentence, whether the store is here or what is published is all there is."""
    change, source, says = FORGED[how]
    forged(repository, change, source)
    assert cli(repository, "sync", "toy")[0] == 0
    issue = (repository.root / ".agents" / "issues" / "toy.md").read_text()
    for text in (repository.head, issue):
        (best,) = [line for line in text.splitlines() if "Best against" in line]
        assert "`work=1000` with cost " in best
        told = [line for line in text.splitlines() if "Not counted" in line]
        assert len(told) == 2 and all("TOY-009 claims work=1: " in line and says in line for line in told)
    series = replace(journal_of(repository).series(), stop_at=Stop(0.9, "stable"))
    for checkout in (repository, clone_of(repository)):
        known = journal_of(checkout).with_trials(checkout.root / ".agents" / "logbooks" / "toy")
        state = thread_state(series, known)
        assert state.best is not None and state.best.changes == {"work": 1000}
        assert state.reached is None and QUANTUM not in [claim.changes for claim in state.claims]
    code, output = cli(repository, "seal", "toy", "TOY-009")
    assert code == 1 and "TOY-009 claims work=1" in output and "'research retract TOY-009'" in output


def test_an_entry_of_another_series_is_named_and_left_out(repository: UntimedThread) -> None:
    """Pasted at the end with its records, which are whole in themselves."""
    beside = repository.root / ".agents" / "logbooks" / "toy"
    trials = b"".join(
        line.replace(b'"series":"toy"', b'"series":"other"') + b"\n"
        for line in (beside / "TOY-003.jsonl").read_bytes().splitlines()
        if b'"kind":"trial"' in line
    )

    def change(record: dict[str, Any]) -> None:
        record["series"] = "other"
        claims(**WONDER)(record)

    line = forged(repository, change, others=trials)
    for checkout in (repository, clone_of(repository)):
        code, output = cli(checkout, "verify", "toy")
        assert code == 1
        assert (
            f"TOY-009.jsonl, record {sha256(line)[:12]} is a record of the series 'other': expected one of 'toy'"
            in output
        )
    cli(repository, "sync", "toy")
    assert "0.050 ×" not in repository.head and "`work=1000` with cost " in repository.head


def test_what_no_run_wrote_into_the_store_is_named(repository: UntimedThread) -> None:
    """A record without the intent that is written before anything begins, and an experiment ID that no step reserved."""
    folder = repository.root / "local_store" / "journal" / "toy"
    line = forged(repository, lambda record: record.pop("claims"))
    (folder / "entries" / "records" / "TOY-009-0.json").write_bytes(line + b"\n")
    (folder / "claims" / "000002.json").unlink()
    (gone, *_) = sorted((folder / "trials" / "intents").iterdir())
    gone.unlink()
    code, output = cli(repository, "verify", "toy")
    assert code == 1
    for named in ("entries/records/TOY-009-0.json has no intent", f"trials/records/{gone.name} has no intent"):
        assert named in output
    for id in ("TOY-002", "TOY-009"):
        assert f"{id}: the store holds its record, and no step reserved this ID there" in output
    assert "rests on whoever writes to that store" in output


def test_honest_claims_follow_wherever_they_are_verified(repository: UntimedThread) -> None:
    """With the store nothing rests on trust but who writes to it; a clone says on whom it rests that they were measured.
    Claims that were made again without what was retracted follow, too."""
    counted = "claims: 10 follow from their trials, 0 by an older rule, not recomputed"
    code, output = cli(repository, "verify", "toy")
    assert (code, "trust:" in output) == (0, False) and counted in output, output
    code, output = cli(clone_of(repository), "verify", "toy")
    assert code == 0 and counted in output, output
    trust = (
        "trust: the store that TOY-001, TOY-002, TOY-003 were measured with is not here: that these trials were measured"
    )
    assert f"{trust} rests on whoever wrote the repository" in output
    assert cli(repository, "retract", "TOY-003.01", "another kernel was timed")[0] == 0
    assert cli(repository, "correct", "TOY-002.01", "the unit is thousands")[0] == 0
    code, output = cli(repository, "verify", "toy", "--json")
    assert (code, json.loads(output)["claims"]["by_older_rule"], json.loads(output)["notes"]) == (0, 0, []), output


def test_a_series_that_was_declared_otherwise_is_a_note(repository: UntimedThread) -> None:
    """A metric that was exact when its claims were made, and is not now: they are not called false."""
    journal = journal_of(repository)
    series = journal.series()
    journal.declare(replace(series, metrics=(series.primary, replace(series.metrics[1], exact=False)), variants=()))
    code, output = cli(repository, "verify", "toy")
    assert code == 0 and "note: TOY-003: its claim work=1000: bytes 0.500 ×" in output, output
    assert "follows only as the series may have declared it then" in output
