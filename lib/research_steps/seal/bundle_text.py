"""What people read of a snapshot: the bundle as a page, its table, and the tag's message.

All of it is made from the bundle and the entries that it names.
"""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from research_steps.evidence.claim_text import candidate_text, changes_text, claim_text, verdict_text
from research_steps.evidence.standing import best
from research_steps.journal.snapshot import Snapshot
from research_steps.publish.markdown import code, one_line, prose
from research_steps.publish.rendering import entry as render_entry
from research_steps.records.configurations import changes_in
from research_steps.records.encoding import Stored
from research_steps.records.model import Claim, EntryRecord, Ref
from research_steps.records.series import Series
from research_steps.seal.bundle import SAYS_WORSE, UNLISTED, Bundle, name_of

# How many claims the tag's message spells out.
SPELLED = 10


def recorded(record: EntryRecord) -> str:
    """When and by whom a seal was recorded."""
    return f"{record.finished_at} by {record.provenance.actor.name} ({record.provenance.actor.kind})"


def tag_message(bundle: Bundle, series: Series) -> str:
    """What `git show` says of a seal. A tag is held against it, so that other words need the next schema of bundles."""
    claims, winner = _primary(bundle, series), winner_of(bundle, series)
    worse = _worse(winner, bundle) if winner else []
    title = f"{bundle.topic}: {_in_a_tag(winner, bundle)}" if winner else f"{bundle.topic}: {series.goal}"
    title += f"; it makes {', '.join(claim.metric for claim in worse)} worse" if worse else ""
    lines = [title, "", *([series.goal, ""] if winner else [])]
    if claims:
        lines.append("What it found:")
        for claim in claims[:SPELLED]:
            lines.append(f"- {_in_a_tag(claim, bundle)}")
            lines += [f"  - it makes {c.metric} worse: {_estimate_in_a_tag(c)}" for c in _worse(claim, bundle)]
        lines += [f"- and {len(claims) - SPELLED} more, in the bundle"] if len(claims) > SPELLED else []
        lines += [""]
    lines += [
        f"Experiment {bundle.id}, recorded {bundle.recorded}.",
        f"Rests on {', '.join(ref.id for ref in _entries(bundle))}; measured at commit {bundle.commit}.",
        f"Bundle: {name_of(bundle.topic, bundle.id, 'bundle.md')}",
        f"Check it: research verify {bundle.topic} --tag {bundle.tag}",
        f"Measure it again: research reproduce {bundle.tag}",
    ]
    return "".join(f"{line[: len(line) - len(line.lstrip(' '))]}{one_line(line)}\n" for line in lines)


def table(bundle: Bundle) -> str:
    """The comparison as CSV, one line a claim."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    columns = ("metric", "estimand", "estimate", "low", "high", "processes", "verdict", "confidence", "why")
    writer.writerow(("candidate", "case", *columns, "baseline", "trials"))
    for claim in bundle.claims:
        values = (one_line(value) if isinstance(value := getattr(claim, name), str) else value for name in columns)
        trials = " ".join(ref.id for ref in claim.trials)
        writer.writerow(
            (*map(one_line, map(changes_text, (claim.changes, claim.case))), *values, claim.baseline.id, trials)
        )
    return out.getvalue()


def page(bundle: Bundle, series: Series, entries: Sequence[Stored[EntryRecord]], known: Snapshot) -> str:
    """The bundle as Markdown, for somebody who has never seen the thread. Its trials are looked up in `known`."""
    claims = _primary(bundle, series)
    cases = dict.fromkeys(changes_text(claim.case) for claim in claims)
    findings = []
    for claim in claims:
        findings.append(f"- {prose(_claimed(claim, bundle))}; against {claim.baseline.id}")
        findings += [f"  - it makes {prose(c.metric)} worse: {claim_text(c)}" for c in _worse(claim, bundle)]
    rendered = (render_entry(entry.record, series, None, known, "") for entry in entries)
    paragraphs = [
        f"# {bundle.tag}",
        f"Goal: {prose(series.goal)}",
        "## What it found",
        "\n".join(findings) or "No comparison: the entries below say what there is.\n",
        *(["\n".join(f"The baseline case: {code(case)}" for case in cases)] if cases else []),
        f"[{bundle.id}.table.csv]({bundle.id}.table.csv) has all of that, for every metric.",
        "## Measure it again",
        f"    research reproduce {bundle.tag}",
        "It runs the thread with the options given there, in a work tree, an environment and a store of its own:",
        "\n".join(f"- {code(command.command)} ({', '.join(command.entries)})" for command in bundle.commands),
        "## What it ran on",
        "\n".join(f"- {line}" for line in _conditions(bundle)),
        "## What says so",
        f"The records of these entries, each in the file named, by SHA-256; [{bundle.id}.bundle.json]"
        f"({bundle.id}.bundle.json) names those of their {len(bundle.records) - len(_entries(bundle))} trials as well.",
        "\n".join(f"- [{ref.id}.jsonl]({ref.id}.jsonl) {code(ref.sha256)}" for ref in _entries(bundle)),
        "## The entries",
        *(text.replace("### ", "#### ", 1) for text in rendered),
    ]
    return "\n\n".join(paragraphs) + "\n"


def _conditions(bundle: Bundle) -> Iterable[str]:
    yield f"Commit: {code(bundle.commit)}"
    if bundle.patch:
        name = f"{bundle.patch}.patch"
        yield f"Patch: [{name}]({name}), to be applied to that commit"
    if bundle.patch_note:
        yield f"About the patch: {prose(bundle.patch_note)}"
    yield from (f"Submodule {code(path)} at {code(commit)}" for path, commit in bundle.submodules.items())
    for machine in bundle.hardware:
        devices = prose(", ".join(map(str, machine.devices))) or "none that JAX was asked for"
        hosts = prose(", ".join(machine.hosts))
        yield f"Machine: {code(machine.device_class)}, devices: {devices}, hosts: {hosts}"
    listed = "" if UNLISTED in bundle.elsewhere else f"; all packages: {bundle.id}.requirements.txt"
    yield f"Python {bundle.python}, with {code(_spelled(bundle.packages))}{listed}"
    yield f"Environment: {code(_spelled(bundle.environment)) if bundle.environment else 'nothing that matters was set'}"
    seeds = bundle.seeds["configurations"]
    yield f"Seeds: {code(_spelled(seeds)) if seeds else 'the configurations name none'}"
    yield f"Order of samples: drawn from {bundle.seeds['order of samples']}"
    for file in bundle.elsewhere:
        size = f", {file.bytes} bytes, SHA-256 {code(file.sha256)}" if file.sha256 else ""
        yield f"Not in here: {code(file.where)} ({prose(file.why)}){size}"


def _entries(bundle: Bundle) -> list[Ref]:
    return [ref for ref in bundle.records if "." not in ref.id]


def winner_of(bundle: Bundle, series: Series) -> Claim | None:
    """The best candidate; from the schema on that says what it makes worse, at a baseline's own case if there is one."""
    alone = [claim for claim in bundle.claims if claim.case == _case(claim, bundle)]
    return (best(series, alone) if bundle.schema >= SAYS_WORSE else None) or best(series, bundle.claims)


def _primary(bundle: Bundle, series: Series) -> list[Claim]:
    return [claim for claim in bundle.claims if claim.metric == series.primary.name]


def _worse(claim: Claim, bundle: Bundle) -> list[Claim]:
    """The claims on other metrics that the same candidate makes worse; none where the bundle's tag does not say it."""
    if bundle.schema < SAYS_WORSE:
        return []
    alike = (other for other in bundle.claims if (other.changes, other.case) == (claim.changes, claim.case))
    return [other for other in alike if other.metric != claim.metric and other.verdict == "regressed"]


def _claimed(claim: Claim, bundle: Bundle) -> str:
    why = f" ({claim.why})" if claim.why else ""
    return f"{candidate_text(claim, _case(claim, bundle))}: {claim.metric} {claim_text(claim)}{why}"


def _case(claim: Claim, bundle: Bundle) -> dict[str, Any]:
    # The first claim against a baseline is that of a sweep, at the baseline's own case.
    return next(first.case for first in bundle.claims if first.baseline.id == claim.baseline.id)


def _in_a_tag(claim: Claim, bundle: Bundle) -> str:
    """A claim as tags spell it, however it is spelled elsewhere by now."""

    def spelled(changes: Mapping[str, Any]) -> str:
        return " ".join(f"{name}={value}" for name, value in changes.items()) or "baseline case"

    variant = changes_in(claim.case, _case(claim, bundle))
    what = spelled(claim.changes) + (f" at {spelled(variant)}" if variant else "")
    why = f" ({claim.why})" if claim.why else ""
    return f"{what}: {claim.metric} {_estimate_in_a_tag(claim)}{why}"


def _estimate_in_a_tag(claim: Claim) -> str:
    def effect(value: float) -> str:
        shares = f"{value:+.2%}" if claim.estimand == "difference" else f"{value:+.4g}"
        return f"{value:.3f}" if claim.estimand == "ratio" else shares

    times = " ×" if claim.estimand == "ratio" else ""
    estimate = "no estimate" if claim.estimate is None else effect(claim.estimate) + times
    ends = "" if claim.low is None or claim.high is None else f" ({effect(claim.low)} to {effect(claim.high)})"
    return f"{estimate}{ends}, {verdict_text(claim)}"


def _spelled(values: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in sorted(values.items()))
