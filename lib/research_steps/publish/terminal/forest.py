"""Claims as a forest plot in text: each candidate's estimate with its interval, against the baseline at 1."""

import math

from research_steps.evidence.claim_text import changes_text
from research_steps.evidence.state import ThreadState
from research_steps.evidence.statistics import gain
from research_steps.publish.terminal.layout import shortened
from research_steps.records.model import Claim

ROWS = 8
NAME, PLOT = 26, 44
REPEATED, ONCE = "●", "○"


def forest(state: ThreadState) -> list[str]:
    """The candidates against the baseline of the best one, best first; none where nothing is known as a ratio."""
    if not state.baselines:
        return []
    first = state.winners[0] if state.winners else None
    newest = state.baselines[-1]
    claims = state.against(first.claim.case, first.machine) if first else state.against(newest.case, newest.machine)
    plotted = [claim for claim in claims if claim.estimand == "ratio" and claim.estimate and claim.low and claim.high]
    plotted.sort(key=lambda claim: -gain(state.series.primary, claim))
    if not plotted:
        return []
    more, plotted = len(plotted) - ROWS, plotted[:ROWS]
    ends = [math.log(end) for claim in plotted for end in (claim.low or 1.0, claim.high or 1.0)]
    least, most = min([*ends, 0.0]), max([*ends, 0.0])

    def column(ratio: float) -> int:
        return round((math.log(ratio) - least) / ((most - least) or 1.0) * (PLOT - 1))

    one = column(1.0)
    lines = [f"{f'{REPEATED} repeated  {ONCE} one look':<{NAME}}{'1 = baseline':>{max(one + 1, 12)}}"]
    for claim in plotted:
        cells = [" "] * PLOT
        cells[one] = "│"
        low, high, middle = column(claim.low or 1.0), column(claim.high or 1.0), column(claim.estimate or 1.0)
        cells[low : high + 1] = "─" * (high + 1 - low)
        cells[middle] = ONCE if claim.confidence == "exploratory" else REPEATED
        lines.append(f"{_name(claim):<{NAME}}{''.join(cells)}".rstrip())
    return [*lines, f"… and {more} more: --json"] if more > 0 else lines


def _name(claim: Claim) -> str:
    """A candidate by its values alone, where its fields leave them no room."""
    text = changes_text(claim.changes)
    return text if len(text) < NAME - 1 else shortened(", ".join(map(str, claim.changes.values())), NAME - 2)
