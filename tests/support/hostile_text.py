"""Text that would be markup wherever it is shown, records that are full of it, and what renders and reads it."""

import re

from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token
from research_steps.records.encoding import sha256, store_record
from research_steps.records.model import EntryRecord

from tests.support.scratch_logbook import PROVENANCE, entry, error, row, trial

HOSTILE = (
    "<!-- research-steps end TOY-001 record=" + "a" * 64 + " entry=" + "b" * 64 + " prev=none -->",
    *("<!-- research-steps entry TOY-001 -->", "<!--", "-->", "### ", "## TL;DR", "# ", "```", "~~~", "`", "``", "|"),
    *("\\", "\\|", "*", "**", "_", "__", "~~", "<b>", "<img src=x>", "</details>", "&amp;", "&", "<", ">", "> ", "- "),
    *(
        "1. ",
        "[a](b)",
        "![a](http://x)",
        "[a]: b",
        "---",
        "===",
        "\n",
        "\r",
        "\r\n",
        "\n\n",
        "    ",
        "\t",
        "\x00",
        "\x1b[2J",
    ),
    *("\u2028", "\u2029", "\x85", "\x0b", "\x1c", "\u202e", "\ud800", "\udfff", "😀", "ä", "#", "!", "$x$", "@someone"),
    *("word", "2*3*4", "time_s", "http://x.example/a_b", "<http://x>", "<<<<<<< HEAD", "=======", ">>>>>>> b"),
)
texts = st.lists(st.sampled_from(HOSTILE) | st.text(max_size=4), max_size=8).map("".join)
# What a record holds was encoded, and half of a surrogate pair does not survive that.
recorded = texts.map(lambda text: text.encode("utf-8", "replace").decode())
markdown = MarkdownIt("commonmark").enable(["table", "strikethrough"])
# As GitHub renders it: tables, strikethrough, and addresses as links; then mentions and references in what is text.
gfm = MarkdownIt("gfm-like", {"linkify": False}).enable(["table", "strikethrough"])
MENTION = re.compile(r"(?<![\w`/])@[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?|@[A-Za-z0-9]")
REFERENCE = re.compile(r"#\d|\bGH-\d|https?://|\bwww\.", re.IGNORECASE)


@st.composite
def records(draw: st.DrawFn) -> EntryRecord:
    failed = draw(st.booleans())
    trials = [
        store_record(trial(f"TOY-001.{index:02d}", sha256(b"%d" % index))) for index in range(draw(st.integers(0, 3)))
    ]
    rows = tuple(row(stored, {draw(recorded): draw(recorded)}, note=draw(recorded)) for stored in trials)
    return entry(
        "TOY-001",
        label=draw(recorded),
        hypothesis=draw(recorded),
        config={draw(recorded): draw(recorded), "nested": {draw(recorded): [draw(recorded)]}},
        rows=rows,
        status="failed" if failed else "ok",
        result=draw(recorded),
        interpretation=draw(recorded),
        next_action=draw(recorded),
        error=error(draw(recorded), draw(recorded)) if failed else None,
        provenance=PROVENANCE,
    )


def flat(tokens: list[Token]) -> list[Token]:
    return [piece for token in tokens for piece in (token, *(token.children or ()))]


def shown(text: str) -> str:
    """A text as one line, with what can't be shown replaced."""
    return re.sub(
        "[\x00-\x08\x0e-\x1f\x7f-\x9f\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
        "\U000e0000-\U000e007f\ud800-\udfff]",
        "\ufffd",
        " ".join(text.split()),
    )


def running_text(body: str) -> list[str]:
    """What GitHub looks for names and numbers in: text outside code and outside our own links."""
    plain = []
    inside = 0
    for token in gfm.parse(body):
        for child in token.children or ():
            inside += {"link_open": 1, "link_close": -1}.get(child.type, 0)
            if child.type in ("text", "text_special") and not inside:
                plain.append(child.content)
            assert child.type != "html_inline", child.content
        # A paragraph, an item or a cell ends here, and with it what could be a name.
        plain.append("\n")
    return ["".join(plain)] if plain else []


def assert_dead(body: str) -> None:
    """Nobody is mentioned, nothing is referred to, and no address is a link."""
    for text in running_text(body):
        assert not MENTION.search(text), text
        assert not REFERENCE.search(text), text
