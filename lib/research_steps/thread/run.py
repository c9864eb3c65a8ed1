"""Running a thread through Marin's executor, here or on the cluster that the environment names."""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from research_steps.git import Checkout
from research_steps.journal.journal import Journal
from research_steps.journal.store import AWAY_S, open_store, store_url
from research_steps.records.series import Series
from research_steps.remote.ray.task import as_driver
from research_steps.terminal import say
from research_steps.thread.options import RunOptions

if TYPE_CHECKING:
    from research_steps.thread.builders import StepBuilder


def run(series: Series, thread: "Callable[[StepBuilder], object]", options: RunOptions) -> None:
    """Run a thread through Marin's executor. Raises ResearchError; a failed step is in the journal by then."""
    retry = options.outcomes_to_retry
    as_driver()
    checkout = Checkout.find()
    prefix = store_url(checkout.root, options.prefix)
    journal = Journal(open_store(prefix, AWAY_S), series.topic)
    say(f"{series.topic}: store {prefix}; loading Marin")
    # What takes long, before the cluster waits for it.
    from research_steps.thread.driver import ThreadRun

    logging.getLogger("jax").setLevel(logging.WARNING)
    with _engine(checkout):
        ThreadRun(series, options, retry, checkout, journal, say).drive(thread)


@contextmanager
def _engine(checkout: Checkout) -> Iterator[None]:
    """Have steps with resources run on the Ray cluster that RAY_ADDRESS names, where it does. Fray finds others."""
    address = os.environ.get("RAY_ADDRESS", "")
    if not address:
        yield
        return
    from research_steps.remote.ray.client import joined
    from research_steps.thread.marin import jobs

    with joined(address, checkout) as client, jobs.using(client):
        yield
