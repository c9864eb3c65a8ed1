"""Where the logbook of a series lies, with its records beside it: in this checkout, in another one, or out of sight.

The thread says which, `Series(logbook=…)`. Who runs it here has that noted in the git directory, and where another
checkout lies elsewhere than the thread says, who says so: nothing else names a place to read or write, neither store nor
records. A logbook in another checkout is named after its issue and topic, '2917-moe_hc.md'. Where a series has none,
what every surface rests on is kept in the git directory. A logbook stays where it was begun.
"""

import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from research_steps.errors import RepositoryError, UnreadableObject, UsageError
from research_steps.files import files_in, is_there, read, refuse_links, write_aside
from research_steps.git import Checkout
from research_steps.journal import series_file
from research_steps.records.encoding import canonical
from research_steps.records.series import HERE, Series


@dataclass(frozen=True)
class LogbookPlace:
    """The logbook of a series: its `path`, below the root of the `checkout` that holds it."""

    topic: str
    checkout: Checkout
    path: Path
    kind: Literal["here", "elsewhere", "none"] = "here"

    @property
    def records(self) -> Path:
        """The folder of what is published beside it."""
        return self.path.with_suffix("")

    @property
    def beside(self) -> str:
        """How links in it lead to that."""
        return f"{self.records.name}/"

    @property
    def name(self) -> str:
        """The path as git names it in its checkout."""
        return self.path.relative_to(self.checkout.root).as_posix()

    @property
    def shown(self) -> str:
        """How a person finds it."""
        return self.name if self.kind == "here" else str(self.path)

    @property
    def pushed(self) -> str | None:
        """The commit that its remote was last seen to have; None where there is none, or it has no business there."""
        if self.kind == "here":
            return self.checkout.pushed()
        branch = self.checkout.branch() if self.kind == "elsewhere" else None
        return self.checkout.commit_of(f"refs/remotes/origin/{branch}") if branch else None


class _Note(msgspec.Struct, frozen=True):
    """What is noted: the policy as the thread `declared` it; the folder, where a person `said` that it is another one;
    and the name of the file once it was begun."""

    declared: str | None
    said: str = ""
    name: str = ""


def logbook_of(checkout: Checkout, topic: str) -> LogbookPlace:
    """Where the logbook of a series is, or will be. Raises RepositoryError where its checkout isn't there, or its note
    can't be read, and UsageError where several could be it."""
    noted = _noted(checkout, topic)
    return LogbookPlace(topic, checkout, _here(checkout, topic)) if noted is None else _place(checkout, topic, noted)


def settle(checkout: Checkout, series: Series) -> None:
    """Note where a thread that is run here has its logbook. Raises UsageError where that was begun at another place."""
    topic, noted = series.topic, _noted(checkout, series.topic)
    before = noted.declared if noted else HERE
    if before == series.logbook:
        return
    begun = _here(checkout, topic) if noted is None else _begun(checkout, topic, noted)
    if begun is not None and is_there(begun):
        raise UsageError(
            f"The thread of {topic} says logbook={series.logbook!r}, and its logbook was begun in {begun}: it stays "
            f"there, because tags and comments name its entries. Say logbook={before!r} in the thread, or start a "
            "series of another topic."
        )
    if series.logbook == HERE:
        _path(checkout, topic).unlink()
    else:
        _note(checkout, topic, _Note(series.logbook))


def point_to(checkout: Checkout, series: Series, place: Path, dry_run: bool = False) -> None:
    """Note where the logbook that a thread keeps in another checkout lies here, unless this is a `dry_run`: the folder,
    or the file itself. Raises UsageError and RepositoryError."""
    topic = series.topic
    if series.logbook in (HERE, None):
        kept = "in this checkout" if series.logbook else "nowhere"
        raise UsageError(
            f"The thread of {topic} keeps its logbook {kept}: expected one with Series(logbook=…) of another checkout. "
            "Say it there, and run the thread."
        )
    folder, name = (place.parent, place.name) if place.suffix == ".md" else (place, "")
    if name and not _is_named(name, topic):
        raise UsageError(f"{place} is no logbook of {topic}: expected a file named {topic}.md, or NUMBER-{topic}.md.")
    note = _Note(series.logbook, os.path.abspath(folder), name)
    _place(checkout, topic, note)
    if not dry_run:
        _note(checkout, topic, note)


def named(checkout: Checkout, topic: str, issue: int | None) -> LogbookPlace | None:
    """The place of a logbook that can be written to by now: in another checkout it has the name of the file that is
    there, else one after its issue, 0 for a series that has none for good. None while that isn't known."""
    place, noted = logbook_of(checkout, topic), _noted(checkout, topic)
    if noted is None or noted.name or place.kind != "elsewhere":
        return place
    if issue is None and not is_there(place.path):
        return None
    name = place.path.name if is_there(place.path) or not issue else f"{issue}-{topic}.md"
    _note(checkout, topic, msgspec.structs.replace(noted, name=name))
    return logbook_of(checkout, topic)


def topics_elsewhere(checkout: Checkout) -> list[str]:
    """The series whose logbooks are noted to lie elsewhere than in this checkout."""
    return [path.name for path in files_in(checkout.private / "logbook-places") if path.name[0] != "."]


def _here(checkout: Checkout, topic: str) -> Path:
    return checkout.root / HERE / f"{topic}.md"


def _begun(checkout: Checkout, topic: str, noted: _Note) -> Path | None:
    """The logbook that was begun by a note; None where its checkout isn't there any more."""
    try:
        return _place(checkout, topic, noted).path
    except RepositoryError:
        return None


def _place(checkout: Checkout, topic: str, noted: _Note) -> LogbookPlace:
    if noted.declared is None:
        # No repository holds it, and what lies beside it is this work tree's.
        holder = Checkout(checkout.private, None, state=checkout.private)
        return LogbookPlace(topic, holder, checkout.private / "logbooks" / f"{topic}.md", "none")
    declared = checkout.root / Path(noted.declared).expanduser()
    given = Path(os.path.normpath(noted.said or declared))
    holder = _holder(given, checkout, topic)
    folder = given.resolve()
    name = noted.name or _found(folder, topic)
    refuse_links(holder.root, (folder / name).with_suffix("") / "attachments")
    return LogbookPlace(topic, holder, folder / name, "elsewhere")


def _holder(folder: Path, checkout: Checkout, topic: str) -> Checkout:
    """The other checkout that holds a folder, to which no link in a repository leads."""
    where = f"The logbook of {topic} is kept in {folder}"
    mend = f"'research sync {topic} --logbook FOLDER' says where it lies"
    if not folder.is_dir():
        raise RepositoryError(f"{where}, which is not there: clone that repository, make the folder, or {mend}.")
    holder = Checkout.find(folder)
    if holder.git_dir is None or holder.root == checkout.root:
        found = "in no git repository" if holder.git_dir is None else f"in this checkout, which keeps them in {HERE}"
        raise RepositoryError(f"{where}, which is {found}: expected a folder of another checkout; {mend}.")
    links = (above for above in (folder, *folder.parents) if above.is_symlink())
    if link := next((link for link in links if Checkout.find(link.parent).git_dir is not None), None):
        raise RepositoryError(
            f"{where}, and {link} is a symbolic link inside of a repository, which a commit of others could have made: "
            f"expected the folder itself; {mend}."
        )
    return holder


def _found(folder: Path, topic: str) -> str:
    """The one logbook of a topic in a folder; what it is called without an issue where there is none."""
    found = [path for path in files_in(folder) if _is_named(path.name, topic) and _is_of(path, topic)]
    if len(found) > 1:
        names = " and ".join(path.name for path in found)
        raise UsageError(
            f"{folder} holds {len(found)} logbooks of {topic}, {names}: 'research sync {topic} --logbook "
            f"{shlex.quote(str(folder))}/FILE' says which is meant."
        )
    return found[0].name if found else f"{topic}.md"


def _is_named(name: str, topic: str) -> bool:
    return re.fullmatch(rf"(?:[1-9][0-9]*-)?{re.escape(topic)}\.md", name) is not None


def _is_of(path: Path, topic: str) -> bool:
    """Whether what lies beside a logbook says no other topic."""
    try:
        series_file.read_published(path.with_suffix(""), topic)
    except UnreadableObject:
        return False
    return True


def _path(checkout: Checkout, topic: str) -> Path:
    return checkout.private / "logbook-places" / topic


def _noted(checkout: Checkout, topic: str) -> _Note | None:
    try:
        path = _path(checkout, topic)
    except UsageError:
        # Without git and without a home there is nowhere to note it.
        return None
    if not path.exists():
        return None
    try:
        return msgspec.json.decode(read(path) or b"", type=_Note)
    except msgspec.DecodeError as error:
        raise RepositoryError(f"{path} can't be read ({error}): remove it, and run the thread of {topic}.") from error


def _note(checkout: Checkout, topic: str, note: _Note) -> None:
    write_aside(_path(checkout, topic), canonical(msgspec.structs.asdict(note)))
