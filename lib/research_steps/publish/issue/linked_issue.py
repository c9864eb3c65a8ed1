"""Which issue a series has, and whether this checkout posts there.

A person links it, with --issue or --create-issue, and the journal keeps that for good; where its store is empty, a clone
takes the link of its own repository that the kickoff recorded. The text of a logbook links nothing: it says at most that
somebody has to. And because store and records may be anybody's, they name no other place to post: an issue that is not
in this checkout's own repository takes a person's word here, which lies in the git directory.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from research_steps.files import read, write_aside
from research_steps.git import Checkout
from research_steps.journal.journal import Journal
from research_steps.journal.logbook_place import logbook_of
from research_steps.journal.snapshot import entries_of
from research_steps.publish.issue.github import repository_of, web
from research_steps.records.objects import IssueLink
from research_steps.records.step_kinds import Kickoff
from research_steps.records.times import utc

# As the summary of a logbook names its issue.
_NAMED = re.compile(rb"(?m)^- Issue: \[([A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+)#([1-9][0-9]{0,8})\]\(")
# As people name it in the front matter of theirs: 2917, '#2917', owner/name#2917, or its address.
_IN_FRONT = re.compile(
    rb"(?m)^issue:[ \t]*[\"']?(?:(?:https?://[^/\s]+/)?([A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+)(?:/issues/|#)|#)?"
    rb"([1-9][0-9]{0,8})[\"']?[ \t]*\r?$"
)


def linked_issue(checkout: Checkout, journal: Journal) -> IssueLink | None:
    """The issue of a series, as its store has it, else as its kickoff recorded it in this checkout's repository."""
    decided = journal.decided("issue", IssueLink)
    own = repository_of(checkout) if decided is None else None
    if own is None:
        return decided
    named = [(name, number) for name, number in named_in_logbook(checkout, journal.topic) if _alike(name, own)]
    # Looked for only where there is one, because it means reading every record.
    known = entries_of(journal.published(logbook_of(checkout, journal.topic).records)) if named else []
    recorded = {entry.details.issue for entry in known if isinstance(entry.details, Kickoff)}
    for name, number in named:
        if f"{name}#{number}" in recorded:
            return journal.decide("issue", IssueLink(name, number, f"{web()}/{name}/issues/{number}", utc()))
    return None


def named_in_logbook(checkout: Checkout, topic: str) -> Iterator[tuple[str, int]]:
    """The issues that the text of a logbook names, each as repository and number. A number alone is one of this
    checkout's own repository."""
    text = read(logbook_of(checkout, topic).path) or b""
    front = text[:4096].removeprefix(b"\xef\xbb\xbf").partition(b"\n---")[0]
    in_front = _IN_FRONT.search(front) if front.startswith(b"---") else None
    if in_front is not None and (name := in_front[1].decode() if in_front[1] else repository_of(checkout)):
        yield name, int(in_front[2])
    for match in _NAMED.finditer(text):
        yield match[1].decode(), int(match[2])


def unsaid(checkout: Checkout, topic: str, link: IssueLink | None) -> str:
    """What a person would have to say before something is posted on the issue of a series; empty where nothing is
    missing."""
    own = repository_of(checkout)
    if link is not None:
        if may_post(checkout, topic, link):
            return ""
        return (
            f"The store links {topic} to the issue {link.repository}#{link.number}, and the repository of this checkout "
            f"is {own or 'not known'}: nothing is posted there until 'research sync {topic} --issue {link.number} "
            f"--repository {link.repository}' says so."
        )
    for name, number in named_in_logbook(checkout, topic):
        elsewhere = "" if own and _alike(name, own) else f" --repository {name}"
        return (
            f"The logbook of {topic} names the issue {name}#{number}, which nobody has linked here: 'research sync "
            f"{topic} --issue {number}{elsewhere}' does. Until then .agents/issues/{topic}.md stands for it."
        )
    return ""


def may_post(checkout: Checkout, topic: str, link: IssueLink) -> bool:
    """Whether an issue is in this checkout's own repository, or a person named it here."""
    own = repository_of(checkout)
    return bool(own and _alike(own, link.repository)) or read(_word(checkout, topic)) == _name(link)


def permit(checkout: Checkout, topic: str, link: IssueLink) -> None:
    """A person named this issue here."""
    write_aside(_word(checkout, topic), _name(link))


def _word(checkout: Checkout, topic: str) -> Path:
    return checkout.private / f"{topic}.issue"


def _name(link: IssueLink) -> bytes:
    return f"{link.repository}#{link.number}\n".encode()


def _alike(name: str, other: str) -> bool:
    """Whether GitHub takes two names for one repository."""
    return name.lower() == other.lower()
