"""Taking over logbooks that people wrote: every byte stays, and what follows is read as it is meant."""

import cProfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from research_steps.errors import ConflictedLogbook, UsageError
from research_steps.publish.issue.linked_issue import named_in_logbook, unsaid
from research_steps.publish.logbook import format as logbook_format
from research_steps.publish.logbook.adoption import adopt
from research_steps.publish.logbook.numbers import CheckoutNumbers

from tests.support.scratch_logbook import Desk

QUOTED = (
    b"<!-- research-steps living part: rebuilt from records, edits are lost -->\n## TL;DR\n"
    b"<!-- research-steps end of living part -->\n<!-- research-steps entry TOY-001 -->\n### now - TOY-001 x\n"
    b"<!-- research-steps end TOY-001 record=" + b"a" * 64 + b" entry=" + b"b" * 64 + b" prev=none -->\n"
    b"<!-- research-steps adopted topic=toy prefix=TOY sha256=" + b"c" * 64 + b" -->\n"
)
TEMPLATE = (
    b"# Toy: Research Logbook\n\n## Scope\n- Goal: see\n\n## Experiment Log\n### 2026-01-01 - by hand\n- Result: 1\n"
)

BY_HAND = {
    "empty": b"",
    "only line breaks": b"\n\n\n",
    "one word": b"word",
    "the template": TEMPLATE,
    "no final newline": TEMPLATE.rstrip(b"\n"),
    "front matter": b"---\ntopic: toy\ntags: [a]\n---\n" + TEMPLATE,
    "front matter that never ends": b"---\ntopic: toy\n\n" + TEMPLATE,
    "an entry log": TEMPLATE.replace(b"Experiment Log", b"Entry Log"),
    "no log section": b"# Toy\n\nsome prose\n",
    "sections after the log": TEMPLATE + b"\n## Appendix\n\ntext\n\n### Deeper\n- more\n",
    "CRLF": TEMPLATE.replace(b"\n", b"\r\n"),
    "CRLF without an end": TEMPLATE.replace(b"\n", b"\r\n")[:-2],
    "CR alone": TEMPLATE.replace(b"\n", b"\r"),
    "a table": TEMPLATE + b"\n| a | b |\n|---|---|\n| 1 | 2 |",
    "half a table": TEMPLATE + b"\n| a | b |\n|---|---|\n| 1 ",
    "a closed fence": TEMPLATE + b"\n```\n## no heading\n### TOY-099 neither\n```\n",
    "an open fence": TEMPLATE + b"\n```python\n## no heading\nTOY-099 = 1\n",
    "an open fence without an end": TEMPLATE + b"\n```",
    "an open tilde fence": TEMPLATE + b"\n~~~~~ text\n~~~\n```\n",
    "an open indented fence": TEMPLATE + b"\n   ```\n   text",
    "an open fence in a list": TEMPLATE + b"\n- item\n  - inner\n    ```\n    text\n",
    "an open fence in a quotation": TEMPLATE + b"\n> ~~~\n> text",
    "indented code": TEMPLATE + b"\n    indented\n    ```",
    "an open comment": TEMPLATE + b"\n<!-- TODO\n\n## hidden\n",
    "an open comment in a list": TEMPLATE + b"\n- item\n\n  <!-- TODO\n",
    "a comment that holds a fence": TEMPLATE + b"\n<!--\n```\n",
    "a fence that holds a comment": TEMPLATE + b"\n```\n<!--\n",
    "an open pre": TEMPLATE + b"\n<pre>\noutput\n\n## hidden\n",
    "an open script": TEMPLATE + b"\n<script>\nif (a < b) {\n\n",
    "an open textarea": TEMPLATE + b"\n<TextArea rows=2>\n\ntext",
    "an open folded section": TEMPLATE + b"\n<details><summary>Log</summary>\n\ntext\n",
    "an open fence in a folded section": TEMPLATE + b"\n<details>\n\n```\ntext\n",
    "an open comment in a folded section": TEMPLATE + b"\n<details>\n\n<!-- text\n",
    "a processing instruction": TEMPLATE + b"\n<?php\n\ntext",
    "a declaration": TEMPLATE + b"\n<!DOCTYPE\n\ntext",
    "open CDATA": TEMPLATE + b"\n<![CDATA[\n\ntext",
    "an open code span": TEMPLATE + b"\ntext `code",
    "an open link title": TEMPLATE + b'\n[name]: /url "title\n',
    "a paragraph like a setext heading": TEMPLATE + b"\ntext\n-",
    "invalid UTF-8": TEMPLATE + b"\n\xff\xfe caf\xe9 \xc3",
    "a BOM": b"\xef\xbb\xbf" + TEMPLATE,
    "NUL bytes": TEMPLATE + b"a\x00b",
    "a long line": TEMPLATE + b"x" * 100_000,
    "our markers in a fence": TEMPLATE + b"\n```md\n" + QUOTED + b"```\n",
    "our markers in an open fence": TEMPLATE + b"\n```md\n" + QUOTED,
    "our markers in plain sight": TEMPLATE + QUOTED.partition(b"<!-- research-steps adopted")[0],
    "a quoted conflict": TEMPLATE + b"\n    <<<<<<< HEAD\n    =======\n    >>>>>>> other\n",
}


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    desk = Desk.make(tmp_path)
    desk.path.parent.mkdir(parents=True)
    return desk


def top_level(data: bytes) -> list[tuple[str, str]]:
    """Every heading at the top level, as a Markdown reader sees it."""
    tokens = MarkdownIt().parse(data.decode("utf-8-sig", "replace"))
    return [
        (token.tag, tokens[index + 1].content)
        for index, token in enumerate(tokens)
        if token.type == "heading_open" and token.level == 0
    ]


@pytest.mark.parametrize("kind", BY_HAND)
def test_every_byte_stays_and_entries_that_follow_are_read(desk: Desk, kind: str) -> None:
    """Whatever people wrote, and however they left it: it stays, verify is green, and a new entry is a heading."""
    old = BY_HAND[kind]
    desk.path.write_bytes(old)
    assert adopt(desk.checkout, "toy", "TOY", dry_run=True) == len(old)
    assert desk.data == old
    assert adopt(desk.checkout, "toy", "TOY") == len(old)
    assert desk.data.startswith(old)
    assert desk.problems() == []
    stored = [desk.record(label) for label in ("first", "second")]
    assert len(desk.publish().ids) == 2
    assert desk.data.startswith(old)
    assert desk.problems() == []
    assert [entry.record for entry in logbook_format.parse(desk.data).entries] == [entry.sha256 for entry in stored]
    behind = top_level(desk.data)[len(top_level(old)) :]
    summary = ["TL;DR", "Baseline", "Hypothesis queue", "Decisions", "Negative results", "Corrected and moved", "Links"]
    assert [text for tag, text in behind if tag == "h2"] == [*summary, "Recorded experiment log"]
    assert [text.rpartition(" ")[2] for tag, text in behind if tag == "h3"] == ["first", "second"]
    assert desk.data.index(b"## TL;DR", len(old)) > len(old)


@settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    pieces=st.lists(
        st.sampled_from(
            [
                *("```", "~~~", "  ```", "<!--", "-->", "<pre>", "</pre>", "<details>", "</details>", "<div>", "<?"),
                *("]]>", "<!X", "- a", "  b", "    c", "> q", "# h", "text", "===", "---", "| a | b |", "1.", "`", ""),
                *("\t", "[x]: y", "**", "\\"),
            ]
        ),
        max_size=12,
    ),
    end=st.sampled_from(["", "\n", "\n\n", "\r\n", " "]),
)
def test_any_ending_is_closed(desk: Desk, pieces: list[str], end: str) -> None:
    """Constructs in any combination, left open or not: the heading after an adoption is at the top level."""
    old = ("\n".join(pieces) + end).encode()
    desk.path.write_bytes(old)
    adopt(desk.checkout, "toy", "TOY")
    assert desk.data.startswith(old)
    assert top_level(desk.data)[-1] == ("h2", "Recorded experiment log")
    assert desk.problems(journal=False) == []


def test_the_sections_that_follow_are_not_folded_away(desk: Desk) -> None:
    """A folded section that was left open ends before the entries, so that a browser shows them."""
    desk.path.write_bytes(BY_HAND["an open fence in a folded section"])
    adopt(desk.checkout, "toy", "TOY")
    html = MarkdownIt().render(desk.data.decode())
    assert html.index("</details>") < html.index("Recorded experiment log")


def test_adopting_costs_in_proportion_to_what_is_adopted(desk: Desk) -> None:
    """Half a megabyte, a fence left open at its end included, takes about four times the steps of a quarter of it."""
    entry = b"### 2026-01-01 10:00 - TOY-%03d by hand\n- Result: `1.0`, *fast*\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n"

    def calls(entries: int) -> int:
        old = TEMPLATE + b"".join(entry % number for number in range(entries)) + b"```\nopen"
        desk.path.write_bytes(old)
        with cProfile.Profile() as profile:
            adopt(desk.checkout, "toy", "TOY")
        assert desk.data.startswith(old)
        return sum(entry.callcount for entry in profile.getstats())

    # Were each line compared with those before it, it would be sixteen times.
    large, small = calls(5600), calls(1400)
    assert large < 5 * small
    assert len(desk.data) > 100_000
    assert max(CheckoutNumbers(desk.checkout, "toy", "TOY").used()) == 1399


def test_new_ids_continue_after_those_in_headings(desk: Desk) -> None:
    """IDs in headings of either kind count, before and after the adoption; IDs in code, prose and of others don't."""
    desk.path.write_bytes(
        b"\xef\xbb\xbf# TOY-003 first\n\n### 2026 - TOY-007 x\n\nTOY-011 in a setext heading\n---\n\n> # TOY-012.03\n\n"
        b"TOY-900 in prose\n\n```\n# TOY-901 in code\n```\n\n<!-- # TOY-902 -->\n\n    # TOY-903\n\n"
        b"# MY-TOY-904, TOY-9050000000, toy-906\n```\n# TOY-907\n"
    )
    before = CheckoutNumbers(desk.checkout, "toy", "TOY").used()
    assert before == {3, 7, 11, 12}
    adopt(desk.checkout, "toy", "TOY")
    assert CheckoutNumbers(desk.checkout, "toy", "TOY").used() == before
    assert desk.record("new").record.id == "TOY-013"
    desk.publish()
    assert desk.ids == ["TOY-013"]
    assert desk.with_store("empty").record("from another store").record.id == "TOY-014"


def test_an_edit_of_the_adopted_part_is_named_and_entries_go_on(desk: Desk) -> None:
    """A typo mended in old notes is told by verify; the entries stay known, also where our markers are quoted."""
    desk.path.write_bytes(BY_HAND["our markers in a fence"])
    adopt(desk.checkout, "toy", "TOY")
    desk.record("before")
    desk.publish()
    desk.path.write_bytes(desk.data.replace(b"- Goal: see\n", b"- Goal: see it\n"))
    (problem,) = desk.problems()
    assert problem.endswith(": what stands above was changed after it was adopted")
    desk.record("after")
    assert desk.publish().ids == ("TOY-002",)
    assert desk.labels[-2:] == ["before", "after"]
    assert desk.problems() == [problem]


@pytest.mark.parametrize("ends", [b"\n", b"\r\n"])
def test_what_people_went_on_writing_above_is_adopted_again(desk: Desk, ends: bytes) -> None:
    """All that they wrote counts as adopted then; the entries stay as they are, and others follow."""
    desk.path.write_bytes(TEMPLATE.replace(b"\n", ends))
    adopt(desk.checkout, "toy", "TOY")
    desk.record("before")
    desk.publish()
    behind = desk.data.partition(b"<!-- research-steps adopted ")[2].partition(b"-->")[2]
    desk.path.write_bytes(
        desk.data.replace(b"- Result: 1" + ends, b"- Result: 1" + ends + b"- Result: TOY-009, 2" + ends)
    )
    assert len(desk.problems()) == 1
    changed = desk.data
    adopt(desk.checkout, "toy", "TOY", dry_run=True)
    assert desk.data == changed
    adopt(desk.checkout, "toy", "TOY")
    assert desk.problems() == [] and desk.data.endswith(behind) and b"- Result: TOY-009, 2" + ends in desk.data
    with pytest.raises(UsageError, match="needs no adoption"):
        adopt(desk.checkout, "toy", "TOY")
    desk.record("after")
    desk.publish()
    assert desk.labels[-2:] == ["before", "after"] and desk.problems() == []
    assert desk.data.count(b"\n") == desk.data.count(ends)


def test_a_quoted_summary_is_not_rewritten(desk: Desk) -> None:
    """Only the summary behind the adopted bytes is ours to rewrite."""
    old = BY_HAND["our markers in plain sight"]
    desk.path.write_bytes(old)
    adopt(desk.checkout, "toy", "TOY")
    desk.record("a baseline", step="baseline")
    desk.publish()
    assert desk.data.startswith(old)
    assert b"Baseline numbers: time_s 500 ms" in desk.data


@pytest.mark.parametrize(
    ("old", "message"),
    [
        (None, "There is no logbook .*toy.md to adopt"),
        (TEMPLATE + b"<<<<<<< HEAD\na\n=======\nb\n>>>>>>> other\n", "has conflict markers of a git merge"),
    ],
)
def test_what_can_not_be_adopted_is_refused(desk: Desk, old: bytes | None, message: str) -> None:
    """No file, or one in the middle of a merge: a sentence, and nothing is written."""
    if old is not None:
        desk.path.write_bytes(old)
    with pytest.raises((UsageError, ConflictedLogbook), match=message):
        adopt(desk.checkout, "toy", "TOY")
    assert (desk.path.read_bytes() if desk.path.exists() else None) == old


@pytest.mark.parametrize("how", ["made", "adopted", "lost its front matter"])
def test_what_is_ours_is_not_adopted_again(desk: Desk, how: str) -> None:
    """A second adoption would hide the entries and show them twice: it is refused, and nothing changes."""
    if how == "adopted":
        desk.path.write_bytes(TEMPLATE)
        adopt(desk.checkout, "toy", "TOY")
    desk.record("there")
    desk.publish()
    if how == "lost its front matter":
        desk.path.write_bytes(desk.data.partition(b"---\n# ")[2])
    before = desk.data
    expected = "put it back" if how == "lost its front matter" else "needs no adoption"
    with pytest.raises(UsageError, match=expected):
        adopt(desk.checkout, "toy", "TOY")
    assert desk.data == before


@pytest.mark.parametrize("prefix", ["toy", "TOY-", "", "TOY 1", "-->"])
def test_a_bad_prefix_is_refused(desk: Desk, prefix: str) -> None:
    """A prefix that can't stand in an experiment ID is told in a sentence."""
    desk.path.write_bytes(TEMPLATE)
    with pytest.raises(UsageError, match="expected capitals, digits and inner hyphens"):
        adopt(desk.checkout, "toy", prefix)
    assert desk.data == TEMPLATE


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("issue: 2917", [("us/ours", 2917)]),
        ('issue: "#2917"', [("us/ours", 2917)]),
        ("issue: them/theirs#7", [("them/theirs", 7)]),
        ("issue: https://github.com/them/theirs/issues/7", [("them/theirs", 7)]),
        ("issue: none yet", []),
    ],
)
def test_the_issue_of_the_front_matter_is_that_of_the_series(
    desk: Desk, line: str, named: list[tuple[str, int]]
) -> None:
    """It is told how to link it, by a person's word; no other one is made. A line further down names none."""
    desk.git("remote", "add", "origin", "https://github.com/us/ours.git")
    front = f"---\ntopic: toy\n{line}\n---\n"
    desk.path.write_bytes(front.encode() + TEMPLATE + b"\nissue: 99\n")
    adopt(desk.checkout, "toy", "TOY")
    assert list(named_in_logbook(desk.checkout, "toy")) == named
    told = unsaid(desk.checkout, "toy", None)
    assert (f"names the issue {named[0][0]}#{named[0][1]}, which nobody has linked here" in told) if named else not told
