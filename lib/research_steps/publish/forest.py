"""The forest plot: what is claimed now, each claim with its interval, as one SVG that needs nothing else.

A pure function, made of text alone, so that the same records give the same bytes on every machine. Shape and fill say
what colour does: filled is replicated, a square is worse.
"""

import html
import math
from collections.abc import Callable, Iterable, Iterator, Sequence

from research_steps.evidence.claim_text import candidate_text, changes_text, claim_text, effect_text
from research_steps.evidence.climb import case_name
from research_steps.evidence.standing import DECIDED, on_primary
from research_steps.evidence.state import ThreadState
from research_steps.evidence.statistics import place
from research_steps.publish.markdown import one_line
from research_steps.records.encoding import canonical
from research_steps.records.model import Claim

# Its file beside the logbook.
FOREST = "forest.svg"
# Claims of one baseline case; the others stand in the entries.
SHOWN = 30
WIDTH, LINE = 1020, 26
# Where the axis lies, in pixels.
LEFT, RIGHT = 320, 640
_LABEL, _TEXT = 42, 54
# Between the words at the axis, in pixels.
_APART = 60
# As far as an axis goes beyond the outermost estimate, as a factor or in spans.
_BEYOND = 1.5
# Told apart by people who are colour-blind too; each has a contrast of at least 4.5 on white.
_COLOURS = {"good": "#005a9c", "bad": "#a63d00", "even": "#57606a", "ink": "#1f2328"}


def forest(state: ThreadState) -> str:
    """The claims on the primary metric against each baseline case, and what else the best of them change; empty while
    there are none."""
    parts, top = [], 0.0
    for title, claims, also, more in groups(state):
        part, height = _group(title, claims, also, more, state, top)
        parts.append(part)
        top += height
    if not parts:
        return ""
    name = _escaped(f"{state.series.topic}: claims against the baseline, with their 95 % intervals")
    size = f'width="{WIDTH}" height="{top:.0f}" viewBox="0 0 {WIDTH} {top:.0f}"'
    font = 'font-family="sans-serif" font-size="13"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} {font} role="img" aria-label="{name}">'
    return f'{head}\n<rect class="paper" width="{WIDTH}" height="{top:.0f}" fill="#fff"/>\n{"".join(parts)}</svg>\n'


def groups(state: ThreadState) -> Iterator[tuple[str, Sequence[Claim], Sequence[Claim], int]]:
    """For each baseline case on each kind of machine its title, the best claims on the primary metric, those on what
    else the winner changes, and how many claims were left out."""
    primary = state.series.primary
    found: dict[tuple[bytes, str], list[Claim]] = {}
    for claim, machine in zip(state.claims, state.machines, strict=True):
        if on_primary(state.series, [claim]):
            found.setdefault((canonical(claim.case), machine), []).append(claim)
    for (case, machine), claims in found.items():
        winners = [
            winner for winner in state.winners if (canonical(winner.claim.case), winner.machine) == (case, machine)
        ]
        ordered = sorted(claims, key=lambda claim: place(primary, claim))
        where = f", on {machine}" if machine else ""
        title = f"{primary.name} against {claims[0].baseline.id} {case_name(state, claims[0].case)}{where}"
        also = [claim for winner in winners for claim in winner.also]
        yield title, ordered[:SHOWN], also, max(0, len(ordered) - SHOWN)


def label(state: ThreadState, claim: Claim) -> str:
    """What a claim is about, in a few words; the metric too where it is not the primary one."""
    about = candidate_text(claim, claim.case)
    return about if claim.metric == state.series.primary.name else f"{about}: {claim.metric}"


def reason(state: ThreadState, claim: Claim) -> str:
    """Why there is no estimate: what the trial's own row says where it failed."""
    ids = {ref.id for ref in claim.trials}
    why = next((end.why for end in state.dead_ends if end.claim is None and ids & set(end.ids)), claim.why)
    return f"{claim.verdict}: {why}"


def _group(
    title: str, claims: Sequence[Claim], also: Sequence[Claim], more: int, state: ThreadState, top: float
) -> tuple[str, float]:
    rows = [*claims, *also]
    estimand = next((claim.estimand for claim in claims if claim.estimate is not None), "ratio")
    across = _Axis(estimand, [claim for claim in rows if claim.estimand == estimand])
    none = 1.0 if estimand == "ratio" else 0.0
    bottom = top + 30 + LINE * len(rows) + 8
    lines = [_text(12, top + 20, title, "ink", most=120, more=' font-weight="bold"')]
    if any(claim.estimate is not None for claim in claims):
        lines += _scale(across, estimand, none, top + 30, bottom)
    for number, claim in enumerate(rows):
        middle = top + 30 + LINE * number + LINE / 2
        name = label(state, claim) if number < len(claims) else f"↳ {claim.metric} of {changes_text(claim.changes)}"
        lines.append(_text(LEFT - 14, middle + 4, name, "ink", most=_LABEL, more=' text-anchor="end"'))
        lines += _row(state, claim, middle, across if claim.estimand == estimand else None)
    if more:
        lines.append(_text(12, bottom + 36, f"{more} more candidates stand in the entries.", "even"))
    return "".join(lines), bottom + (50 if more else 30) - top


def _scale(across: "_Axis", estimand: str, none: float, top: float, bottom: float) -> Iterator[str]:
    """The line of no effect, and what the axis reaches from and to."""
    x = across(none)
    ends = f'x1="{x:.1f}" x2="{x:.1f}" y1="{top:.0f}" y2="{bottom:.0f}"'
    yield f'<line class="ink" {ends} stroke="{_COLOURS["even"]}" stroke-dasharray="4 3"/>\n'
    for tick in (none, across.start, across.end):
        if tick == none or abs(across(tick) - x) > _APART:
            yield _text(across(tick), bottom + 16, effect_text(estimand, tick), "even", more=' text-anchor="middle"')


class _Axis:
    """From an effect to where it is drawn; a ratio by its logarithm."""

    def __init__(self, estimand: str, claims: Iterable[Claim]) -> None:
        self._log = estimand == "ratio"
        middles = [claim.estimate for claim in claims if claim.estimate is not None]
        places = [self._place(value) for value in (*middles, 1.0 if self._log else 0.0)]
        ends = [self._place(end) for claim in claims for end in (claim.low, claim.high) if end is not None]
        span = max(places) - min(places) or 0.1
        self._low = max(min([*places, *ends]), min(places) - _BEYOND * span) - 0.03 * span
        self._high = min(max([*places, *ends]), max(places) + _BEYOND * span) + 0.03 * span

    @property
    def start(self) -> float:
        return self._value(self._low)

    @property
    def end(self) -> float:
        return self._value(self._high)

    def __call__(self, value: float) -> float:
        share = (self._place(value) - self._low) / (self._high - self._low)
        return LEFT + (RIGHT - LEFT) * min(1.0, max(0.0, share))

    def _place(self, value: float) -> float:
        return math.log(max(value, 1e-300)) if self._log else value

    def _value(self, place: float) -> float:
        return math.exp(min(place, 700.0)) if self._log else place


def _row(state: ThreadState, claim: Claim, y: float, across: Callable[[float], float] | None) -> Iterator[str]:
    tone = {"improved": "good", "regressed": "bad", "failed": "bad"}.get(claim.verdict, "even")
    colour = _COLOURS[tone]
    if claim.estimate is None:
        yield _text(LEFT, y + 4, f"✗ {reason(state, claim)}", tone, most=92)
        return
    if across is not None:
        x = across(claim.estimate)
        if claim.low is not None and claim.high is not None:
            ends = f'x1="{across(claim.low):.1f}" x2="{across(claim.high):.1f}" y1="{y:.0f}" y2="{y:.0f}"'
            yield f'<line class="{tone}" {ends} stroke="{colour}" stroke-width="2"/>\n'
        filled = claim.verdict in DECIDED and claim.confidence != "exploratory"
        look = f'class="{tone}{"" if filled else " hollow"}" fill="{colour if filled else "#fff"}" stroke="{colour}"'
        if claim.verdict == "regressed":
            yield f'<rect {look} stroke-width="2" x="{x - 4.5:.1f}" y="{y - 4.5:.1f}" width="9" height="9"/>\n'
        else:
            yield f'<circle {look} stroke-width="2" cx="{x:.1f}" cy="{y:.1f}" r="5"/>\n'
    yield _text(RIGHT + 20, y + 4, claim_text(claim), tone, most=_TEXT)


def _text(x: float, y: float, text: str, tone: str, most: int = 200, more: str = "") -> str:
    whole = one_line(text)
    cut = whole if len(whole) <= most else whole[: most - 1] + "…"
    title = f"<title>{_escaped(whole)}</title>" if cut != whole else ""
    return f'<text class="{tone}" x="{x:.1f}" y="{y:.0f}" fill="{_COLOURS[tone]}"{more}>{_escaped(cut)}{title}</text>\n'


def _escaped(text: str) -> str:
    # What XML has no room for.
    return html.escape(one_line(text)).replace("\ufffe", "\ufffd").replace("\uffff", "\ufffd")
