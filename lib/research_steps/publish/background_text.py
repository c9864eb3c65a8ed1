"""The background brief as Markdown, made from records: what is known, from where, and what to try next.

Pure functions. It lies beside the records that it links to. No line begins with what somebody wrote: there it could
open a heading or a list.
"""

from collections.abc import Iterable, Sequence

from research_steps.evidence.background import Support, evidence_map, ledger
from research_steps.evidence.hypotheses import queue
from research_steps.publish import rendering
from research_steps.publish.markdown import prose
from research_steps.records.model import EntryRecord
from research_steps.records.series import Series

NONE = "- none"
_MEASURED = ("baseline", "sweep", "replicate", "interact", "interpret", "finish")


def brief(series: Series, entries: Sequence[EntryRecord]) -> str:
    """The whole brief. `entries` are those that may be shown, in the order in which they were finished."""
    link = rendering.linked("")
    found = ledger(entries)
    items = queue(series, entries)
    own = [f"- {link(entry.id)} {prose(entry.label)}: {prose(entry.result)}" for entry in entries if _measured(entry)]
    internal = [source(entry, prose, link) for entry in found.sources if entry.config["internal"]]
    parts = {
        "Question": [f"- Asked in {link(entry.id)}: {prose(entry.config['question'])}" for entry in found.briefs[-1:]],
        "Internal prior work": [*internal, *own],
        "External prior work": [source(entry, prose, link) for entry in found.sources if not entry.config["internal"]],
        "Failed leads": [
            *rendering.hypotheses([item for item in items if item.state == "falsified"], prose, link),
            *rendering.negative_results(series, entries, rendering.current_claims(series, entries), prose),
        ],
        "Evidence map": [line for row in evidence_map(items, found) for line in _row(row, link)],
        "Claims without a contradiction pass": [
            f"- {link(entry.id)}: {prose(entry.config['claim'])}" for entry in found.unchecked()
        ],
        "Ranked next experiments": [
            f"{rank}. Experiment: {prose(step['experiment'])} – falsified by: {prose(step['falsifier'])}"
            for rank, step in enumerate(found.asked["next"], 1)
        ],
    }
    lines = [f"# {series.topic}: Background Research", "", "Made from records by `research source brief`.", ""]
    for title, content in parts.items():
        lines += [f"## {title}", *([line for line in content if line != NONE] or [NONE]), ""]
    return "\n".join(lines)


def source(entry: EntryRecord, say: rendering.Say, link: rendering.Link) -> str:
    """One line of the ledger."""
    said = entry.config
    notes = f". {say(said['notes'])}" if said["notes"] else ""
    where = f"{said['type']}: {say(said['where'])}, {say(said['version'])}"
    return f"- {link(entry.id)} {say(said['claim'])} ({where}; confidence {said['confidence']}){notes}"


def _measured(entry: EntryRecord) -> bool:
    return entry.step in _MEASURED and entry.status == "ok"


def _row(row: Support, link: rendering.Link) -> list[str]:
    def linked(entries: Iterable[EntryRecord]) -> str:
        return ", ".join(link(entry.id) for entry in entries) or "none"

    return [
        f"- {prose(row.about)}",
        f"  - Support: {linked(row.support)}",
        f"  - Contradictions: {linked(row.contradictions)}",
    ]
