"""How lines fit a terminal of 80 columns."""

import textwrap
from collections.abc import Sequence

COLUMNS = 78
LABEL = 13
# Beside a label.
ROOM = COLUMNS - LABEL


def wrapped(text: str, columns: int = COLUMNS) -> list[str]:
    """A text in as many lines as it takes, the later ones indented."""
    return textwrap.wrap(text, columns, subsequent_indent="  ", break_on_hyphens=False) or [""]


def shortened(text: str, columns: int = COLUMNS) -> str:
    """One line of at most so many characters."""
    return text if len(text) <= columns else f"{text[: columns - 1].rstrip()}…"


def labelled(label: str, lines: Sequence[str]) -> list[str]:
    """Lines beside a label."""
    return [f"{label if not number else '':<{LABEL}}{line}" for number, line in enumerate(lines)]
