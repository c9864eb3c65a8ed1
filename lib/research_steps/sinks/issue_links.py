"""Links for the issue: pinned to a commit that the remote was seen to have, or said to be not pushed yet."""

from research_steps.git import Checkout
from research_steps.journal import Journal
from research_steps.record import EntryRecord, IssueLink, Project
from research_steps.series import Series
from research_steps.sinks.github import Access
from research_steps.sinks.issue_text import Links
from research_steps.sinks.markdown import code


def links_of(checkout: Checkout, journal: Journal, series: Series, issue: IssueLink | None, runs: str | None) -> Links:
    """What can be linked from here now. `runs` is the address of W&B's runs, once they were sent."""
    path = f".agents/logbooks/{series.topic}.md"
    pushed = checkout.pushed()
    content = checkout.file_at(pushed, path) if pushed else b""
    web = f"{Access.from_environment().web}/{issue.repository}" if issue else None

    def is_there(id: str) -> bool:
        return web is not None and f"<!-- research-steps entry {id} -->".encode() in content

    def section(record: EntryRecord) -> str:
        if is_there(record.id):
            return f"[{record.id} in {path}]({web}/blob/{pushed}/{path})"
        return f"{record.id} in {code(path)} (not pushed yet)"

    def record(id: str) -> str:
        return f"[{id}]({web}/blob/{pushed}/{path})" if is_there(id.partition(".")[0]) else id

    def commit(sha: str) -> str:
        if web and checkout.is_pushed(sha):
            return f"[{code(sha[:12])}]({web}/tree/{sha})"
        return f"{code(sha[:12])} (not pushed yet)"

    project = journal.decided("project", Project)
    waiting = f"{code(project.name)} (not sent yet)" if project else "none yet"
    return Links(
        section=section,
        commit=commit,
        logbook=f"[{code(path)}]({web}/blob/{pushed}/{path})" if content and web else f"{code(path)} (not pushed yet)",
        runs=f"<{runs}>" if runs else waiting,
        record=record,
    )
