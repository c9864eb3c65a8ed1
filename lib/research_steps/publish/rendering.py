"""An entry of the logbook, and its living part, as Markdown made from records.

Pure functions: the same records give the same bytes. Entries follow the research logbook's template: Hypothesis,
Command, Config, Result, Interpretation, Next action, then Commit Hash and Links.
"""

import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from research_steps.evidence.background import stuck
from research_steps.evidence.claims import ROUTINE_NOTE, best, claims_in, judged, measured, standing, together, told
from research_steps.evidence.hypotheses import SAYS, Item, queue
from research_steps.publish.markdown import block, code, prose, table
from research_steps.records.model import Claim, EntryRecord, Provenance, Row
from research_steps.records.objects import IssueLink, Seal
from research_steps.records.series import Metric, Series
from research_steps.records.times import parse_utc

Say = Callable[[str], str]
# From the ID of a record to Markdown that leads there.
Link = Callable[[str], str]
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
        lines += ["", rows(record.rows, claims_in(record), series.primary, INDENT), ""]
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
    claims = current_claims(series, entries)
    lines = ["## TL;DR", *tldr(series, entries, claims, prose), "", "## Baseline", *baselines(series, entries, prose)]
    link = linked(f"{series.topic}/")
    lines += ["", "## Hypothesis queue", *hypotheses(queue(series, entries), prose, link)]
    trials = stuck(series, entries)
    if trials is not None:
        lines.append(f"- No improvement in {trials} trials: forage again with `research source`.")
    lines += ["", "## Decisions", *decisions(entries, prose, link)]
    lines += ["", "## Negative results", *negative_results(series, entries, claims, prose)]
    lines += ["", "## Corrected and moved", *revisions(entries, prose, link)]
    where = f"[{issue.repository}#{issue.number}]({issue.url})" if issue else f"`.agents/issues/{series.topic}.md`"
    lines += ["", "## Links", f"- Issue: {'none, the series is private' if series.private else where}"]
    return "\n".join(lines)


def tldr(series: Series, entries: Sequence[EntryRecord], claims: Sequence[Claim], say: Say) -> list[str]:
    """What is best so far, and what the last interpretation or the conclusion says."""
    done = [entry for entry in entries if entry.status == "ok"]
    lines = [f"- {_best(series, claims)}"]
    gone = _retracted(entries)
    read = [entry for entry in done if entry.step in ("interpret", "finish") and entry.id not in gone]
    if read:
        last = read[-1]
        text = last.result if last.step == "finish" else last.interpretation
        lost = sorted({ref.id for ref in last.inputs} & gone)
        doubt = f" ({', '.join(lost)}, which it rests on, {'is' if len(lost) == 1 else 'are'} retracted)" if lost else ""
        lines += [f"- {last.id}: {say(text)}{doubt}", f"- Next: {say(last.next_action)}"]
    return lines


def baselines(series: Series, entries: Sequence[EntryRecord], say: Say) -> list[str]:
    """The baseline cases with their numbers, each as it was measured last."""
    cases: dict[str, list[str]] = {}
    gone = _retracted(entries)
    for entry in entries:
        if entry.step == "baseline" and entry.status == "ok" and entry.id not in gone:
            values = numbers(entry)
            names = _primary_first(values, series.primary.name)
            floor = ", ".join(f"{name} {one.spread:.2%}" for name, one in (entry.floor or {}).items())
            case = _spelled(entry.config.get("baseline_case", {}))
            cases[case] = [
                f"- {entry.id} {say(entry.label)}",
                f"  - Date: {entry.started_at[:10]}",
                f"  - Code refs: {code(str(entry.config.get('measure')))} at {commit(entry.provenance)}",
                f"  - Case: {code(case)}",
                f"  - Baseline numbers: {say(', '.join(f'{name} {values[name]:.6g}' for name in names))}",
                f"  - Noise floor: {say(floor) or 'none'}",
            ]
    return [line for lines in cases.values() for line in lines] or ["- none yet"]


def numbers(baseline: EntryRecord) -> dict[str, float]:
    """What a baseline measured: the median of its processes, for each metric that they share."""
    columns = [row.values for row in baseline.rows] or [{}]
    names = set(columns[0]).intersection(*columns)
    return {name: statistics.median(values[name] for values in columns) for name in names}


def linked(folder: str) -> Link:
    """How a file links to a record: by the file of its entry's records, in this folder."""
    return lambda id: f"[{id}]({folder}{id.partition('.')[0]}.jsonl)"


def hypotheses(items: Sequence[Item], say: Say, link: Link) -> list[str]:
    """The queue by state: each hypothesis with what its last change says and rests on."""
    lines = []
    for item in sorted(items, key=lambda item: list(SAYS).index(item.state)):
        line = f"- {item.id} ({item.state}): {say(item.text)}"
        if item.because:
            line += f" – {SAYS[item.state]}: {say(item.because)}"
        if item.changes:
            on = ", ".join(map(link, item.evidence))
            line += f" ({link(item.changes[-1].id)}{f', rests on {on}' if on else ''})"
        lines.append(line)
    return lines or ["- none"]


def decisions(entries: Sequence[EntryRecord], say: Say, link: Link, scope: bool | None = None) -> list[str]:
    """What was decided, with date, evidence and owner; only changes of the scope, or only others, when asked."""
    lines = []
    for entry in entries:
        if entry.step == "decision" and scope in (None, entry.config["scope"]):
            evidence = ", ".join(link(ref.id) for ref in entry.inputs) or "none named"
            owner = say(str(entry.config["owner"]))
            said = f"{link(entry.id)}: {say(entry.result)}"
            lines.append(f"- {entry.finished_at[:10]} {said} (evidence: {evidence}; owner: {owner})")
    return lines or ["- none"]


def negative_results(series: Series, entries: Sequence[EntryRecord], claims: Sequence[Claim], say: Say) -> list[str]:
    """What failed, with its reason, and what did not help, each once; a slip in the code is neither."""
    lines = {}
    gone = _retracted(entries)
    for entry in entries:
        for row in entry.rows:
            if row.status == "failed" and not row.note.startswith(ROUTINE_NOTE) and row.trial.id not in gone:
                lines[row.trial.id] = f"- {row.trial.id} {code(changes(row))} failed: {code(row.note)}"
        if entry.status == "failed" and entry.id not in gone:
            lines[entry.id] = f"- {entry.id} {say(entry.label)}: {say(entry.result)}"
    for claim in claims:
        if claim.metric == series.primary.name and claim.verdict in ("regressed", "no difference"):
            id = claim.trials[0].id
            lines[id] = f"- {id} {code(_spelled(claim.changes))}: {say(claim.metric)} {told(claim)}"
    return list(lines.values()) or ["- none"]


def revisions(entries: Sequence[EntryRecord], say: Say, link: Link) -> list[str]:
    """What was corrected or taken back, why, and what rested on it; and where the baseline moved to."""
    lines = [
        f"- {entry.finished_at[:10]} {link(entry.id)}: {say(entry.result)}"
        for entry in entries
        if entry.step in ("correction", "retraction", "rebase")
    ]
    return lines or ["- none"]


def _retracted(entries: Sequence[EntryRecord]) -> set[str]:
    """The IDs of what counts no more."""
    return {ref.id for entry in entries if entry.step == "retraction" for ref in entry.inputs}


def _best(series: Series, claims: Sequence[Claim]) -> str:
    found = best(series, claims)
    if found is None:
        return "Nothing measured yet is better than the baseline."
    on = ", ".join(ref.id for ref in found.trials)
    what = code(_spelled(found.changes))
    return f"Best so far: {what} with {prose(found.metric)} {told(found)} against {found.baseline.id} ({on})."


def current_claims(series: Series, entries: Sequence[EntryRecord]) -> list[Claim]:
    """The claims that count now, against a baseline case that is in force now."""
    cases = list(_cases(entries).values())
    return [claim for claim in together(series, standing(entries)) if claim.case in cases]


def _cases(entries: Sequence[EntryRecord]) -> dict[str, Any]:
    """Each baseline's case, as it was measured or moved last."""
    cases: dict[str, Any] = {}
    gone = _retracted(entries)
    for entry in entries:
        if entry.id in gone:
            continue
        if entry.status == "ok" and entry.step == "baseline":
            cases[entry.label] = entry.config.get("baseline_case", {})
        elif entry.step == "rebase":
            cases[str(entry.config["baseline"])] = entry.config["to"]
    return cases


def _config(record: EntryRecord) -> str:
    config = dict(record.config)
    if record.step in ("sweep", "interact", "dev") and record.rows:
        case = config.pop("baseline_case", {})
        varied = {name for row in record.rows for name in row.changes}
        config["varied from"] = {name: value for name, value in case.items() if name in varied}
        config["held fixed"] = {name: value for name, value in case.items() if name not in varied}
    parts = [f"{prose(name)} {code(_spelled(value))}" for name, value in config.items()]
    return "; ".join(parts) or "–"


def _spelled(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{name}={_spelled(item)}" for name, item in value.items())
    if isinstance(value, list):
        return ", ".join(_spelled(item) for item in value)
    return str(value)


def rows(found: Sequence[Row], claims: Sequence[Claim], primary: Metric, indent: str) -> str:
    """The table of a sweep: what is claimed of each row, and what was measured."""
    metrics = _primary_first({name for row in found for name in row.values}, primary.name)
    said = {ref.sha256: claim for claim in claims if claim.metric == primary.name for ref in claim.trials}
    header = ["trial", "changed", f"{prose(primary.name)} ÷ baseline (95 %)", "verdict", *map(prose, metrics), "note"]
    lines = []
    for row in found:
        claim = said.get(row.trial.sha256)
        cells = [row.trial.id, code(changes(row)), *_claimed(row, claim, primary.name)]
        cells += [f"{row.values[name]:.6g}" if name in row.values else "–" for name in metrics]
        note = _note(row, claim)
        lines.append([*cells, code(note) if note else ""])
    return table(header, lines, indent)


def _note(row: Row, claim: Claim | None) -> str:
    notes = ["" if row.measured_here else "measured before", row.note]
    if row.status != "ok":
        notes = [f"{row.status}: {'; '.join(filter(None, notes))}"]
    elif claim is not None and len(claim.trials) == 1 and not row.contended:
        notes.append(claim.why)
    return "; ".join(filter(None, notes))


def _claimed(row: Row, claim: Claim | None, primary: str) -> list[str]:
    """Ratio and verdict of a row. One of several processes of a claim shows its own ratio, without an interval."""
    ratio = row.ratios.get(primary)
    alone = f"{ratio.median:.3f} ×" if ratio is not None and ratio.pairs else "–"
    if claim is None:
        return [alone, "–"]
    together = len(claim.trials) > 1
    return [alone if together else measured(claim), judged(claim)]


def _primary_first(names: Iterable[str], primary: str) -> list[str]:
    """Metric names, the primary one first; without it when nothing was measured."""
    return sorted(names, key=lambda name: (name != primary, name))


def changes(row: Row) -> str:
    """A candidate as what it changes in the baseline case."""
    changed = " ".join(f"{name}={_spelled(value)}" for name, value in row.changes.items()) or "baseline case"
    return f"{changed} #{row.replicate}" if row.replicate else changed


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
    if record.step == "attachment" and "file" in record.config:
        name = str(record.config["file"])
        parts.append(f"file [{code(name)}]({topic}/attachments/{name})")
    if seal is not None:
        parts.append(f"tag {code(seal.tag)} at {code(seal.commit)}")
    if record.mode != "dev":
        parts.append(f"output {code(record.step_key)} in the store")
    parts.append(f"by {prose(record.provenance.actor.name)} ({record.provenance.actor.kind})")
    return "; ".join(parts)
