"""One attempt of dev mode, in a helper of the kept parent: the trials, what they say, and the entry if it has a name."""

import os
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from research_steps.claims import Baseline, Candidate, make_claims, measured, retracted, spelled, told
from research_steps.comparison import gain
from research_steps.dev.cases import DevCase, declared, with_settings
from research_steps.dev.evidence import Evidence, measured_floor
from research_steps.dev.keep import Kept, publish_kept, write_kept
from research_steps.dev.orders import Attempted, Order
from research_steps.git import Checkout
from research_steps.journal import Journal
from research_steps.launcher.client import Tell
from research_steps.launcher.helpers import Speaker, help_with
from research_steps.launcher.here import Here, Host
from research_steps.launcher.kept import Kept as KeptParent
from research_steps.launcher.kept import KeptTrials
from research_steps.launcher.protocol import Waiting
from research_steps.launcher.ssh import SshHost
from research_steps.launcher.staleness import edited
from research_steps.provenance import Captured, capture
from research_steps.record import Claim, Stored, TrialRecord
from research_steps.series import Series, trial_id
from research_steps.sinks.logbook import numbers_used
from research_steps.steps.policy import check_case
from research_steps.steps.rows import changes_in, row_of
from research_steps.steps.session import Session
from research_steps.steps.trials import Trial, TrialSpec, measure_trial
from research_steps.store import open_store
from research_steps.threads import load_thread


def serve(connection: socket.socket, order: bytes) -> None:
    """Make the attempt that is asked for on this connection, and answer with what came of it."""
    help_with(connection, lambda speaker: attempt(msgspec.json.decode(order, type=Order), speaker))


def attempt(order: Order, speaker: Speaker) -> Attempted:
    """Measure, compare and record. Raises ResearchError when there was nothing to measure."""
    os.chdir(order.cwd)
    checkout = Checkout.find()
    series, thread = load_thread(checkout, order.topic)
    journal = Journal(open_store(order.store), order.topic)
    case = declared(thread, lambda found: order.baseline in ("", found.label), repr(order.baseline))
    config = with_settings(case, order.settings)
    published = journal.published(checkout.logbooks / order.topic)
    evidence = Evidence.of(series, journal, published)
    check_case(evidence.entries, case.label, case.case)
    changes = changes_in(config, case.case)
    if not order.done:
        for line in filter(None, [evidence.tried(changes, case.case), "" if changes else AGAINST_ITSELF]):
            speaker.say(line)
    captured = capture(checkout, order.command)
    host, ran = _host(order, checkout, speaker.tell)
    used = frozenset() if order.done else frozenset(numbers_used(checkout, order.topic, series.prefix))
    session = Session(
        series=replace(series, contention_wait_s=min(series.contention_wait_s, PATIENCE_S)),
        journal=journal,
        host=host,
        captured=captured,
        repository=checkout.logbooks / order.topic,
        used_numbers=used,
        retry=frozenset(),
        say=speaker.say,
        changed=lambda: None,
        mode="dev",
        retracted=retracted(one.record for one in published.entries.values()),
    )
    if captured.patch is not None and captured.provenance.patch is not None:
        journal.keep_patch(captured.provenance.patch, captured.patch)
    journal.declare(series)
    journal.end_orphaned()
    id = journal.claim(series.prefix, order.occasion, used)
    made = _measure(session, case, config, id, order, speaker.tell)
    return _told(Kept(checkout, evidence, id, order.occasion), session, case, changes, made, order, speaker, ran.sources)


# How long an attempt waits for a quiet machine (seconds). Not longer, because somebody waits for the answer.
PATIENCE_S = 5.0
AGAINST_ITSELF = "Nothing differs from the baseline case, so the baseline is measured against itself: --set changes it."


def _measure(session: Session, case: DevCase, config: dict[str, Any], id: str, order: Order, tell: Tell) -> list[Trial]:
    made = []
    for number in range(order.processes):
        index = order.done + number + 1
        trial = trial_id(id, index)
        spec = TrialSpec(case.code, case.config_type, config, case.case, number, occasion=trial)
        label = order.label or spelled(changes_in(config, case.case))
        made.append(measure_trial(session, spec, id=trial, label=label, tell=tell))
    return made


def _floor(session: Session, evidence: Evidence, case: DevCase, record: TrialRecord, tell: Tell) -> Baseline | None:
    """The noise floor of a trial, measured now when there is none."""
    found = evidence.floor(record)
    if found is not None or record.samples is None:
        return found
    series, journal = session.series, session.journal
    count = series.floor_processes if record.samples.paired else max(2, series.floor_processes)
    occasion = f"{record.id} noise floor"
    id = journal.claim(series.prefix, f"dev/{occasion}", session.used_numbers)
    session.say(f"{id}: the baseline against itself first, in {count} processes: its noise floor is not known here yet")

    def measure(number: int) -> Stored[Any]:
        tell(Waiting(f"the noise floor, process {number + 1} of {count}"))
        spec = TrialSpec(case.code, case.config_type, case.case, case.case, number, occasion=occasion)
        return measure_trial(session, spec, id=trial_id(id, number + 1), label="noise floor", tell=tell).stored

    trials = measured_floor(measure, count)
    if trials[-1].record.status != "ok":
        session.say(f"{id}: the baseline case failed in process {len(trials)}: 'research show {id}' tells how")
        return None
    evidence.keep_floor(trials)
    return evidence.floor(record)


def _told(
    kept: Kept,
    session: Session,
    case: DevCase,
    changes: dict[str, Any],
    made: list[Trial],
    order: Order,
    speaker: Speaker,
    sources: tuple[str, ...],
) -> Attempted:
    series, evidence = session.series, kept.evidence
    last = made[-1].stored.record
    ok = [one.stored for one in made if one.stored.record.status == "ok"]
    baseline = _floor(session, evidence, case, ok[0].record, speaker.tell) if ok else None
    claim = None
    if baseline is not None:
        claims = make_claims(series, baseline, [Candidate(changes, [one.stored for one in made])])
        claim = next(one for one in claims if one.metric == series.primary.name)
    said = f"{series.primary.name} {told(claim)}" if claim else row_of(made[-1], changes).note
    if claim and claim.why:
        said += f" ({claim.why})"
    ids = made[0].stored.record.id if len(made) == 1 else f"{made[0].stored.record.id} to {last.id.rpartition('.')[2]}"
    speaker.say(f"{ids} {spelled(changes)}: {said or last.status}")
    for line in _besides(series, evidence, claim, baseline, case):
        speaker.say(f"  {line}")
    if order.label or order.hypothesis:
        named = replace(kept, label=order.label, hypothesis=session.hypothesis(order.hypothesis))
        write_kept(named, [one.stored for one in made], baseline)
        publish_kept(named, speaker.say)
    elif not order.done:
        speaker.say(f"  scratch; to make it an entry: research keep {kept.id} --hypothesis …")
    return Attempted(
        id=kept.id,
        ids=ids,
        trials=len(made),
        what=spelled(changes),
        edited=diffstat(kept.checkout, session.captured),
        status=last.status,
        told=f"{series.primary.name} {measured(claim)}" if claim else said,
        verdict=claim.verdict if claim else last.status,
        gain=gain(series.primary, claim) if claim and claim.verdict == "improved" else 0.0,
        sources=tuple(sorted({*sources, *map(str, edited())})),
    )


def _besides(
    series: Series, evidence: Evidence, claim: Claim | None, baseline: Baseline | None, case: DevCase
) -> list[str]:
    """What an answer is seen beside: the best so far, and the noise floor that it rests on."""
    if claim is None or baseline is None or claim.estimate is None:
        return []
    lines = []
    found = evidence.best(case.case)
    if found is not None and found.estimate:
        where = f"{found.trials[0].id} {spelled(found.changes)}, {measured(found)}"
        beside = f"{claim.estimate / found.estimate:.3f} ×" if claim.estimand == "ratio" else "beside"
        lines.append(f"{beside} the best so far ({where})")
    first = baseline.trials[0].record
    if isinstance(first, TrialRecord) and first.code != case.code.digest:
        lines.append(f"the noise floor is that of {baseline.entry.id}, measured before the code was edited")
    return lines


def diffstat(checkout: Checkout, captured: Captured) -> str:
    """What differs from the commit: 'kernels.py +3 -1', with the number of further files."""
    if captured.patch is None:
        return captured.provenance.patch_note
    lines = checkout.git("apply", "--numstat", "-z", input=captured.patch).decode("utf-8", "replace").split("\0")
    files = [line.split("\t", 2) for line in lines if line.count("\t") == 2]
    shown = [f"{Path(name).name} +{added} -{removed}" for added, removed, name in files[:2]]
    return ", ".join([*shown, *([f"{len(files) - 2} more"] if len(files) > 2 else [])])


def _host(order: Order, checkout: Checkout, tell: Tell) -> tuple[Host, KeptTrials | SshHost]:
    """The machine to measure on, and what knows the files that its last trial imported."""
    folder = KeptParent(checkout.root).folder
    if order.host:
        host = SshHost(order.host, checkout, folder, order.env, order.in_process, tell)
        return host, host
    trials = KeptTrials(folder, order.in_process)
    return Here(trials), trials
