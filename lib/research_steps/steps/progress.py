"""How far a sweep is: a bar on a terminal, a line for each trial elsewhere."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from research_steps.claims import spelled
from research_steps.record import Row
from research_steps.steps.session import Session


@contextmanager
def progress(session: Session, title: str, total: int) -> Iterator[Callable[[Row, str], None]]:
    """Yields a function to call with each finished row and the name of the primary metric."""
    if not sys.stderr.isatty():
        done = 0

        def tell(row: Row, metric: str) -> None:
            nonlocal done
            done += 1
            session.say(f"{title}: {done}/{total} {_outcome(row, metric)}")

        yield tell
        return
    from tqdm import tqdm

    with tqdm(total=total, desc=title, unit="trial", leave=True) as bar:

        def advance(row: Row, metric: str) -> None:
            bar.set_postfix_str(_outcome(row, metric))
            bar.update()

        yield advance


def _outcome(row: Row, metric: str) -> str:
    changes = spelled(row.changes)
    if row.status != "ok":
        return f"{changes}: {row.status}, {row.note}"
    ratio = f"{row.ratios[metric].median:.3f} × baseline" if metric in row.ratios else f"{row.values.get(metric)}"
    return f"{changes}: {ratio}{'' if row.measured_here else ', from the journal'}"
