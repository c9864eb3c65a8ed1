"""Links for the issue: pinned to a commit that the remote was seen to have, or said to be not pushed yet.

What a seal's tag holds is pinned to its commit, and there once the tag is pushed. Without an issue on GitHub nothing of
it lies where a link from the file could lead, so git is told to show it.
"""

from collections.abc import Sequence
from urllib.parse import quote

from research_steps.git import Checkout
from research_steps.journal.journal import Journal
from research_steps.publish.issue.github import Access
from research_steps.publish.issue.text import Links
from research_steps.publish.markdown import code
from research_steps.records.model import EntryRecord
from research_steps.records.objects import IssueLink, Project, Pushed, Seal
from research_steps.records.series import Series

_BUNDLE = ("bundle.md", "bundle.json", "table.csv", "requirements.txt")


def links_of(
    checkout: Checkout,
    journal: Journal,
    series: Series,
    issue: IssueLink | None,
    runs: str | None,
    seals: Sequence[Seal],
) -> Links:
    """What can be linked from here now. `runs` is the address of W&B's runs, once they were sent; `seals` are those that
    are linked to."""
    records = f".agents/logbooks/{series.topic}"
    path = f"{records}.md"
    pushed = checkout.pushed()
    content = checkout.file_at(pushed, path) if pushed else b""
    web = f"{Access.from_environment().web}/{issue.repository}" if issue else None
    there = [seal for seal in seals if journal.decided(f"pushed/{seal.id}", Pushed) is not None]

    def is_there(id: str) -> bool:
        return web is not None and f"<!-- research-steps entry {id} -->".encode() in content

    def section(record: EntryRecord) -> str:
        if is_there(record.id):
            return f"[{record.id} in {path}]({web}/blob/{pushed}/{path})"
        return f"{record.id} in {code(path)} (not pushed yet)"

    def record(id: str) -> str:
        return f"[{id}]({web}/blob/{pushed}/{path})" if is_there(id.partition(".")[0]) else id

    def commit(sha: str) -> str:
        # A tag that was pushed took along what its commit follows.
        if web and (checkout.is_pushed(sha) or any(checkout.is_ancestor(sha, seal.commit) for seal in there)):
            return f"[{code(sha[:12])}]({web}/tree/{sha})"
        return f"{code(sha[:12])} (not pushed yet)"

    def tag(seal: Seal) -> str:
        if web is None:
            return f"{code(seal.tag)} at {code(seal.commit)}"
        later = "" if seal in there else " (once the tag is pushed)"
        return f"[{code(seal.tag)}]({web}/tree/{seal.commit}) at {code(seal.commit)}{later}"

    def linked(seal: Seal, kind: str, paths: Sequence[str]) -> str:
        present = _in_commit(checkout, seal.commit, paths)
        if web is None:
            return ", ".join(code(f"git show {seal.tag}:{name}") for name in present)
        names = [name.removeprefix(f"{records}/") for name in present]
        addresses = [f"{web}/{kind}/{seal.commit}/{quote(name)}" for name in present]
        return ", ".join(f"[{code(name)}]({address})" for name, address in zip(names, addresses, strict=True))

    def snapshot(seal: Seal, folders: Sequence[str]) -> dict[str, str]:
        bundle = [f"{records}/{seal.id}.{kind}" for kind in _BUNDLE]
        contents = {
            "Code": linked(seal, "tree", folders),
            "Logbook as sealed": linked(seal, "blob", [path]),
            "Bundle": linked(seal, "blob", bundle),
        }
        return {name: where for name, where in contents.items() if where}

    project = journal.decided("project", Project)
    waiting = f"{code(project.name)} (not sent yet)" if project else "none yet"
    return Links(
        section=section,
        commit=commit,
        tag=tag,
        snapshot=snapshot,
        logbook=f"[{code(path)}]({web}/blob/{pushed}/{path})" if content and web else f"{code(path)} (not pushed yet)",
        runs=f"<{runs}>" if runs else waiting,
        record=record,
    )


def _in_commit(checkout: Checkout, commit: str, paths: Sequence[str]) -> list[str]:
    """Those of the paths that a commit holds; where it is not known here, all of them."""
    if checkout.commit_of(commit) is None:
        return list(paths)
    listed = checkout.git("ls-tree", "-z", "--name-only", "--", commit, *paths).decode("utf-8", "replace").split("\0")
    return [path for path in paths if path in listed]
