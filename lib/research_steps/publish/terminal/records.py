"""Records as text: one by itself, and two trials side by side."""

import shlex
from typing import Any

from research_steps.evidence.claim_text import changes_text, claim_text, effect_text, variant_text
from research_steps.evidence.comparable import incomparable
from research_steps.evidence.effects import beside_estimate, medians, of_metric, own_estimates
from research_steps.evidence.others import row_text
from research_steps.evidence.standing import claims_in
from research_steps.records.configurations import differences
from research_steps.records.model import EntryRecord, InterruptedRecord, TrialRecord
from research_steps.records.numbers import listed, quantity, spelled
from research_steps.records.series import Series
from research_steps.records.step_kinds import Adopted, Measurement

# Of what a trial that failed has printed, so many of the last lines.
OUTPUT_LINES = 20


def record_lines(record: EntryRecord | TrialRecord | InterruptedRecord, series: Series | None) -> list[str]:
    """Everything that a record says, for a reader who knows its ID; `series` is None where nobody declares it."""
    lines = [
        f"{record.id} {record.label}: {type(record).__name__.removesuffix('Record').lower()}, {record.status}",
        f"  {record.started_at} to {record.finished_at}{', late' if record.late else ''}",
    ]
    if isinstance(record, InterruptedRecord):
        return [*lines, f"  {record.reason}"]
    lines.append(f"  {record.provenance.command}  at {record.provenance.commit} on {record.provenance.host}")
    if isinstance(record, EntryRecord):
        lines += [f"  {text}" for text in (record.result, record.interpretation, record.next_action) if text]
        first = series.primary.name if series is not None else ""
        for row in record.rows:
            said = filter(None, (row.status, listed(row.values, first), row.note))
            lines.append(f"  {row.trial.id} {changes_text(row.changes)}: {'; '.join(said)}")
        details = record.details
        rows = details.rows if isinstance(details, Adopted) else ()
        lines += [f"  row {number}: {row_text(row)} {spelled(row.fields)}" for number, row in enumerate(rows, 1)]
        case = details.baseline_case if isinstance(details, Measurement) else None
        for claim in claims_in(record):
            at = variant_text(claim, claim.case if case is None else case)
            lines.append(f"  {changes_text(claim.changes)}{at}: {claim.metric} {claim_text(claim)} {claim.why}")
    else:
        lines.append(f"  {spelled(record.config)}")
        lines += [f"  {text}" for text in _measured(record, series)]
        version = record.baseline_version
        lines += [f"  the baseline ran in a process of its own, on {version}"] if version else []
        lines += [f"  contended: {record.contended}"] if record.contended else []
        lines += [f"  interrupted {record.interruptions} times before it ended"] if record.interruptions else []
        for name, curve in (record.curves or {}).items():
            ends = [f"{quantity(name, value)} at step {step}" for step, value in (curve[0], curve[-1])]
            lines.append(f"  {name} while it ran: {' to '.join(ends)}, {len(curve)} points")
        lines += [f"  W&B run {run.project}/{run.id}, written to wandb/{run.folder}" for run in record.runs or ()]
        if record.command:
            run = record.command
            lines.append(f"  {shlex.join(run.argv)}: exit code {run.exit} after {quantity('_s', run.duration_s)}")
            lines += [f"    | {line}" for line in run.output.splitlines()[-OUTPUT_LINES:]]
    if record.error is not None:
        first, *more = record.error.message.splitlines() or [""]
        lines += [f"  {record.error.type}: {first}", *(f"    {line}" for line in (*more, *record.error.frames))]
        lines += [f"    | {line}" for line in record.error.output_tail.splitlines()[-OUTPUT_LINES:]]
    return lines


def _measured(record: TrialRecord, series: Series | None) -> list[str]:
    """Each metric of a trial: the median, and what its pairs say by the estimate of claims."""
    if record.samples is None:
        return []
    estimates, lines = own_estimates(series, record.samples), []
    for name, value in medians(record.samples.candidate).items():
        own = estimates.get(name)
        pairs = f"{len(record.samples.candidate[name])} {'pairs' if own else 'samples'}"
        told = f", {effect_text(own.estimand, own.value, name)} against the baseline" if own else ""
        lines.append(f"{name}: {quantity(name, value)}{told}, {pairs}")
    return lines


def about_line(record: EntryRecord) -> str:
    """What an entry says of another record, in one line."""
    texts = filter(None, (record.result, record.interpretation, record.next_action))
    return f"{record.id} ({record.step} by {record.provenance.actor.name}): {' '.join(texts)}"


def compared(first: TrialRecord, second: TrialRecord, series: Series | None) -> tuple[dict[str, Any], list[str]]:
    """Two trials side by side, as data and in lines: whether they can be compared, what differs, and their metrics."""
    varied = differences(first.config, second.config)
    cases = differences(first.baseline_config, second.baseline_config)
    apart = incomparable(first, second) | {f"baseline case: {name}": pair for name, pair in cases.items()}
    was, now = (medians(trial.samples.candidate) if trial.samples else {} for trial in (first, second))
    metrics = {name: (was.get(name), now.get(name)) for name in {**was, **now}}
    data = {
        "comparable": not apart,
        "varied": varied,
        "differences": apart,
        "metrics": metrics,
        "status": [first.status, second.status],
        "contended": [first.contended, second.contended],
    }
    several = f", but several axes vary at once: {', '.join(varied)}" if len(varied) > 1 else ""
    lines = [
        f"{first.id} {first.label} ({first.status})  |  {second.id} {second.label} ({second.status})",
        f"not comparable: they differ in {', '.join(apart)}" if apart else f"comparable{several}",
    ]
    for what, pairs in (("varied", varied), ("differs", apart)):
        lines += [f"  {what}: {name}: {spelled(left)}  |  {spelled(right)}" for name, (left, right) in pairs.items()]
    lines += [f"  contended: {trial.id}: {trial.contended}" for trial in (first, second) if trial.contended]
    own = [own_estimates(series, trial.samples) for trial in (first, second)]
    for name, values in metrics.items():
        sides = [quantity(name, value) if value is not None else "not measured" for value in values]
        against = [effect_text(side[name].estimand, side[name].value, name) for side in own if name in side]
        lines.append(f"  {name}: {sides[0]}  |  {sides[1]}")
        lines += [f"    against the baseline: {against[0]}  |  {against[1]}"] if len(against) == 2 else []
        if None not in values and first.samples and second.samples:
            (metric, own_side), (_, other) = (of_metric(series, name, side) for side in (first.samples, second.samples))
            beside = beside_estimate(metric, own_side, other)
            lines += [f"    first beside second: {effect_text(beside.estimand, beside.value, name)}"] if beside else []
    return data, lines
