"""Text from measurements on the issue: it stays text, whatever it holds."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st
from research_steps.journal.snapshot import Snapshot
from research_steps.publish.issue import text as issue_text
from research_steps.publish.issue.comment import Comment, marked
from research_steps.publish.markdown import code, unlinked
from research_steps.records.encoding import Stored, sha256, store_record
from research_steps.records.model import Device, EntryRecord, TrialRecord
from research_steps.records.objects import Seal
from research_steps.records.series import Series
from research_steps.records.times import utc

from tests.support.hostile_text import assert_dead, gfm, recorded, records, shown, texts
from tests.support.records import state_of
from tests.support.scratch_logbook import PROVENANCE, SERIES, entry, row, trial

LINKS: Any = SimpleNamespace(
    section=lambda record: f"[{record.id}](https://github.com/o/r)",
    commit=code,
    tag=lambda seal: code(seal.tag),
    tags=[code("toy/TOY-002")],
    snapshot=lambda seal, folders: {"Code": ", ".join(map(code, folders))},
    logbook="`toy.md`",
    runs="none",
    record=str,
)
LIVE = st.sampled_from(
    (
        *("@someone", "@org/team", "#12", "GH-7", "gh-7", "o/r#3", "fixes #1", "Closes: #2", "resolves o/r#4"),
        *("https://github.com/o/r/issues/1", "closes https://github.com/o/r/issues/1", "www.x.org", "a@b", "(@x)"),
        *("@<b>x", "@\\x", "[@x](y)", "<a href='x'>", "&#64;x", "\u200b@x", "＠x", "_@x_", "me@x.org"),
        "<!-- research-steps end tldr -->",
    )
)
hostile = st.lists(LIVE | texts, max_size=6).map("".join) | st.lists(LIVE | texts, max_size=6).map(" ".join)


@settings(max_examples=1000)
@given(text=hostile)
@example(text="@someone fixes #1")
@example(text="@@a")
@example(text="##1")
def test_no_text_mentions_links_or_closes(text: str) -> None:
    """A name, a number or an address in a text is only read; and it reads as it was written."""
    body = f"- Result: {unlinked(text)}\n"
    assert_dead(body)
    (inline,) = [token for token in gfm.parse(body) if token.type == "inline"]
    read = "".join(child.content for child in inline.children or ())
    assert read.replace("\u200b", "") == f"Result: {shown(text)}".strip().replace("\u200b", "")


@settings(max_examples=100)
@given(record=records(), text=hostile, other=hostile)
def test_a_comment_of_hostile_text_is_one_update(record: EntryRecord, text: str, other: str) -> None:
    """Made of such texts, a comment has its marker, its list and its table, no HTML, and nothing live."""
    clean = {name: value.encode("utf-8", "replace").decode() for name, value in (("label", text), ("result", other))}
    record = store_record(EntryRecord(**{**{n: getattr(record, n) for n in record.__struct_fields__}, **clean})).record
    stored = store_record(record)
    body = issue_text.comment(record, [], [record], SERIES, None, LINKS, Snapshot())
    comment = Comment(1, marked(f"record {stored.sha256}", body))
    assert comment.marker == f"record {stored.sha256}"
    assert Comment(1, body).marker == ""
    assert_dead(body)
    tokens = gfm.parse(body)
    assert not [token for token in tokens if token.type in ("html_block", "heading_open", "fence", "code_block", "hr")]
    assert sum(token.type == "table_open" for token in tokens) == bool(record.rows)
    assert sum(token.type == "tr_open" for token in tokens) == (len(record.rows) + 1) * bool(record.rows)


SEAL = Seal(id="TOY-002", tag="toy/TOY-002", commit="d" * 40, sealed_at=utc(), host="here")


def measured(id: str, **changes: Any) -> Stored[TrialRecord]:
    return store_record(msgspec.structs.replace(trial(id, sha256(id.encode())), **changes))


@settings(max_examples=100)
@given(text=hostile, other=recorded, name=recorded)
def test_a_seal_of_hostile_text_is_one_update(text: str, other: str, name: str) -> None:
    """Commands, settings and devices of any name are read as they are; nothing in them or a module's name acts."""
    text = text.encode("utf-8", "replace").decode()
    made = msgspec.structs.replace(PROVENANCE, command=text, env={f"XLA_{name}": other}, packages={"jax": text})
    record = measured("TOY-001.01", device_class=other, devices=(Device(text, other, 4),), provenance=made)
    sweep = entry("TOY-001", rows=(row(record),), config={"measure": f"{text}.b:{other}"}, provenance=made)
    seal = entry("TOY-002", step="seal", provenance=made)
    body = issue_text.comment(seal, [sweep], [], SERIES, SEAL, LINKS, Snapshot(trials={record.sha256: record}))
    assert_dead(body)
    tokens = gfm.parse(body)
    assert not [token for token in tokens if token.type in ("html_block", "heading_open", "fence", "code_block", "hr")]
    assert body.splitlines()[-1] == "- Next: –" and "  - Tag: `toy/TOY-002`" in body.splitlines()
    spans = {child.content for token in tokens for child in token.children or () if child.type == "code_inline"}
    # A setting that is empty is as good as none.
    setting = [f"XLA_{name}={other}"] if other else []
    assert {shown(part) or " " for part in (text, other, f"{text} {other}", *setting)} <= spans


def test_a_seal_tells_commands_hardware_and_environment() -> None:
    """Each command with what it was run at, each kind of machine with its device count, and the settings that decide a
    result; of a trial that only another store holds, what its entry says."""
    tpu = (Device("tpu", "TPU v4", 8),)
    made = msgspec.structs.replace(PROVENANCE, env={"XLA_FLAGS": "--a", "MARIN_PREFIX": "s3://b"}, packages={"jax": "1"})
    again = msgspec.structs.replace(made, command="python -m experiments.toy --retry failed", patch="e" * 64)
    trials = [measured(f"TOY-001.0{n}", device_class="tpu/v4-16/8", devices=tpu, provenance=made) for n in range(1, 4)]
    base = entry("TOY-001", rows=tuple(row(trial) for trial in trials[:2]), provenance=made)
    sweep = entry("TOY-002", rows=(row(trials[2]), row(trials[0])), provenance=again)
    read = entry("TOY-003", step="interpret", provenance=made)
    seal = entry("TOY-004", step="seal", provenance=made)
    here = {trial.sha256: trial for trial in trials[:2]}
    lines = issue_text.comment(seal, [base, sweep, read], [], SERIES, SEAL, LINKS, Snapshot(trials=here)).splitlines()
    begin = lines.index("- Measured:")
    assert lines[begin + 1 : lines.index("- Links:")] == [
        f"  - Command: TOY-001, TOY-003 by `python -m experiments.toy` at `{'c' * 40}`",
        f"  - Command: TOY-002 by `python -m experiments.toy --retry failed` at `{'c' * 40}` with patch `eeeeeeeeeeee`",
        "  - Hardware: `tpu/v4-16/8`, devices: 8 × `tpu TPU v4` (2 trials)",
        "  - Hardware: known to records that are not here (1 trial)",
        "  - Environment: `python=3.11`, `jax=1`, `XLA_FLAGS=--a` (3 trials)",
    ]
    assert "  - Code: `experiments/toy`" in lines


@settings(max_examples=60)
@given(record=records(), text=hostile, own=texts)
def test_the_body_of_hostile_text_keeps_its_sections(record: EntryRecord, text: str, own: str) -> None:
    """Each section is found again and replaced by itself; what people wrote stays, though it looks like a marker."""
    series: Series = dataclasses.replace(SERIES, goal=text or "x", stop=text, matrix=(text,))
    sections = issue_text.sections(state_of(series, [record]), LINKS, 7_000)
    body = issue_text.merged(own, sections)
    assert body.startswith(own)
    assert issue_text.merged(body, sections) == body
    other = issue_text.merged(body, {**sections, "tldr": "## TL;DR\n\nnew"})
    assert "\nnew\n" in other and other.startswith(own)
    assert other.replace("## TL;DR\n\nnew", sections["tldr"], 1) == body
    assert_dead("\n".join(sections.values()))


def test_the_production_pr_is_the_one_that_was_named_last() -> None:
    """By a decision or by the end; one that was taken back or is private names none."""
    decided = {"owner": "me", "scope": False}
    first = entry("TOY-001", step="decision", config={**decided, "production_pr": "https://x/1"})
    second = entry("TOY-002", step="decision", config={**decided, "production_pr": "https://x/2"})
    other = entry("TOY-003", step="decision", config=decided)
    private = entry("TOY-004", step="decision", private=True, config={**decided, "production_pr": "https://x/4"})
    assert state_of(SERIES, [other]).production_pr == ""
    assert state_of(SERIES, [first, second, other, private]).production_pr == "https://x/2"
    taken_back = state_of(SERIES, [first, second]).entries[1]
    back = entry("TOY-005", step="retraction", inputs=(taken_back.ref,))
    assert state_of(SERIES, [first, second, other, back]).production_pr == "https://x/1"
    body = issue_text.sections(state_of(SERIES, [first, second, other]), LINKS, 7_000)["links"]
    assert "- Production PR: <https://x/2>" in body and "- Sealed snapshots: `toy/TOY-002`" in body


def test_the_longest_sections_fit_into_a_body() -> None:
    """Hundreds of failures and decisions: the body stays below GitHub's limit, and says where the rest is."""
    series = dataclasses.replace(SERIES, motivation="long " * 5000, constraints="x" * 20_000)
    sections = issue_text.sections(state_of(series, []), LINKS, 7_000)
    assert sum(map(len, sections.values())) < 50_000
    assert "more lines: `toy.md`" in sections["scope"]
