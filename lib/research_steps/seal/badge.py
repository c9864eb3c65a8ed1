"""A sealed claim as a small SVG for a pull request: what was found, how sure; grey once it was not reproduced."""

import html
from collections.abc import Sequence

from research_steps.evidence.claim_text import candidate_text, estimate_text, verdict_text
from research_steps.publish.markdown import one_line
from research_steps.records.model import EntryRecord
from research_steps.records.step_kinds import Reproduction
from research_steps.seal.bundle import Bundle
from research_steps.seal.bundle_text import winner_of

# White text on each has a contrast of at least 4.5.
_COLOURS = {"improved": "#1a6f37", "other": "#57606a"}
# Of a letter of the font, about (pixels).
_LETTER = 6.6


def badge(sealed: Bundle, reproductions: Sequence[EntryRecord]) -> str:
    """The badge of a bundle, whose series has these reproductions, oldest first."""
    claim = winner_of(sealed, sealed.declared)
    again = [entry.details_as(Reproduction) for entry in reproductions]
    outcomes = [details.outcome for details in again if details.tag == sealed.tag]
    if claim is None:
        said = "nothing is better than the baseline"
    else:
        said = f"{candidate_text(claim, claim.case)}: {claim.metric} {estimate_text(claim)}, {verdict_text(claim)}"
    holds = claim is not None and outcomes[-1:] != ["not reproduced"]
    told = f"{said}{f' ({outcomes[-1]})' if outcomes else ''}"
    return _svg(sealed.tag, told, _COLOURS["improved" if holds else "other"])


def _svg(left: str, right: str, colour: str) -> str:
    texts = [html.escape(one_line(text)) for text in (left, right)]
    first, second = (round(_LETTER * len(html.unescape(text))) + 12 for text in texts)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{first + second}" height="20" role="img" '
        f'aria-label="{texts[0]}: {texts[1]}" font-family="Verdana,sans-serif" font-size="11" fill="#fff">',
        f'<rect width="{first}" height="20" fill="#24292f"/>',
        f'<rect x="{first}" width="{second}" height="20" fill="{colour}"/>',
        f'<text x="6" y="14" textLength="{first - 12}">{texts[0]}</text>',
        f'<text x="{first + 6}" y="14" textLength="{second - 12}">{texts[1]}</text>',
    ]
    return "\n".join([*lines, "</svg>"]) + "\n"
