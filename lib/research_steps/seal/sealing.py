"""Sealing: an annotated tag over a commit of only the relevant files, with a bundle to reproduce the claim from.

Relevant are the logbook with its records, the experiment's code and the bundle. Where `research/<topic>` is checked out
the commit goes onto it, as `git commit --only` would make it; else it lies beside the branch, upon the commit that was
measured, and only the tag `<topic>/<experiment ID>` holds it. Everything else in index, work tree, stash and refs stays
as it is. Which commit an entry was sealed with is decided once, in the journal; the tag is the receipt here.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from research_steps.errors import RepositoryError, ResearchError
from research_steps.files import write_aside
from research_steps.git import Checkout
from research_steps.journal.journal import Journal
from research_steps.journal.snapshot import Snapshot
from research_steps.publish.logbook.disk import lock
from research_steps.publish.surface import Change, Published
from research_steps.records.encoding import Stored
from research_steps.records.model import EntryRecord, Ref
from research_steps.records.objects import Pushed, Seal
from research_steps.records.series import Series
from research_steps.records.times import utc
from research_steps.seal import commits, contents
from research_steps.seal import text as seal_text
from research_steps.seal.bundle import read_at
from research_steps.seal.pushing import may_push, push
from research_steps.seal.tags import receipt

BRANCH = "research/"
PRIVATE = "what is private is not sealed, because a tag is pushed with others. It stays in the store."


class Sealer:
    """Makes the commit and the tag of every seal that was asked for in this series."""

    def __init__(self, checkout: Checkout, journal: Journal, series: Series) -> None:
        self._checkout = checkout
        self._journal = journal
        self._series = series

    def publish(self, entries: Snapshot, final: bool) -> Published:
        """Seal what waits for it, and in the last pass make good what is missing of earlier seals."""
        done: list[Change] = []
        problems: list[str] = []
        gone = entries.retracted
        for stored in entries.entries.values():
            if stored.record.step != "seal" or stored.record.late:
                continue
            # Of what was retracted nothing is to be kept.
            if not gone & {stored.sha256, *(below.sha256 for below in entries.below(stored))}:
                try:
                    done += self._seal(stored, final)
                except ResearchError as error:
                    problems.append(f"{stored.record.id} is not sealed: {error}")
        return Published(tuple(done), tuple(problems))

    def _seal(self, stored: Stored[EntryRecord], final: bool) -> Iterator[Change]:
        seal = self._journal.decided(f"seals/{stored.record.id}", Seal)
        if seal is not None and not final:
            return
        # Nobody else appends to the logbook that is committed, or makes the same tag.
        with lock(self._checkout, self._series.topic):
            seal = self._journal.decided(f"seals/{stored.record.id}", Seal) or self._decide(stored)
            # Who decided may have been killed before the tag was made, and a tag may have been lost since.
            if self._checkout.commit_of(seal.commit) is None:
                self._refuse_lost(seal)
                return
            if self._tag(stored, seal):
                yield Change(stored.record.id, f"sealed as {seal.tag}")
            if self._put_on_branch(seal):
                yield Change(stored.record.id, f"committed to {BRANCH}{self._series.topic}")
        if may_push(self._checkout) and self._journal.decided(f"pushed/{seal.id}", Pushed) is None:
            remote = push(self._checkout, seal.tag)
            made = Pushed(remote=remote, pushed_at=utc())
            self._journal.decide(f"pushed/{seal.id}", made)
            yield Change(stored.record.id, f"pushed {seal.tag} to {remote}")

    def _decide(self, stored: Stored[EntryRecord]) -> Seal:
        known = self._journal.scan(self._checkout.logbooks / self._series.topic)
        evidence = evidence_of(self._checkout, self._series, known, stored.record.inputs)
        head = self._checkout.head()
        # What was measured is in the history of the tag, whatever becomes of the branch.
        branch = head if head and self._is_on_branch() and self._checkout.is_ancestor(evidence.commit, head) else None
        commit = self._commit(stored, evidence, branch or evidence.commit)
        if branch is not None:
            write_aside(self._waiting(stored.record.id), commit.encode())
        made = Seal(
            id=stored.record.id,
            tag=_tag_of(stored),
            commit=commit,
            sealed_at=utc(),
            host=stored.record.provenance.host,
        )
        decided = self._journal.decide(f"seals/{stored.record.id}", made)
        if decided == made:
            write_aside(receipt(self._checkout, self._series.topic, made.id), commit.encode())
        return decided

    def _refuse_lost(self, seal: Seal) -> None:
        """Raise RepositoryError where the commit was made in this work tree, and nothing has kept it."""
        if receipt(self._checkout, self._series.topic, seal.id).exists():
            raise RepositoryError(
                f"it was sealed here with commit {seal.commit}, which is gone from {self._checkout.root}, perhaps by "
                "'git gc' before there was a tag: 'git fetch' it from where it was pushed, or 'research retract "
                f"{seal.id}' and seal again."
            )

    def _commit(self, stored: Stored[EntryRecord], evidence: contents.SealedEvidence, base: str) -> str:
        checkout, topic = self._checkout, self._series.topic
        code = contents.code_paths(checkout, self._series, evidence)
        # What was measured belongs to it, also where git is told to ignore that; so do the logbook and its records.
        measured = [name for one in evidence.measured for name in one.files]
        logbook = contents.logbook(checkout, topic, evidence)
        paths = commits.paths_below(checkout, base, code, (*measured, *logbook.names))
        bundle = contents.bundle(checkout, self._journal, self._series, stored, evidence, paths.left_out)
        tree = commits.make_tree(checkout, base, paths, {**logbook.exact, **bundle})
        commits.refuse_secrets(checkout, base, tree, (*code, f".agents/logbooks/{topic}.md"))
        # The seal's own time, so that sealing twice by accident makes the same commit.
        when = f"{int(datetime.fromisoformat(stored.record.finished_at).astimezone(UTC).timestamp())} +0000"
        message = f"Seal {_tag_of(stored)}\n\nThe logbook, its records, the experiment's code and a bundle.\n"
        return commits.make_commit(checkout, tree, base, message, when, _identity(checkout))

    def _tag(self, stored: Stored[EntryRecord], seal: Seal) -> bool:
        """Make the tag unless it is there. Raises RepositoryError when that name is another commit's."""
        found = self._checkout.commit_of(f"refs/tags/{seal.tag}")
        if found is not None and found != seal.commit:
            raise RepositoryError(
                f"the tag {seal.tag} names {found[:12]}, and {seal.id} was sealed with {seal.commit}: see who moved it; "
                f"'git tag --delete {seal.tag}', then 'research sync {self._series.topic}', makes it again."
            )
        if found is None:
            message = seal_text.tag_message(stored, read_at(self._checkout, seal.commit, seal.tag), self._series)
            commits.make_tag(self._checkout, seal.tag, seal.commit, message, _identity(self._checkout))
        return found is None

    def _put_on_branch(self, seal: Seal) -> bool:
        """Move the research branch to the seal's commit where that was made for it here. Once: who takes it back off
        the branch has a reason."""
        checkout, branch, waiting = self._checkout, f"{BRANCH}{self._series.topic}", self._waiting(seal.id)
        if not waiting.exists():
            return False
        parent = checkout.commit_of(f"{seal.commit}^")
        if waiting.read_text() != seal.commit or checkout.commit_of(f"refs/heads/{branch}") != parent:
            # Another checkout's commit counts, or the branch has gone on since.
            waiting.unlink()
            return False
        if not self._is_on_branch() or checkout.unfinished():
            return False
        names = commits.changed(checkout, seal.commit)
        bundle = [name for name in names if name.startswith(f".agents/logbooks/{self._series.topic}/{seal.id}.")]
        for name in bundle:
            if not (checkout.root / name).exists():
                write_aside(checkout.root / name, checkout.file_at(seal.commit, name))
        commits.put_on_branch(checkout, seal.commit, branch, names)
        waiting.unlink()
        return True

    def _waiting(self, id: str) -> Path:
        """Holds the commit that is to be put on the research branch of this work tree, until it is."""
        return self._checkout.private / f"{self._series.topic}.{id}.commit"

    def _is_on_branch(self) -> bool:
        return self._checkout.branch() == f"{BRANCH}{self._series.topic}"


def evidence_of(checkout: Checkout, series: Series, known: Snapshot, inputs: Sequence[Ref]) -> contents.SealedEvidence:
    """What a seal with these inputs rests on. Raises RepositoryError when that, or this checkout, can't be sealed."""
    if series.private or any(known.is_private(ref.id) for ref in inputs):
        raise RepositoryError(PRIVATE)
    if checkout.head() is None:
        what = "no commit to build on" if checkout.git_dir else "no git repository"
        raise RepositoryError(
            f"{checkout.root} has {what}, so nobody could find what was measured there. Commit the thread's files, run "
            "the thread again, and seal that."
        )
    commits.refuse_unfinished(checkout)
    return contents.evidence(checkout, series, known, inputs)


def _tag_of(stored: Stored[EntryRecord]) -> str:
    return f"{stored.record.series}/{stored.record.id}"


def _identity(checkout: Checkout) -> Mapping[str, str]:
    """An identity for git where the user has set none: sealing must not fail for that."""
    if checkout.user() is not None:
        return {}
    name = os.environ.get("GIT_AUTHOR_NAME", "research-steps")
    email = os.environ.get("GIT_AUTHOR_EMAIL", "research-steps@localhost")
    return {
        "GIT_AUTHOR_NAME": name,
        "GIT_AUTHOR_EMAIL": email,
        "GIT_COMMITTER_NAME": name,
        "GIT_COMMITTER_EMAIL": email,
    }
