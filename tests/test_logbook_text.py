"""Text from measurements in the logbook: it stays text, whatever it holds."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from research_steps.journal.snapshot import Snapshot
from research_steps.publish.logbook import format as logbook_format
from research_steps.publish.markdown import block, code, prose, table
from research_steps.publish.rendering import entry as render_entry
from research_steps.publish.rendering import summary
from research_steps.records.encoding import decode_record, store_record
from research_steps.records.model import EntryRecord
from research_steps.records.series import Metric, Series

from tests.support.hostile_text import flat, markdown, recorded, records, shown, texts
from tests.support.records import state_of
from tests.support.scratch_logbook import SERIES, Desk, entry


@settings(max_examples=250)
@given(record=records())
@example(record=entry("TOY-001", label="x\n<!-- research-steps entry TOY-001 -->\n### y", result="a\n\n# b\n```"))
def test_an_entry_is_one_heading_and_parses_back_whole(record: EntryRecord) -> None:
    """Two entries made of hostile text: each is found whole, with its record's hash, and reads as one heading with its
    list; no line of the text stands at column 0, and none of it is HTML, a link or an image."""
    stored = store_record(record)
    text = render_entry(record, SERIES, None, Snapshot(), "toy/")
    first = logbook_format.render("TOY-001", stored.sha256, text, [])
    link = logbook_format.parse(first).chain[0].link
    data = b"# Log\n\n" + first + b"\n" + logbook_format.render("TOY-001", stored.sha256, text, [link])

    contents = logbook_format.parse(data)
    assert [(entry.id, entry.record, entry.whole) for entry in contents.chain] == 2 * [("TOY-001", stored.sha256, True)]
    assert (contents.torn, contents.unfinished, logbook_format.conflicts(data)) == ([], None, [])

    names = "Hypothesis|Command|Config|Result|Interpretation|Next action|Commit Hash|Links"
    for line in re.split("[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]", text)[1:]:
        assert not line or line.startswith("  ") or re.match(rf"- (?:{names}): ", line), line

    tokens = flat(markdown.parse(data.decode()))
    assert [token.tag for token in tokens if token.type == "heading_open"] == ["h1", "h3", "h3"]
    html = [token.content.strip() for token in tokens if token.type in ("html_block", "html_inline")]
    assert all(re.fullmatch(r"<!-- research-steps (entry|end) TOY-001.* -->", part) for part in html) and len(html) == 4
    kinds = {token.type for token in tokens}
    assert not kinds & {"image", "em_open", "strong_open", "s_open", "hardbreak", "hr"} - {"strong_open"}
    links = [token.attrs["href"] for token in tokens if token.type == "link_open"]
    assert links == 2 * ["toy/TOY-001.jsonl"]
    assert sum(token.type == "table_open" for token in tokens) == 2 * bool(record.rows)
    assert sum(token.type == "tr_open" for token in tokens) == 2 * (len(record.rows) + 1) * bool(record.rows)
    assert sum(token.type == "fence" for token in tokens) == 2 * (record.error is not None)
    items = [token for token in tokens if token.type == "list_item_open" and token.level == 1]
    assert len(items) == 2 * 8


@settings(max_examples=400)
@given(text=texts)
@example(text="ends like a heading ##")
@example(text="a\\")
def test_what_is_read_is_what_was_written(text: str) -> None:
    """Rendered as Markdown, prose and code say the very text, but for line breaks and what can't be shown."""
    (inline,) = [token for token in markdown.parse(f"- Result: {prose(text)}") if token.type == "inline"]
    assert inline.content and {child.type for child in inline.children or ()} <= {"text", "text_special"}
    assert "".join(child.content for child in inline.children or ()) == f"Result: {shown(text)}".strip()

    (inline,) = [token for token in markdown.parse(f"### now - TOY-001 {prose(text)}") if token.type == "inline"]
    assert "".join(child.content for child in inline.children or ()) == f"now - TOY-001 {shown(text)}".strip()

    (inline,) = [token for token in markdown.parse(f"- Command: {code(text)}") if token.type == "inline"]
    assert [child.type for child in inline.children or ()] == ["text", "code_inline"]
    assert (inline.children or ())[1].content == shown(text) or not shown(text)


@settings(max_examples=200)
@given(cells=st.lists(st.lists(texts, min_size=2, max_size=2), min_size=1, max_size=3))
def test_a_table_keeps_its_cells_apart(cells: list[list[str]]) -> None:
    """No text opens a further column or row, and each cell reads as it was written."""
    rows = [[prose(text), code(other)] for text, other in cells]
    tokens = markdown.parse("- Result: x\n\n" + table(["a", "b"], rows, "  ") + "\n\n- Next action: y\n")
    inlines = [token for token in tokens if token.type == "inline"]
    wanted = [(shown(text), shown(other) or " ") for text, other in cells]
    read = ["".join(child.content for child in token.children or ()) for token in inlines[3:-1]]
    assert list(zip(read[::2], read[1::2], strict=True)) == wanted


@settings(max_examples=300)
@given(text=texts)
@example(text="\x1f")
def test_a_block_of_text_ends_where_it_should(text: str) -> None:
    """An exception's message in a fence stays inside, however many fences it holds."""
    tokens = markdown.parse("- Result: x\n\n" + block(text, "  ") + "\n\n- Next action: y\n")
    (fence,) = [token for token in tokens if token.type == "fence"]
    assert {token.type for token in tokens if token.level == 0} == {"bullet_list_open", "bullet_list_close"}
    assert sum(token.type == "list_item_open" for token in tokens) == 2
    assert "".join(fence.content.split()) == "".join(shown(text).split())


@settings(max_examples=100)
@given(record=records(), step=st.sampled_from(["baseline", "sweep", "interpret", "step"]), goal=recorded)
def test_the_summary_holds_no_other_heading_and_no_html(record: EntryRecord, step: Any, goal: str) -> None:
    """What stands at the head of the logbook is made of the same texts: it has its six headings, and no more."""
    series = Series(topic="toy", prefix="TOY", goal=goal or "x", metrics=(Metric("time_s"),))
    changed = EntryRecord(**{**{name: getattr(record, name) for name in record.__struct_fields__}, "step": step})
    tokens = flat(markdown.parse(summary(state_of(series, [changed]), None, "toy/")))
    headings = [tokens[index + 1].content for index, token in enumerate(tokens) if token.type == "heading_open"]
    expected = ["TL;DR", "Baseline", "Hypothesis queue", "Decisions", "Negative results", "Corrected and moved", "Links"]
    assert headings == expected
    assert not {"html_block", "html_inline", "image", "link_open", "em_open"} & {token.type for token in tokens}


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=recorded, other=texts)
def test_hostile_text_goes_through_journal_and_logbook(tmp_path_factory: Any, text: str, other: str) -> None:
    """Recorded, published, published again from nothing, and verified: one entry for one record."""
    desk = Desk.make(Path(tmp_path_factory.mktemp("desk")))
    stored = desk.record(text, hypothesis=text, result=text, config={text: text}, trials=0)
    assert desk.publish().ids == ("TOY-001",)
    assert desk.publish().ids == ()
    assert desk.problems() == []
    assert decode_record(desk.records("TOY-001")[0], "there").sha256 == stored.sha256
    assert len(json.loads(stored.line)) > 10


@pytest.mark.parametrize("tags", [("#123", "a, b"), ('say "x"', "no")])
def test_the_front_matter_of_a_logbook_is_yaml(tmp_path: Path, tags: tuple[str, ...]) -> None:
    """Tags may hold what YAML would read otherwise, such as the number of an issue."""
    import yaml
    from research_steps.publish.logbook.surface import LogbookSurface

    desk = Desk.make(tmp_path)
    series = Series(topic="toy", prefix="TOY", goal="see\n# it", metrics=(Metric("time_s"),), tags=tags)
    assert list(LogbookSurface(desk.checkout, desk.journal, series).publish(desk.journal.entries(), final=True)) == []
    head = yaml.safe_load(desk.data.split(b"---\n")[1].replace(b"made-by: research-steps", b"made-by: x"))
    assert head == {"topic": "toy", "prefix": "TOY", "tags": ["TOY", *tags], "made-by": "x"}
    assert b"\n# it" not in desk.data
