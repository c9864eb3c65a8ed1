"""A logbook in another checkout, committed and pushed there where that is allowed, so that comments can cite it.

`git config research.push true` in that checkout allows it. The commit is of the logbook and what lies beside it alone,
upon what the remote has, and goes there before the branch here moves to it: so nothing else is pushed, a push that is
refused leaves no commit behind, and whatever differs besides in that work tree stays as it is.
"""

from collections.abc import Iterator
from pathlib import Path

from research_steps.errors import LogbookError, RepositoryError, ResearchError
from research_steps.files import files_in, is_there, read, write_aside
from research_steps.git import Checkout
from research_steps.journal.logbook_place import LogbookPlace, logbook_of
from research_steps.journal.snapshot import Snapshot
from research_steps.publish.lock import locked
from research_steps.publish.logbook.file import lock
from research_steps.publish.logbook.format import parse
from research_steps.publish.publisher import Change
from research_steps.records.redaction import redact
from research_steps.records.series import Series
from research_steps.records.times import utc
from research_steps.seal import tags

# How often it begins anew because others pushed meanwhile.
TRIES = 5
_MOVED = ("fetch first", "non-fast-forward", "cannot lock ref")


class LogbookPush:
    """The surface that hands a series' logbook over to the remote of the checkout which holds it."""

    def __init__(self, checkout: Checkout, series: Series) -> None:
        self._checkout = checkout
        self._series = series
        # The last entries that the remote has.
        self._pushed: set[str] | None = None

    def publish(self, entries: Snapshot, final: bool) -> Iterator[Change | str]:
        """Have the remote hold what the logbook shows."""
        place = logbook_of(self._checkout, self._series.topic)
        if place.kind != "elsewhere" or self._series.private or not is_there(place.path):
            return
        there = place.checkout
        tips = parse(read(place.path) or b"").tips
        allowed = there.is_set("research.push") and there.origin() is not None
        if not allowed or (tips == self._pushed and not final):
            return
        try:
            with lock(place), locked(there, "logbooks.push", there.root, LogbookError):
                if _handed_over(place):
                    yield Change(place.topic, f"pushed {place.name} to {redact(there.origin() or '')}")
            self._pushed = tips
        except ResearchError as error:
            yield f"The logbook {place.path} is not pushed: {error}"


def _handed_over(place: LogbookPlace) -> bool:
    """Whether the remote lacked anything of it, which it has now. Raises RepositoryError."""
    for left in reversed(range(TRIES)):
        base = _up_to_date(place)
        commit = _commit(place, base)
        if commit is None:
            return False
        there, branch = place.checkout, place.checkout.branch()
        # Where this is killed once the remote has it, the next one puts it on the branch.
        write_aside(_waiting(there), commit.encode())
        try:
            tags.to_remote(there, "push", "--quiet", "--no-follow-tags", "origin", f"{commit}:refs/heads/{branch}")
        except RepositoryError as error:
            _waiting(there).unlink()
            if left and any(sign in str(error) for sign in _MOVED):
                continue
            raise
        _put_on_branch(there)
        return True
    raise RepositoryError(f"others pushed to it {TRIES} times meanwhile; 'research sync {place.topic}' tries again.")


def _up_to_date(place: LogbookPlace) -> str:
    """Have the branch of the checkout be what its remote has, and return that commit."""
    there, branch = place.checkout, place.checkout.branch()
    if branch is None or (unfinished := there.unfinished()):
        what = "no branch is checked out" if branch is None else f"{unfinished} is unfinished"
        raise RepositoryError(f"{what} in {there.root}; mend that, then 'research sync {place.topic}'.")
    tags.to_remote(
        there, "fetch", "--quiet", "--no-tags", "origin", f"+refs/heads/{branch}:refs/remotes/origin/{branch}"
    )
    _put_on_branch(there)
    head, remote = there.head(), there.commit_of(f"refs/remotes/origin/{branch}")
    if head is None or remote is None or not there.is_ancestor(head, remote):
        raise RepositoryError(
            f"{branch} in {there.root} has commits that origin lacks, and they are not ours to push: 'git push' there, "
            f"or check out a branch that origin has; then 'research sync {place.topic}'."
        )
    if head != remote:
        try:
            there.quietly("merge", "--quiet", "--ff-only", remote)
        except RepositoryError as error:
            raise RepositoryError(
                f"origin has commits that {there.root} can't take as it is ({error}). Commit the logbook there and 'git "
                f"-C {there.root} pull', then 'research sync {place.topic}' puts both sides together."
            ) from error
    return remote


def _commit(place: LogbookPlace, base: str) -> str | None:
    """A commit of the logbook and all beside it upon `base`; None where it has all of that."""
    there, folder = place.checkout, place.path.parent
    found = [place.path, *files_in(place.records), *files_in(place.records / "attachments")]
    found += [ignoring] if is_there(ignoring := folder / ".gitignore") else []
    names = [path.relative_to(there.root).as_posix() for path in found if path == ignoring or path.name[0] != "."]
    before, now = (parse(data).chain for data in (there.file_at(base, place.name), read(place.path) or b""))
    if {entry.link for entry in before} - {entry.link for entry in now}:
        raise RepositoryError(
            f"origin has entries of it that {place.path} lacks: 'git -C {there.root} checkout {base[:12]} -- "
            f"{place.name}', then 'research sync {place.topic}' appends what is missing there."
        )
    tree = tags.make_tree(there, base, tags.Paths(tuple(sorted(names)), (), ()), {})
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
