"""Text from measurements as Markdown that stays text: it reads as it was, and nothing in it acts.

Everything here is one line, or indented below column 0, so it can't open a heading, close a fence or forge a marker.
What steers a terminal, reorders a line or can't be seen is shown as U+FFFD. A link is made of an address only.
"""

import re
from collections.abc import Sequence

from research_steps.terminal import UNSEEN

_UNSHOWN = re.compile(f"[{UNSEEN}]")
_LINE_END = re.compile("\r\n|[\n\r\v\f\x1c-\x1f\x85\u2028\u2029]")
# A backslash before punctuation; code and emphasis; a link or image; '#' that would end a heading.
_ACTIVE = re.compile(
    r"\\(?=[!-/:-@\[-`{-~])|`|(?<=\S)\*|\*(?=\S)|(?<![^\W_])_|_(?![^\W_])|(?<=\S)~|~(?=~)|\](?=[(\[:])|#(?=#*$)"
)
_LINKING = re.compile(r"@(?=\w)|#(?=\d)|\bGH-(?=\d)|\bwww(?=\.)|:(?=//)", re.IGNORECASE)
_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})


def prose(text: str) -> str:
    """One line of running text."""
    return _ACTIVE.sub(r"\\\g<0>", one_line(text)).translate(_ENTITIES)


def unlinked(text: str) -> str:
    """One line of running text in which GitHub finds nobody to mention, no issue to link or close, and no address.

    A zero-width space comes between the characters that it looks for.
    """
    return _LINKING.sub(r"\g<0>&#8203;", prose(text))


def address(text: str) -> str:
    """A web address as a link, anything else as text."""
    return f"<{text}>" if re.fullmatch(r"https?://[\w.~:/?#@!$&'()*+,;=%-]+", text) else unlinked(text)


def code(text: str) -> str:
    """A code span that holds any text, on one line."""
    line = one_line(text) or " "
    runs = [len(run) for run in re.findall(r"`+", line)]
    fence = "`" * next(length for length in range(1, len(runs) + 2) if length not in runs)
    padding = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{padding}{line}{padding}{fence}"


def block(text: str, indent: str) -> str:
    """A fenced block that holds any text, indented so that it belongs to a list item."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    lines = [_UNSHOWN.sub("\ufffd", line) for line in _LINE_END.split(text)]
    return "\n".join(f"{indent}{line}".rstrip() for line in [fence + "text", *lines, fence])


def table(header: Sequence[str], rows: Sequence[Sequence[str]], indent: str) -> str:
    """A table of cells that are Markdown already; a '|' in them is escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"{indent}| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def one_line(text: str) -> str:
    """The text on one line, with nothing in it that steers a terminal."""
    return _UNSHOWN.sub("\ufffd", " ".join(text.split()))
