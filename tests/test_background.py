"""Background research: the ledger of sources, contradiction passes, the brief, and when a thread is stuck."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from research_steps.evidence.background import stuck
from research_steps.publish.background_text import brief
from research_steps.publish.rendering import summary
from research_steps.records.encoding import store_record
from research_steps.records.model import Claim, EntryRecord, Ref
from research_steps.records.series import Series

from tests.support.hostile_text import flat, markdown, recorded
from tests.support.records import state_of
from tests.support.scratch_logbook import SERIES, Desk, entry, row, trial
from tests.support.toy_thread import Repository, research, started

FIELDS = {"type": "paper", "where": "https://example.org/1", "version": "v2", "claim": "dense wins", "confidence": "low"}
SECTIONS = [
    "toy: Background Research", "Question", "Internal prior work", "External prior work", "Failed leads", "Evidence map",
    "Claims without a contradiction pass", "Ranked next experiments",
]  # fmt: skip


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """A checkout whose series has started with H1; TOY-001 is its kickoff."""
    return started(tmp_path / "checkout")


def source(repository: Repository, *arguments: str) -> str:
    done = research(repository.root, "source", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def added(repository: Repository, *more: str, **changes: str) -> str:
    """Add a source; its entry's ID."""
    fields = [word for name, value in {**FIELDS, **changes}.items() for word in (f"--{name}", value)]
    id: str = json.loads(source(repository, "add", "toy", *fields, *more, "--json"))["entry"]
    return id


def sections(text: str) -> dict[str, list[str]]:
    parts = [part.partition("\n") for part in text.split("\n## ")[1:]]
    return {title: body.strip().splitlines() for title, _, body in parts}


def test_the_brief_says_what_is_known_and_what_is_not(repository: Repository) -> None:
    """From sources, checks, the queue and the series' own records: question, prior work, failed leads, support and
    contradictions, claims that nobody doubted yet, and ranked experiments; as a file beside the records it links."""
    assert added(repository, "--supports", "H1", notes="on eight chips") == "TOY-002"
    ours = {"claim": "it loses", "type": "run", "where": "TOY-001"}
    assert added(repository, "--contradicts", "TOY-002", "--internal", **ours) == "TOY-003"
    assert added(repository, "--supports", "it rains", claim="clouds") == "TOY-004"
    source(repository, "checked", "toy", "--claim", "TOY-002", "--found", "a blog of May")
    source(repository, "checked", "toy", "--claim", "TOY-003", "--none", "the issues of the last year")
    measured = Desk(repository.root, repository.root / "local_store").record("works", result="measured it")
    falsify = ("hypothesis", "falsify", "toy", "H1", "--because", "more", "--evidence", measured.record.id)
    assert research(repository.root, *falsify).returncode == 0
    printed = source(
        repository, "brief", "toy", "--question", "Which one?", "--next", "run it :: it is slower", "--next", "b::c"
    )  # fmt: skip
    text = (repository.root / ".agents" / "logbooks" / "toy" / "background.md").read_text()
    assert printed.startswith(text)
    parts = sections(text)
    assert [*parts] == SECTIONS[1:]
    assert parts["Question"] == ["- Asked in [TOY-009](TOY-009.jsonl): Which one?"]
    assert parts["Internal prior work"] == [
        "- [TOY-003](TOY-003.jsonl) it loses (run: TOY-001, v2; confidence low)",
        "- [TOY-007](TOY-007.jsonl) works: measured it",
    ]
    assert parts["External prior work"] == [
        "- [TOY-002](TOY-002.jsonl) dense wins (paper: https://example.org/1, v2; confidence low). on eight chips",
        "- [TOY-004](TOY-004.jsonl) clouds (paper: https://example.org/1, v2; confidence low)",
    ]
    assert len(parts["Failed leads"]) == 1 and parts["Failed leads"][0].startswith("- H1 (falsified): less work")
    assert "\n".join(parts["Evidence map"]).replace(".jsonl)", "").replace("](TOY-00", " ") == "\n".join(
        [
            "- H1 (falsified): less work takes less time", "  - Support: [TOY-002 2", "  - Contradictions: [TOY-008 8",
            "- Claim: dense wins", "  - Support: [TOY-002 2", "  - Contradictions: [TOY-003 3, [TOY-005 5",
            "- Claim: it loses", "  - Support: [TOY-003 3", "  - Contradictions: none",
            "- Claim: clouds", "  - Support: [TOY-004 4", "  - Contradictions: none",
            "- Claim: it rains", "  - Support: [TOY-004 4", "  - Contradictions: none",
        ]
    )  # fmt: skip
    assert parts["Claims without a contradiction pass"] == ["- [TOY-004](TOY-004.jsonl): clouds"]
    assert parts["Ranked next experiments"] == [
        "1. Experiment: run it – falsified by: it is slower", "2. Experiment: b – falsified by: c",
    ]  # fmt: skip
    assert "source brief toy" in repository.logbook, "what was asked is recorded as well"
    ledger = json.loads(source(repository, "list", "toy", "--json"))
    assert [(row["id"], row["checked"]) for row in ledger] == [("TOY-002", True), ("TOY-003", True), ("TOY-004", False)]
    assert "TOY-004 clouds" in source(repository, "list", "toy")
    assert research(repository.root, "verify", "toy").returncode == 0


def test_a_brief_is_made_again_from_records(repository: Repository) -> None:
    """Without a question it asks the last one again, with what is known by now; said twice, it is one entry."""
    first = source(repository, "brief", "toy", "--question", "Which one?", "--next", "a :: b")
    assert "External prior work\n- none" in first
    added(repository)
    (repository.root / ".agents" / "logbooks" / "toy" / "background.md").unlink()
    again = source(repository, "brief", "toy")
    assert "Which one?" in again and "dense wins" in again and "1. Experiment: a" in again
    assert repository.ids == ["TOY-001", "TOY-002", "TOY-003"]
    for question in ("Another?", "Which one?"):
        assert question in source(repository, "brief", "toy", "--question", question)
    assert len(repository.ids) == 5, "the last one counts, also when it was asked before"


ADD = tuple(word for name, value in FIELDS.items() for word in (f"--{name}", value))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("add", "toy", *ADD, "--supports", "H7"), "no hypothesis 'H7' in the queue"),
        (("add", "toy", *ADD, "--supports", "TOY-009"), "'TOY-009' is no record of this series"),
        (("add", "toy", *ADD, "--contradicts", "TOY-001"), "TOY-001 is no source"),
        (("add", "toy", *ADD, "--where", "TOY-009"), "'TOY-009' is no record of this series"),
        (("add", "toy", *ADD, "--version", " "), "--version is empty"),
        (("add", "toy", *ADD[:-2]), "Missing option '--confidence'"),
        (("checked", "toy", "--claim", "TOY-001", "--none", "x"), "TOY-001 is no source"),
        (("checked", "toy", "--claim", "TOY-001"), "or where you looked, with --none"),
        (("brief", "toy"), "The question of the brief is empty: give it with --question"),
        (("brief", "toy", "--question", "x", "--next", "no falsifier"), "names no falsifier"),
    ],
)
def test_what_the_ledger_needs_is_asked_for(repository: Repository, arguments: tuple[str, ...], told: str) -> None:
    """One sentence that says what is missing, and nothing is recorded."""
    before = repository.logbook
    done = research(repository.root, "source", *arguments)
    assert done.returncode != 0 and told in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert repository.logbook == before


def test_a_source_in_something_private_is_private(repository: Repository) -> None:
    """What was learnt from a private trial is in no file of git: not in the logbook, not in the brief."""
    private = Desk(repository.root, repository.root / "local_store").record("hidden", private=True)
    hidden = added(repository, "--internal", where=private.record.rows[0].trial.id, claim="secretly so")
    added(repository, "--contradicts", hidden, claim="and secretly not")
    source(repository, "checked", "toy", "--claim", hidden, "--none", "in secret")
    added(repository, claim="openly so")
    text = source(repository, "brief", "toy", "--question", "What?").partition("\nTOY-")[0]
    public = repository.logbook + (repository.root / ".agents" / "issues" / "toy.md").read_text()
    assert "secret" not in text + public and "openly so" in text
    assert "secretly so" in source(repository, "list", "toy")


def test_the_brief_of_a_private_series_is_out_of_git(tmp_path: Path) -> None:
    """It holds everything, and git doesn't see it."""
    repository = Repository(tmp_path / "checkout")
    main = repository.experiment / "__main__.py"
    main.write_text(main.read_text().replace("max_pairs=5", "private=True, max_pairs=5"))
    repository.commit()
    assert research(repository.root, "kickoff", "toy", "--branch", ".").returncode == 0
    added(repository)
    assert "dense wins" in source(repository, "brief", "toy", "--question", "What?")
    assert repository.git("status", "--porcelain") == ""


@settings(max_examples=100)
@given(claim=recorded, other=recorded, where=recorded, internal=st.booleans())
def test_a_brief_of_hostile_text_keeps_its_sections(claim: str, other: str, where: str, internal: bool) -> None:
    """Whatever the sources say, it has its eight headings, our links and no others, and no HTML."""
    source = {"kind": "source", "type": "doc", "where": where, "version": where, "notes": where, "claim": claim}
    source |= {"confidence": "low", "internal": internal, "supports": [other], "contradicts": [where, claim]}
    check = {"kind": "check", "claim": other, "found": claim, "looked": ""}
    asked = {"kind": "brief", "question": claim, "next": [{"experiment": other, "falsifier": where}]}
    configs: list[dict[str, Any]] = [source, check, asked]
    records = [entry(f"TOY-00{number}", step="source", config=config) for number, config in enumerate(configs, 1)]
    tokens = flat(markdown.parse(brief(state_of(SERIES, records))))
    headings = [tokens[index + 1].content for index, token in enumerate(tokens) if token.type == "heading_open"]
    assert headings == SECTIONS
    assert not {"html_block", "html_inline", "image", "em_open", "fence"} & {token.type for token in tokens}
    links = {str(token.attrs["href"]) for token in tokens if token.type == "link_open"}
    assert links <= {f"TOY-00{number}.jsonl" for number in range(1, 4)}


def swept(trials: int, verdict: str, step: str = "sweep", metric: str = "time_s") -> EntryRecord:
    rows = tuple(row(store_record(trial(f"TOY-002.{index:02d}", "0" * 64))) for index in range(trials))
    ref = Ref(id="TOY-002.01", key="k", attempt=0, sha256="0" * 64)
    claim = Claim(
        metric=metric, changes={"work": 1}, case={"work": 2}, baseline=ref, trials=(ref,), also=(), estimand="ratio",
        estimate=1.0, low=0.9, high=1.1, processes=1, floor_processes=5, candidates=1, min_effect=0.02, method="m",
        verdict=verdict, confidence="exploratory", why="",  # type: ignore[arg-type]
    )  # fmt: skip
    return entry("TOY-002", step=step, rows=rows, claims=(claim,))


@pytest.mark.parametrize(
    ("entries", "trials"),
    [
        ([], None),
        ([swept(19, "no difference")], None),
        ([swept(15, "no difference"), swept(5, "inconclusive", "interact")], 20),
        ([swept(30, "regressed"), swept(3, "improved"), swept(12, "failed")], None),
        ([swept(3, "improved"), swept(12, "failed"), swept(9, "no difference", "replicate")], 21),
        ([swept(15, "no difference"), swept(9, "improved", metric="memory")], 24),
        ([swept(30, "no difference", "interpret")], None),
        ([msgspec.structs.replace(swept(30, "no difference"), claims=msgspec.UNSET)], None),
    ],
)
def test_a_thread_without_an_improvement_is_stuck(entries: list[EntryRecord], trials: int | None) -> None:
    """After `stuck_after` trials since the last that improved the primary metric, the logbook says to forage again."""
    assert stuck(SERIES, entries) == trials
    told = f"- No improvement in {trials} trials: forage again with `research source`."
    assert (told in summary(state_of(SERIES, entries), None, "toy/")) == (trials is not None)
    patient = Series(topic="toy", prefix="TOY", goal="x", metrics=SERIES.metrics, stuck_after=100)
    assert stuck(patient, entries) is None
