"""A logbook in another checkout, committed and pushed there where that is allowed, so that comments can cite it.

`git config research.push true` in that checkout allows it. The commit is of the logbook and of what belongs to it alone,
upon what the remote has, and goes there before the branch here moves to it: so nothing else is pushed, a push that is
refused leaves no commit behind, and whatever differs besides in that work tree stays as it is. What others have pushed
to the logbook meanwhile is put together with what is here.
"""

import os
import shlex
from collections.abc import Iterator
from pathlib import Path

from research_steps.errors import LogbookError, RepositoryError, ResearchError
from research_steps.files import read, write_aside
from research_steps.git import Checkout
from research_steps.journal import series_file
from research_steps.journal.logbook_place import LogbookPlace, logbook_of
from research_steps.journal.snapshot import Snapshot
from research_steps.publish.forest import FOREST
from research_steps.publish.lock import locked
from research_steps.publish.logbook import format as logbook_format
from research_steps.publish.logbook.file import lock
from research_steps.publish.logbook.merge import combine
from research_steps.publish.logbook.verify import read_files
from research_steps.publish.publisher import Change
from research_steps.records.redaction import redact
from research_steps.records.series import Series
from research_steps.records.times import utc
from research_steps.seal import tags

# How often it begins anew because others pushed meanwhile, and how git says that they did.
TRIES = 5
_MOVED = ("fetch first", "non-fast-forward", "cannot lock ref")
# What lies beside every logbook, besides records and what they name.
_BESIDE = (series_file.NAME, FOREST, "background.md", ".gitignore")


class LogbookPush:
    """The surface that hands a series' logbook over to the remote of the checkout which holds it, and first takes what
    the remote has."""

    def __init__(self, checkout: Checkout, series: Series) -> None:
        self._checkout = checkout
        self._series = series
        # The last entries that the remote has.
        self._pushed: set[str] | None = None

    def publish(self, entries: Snapshot, final: bool) -> Iterator[Change | str]:
        """Have the remote hold what the logbook shows."""
        place = logbook_of(self._checkout, self._series.topic)
        if place.kind != "elsewhere" or self._series.private:
            return
        there, data = place.checkout, read(place.path)
        tips = logbook_format.parse(data or b"").tips
        allowed = there.is_set("research.push") and there.origin() is not None
        if not allowed or (tips == self._pushed and not final):
            return
        try:
            if there.ignores(place.path):
                raise RepositoryError("git ignores it there; 'git check-ignore -v' names the rule.")
            with lock(place), locked(there, "logbooks.push", there.root, LogbookError):
                if not data:
                    _up_to_date(place)
                # One that people wrote and nobody adopted is theirs.
                elif logbook_format.is_ours(data) and _handed_over(place):
                    yield Change(place.topic, f"pushed {place.name} to {redact(there.origin() or '')}")
            self._pushed = tips
        except ResearchError as error:
            yield f"The logbook {place.path} is not pushed: {error}"


def _handed_over(place: LogbookPlace) -> bool:
    """Whether the remote lacked anything of it, which it has now. Raises RepositoryError."""
    there = place.checkout
    for _ in range(TRIES):
        commit, branch = _commit(place, _up_to_date(place)), there.branch()
        if commit is None:
            return False
        # Where this is killed once the remote has it, the next one puts it on the branch.
        write_aside(_waiting(there), commit.encode())
        try:
            tags.to_remote(there, "push", "--quiet", "--no-follow-tags", "origin", f"{commit}:refs/heads/{branch}")
        except RepositoryError as error:
            _waiting(there).unlink()
            if not any(sign in str(error) for sign in _MOVED):
                raise
            continue
        _put_on_branch(there)
        return True
    raise RepositoryError(f"others pushed to it {TRIES} times meanwhile; 'research sync {place.topic}' tries again.")


def _up_to_date(place: LogbookPlace) -> str:
    """Have the branch of the checkout be what its remote has, and return that commit."""
    there, branch = place.checkout, place.checkout.branch()
    again, at = f"then 'research sync {place.topic}'", f"git -C {shlex.quote(str(there.root))}"
    if branch is None or (unfinished := there.unfinished()):
        what = "no branch is checked out" if branch is None else f"{unfinished} is unfinished"
        raise RepositoryError(f"{what} in {there.root}: mend that, {again}.")
    ref = f"refs/remotes/origin/{branch}"
    try:
        tags.to_remote(there, "fetch", "--quiet", "--no-tags", "origin", f"+refs/heads/{branch}:{ref}")
    except RepositoryError as error:
        if "couldn't find remote ref" not in str(error):
            raise
        raise RepositoryError(f"origin has no branch {branch} yet: '{at} push origin {branch}', {again}.") from error
    _put_on_branch(there)
    head, remote = there.head(), there.commit_of(ref)
    if head is None or remote is None or not there.is_ancestor(head, remote):
        raise RepositoryError(
            f"{branch} in {there.root} has commits that origin lacks, and they are not ours to push: '{at} push', or "
            f"check out a branch that origin has, {again}."
        )
    _put_together(place, head, remote)
    if there.head() != remote:
        there.quietly("merge", "--quiet", "--ff-only", remote)
    return remote


def _put_together(place: LogbookPlace, head: str, remote: str) -> None:
    """Have the logbook and its records hold what the remote has of them, too, upon what lies in the work tree there."""
    there, name = place.checkout, place.name
    # What was put together by one that was killed before it had written it.
    aside = there.private / f"{place.topic}.merged.md"
    if left := read(aside):
        write_aside(place.path, left)
        aside.unlink()
    ours, base, theirs = read(place.path) or b"", there.file_at(head, name), there.file_at(remote, name)
    links = [{entry.link for entry in logbook_format.parse(side).chain} for side in (theirs, ours)]
    if ours == base or (theirs == base and links[0] <= links[1]):
        return
    merged = combine(there, ours, base, theirs, ours)
    write_aside(aside, merged)
    changed = there.git("diff", "--name-only", "--no-renames", "-z", head, remote, "--", name, name.removesuffix(".md"))
    lines: dict[Path, bytes] = {}
    for path in (there.root / os.fsdecode(file) for file in changed.split(b"\0") if file):
        at = path.relative_to(there.root).as_posix()
        if path.suffix == ".jsonl":
            both = (logbook_format.record_lines(data) for data in (read(path) or b"", there.file_at(remote, at)))
            lines[path] = b"".join(line + b"\n" for line in dict.fromkeys(line for side in both for line in side))
        # As the branch has it, so that git replaces it.
        before = there.file_at(head, at)
        if before:
            write_aside(path, before)
        else:
            path.unlink(missing_ok=True)
    if head != remote:
        there.quietly("merge", "--quiet", "--ff-only", remote)
    for path, data in {**lines, place.path: merged}.items():
        write_aside(path, data)
    aside.unlink()


def _commit(place: LogbookPlace, base: str) -> str | None:
    """A commit of the logbook and what belongs to it upon `base`; None where that has all of it."""
    there, files = place.checkout, read_files(place)
    own = {*(f"{id}.jsonl" for id in files.lines), *files.bundles, *files.attached, *_BESIDE} & files.beside.keys()
    names = sorted((place.name, *((place.records / name).relative_to(there.root).as_posix() for name in own)))
    tree = tags.make_tree(there, base, tags.Paths(tuple(names), (), ()), {})
    if tree == there.git("rev-parse", f"{base}^{{tree}}").decode().strip():
        return None
    tags.refuse_secrets(there, base, tree, names)
    return tags.make_commit(there, tree, base, f"Logbook of {place.topic}\n", utc())


def _put_on_branch(there: Checkout) -> None:
    """Move the branch to the commit that was pushed last, where it still has to."""
    waiting = _waiting(there)
    commit, branch = (read(waiting) or b"").decode(), there.branch()
    if not commit or branch is None:
        return
    remote = there.commit_of(f"refs/remotes/origin/{branch}")
    has_it = remote is not None and there.commit_of(commit) is not None and there.is_ancestor(commit, remote)
    if has_it and there.head() == there.commit_of(f"{commit}^"):
        tags.put_on_branch(there, commit, branch)
    waiting.unlink()


def _waiting(there: Checkout) -> Path:
    return there.private / "logbooks.commit"
