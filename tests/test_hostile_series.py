"""A series of hostile records on every page that is made of it: they read as harmless ones would, and nothing acts."""

import re
from collections import Counter
from pathlib import Path

import pytest

from tests.support.hostile_store import FORBIDDEN, HARMLESS, HOSTILE, HOSTILES, write_store
from tests.support.hostile_text import assert_dead, flat, gfm
from tests.support.scratch_logbook import Desk, error
from tests.support.sealed_logbook import SealedDesk
from tests.support.toy_thread import research

# The blocks and spans of Markdown that text could open, beside that it is cut to fit.
KINDS = (
    *("heading_open", "html_block", "html_inline", "link_open", "image", "fence", "code_block", "hr", "blockquote_open"),
    *("table_open", "tr_open", "th_open", "td_open", "ordered_list_open", "em_open", "strong_open", "s_open"),
)
_VARIES = re.compile(r"[0-9a-f]{64}|[0-9a-f]{40}|\d{4}-\d\d-\d\d[T ][\d:.]+Z?|\d+ bytes")
# But for joiners, by which scripts are written.
UNSEEN = re.compile(FORBIDDEN.pattern.replace("\u200b-\u200f", "\u200b\u200e\u200f"))


def structure(page: str) -> dict[str, Counter[str]]:
    """How much of each kind a page holds, and its HTML and addresses."""
    tokens = flat(gfm.parse(page))
    html = [token.content.strip() for token in tokens if token.type in ("html_block", "html_inline")]
    return {
        "kinds": Counter(token.type for token in tokens if token.type in KINDS),
        "html": Counter(_VARIES.sub("…", part) for part in html),
        "links": Counter(_VARIES.sub("…", str(token.attrs["href"])) for token in tokens if token.type == "link_open"),
    }


def published(where: Path, texts: tuple[str, ...]) -> dict[str, str]:
    """The pages that the real commands make of a series, in a new checkout."""
    desk = Desk.make(where)
    write_store(desk.store, texts)
    for command in (("sync", "old_series"), ("source", "brief", "old_series")):
        done = research(desk.root, *command, "--prefix", str(desk.store))
        assert done.returncode == 0, done.stderr
    folder = desk.root / ".agents"
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*.md")}


@pytest.mark.parametrize("texts", [(HOSTILE,), HOSTILES], ids=["one text", "many texts"])
def test_pages_of_hostile_records_are_those_of_harmless_ones(tmp_path: Path, texts: tuple[str, ...]) -> None:
    """Logbook, issue with its comments, and background brief of a series with every kind of step, in which each free
    field is hostile: the same headings, markers, tables and links, and nobody is mentioned on the issue."""
    harmless, hostile = published(tmp_path / "a", HARMLESS[: len(texts)]), published(tmp_path / "b", texts)
    logbook, issue = "logbooks/old_series.md", "issues/old_series.md"
    assert harmless.keys() == hostile.keys() == {logbook, issue, "logbooks/old_series/background.md"}
    for name, page in hostile.items():
        assert structure(page) == structure(harmless[name]), name
        assert not UNSEEN.search(page), name
    assert structure(hostile[logbook])["kinds"]["heading_open"] > 40
    assert_dead(hostile[issue])


def sealed(where: Path, text: str) -> tuple[str, str, str]:
    """The bundle's page and table and the tag's message of a seal over records with this text."""
    desk = SealedDesk.make(where)
    words = {"label": text, "hypothesis": text, "interpretation": text, "next_action": text, "result": text}
    desk.measured(**words, config={"measure": f"{text}:{text}", text: text}, error=error(text, text), status="failed")
    tag = desk.seal()
    id = tag.rpartition("/")[2]
    page, table = (desk.git("show", f"{tag}:.agents/logbooks/toy/{id}.{kind}") for kind in ("bundle.md", "table.csv"))
    return page, table, desk.git("tag", "--list", "--format=%(contents)", tag)


@pytest.mark.parametrize("text", [HOSTILE, "## x", "`|`", "x\n<!-- research-steps end tldr -->"])
def test_a_bundle_of_hostile_records_is_one_of_harmless_ones(tmp_path: Path, text: str) -> None:
    """What a tag holds for people, and what `git show` prints of it."""
    harmless, hostile = sealed(tmp_path / "a", "plain"), sealed(tmp_path / "b", text)
    assert structure(hostile[0]) == structure(harmless[0])
    assert not any(UNSEEN.search(part) for part in hostile)
    assert hostile[2].count("\n") == harmless[2].count("\n")
