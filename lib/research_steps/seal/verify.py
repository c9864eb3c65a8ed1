"""Whether the logbook is still the one that was anchored: held against sealed tags and posted milestones.

The logbook's entries vouch for those before them, and nothing in the file for its end: who cuts it off, or writes the
chain anew from an edit on, leaves a logbook that agrees with itself. An anchor is what lies elsewhere and names entries
by their links. A tag holds the logbook as it was sealed, with its records and files; its own commit is named by the
journal and by the seal's entry. A milestone's comment names its record and the link of its entry.

An anchor of another line of history, such as a branch that is not merged, tells nothing about this one. So what it
names may be missing here, unless it is known to have been here: because this branch of this work tree was sealed, the
tag's commit is in the history of HEAD, or the logbook in that history held the entry. What is missing else is a note.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from research_steps.errors import UnreadableObject, UsageError
from research_steps.git import Checkout
from research_steps.journal.journal import Journal
from research_steps.publish.issue.local_file import IssueFile
from research_steps.publish.logbook import format as logbook_format
from research_steps.publish.logbook.format import Entry
from research_steps.publish.logbook.verify import Files, Findings, check, lf, read
from research_steps.records.objects import Seal
from research_steps.seal import tags as tagged

UNSEEN = (
    "Not to be seen: entries behind the newest anchor (tag or milestone) that were cut off, or written anew together "
    "with their hashes."
)
_SEALED = re.compile(rb"(?m)^- Links: [^\n]*?; tag `(?P<tag>[^`\n]+)` at `(?P<commit>[0-9a-f]{40,64})`;")
_COMMENT = re.compile(
    r"\A<!-- research-steps record (?P<record>[0-9a-f]{64}) -->\r?(?:\n|\Z)"
    r"(?:<!-- research-steps chain (?P<link>[0-9a-f]{64}) -->\r?(?:\n|\Z))?"
)
# Versions of a logbook that are held in memory at once.
_READ_AT_ONCE = 20


@dataclass(frozen=True)
class Checked:
    """What was checked, and what was found. `tags` and `milestones` are the anchors that count for this logbook."""

    entries: int
    tags: tuple[str, ...]
    milestones: int
    problems: tuple[str, ...]
    notes: tuple[str, ...]


def verify(checkout: Checkout, topic: str, journal: Journal | None, tag: str | None = None) -> Checked:
    """Hold logbook, records and journal against each other and against the anchors; of the tags, only against `tag`
    where one is named. Raises UsageError when there is no logbook, or no such tag."""
    files = read(checkout, topic)
    found = check(files, journal)
    here = _Here(checkout, topic, files, journal)
    found.problems += here.unreadable
    tags: list[str] = []
    for one in here.tags(found, tag):
        found.problems += tagged.damage(one, topic)
        if _hold(here, one, found, asked=tag is not None):
            tags.append(one.name)
    milestones = 0 if tag else _hold_milestones(here, found)
    problems, notes = (tuple(dict.fromkeys(told)) for told in (found.problems, found.notes))
    return Checked(len(files.contents.entries), tuple(tags), milestones, problems, notes)


class _Here:
    """The logbook of this work tree, and what is known of it besides."""

    def __init__(self, checkout: Checkout, topic: str, files: Files, journal: Journal | None) -> None:
        self.checkout, self.topic, self.files = checkout, topic, files
        self.chain = {entry.link: entry for entry in files.contents.chain}
        self.showing = {entry.record: entry for entry in files.contents.entries}
        self._journal = journal
        self._path = f".agents/logbooks/{topic}.md"

    @cached_property
    def seals(self) -> dict[str, set[str]]:
        """The commits that each tag should name, by the journal and the entries of seals in the logbook."""
        named: dict[str, set[str]] = {}
        for seal in self._noted:
            if isinstance(seal, Seal):
                named.setdefault(seal.tag, set()).add(seal.commit)
        for entry in self.files.contents.entries:
            record = self.files.records.entries.get(entry.record)
            text = self.files.logbook[entry.start : entry.end].replace(b"\r\n", b"\n")
            if record is not None and record.record.step == "seal" and (match := _SEALED.search(text)):
                named.setdefault(match["tag"].decode("utf-8", "replace"), set()).add(match["commit"].decode())
        return named

    @cached_property
    def unreadable(self) -> list[str]:
        """The seals of the store that are broken."""
        return [str(seal) for seal in self._noted if isinstance(seal, UnreadableObject)]

    @cached_property
    def _noted(self) -> list[Seal | UnreadableObject]:
        return list(self._journal.notes("seals", Seal).values()) if self._journal else []

    @cached_property
    def in_journal(self) -> set[str]:
        return set(self._journal.entries().entries) if self._journal else set()

    def tags(self, found: Findings, wanted: str | None) -> Iterator[tagged.Tag]:
        """The sealed tags, each where it should be; what is wrong with where one is goes to `found`."""
        present = self.checkout.tags(self.topic)
        # Outside a repository there is none, whatever a store knows.
        known = {*present, *self.seals} if self.checkout.git_dir is not None else set()
        if wanted is not None and wanted not in known:
            raise UsageError(
                f"There is no tag {wanted!r} of {self.topic} in {self.checkout.root}: expected {self.topic}/ and the ID "
                f"of a seal; 'git tag --list {self.topic}/*' names them, 'git fetch --tags' brings others."
            )
        for name in sorted(known) if wanted is None else [wanted]:
            commit = self._commit_of(name, present.get(name), found)
            tag = tagged.read(self.checkout, self.topic, name, commit) if commit else None
            if isinstance(tag, tagged.Tag):
                yield tag
            elif tag is not None:
                found.problems.append(f"tag {name}: {tag}")
            elif commit and (wanted or name in self.seals):
                found.problems.append(f"tag {name}: commit {commit[:12]} is no snapshot, it holds no logbook and bundle")

    def _commit_of(self, name: str, present: str | None, found: Findings) -> str | None:
        """The commit that was sealed, whatever became of the tag; None when it is not here."""
        named = sorted(self.seals.get(name, ()))
        if present is None:
            found.notes.append(f"tag {name} is not here; 'git fetch --tags' brings it from where it was pushed")
        elif named and present not in named:
            found.problems.append(
                f"tag {name} names {present[:12]}, but it was sealed as {' and '.join(one[:12] for one in named)}: "
                "the tag was moved, or what names it was changed"
            )
        if present in named or not named:
            return present
        return next((one for one in named if self.checkout.commit_of(one)), present)

    def vouched_by(self, tag: tagged.Tag) -> bool:
        """Whether what a tag holds has to be in this logbook."""
        head = self.checkout.head()
        if head is not None and self.checkout.is_ancestor(tag.commit, head):
            return True
        branch = tag.bundle.branch if tag.bundle else None
        sealed = tagged.receipt(self.checkout, self.topic, tag.id)
        mine = sealed.is_file() and sealed.read_text() == tag.commit
        return mine and branch is not None and branch == self.checkout.branch()

    def shows(self, record: str) -> bool:
        return record in self.showing

    @cached_property
    def once_here(self) -> set[str]:
        """The links of every logbook in the history of HEAD: entries that stay, whatever is merged."""
        head = self.checkout.head()
        if head is None:
            return set()
        listed = self.checkout.git("log", "--format=%H", "--full-history", head, "--", self._path).decode().split()
        return self._links(listed)

    @cached_property
    def elsewhere(self) -> set[str]:
        """The links of the logbooks of branches that are not merged here."""
        if self.checkout.head() is None:
            return set()
        listed = ("for-each-ref", "--no-merged=HEAD", "--format=%(objectname)", "refs/heads", "refs/remotes")
        return self._links(self.checkout.git(*listed).decode().split())

    def _links(self, commits: list[str]) -> set[str]:
        found: set[str] = set()
        for start in range(0, len(commits), _READ_AT_ONCE):
            names = [f"{commit}:{self._path}" for commit in commits[start : start + _READ_AT_ONCE]]
            for data in tagged.blobs(self.checkout, names):
                found |= {entry.link for entry in logbook_format.parse(data or b"").chain}
        return found


def _hold(here: _Here, tag: tagged.Tag, found: Findings, asked: bool) -> bool:
    """Hold the logbook against a tag; whether the tag vouches for all of what it holds."""
    strict = asked or here.vouched_by(tag)
    missing = [entry for entry in tag.files.contents.chain if entry.link not in here.chain]
    gone = [entry for entry in missing if strict or entry.link in here.once_here]
    found.problems += [_missing(here, entry, tag) for entry in gone]
    bundle = tag.bundle
    if strict:
        found.problems += _lost_files(here, tag, found)
    elif bundle is not None and here.shows(bundle.seal.sha256):
        found.problems += _lost_records(here, tag, {ref.sha256 for ref in bundle.records})
    if len(gone) < len(missing):
        where = f"on {bundle.branch}" if bundle and bundle.branch else "on another line of history"
        found.notes.append(
            f"tag {tag.name} was sealed {where}; {len(missing) - len(gone)} of its entries are not in this logbook as "
            f"they are there, from {next(one for one in missing if one not in gone).id} on. A merge brings them; "
            f"'--tag {tag.name}' takes them for missing"
        )
    return strict or not missing


def _missing(here: _Here, entry: Entry, tag: tagged.Tag) -> str:
    now = here.showing.get(entry.record)
    if now is None:
        same = next((one for one in here.files.contents.entries if one.id == entry.id and one.prev == entry.prev), None)
        how = "was replaced by another one" if same else "is missing: it was removed, or the end was cut off"
        return f"{entry.id}, which tag {tag.name} holds with record {entry.record[:12]}, {how}"
    if _text(here.files, now) != _text(tag.files, entry) and not entry.above:
        return f"{entry.id} reads otherwise than in tag {tag.name}: it was edited, and hashes were made to fit"
    return (
        f"{entry.id} follows other entries than in tag {tag.name}: entries before it were changed, added, removed or "
        "reordered, and hashes were made to fit"
    )


def _text(files: Files, entry: Entry) -> bytes:
    return lf(files.logbook[entry.start : entry.end]).rpartition(b"<!-- research-steps end ")[0]


def _lost_files(here: _Here, tag: tagged.Tag, found: Findings) -> Iterator[str]:
    """What lies beside the logbook, or above its entries, and is not as it was sealed."""
    adopted = [files.logbook[: logbook_format.adopted_end(files.logbook)] for files in (tag.files, here.files)]
    if adopted[0] and lf(adopted[0]) != lf(adopted[1]):
        yield f"the part that was adopted, which ends at line {_lines(adopted[0])} in tag {tag.name}, was changed"
    yield from _lost_records(here, tag, tag.files.hashes)
    for name, data in tag.files.bundles.items():
        if lf(here.files.bundles.get(name, data)) != lf(data):
            yield f"{name} is not what it was in tag {tag.name}"
    for name, data in tag.files.attached.items():
        now = here.files.attached.get(name)
        if now is not None and lf(now) != lf(data):
            yield f"{name} is not what it was in tag {tag.name}"
        elif now is None:
            # Git may be told to ignore plots, so that a clone has them in the tag alone.
            found.notes.append(f"{name} is not here; tag {tag.name} holds it")


def _lost_records(here: _Here, tag: tagged.Tag, wanted: set[str]) -> Iterator[str]:
    for id, held in tag.files.lines.items():
        for sha in sorted(wanted & held.keys() - here.files.hashes):
            yield f"{id}.jsonl: record {sha[:12]}, which tag {tag.name} holds, is missing or was changed"


def _hold_milestones(here: _Here, found: Findings) -> int:
    """Hold the logbook against the comments of the embedded issue; returns how many name what is here."""
    checked = 0
    issue = IssueFile(here.checkout, here.topic)
    for comment in issue.comments():
        match = _COMMENT.match(comment.body)
        if match is None:
            continue
        record, link = match["record"], match["link"]
        entry, shown = here.chain.get(link or ""), here.showing.get(record)
        told = f"comment {comment.id} of {issue.name}, on {shown.id if shown else 'record ' + record[:12]}"
        checked += 1
        if entry is not None and entry.record == record:
            continue
        if link is None and not (shown or record in here.files.hashes or record in here.in_journal):
            found.problems.append(f"{told}: neither the logbook nor the journal holds its record")
        elif link is not None and entry is not None:
            found.problems.append(f"{told}: it names the entry of {entry.id}, which shows another record")
        elif link is not None and link in here.elsewhere and link not in here.once_here:
            found.notes.append(f"{told}: its entry is in the logbook of a branch that is not merged here")
            checked -= 1
        elif link is not None:
            how = "it or an entry before it was changed with its hashes" if shown else "it was removed or cut off"
            found.problems.append(f"{told}: its entry {link[:12]} is not in the logbook: {how}, or the comment was")
    return checked


def _lines(data: bytes) -> int:
    return data.count(b"\n") + 1
