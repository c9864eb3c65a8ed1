"""An entry of the logbook, and its summary, as Markdown made from records.

Pure functions: the same records give the same bytes. Entries follow the research logbook's template: Hypothesis,
Command, Config, Result, Interpretation, Next action, then where it was measured, Commit Hash and Links; in another
repository they follow that one's, whose times say UTC.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from research_steps.evidence.claim_text import effect_text, estimate_text, verdict_text
from research_steps.evidence.effects import Estimate, each_estimate, own_estimate
from research_steps.evidence.hypotheses import SAYS, Item
from research_steps.evidence.others import short
from research_steps.evidence.standing import claims_in, on_primary
from research_steps.evidence.state import ThreadState
from research_steps.journal.snapshot import Snapshot
from research_steps.publish import state_text
from research_steps.publish.forest import FOREST
from research_steps.publish.markdown import block, code, prose, table
from research_steps.publish.state_text import Words
from research_steps.records.model import Claim, EntryRecord, Provenance, Ref, Row, Samples, TrialRecord
from research_steps.records.numbers import listed, percent, quantity, spelled
from research_steps.records.objects import IssueLink, Seal
from research_steps.records.series import Metric, Series
from research_steps.records.step_kinds import STEP_KINDS, Adopted, Attachment, Decision, Measurement
from research_steps.records.times import parse_utc

Say = Callable[[str], str]
# From the ID of a record to Markdown that leads there.
Link = Callable[[str], str]


@dataclass(frozen=True)
class Style:
    """How an entry spells what repositories ask for differently."""

    zone: str
    source: str
    links: str


# As the research logbook's template has it, and as repositories of logbooks do.
TEMPLATE, OF_LOGBOOKS = Style("", "Commit Hash", "Links"), Style(" UTC", "Source revision", "Evidence")
# What a trial measured, None where it has no samples or is not known here.
SamplesOf = Callable[[Ref], Samples | None]
INDENT = "  "
OTHERS_SHOWN = 20
NOTHING_YET = "## TL;DR\n- Nothing was recorded yet."


def entry(
    record: EntryRecord, series: Series, seal: Seal | None, known: Snapshot, beside: str, style: Style = TEMPLATE
) -> str:
    """One entry, from its heading to its last line, without markers and without a final LF. The trials in its table are
    looked up in what is `known`; `beside` is how links lead to its records."""
    when = parse_utc(record.started_at).strftime("%Y-%m-%d %H:%M")
    lines = [
        f"### {when}{style.zone} - {record.id} {prose(record.label)}".rstrip(),
        "",
        f"- Hypothesis: {prose(record.hypothesis) or '–'}",
        f"- Command: {code(record.provenance.command)}",
        f"- Config: {_config(record)}",
        f"- Result: {'**failed**: ' if record.status == 'failed' else ''}{prose(record.result)}",
    ]
    if record.rows:
        lines += ["", rows(record.rows, claims_in(record), series.primary, INDENT, prose, known.samples), ""]
    if isinstance(record.details, Adopted):
        lines += ["", *_of_others(record, record.details, series, beside), ""]
    if record.error is not None:
        report = "\n".join([f"{record.error.type}: {record.error.message}", *record.error.frames])
        lines += ["", block(report, INDENT), ""]
    trials = known.trials_of(row.trial for row in record.rows)
    machines = dict.fromkeys(machine(trial.record) for trial in trials)
    lines += [
        f"- Interpretation: {prose(record.interpretation) or '–'}",
        f"- Next action: {prose(record.next_action) or '–'}",
        *([f"- Hardware: {'; '.join(machines)}"] if machines else []),
        f"- {style.source}: {commit(record.provenance, prose)}",
        f"- {style.links}: {_links(record, beside, seal)}",
    ]
    return "\n".join(lines)


def machine(trial: TrialRecord) -> str:
    """What a trial ran on: the kind of machine, and the devices that JAX saw."""
    devices = ", ".join(f"{device.count} × {code(f'{device.backend} {device.kind}')}" for device in trial.devices)
    return f"{code(trial.device_class)}, devices: {devices or 'none seen by JAX'}"


def _of_others(record: EntryRecord, details: Adopted, series: Series, beside: str) -> list[str]:
    metrics = [metric.name for metric in series.metrics if any(metric.name in row.metrics for row in details.rows)]
    cells = [
        [
            *(quantity(name, row.metrics[name]) if name in row.metrics else "–" for name in metrics),
            *(code(short(text)) if text else "–" for text in (row.outcome, row.note, spelled(row.fields))),
        ]
        for row in details.rows[:OTHERS_SHOWN]
    ]
    more = len(details.rows) - len(cells)
    where = f"[{record.id}.jsonl]({beside}{record.id}.jsonl)"
    return [
        table([*map(prose, metrics), "outcome", "description", "fields"], cells, INDENT),
        *(["", f"{INDENT}{more} more rows are in {where}."] if more else []),
        *(["", f"{INDENT}Not read: {code('; '.join(details.unread))}"] if details.unread else []),
    ]


def summary(state: ThreadState, issue: IssueLink | None, beside: str) -> str:
    """The managed block at the head of the logbook: what holds now. `beside` is how links lead to its records."""
    series = state.series
    lines = ["## TL;DR", *tldr(state, prose), "", "## Baseline", *baselines(state, prose)]
    link = linked(beside)
    lines += ["", "## Hypothesis queue", *hypotheses(state.hypotheses, prose, link)]
    if state.stuck is not None:
        lines.append(f"- No improvement in {state.stuck} trials: forage again with `research source`.")
    lines += ["", "## Decisions", *decisions(state, prose, link)]
    lines += ["", "## Negative results", *negative_results(state, prose)]
    lines += ["", "## Corrected and moved", *revisions(state, prose, link)]
    where = f"[{issue.repository}#{issue.number}]({issue.url})" if issue else f"`.agents/issues/{series.topic}.md`"
    lines += ["", "## Links", f"- Issue: {'none, the series is private' if series.private else where}"]
    lines.append(f"- Report: `research report {series.topic}` writes `.agents/reports/{series.topic}.html`")
    if on_primary(series, state.claims):
        lines.append(f"- Forest plot: ![Claims against the baseline]({beside}{FOREST})")
    return "\n".join(lines)


def tldr(state: ThreadState, say: Say) -> list[str]:
    """What is best so far with all that speaks against it, what is open, and what to do next."""
    words = Words(say, code)
    lines = [line for answer in state_text.answers(state, words) for line in answer.lines]
    lines += [f"- {text}" for text in (state_text.stop(state, words), state_text.sealed(state, words))]
    lines += [f"- Not settled: {text}" for text in state_text.unsettled(state, words)]
    lines += [f"- Not counted: {say(text)}" for text in state.unfounded]
    lines += [f"- {text}" for text in state_text.reading(state, words)]
    return [*lines, f"- Next: {'; '.join(state_text.next_commands(state, words)) or 'nothing that a rule names'}"]


def baselines(state: ThreadState, say: Say) -> list[str]:
    """The baseline cases in force with their numbers, each as it was measured last."""
    lines = []
    for baseline in state.baselines:
        entry, values = baseline.entry, baseline.numbers
        numbers = listed(values, state.series.primary.name)
        noise = ", ".join(f"{name} {percent(floor.spread)}" for name, floor in (entry.floor or {}).items())
        measure = f"{code(entry.details.measure)} at " if isinstance(entry.details, Measurement) else ""
        lines += [
            f"- {entry.id} {say(baseline.label)}",
            f"  - Date: {entry.started_at[:10]}",
            f"  - Machine: {say(baseline.machine) or 'not known here'}",
            f"  - Code refs: {measure}{commit(entry.provenance, say)}",
            f"  - Case: {code(spelled(baseline.case))}",
            f"  - Baseline numbers: {say(numbers) or f'not measured since {entry.id} moved it'}",
            f"  - Noise floor: {say(noise) or 'none'}",
        ]
    return lines or ["- none yet"]


def linked(beside: str) -> Link:
    """How a file links to a record: by the file of its entry's records, which links lead to like this."""
    return lambda id: f"[{id}]({beside}{id.partition('.')[0]}.jsonl)"


def hypotheses(items: Sequence[Item], say: Say, link: Link) -> list[str]:
    """The queue by state: each hypothesis with what its last change says and rests on."""
    lines = []
    for item in sorted(items, key=lambda item: list(SAYS).index(item.state)):
        line = f"- {item.id} ({item.state}): {say(item.text)}"
        if item.because:
            line += f" – {SAYS[item.state]}: {say(item.because)}"
        where = [link(change.id) for change in item.changes[-1:]]
        where += [f"rests on {', '.join(map(link, item.evidence))}"] if item.evidence else []
        line += f" ({', '.join(where)})" if where else ""
        lines.append(line)
    return lines or ["- none"]


def decisions(state: ThreadState, say: Say, link: Link, scope: bool | None = None) -> list[str]:
    """What was decided, with date, evidence and owner; only changes of the scope, or only others, when asked."""
    lines = []
    for entry in state.decisions:
        decision = entry.details_as(Decision)
        if scope in (None, decision.scope):
            evidence = ", ".join(link(ref.id) for ref in entry.inputs) or "none named"
            text = f"{link(entry.id)}: {say(entry.result)}"
            lines.append(f"- {entry.finished_at[:10]} {text} (evidence: {evidence}; owner: {say(decision.owner)})")
    return lines or ["- none"]


def negative_results(state: ThreadState, say: Say) -> list[str]:
    """What failed, with its reason, and what did not help, each once."""
    return [f"- {text}" for text in state_text.dead_ends(state, Words(say, code))] or ["- none"]


def revisions(state: ThreadState, say: Say, link: Link) -> list[str]:
    """What was corrected or taken back, why, and what rested on it; and where the baseline moved to."""
    lines = [f"- {entry.finished_at[:10]} {link(entry.id)}: {say(entry.result)}" for entry in state.revisions]
    return lines or ["- none"]


def _config(record: EntryRecord) -> str:
    config = dict(record.config)
    if record.step == "adopted":
        # They stand in a table.
        config = {"source": config["source"]}
    if STEP_KINDS[record.step].tabulates and record.rows:
        case = config.pop("baseline_case", {})
        varied = {name for row in record.rows for name in row.changes}.union(config.get("over", {}))
        config["varied from"] = {name: value for name, value in case.items() if name in varied}
        config["held fixed"] = {name: value for name, value in case.items() if name not in varied}
    parts = [f"{prose(name)} {code(spelled(value))}" for name, value in config.items()]
    return "; ".join(parts) or "–"


def rows(
    trials: Sequence[Row], claims: Sequence[Claim], primary: Metric, indent: str, say: Say, samples: SamplesOf
) -> str:
    """The table of a sweep: what is claimed of each row, and what was measured. A row that is one of several processes
    of a claim, or that nothing is claimed of, shows what its own process says, without an interval."""
    own = _own_estimates(trials, claims, primary, samples)
    metrics = _primary_first({name for row in trials for name in row.values}, primary.name)
    claimed = {ref.sha256: claim for claim in claims if claim.metric == primary.name for ref in claim.trials}
    expects = any(claim.expected is not None for claim in claimed.values())
    header = ["trial", "changed", f"{say(primary.name)} ÷ baseline (95 %)", "verdict"]
    header += [*(["expected on replication"] if expects else []), *map(say, metrics), "note"]
    lines = []
    for row in trials:
        claim = claimed.get(row.trial.sha256)
        cells = [row.trial.id, code(changes(row)), *_claimed(claim, own.get(row.trial.sha256, "–"))]
        cells += [_expected(claim)] if expects else []
        cells += [quantity(name, row.values[name]) if name in row.values else "–" for name in metrics]
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


def _own_estimates(trials: Sequence[Row], claims: Sequence[Claim], metric: Metric, samples: SamplesOf) -> dict[str, str]:
    """What the process of each row says by itself, in words, by the hash of its trial; on its claim's scale."""
    several = [claim for claim in claims if claim.metric == metric.name and len(claim.trials) > 1]
    claimed = {ref.sha256 for claim in claims if claim.metric == metric.name for ref in claim.trials}
    told: dict[str, Estimate] = {}
    for claim in several:
        estimates = each_estimate(metric, {ref.sha256: samples(ref) for ref in claim.trials})
        told |= {sha: own for sha, own in estimates.items() if own.estimand == claim.estimand}
    for row in trials:
        if row.status == "ok" and row.trial.sha256 not in claimed:
            estimate = own_estimate(metric, samples(row.trial))
            told |= {row.trial.sha256: estimate} if estimate is not None else {}
    said = {sha: effect_text(own.estimand, own.value, metric.name) for sha, own in told.items()}
    # Where repetitions go over a field, such as the seed, that is beside the baseline at the same value.
    repeated = {ref.sha256 for claim in several if claim.over for ref in claim.trials} - said.keys()
    beside = [row for row in trials if row.trial.sha256 in repeated and metric.name in row.ratios]
    return said | {row.trial.sha256: effect_text("ratio", row.ratios[metric.name].median) for row in beside}


def _claimed(claim: Claim | None, alone: str) -> list[str]:
    """Estimate and verdict of a row."""
    if claim is None:
        return [alone, "–"]
    return [alone if len(claim.trials) > 1 else estimate_text(claim), verdict_text(claim)]


def _expected(claim: Claim | None) -> str:
    if claim is None or claim.expected is None:
        return "–"
    return effect_text(claim.estimand, claim.expected, claim.metric)


def _primary_first(names: Iterable[str], primary: str) -> list[str]:
    """Metric names, the primary one first; without it when nothing was measured."""
    return sorted(names, key=lambda name: (name != primary, name))


def changes(row: Row) -> str:
    """A candidate as what it changes in the baseline case."""
    changed = spelled(row.changes) or "baseline case"
    return f"{changed} #{row.replicate}" if row.replicate else changed


def commit(provenance: Provenance, say: Say) -> str:
    """The commit that a record was made from, and how the tree differed from it."""
    text = code(provenance.commit) if provenance.commit else "none"
    if provenance.branch:
        text += f" on {code(provenance.branch)}"
    if provenance.patch:
        text += f", with patch {code(provenance.patch)}"
    if provenance.patch_note:
        text += f" ({say(provenance.patch_note)})"
    return text


def _links(record: EntryRecord, beside: str, seal: Seal | None) -> str:
    parts = [f"records [{record.id}.jsonl]({beside}{record.id}.jsonl)"]
    if record.inputs:
        parts.append(f"rests on {', '.join(ref.id for ref in record.inputs)}")
    if isinstance(record.details, Attachment) and record.details.file:
        name = record.details.file
        parts.append(f"file [{code(name)}]({beside}attachments/{name})")
    if seal is not None:
        parts.append(f"tag {code(seal.tag)} at {code(seal.commit)}")
    if record.mode != "dev":
        parts.append(f"output {code(record.step_key)} in the store")
    parts.append(f"by {prose(record.provenance.actor.name)} ({record.provenance.actor.kind})")
    return "; ".join(parts)
