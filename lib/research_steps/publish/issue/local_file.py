"""The embedded issue: `.agents/issues/<topic>.md`, in the form that the issue on GitHub would have.

It is what a series has while no GitHub issue is linked to it. The body comes first, then the comments, each behind a
line that counts it. Git may take the file away, or merge it line by line: nothing but the file says what was posted, so
that what it lost comes back, and one that git damaged is made again from the records.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager

from research_steps.errors import SurfaceError
from research_steps.files import read, write_aside
from research_steps.git import Checkout
from research_steps.publish.issue.comment import Comment
from research_steps.publish.issue.text import unmanaged
from research_steps.publish.lock import locked
from research_steps.records.model import Owner

_COMMENT = re.compile(r"(?m)^<!-- research-steps comment (\d+) -->\r?\n")
# A conflict marker of git; the first line of an update, wherever it stands.
_CONFLICT = re.compile(r"(?m)^(?:<{7}|>{7}|\|{7}|={7})(?: .*)?\r?(?:\n|\Z)")
_UPDATE = re.compile(r"(?m)^<!-- research-steps (?:record|heartbeat) ")
_SECTION = re.compile(r"(?m)^<!-- research-steps section (\w+)")


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

    def damage(self) -> Iterator[str]:
        """What git, or an editor, did to the updates; nothing where each is whole and there once."""
        text, comments = self._text(), self.comments()
        shown = Counter(comment.marker for comment in comments if comment.marker)
        twice = [marker for marker, count in shown.items() if count > 1]
        if re.search(r"(?m)^<{7} ", text):
            yield f"{self.name} has conflict markers of git"
        if twice:
            yield f"{self.name} shows {twice[0][:19]} in {shown[twice[0]]} comments"
        elif len({comment.id for comment in comments}) < len(comments) or len(_UPDATE.findall(text)) > shown.total():
            yield f"{self.name} holds comments that were torn apart or mixed"
        elif len(sections := _SECTION.findall(text)) > len({*sections}):
            yield f"{self.name} holds a section of its body twice"

    def clear(self) -> None:
        """Take out the updates and the managed sections, however torn, so that they can be made again. What people wrote
        stays; the whole file as it was is kept in the git directory."""
        write_aside(self._checkout.private / f"{self.path.stem}.issue.before-rebuild.md", read(self.path) or b"")
        theirs = [comment for comment in self.comments() if not _UPDATE.search(comment.body)]
        numbered = (Comment(number, _CONFLICT.sub("", comment.body)) for number, comment in enumerate(theirs, 1))
        self._write(unmanaged(_CONFLICT.sub("", self.body())) + "".join(map(_headed, numbered)))

    def post(self, body: str) -> Comment:
        number = max((comment.id for comment in self.comments()), default=0) + 1
        text = self._text()
        gap = "" if not text or text.endswith("\n") else "\n"
        posted = Comment(number, body)
        self._write(f"{text}{gap}{_headed(posted)}")
        return posted

    def arrange(self, markers: Sequence[str]) -> None:
        """Have the updates with these markers stand in this order, whenever they were posted. What else is there, as
        what people wrote, stays behind the update that it stands behind."""
        places = {marker: place for place, marker in enumerate(markers)}
        comments = self.comments()
        groups: list[tuple[int, list[Comment]]] = [(-1, [])]
        for comment in comments:
            if comment.marker in places:
                groups.append((places[comment.marker], []))
            groups[-1][1].append(comment)
        arranged = [comment for _, group in sorted(groups, key=lambda group: group[0]) for comment in group]
        if arranged != comments:
            counted = (Comment(number, comment.body) for number, comment in enumerate(arranged, 1))
            self._write(self.body() + "".join(map(_headed, counted)))

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
