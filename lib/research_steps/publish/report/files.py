"""Writing the report of a series: `.agents/reports/<topic>.html`, which git leaves out, because it can be made again."""

import os
from importlib.metadata import version
from pathlib import Path
from urllib.parse import quote

from research_steps.errors import UsageError
from research_steps.evidence.state import thread_state
from research_steps.evidence.visibility import belongs_in_logbook
from research_steps.files import is_there, read, write_aside
from research_steps.git import Checkout
from research_steps.journal.journal import Journal
from research_steps.journal.logbook_place import logbook_of
from research_steps.journal.snapshot import Snapshot
from research_steps.publish.report.curves import curves
from research_steps.publish.report.page import page
from research_steps.records.objects import IssueLink, Seal
from research_steps.records.series import Series


def report_path(checkout: Checkout, topic: str) -> Path:
    """Where the report of a series lies."""
    return checkout.root / ".agents" / "reports" / f"{topic}.html"


def write_report(checkout: Checkout, journal: Journal, series: Series, known: Snapshot) -> Path:
    """Write the report of what the logbook may show, and return where it lies.

    Private entries are in none. That of a private series says at its head that it is one, and stays out of git as all
    reports do.
    """
    series = series.without_secrets()
    shown = known.only(lambda entry: belongs_in_logbook(entry.record, series))
    ids = [entry.record.id for entry in shown.in_order if entry.record.step == "seal"]
    seals = {id: seal for id in ids if (seal := journal.decided(f"seals/{id}", Seal)) is not None}
    state, issue = thread_state(series, shown), journal.decided("issue", IssueLink)
    path, told = report_path(checkout, series.topic), curves(state, shown, journal.store.url)
    records = os.path.relpath(logbook_of(checkout, series.topic).records, path.parent)
    text = page(state, shown, seals, issue, _library(checkout), told, f"{quote(records)}/")
    checkout.exclude("/.agents/reports/")
    write_aside(path, text.encode())
    return path


def _library(checkout: Checkout) -> str:
    """Vega, Vega-Lite and Vega-Embed as one script. Raises UsageError where they are not installed."""
    try:
        import vl_convert
    except ImportError as error:
        raise UsageError(
            "The report's plots need vl-convert-python, which is not installed: pip install 'research-steps[report]'."
        ) from error
    # Putting it together takes 2 s, and gives the same for each version.
    path = checkout.private / f"vega-{version('vl-convert-python')}.js"
    script = read(path) or vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;").encode()
    if not is_there(path):
        write_aside(path, script)
    return script.decode()
