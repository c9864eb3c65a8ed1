"""The background brief as Markdown, made from records: what is known, from where, and what to try next.

Pure functions. It lies beside the records that it links to. No line begins with what somebody wrote: there it could
open a heading or a list.
"""

from research_steps.evidence.background import Support, evidence_map
from research_steps.evidence.state import ThreadState
from research_steps.publish import rendering
from research_steps.publish.markdown import prose
from research_steps.records.model import EntryRecord
from research_steps.records.step_kinds import STEP_KINDS, Source

NONE = "- none"


def brief(state: ThreadState) -> str:
    """The whole brief."""
    link = rendering.linked("")
    ledger, items = state.background, state.hypotheses
    entries = [entry.record for entry in state.entries]
    own = [f"- {link(entry.id)} {prose(entry.label)}: {prose(entry.result)}" for entry in entries if _measured(entry)]
    internal = [entry for entry in ledger.sources if entry.details_as(Source).internal]
    external = [entry for entry in ledger.sources if entry not in internal]
    parts = {
        "Question": [f"- Asked in {link(entry.id)}: {prose(ledger.brief.question)}" for entry in ledger.briefs[-1:]],
        "Internal prior work": [*(source(entry, prose, link) for entry in internal), *own],
        "External prior work": [source(entry, prose, link) for entry in external],
        "Failed leads": [
            *rendering.hypotheses([item for item in items if item.state == "falsified"], prose, link),
            *rendering.negative_results(state, prose),
        ],
        "Evidence map": [line for row in evidence_map(items, ledger) for line in _row(row, link)],
        "Claims without a contradiction pass": [
            f"- {link(entry.id)}: {prose(entry.details_as(Source).claim)}" for entry in ledger.unchecked()
        ],
        "Ranked next experiments": [
            f"{rank}. Experiment: {prose(step.experiment)} – falsified by: {prose(step.falsifier)}"
            for rank, step in enumerate(ledger.brief.next, 1)
        ],
    }
    lines = [f"# {state.series.topic}: Background Research", "", "Made from records by `research source brief`.", ""]
    for title, content in parts.items():
        lines += [f"## {title}", *([line for line in content if line != NONE] or [NONE]), ""]
    return "\n".join(lines)


def source(entry: EntryRecord, say: rendering.Say, link: rendering.Link) -> str:
    """One line of the ledger."""
    details = entry.details_as(Source)
    notes = f". {say(details.notes)}" if details.notes else ""
    where = f"{say(details.type)}: {say(details.where)}, {say(details.version)}"
    return f"- {link(entry.id)} {say(details.claim)} ({where}; confidence {say(details.confidence)}){notes}"


def _measured(entry: EntryRecord) -> bool:
    concludes = entry.step in ("interpret", "finish")
    measured = STEP_KINDS[entry.step].has_trials and entry.mode != "dev"
    return (measured or concludes) and entry.status == "ok"


def _row(row: Support, link: rendering.Link) -> list[str]:
    support, contradictions = (
        ", ".join(link(entry.id) for entry in side) or "none" for side in (row.support, row.contradictions)
    )
    return [f"- {prose(row.about)}", f"  - Support: {support}", f"  - Contradictions: {contradictions}"]
