"""Where the logbook of a series lies, with its records beside it: in this checkout, in another one, or out of sight.

The thread says which, `Series(logbook=…)`. Who runs it here, or names the folder, has it noted in the git directory:
nothing else names a place to read or write, neither store nor records. A logbook in another checkout is named after its
issue and topic, '2917-moe_hc.md'. Where a series has none, what every surface rests on is kept in the git directory.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from research_steps.errors import RepositoryError, UsageError
from research_steps.files import files_in, is_there, read, refuse_links, write_aside
from research_steps.git import Checkout
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


class _Note(msgspec.Struct, frozen=True):
    """What is noted: the policy as the thread `declared` it, and the folder, with the file's name once it is known."""

    declared: str | None
    folder: str
    name: str = ""


def logbook_of(checkout: Checkout, topic: str) -> LogbookPlace:
    """Where the logbook of a series is, or will be. Raises RepositoryError where its checkout isn't there, and
    UsageError where several could be it."""
    noted = _noted(checkout, topic)
    if noted is None:
        return LogbookPlace(topic, checkout, checkout.root / HERE / f"{topic}.md")
    if noted.declared is None:
        # No repository holds it, and what lies beside it is this work tree's.
        holder = Checkout(checkout.private, None, state=checkout.private)
        return LogbookPlace(topic, holder, checkout.private / "logbooks" / f"{topic}.md", "none")
    folder = Path(noted.folder)
    holder = _holder(folder, checkout, topic)
    path = folder / (noted.name or _named(folder, topic))
    refuse_links(holder.root, path.with_suffix("") / "attachments")
    return LogbookPlace(topic, holder, path, "elsewhere")


def settle(checkout: Checkout, series: Series) -> None:
    """Note where a thread that is run here has its logbook. Raises RepositoryError where that is not there, and
    UsageError where it can't be."""
    noted = _noted(checkout, series.topic)
    if (noted.declared if noted else HERE) == series.logbook:
        return
    if series.logbook == HERE:
        _path(checkout, series.topic).unlink()
    elif series.logbook is None:
        _note(checkout, series.topic, _Note(None, ""))
    else:
        _take(checkout, series.topic, series.logbook, checkout.root / series.logbook)


def point_to(checkout: Checkout, series: Series, place: Path) -> None:
    """Note where the logbook that a thread keeps in another checkout lies here: the folder, or the file itself. Raises
    UsageError and RepositoryError."""
    if series.logbook in (HERE, None):
        kept = "in this checkout" if series.logbook else "nowhere"
        raise UsageError(
            f"The thread of {series.topic} keeps its logbook {kept}: expected one with Series(logbook=…) of another "
            "checkout. Say it there, and run the thread."
        )
    _take(checkout, series.topic, series.logbook, place)


def give_name(checkout: Checkout, topic: str, issue: int | None) -> LogbookPlace | None:
    """The place of a logbook in another checkout that can be begun, named after its issue unless it is there already or
    the series has none for good (0); None while that is not known."""
    place = logbook_of(checkout, topic)
    noted = _noted(checkout, topic)
    if noted is None or noted.name or place.kind != "elsewhere":
        return place
    if issue is None and not is_there(place.path):
        return None
    name = place.path.name if is_there(place.path) or not issue else f"{issue}-{topic}.md"
    _note(checkout, topic, msgspec.structs.replace(noted, name=name))
    return logbook_of(checkout, topic)


def topics_elsewhere(checkout: Checkout) -> list[str]:
    """The series whose logbooks are noted to lie elsewhere than in this checkout."""
    return [path.name for path in files_in(checkout.private / "logbook-places")]


def _take(checkout: Checkout, topic: str, declared: str | None, place: Path) -> None:
    folder, name = (place.parent, place.name) if place.suffix == ".md" else (place, "")
    folder = folder.resolve()
    _holder(folder, checkout, topic)
    _note(checkout, topic, _Note(declared, str(folder), name or ""))
    if not name:
        _named(folder, topic)


def _holder(folder: Path, checkout: Checkout, topic: str) -> Checkout:
    """The other checkout that holds a folder."""
    where = f"The logbook of {topic} is kept in {folder}"
    mend = f"'research sync {topic} --logbook FOLDER' says where it lies"
    if not folder.is_dir():
        raise RepositoryError(f"{where}, which is not there: clone that repository, make the folder, or {mend}.")
    holder = Checkout.find(folder)
    if holder.git_dir is None or holder.root == checkout.root:
        found = "in no git repository" if holder.git_dir is None else f"in this checkout, which keeps them in {HERE}"
        raise RepositoryError(f"{where}, which is {found}: expected a folder of another checkout; {mend}.")
    return holder


def _named(folder: Path, topic: str) -> str:
    """The one logbook of a topic in a folder; what it is called without an issue where there is none."""
    pattern = re.compile(rf"(?:[1-9][0-9]*-)?{re.escape(topic)}\.md")
    found = [path.name for path in files_in(folder) if pattern.fullmatch(path.name)]
    if len(found) > 1:
        raise UsageError(
            f"{folder} holds {len(found)} logbooks of {topic}, {' and '.join(found)}: 'research sync {topic} --logbook "
            f"{folder / found[-1]}' says which is meant."
        )
    return found[0] if found else f"{topic}.md"


def _path(checkout: Checkout, topic: str) -> Path:
    return checkout.private / "logbook-places" / topic


def _noted(checkout: Checkout, topic: str) -> _Note | None:
    try:
        path = _path(checkout, topic)
    except UsageError:
        # Without git and without a home there is nowhere to note it.
        return None
    return msgspec.json.decode(read(path) or b"", type=_Note) if path.exists() else None


def _note(checkout: Checkout, topic: str, note: _Note) -> None:
    write_aside(_path(checkout, topic), canonical(msgspec.structs.asdict(note)))
