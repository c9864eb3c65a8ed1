"""Links for the issue: pinned to a commit that the remote was seen to have, or said to be not pushed yet.

What a seal's tag holds is pinned to its commit, and there once the tag is pushed. Without an issue on GitHub nothing of
it lies where a link from the file could lead, so git is told to show it.
"""

from collections.abc import Sequence
from urllib.parse import quote

from research_steps.git import Checkout
from research_steps.journal.journal import Journal
from research_steps.journal.logbook_place import logbook_of
from research_steps.publish.issue import github
from research_steps.publish.markdown import address, code
from research_steps.records.model import EntryRecord
from research_steps.records.objects import IssueLink, Project, Pushed, Seal
from research_steps.records.series import HERE

NO_LOGBOOK = "none; sealed tags hold the records"
_BUNDLE = ("bundle.md", "bundle.json", "table.csv", "requirements.txt")


class Links:
    """Where a reader finds what is said, as Markdown.

    `runs` is the address of W&B's runs, empty until they were sent; `seals` are those that are linked to, and `tags`
    their tags.
    """

    def __init__(
        self, checkout: Checkout, journal: Journal, issue: IssueLink | None, runs: str, seals: Sequence[Seal]
    ) -> None:
        self._checkout = checkout
        self._sealed = f"{HERE}/{journal.topic}"
        self._web = f"{github.web()}/{issue.repository}" if issue else None
        self._place = place = logbook_of(checkout, journal.topic)
        pushed = place.pushed
        self._content = place.checkout.file_at(pushed, place.name) if pushed else b""
        # A logbook in another checkout is in that one's repository.
        other = github.repository_of_remote(place.checkout) if place.kind == "elsewhere" else None
        self._logbooks = self._web if place.kind == "here" else f"{github.web()}/{other}" if other else None
        self._address = f"{self._logbooks}/blob/{pushed}/{quote(place.name)}"
        self._there = [seal for seal in seals if journal.decided(f"pushed/{seal.id}", Pushed) is not None]
        self.tags = [self.tag(seal) for seal in seals]
        project = journal.decided("project", Project)
        waiting = f"{code(project.name)} (not sent yet)" if project else "none yet"
        self.runs = address(runs) if runs else waiting
        # Where the remote is on no GitHub, its commit is all that can be named.
        self._unlinked = f"at {code(pushed[:12])} of its repository" if pushed and place.kind == "elsewhere" else ""
        self.logbook = NO_LOGBOOK if place.kind == "none" else self._told(code(place.name), bool(self._content))

    def section(self, record: EntryRecord) -> str:
        """An entry in the logbook."""
        if self._place.kind == "none":
            return NO_LOGBOOK
        is_pushed = self._holds(record.id)
        if is_pushed and self._logbooks:
            return f"[{record.id} in {self._place.name}]({self._address})"
        return self._told(f"{record.id} in {code(self._place.name)}", is_pushed)

    def _told(self, name: str, is_pushed: bool) -> str:
        if is_pushed and self._logbooks:
            return f"[{name}]({self._address})"
        return f"{name} {self._unlinked if is_pushed and self._unlinked else '(not pushed yet)'}"

    def record(self, id: str) -> str:
        """The record with an ID, which is only the ID while it isn't pushed."""
        return f"[{id}]({self._address})" if self._is_there(id.partition(".")[0]) else id

    def commit(self, sha: str) -> str:
        # A tag that was pushed took along what its commit follows.
        along = (self._checkout.is_ancestor(sha, seal.commit) for seal in self._there)
        if self._web and (self._checkout.is_pushed(sha) or any(along)):
            return f"[{code(sha[:12])}]({self._web}/tree/{sha})"
        return f"{code(sha[:12])} (not pushed yet)"

    def tag(self, seal: Seal) -> str:
        if self._web is None:
            return f"{code(seal.tag)} at {code(seal.commit)}"
        later = "" if seal in self._there else " (once the tag is pushed)"
        return f"[{code(seal.tag)}]({self._web}/tree/{seal.commit}) at {code(seal.commit)}{later}"

    def snapshot(self, seal: Seal, folders: Sequence[str]) -> dict[str, str]:
        """What a seal holds of these folders and beside them, by name."""
        contents = {
            "Code": self._in_seal(seal, "tree", folders),
            "Logbook as sealed": self._in_seal(seal, "blob", [f"{self._sealed}.md"]),
            "Bundle": self._in_seal(seal, "blob", [f"{self._sealed}/{seal.id}.{kind}" for kind in _BUNDLE]),
        }
        return {name: where for name, where in contents.items() if where}

    def _in_seal(self, seal: Seal, kind: str, paths: Sequence[str]) -> str:
        """Those of the paths that a seal's commit holds; where it is not known here, all of them."""
        present = paths
        if self._checkout.commit_of(seal.commit) is not None:
            listed = self._checkout.git("ls-tree", "-z", "--name-only", "--", seal.commit, *paths)
            present = [path for path in paths if path in listed.decode("utf-8", "replace").split("\0")]
        if self._web is None:
            return ", ".join(code(f"git show {seal.tag}:{path}") for path in present)
        base = f"{self._web}/{kind}/{seal.commit}"
        return ", ".join(f"[{code(path.removeprefix(f'{self._sealed}/'))}]({base}/{quote(path)})" for path in present)

    def _is_there(self, id: str) -> bool:
        return self._logbooks is not None and self._holds(id)

    def _holds(self, id: str) -> bool:
        return f"<!-- research-steps entry {id} -->".encode() in self._content
