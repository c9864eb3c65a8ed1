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

from research_steps.errors import RepositoryError, UnreadableObject, UsageError
from research_steps.evidence.recomputed import Recomputed, presumed, recompute
from research_steps.files import is_there
from research_steps.git import Checkout
from research_steps.journal.beginnings import never_begun
from research_steps.journal.journal import Journal
from research_steps.journal.logbook_place import logbook_of
from research_steps.journal.snapshot import Snapshot
from research_steps.publish.issue.local_file import IssueFile
from research_steps.publish.logbook import format as logbook_format
from research_steps.publish.logbook.format import Entry, lf
from research_steps.publish.logbook.verify import Files, check, read
from research_steps.records.objects import Seal
from research_steps.records.series import HERE, Series
from research_steps.seal import bundle, tags
from research_steps.seal.sealed_tag import Tag, damage

UNSEEN = (
    "Not to be seen: entries behind the newest anchor (tag or milestone) that were cut off, or written anew together "
    "with their hashes."
)
_SEALED = re.compile(r"(?m)^- Links: [^\n]*?; tag `([^`\n]+)` at `([0-9a-f]{40,64})`;")
# The second line of a comment, behind its marker.
_CHAIN = re.compile(r"\A.*\n<!-- research-steps chain ([0-9a-f]{64}) -->\r?(?:\n|\Z)")
NAMED = 3
# Versions of a logbook that are held in memory at once.
_READ_AT_ONCE = 20


@dataclass(frozen=True)
class Checked:
    """What was checked, and what was found. `tags` and `milestones` are the anchors that count for this logbook. Of the
    claims so many `follow` from their trials, and so many were made `by_older_rule`; `trust` says on whom it rests that
    what was recorded was measured, where that can't be told here."""

    entries: int
    tags: tuple[str, ...]
    milestones: int
    problems: tuple[str, ...]
    notes: tuple[str, ...]
    follow: int
    by_older_rule: int
    trust: tuple[str, ...]


def verify(checkout: Checkout, topic: str, journal: Journal, tag: str | None = None) -> Checked:
    """Hold logbook, records and journal against each other and against the anchors; of the tags, only against `tag`
    where one is named. Raises UsageError when there is no logbook, or no such tag."""
    logbook = _Logbook(checkout, topic, journal)
    anchors = [sealed.name for sealed in logbook.tags(tag) if logbook.hold_tag(sealed, asked=tag is not None)]
    milestones = 0 if tag else logbook.hold_milestones()
    told = logbook.hold_claims()
    problems, notes = (tuple(dict.fromkeys(lines)) for lines in (logbook.problems, logbook.notes))
    entries, trust = len(logbook.files.contents.entries), tuple(logbook.trust())
    counts = told.following, told.by_older_rule
    return Checked(entries, tuple(anchors), milestones, problems, notes, *counts, trust)


def named_commits(files: Files, journal: Journal) -> tuple[dict[str, set[str]], list[str]]:
    """The commits that each tag should name, by the journal and by the entries of seals in the logbook; and what of the
    journal can't be read."""
    seals = list(journal.notes("seals", Seal).values())
    named = [(seal.tag, seal.commit) for seal in seals if isinstance(seal, Seal)]
    for entry in files.contents.entries:
        record = files.records.entries.get(entry.record)
        if record is not None and record.record.step == "seal":
            text = lf(files.logbook[entry.start : entry.end]).decode("utf-8", "replace")
            named += _SEALED.findall(text)[:1]
    sealed: dict[str, set[str]] = {}
    for tag, commit in named:
        sealed.setdefault(tag, set()).add(commit)
    return sealed, [str(seal) for seal in seals if isinstance(seal, UnreadableObject)]


class _Logbook:
    """The logbook of this work tree, what is known of it besides, and what is found by holding it against anchors."""

    def __init__(self, checkout: Checkout, topic: str, journal: Journal) -> None:
        self._checkout, self._topic, self._journal = checkout, topic, journal
        self._head = checkout.head()
        self._place = logbook_of(checkout, topic)
        # Where there is no logbook here, the tags can be held against themselves.
        is_here = is_there(self._place.path) or not checkout.tags(topic)
        self.files = read(checkout, topic) if is_here else Files(topic, b"", {})
        self._chain = {entry.link: entry for entry in self.files.contents.chain}
        self._shown = {entry.record: entry for entry in self.files.contents.entries}
        findings = check(self.files, journal)
        self.problems, self.notes = findings.problems, findings.notes
        if not is_here:
            self.notes.append(f"there is no logbook {self._place.shown}: only what the tags hold was checked")
        # What the tags hold, besides what lies here: their records, and the series by the ID of each seal.
        self._in_tags, self._declared = Snapshot(), dict[str, Series]()
        self._presumed: list[str] = []
        # The commits that each tag should name.
        self._sealed, unreadable = named_commits(self.files, journal)
        self.problems += unreadable

    def tags(self, wanted: str | None) -> Iterator[Tag]:
        """The sealed tags that can be read, each where it should be."""
        present = self._checkout.tags(self._topic)
        # Outside a repository there is none, whatever a store knows.
        known = {*present, *self._sealed} if self._checkout.git_dir is not None else set()
        if wanted is not None and wanted not in known:
            raise UsageError(
                f"There is no tag {wanted!r} of {self._topic} in {self._checkout.root}: expected {self._topic}/ and the "
                f"ID of a seal; 'git tag --list {self._topic}/*' names them, 'git fetch --tags' brings others."
            )
        for name in sorted(known) if wanted is None else [wanted]:
            commit = self._commit_of(name, present.get(name))
            if commit is None:
                continue
            files = tags.files_at(self._checkout, self._topic, commit)
            data = files.beside.get(f"{name.rpartition('/')[2]}.bundle.json")
            if data is None or not files.logbook:
                if wanted or name in self._sealed:
                    why = "is no snapshot, it holds no logbook and bundle"
                    self.problems.append(f"tag {name}: commit {commit[:12]} {why}")
                continue
            try:
                yield Tag(name, commit, files, bundle.decode(name, data))
            except RepositoryError as error:
                self.problems.append(str(error))

    def _commit_of(self, name: str, present: str | None) -> str | None:
        """The commit that was sealed, whatever became of the tag; None when it is not here."""
        named = sorted(self._sealed.get(name, ()))
        if present is None:
            self.notes.append(f"tag {name} is not here; 'git fetch --tags' brings it from where it was pushed")
        elif named and present not in named:
            self.problems.append(
                f"tag {name} names {present[:12]}, but it was sealed as {' and '.join(sha[:12] for sha in named)}: "
                "the tag was moved, or what names it was changed"
            )
        if present in named or not named:
            return present
        return next((commit for commit in named if self._checkout.commit_of(commit)), present)

    def hold_tag(self, tag: Tag, asked: bool) -> bool:
        """Hold the logbook against a tag; whether the tag vouches for all of what it holds."""
        self.problems += damage(self._checkout, tag)
        for stored in tag.files.records.everything:
            self._in_tags.add(stored)
        if tag.bundle is not None:
            self._declared[tag.bundle.id] = tag.bundle.declared
        if not self.files.logbook:
            return True
        strict = asked or self._has_to_hold(tag)
        missing = [entry for entry in tag.files.contents.chain if entry.link not in self._chain]
        lost = [entry for entry in missing if strict or entry.link in self._once_here]
        self.problems += [self._lost(entry, tag) for entry in lost]
        bundle = tag.bundle
        if strict:
            self.problems += self._lost_files(tag)
        elif bundle is not None and bundle.seal.sha256 in self._shown:
            self.problems += self._lost_records(tag, {ref.sha256 for ref in bundle.records})
        if len(lost) < len(missing):
            where = f"on {bundle.branch}" if bundle and bundle.branch else "on another line of history"
            self.notes.append(
                f"tag {tag.name} was sealed {where}; {len(missing) - len(lost)} of its entries are not in this logbook "
                f"as they are there, from {next(entry for entry in missing if entry not in lost).id} on. A merge brings "
                f"them; '--tag {tag.name}' takes them for missing"
            )
        return strict or not missing

    def _has_to_hold(self, tag: Tag) -> bool:
        """Whether what a tag holds has to be in this logbook."""
        if self._is_merged(tag):
            return True
        sealed_here = tags.receipt(self._checkout, tag.name)
        branch = tag.bundle.branch if tag.bundle else None
        mine = sealed_here.is_file() and sealed_here.read_text() == tag.commit
        return mine and branch is not None and branch == self._checkout.branch()

    def _is_merged(self, tag: Tag) -> bool:
        """Whether a tag's commit is in the history of what is checked out."""
        return self._head is not None and self._checkout.is_ancestor(tag.commit, self._head)

    def _lost(self, entry: Entry, tag: Tag) -> str:
        """What became of an entry of a tag that is not in the chain here."""
        now = self._shown.get(entry.record)
        if now is None:
            replaced = any((e.id, e.prev) == (entry.id, entry.prev) for e in self.files.contents.entries)
            how = "was replaced by another one" if replaced else "is missing: it was removed, or the end was cut off"
            return f"{entry.id}, which tag {tag.name} holds with record {entry.record[:12]}, {how}"
        if _text(self.files, now) != _text(tag.files, entry) and not entry.above:
            return f"{entry.id} reads otherwise than in tag {tag.name}: it was edited, and hashes were made to fit"
        return (
            f"{entry.id} follows other entries than in tag {tag.name}: entries before it were changed, added, removed "
            "or reordered, and hashes were made to fit"
        )

    def _lost_files(self, tag: Tag) -> Iterator[str]:
        """What lies beside the logbook, or above its entries, and is not as it was sealed."""
        then, now = (files.logbook[: logbook_format.adopted_end(files.logbook)] for files in (tag.files, self.files))
        if then and lf(then) != lf(now):
            ends = then.count(b"\n") + 1
            yield f"the part that was adopted, which ends at line {ends} in tag {tag.name}, was changed"
        yield from self._lost_records(tag, tag.files.hashes)
        for name, data in {**tag.files.bundles, **tag.files.attached}.items():
            here = self.files.beside.get(name)
            if here is not None and lf(here) != lf(data):
                yield f"{name} is not what it was in tag {tag.name}"
            elif here is None and name in tag.files.bundles and self._is_merged(tag):
                place = f"{HERE}/{self._topic}/{name}"
                yield f"{name}, which tag {tag.name} holds, was removed: 'git checkout {tag.name} {place}' restores it"
            elif here is None and name in tag.files.attached:
                # Git may be told to ignore plots, so that a clone has them in the tag alone.
                self.notes.append(f"{name} is not here; tag {tag.name} holds it")

    def _lost_records(self, tag: Tag, wanted: set[str]) -> Iterator[str]:
        for id, lines in tag.files.lines.items():
            for sha in sorted(wanted & lines.keys() - self.files.hashes):
                yield f"{id}.jsonl: record {sha[:12]}, which tag {tag.name} holds, is missing or was changed"

    def hold_claims(self) -> Recomputed:
        """Make the claims of all entries again from their trials. Where the store does not say how the series is
        declared, the newest seal does."""
        try:
            series = self._journal.declared()
        except UnreadableObject as error:
            self.problems.append(str(error))
            series = None
        if series is None and self._declared:
            series = self._declared[max(self._declared, key=lambda id: int(id.rpartition("-")[2]))]
        here = self._journal.scan(self._place.records)
        known = here.copy()
        for stored in self._in_tags.everything:
            known.add(stored)
        if series is None and (series := presumed(self._topic, known)) is not None:
            better = ", ".join(f"{metric.name} ({metric.direction})" for metric in series.metrics)
            self._presumed.append(
                f"neither store nor seal here declares the series: most of its claims say what is better, {better}"
            )
        judged = here if self.files.logbook else known
        told = recompute(series, known, judged.in_order) if series is not None else Recomputed()
        self.problems += [*told.not_following, *never_begun(self._journal)]
        self.notes += told.unknown
        return told

    def trust(self) -> Iterator[str]:
        """On whom it rests that what the logbook shows was measured, where the store that would tell is not here."""
        yield from self._presumed
        measured = [entry for sha in self._shown if (entry := self.files.records.entries.get(sha)) and entry.record.rows]
        in_store = self._journal.entries().entries
        others = [entry.record.id for entry in measured if entry.sha256 not in in_store]
        if others:
            ids = f"{', '.join(others[:NAMED])}{f' and {len(others) - NAMED} more' if len(others) > NAMED else ''}"
            yield (
                f"the store that {ids} were measured with is not here: that these trials were measured rests on whoever "
                "wrote the repository"
            )

    def hold_milestones(self) -> int:
        """Hold the logbook against the comments of the embedded issue; returns how many name what is here."""
        checked = 0
        issue = IssueFile(self._checkout, self._topic)
        mend = f"'research sync {self._topic}' makes it again from the records"
        self.problems += [f"{what}; {mend}" for what in issue.damage()]
        for comment in issue.comments():
            kind, _, record = comment.marker.partition(" ")
            if kind != "record":
                continue
            chained = _CHAIN.match(comment.body)
            link = chained[1] if chained else ""
            entry, shown = self._chain.get(link), self._shown.get(record)
            where = f"comment {comment.id} of {issue.name}, on {shown.id if shown else 'record ' + record[:12]}"
            checked += 1
            if not link:
                is_here = shown or record in self.files.hashes
                if not is_here and record not in self._journal.entries().entries:
                    self.problems.append(f"{where}: neither the logbook nor the journal holds its record")
            elif entry is not None:
                if entry.record != record:
                    self.problems.append(f"{where}: it names the entry of {entry.id}, which shows another record")
            elif link in self._elsewhere and link not in self._once_here:
                self.notes.append(f"{where}: its entry is in the logbook of a branch that is not merged here")
                checked -= 1
            else:
                how = "it or an entry before it was changed with its hashes" if shown else "it was removed or cut off"
                self.problems.append(f"{where}: its entry {link[:12]} is not in the logbook: {how}, or the comment was")
        return checked

    @cached_property
    def _once_here(self) -> set[str]:
        """The links of every logbook in the history of HEAD: entries that stay, whatever is merged."""
        return self._links("log", "--format=%H", "--full-history", "HEAD", "--", self._place.name)

    @cached_property
    def _elsewhere(self) -> set[str]:
        """The links of the logbooks of branches that are not merged here."""
        return self._links("for-each-ref", "--no-merged=HEAD", "--format=%(objectname)", "refs/heads", "refs/remotes")

    def _links(self, *listing: str) -> set[str]:
        """The links of the logbooks in the commits that a command of git lists."""
        checkout = self._place.checkout
        listed = checkout.git(*listing).decode().split() if checkout.head() else []
        links: set[str] = set()
        for start in range(0, len(listed), _READ_AT_ONCE):
            names = (f"{commit}:{self._place.name}" for commit in listed[start : start + _READ_AT_ONCE])
            for data in tags.blobs(checkout, names):
                links |= {entry.link for entry in logbook_format.parse(data or b"").chain}
        return links


def _text(files: Files, entry: Entry) -> bytes:
    return lf(files.logbook[entry.start : entry.end]).rpartition(b"<!-- research-steps end ")[0]
