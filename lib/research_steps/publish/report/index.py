"""Where Marin lists its experiments: `docs/reports/index.md` gets a series that it does not name yet.

It is put under 'Uncategorized', from where people move it to the section that it belongs to; not a byte of what stands
there changes. A checkout without that page has no such list.
"""

import re
from pathlib import Path

from research_steps.files import is_there, read, write_aside
from research_steps.git import Checkout
from research_steps.journal.logbook_place import LogbookPlace, logbook_of
from research_steps.publish.markdown import prose
from research_steps.records.objects import IssueLink
from research_steps.records.series import Series

_SECTION = re.compile(rb"(?m)^## Uncategorized\b[^\n]*\n(?:(?!^##? )[^\n]*(?:\n|\Z))*")


def list_report(checkout: Checkout, series: Series, issue: IssueLink | None, dry_run: bool = False) -> Path | None:
    """Name the series there, unless this is a `dry_run`; the page where it was added, None where it stands already, is
    private or has no page."""
    path = checkout.root / "docs" / "reports" / "index.md"
    if series.private or not is_there(path):
        return None
    before = read(path) or b""
    after = listed(before, series, issue, logbook_of(checkout, series.topic))
    if after == before:
        return None
    if not dry_run:
        write_aside(path, after)
    return path


def listed(page: bytes, series: Series, issue: IssueLink | None, place: LogbookPlace) -> bytes:
    """The page with the series in it."""
    logbook = "" if place.kind == "none" else f"Logbook: `{place.name}`; "
    named = bool(logbook) and f"`{place.name}`".encode() in page
    if named or (issue is not None and re.search(re.escape(issue.url.encode()) + rb"\b", page)):
        return page
    lines = [f"- {prose(series.goal)}"]
    if issue is not None:
        badge = f"https://img.shields.io/github/issues/detail/state/{issue.repository}/{issue.number}"
        lines[0] += f" [![#{issue.number}]({badge})]({issue.url})"
        lines.append(f"    - [GitHub Issue #{issue.number}]({issue.url})")
    lines.append(f"    - {logbook}`research report {series.topic}` makes its report")
    end = "\r\n" if b"\r\n" in page else "\n"
    text = "".join(f"{line}{end}" for line in lines).encode()
    gap = b"" if page.endswith(b"\n") or not page else end.encode()
    section = _SECTION.search(page)
    if section is None:
        return page + gap + f"{end}## Uncategorized{end}{end}".encode() + text
    # Behind its last line that says something.
    said = section.start() + len(section[0].rstrip())
    at = page.find(b"\n", said) + 1 or len(page)
    opening = b"" if re.search(rb"(?m)^\s*- [^\n]*\Z", section[0].rstrip()) else end.encode()
    return page[:at] + (gap if at == len(page) else b"") + opening + text + page[at:]
