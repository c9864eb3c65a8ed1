"""`research check`: a real sealed thread passes; what is broken on purpose fails a line, which says how to mend it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from research_steps.actions.check import CheckLine, check
from research_steps.evidence.effects import medians
from research_steps.git import Checkout
from research_steps.journal.journal import Journal
from research_steps.journal.snapshot import OpenAttempt
from research_steps.journal.store import open_store
from research_steps.publish.logbook.numbers import CheckoutNumbers
from research_steps.records.encoding import Stored
from research_steps.records.model import Claim, EntryRecord, Ref, Samples, TrialRecord

from tests.support import github_api
from tests.support.github_api import Proxy
from tests.support.issue_thread import environment
from tests.support.scratch_logbook import PROVENANCE, SERIES, Desk, entry, row, trial
from tests.support.toy_thread import CONCLUSION, Repository, research

SAMPLES = Samples(paired=True, order="ABBA", candidate={"time_s": [1.0, 2.0]}, baseline={"time_s": [2.0, 4.0]})
CONFIG = {"measure": "experiments.toy.measure:measure", "baseline_case": {"work": 2}, "points": [{"work": 1}]}


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A thread that was run and sealed."""
    repository = Repository(tmp_path_factory.mktemp("check") / "checkout")
    done = repository.run("--seal", "true")
    assert done.code == 0, done.output
    repository.commit()
    return repository.root


@pytest.fixture
def sealed(ran: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """A copy of that thread, to be broken."""
    monkeypatch.setenv("WANDB_MODE", "disabled")
    root = tmp_path / "checkout"
    shutil.copytree(ran, root, symlinks=True)
    return Desk(root, root / "local_store")


def failing(desk: Desk, closing: bool = False) -> dict[str, CheckLine]:
    """The lines that fail, by name, as a fresh process would see them."""
    journal = Journal(open_store(str(desk.store)), SERIES.topic)
    lines = check(Checkout.find(desk.root), journal, journal.series(), closing)
    assert all(line.found for line in lines)
    return {line.name: line for line in lines if not line.ok}


def assert_only(desk: Desk, name: str, finding: str, mend: str) -> None:
    failed = failing(desk)
    assert list(failed) == [name], failed
    assert finding in failed[name].found and mend in failed[name].mend


def sweep(desk: Desk, trials: Sequence[dict[str, Any]] = ({},), **changes: Any) -> Stored[EntryRecord]:
    """A sweep as a step would leave it, but for these changes to its trials and to itself; published."""
    id = desk.journal.ids.reserve(
        SERIES.prefix, f"toy/{os.urandom(8).hex()}", CheckoutNumbers(desk.checkout, "toy", "TOY")
    )
    rows = []
    for index, change in enumerate(trials, 1):
        record = trial(f"{id}.{index:02d}", os.urandom(32).hex())
        record = msgspec.structs.replace(record, **{"samples": SAMPLES, **change})
        values = medians(SAMPLES.candidate)
        rows.append(msgspec.structs.replace(row(finished(desk, record)), values=values))
    points = [{"work": number} for number in range(len(rows))]
    values = {"rows": tuple(rows), "config": {**CONFIG, "points": points}, "claims": claims_of(rows, changes)}
    changes = {name: change for name, change in changes.items() if name not in ("verdict", "confidence")}
    with desk.journal.attempts.begin("entry", id, 0, id=id, label="crafted", config={}):
        stored: Stored[EntryRecord] = desk.journal.attempts.finish("entry", entry(id, **{**values, **changes}))
    desk.publish()
    return stored


def finished(desk: Desk, record: TrialRecord) -> Stored[TrialRecord]:
    with desk.journal.attempts.begin("trial", record.key, 0, id=record.id, label=record.label, config={}):
        stored: Stored[TrialRecord] = desk.journal.attempts.finish("trial", record)
    return stored


def claims_of(rows: Sequence[Any], changes: dict[str, Any]) -> tuple[Claim, ...]:
    refs = tuple(row.trial for row in rows)
    return (
        Claim(
            metric="time_s", changes={"work": 1}, case={"work": 2}, baseline=Ref("TOY-001", "TOY-001", 0, "0" * 64),
            trials=refs, also=(), estimand="ratio", estimate=0.5, low=0.4, high=0.6, processes=len(refs),
            floor_processes=5, candidates=1, min_effect=0.02, method="some", why="device class: cpu | tpu",
            verdict=changes.get("verdict", "improved"), confidence=changes.get("confidence", "exploratory"),
        ),
    )  # fmt: skip


def test_a_sealed_thread_passes_and_once_finished_may_be_closed(sealed: Desk) -> None:
    """Exit code 0 before posting; --closing names what only the final summary says, until it says it."""
    done = research(sealed.root, "check", "toy")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "FAIL" not in done.stdout and "  ok   snapshot exists: 1 checked\n" in done.stdout

    pending = research(sealed.root, "check", "toy", "--closing")
    assert pending.returncode == 1
    assert (
        "  FAIL next steps: pending: 'research finish toy' writes it\n       mend: research finish toy … --next"
        in pending.stdout
    )
    unsaid = ["conclusion", "next steps", "production PR", "docs updated or not in need of it", "issue closed"]
    assert list(failing(sealed, closing=True)) == unsaid

    assert research(sealed.root, "finish", "toy", *CONCLUSION).returncode == 0
    (line,) = failing(sealed, closing=True).values()
    assert line.name == "docs updated or not in need of it" and "--docs" in line.mend
    assert research(sealed.root, "finish", "toy", *CONCLUSION, "--docs", "none needs it").returncode == 0
    done = research(sealed.root, "check", "toy", "--closing", "--json")
    assert done.returncode == 0, done.stdout
    assert msgspec.json.decode(done.stdout)["failed"] == 0


def test_a_thread_that_was_not_run_has_nothing_to_check(tmp_path: Path) -> None:
    """Before the first trial no line of the first two groups fails, and none claims to have seen anything."""
    desk = Desk.make(tmp_path)
    desk.journal.declare(SERIES)
    lines = check(desk.checkout, desk.journal, SERIES, False)
    assert {(line.ok, line.found) for line in lines} == {(True, "nothing to check yet")}


def test_checking_changes_nothing(sealed: Desk) -> None:
    """Work tree, tags and store are as they were; only git's folder may have got a lock."""

    def state() -> dict[str, bytes]:
        files = (path for path in sealed.root.rglob("*") if path.is_file() and ".git/research-steps" not in str(path))
        return {str(path): path.read_bytes() for path in files}

    before = state()
    assert research(sealed.root, "check", "toy", "--closing").returncode == 1
    assert state() == before


@pytest.mark.parametrize("tag", ["", "HEAD"])
def test_a_tag_that_was_lost_or_moved(sealed: Desk, tag: str) -> None:
    """The seal's commit is named, and the mend makes the tag again."""
    commit = sealed.git("rev-parse", "toy/TOY-004^{commit}").strip()
    sealed.git("tag", "--delete", "toy/TOY-004")
    if tag:
        sealed.git("tag", "toy/TOY-004", tag)
    assert_only(sealed, "tags lost", commit, "git tag --annotate --force --message sealed TAG COMMIT")
    if tag:
        sealed.git("tag", "--annotate", "--force", "--message", "sealed", "toy/TOY-004", commit)
    else:
        assert research(sealed.root, "sync", "toy").returncode == 0
    assert failing(sealed) == {}


def test_a_record_that_was_edited_in_git(sealed: Desk) -> None:
    """One changed value in a file of records is found, and git brings it back."""
    path = sealed.path.with_suffix("") / "TOY-002.jsonl"
    path.write_text(path.read_text().replace('"work":1000', '"work":1001'))
    assert_only(sealed, "logbook, records and journal agree", "TOY-002", "research verify toy")
    sealed.git("checkout", "--", str(path))
    assert failing(sealed) == {}


def test_a_record_that_stands_twice(sealed: Desk) -> None:
    """Each record is in its file once."""
    path = sealed.path.with_suffix("") / "TOY-002.jsonl"
    path.write_bytes(path.read_bytes() + path.read_bytes().splitlines()[0] + b"\n")
    assert_only(sealed, "extraction validated", "TOY-002.jsonl holds a record twice", "")


def test_an_entry_that_was_cut_off(sealed: Desk) -> None:
    """An entry of the journal that the logbook lacks is named; sync appends it again."""
    sealed.path.write_bytes(sealed.data[: sealed.data.index(b"<!-- research-steps entry TOY-004 -->")])
    failed = failing(sealed)
    assert list(failed) == ["written in the logbook", "logbook, records and journal agree"]
    line = failed["written in the logbook"]
    assert (line.found, line.mend) == ("1: TOY-004", "research sync toy")
    assert research(sealed.root, *line.mend.split()[1:]).returncode == 0
    assert failing(sealed) == {}


def test_the_summary_was_edited(sealed: Desk) -> None:
    """A head that is not what the records say is not current."""
    sealed.path.write_bytes(sealed.data.replace(b"## TL;DR\n- ", b"## TL;DR\n- Not true: ", 1))
    assert "TL;DR current" in failing(sealed, closing=True) and failing(sealed) == {}
    assert research(sealed.root, "sync", "toy").returncode == 0
    assert "TL;DR current" not in failing(sealed, closing=True)


def test_trials_that_only_git_still_holds(sealed: Desk) -> None:
    """A store that lost them is no drift; once git lost one too, its entry is without its run."""
    for path in (sealed.store / "journal" / "toy" / "trials" / "records").iterdir():
        path.unlink()
    assert failing(sealed) == {}
    path = sealed.path.with_suffix("") / "TOY-002.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if msgspec.json.decode(line)["id"] != "TOY-002.01"]
    path.write_bytes(b"".join(kept))
    failed = failing(sealed)
    assert failed["entries without runs"].found == "1: TOY-002.01"
    assert "with git" in failed["entries without runs"].mend
    assert set(failed) == {"entries without runs", "logbook, records and journal agree", "attempts orphaned"}


def test_a_milestone_that_was_not_posted(sealed: Desk) -> None:
    """What the logbook shows and the issue does not, yet or any more, is named; sync posts it again."""
    sealed.record("chosen", 0, step="decision", config={"owner": "A Person", "scope": False})
    sealed.publish()
    assert_only(sealed, "posts pending", "1: TOY-005", "research sync toy")
    assert research(sealed.root, "sync", "toy").returncode == 0
    assert failing(sealed) == {}
    path = sealed.root / ".agents" / "issues" / "toy.md"
    path.write_bytes(path.read_bytes().rpartition(b"<!-- research-steps comment")[0])
    assert_only(sealed, "posts pending", "1: TOY-005", "research sync toy")
    assert research(sealed.root, "sync", "toy").returncode == 0
    assert failing(sealed) == {}


def test_an_issue_that_is_gone(sealed: Desk) -> None:
    """Nothing leads to the logbook and nothing is posted, until sync writes the issue again."""
    (sealed.root / ".agents" / "issues" / "toy.md").unlink()
    failed = failing(sealed)
    assert [*failed] == ["logbook linked from the issue", "posts pending"]
    assert "none in .agents/issues/" in failed["logbook linked from the issue"].found
    assert all("research sync toy" in line.mend for line in failed.values())
    assert research(sealed.root, "sync", "toy").returncode == 0
    assert failing(sealed) == {}


def test_on_github_the_journal_tells_what_was_posted(
    sealed: Desk, github_proxy: Proxy, github_repository: github_api.Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linked, posted and closed is known without asking the network."""
    for name, value in {**environment(github_proxy), "GITHUB_REPOSITORY": github_repository.full_name}.items():
        monkeypatch.setenv(name, value)
    number = github_repository.create_issue("Experiment: toy")
    assert research(sealed.root, "sync", "toy", "--issue", str(number)).returncode == 0
    assert research(sealed.root, "finish", "toy", *CONCLUSION).returncode == 0
    asked = len(github_proxy.requests)
    assert list(failing(sealed, closing=True)) == ["docs updated or not in need of it"]
    assert len(github_proxy.requests) == asked

    for folder in ("postings", "closed"):
        shutil.rmtree(sealed.store / "journal" / "toy" / folder)
    failed = failing(sealed, closing=True)
    assert failed["posts pending"].found == "4: TOY-001; TOY-003; TOY-004 and 1 more"
    assert failed["issue closed"].mend == "research sync toy"


def test_an_attempt_whose_process_was_killed(sealed: Desk) -> None:
    """It is told as orphaned, as long as nobody ran the thread again."""
    code = (
        "import os, sys\n"
        "from research_steps.journal.journal import Journal\n"
        "from research_steps.journal.store import open_store\n"
        "journal = Journal(open_store(sys.argv[1]), 'toy')\n"
        "with journal.attempts.begin('trial', 'a' * 64, 0, id='TOY-009.01', label='a trial', config={}):\n"
        "    os._exit(9)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(sealed.store)], check=False).returncode == 9
    assert_only(sealed, "attempts orphaned", "TOY-009.01", "run the thread again")


def test_a_run_whose_entry_never_came(sealed: Desk) -> None:
    """What a stopped step measured belongs to no entry, until a decision says what became of it."""
    with sealed.journal.attempts.begin("entry", "TOY-009", 0, id="TOY-009", label="stopped", config={}):
        finished(sealed, trial("TOY-009.01", "a" * 64))
        assert failing(sealed) == {}, "it still runs"
        (attempt,) = sealed.journal.attempts.of("entry", "TOY-009")
        assert isinstance(attempt, OpenAttempt)
        sealed.journal.attempts.interrupt(attempt, "the run was stopped")
    assert_only(sealed, "runs without entries", "1: TOY-009.01", "research decide toy REASON --evidence ID")
    assert research(sealed.root, "decide", "toy", "Too slow to go on.", "--evidence", "TOY-009.01").returncode == 0
    assert failing(sealed) == {}


def of(**changes: Any) -> Any:
    return msgspec.structs.replace(PROVENANCE, **changes)


@pytest.mark.parametrize(
    ("trials", "changes", "name", "finding"),
    [
        ([{}], {"provenance": of(commit=None)}, "command reproducible", "has no commit"),
        ([{}], {"provenance": of(patch_note="withheld: a secret")}, "command reproducible", "withheld for a secret"),
        ([{}], {"provenance": of(patch="d" * 64)}, "command reproducible", "is gone"),
        ([{}], {"config": {"measure": "m:m"}}, "shapes and configs explicit", "lacks baseline_case, points"),
        ([{}, {"code": "1" * 64}], {}, "apples to apples", "differ in code"),
        ([{}, {"device_class": "tpu"}], {}, "apples to apples", "differ in device class"),
        ([{}], {"verdict": "not comparable"}, "apples to apples", "device class: cpu | tpu"),
        ([{"contended": "2 cores busy"}], {}, "no claim from contended trials", "time_s of TOY-005.01"),
        ([{}], {"config": {**CONFIG, "points": [{"work": 1}] * 2}}, "extraction validated", "1 rows for 2 points"),
        ([{"samples": None}], {}, "extraction validated", "does not show the medians"),
        ([{}], {"confidence": "replicated"}, "claims unsealed", "TOY-005"),
        ([{}], {"confidence": "stable"}, "claims unsealed", "TOY-005"),
    ],
)
def test_a_result_that_should_not_be_posted(
    sealed: Desk, trials: list[dict[str, Any]], changes: dict[str, Any], name: str, finding: str
) -> None:
    """What can't be made again, was not measured alike, or shows other numbers than were measured; once it is
    retracted nothing is asked of it."""
    bad = sweep(sealed, trials, **changes)
    assert_only(sealed, name, finding, "the thread" if name.startswith(("no claim", "claims")) else "research retract")
    done = research(sealed.root, "retract", bad.record.id, "Not measured as it should have been.")
    assert done.returncode == 0, done.stderr
    assert failing(sealed) == {}


def test_a_newer_interpretation_is_not_below_the_last_tag(sealed: Desk) -> None:
    """The tag of an earlier one does not count for it; nor does a seal that was asked for and not made."""
    made = msgspec.structs.replace(PROVENANCE, commit=sealed.git("rev-parse", "HEAD").strip())
    newest = sealed.record("interpretation", 0, step="interpret", provenance=made)
    assert research(sealed.root, "sync", "toy").returncode == 0
    assert_only(sealed, "snapshot exists", "TOY-005 is in no sealed snapshot", "--seal true")
    sealed.record("seal", 0, step="seal", inputs=(newest.ref,))
    assert_only(sealed, "snapshot exists", "TOY-006 waits for its tag", "research sync toy")
    assert research(sealed.root, "sync", "toy").returncode == 0
    assert failing(sealed) == {}
