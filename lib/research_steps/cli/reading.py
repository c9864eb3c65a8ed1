"""Commands that read what is known of a series. They change nothing."""

import json
import sys
from typing import Any

import click

from research_steps.cli.common import as_json, in_store, journal_of, journals_with, print_json
from research_steps.cli.main import command
from research_steps.errors import StoreError, UsageError
from research_steps.git import Checkout
from research_steps.journal.journal import Journal
from research_steps.records.model import EntryRecord, InterruptedRecord, TrialRecord
from research_steps.records.step_kinds import Measurement


@command
@click.argument("topic")
@click.option("--tag", help="Of the sealed tags hold only this one against it, such as moe_hc/MOE-HC-009.")
@in_store
@as_json
def verify(topic: str, tag: str | None, prefix: str | None, json_output: bool) -> None:
    """Check that the logbook's entries, their records and the journal agree, with each other and with what was anchored
    in sealed tags and milestones; exits with 1 and names what does not.

    Works offline. A tag of a branch that is not merged here is a note. What stands behind the newest anchor could be cut
    off, or written anew together with its hashes: that can't be seen.
    """
    from research_steps.seal.verify import UNSEEN
    from research_steps.seal.verify import verify as check

    checkout = Checkout.find()
    found = check(checkout, topic, journal_of(checkout, topic, prefix), tag)
    if json_output:
        anchors = {"tags": found.tags, "milestones": found.milestones}
        print_json({"entries": found.entries, "anchors": anchors, "problems": found.problems, "notes": found.notes})
    else:
        for problem in found.problems:
            click.echo(problem)
        for note in found.notes:
            click.echo(f"note: {note}")
        anchored = f"{len(found.tags)} tags, {found.milestones} milestones"
        click.echo(f"{topic}: {found.entries} entries, {anchored} checked, {len(found.problems) or 'no'} problems")
        click.echo(UNSEEN)
    if found.problems:
        sys.exit(1)


@command
@click.argument("id")
@click.option("--topic", help="The series. Default: every series of this checkout is searched.")
@click.option("--patch", is_flag=True, help="Print what a trial's code differed in from its commit, for 'git apply'.")
@in_store
@as_json
def show(id: str, topic: str | None, patch: bool, prefix: str | None, json_output: bool) -> None:
    """Every record with an experiment ID, such as MOE-HC-007 or MOE-HC-007.03, with its hash."""
    if patch:
        _show_patch(id, topic, prefix)
        return
    records, about, doubts = _find(id, topic, prefix)
    if json_output:
        print_json([{"sha256": stored.sha256, **json.loads(stored.line)} for stored in (*records, *about)])
        return
    for stored in records:
        for line in _described(stored.record):
            click.echo(line)
        click.echo(f"  sha256 {stored.sha256}")
    for doubt in doubts:
        click.echo(f"  rests on {doubt}")
    for stored in about:
        record = stored.record
        said = " ".join(filter(None, (record.result, record.interpretation, record.next_action)))
        click.echo(f"  {record.id} ({record.step} by {record.provenance.actor.name}): {said}")


@command
@click.argument("first")
@click.argument("second")
@click.option("--topic", help="The series. Default: every series of this checkout is searched.")
@in_store
@as_json
def compare(first: str, second: str, topic: str | None, prefix: str | None, json_output: bool) -> None:
    """Two trials side by side: whether they can be compared, in what they differ, and their metrics.

    They can when only what was varied differs. The quotient is of two medians from different processes; ratios taken in
    pairs, and the claims made of them, stand in the entries.
    """
    from research_steps.evidence.claims import incomparable
    from research_steps.evidence.statistics import medians
    from research_steps.records.configurations import differences

    one, other = _trial(first, topic, prefix), _trial(second, topic, prefix)
    varied = differences(one.config, other.config)
    apart = incomparable(one, other)
    cases = differences(one.baseline_config, other.baseline_config)
    apart |= {f"baseline case: {name}": pair for name, pair in cases.items()}
    values = [medians(trial.samples.candidate) if trial.samples else {} for trial in (one, other)]
    metrics = {name: (values[0].get(name), values[1].get(name)) for name in {**values[0], **values[1]}}
    if json_output:
        found = {"comparable": not apart, "varied": varied, "differences": apart, "metrics": metrics}
        print_json({**found, "status": [one.status, other.status], "contended": [one.contended, other.contended]})
        return
    click.echo(f"{one.id} {one.label} ({one.status})  |  {other.id} {other.label} ({other.status})")
    several = f", but several axes vary at once: {', '.join(varied)}" if len(varied) > 1 else ""
    click.echo(f"not comparable: they differ in {', '.join(apart)}" if apart else f"comparable{several}")
    for what, pairs in (("varied", varied), ("differs", apart)):
        for name, (left, right) in pairs.items():
            click.echo(f"  {what}: {name}: {left}  |  {right}")
    for trial in (one, other):
        if trial.contended:
            click.echo(f"  contended: {trial.id}: {trial.contended}")
    for name, (was, now) in metrics.items():
        quotient = f"  quotient {was / now:.3f}" if was is not None and now else ""
        click.echo(f"  {name}: {was}  |  {now}{quotient}")


def _find(id: str, topic: str | None, prefix: str | None) -> tuple[list[Any], list[Any], list[str]]:
    """The records with an ID, what was said of them later, and what they rest on that counts no more."""
    checkout = Checkout.find()
    found: list[Any] = []
    about: list[Any] = []
    doubts: list[str] = []
    for journal in journals_with(checkout, id, topic, prefix):
        known = journal.with_id(id, checkout.logbooks / journal.topic)
        records = known.find(id)
        found += records
        about += {entry.sha256: entry for stored in records for entry in known.about(stored.sha256)}.values()
        doubts += [doubt for stored in records for doubt in known.doubts(stored.sha256)]
    if not found:
        raise UsageError(
            f"No record has the ID {id!r}: expected one such as MOE-HC-007; 'research status' tells what is here."
        )
    return found, about, doubts


def _show_patch(id: str, topic: str | None, prefix: str | None) -> None:
    """The patch that the trials with an ID, or below it, were measured with; nothing when there was none."""
    checkout = Checkout.find()
    found: list[tuple[Journal, TrialRecord]] = []
    for journal in journals_with(checkout, id, topic, prefix):
        trials = [stored.record for stored in journal.scan(checkout.logbooks / journal.topic).trials.values()]
        found += [(journal, one) for one in trials if id in (one.id, one.id.rpartition(".")[0])]
    if not found:
        raise UsageError(f"No trial has the ID {id!r}: expected one such as MOE-HC-007.03.")
    patches = {one.provenance.patch for _, one in found}
    if len(patches) > 1:
        names = ", ".join(sorted({one.id for _, one in found}))
        raise UsageError(f"The trials of {id} have {len(patches)} different patches: name one of {names}.")
    journal, record = found[0]
    made = record.provenance
    published = checkout.logbooks / journal.topic / f"{made.patch}.patch"
    patch = journal.patch(made.patch) if made.patch else b""
    if patch is None and published.exists():
        patch = published.read_bytes()
    if patch is None:
        raise StoreError(f"{journal.store.url} does not hold the patch of {record.id}: name its store with --prefix.")
    if made.patch_note or not patch:
        click.echo(f"{record.id}: {made.patch_note or f'nothing differed from commit {made.commit}'}", err=True)
    click.echo(patch, nl=False)


def _trial(id: str, topic: str | None, prefix: str | None) -> TrialRecord:
    trials = [stored.record for stored in _find(id, topic, prefix)[0] if isinstance(stored.record, TrialRecord)]
    if not trials:
        raise UsageError(f"{id} is no trial: expected the ID of a row, such as {id}.01.")
    return trials[-1]


def _described(record: EntryRecord | TrialRecord | InterruptedRecord) -> list[str]:
    lines = [f"{record.id} {record.label}: {type(record).__name__.removesuffix('Record').lower()}, {record.status}"]
    lines.append(f"  {record.started_at} to {record.finished_at}{', late' if record.late else ''}")
    if isinstance(record, InterruptedRecord):
        return [*lines, f"  {record.reason}"]
    lines.append(f"  {record.provenance.command}  at {record.provenance.commit} on {record.provenance.host}")
    if isinstance(record, EntryRecord):
        from research_steps.evidence.claim_text import changes_text, claim_text, variant_text
        from research_steps.evidence.standing import claims_in

        lines += [f"  {text}" for text in (record.result, record.interpretation, record.next_action) if text]
        lines += [f"  {row.trial.id} {row.changes}: {row.status} {row.values} {row.note}" for row in record.rows]
        details = record.details
        case = details.baseline_case if isinstance(details, Measurement) else None
        for claim in claims_in(record):
            at = variant_text(claim, claim.case if case is None else case)
            lines.append(f"  {changes_text(claim.changes)}{at}: {claim.metric} {claim_text(claim)} {claim.why}")
    else:
        lines.append(f"  {record.config}")
        lines += [
            f"  {name}: {ratio.median:.4f} × baseline, {ratio.pairs} pairs" for name, ratio in record.ratios.items()
        ]
        lines += [f"  contended: {record.contended}"] if record.contended else []
    if record.error is not None:
        lines += [f"  {record.error.type}: {record.error.message}", *(f"    {frame}" for frame in record.error.frames)]
        lines += [f"    | {line}" for line in record.error.output_tail.splitlines()[-20:]]
    return lines
