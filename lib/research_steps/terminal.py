"""The one way to the terminal: everything that commands print goes through here, and nothing in it acts.

Text may come from anybody: a record, a store, git, another machine. What steers a terminal, reorders a line or can't be
seen is shown by its number, such as \\x1b or \\u202e; and a line stays one line, whatever is in it.
"""

import json
import re
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.text import Text

# Controls but for tab and line feed; marks, embeddings and isolates of bidirectional text; what has no width; separators
# of lines and paragraphs; interlinear annotations; tags; and halves of surrogate pairs.
UNSEEN = (
    "\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f\ud800-\udfff"
)
# The joiners, too, which change how scripts are written and can hide as well.
_UNSEEN = re.compile(f"[{UNSEEN}\u200c\u200d]")


def visible(text: str) -> str:
    """Text of several lines in which everything can be seen."""
    return _UNSEEN.sub(lambda match: match[0].encode("unicode_escape", "surrogatepass").decode(), text)


def visible_line(text: str) -> str:
    """The same as one line."""
    return visible(text).replace("\n", r"\n")


def print_lines(*lines: str) -> None:
    """Print lines, each of which is one."""
    print("\n".join(map(visible_line, lines)), flush=True)


def print_text(text: str) -> None:
    """Print a text whose line breaks are ours."""
    print(visible(text), flush=True)


def print_json(data: Any) -> None:
    """Print one JSON document, in ASCII."""
    print(json.dumps(data, indent=2).replace("\x7f", r"\u007f"), flush=True)


class Beside:
    """Standard error, as a stream on which what can't be written is not missed: nobody reads it any more, and what is
    done does not depend on that."""

    def write(self, text: str) -> None:
        with suppress(OSError):
            sys.stderr.write(text)

    def flush(self) -> None:
        with suppress(OSError):
            sys.stderr.flush()


def say(line: str) -> None:
    """Tell a person something beside what the command prints, as long as anybody reads it."""
    # In one piece, because steps that measure side by side speak side by side.
    Beside().write(f"{visible_line(line)}\n")
    Beside().flush()


def pass_on(data: str | bytes, stream: TextIO) -> None:
    """What a program prints that the user runs, or what a command is to give to another one: as it is."""
    stream.flush()
    if isinstance(data, bytes):
        stream.buffer.write(data)
    else:
        stream.write(data)
    stream.flush()


def cells(*values: object) -> "list[Text]":
    """What stands in a table of rich, as text and not as its markup."""
    from rich.text import Text

    return [Text(visible_line(str(value))) for value in values]
