"""The page of a report, made from the state of a thread: its text as the logbook's, its plots as data for Vega-Lite.

All text goes through the same Markdown as the logbook's, which keeps what acts as text, and data into the page as JSON
that can end no element. A content security policy lets the page run its own two scripts and load nothing.
"""

import base64
import hashlib
import html
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from research_steps.evidence.claim_text import claim_text
from research_steps.evidence.state import ThreadState
from research_steps.files import read
from research_steps.journal.snapshot import Snapshot
from research_steps.publish import forest, rendering
from research_steps.publish.markdown import code, one_line, prose, table
from research_steps.publish.report.curves import Curves
from research_steps.publish.report.plots import plots
from research_steps.publish.state_text import Words, dead_ends
from research_steps.records.encoding import Stored
from research_steps.records.model import EntryRecord
from research_steps.records.names import by_hash
from research_steps.records.objects import IssueLink, Seal

if TYPE_CHECKING:
    from markdown_it.token import Token

# A list with more lines than this is folded away at first.
UNFOLDED = 12
_OWN = re.compile(r"(?s)(<(?:script|style)>)(.*?)(</(?:script|style)>)")


def page(
    state: ThreadState,
    known: Snapshot,
    seals: Mapping[str, Seal],
    issue: IssueLink | None,
    library: str,
    curves: Curves,
    beside: str,
) -> str:
    """The whole HTML document. `state` is that of what may be shown, and `known` what it was made from; `seals` are the
    tags by the ID of their entry, `library` is the script that draws, `beside` how links lead to the records."""
    template = (read(Path(__file__).with_name("template.html")) or b"").decode()
    parts = {
        "@title@": _escaped(f"{state.series.topic}: report"),
        "@body@": _Body(state, known, seals, issue, curves, beside).text,
        "@data@": _json(plots(state, known, curves)),
        "@library@": re.sub("<(?=/script|!--)", r"\\x3c", library),
    }
    text = re.sub("|".join(parts), lambda match: parts[match[0]], template)
    return text.replace("@policy@", _policy(text), 1)


class _Body:
    """The part of the page that is made of records."""

    def __init__(
        self,
        state: ThreadState,
        known: Snapshot,
        seals: Mapping[str, Seal],
        issue: IssueLink | None,
        curves: Curves,
        beside: str,
    ) -> None:
        self._beside = beside
        self._state, self._known, self._seals, self._issue, self._curves = state, known, seals, issue, curves
        ids: list[str] = []
        # Two branches may have used one ID: the first one has it as its anchor.
        for entry in state.entries:
            id = entry.record.id
            ids.append(id if id not in ids else by_hash(id, entry.sha256))
        self._entry_ids = ids
        self._free = {row.trial.id for entry in state.entries for row in entry.record.rows} - {*ids}
        self._anchors = {*ids, *self._free}

    @property
    def text(self) -> str:
        state = self._state
        link = self._link
        stuck = [f"- No improvement in {state.stuck} trials."] if state.stuck is not None else []
        lists = {
            "Baselines": rendering.baselines(state, prose),
            "Hypotheses": [*rendering.hypotheses(state.hypotheses, prose, link), *stuck],
            "Decisions": rendering.decisions(state, prose, link),
            "Dead ends": [f"- {line}" for line in dead_ends(state, Words(prose, code, link))] or ["- none"],
            "Corrected and moved": rendering.revisions(state, prose, link),
        }
        told = ["Curves"] if self._curves.entries or self._curves.left_out else []
        titles = ["The climb", "Against the baseline", *told, *lists, "Entries"]
        parts = [self._head(titles), self._climb(), self._forest(), *([self._told()] if told else [])]
        parts += [self._list(title, lines) for title, lines in lists.items()]
        entries = "".join(map(self._entry, self._entry_ids, state.entries)) or "<p>Nothing was recorded yet.</p>"
        return "\n".join([*parts, f'{_heading("Entries")}<div id="entries">{entries}</div></section>'])

    def _head(self, titles: Iterable[str]) -> str:
        state, series = self._state, self._state.series
        last = max((entry.record.finished_at for entry in state.entries), default="")
        trials = len({row.trial.sha256 for entry in state.entries for row in entry.record.rows})
        facts = [f"{len(state.entries)} entries, {trials} trials", *([f"last of {last}"] if last else [])]
        if series.private:
            facts.append("**private: this file is for this machine, do not pass it on**")
        elif self._issue is not None:
            facts.append(f"issue [{self._issue.repository}#{self._issue.number}]({self._issue.url})")
        unread = len(self._known.problems) + len(self._known.newer)
        lost = [f"- {unread} records could not be read: `research status {series.topic}` names them."] if unread else []
        links = "".join(f'<li><a href="#{_slug(title)}">{title}</a></li>' for title in titles)
        lines = "\n".join([*rendering.tldr(state, prose), *lost])
        return (
            f"<header><h1>{_escaped(series.topic)}</h1><p>{self._inline(prose(series.goal))}</p>"
            f'<p class="facts">{self._inline("; ".join(facts))}</p>{self._markdown(lines)}</header>'
            f'<nav aria-label="Sections"><ul>{links}</ul></nav>'
        )

    def _climb(self) -> str:
        metric = _escaped(self._state.series.primary.name)
        says = (
            f"Each attempt in its order, by what its entry says of {metric}; bars are 95 % intervals, and the "
            "line is the best that counts now, for each baseline case. What stands at the foot has no estimate. A click "
            "leads to the trial; the tables of the entries hold the same numbers."
        )
        return f'{_heading("The climb")}<p>{says}</p><div class="scroll" id="climb-plot"></div></section>'

    def _forest(self) -> str:
        drawn, parts = forest.forest(self._state), []
        for title, claims, also, more in forest.groups(self._state):
            lines = []
            for claim in (*claims, *also):
                said = claim_text(claim) if claim.estimate is not None else forest.reason(self._state, claim)
                on = " ".join(self._link(ref.id) for ref in claim.trials[:3])
                on += f" and {len(claim.trials) - 3} more" if len(claim.trials) > 3 else ""
                lines.append([code(forest.label(self._state, claim)), prose(said), str(claim.processes), on])
            cells = table(["candidate", "÷ baseline (95 %), verdict", "processes", "rests on"], lines, "")
            left = f"<p>{more} more candidates stand in the entries.</p>" if more else ""
            parts.append(f"<h3>{_escaped(title)}</h3>{self._markdown(cells)}{left}")
        if not drawn:
            return f"{_heading('Against the baseline')}<p>Nothing is claimed yet.</p></section>"
        wide = f'<div class="scroll" tabindex="0" role="group" aria-label="Forest plot">{drawn}</div>'
        tables = f"<details><summary>The same as tables</summary>{''.join(parts)}</details>"
        return f"{_heading('Against the baseline')}{wide}{tables}</section>"

    def _told(self) -> str:
        """Which entries have curves, which the page draws where an entry is opened."""
        entries = ", ".join(map(self._link, self._curves.entries))
        says = f"What trials told while they ran is drawn in their entries, a thin line for each: {entries}."
        sentences = [*([says] if entries else []), *map(prose, self._curves.left_out)]
        return f"{_heading('Curves')}{self._markdown(' '.join(sentences))}</section>"

    def _list(self, title: str, lines: Sequence[str]) -> str:
        text = self._markdown("\n".join(lines))
        count = sum(line.startswith("- ") for line in lines)
        folded = f"<details><summary>All {count}</summary>{text}</details>" if count > UNFOLDED else text
        return f"{_heading(title)}{folded}</section>"

    def _entry(self, anchor: str, stored: Stored[EntryRecord]) -> str:
        record = stored.record
        seal = self._seals.get(record.id)
        text = rendering.entry(record, self._state.series, seal, self._known, self._beside)
        head, _, body = text.partition("\n")
        doubts = [f"rests on {doubt}" for doubt in self._known.doubts(stored.sha256)]
        doubts += ["retracted"] if stored.sha256 in self._state.retracted else []
        marks = "".join(f" <mark>{_escaped(doubt)}</mark>" for doubt in doubts)
        return (
            f'<details class="entry" id="{anchor}" data-hash="{stored.sha256}"><summary><h3>'
            f"{self._inline(head.removeprefix('### '))}</h3>{marks}</summary>{self._markdown(body)}</details>\n"
        )

    def _link(self, id: str) -> str:
        return f"[{id}](#{id})" if id in self._anchors else id

    @cached_property
    def _parser(self) -> Any:
        from markdown_it import MarkdownIt

        parser = MarkdownIt("commonmark", {"html": False}).enable("table").disable(["image", "autolink", "html_inline"])
        box = '<div class="scroll" tabindex="0" role="group" aria-label="Table"><table>\n'
        parser.add_render_rule("table_open", lambda *_: box)
        parser.add_render_rule("table_close", lambda *_: "</table></div>\n")
        return parser

    def _inline(self, text: str) -> str:
        return str(self._parser.renderInline(text))

    def _markdown(self, text: str) -> str:
        tokens = self._parser.parse(text)
        for number, token in enumerate(tokens):
            if token.type == "tr_open" and tokens[number + 1].type == "td_open":
                self._anchor(token, tokens[number + 2].content)
        return str(self._parser.renderer.render(tokens, self._parser.options, {}))

    def _anchor(self, row: "Token", id: str) -> None:
        if id in self._free:
            row.attrSet("id", id)
            self._free.discard(id)


def _heading(title: str) -> str:
    return f'<section aria-labelledby="{_slug(title)}"><h2 id="{_slug(title)}">{title}</h2>'


def _slug(title: str) -> str:
    return title.lower().replace(" ", "-")


def _escaped(text: str) -> str:
    return html.escape(one_line(text))


def _json(data: Any) -> str:
    """As JSON in which nothing ends its element or opens another."""
    text = json.dumps(data, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _policy(text: str) -> str:
    hashes: dict[str, list[str]] = {"<script>": [], "<style>": []}
    for opening, own, _ in _OWN.findall(text):
        hashes[opening].append(f"'sha256-{base64.b64encode(hashlib.sha256(own.encode()).digest()).decode()}'")
    allowed = f"script-src {' '.join(hashes['<script>'])}; style-src {' '.join(hashes['<style>'])}"
    return f"default-src 'none'; {allowed}; img-src data:; base-uri 'none'; form-action 'none'"
