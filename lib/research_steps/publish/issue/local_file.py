"""The embedded issue: `.agents/issues/<topic>.md`, in the form that the issue on GitHub would have.

It is what a series has while no GitHub issue is linked to it. The body comes first, then the comments, each behind a
line that counts it.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from filelock import FileLock, Timeout

from research_steps.errors import SurfaceAway, SurfaceError
from research_steps.files import write_aside
from research_steps.git import Checkout
from research_steps.publish.issue.tracker import Comment
from research_steps.records.model import Owner

LOCK_WAIT_S = 30.0
_COMMENT = re.compile(r"(?m)^<!-- research-steps comment (\d+) -->\r?\n")


class IssueFile:
    """One series' embedded issue in one checkout."""

    def __init__(self, checkout: Checkout, topic: str) -> None:
        self.name = f".agents/issues/{topic}.md"
        self.path = checkout.root / self.name
        self._lock = checkout.private / f"{topic}.issue.lock"

    @contextmanager
    def turn(self) -> Iterator[Owner | None]:
        try:
            self._lock.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(self._lock, timeout=LOCK_WAIT_S):
                yield None
        except Timeout as error:
            raise SurfaceAway(f"{self.path} has been held by another process for {LOCK_WAIT_S:.0f} s.") from error
        except OSError as error:
            raise SurfaceError(f"{error.filename or self.path} could not be used: {error.strerror}.") from error

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

    def write_body(self, old: str, new: str) -> None:
        gap = "" if new.endswith("\n") else "\n"
        self._write(f"{new}{gap}" + "".join(map(_headed, self.comments())))

    def overwritten(self) -> str | None:
        return None

    def close(self) -> None:
        """The file says by its conclusion that the thread is finished."""

    def _text(self) -> str:
        # Newlines as they are: what people wrote stays byte for byte.
        return self.path.read_bytes().decode("utf-8", "surrogateescape") if self.path.exists() else ""

    def _write(self, text: str) -> None:
        write_aside(self.path, text.encode("utf-8", "surrogateescape"))


def _headed(comment: Comment) -> str:
    gap = "" if comment.body.endswith("\n") else "\n"
    return f"<!-- research-steps comment {comment.id} -->\n{comment.body}{gap}"
