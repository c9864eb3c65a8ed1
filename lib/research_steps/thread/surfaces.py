"""Which surfaces a series is shown on, in the order in which they need each other."""

from functools import partial

from research_steps.git import Checkout
from research_steps.journal.journal import Journal
from research_steps.publish.issue.surface import IssueSurface
from research_steps.publish.logbook.surface import LogbookSurface
from research_steps.publish.publisher import Surface
from research_steps.publish.wandb.surface import WandbSurface, url_of
from research_steps.records.series import Series
from research_steps.seal.logbook_push import LogbookPush
from research_steps.seal.sealing import Sealer


def surfaces_of(checkout: Checkout, journal: Journal, series: Series) -> list[Surface]:
    """The surfaces of a series in a checkout. Sealing comes before the logbook, whose entry names the tag; before the
    issue come the logbook's push and W&B, which it cites. What others pushed is taken in first."""
    series = series.without_secrets()
    logbook = LogbookSurface(checkout, journal, series)
    issue = IssueSurface(checkout, journal, series, partial(url_of, checkout, series.topic))
    push, sealer, wandb = (
        LogbookPush(checkout, series),
        Sealer(checkout, journal, series),
        WandbSurface(checkout, journal, series),
    )
    return [push, logbook, sealer, logbook, push, wandb, issue]
