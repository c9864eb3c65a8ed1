"""Sealing: an annotated tag over a commit of only the relevant files, with a bundle to reproduce the claim from.

Relevant are the logbook with its records, the experiment's code and the bundle; the logbook lies in `.agents/logbooks`
of a tag, wherever else the series keeps it. Where that is in this checkout, and `research/<topic>` is checked out
the commit goes onto it, as `git commit --only` would make it; else it lies beside the branch, upon the commit that was
measured, and only the tag `<topic>/<experiment ID>` holds it. Everything else in index, work tree, stash and refs stays
as it is. Which commit an entry was sealed with is decided once, in the journal; the tag is the receipt here.
"""

from collections.abc import Generator, Iterator
from datetime import UTC, datetime

import msgspec

from research_steps.errors import RepositoryError, ResearchError
from research_steps.files import is_there, write_aside
from research_steps.git import Checkout
from research_steps.journal import series_file
from research_steps.journal.journal import Journal
from research_steps.journal.logbook_place import logbook_of
from research_steps.journal.snapshot import Snapshot
from research_steps.publish.forest import FOREST
from research_steps.publish.logbook.file import lock
from research_steps.publish.logbook.verify import read_files
from research_steps.publish.publisher import Change
from research_steps.records.encoding import Stored
from research_steps.records.model import EntryRecord
from research_steps.records.names import by_hash
from research_steps.records.objects import Pushed, Seal
from research_steps.records.series import HERE, Series
from research_steps.records.times import utc
from research_steps.seal import bundle, bundle_text, contents, tags


class Sealer:
    """Makes the commit and the tag of every seal that was asked for in this series."""

    def __init__(self, checkout: Checkout, journal: Journal, series: Series) -> None:
        self._checkout = checkout
        self._journal = journal
        self._series = series
        self._branch = f"research/{series.topic}"

    def publish(self, entries: Snapshot, final: bool) -> Iterator[Change | str]:
        """Seal what waits for it, and in the last pass make good what is missing of earlier seals."""
        retracted = entries.retracted
        for stored in (entry for entry in entries.in_order if entry.record.step == "seal"):
            # Of what was retracted nothing is to be kept.
            if not retracted & {stored.sha256, *(below.sha256 for below in entries.below(stored))}:
                what = "sealed"
                try:
                    seal = yield from self._seal(stored, final)
                    what = "pushed"
                    if seal is not None:
                        yield from self._push(stored, seal)
                except ResearchError as error:
                    yield f"{stored.record.id} is not {what}: {error}"

    def _seal(self, stored: Stored[EntryRecord], final: bool) -> Generator[Change, None, Seal | None]:
        """Have the tag here; returns what it was sealed as where that was looked at and its commit is here."""
        checkout, journal, id = self._checkout, self._journal, stored.record.id
        if journal.decided(f"seals/{id}", Seal) is not None and not final:
            return None
        # Nobody else appends to the logbook that is committed, or makes the same tag.
        with lock(logbook_of(checkout, self._series.topic)):
            seal = journal.decided(f"seals/{id}", Seal) or self._decide(stored)
            # Who decided may have been killed before the tag was made, and a tag may have been lost since.
            if checkout.commit_of(seal.commit) is None:
                if tags.receipt(checkout, seal.tag).exists():
                    raise RepositoryError(
                        f"it was sealed here with commit {seal.commit}, which is gone from {checkout.root}, perhaps by "
                        "'git gc' before there was a tag: 'git fetch' it from where it was pushed, or 'research retract "
                        f"{id}' and seal again."
                    )
                return None
            yield from self._tag(stored, seal)
            yield from self._put_on_branch(seal)
        return seal

    def _push(self, stored: Stored[EntryRecord], seal: Seal) -> Iterator[Change]:
        """Push the tag where that is allowed, once."""
        checkout, journal, id = self._checkout, self._journal, stored.record.id
        allowed = checkout.is_set("research.push") and checkout.origin() is not None
        if allowed and journal.decided(f"pushed/{id}", Pushed) is None:
            remote = tags.push(checkout, seal.tag, by_hash(id, stored.sha256))
            journal.decide(f"pushed/{id}", Pushed(remote=remote, pushed_at=utc()))
            yield Change(id, f"pushed {seal.tag} to {remote}")

    def _decide(self, stored: Stored[EntryRecord]) -> Seal:
        """The commit of a seal, made here, unless another checkout was faster."""
        checkout, record = self._checkout, stored.record
        known = self._journal.scan(logbook_of(checkout, self._series.topic).records)
        evidence = contents.evidence_of(checkout, self._series, known, record.inputs)
        head = checkout.head()
        # What was measured is in the history of the tag, whatever becomes of the branch.
        # A branch whose logbook lies elsewhere gets none by a seal.
        on_branch = checkout.branch() == self._branch and logbook_of(checkout, self._series.topic).kind == "here"
        onto = head if on_branch and head and checkout.is_ancestor(evidence.commit, head) else None
        commit = self._commit(stored, evidence, onto or evidence.commit)
        tag, host = f"{self._series.topic}/{record.id}", record.provenance.host
        if onto is not None:
            write_aside(tags.waiting(checkout, tag), commit.encode())
        seal = Seal(id=record.id, tag=tag, commit=commit, sealed_at=utc(), host=host)
        decided = self._journal.decide(f"seals/{record.id}", seal)
        if decided == seal:
            write_aside(tags.receipt(checkout, tag), commit.encode())
        return decided

    def _commit(self, stored: Stored[EntryRecord], evidence: contents.SealedEvidence, base: str) -> str:
        checkout, topic, record = self._checkout, self._series.topic, stored.record
        place = logbook_of(checkout, topic)
        code = contents.code_paths(checkout, self._series, evidence.measured)
        logbook = read_files(place)
        missing = [ref.id for ref in evidence.records if ref.sha256 not in logbook.hashes]
        if missing:
            raise RepositoryError(
                f"{', '.join(missing)}, which it rests on, is not beside the logbook in {place.records} yet: "
                f" 'research sync {topic}' appends it, or says why it can't."
            )
        where = f"{HERE}/{topic}"
        # What is being written has a name with a dot in front.
        names = (*(f"{id}.jsonl" for id in logbook.lines), *logbook.bundles, series_file.NAME, FOREST)
        beside = [name for name in names if name[0] != "."]
        # What was measured belongs to it, also where git is told to ignore that; so do the logbook and its records.
        measured = [name for function in evidence.measured for name in function.files]
        in_tree = [f"{where}.md", *(f"{where}/{name}" for name in beside)] if place.kind == "here" else []
        always = (*measured, *in_tree)
        paths = tags.paths_below(checkout, base, code, always)
        files = contents.bundle_files(checkout, self._journal, self._series, stored, evidence, logbook, paths.left_out)
        # No filter of git may change what lies under the hash of its bytes.
        exact = {f"{where}/{name}": data for name, data in logbook.attached.items()}
        if place.kind != "here":
            exact |= {f"{where}.md": logbook.logbook} | {
                f"{where}/{name}": logbook.beside[name] for name in beside if name in logbook.beside
            }
        tree = tags.make_tree(checkout, base, paths, {**exact, **files})
        tags.refuse_secrets(checkout, base, tree, (*code, f"{where}.md"), ", or have git ignore the file")
        message = f"Seal {topic}/{record.id}\n\nThe logbook, its records, the experiment's code and a bundle.\n"
        return tags.make_commit(checkout, tree, base, message, _when(record))

    def _tag(self, stored: Stored[EntryRecord], seal: Seal) -> Iterator[Change]:
        """Make the tag unless it is there. Raises RepositoryError when that name is another commit's."""
        commit = self._checkout.commit_of(f"refs/tags/{seal.tag}")
        if commit is not None and commit != seal.commit:
            raise RepositoryError(
                f"the tag {seal.tag} names {commit[:12]}, and {seal.id} was sealed with {seal.commit}: see who moved "
                f"it; 'git tag --delete {seal.tag}', then 'research sync {self._series.topic}', makes it again."
            )
        if commit is None:
            sealed = bundle.read(self._checkout, seal.tag, seal.commit)
            sealed = msgspec.structs.replace(sealed, recorded=sealed.recorded or bundle_text.recorded(stored.record))
            message = bundle_text.tag_message(sealed, sealed.declared)
            tags.make_tag(self._checkout, sealed, seal.commit, message, _when(stored.record))
            yield Change(seal.id, f"sealed as {seal.tag}")

    def _put_on_branch(self, seal: Seal) -> Iterator[Change]:
        """Move the research branch to the seal's commit where that was made for it here. Once: who takes it back off
        the branch has a reason."""
        checkout, waiting = self._checkout, tags.waiting(self._checkout, seal.tag)
        if not waiting.exists():
            return
        parent, tip = (checkout.commit_of(name) for name in (f"{seal.commit}^", f"refs/heads/{self._branch}"))
        if waiting.read_text() != seal.commit or tip != parent:
            # Another checkout's commit counts, or the branch has gone on since.
            waiting.unlink()
            return
        if checkout.branch() != self._branch or checkout.unfinished():
            return
        for name in tags.changed(checkout, seal.commit):
            path = checkout.root / name
            if name.startswith(f".agents/logbooks/{self._series.topic}/{seal.id}.") and not is_there(path):
                write_aside(path, checkout.file_at(seal.commit, name))
        tags.put_on_branch(checkout, seal.commit, self._branch)
        waiting.unlink()
        yield Change(seal.id, f"committed to {self._branch}")


def _when(record: EntryRecord) -> str:
    """The seal's own time as git takes it, so that sealing twice by accident makes the same commit and tag."""
    return f"{int(datetime.fromisoformat(record.finished_at).astimezone(UTC).timestamp())} +0000"
