"""Text on its way to the terminal: it is read, whatever it holds, and nothing in it acts."""

import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from research_steps.records.encoding import sha256
from research_steps.terminal import print_json, print_lines, print_text, say, visible, visible_line

from tests.support.hostile_store import FORBIDDEN, HARMLESS, HOSTILE, HOSTILES, write_store
from tests.support.hostile_text import HOSTILE as PIECES
from tests.support.scratch_logbook import PROVENANCE, SERIES, Desk, trial
from tests.support.toy_thread import research

READING = (
    ("status",),
    ("status", "old_series"),
    ("show", "OLD-010"),
    ("show", "OLD-011"),
    ("show", "OLD-011.02"),
    ("show", "OLD-012"),
    ("show", "OLD-020.01"),
    ("compare", "OLD-010.02", "OLD-011.02"),
    ("check", "old_series", "--closing"),
    ("verify", "old_series"),
    ("hypothesis", "list", "old_series"),
    ("source", "list", "old_series"),
)


@given(st.lists(st.sampled_from((*PIECES, HOSTILE)) | st.text(max_size=6), max_size=6).map("".join))
def test_what_would_act_is_shown_by_its_number(text: str) -> None:
    """Everything else stays as it is, and a line stays one line."""
    assert not FORBIDDEN.search(visible(text)) and not FORBIDDEN.search(visible_line(text))
    assert "\n" not in visible_line(text)
    assert visible(text).count("\n") == text.count("\n")
    plain = FORBIDDEN.sub("", text)
    assert visible(plain) == plain


def test_each_is_shown_as_python_spells_it(capsys: pytest.CaptureFixture[str]) -> None:
    """So that a reader can look up what stood there; what is printed for programs is ASCII."""
    print_lines("größer 😀\t×", "\x1b[2J\x07\x9b\r\n", "\u202e\u200d\U000e0041\ud800")
    print_text("two\nlines\x7f")
    print_json({"\x7f": "\x9b\u202e\ud800"})
    say("a\nb")
    out, err = capsys.readouterr()
    spelled = ["größer 😀\t×", r"\x1b[2J\x07\x9b\r\n", r"\u202e\u200d\U000e0041\ud800", "two", r"lines\x7f"]
    assert out.splitlines()[:5] == spelled
    assert json.loads("\n".join(out.splitlines()[5:])) == {"\x7f": "\x9b\u202e\ud800"} and out.isascii() is False
    assert err == "a\\nb\n"


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """A checkout and a store for each kind of text, published."""
    made = {}
    for name, texts in (("harmless", HARMLESS), ("hostile", HOSTILES)):
        desk = Desk.make(tmp_path_factory.mktemp(name))
        write_store(desk.store, texts)
        # Somebody may name what lies there as well.
        (desk.store / "journal/old_series/entries/records" / "OLD-\x1b[2J\u202e-0.json").write_bytes(b"{")
        made[name] = desk.root, desk.store
        done = research(desk.root, "sync", "old_series", "--prefix", str(desk.store))
        assert "is not a record" in done.stderr and not FORBIDDEN.search(done.stdout + done.stderr)
    return made


@pytest.mark.parametrize("command", READING, ids=" ".join)
def test_no_command_prints_what_acts(places: dict[str, tuple[Path, Path]], command: tuple[str, ...]) -> None:
    """Whatever a series' records, objects and file names hold: no byte that a terminal obeys or a reader does not see,
    no line that is not ours, and the same lines as of a series with harmless text."""
    printed = {}
    for name, (root, store) in places.items():
        done = research(root, *command, "--prefix", str(store))
        assert not FORBIDDEN.search(done.stdout + done.stderr), command
        assert "Traceback" not in done.stderr
        printed[name] = done.stdout
        data = research(root, *command, "--prefix", str(store), "--json").stdout
        assert data.isascii() and not FORBIDDEN.search(data)
        json.loads(data)
    starts = tuple(line[:1] for line in printed["hostile"].splitlines())
    assert "@" not in starts and "#" not in starts and "<" not in starts
    # A message of several lines is shown as such, below its record; and what is longer takes more lines of a screen.
    counted = {name: [line for line in text.splitlines() if line[:1] != " "] for name, text in printed.items()}
    if command[0] == "status":
        assert len(counted["hostile"]) == len(counted["harmless"])
    elif command[0] != "show":
        assert printed["hostile"].count("\n") == printed["harmless"].count("\n")


def on_a_terminal(where: Path, *arguments: str) -> bytes:
    """What the command writes where both of its streams are a terminal."""

    def read() -> Iterator[bytes]:
        try:
            while data := os.read(ours, 1 << 16):
                yield data
        except OSError:
            # Nobody has it open any more.
            return

    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "research_steps", *arguments], cwd=where, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    try:
        written = b"".join(read())
    finally:
        os.close(ours)
    assert process.wait() == 0, written
    return written


def test_a_patch_is_bytes_for_git_and_text_for_people(tmp_path: Path) -> None:
    """Piped it is what 'git apply' takes; on a terminal the escape sequence of an edited file is shown."""
    desk = Desk.make(tmp_path)
    patch = b"diff --git a/x b/x\n+\x1b]0;title\x07\xff\r\n"
    desk.journal.declare(SERIES)
    desk.journal.keep_patch(sha256(patch), patch)
    made = msgspec.structs.replace(PROVENANCE, patch=sha256(patch))
    record = msgspec.structs.replace(trial("TOY-001.01", "1" * 64), provenance=made)
    desk.journal.attempts.finish("trial", record)
    arguments = ("show", "TOY-001.01", "--patch", "--topic", "toy", "--prefix", str(desk.store))
    piped = subprocess.run([sys.executable, "-m", "research_steps", *arguments], cwd=desk.root, capture_output=True)
    assert piped.stdout == patch
    written = on_a_terminal(desk.root, *arguments)
    assert b"\x1b" not in written and b"\x07" not in written and rb"+\x1b]0;title\x07" in written


def test_the_view_that_is_drawn_again_holds_no_text_that_acts(tmp_path: Path) -> None:
    """`status --watch` on a terminal: what runs is named by its label, and only rich's own sequences are written."""
    desk = Desk.make(tmp_path)
    write_store(desk.store, [HOSTILE])
    written = on_a_terminal(desk.root, "status", "old_series", "--watch", "--prefix", str(desk.store)).decode()
    for sequence in ("\x1b]", "\x1b[2J", "\x9b", "\u202e", "\u200b", "\ufeff", "\x07"):
        assert sequence not in written, ascii(sequence)
    assert r"\x1b]" in written
