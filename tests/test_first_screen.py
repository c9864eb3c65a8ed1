"""What people and agents read first of a thread: nothing that speaks against a result is missing, on any surface."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from research_steps.evidence.state import DeadEnd, ThreadState, thread_state
from research_steps.journal.snapshot import Snapshot
from research_steps.publish import brief as briefly
from research_steps.publish import state_text
from research_steps.publish.issue import text as issue_text
from research_steps.publish.rendering import summary
from research_steps.publish.terminal.status import screen
from research_steps.records.encoding import Stored, sha256, store_record
from research_steps.records.model import Claim, EntryRecord, Ref, Row, TrialRecord
from research_steps.records.series import Hypothesis, Metric, Series, Stop
from research_steps.seal.badge import badge
from research_steps.seal.bundle import SCHEMA, Bundle
from research_steps.seal.bundle_text import tag_message

from tests.support.records import claim, entry, trial, with_trials

SERIES = Series(
    topic="moe_hc",
    prefix="MOE-HC",
    goal="Find a faster kernel.",
    metrics=(Metric("time_s", "min"), Metric("max_error", "min", timed=False)),
    hypotheses=(Hypothesis("H1", "blocked matmuls take less time"),),
    stop_at=Stop(0.1, "replicated"),
)
CASE = {"implementation": "scatter", "tokens": 512}
LINKS: Any = SimpleNamespace(section=str, commit=str, tags=[], snapshot=dict, record=str, logbook="", runs="")


class Thread:
    """Entries one after the other, with the trials of their tables."""

    def __init__(self, series: Series = SERIES) -> None:
        self.series = series
        self.known = Snapshot()

    def add(self, step: str, **changes: Any) -> Stored[EntryRecord]:
        id = f"MOE-HC-{len(self.known.entries) + 1:03d}"
        parts = {"rows": (), "config": {}, "inputs": (), **changes}
        stored: Stored[EntryRecord] = store_record(entry(id=id, key=id, step=step, step_key=id, **parts))
        self.known.add(stored)
        return stored

    def baseline(self, label: str = "scatter", machine: str = "cpu/Xeon/2", **case: Any) -> Stored[EntryRecord]:
        id = f"MOE-HC-{len(self.known.entries) + 1:03d}"
        measured: Stored[TrialRecord] = store_record(
            msgspec.structs.replace(trial(), id=f"{id}.01", key=sha256(id.encode()), device_class=machine)
        )
        self.known.add(measured)
        config = {"measure": "experiments.moe_hc.measure:measure", "baseline_case": {**CASE, **case}, "replicates": 1}
        row = Row(
            trial=measured.ref, changes={}, replicate=0, status="ok", values={"time_s": 0.00505}, ratios={}, note="",
            contended=False, measured_here=True,
        )  # fmt: skip
        return self.add("baseline", label=label, config=config, rows=(row,))

    def sweep(self, base: Stored[EntryRecord], *claims: Claim, **changes: Any) -> Stored[EntryRecord]:
        case = base.record.config["baseline_case"]
        against = [msgspec.structs.replace(each, baseline=base.ref, case=case) for each in claims]
        return self.add("sweep", claims=tuple(against), inputs=(base.ref,), **changes)

    def failed(self, base: Stored[EntryRecord], why: str, **changes: Any) -> Stored[EntryRecord]:
        ref = Ref(id=f"MOE-HC-{len(self.known.entries) + 1:03d}.01", key="f" * 64, attempt=0, sha256="f" * 64)
        row = Row(
            trial=ref, changes=changes, replicate=0, status="failed", values={}, ratios={}, note=why, contended=False,
            measured_here=True,
        )  # fmt: skip
        return self.add("sweep", inputs=(base.ref,), rows=(row,))

    @property
    def state(self) -> ThreadState:
        return thread_state(self.series, with_trials(self.known))

    @property
    def surfaces(self) -> dict[str, str]:
        """The first screen of each surface, on lines without an end."""
        state = self.state
        texts = {
            "logbook": summary(state, None, "moe_hc/"),
            "issue": issue_text.sections(state, LINKS, 7_000)["tldr"],
            "status": "\n".join(screen(state, "")),
            "brief": briefly.brief(state, 1500, "").text,
        }
        return {name: " ".join(text.replace("`", "").split()) for name, text in texts.items()}


def said(what: str, ratio: float, verdict: str = "improved", confidence: str = "replicated", **more: Any) -> Claim:
    """A claim on one implementation, with an interval of 2 % to each side."""
    ref = Ref(
        id=f"MOE-HC-900.{sum(map(ord, what)) % 90 + 10}",
        key=sha256(what.encode()),
        attempt=0,
        sha256=sha256(what.encode()),
    )
    parts = {"estimate": ratio, "low": 0.98 * ratio, "high": 1.02 * ratio, "verdict": verdict, "confidence": confidence}
    return claim(
        metric="time_s", changes={"implementation": what}, trials=(ref,), also=(), processes=6, **{**parts, **more}
    )


@pytest.fixture
def thread() -> Thread:
    return Thread()


def everywhere(thread: Thread, *texts: str) -> None:
    for name, shown in thread.surfaces.items():
        assert [text for text in texts if text not in shown] == [], (name, shown)


def test_what_the_winner_makes_worse_is_said_with_it(thread: Thread) -> None:
    """In the same digits, on every surface."""
    worse = msgspec.structs.replace(said("dense", 1.7699, "regressed", "stable"), metric="max_error")
    thread.sweep(thread.baseline(), said("dense", 0.4953), worse)
    everywhere(thread, "dense with time_s 0.495 × (0.485 to 0.505)", "max_error worse: 1.770 × (1.735 to 1.805)")


def test_what_is_as_good_is_said_with_the_winner(thread: Thread) -> None:
    """Three by name, and how many more."""
    others = [said(f"other{number}", 0.5) for number in range(6)]
    thread.sweep(thread.baseline(), said("dense", 0.495), *others, said("far", 0.9))
    everywhere(thread, "not separated from implementation=other0: 0.500 ×", "Nor is it from 3 more.")
    assert "research undecided moe_hc" in thread.state.next_commands


def test_each_kind_of_machine_has_its_own_best(thread: Thread) -> None:
    """What one measured later replaces nothing that another one did."""
    thread.sweep(thread.baseline(machine="cpu/EPYC/2"), said("blocked", 0.45), said("dense", 0.6))
    thread.sweep(thread.baseline(machine="cpu/Xeon/2"), said("dense", 0.495), said("blocked", 0.9))
    everywhere(thread, "on cpu/Xeon/2: implementation=dense", "on cpu/EPYC/2: implementation=blocked")
    assert [winner.machine for winner in thread.state.winners] == ["cpu/Xeon/2", "cpu/EPYC/2"]


def test_after_the_baseline_moved_nothing_of_before_is_said_to_hold(thread: Thread) -> None:
    """The baseline is where it was moved to, though nobody measured it there, and what was read before says so."""
    found = thread.sweep(thread.baseline(), said("dense", 0.495))
    thread.add("interpret", inputs=(found.ref,), interpretation="dense is best")
    moved = {"baseline": "scatter", "from": CASE, "to": {**CASE, "implementation": "dense"}, "claim": "dense"}
    rebase = thread.add("rebase", config=moved, inputs=(found.ref,))
    everywhere(thread, f"was moved by {rebase.record.id}")
    for shown in thread.surfaces.values():
        assert "Best against" not in shown and "0.495" not in shown and "python -m experiments.moe_hc" in shown
    assert f"was written before {rebase.record.id}" in thread.surfaces["logbook"]
    head = summary(thread.state, None, "moe_hc/")
    assert "Case: capacity" not in head and "implementation=dense" in summary(thread.state, None, "moe_hc/")


@pytest.mark.parametrize(
    ("claims", "told"),
    [
        ([said("a", 0.5, "inconclusive", why="contended: make")], "1 contended"),
        ([said("a", 0.5, "failed")], "1 failed"),
        (
            [said("a", 0.9, "inconclusive"), said("b", 0.9, "inconclusive"), said("c", 1.1, "regressed")],
            "of 3 candidates 2",
        ),
    ],
)
def test_why_nothing_is_better_is_said(thread: Thread, claims: list[Claim], told: str) -> None:
    """Not that nothing beat the baseline where nothing could be told."""
    thread.sweep(thread.baseline(), *claims)
    contended = "1 contended" in told
    answer = "No verdict against" if contended else "Nothing measured is better than"
    everywhere(thread, f"{answer} MOE-HC-001 (scatter)", told)
    assert ("python -m experiments.moe_hc --retry contended" in thread.state.next_commands) == contended
    assert not contended or "contended: make" in thread.surfaces["brief"]


def test_one_reason_to_fail_is_one_dead_end(thread: Thread) -> None:
    """However often it came, and none where it went well later."""
    base = thread.baseline()
    for _ in range(5):
        thread.failed(base, "ImportError: no triton", implementation="sonic")
    thread.failed(base, "MemoryError", implementation="dense")
    good = entry().rows[0]
    thread.add("sweep", rows=(msgspec.structs.replace(good, changes={"implementation": "dense"}),), inputs=(base.ref,))
    (end,) = thread.state.dead_ends
    assert (end.what, len(end.ids)) == ("implementation=sonic", 5)
    assert thread.surfaces["brief"].count("no triton") == 1


def test_what_others_gave_up_is_in_no_table_of_what_was_measured(thread: Thread) -> None:
    """It stands among the dead ends, as theirs; the table is of trials against a baseline of this thread."""
    thread.sweep(thread.baseline(), said("dense", 0.495))
    theirs = DeadEnd("GeLU", "2 of 4 rows of results.tsv", ("MOE-HC-009",), by_others=True)
    state = replace(thread.state, dead_ends=(theirs,))
    _, lines = state_text.table(state, state_text.PLAIN, 10)
    assert [line[0] for line in lines] == ["implementation=dense"]
    assert "by others" in state_text.dead_ends(state, state_text.PLAIN)[0]


def test_a_step_that_went_well_when_it_was_tried_again_is_no_dead_end(thread: Thread) -> None:
    """Its first entry failed, as a whole; what `--retry failed` then measured is what counts."""
    thread.add("baseline", label="base 1k", status="failed", result="TimeLimit: it ran too long")
    assert [end.what for end in thread.state.dead_ends] == ["base 1k"]
    thread.add("baseline", label="base 1k", status="ok", result="fixed")
    assert not thread.state.dead_ends


def test_once_it_is_sealed_nobody_is_told_to_seal(thread: Thread) -> None:
    """Then to measure it again; and when that was done, to look whether it can be closed."""
    found = thread.sweep(thread.baseline(), said("dense", 0.495))
    assert thread.state.next_commands == ("research seal moe_hc",)
    sealed = thread.add("seal", inputs=(found.ref,))
    tag = f"moe_hc/{sealed.record.id}"
    assert thread.state.next_commands == (f"research reproduce {tag}",)
    thread.add("reproduction", config={"tag": tag, "outcome": "reproduced"}, inputs=(sealed.ref,))
    assert thread.state.next_commands == ("research check moe_hc --closing",)
    assert f"Sealed as {tag} (MOE-HC-004: reproduced)" in thread.surfaces["status"]


def long_thread() -> Thread:
    """Three hundred entries: two machines, a regression, ties, contention, failures, a retraction, decisions."""
    thread = Thread(replace(SERIES, motivation="why " * 50))
    thread.sweep(thread.baseline(machine="cpu/EPYC/2"), said("blocked", 0.45))
    base = thread.baseline()
    worse = msgspec.structs.replace(said("dense", 1.77, "regressed", "stable"), metric="max_error")
    thread.sweep(
        base, said("dense", 0.495), worse, said("blocked", 0.5, confidence="exploratory"),
        said("noisy", 0.8, "inconclusive", why="contended: make"), hypothesis="H1: blocked matmuls take less time",
    )  # fmt: skip
    for number in range(140):
        thread.failed(base, f"ImportError: no library {number % 3}", implementation=f"kernel{number % 3}")
        thread.sweep(base, said(f"slow{number % 60}", 1.2, "regressed"))
    for number in range(10):
        thread.add("decision", config={"owner": "me", "scope": False}, result=f"Decided {number}. " + "because " * 30)
    sealed = thread.add("seal", inputs=(base.ref,))
    thread.add(
        "reproduction", config={"tag": f"moe_hc/{sealed.record.id}", "outcome": "reproduced"}, inputs=(sealed.ref,)
    )
    return thread


def test_a_brief_answers_what_the_next_one_asks() -> None:
    """Of three hundred entries, within 1,500 tokens: the answer, and all that people look for before they go on."""
    thread = long_thread()
    made = briefly.brief(thread.state, 1500, "")
    text = made.text
    assert len(thread.state.entries) >= 295 and briefly.tokens(text) <= 1500
    for answer in (
        "scatter: time_s 5.05 ms",  # the baseline; its noise where it has one
        "implementation=dense with time_s 0.495 × (0.485 to 0.505), 50.5 % less, improved, replicated, 6 processes",
        "BUT: It makes max_error worse: 1.770 ×",
        "BUT: It is not separated from implementation=blocked",
        "contended: make",
        "H1 active: blocked matmuls take less time; next test: none named",
        "implementation=kernel0 failed (47 times",
        "implementation=kernel1 failed",
        "implementation=kernel2 failed",
        "on cpu/EPYC/2: implementation=blocked with time_s 0.450",
        "reproduced)",
        "Measured on cpu/EPYC/2, cpu/Xeon/2 alone",
        "Running:\n- nothing",
        "Stop criterion (10 % better, replicated): reached by implementation=dense",
        "research undecided moe_hc",
    ):
        assert answer in text, (answer, text)


def test_a_brief_never_leaves_out_what_would_mislead() -> None:
    """However small the budget is; and it says that it is over it."""
    text = briefly.brief(long_thread().state, 100, "").text
    for kept in ("0.495 ×", "max_error worse", "not separated from", "contended: make", "research undecided moe_hc"):
        assert kept in text
    assert "over the budget of 100" in text and "kernel0" not in text


def test_a_brief_tells_its_size_and_what_it_left_out() -> None:
    """By a stated estimate."""
    made = briefly.brief(long_thread().state, 700, "")
    assert f"(about {briefly.as_data(made)['tokens']} tokens" in made.text or "tokens, 2.5 bytes each)" in made.text
    assert abs(briefly.tokens(made.text) - int(made.text.rpartition("about ")[2].split()[0])) <= 20
    assert made.left_out["Dead ends"] > 3 and "more left out" in made.text


def test_a_brief_since_an_entry_tells_what_came_after() -> None:
    """By its ID or by a time; anything else is refused."""
    thread = long_thread()
    last = thread.state.entries[-3].record.id
    text = briefly.brief(thread.state, 3000, last).text
    assert f"Since {last}:" in text and f"{thread.state.entries[-1].record.id} reproduction" in text
    with pytest.raises(Exception, match="neither an entry of this series nor a time"):
        briefly.brief(thread.state, 1500, "MOE-HC-9999")


def test_the_status_of_a_long_thread_fits_one_screen() -> None:
    """40 lines of 80 columns."""
    lines = screen(long_thread().state, "300 entries")
    assert len(lines) <= 40 and max(map(len, lines)) <= 80, "\n".join(lines)


def bundle_of(found: Stored[EntryRecord]) -> Bundle:
    """What a seal of one entry holds, as far as its texts are made of it."""
    return Bundle(
        schema=SCHEMA, topic="moe_hc", id="MOE-HC-003", tag="moe_hc/MOE-HC-003", seal=found.ref, series={}, commands=(),
        commit="0" * 40, branch=None, patch=None, patch_note="", submodules={}, measured=(), seeds={}, hardware=(),
        environment={}, python="3.11", packages={}, records=(found.ref,), claims=found.record.claims or (), logbook=(),
        elsewhere=(),
    )  # fmt: skip


def test_a_tag_says_what_its_winner_makes_worse(thread: Thread) -> None:
    """In its title and beside the finding; one of an older version reads as it was made."""
    worse = msgspec.structs.replace(said("dense", 1.77, "regressed", "stable"), metric="max_error")
    found = thread.sweep(thread.baseline(), said("dense", 0.495), worse)
    bundle = bundle_of(found)
    title, *lines = tag_message(bundle, SERIES).splitlines()
    assert title.endswith("improved, replicated; it makes max_error worse")
    assert "  - it makes max_error worse: 1.770 × (1.735 to 1.805), regressed, stable" in lines
    assert "worse" not in tag_message(msgspec.structs.replace(bundle, schema=3), SERIES)


def test_a_table_stands_once_on_the_issue(thread: Thread) -> None:
    """The update of a seal names the one that has it."""
    found = thread.sweep(thread.baseline(), said("dense", 0.495), rows=entry().rows)
    read = thread.add("interpret", inputs=(found.ref,))
    sealed = thread.add("seal", inputs=(read.ref,))
    first = issue_text.comment(read.record, [found.record], [], SERIES, None, LINKS, thread.known)
    second = issue_text.comment(sealed.record, [found.record, read.record], [], SERIES, None, LINKS, thread.known)
    assert "| trial |" in first and "| trial |" not in second and f"Table: in the update of {read.record.id}" in second


def test_a_badge_is_grey_once_its_claim_was_not_reproduced(thread: Thread) -> None:
    """It says what was found, as text, and what came of it last."""
    from xml.etree import ElementTree

    found = thread.sweep(thread.baseline(), said("dense</text>", 0.495))
    sealed = msgspec.structs.replace(bundle_of(found), series=msgspec.to_builtins(SERIES))
    drawn = ElementTree.fromstring(badge(sealed, []))
    (_, right) = [text.text or "" for text in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert right == "implementation=dense</text>: time_s 0.495 × (0.485 to 0.505), improved, replicated"
    outcomes = [
        thread.add("reproduction", config={"tag": sealed.tag, "outcome": outcome}).record
        for outcome in ("reproduced", "not reproduced")
    ]
    assert "#57606a" not in badge(sealed, outcomes[:1]) and "(reproduced)" in badge(sealed, outcomes[:1])
    assert "#57606a" in badge(sealed, outcomes) and "(not reproduced)" in badge(sealed, outcomes)
