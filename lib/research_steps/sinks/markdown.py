"""Text from measurements as Markdown that stays text.

Everything here is indented below column 0 or escaped, so it can't open a heading, close a fence or forge a marker.
"""

import re
from collections.abc import Sequence


def prose(text: str) -> str:
    """One line of running text: no line breaks, no HTML."""
    line = " ".join(text.split())
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def code(text: str) -> str:
    """A code span that holds any text, on one line."""
    line = " ".join(text.split()) or " "
    runs = [len(run) for run in re.findall(r"`+", line)]
    fence = "`" * next(length for length in range(1, len(runs) + 2) if length not in runs)
    padding = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{padding}{line}{padding}{fence}"


def block(text: str, indent: str) -> str:
    """A fenced block that holds any text, indented so that it belongs to a list item."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    # Only LF, VT, FF and CR break lines here; a line of the text can't start at column 0.
    lines = re.split(r"\r\n|[\n\r\v\f\x85\u2028\u2029]", text)
    return "\n".join(f"{indent}{line}".rstrip() for line in [fence + "text", *lines, fence])


def table(header: Sequence[str], rows: Sequence[Sequence[str]], indent: str) -> str:
    """A table of cells that are Markdown already; a '|' in them is escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"{indent}| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
