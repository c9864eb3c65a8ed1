"""The report of a series, in a real browser, and the forest plot beside its logbook."""

import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import msgspec
import pytest
from research_steps import Hypothesis, Metric, Series
from research_steps.evidence.claim_text import claim_text
from research_steps.evidence.climb import climb
from research_steps.evidence.state import ThreadState, thread_state
from research_steps.git import Checkout
from research_steps.journal.journal import Journal
from research_steps.journal.logbook_place import LogbookPlace
from research_steps.journal.snapshot import Snapshot
from research_steps.journal.store import open_store
from research_steps.publish.forest import SHOWN, forest
from research_steps.publish.logbook.surface import LogbookSurface
from research_steps.publish.logbook.verify import check, read
from research_steps.publish.publisher import publish
from research_steps.publish.report.files import write_report
from research_steps.publish.report.index import list_report, listed
from research_steps.records.encoding import Stored, store_record
from research_steps.records.model import Claim, EntryRecord, Row
from research_steps.records.objects import IssueLink

from tests.support import records
from tests.support.browser import look
from tests.support.hostile_store import HARMLESS, HOSTILE, HOSTILES, write_store
from tests.support.scratch_logbook import Desk
from tests.support.toy_thread import research

CASE = {"implementation": "scatter", "block": 0}
SERIES = Series(
    topic="moe_hc",
    prefix="MOE-HC",
    goal="take less time",
    metrics=(Metric("time_s"), Metric("bytes")),
    hypotheses=(Hypothesis("H1", "blocks take less time"),),
)
PLACE = LogbookPlace("moe_hc", Checkout(Path("/checkout"), None), Path("/checkout/.agents/logbooks/moe_hc.md"))
ISSUE = IssueLink("lab/marin", 12, "https://github.com/lab/marin/issues/12", records.WHEN)
# What became of each block: its verdict, or why there is none, with the estimate and its interval.
OUTCOMES: dict[int, tuple[str, float, float, float]] = {
    1: ("regressed", 1.2, 1.15, 1.25),
    2: ("improved", 0.9, 0.88, 0.92),
    4: ("no difference", 1.0, 0.99, 1.01),
    8: ("inconclusive", 0.97, 0.9, 1.05),
    16: ("improved", 0.7, 0.68, 0.72),
    32: ("contended", 0.5, 0.4, 0.6),
    64: ("failed", 0.0, 0.0, 0.0),
    128: ("improved", 0.6, 0.58, 0.62),
}
RETRACTED = 128


class Thread:
    """A series with a baseline, a sweep in which everything happens, a decision, and a retraction."""

    def __init__(self) -> None:
        self.known = Snapshot()
        floor = self._trial("MOE-HC-001.01", {}, "ok")
        config = {"measure": "experiments.moe_hc.measure:measure", "baseline_case": CASE, "replicates": 1}
        self.baseline = self._entry(
            "MOE-HC-001", step="baseline", label="scatter", config=config, rows=(self._row(floor, {}),), inputs=()
        )
        rows, claims = [], []
        for number, (block, (outcome, *numbers)) in enumerate(OUTCOMES.items(), 1):
            changes = {"block": block}
            trial = self._trial(f"MOE-HC-002.{number:02d}", changes, "failed" if outcome == "failed" else "ok")
            rows.append(self._row(trial, changes, contended=outcome == "contended"))
            claims += self._claims(trial, changes, outcome, numbers)
        config = {"measure": "m:m", "baseline_case": CASE, "axis": "block", "points": [row.changes for row in rows]}
        self.sweep = self._entry("MOE-HC-002", config=config, rows=tuple(rows), claims=tuple(claims))
        self.trials = {row.changes["block"]: row.trial.id for row in rows}
        decided = {"owner": "Ada", "scope": False}
        self._entry("MOE-HC-003", step="decision", label="16", config=decided, rows=(), inputs=(self.sweep.ref,))
        wrong = next(claim for claim in claims if claim.changes["block"] == RETRACTED)
        none: dict[str, Any] = {"verdict": "not comparable", "estimate": None, "low": None, "high": None}
        again = msgspec.structs.replace(wrong, **none, why="retracted")
        self._entry("MOE-HC-004", step="retraction", config={}, rows=(), inputs=wrong.trials, claims=(again,))

    @property
    def state(self) -> ThreadState:
        return thread_state(SERIES, self.known)

    def _trial(self, id: str, changes: Mapping[str, Any], status: str) -> Stored[Any]:
        trial = records.trial(id=id, key=records.sha256(id.encode()), config={**CASE, **changes}, baseline_config=CASE)
        if status == "failed":
            trial = msgspec.structs.replace(trial, status="failed", samples=None, ratios={})
        stored = store_record(trial)
        self.known.add(stored)
        return stored

    def _row(self, trial: Stored[Any], changes: dict[str, Any], contended: bool = False) -> Row:
        plain = records.entry().rows[0]
        made = msgspec.structs.replace(plain, trial=trial.ref, changes=changes, contended=contended)
        if trial.record.status == "ok":
            return made
        return msgspec.structs.replace(made, status="failed", values={}, ratios={}, note="ValueError: no tiling")

    def _claims(self, trial: Stored[Any], changes: dict[str, Any], outcome: str, numbers: list[float]) -> list[Claim]:
        about: dict[str, Any] = {
            "changes": changes, "case": CASE, "baseline": self.baseline.ref, "trials": (trial.ref,),
            "verdict": {"contended": "inconclusive"}.get(outcome, outcome),
        }  # fmt: skip
        estimate, low, high = numbers if outcome != "failed" else (None, None, None)
        claim = records.claim(**about, estimate=estimate, low=low, high=high)
        also = msgspec.structs.replace(claim, metric="bytes", estimate=1.5, low=1.4, high=1.6, verdict="regressed")
        return [claim] if outcome == "failed" else [claim, also]

    def _entry(self, id: str, **changes: Any) -> Stored[EntryRecord]:
        stored = store_record(records.entry(id=id, key=id, **changes))
        self.known.add(stored)
        return stored


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    return Desk.make(tmp_path_factory.mktemp("report"))


def written(desk: Desk, known: Snapshot, series: Series = SERIES) -> Path:
    return write_report(desk.checkout, desk.journal, series, known)


def test_a_browser_finds_nothing_wrong_with_a_report(desk: Desk) -> None:
    """In light, dark and on a phone: an empty console, no request, no dead link, a name for each control, contrast; and
    what a reader does there works."""
    thread = Thread()
    found = look(written(desk, thread.known))
    assert (found["console"], found["requests"], found["dead"], found["violations"]) == ([], [], [], [])
    assert found["wide"] == [0, 0, 0]
    assert all(link.startswith("../logbooks/moe_hc/MOE-HC-00") for link in found["links"]), found["links"]
    # Each attempt is a point; those of a legend are among the symbols.
    assert found["marks"] >= len(OUTCOMES)
    assert (found["open"], found["opened"]) == ([], ["MOE-HC-001.01", ["MOE-HC-001"]])
    assert found["searched"] == ["MOE-HC-001"]
    outcomes = {block: "retracted" if block == RETRACTED else outcome for block, (outcome, *_) in OUTCOMES.items()}
    by_outcome: dict[str, list[str]] = {}
    for block, outcome in outcomes.items():
        by_outcome.setdefault(outcome, []).append(thread.trials[block])
    assert found["kinds"] == by_outcome


def test_a_report_of_hostile_records_is_one_of_harmless_ones(tmp_path: Path) -> None:
    """A series with every kind of step, in which each free field is hostile: the same elements, and nothing acts."""
    pages = {}
    for name, spelled in (("harmless", HARMLESS), ("hostile", HOSTILES)):
        desk = Desk.make(tmp_path / name)
        write_store(desk.store, spelled)
        done = research(desk.root, "report", "old_series", "--prefix", str(desk.store))
        assert done.returncode == 0, done.stderr
        pages[name] = look(Path(done.stdout.strip()))
    harmless, hostile = pages["harmless"], pages["hostile"]
    assert (hostile["console"], hostile["requests"], hostile["dead"]) == ([], [], [])
    # A text that is too long for the plot has its whole in a title.
    titles = {page["tags"].pop("title", None) for page in pages.values()}
    assert titles and hostile["tags"] == harmless["tags"]
    assert [link for link in hostile["links"] if not link.startswith("../logbooks/old_series/")] == []


def test_the_climb_marks_what_does_not_count(desk: Desk) -> None:
    """Each attempt says what its entry claims of it, or why nothing; the best so far never rests on what was disturbed
    or taken back."""
    way = climb(Thread().state)
    told = {attempt.row.changes["block"]: (attempt.outcome, attempt.estimate, attempt.low) for attempt in way.attempts}
    wanted = {
        block: ("retracted" if block == RETRACTED else outcome, estimate or None, low or None)
        for block, (outcome, estimate, low, _) in OUTCOMES.items()
    }
    assert told == wanted
    assert [(step.claim.changes["block"], step.attempt) for step in way.steps] == [(2, 2), (16, 5)]


def test_the_forest_shows_each_claim_as_it_is_told() -> None:
    """Worse and equal ones too, what else the best changes, and what failed; each in the words of the other surfaces."""
    state = Thread().state
    drawn = ElementTree.fromstring(forest(state))
    texts = ["".join(element.itertext()) for element in drawn.iter() if element.tag.endswith("text")]
    claims = [claim for claim in state.claims if claim.metric == "time_s" and claim.estimate is not None]
    assert [claim_text(claim) for claim in claims if claim_text(claim) not in texts] == []
    assert any(text.startswith("↳ bytes of block=") for text in texts)
    assert any("ValueError: no tiling" in text for text in texts)


def test_a_forest_has_room_for_its_best_claims_only() -> None:
    """It says how many more there are."""
    state = Thread().state
    one = next(claim for claim in state.claims if claim.metric == "time_s" and claim.verdict == "improved")
    many = tuple(msgspec.structs.replace(one, changes={"block": block}) for block in range(1, SHOWN + 8))
    drawn = forest(replace(state, claims=many, machines=("",) * len(many), winners=()))
    assert drawn.count("<circle") == SHOWN
    assert "7 more candidates stand in the entries." in drawn


def test_hostile_names_do_not_leave_the_forest() -> None:
    """It is well-formed XML with the same elements, whatever a configuration is made of."""
    state = Thread().state

    def spelled(text: str) -> list[str]:
        claims = tuple(msgspec.structs.replace(claim, changes={text: text}, why=text) for claim in state.claims)
        machines = ("",) * len(claims)
        shown = replace(state, claims=claims, machines=machines, winners=(), dead_ends=())
        drawn = ElementTree.fromstring(forest(shown))
        return [element.tag for element in drawn.iter() if not element.tag.endswith("title")]

    assert spelled(HOSTILE) == spelled("x\ufffe\uffff<&\"'") == spelled("plain")


def test_the_forest_lies_beside_the_logbook(tmp_path: Path) -> None:
    """It is published with the summary that shows it, by the same records the same bytes, put back where it was lost or
    left in conflict, and nothing that verification takes for a stranger's."""
    desk, thread = Desk.make(tmp_path), Thread()
    journal = Journal(open_store(str(desk.store)), SERIES.topic)
    path = desk.path.parent / "moe_hc" / "forest.svg"

    def published() -> bytes:
        done = publish(journal, [LogbookSurface(desk.checkout, journal, SERIES)])
        assert done.problems == ()
        return path.read_bytes() if path.exists() else b""

    assert published() == b""
    for stored in thread.known.everything:
        kind = "trial" if stored.record.id.count(".") else "entry"
        journal.attempts.finish(kind, stored.record)
    drawn = published()
    assert drawn == forest(thread.state).encode()
    assert "](moe_hc/forest.svg)" in path.parent.with_suffix(".md").read_text()
    written_at = path.stat().st_mtime_ns
    assert published() == drawn and path.stat().st_mtime_ns == written_at
    path.write_bytes(b"<<<<<<< HEAD\n" + drawn)
    assert published() == drawn
    path.unlink()
    assert published() == drawn
    assert check(read(desk.checkout, SERIES.topic), journal).problems == []


def test_what_is_private_is_in_no_report(desk: Desk) -> None:
    """Neither a private entry nor what it measured; the report of a private series says at its head that it is one."""
    thread = Thread()
    secret = records.entry(id="MOE-HC-005", key="MOE-HC-005", label="hidden words", rows=(), private=True)
    thread.known.add(store_record(secret))
    text = written(desk, thread.known).read_text()
    assert "MOE-HC-004" in text
    assert "MOE-HC-005" not in text and "hidden words" not in text and "do not pass it on" not in text
    whole = written(desk, thread.known, replace(SERIES, private=True)).read_text()
    assert "hidden words" in whole and "do not pass it on" in whole


def test_a_report_is_not_committed(desk: Desk) -> None:
    """It lies where git does not look, without a change to the user's own .gitignore."""
    path = written(desk, Thread().known)
    assert path == desk.root / ".agents" / "reports" / "moe_hc.html"
    assert desk.git("status", "--porcelain") == ""


def test_the_same_records_give_the_same_report(desk: Desk) -> None:
    """Byte for byte, so that a report can be compared with an earlier one."""
    assert written(desk, Thread().known).read_bytes() == written(desk, Thread().known).read_bytes()


INDEX = "# Reports\n\n## Modeling\n\n- One\n    - Conclusion: good.\n\n## Uncategorized\n\n(Not yet curated.)\n"


@pytest.mark.parametrize(
    "page",
    [
        INDEX,
        INDEX + "\n- Two\n    - GitHub Issue\n",
        INDEX + "\n## Later\n\nmore",
        "# Reports\n\n- One",
        INDEX.replace("Uncategorized", "Uncategorized Experiments").replace("\n", "\r\n"),
        "",
    ],
)
def test_the_index_gets_a_series_and_keeps_its_bytes(page: str) -> None:
    """The lines are added under Uncategorized, in one piece, once; everything else is there as it was."""
    before = page.encode()
    after = listed(before, SERIES, ISSUE, PLACE)
    assert listed(after, SERIES, ISSUE, PLACE) == after
    assert listed(after, replace(SERIES, goal="another"), None, PLACE) == after
    start = next((at for at, (one, other) in enumerate(zip(before, after, strict=False)) if one != other), len(before))
    assert any(
        after.startswith(before[:at]) and after.endswith(before[at:]) for at in range(start, max(0, start - 80) - 1, -1)
    )
    section = re.split(r"(?m)^## ", after.decode())
    own = next(part for part in section if part.startswith("Uncategorized"))
    assert "- take less time [![#12]" in own and "`.agents/logbooks/moe_hc.md`" in own


def test_a_series_that_people_moved_is_not_listed_again() -> None:
    """Its issue stands in another section."""
    curated = INDEX.replace("- One", f"- One [![#12](x)]({ISSUE.url})").encode()
    assert listed(curated, SERIES, ISSUE, PLACE) == curated
    other = INDEX.replace("- One", f"- One [![#12](x)]({ISSUE.url}3)").encode()
    assert listed(other, SERIES, ISSUE, PLACE) != other


def test_only_an_index_that_is_there_is_written(tmp_path: Path) -> None:
    """A checkout without the page has no such list, and what is private is on none."""
    desk = Desk.make(tmp_path)
    path = desk.root / "docs" / "reports" / "index.md"
    assert list_report(desk.checkout, SERIES, None) is None
    assert not path.exists()
    path.parent.mkdir(parents=True)
    path.write_text(INDEX)
    assert list_report(desk.checkout, replace(SERIES, private=True), None) is None
    assert path.read_text() == INDEX
    assert list_report(desk.checkout, SERIES, None) == path
    assert list_report(desk.checkout, SERIES, None) is None


def test_without_its_library_a_report_says_what_to_install(tmp_path: Path) -> None:
    """Whoever installed the package alone hears of the extra."""
    desk = Desk.make(tmp_path)
    desk.record()
    desk.journal.declare(replace(SERIES, topic="toy", prefix="TOY"))
    code = "import sys; sys.modules['vl_convert'] = None\nfrom research_steps.cli.main import main\nmain()"
    command = [sys.executable, "-c", code, "report", "toy", "--prefix", str(desk.store)]
    done = subprocess.run(command, cwd=desk.root, capture_output=True, text=True)
    assert done.returncode == 1 and "pip install 'research-steps[report]'" in done.stderr, done.stderr
    assert not (desk.root / ".agents" / "reports").exists()
