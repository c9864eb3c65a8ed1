"""What people wrote in an issue's body and a write of ours replaced unseen: found in GitHub's history of its bodies.

Each write is known by the body that it should replace and by the one that it leaves. Where the history has another one
before it, that was replaced unseen, however late the write arrived. It is lost until a newer body has it.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from research_steps.publish.issue.text import unmanaged
from research_steps.records.encoding import sha256
from research_steps.records.objects import BodyWrite

_BESIDE = "_An edit of the same moment:_"


@dataclass(frozen=True)
class Lost:
    """A body that was replaced unseen, and the one that its writer had before them, where the history still has that."""

    text: str
    base: str | None


def digest(body: str) -> str:
    """The name of a body in the store. A history may spell line ends and the end differently."""
    return sha256(_lf(body).rstrip().encode("utf-8", "surrogatepass"))


def lost(edits: Sequence[str | None], body: str, writes: Iterable[BodyWrite]) -> list[Lost]:
    """The bodies that a write of ours replaced unseen and that nothing newer has in it, oldest first. `edits` are those
    of the history, newest first; `body` is the one that stands now."""
    replaced: defaultdict[str, set[str]] = defaultdict(set)
    sent: Counter[str] = Counter()
    for write in writes:
        replaced[write.written].add(write.replaced)
        sent[write.written] += 1
    names = ["" if text is None else digest(text) for text in edits]
    found = []
    for at in reversed(range(len(edits))):
        known, before = replaced[names[at]], edits[at + 1] if at + 1 < len(edits) else None
        # Where it came more often than it was sent, somebody went back to it.
        ours, sent[names[at]] = sent[names[at]] > 0, sent[names[at]] - 1
        if not ours or before is None or names[at + 1] in known | {names[at]}:
            continue
        if not any(_has(newer, before) for newer in (body, *edits[: at + 1]) if newer is not None):
            base = next((text for name, text in zip(names, edits, strict=True) if name in known), None)
            found.append(Lost(before, base))
    return found


def repaired(body: str, found: Iterable[Lost]) -> str:
    """The body with what was lost: as its writer left it where nobody went on writing, else below."""
    for edit in found:
        if edit.base is not None and _people(edit.base) == _people(body):
            body = edit.text
        elif text := unmanaged(edit.text).strip():
            body = f"{body}\n\n{_BESIDE}\n\n{text}"
    return body


def _has(newer: str, text: str) -> bool:
    """Whether what people wrote in a body is in a newer one, as a repair puts it there."""
    return _people(newer) == _people(text) or f"{_BESIDE}\n\n{_people(text)}" in _people(newer)


def _people(body: str) -> str:
    return unmanaged(_lf(body)).strip()


def _lf(text: str) -> str:
    return text.replace("\r\n", "\n")
