"""An entry of the logbook, and its living part, as Markdown made from records.

Pure functions: the same records give the same bytes. Entries follow the research logbook's template: Hypothesis,
Command, Config, Result, Interpretation, Next action, then Commit Hash and Links.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from research_steps.comparison import better, ranked
from research_steps.record import EntryRecord, IssueLink, Provenance, Ratio, Row, Seal, parse_utc
from research_steps.series import Series
from research_steps.sinks.markdown import block, code, prose, table

Say = Callable[[str], str]
INDENT = "  "
NOTHING_YET = "## TL;DR\n- Nothing was recorded yet."


def entry(record: EntryRecord, series: Series, seal: Seal | None) -> str:
    """One entry, from its heading to its last line, without markers and without a final LF."""
    when = parse_utc(record.started_at).strftime("%Y-%m-%d %H:%M")
    lines = [
        f"### {when} - {record.id} {prose(record.label)}".rstrip(),
        "",
        f"- Hypothesis: {prose(record.hypothesis) or '–'}",
        f"- Command: {code(record.provenance.command)}",
        f"- Config: {_config(record)}",
        f"- Result: {'**failed**: ' if record.status == 'failed' else ''}{prose(record.result)}",
    ]
    if record.rows:
        lines += ["", rows(record.rows, series.primary.name, INDENT), ""]
    if record.error is not None:
        lines += [
            "",
            block("\n".join([f"{record.error.type}: {record.error.message}", *record.error.frames]), INDENT),
            "",
        ]
    lines += [
        f"- Interpretation: {prose(record.interpretation) or '–'}",
        f"- Next action: {prose(record.next_action) or '–'}",
        f"- Commit Hash: {commit(record.provenance)}",
        f"- Links: {_links(record, series.topic, seal)}",
    ]
    return "\n".join(lines)


def living(series: Series, entries: Sequence[EntryRecord], issue: IssueLink | None) -> str:
    """The managed block at the head: what holds now. `entries` in the order they finished."""
    lines = ["## TL;DR", *tldr(series, entries, prose), "", "## Baseline", *baselines(series, entries, prose)]
    lines += ["", "## Hypothesis queue"]
    lines += [f"- {hypothesis.id} (active): {prose(hypothesis.text)}" for hypothesis in series.hypotheses] or ["- none"]
    lines += ["", "## Decisions", *decisions(entries, prose), "", "## Failures", *failures(entries, prose)]
    where = f"[{issue.repository}#{issue.number}]({issue.url})" if issue else f"`.agents/issues/{series.topic}.md`"
    lines += ["", "## Links", f"- Issue: {'none, the series is private' if series.private else where}"]
    return "\n".join(lines)


def tldr(series: Series, entries: Sequence[EntryRecord], say: Say) -> list[str]:
    """What is best so far, and what the last interpretation or the conclusion says."""
    done = [entry for entry in entries if entry.status == "ok"]
    lines = [f"- {_best(series, done)}"]
    read = [entry for entry in done if entry.step in ("interpret", "finish")]
    if read:
        last = read[-1]
        text = last.result if last.step == "finish" else last.interpretation
        lines += [f"- {last.id}: {say(text)}", f"- Next: {say(last.next_action)}"]
    return lines


def baselines(series: Series, entries: Sequence[EntryRecord], say: Say) -> list[str]:
    """The baseline cases with their numbers, each as it was measured last."""
    cases: dict[str, list[str]] = {}
    for entry in entries:
        if entry.step == "baseline" and entry.status == "ok":
            values = entry.rows[0].values if entry.rows else {}
            names = _primary_first(values, series.primary.name)
            case = _spelled(entry.config.get("baseline_case", {}))
            cases[case] = [
                f"- {entry.id} {say(entry.label)}",
                f"  - Date: {entry.started_at[:10]}",
                f"  - Code refs: {code(str(entry.config.get('measure')))} at {commit(entry.provenance)}",
                f"  - Case: {code(case)}",
                f"  - Baseline numbers: {say(', '.join(f'{name} {values[name]:.6g}' for name in names))}",
            ]
    return [line for lines in cases.values() for line in lines] or ["- none yet"]


def decisions(entries: Sequence[EntryRecord], say: Say, scope: bool | None = None) -> list[str]:
    """What was decided, with date, evidence and owner; only changes of the scope, or only others, when asked."""
    lines = []
    for entry in entries:
        if entry.step == "decision" and scope in (None, entry.config["scope"]):
            evidence = ", ".join(ref.id for ref in entry.inputs) or "none named"
            owner = say(str(entry.config["owner"]))
            lines.append(
                f"- {entry.finished_at[:10]} {entry.id}: {say(entry.result)} (evidence: {evidence}; owner: {owner})"
            )
    return lines or ["- none"]


def failures(entries: Sequence[EntryRecord], say: Say) -> list[str]:
    """What failed, each once, with its reason."""
    lines = {}
    for entry in entries:
        for row in entry.rows:
            if row.status == "failed":
                lines[row.trial.id] = f"- {row.trial.id} {code(changes(row))}: {code(row.note)}"
        if entry.status == "failed":
            lines[entry.id] = f"- {entry.id} {say(entry.label)}: {say(entry.result)}"
    return list(lines.values()) or ["- none"]


def _best(series: Series, entries: Sequence[EntryRecord]) -> str:
    name = series.primary.name
    rows = [row for entry in entries if entry.step in ("sweep", "interact") for row in entry.rows]
    found = [row for row in ranked(series.primary, rows) if name in row.ratios and row.changes]
    if not found or not better(series.primary, found[0].ratios[name].median, 1.0):
        return "Nothing measured yet is better than the baseline."
    row = found[0]
    what = f"{row.ratios[name].median:.3f} × the baseline's {prose(name)}"
    return f"Best so far: {code(changes(row))} with {what} ({row.trial.id})."


def _config(record: EntryRecord) -> str:
    parts = [f"{prose(name)} {code(_spelled(value))}" for name, value in record.config.items()]
    return "; ".join(parts) or "–"


def _spelled(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{name}={_spelled(item)}" for name, item in value.items())
    if isinstance(value, list):
        return ", ".join(_spelled(item) for item in value)
    return str(value)


def rows(found: Sequence[Row], primary: str, indent: str) -> str:
    """The table of a sweep."""
    metrics = _primary_first({name for row in found for name in row.values}, primary)
    header = ["trial", "changed", f"{prose(primary)} ÷ baseline", *map(prose, metrics), "note"]
    lines = []
    for row in found:
        cells = [row.trial.id, code(changes(row)), _ratio(row.ratios.get(primary))]
        cells += [f"{row.values[name]:.6g}" if name in row.values else "–" for name in metrics]
        note = f"{row.status}: {row.note}" if row.status != "ok" else row.note
        if not row.measured_here:
            note = f"measured before; {note}" if note else "measured before"
        lines.append([*cells, code(note) if note else ""])
    return table(header, lines, indent)


def _primary_first(names: Iterable[str], primary: str) -> list[str]:
    """Metric names, the primary one first; without it when nothing was measured."""
    return sorted(names, key=lambda name: (name != primary, name))


def changes(row: Row) -> str:
    """A candidate as what it changes in the baseline case."""
    changed = " ".join(f"{name}={_spelled(value)}" for name, value in row.changes.items()) or "baseline case"
    return f"{changed} #{row.replicate}" if row.replicate else changed


def _ratio(ratio: Ratio | None) -> str:
    if ratio is None:
        return "–"
    if ratio.pairs == 0:
        return f"{ratio.median:.3f} (unpaired)"
    return f"{ratio.median:.3f} ({ratio.low:.3f} to {ratio.high:.3f}, {ratio.pairs} pairs)"


def commit(provenance: Provenance) -> str:
    """The commit that a record was made from, and how the tree differed from it."""
    text = code(provenance.commit) if provenance.commit else "none"
    if provenance.branch:
        text += f" on {code(provenance.branch)}"
    if provenance.patch:
        text += f", with patch {code(provenance.patch)}"
    if provenance.patch_note:
        text += f" ({prose(provenance.patch_note)})"
    return text


def _links(record: EntryRecord, topic: str, seal: Seal | None) -> str:
    parts = [f"records [{record.id}.jsonl]({topic}/{record.id}.jsonl)"]
    if record.inputs:
        parts.append(f"rests on {', '.join(ref.id for ref in record.inputs)}")
    if seal is not None:
        parts.append(f"tag {code(seal.tag)} at {code(seal.commit)}")
    parts.append(f"output {code(record.step_key)} in the store")
    parts.append(f"by {prose(record.provenance.actor.name)} ({record.provenance.actor.kind})")
    return "; ".join(parts)
