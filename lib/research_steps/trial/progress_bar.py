"""How far a sweep is: a bar on a terminal, a line for each trial elsewhere."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count

from research_steps.evidence.statistics import medians
from research_steps.evidence.table import Trial
from research_steps.records.model import InterruptedRecord
from research_steps.trial.context import Session


@contextmanager
def progress(session: Session, title: str, total: int) -> Iterator[Callable[[Trial, str], None]]:
    """Yields a function to call with each finished trial and its label."""
    from tqdm import tqdm

    metric, done = session.series.primary.name, count(1)
    with tqdm(total=total, desc=title, unit="trial", disable=not sys.stderr.isatty()) as bar:

        def advance(trial: Trial, label: str) -> None:
            bar.set_postfix_str(_outcome(trial, label, metric))
            bar.update()
            if bar.disable:
                session.say(f"{title}: {next(done)}/{total} {_outcome(trial, label, metric)}")

        yield advance


def _outcome(trial: Trial, label: str, metric: str) -> str:
    record = trial.stored.record
    if isinstance(record, InterruptedRecord):
        return f"{label}: interrupted, {record.reason}"
    if record.error is not None:
        return f"{label}: failed, {record.error.type}: {(record.error.message.splitlines() or [''])[0]}"
    value = medians(record.samples.candidate).get(metric)
    value_told = f"{record.ratios[metric].median:.3f} × baseline" if metric in record.ratios else f"{metric} {value:.6g}"
    return f"{label}: {value_told}{'' if trial.measured_here else ', from the journal'}"
