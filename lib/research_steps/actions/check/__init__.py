"""The checklists for a result and for the end of a thread, held against what was recorded.

Each line asks one thing of the whole series, names the first few that fail it, and says how to mend them. Nothing is
changed and no network asked.
"""

from research_steps.actions.check import closing as ending
from research_steps.actions.check import drift, posting
from research_steps.actions.check.reading import CheckedThread, CheckLine
from research_steps.git import Checkout
from research_steps.journal.journal import Journal
from research_steps.records.series import Series


def check(checkout: Checkout, journal: Journal, series: Series, closing: bool) -> list[CheckLine]:
    """Every line of the checklist before a result is posted and, with `closing`, before the thread is closed."""
    thread = CheckedThread(checkout, journal, series)
    return [ask(thread) for ask in (*posting.LINES, *drift.LINES, *(ending.LINES if closing else ()))]
