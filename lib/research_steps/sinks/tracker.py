"""The narrow boundary to an experiment issue: a body, and comments that follow each other.

Behind it is GitHub, or a Markdown file in the checkout. Neither can be asked to take a comment only once, so a comment
says in its first line which record it shows, and whoever posts looks for that line first.
"""

import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from research_steps.record import Owner

_MARKER = re.compile(r"\A<!-- research-steps (record [0-9a-f]{64}|heartbeat [\w:.+-]+) -->\r?(?:\n|\Z)")


@dataclass(frozen=True)
class Comment:
    """One comment as it is now."""

    id: int
    body: str

    @property
    def marker(self) -> str:
        """What the comment shows, such as 'record <sha256>'; empty for one that people wrote."""
        found = _MARKER.match(self.body)
        return found[1] if found else ""


class Tracker(Protocol):
    """One issue. Each method raises SurfaceAway when it may work later, SurfaceError when somebody has to act."""

    name: str

    def turn(self) -> AbstractContextManager[Owner | None]:
        """Hold off other publishers inside the block; yields the one that is at it already, if any."""
        ...

    def comments(self) -> Sequence[Comment]:
        """All comments, oldest first, those included that came since this was last asked."""
        ...

    def post(self, body: str) -> None: ...

    def delete(self, comment: Comment) -> None: ...

    def body(self) -> str: ...

    def write_body(self, old: str, new: str) -> str | None:
        """Replace the body that was read; returns what somebody else wrote in between, if this replaced it."""
        ...

    def close(self) -> None: ...


def marked(marker: str, text: str) -> str:
    """A comment's body with its marker."""
    return f"<!-- research-steps {marker} -->\n{text}"
