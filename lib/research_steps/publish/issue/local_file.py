"""The embedded issue: `.agents/issues/<topic>.md`, in the form that the issue on GitHub would have.

It is what a series has while no GitHub issue is linked to it. The body comes first, then the comments, each behind a
line that counts it.
"""

import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from research_steps.errors import SurfaceError
from research_steps.files import read, write_aside
from research_steps.git import Checkout
from research_steps.publish.issue.comment import Comment
from research_steps.publish.lock import locked
from research_steps.records.model import Owner

_COMMENT = re.compile(r"(?m)^<!-- research-steps comment (\d+) -->\r?\n")


class IssueFile:
    """One series' embedded issue in one checkout, with the methods of one on GitHub."""

    def __init__(self, checkout: Checkout, topic: str) -> None:
        self.name = f".agents/issues/{topic}.md"
        self.path = checkout.root / self.name
        self._checkout = checkout

    def turn(self) -> AbstractContextManager[Owner | None]:
        return locked(self._checkout, f"{self.path.stem}.issue", self.path, SurfaceError)

    def comments(self) -> Sequence[Comment]:
        parts = _COMMENT.split(self._text())[1:]
        return [Comment(int(number), body) for number, body in zip(parts[::2], parts[1::2], strict=True)]

    def post(self, body: str) -> Comment:
        number = max((comment.id for comment in self.comments()), default=0) + 1
        text = self._text()
        gap = "" if not text or text.endswith("\n") else "\n"
        posted = Comment(number, body)
        self._write(f"{text}{gap}{_headed(posted)}")
        return posted

    def delete(self, comment: Comment) -> None:
        self._write(self.body() + "".join(_headed(other) for other in self.comments() if other.id != comment.id))

    def body(self) -> str:
        return _COMMENT.split(self._text(), maxsplit=1)[0]

    def rewrite_body(self, merged: Callable[[str], str]) -> None:
        old = self.body()
        new = merged(old)
        if new != old:
            gap = "" if new.endswith("\n") else "\n"
            self._write(f"{new}{gap}" + "".join(map(_headed, self.comments())))

    def _text(self) -> str:
        # Newlines as they are: what people wrote stays byte for byte.
        return (read(self.path) or b"").decode("utf-8", "surrogateescape")

    def _write(self, text: str) -> None:
        write_aside(self.path, text.encode("utf-8", "surrogateescape"))


def _headed(comment: Comment) -> str:
    gap = "" if comment.body.endswith("\n") else "\n"
    return f"<!-- research-steps comment {comment.id} -->\n{comment.body}{gap}"
