"""Versions of the code: what the checkout was at a commit with a patch on it, as a copy that a side of a pair runs from.

Copies lie in the git directory, which belongs to this work tree alone, and go when they were not used for a while.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from research_steps.errors import RepositoryError, UsageError
from research_steps.git import Checkout
from research_steps.journal.journal import Journal
from research_steps.journal.logbook_place import logbook_of
from research_steps.records.model import TrialRecord
from research_steps.trial.code import Code, WorkTree, source_folders, trace_name
from research_steps.trial.trust import Trust

# A copy that was not used for so long is removed (seconds).
KEPT_S = 7 * 86_400.0


def code_at(checkout: Checkout, journal: Journal, name: str, root: Path | str, commit: str, patch: str | None) -> Code:
    """The code of the measure function of this name, whose import root is `root` in the checkout, as it was at a commit
    with a patch on it (its hash, whose bytes the journal has).

    Raises UsageError where that can't be had here or may not run here, or the function was not there.
    """
    Trust(checkout).check_code(commit, patch)
    tree = WorkTree(str(_copied(checkout, journal, commit, patch)), str(checkout.root), commit, patch)
    try:
        return trace_name(name, Path(tree.moved(os.path.realpath(root))), tree)
    except UsageError as error:
        raise UsageError(f"{name} can't be measured as it was at {tree.named}: {error}") from error


def version_named(checkout: Checkout, journal: Journal, name: str) -> tuple[str, str | None]:
    """The commit and patch that a revision of git names, which is trusted by that, or a trial of the series by its ID.
    Raises UsageError."""
    commit = checkout.commit_of(name) if checkout.git_dir is not None else None
    if commit is not None:
        Trust(checkout).add_code((commit, None))
        return commit, None
    trials = [
        stored.record
        for stored in journal.with_id(name, logbook_of(checkout, journal.topic).records).find(name)
        if isinstance(stored.record, TrialRecord)
    ]
    if not trials or trials[-1].provenance.commit is None:
        raise UsageError(
            f"{name!r} names no version of the code: expected a commit, branch or tag of {checkout.root}, or the ID of "
            "a trial that was measured on a commit, such as MOE-HC-031.02."
        )
    source = trials[-1].provenance
    if source.version is None:
        raise UsageError(
            f"The code of {name} can't be measured again, because its patch is not whole: {source.patch_note}."
        )
    return source.version


def differs(code: Code, other: Code) -> bool:
    """Whether the code in the checkout is other code than a version of it: the measure function's, or that of a library
    that people edit beside it."""
    tree = other.tree
    assert tree is not None, "a version lies in a copy"
    return code.digest != other.digest or not all(map(tree.holds, _libraries(code, tree)))


def _copied(checkout: Checkout, journal: Journal, commit: str, patch: str | None) -> Path:
    data = None
    if patch is not None:
        data = journal.patch(patch, logbook_of(checkout, journal.topic).records)
        if data is None:
            raise UsageError(
                f"The patch {patch[:12]} on commit {commit[:12]} is not in {journal.store.url}, so that code can't be "
                "measured again: name the store that it was measured with (--prefix), or measure it anew."
            )
    folder = checkout.private / "versions" / f"{commit[:16]}-{(patch or 'committed')[:16]}"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_unused(folder.parent)
        making = Path(tempfile.mkdtemp(prefix="making-", dir=folder.parent))
        try:
            checkout.export(commit, data, making)
            with suppress(OSError):
                # Unless somebody else was faster.
                making.rename(folder)
        except RepositoryError as error:
            raise UsageError(
                f"The code of commit {commit[:12]} can't be had here ({error}): fetch its branch, or measure against "
                "another commit with --against."
            ) from error
        finally:
            shutil.rmtree(making, ignore_errors=True)
    os.utime(folder)
    return folder


def _remove_unused(versions: Path) -> None:
    for folder in versions.iterdir():
        with suppress(OSError):
            if folder.stat().st_mtime < time.time() - KEPT_S:
                shutil.rmtree(folder, ignore_errors=True)


def _libraries(code: Code, tree: WorkTree) -> Iterator[str]:
    """The modules of packages that are installed from the checkout to be edited, by the paths that they have there, as
    far as the copy has them."""
    for folder in source_folders(Path(tree.of)):
        if folder == os.path.realpath(code.root):
            continue
        copy = Path(tree.moved(folder))
        for path in copy.rglob("*.py"):
            if "research_steps" not in path.relative_to(copy).parts[:1]:
                yield str(Path(folder, path.relative_to(copy)))
