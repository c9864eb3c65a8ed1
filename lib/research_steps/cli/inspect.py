"""Commands that tell where a series stands. They change nothing."""

import atexit
import gc
import json
import os
import sys
from dataclasses import asdict
from itertools import groupby
from typing import Any

import click

from research_steps.cli.common import (
    OpenSeries,
    ResearchCommand,
    SearchCommand,
    SeriesCommand,
    print_result,
    reserving,
    series_here,
    whole_id,
    with_record,
)
from research_steps.errors import StoreError, UsageError
from research_steps.journal.snapshot import Snapshot, find
from research_steps.records.encoding import Stored
from research_steps.records.model import TrialRecord
from research_steps.terminal import pass_on, print_json, print_text, say


@click.command(cls=ResearchCommand, prefix=True, json=True)
@click.argument("topic", required=False)
@click.option("--watch", "follow", is_flag=True, help="Follow what runs, until nothing does or Ctrl-C.")
def status(topic: str | None, follow: bool, prefix: str | None, json_output: bool) -> None:
    """What each series holds, what runs, and what was left open.

    An attempt is orphaned when its process is gone or its lease ran out; running the thread again ends it as
    interrupted and goes on.
    """
    from research_steps.publish.terminal.status import status_of
    from research_steps.publish.terminal.watch import watch

    everywhere = series_here(topic, prefix)
    if follow:
        if json_output:
            raise UsageError("--watch is for people to follow: for data ask again and again, with --json alone.")
        watch([series.journal for series in everywhere])
        return
    _collect_nothing()
    states = [status_of(series.checkout, series.journal, topic is not None, json_output) for series in everywhere]
    lines = [line for _, lines in states for line in lines]
    nothing = "No series here: no logbook in .agents/logbooks/ and no journal in the store."
    print_result(json_output, [data for data, _ in states], lines or [nothing])


@click.command(cls=SeriesCommand)
@click.option("--budget", type=click.IntRange(min=100), default=1500, show_default=True, help="About so many tokens.")
@click.option("--since", default="", help="Name all entries after this ID, or this time.")
def brief(series: OpenSeries, budget: int, since: str) -> None:
    """What whoever goes on with a thread has to know, in few tokens.

    The best claims with what speaks against them, contended evidence, what runs and the next commands always stay.
    """
    from research_steps.publish import brief as briefly
    from research_steps.publish.state_here import state_here

    _collect_nothing()
    outline = series.journal.outline(series.records)
    made = briefly.brief(state_here(series.checkout, series.journal, outline), budget, since)
    if series.json_output:
        print_json(briefly.as_data(made))
    else:
        print_text(made.text.rstrip("\n"))


@click.command(cls=SearchCommand)
@click.argument("id")
@click.option("--patch", is_flag=True, help="Print what a trial's code differed in from its commit, for 'git apply'.")
@click.option("--log", is_flag=True, help="Print the end of what a trial that runs on this machine has printed.")
def show(everywhere: list[OpenSeries], id: str, patch: bool, log: bool) -> None:
    """Every record with an ID, such as MOE-HC-007.03, with its hash. Where two branches used one ID, MOE-HC-007@HASH is
    one of them, here and wherever an ID is asked for."""
    from research_steps.publish.terminal.records import about_line, record_lines

    id = whole_id(id, everywhere)
    if patch:
        _show_patch(everywhere, id)
        return
    if log:
        _show_log(everywhere, id)
        return
    records = _carrying(id, everywhere)
    about = {entry.sha256: entry for _, snapshot, stored in records for entry in snapshot.about(stored.sha256)}.values()
    lines = []
    for series, _, stored in records:
        lines += [*record_lines(stored.record, series.declared), f"  sha256 {stored.sha256}"]
    lines += [f"  rests on {doubt}" for _, snapshot, stored in records for doubt in snapshot.doubts(stored.sha256)]
    lines += [f"  {about_line(stored.record)}" for stored in about]
    shown = (*(stored for *_, stored in records), *about)
    data = [{"sha256": stored.sha256, **json.loads(stored.line)} for stored in shown]
    print_result(everywhere[0].json_output, data, lines)


@click.command(cls=SearchCommand)
@click.argument("first")
@click.argument("second")
def compare(everywhere: list[OpenSeries], first: str, second: str) -> None:
    """Two trials side by side: their differences and metrics. They can be compared when only what was varied differs.

    Each metric is the median; what each trial says against its baseline is by the estimate of claims, and what the first
    says beside the second is a comparison of two processes, which supports no claim.
    """
    from research_steps.publish.terminal.records import compared

    (series, left), (_, right) = _trial(everywhere, first), _trial(everywhere, second)
    data, lines = compared(left, right, series.declared)
    print_result(everywhere[0].json_output, data, lines)


@click.command(cls=SeriesCommand)
@click.option("--closing", is_flag=True, help="Also what holds before the issue is closed.")
def check(series: OpenSeries, closing: bool) -> None:
    """Whether a result may be posted, and a thread closed. Asks checklists, and where record and surfaces drifted apart.

    Exits with 1 when a line fails; each that does says how to mend it.
    """
    from research_steps.actions.check import check as ask

    checked = ask(series.checkout, series.journal, series.series, closing)
    failed = sum(not line.ok for line in checked)
    lines = []
    for group, asked in groupby(checked, key=lambda line: line.group):
        lines.append(group)
        for line in asked:
            lines.append(f"  {'ok  ' if line.ok else 'FAIL'} {line.name}: {line.found}")
            lines += [] if line.ok else [f"       mend: {line.mend}"]
    lines.append(f"{series.topic}: {len(checked)} lines, {failed or 'none'} failed")
    data = {"topic": series.topic, "failed": failed, "lines": [asdict(line) for line in checked]}
    print_result(series.json_output, data, lines, failed=failed > 0)


@click.command(cls=SeriesCommand)
@click.option("--tag", help="Of the sealed tags hold only this one against it, such as moe_hc/MOE-HC-009.")
def verify(series: OpenSeries, tag: str | None) -> None:
    """Check that logbook, records, journal and anchors agree. Anchors are sealed tags and milestones.

    Makes every claim again from its trials. Exits with 1 and names what does not agree. Works offline. A tag of a branch
    that is not merged here is a note. What stands behind the newest anchor could be cut off, or written anew together
    with its hashes: that can't be seen.
    """
    from research_steps.seal.verify import UNSEEN
    from research_steps.seal.verify import verify as ask

    checked = ask(series.checkout, series.topic, series.journal, tag)
    anchors = {"tags": checked.tags, "milestones": checked.milestones}
    counted = f"{checked.entries} entries, {len(checked.tags)} tags, {checked.milestones} milestones checked"
    lines = [*checked.problems, *(f"note: {note}" for note in checked.notes)]
    lines.append(f"{series.topic}: {counted}, {len(checked.problems) or 'no'} problems")
    if checked.follow or checked.by_older_rule:
        older = f"{checked.by_older_rule} by an older rule, not recomputed"
        lines.append(f"claims: {checked.follow} follow from their trials, {older}")
    lines += [*(f"trust: {text}" for text in checked.trust), UNSEEN]
    data = {"entries": checked.entries, "anchors": anchors, "problems": checked.problems, "notes": checked.notes}
    data["claims"] = {"follow": checked.follow, "by_older_rule": checked.by_older_rule}
    data["trust"] = checked.trust
    print_result(series.json_output, data, lines, failed=bool(checked.problems))


@click.command(cls=ResearchCommand, json=True)
def doctor(json_output: bool) -> None:
    """What would disturb a trial on this machine now. Says how to mend it, and exits with 1 when something would.

    Only root sees the files that other users' processes hold open.
    """
    from research_steps.trial.contention import HERE as machine
    from research_steps.trial.provenance import device_class

    others = machine.others_cores()
    problems = [*machine.disturbances(), *machine.load_of(others)]
    busiest = machine.busiest(3) if machine.load_of(others) else []
    left = "left behind" if machine.tpu_lock.exists() else ""
    data = {
        "device_class": device_class(),
        "devices": [str(path) for path in machine.devices()],
        "cores": os.cpu_count(),
        "cores_busy_with_others": round(others, 2),
        "cores_that_count_as_load": machine.load_cores,
        "busiest": busiest,
        "device_lock": machine.lock_holder(machine.device_lock),
        "libtpu_lock": machine.lock_holder(machine.tpu_lock) or left,
        "problems": [asdict(problem) for problem in problems],
    }
    lines = [
        f"device class: {data['device_class']}",
        f"accelerator devices: {', '.join(map(str, machine.devices())) or 'none'}",
        f"busy with others: {others:.2f} of {os.cpu_count()} cores; above {machine.load_cores:g} is load",
        *([f"the busiest, in cores: {'; '.join(busiest)}"] if busiest else []),
        f"device lock {machine.device_lock}: {data['device_lock'] or 'free'}",
        f"libtpu lock {machine.tpu_lock}: {data['libtpu_lock'] or 'none'}",
        *(f"problem: {problem.what}; to mend it, {problem.mend}" for problem in problems),
    ]
    lines += [] if problems else ["Nothing would disturb a trial now."]
    print_result(json_output, data, lines, failed=bool(problems))


def _collect_nothing() -> None:
    """What is read is held until the end, so looking for garbage finds none, over and over, and once more in the end."""
    gc.disable()
    atexit.register(gc.freeze)


def _show_patch(everywhere: list[OpenSeries], id: str) -> None:
    """The patch that the trials with an ID, or below it, were measured with; nothing when there was none."""
    measured = [
        (series, stored.record) for series in reserving(id, everywhere) for stored in series.snapshot.measured(id)
    ]
    if not measured:
        raise UsageError(f"No trial has the ID {id!r}: expected one such as MOE-HC-007.03.")
    patches = {trial.provenance.patch for _, trial in measured}
    if len(patches) > 1:
        names = ", ".join(sorted({trial.id for _, trial in measured}))
        raise UsageError(f"The trials of {id} have {len(patches)} different patches: name one of {names}.")
    series, trial = measured[0]
    code = trial.provenance
    patch = series.journal.patch(code.patch, series.records) if code.patch else b""
    if patch is None:
        raise StoreError(
            f"{series.journal.store.url} does not hold the patch of {trial.id}: name its store with --prefix."
        )
    if code.patch_note or not patch:
        say(f"{trial.id}: {code.patch_note or f'nothing differed from commit {code.commit}'}")
    if sys.stdout.isatty():
        print_text(patch.decode("utf-8", "replace"))
    else:
        pass_on(patch, sys.stdout)


def _show_log(everywhere: list[OpenSeries], id: str) -> None:
    """The end of what a trial has printed, in all its attempts; that of one that has ended where it kept files."""
    from research_steps.trial.directory import directory_of, output_end

    for series in reserving(id, everywhere):
        keys = [attempt.intent.key for attempt in series.journal.recent().open if attempt.intent.id == id]
        for key in keys or [stored.record.key for stored in series.snapshot.measured(id)]:
            directory = directory_of(series.journal.store.url, series.topic, key)
            text = output_end(directory)
            if text is not None:
                say(f"{id}: the end of what it has printed; it keeps its files in {directory}")
                print_text(text.rstrip("\n"))
                return
    raise UsageError(
        f"No output of {id!r} is kept here: expected the ID of a trial that runs on this machine, or that kept files in "
        "its directory. The record of one that failed holds the end of its output: research show without --log."
    )


def _carrying(id: str, everywhere: list[OpenSeries]) -> list[tuple[OpenSeries, Snapshot, Stored[Any]]]:
    """The records with an ID, each with its series, and the snapshot of what is published of that and all that carries
    the ID."""
    return [(series, snapshot, stored) for series, snapshot in _holding(id, everywhere) for stored in snapshot.find(id)]


def _holding(id: str, everywhere: list[OpenSeries]) -> list[tuple[OpenSeries, Snapshot]]:
    return with_record(id, everywhere, lambda series: series.journal.with_id(id, series.records))


def _trial(everywhere: list[OpenSeries], id: str) -> tuple[OpenSeries, TrialRecord]:
    id = whole_id(id, everywhere)
    series, snapshot = _holding(id, everywhere)[0]
    record = find(snapshot, id).record
    if not isinstance(record, TrialRecord):
        raise UsageError(f"{id} is no trial: expected the ID of a row, such as {record.id}.01.")
    return series, record
