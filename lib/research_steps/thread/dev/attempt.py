"""One attempt of dev mode, in a worker of the kept parent: the trials, what they say, and the entry if it has a name."""

import os
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from research_steps.errors import UsageError
from research_steps.evidence.claim_text import changes_text, claim_text, estimate_text, process_text
from research_steps.evidence.claims import Baseline, Candidate, make_claims
from research_steps.evidence.statistics import gain
from research_steps.evidence.table import Trial, row_of
from research_steps.git import Checkout
from research_steps.journal.journal import Journal
from research_steps.journal.logbook_place import logbook_of, settle
from research_steps.journal.store import open_store
from research_steps.journal.wandb_project import step_environment
from research_steps.publish.logbook.numbers import CheckoutNumbers
from research_steps.records.configurations import CODE, changes_in
from research_steps.records.encoding import Stored
from research_steps.records.model import Captured, Claim, TrialRecord
from research_steps.records.numbers import ratio
from research_steps.records.series import trial_id
from research_steps.remote.ssh.host import SshHost
from research_steps.thread.dev.cases import DevCase, declared, with_settings
from research_steps.thread.dev.evidence import DevEvidence
from research_steps.thread.dev.keep import KeptAttempt, changes_of, publish_kept, write_kept
from research_steps.thread.dev.messages import Attempted, DevRequest
from research_steps.thread.loading import load_thread
from research_steps.thread.rules import check_case
from research_steps.trial.code import Code
from research_steps.trial.context import Session
from research_steps.trial.launcher.conversation import Speaker, answer_with
from research_steps.trial.launcher.daemon import Daemon, DaemonTrials
from research_steps.trial.launcher.host import Host, LocalHost
from research_steps.trial.launcher.protocol import Begun, Waiting
from research_steps.trial.launcher.staleness import edited
from research_steps.trial.measured import TrialSpec
from research_steps.trial.provenance import capture
from research_steps.trial.trials import measure_trial
from research_steps.trial.trust import Trust
from research_steps.trial.versions import code_at, differs, version_named

# How long an attempt waits for a quiet machine (seconds). Not longer, because somebody waits for the answer.
PATIENCE_S = 5.0
AGAINST_ITSELF = "Nothing differs from the baseline case, so the baseline is measured against itself: --set changes it."


def serve(connection: socket.socket, order: bytes) -> None:
    """Make the attempt that is asked for on this connection, and answer with what came of it."""
    answer_with(connection, lambda speaker: attempt(msgspec.json.decode(order, type=DevRequest), speaker))


def attempt(order: DevRequest, speaker: Speaker) -> Attempted:
    """Measure, compare and record. Raises ResearchError when there was nothing to measure."""
    os.chdir(order.cwd)
    checkout, began = Checkout.find(), time.time()
    # Git takes as long as reading the thread does, so it works beside that.
    with ThreadPoolExecutor(1) as pool:
        capturing = pool.submit(capture, checkout, order.command, order.topic)
        speaker.tell(Waiting(f"importing experiments.{order.topic}"))
        series, thread = load_thread(checkout, order.topic)
        settle(checkout, series)
        journal = Journal(open_store(order.store), order.topic)
        journal.declare(series)
        is_wanted, name = (lambda case: order.baseline in ("", case.label)), order.baseline and repr(order.baseline)
        case = declared(thread, is_wanted, name, journal.store.url)
        config = with_settings(case, order.settings)
        published = journal.published(logbook_of(checkout, order.topic).records)
        evidence = DevEvidence(series, journal, published.counting, published.retracted)
        check_case(evidence.entries, case.label, case.case)
        captured = capturing.result()
    if any(Path(case.code.root, name).stat().st_mtime >= began for name in case.code.files):
        # It was saved meanwhile, and the patch has to be that of the code that is measured.
        captured = capture(checkout, order.command, order.topic)
    trust = Trust(checkout)
    trust.add_measure(case.code.name, case.config_type)
    trust.add_code(captured.provenance.version)
    version = _baseline_version(order, checkout, evidence, case, captured, speaker.say)
    changes = changes_in(config, case.case)
    if not order.done:
        tried = "" if version else evidence.tried(changes, case.case)
        for line in filter(None, [tried, "" if changes or version else AGAINST_ITSELF]):
            speaker.say(line)
    daemon = Daemon(checkout.root)
    host: Host = LocalHost(DaemonTrials(daemon, order.in_process))
    if order.host:
        host = SshHost(order.host, checkout, daemon.folder, order.env, order.in_process, speaker.tell)
    session = Session(
        series=replace(series, contention_wait_s=min(series.contention_wait_s, PATIENCE_S)),
        journal=journal,
        host=host,
        captured=captured,
        repository=logbook_of(checkout, order.topic).records,
        numbers=CheckoutNumbers(checkout, order.topic, series.prefix),
        say=speaker.say,
        mode="dev",
        private=case.private,
        retracted=published.retracted,
    )
    journal.keep_patch(captured.provenance.patch, captured.patch)
    journal.attempts.end_orphaned()
    id = journal.ids.reserve(series.prefix, order.occasion, session.numbers)
    scratch = KeptAttempt(checkout, evidence, id, order.occasion)
    edits = _edits(checkout, captured)
    measuring = _Attempt(order, session, scratch, case, config, version, edits, speaker)
    trials = measuring.measure()
    answer = measuring.answer(trials)
    if not order.watched:
        return answer
    sources = tuple(sorted({*host.sources, *map(str, edited())}))
    return msgspec.structs.replace(answer, edited=edits, sources=sources)


def _baseline_version(
    order: DevRequest,
    checkout: Checkout,
    evidence: DevEvidence,
    case: DevCase,
    captured: Captured,
    say: Callable[[str], None],
) -> Code | None:
    """The code that the baseline's side runs, where it is not what is on disk now: that which was asked for, else that
    which the baseline was fixed with, else, for an edit by itself, that of the commit. Raises UsageError."""
    here, fixed = (captured.provenance.commit, captured.provenance.patch), evidence.fixed(case.case, case.label)
    wanted: tuple[str | None, str | None] = fixed.version if fixed is not None else (None, None)
    if order.against:
        wanted = version_named(checkout, evidence.journal, order.against)
    elif fixed is None and not order.settings:
        wanted = here[0], None
    commit, patch = wanted
    if commit is None or wanted == here:
        return None
    try:
        version = code_at(checkout, evidence.journal, case.code.name, case.code.root, commit, patch)
    except UsageError as error:
        if order.against or fixed is not None:
            raise
        say(f"not compared with the commit: {error}")
        return None
    if not differs(case.code, version):
        return None
    if order.host or order.in_process:
        option = f"--host {order.host}" if order.host else "--in-process"
        raise UsageError(
            f"{option} was given, and the code on disk is not that of the baseline ({_named(version)}): that takes two "
            "processes on this machine. Leave it out, or commit what is on disk and give --against HEAD."
        )
    if CODE in case.case:
        raise UsageError(
            f"The configuration has a field {CODE!r}, which is how the version of the code is called that differs from "
            "the baseline's: give the field another name."
        )
    return version


@dataclass(frozen=True)
class _Attempt:
    """One configuration of a case, under an experiment ID that may be kept. `version` is the code of the baseline's
    side, where that is not the same."""

    order: DevRequest
    session: Session
    scratch: KeptAttempt
    case: DevCase
    config: dict[str, Any]
    version: Code | None
    edits: str
    speaker: Speaker

    @property
    def what(self) -> str:
        """The candidate, as people know it."""
        settings = changes_in(self.config, self.case.case)
        parts = [self.edits or "as committed"] if self.version else []
        return ", ".join([*parts, *([changes_text(settings)] if settings or not parts else [])])

    def measure(self) -> list[Trial]:
        """Its trials, each in a process of its own."""
        trials = []
        for number in range(self.order.processes):
            id = trial_id(self.scratch.id, self.order.done + number + 1)
            self.speaker.tell(Begun(self.order.done + number + 1))
            trials.append(self._trial(self.config, number, id, id, self.order.label or self.what))
        return trials

    def answer(self, trials: list[Trial]) -> Attempted:
        """Say what the trials say, and make an entry of them if that has a name."""
        series, last = self.session.series, trials[-1].stored.record
        good = [trial.stored.record for trial in trials if trial.stored.record.status == "ok"]
        baseline = self._floor(good[0]) if good else None
        claim = None
        if baseline is not None:
            candidate = Candidate(changes_of(good[0]), [trial.stored for trial in trials])
            claims = make_claims(series, baseline, [candidate])
            claim = next(claim for claim in claims if claim.metric == series.primary.name)
        alone = process_text(series.primary, good[-1].samples) if good else row_of(trials[-1], {}).note
        result = f"{series.primary.name} {claim_text(claim)}" if claim else alone
        if claim and claim.why:
            result += f" ({claim.why})"
        first = trials[0].stored.record
        ids = first.id if first is last else f"{first.id} to {last.id.rpartition('.')[2]}"
        self.speaker.say(f"{ids} {self.what}: {result or last.status}")
        for line in self._beside(claim, baseline):
            self.speaker.say(f"  {line}")
        if self.order.label or self.order.hypothesis:
            hypothesis = self.session.hypothesis(self.order.hypothesis)
            named = replace(self.scratch, label=self.order.label, hypothesis=hypothesis)
            write_kept(named, [trial.stored for trial in trials])
            publish_kept(named, self.speaker.say)
        elif not self.order.done:
            self.speaker.say(f"  scratch; to make it an entry: research keep {self.scratch.id} --hypothesis …")
        return Attempted(
            id=self.scratch.id,
            ids=ids,
            what=self.what,
            status=last.status,
            told=f"{series.primary.name} {estimate_text(claim)}" if claim else result,
            verdict=claim.verdict if claim else last.status,
            gain=gain(series.primary, claim) if claim and claim.verdict == "improved" else 0.0,
            estimate=claim.estimate if claim and claim.estimand == "ratio" else None,
            claim=claim,
        )

    def _trial(
        self, config: dict[str, Any], number: int, id: str, occasion: str, label: str, code: Code | None = None
    ) -> Trial:
        parts = (self.case.config_type, config, self.case.case, number, occasion)
        spec = TrialSpec(code or self.case.code, *parts, baseline_code=self.version)
        journal, series, hidden = self.session.journal, self.session.series, self.session.private
        tracker = (
            {} if hidden or series.private else step_environment(journal, series, self.scratch.id, self.order.label)
        )
        trial = measure_trial(self.session, spec, id=id, label=label, tracker=tracker, hear=self.speaker.tell)
        assert trial is not None, "it was waited for"
        return trial

    def _floor(self, record: TrialRecord) -> Baseline | None:
        """The noise floor of a trial, measured now when there is none."""
        evidence = self.scratch.evidence
        floor = evidence.floor(record)
        if floor is not None or record.samples is None:
            return floor
        series, journal = self.session.series, self.session.journal
        count = series.floor_processes if record.samples.paired else max(2, series.floor_processes)
        occasion = f"{record.id} noise floor"
        id = journal.ids.reserve(series.prefix, f"dev/{occasion}", self.session.numbers)
        self.speaker.say(
            f"{id}: the baseline against itself, in {count} processes: its noise floor is not known here yet"
        )
        trials: list[Stored[Any]] = []
        for number in range(count):
            self.speaker.tell(Waiting(f"the noise floor, process {number + 1} of {count}"))
            label = "noise floor"
            own = trial_id(id, number + 1)
            trials.append(self._trial(self.case.case, number, own, occasion, label, self.version).stored)
            if trials[-1].record.status != "ok":
                self.speaker.say(f"{trials[-1].record.id}: the baseline case failed: 'research show' tells how")
                return None
        evidence.keep_floor(trials)
        floor = evidence.floor(record)
        if floor is None:
            self.speaker.say(
                f"{id}: other processes kept the machine busy meanwhile, so this is no noise floor and there is no "
                "verdict; the next attempt measures it again"
            )
        return floor

    def _beside(self, claim: Claim | None, baseline: Baseline | None) -> list[str]:
        """What an answer is seen beside: the best so far, and the noise floor that it rests on."""
        if claim is None or baseline is None or claim.estimate is None:
            return []
        lines = []
        best, watched = self.scratch.evidence.best(baseline.case), self.order.best
        if (
            watched is not None
            and watched.estimate
            and (best is None or watched.gain > gain(self.session.series.primary, best))
        ):
            lines.append(f"{ratio(claim.estimate / watched.estimate)} × the best so far ({watched.ids}, {watched.told})")
        elif best is not None and best.estimate:
            where = f"{best.trials[0].id} {changes_text(best.changes)}, {estimate_text(best)}"
            beside = f"{ratio(claim.estimate / best.estimate)} ×" if claim.estimand == "ratio" else "beside"
            lines.append(f"{beside} the best so far ({where})")
        if self.version is not None:
            lines.append(f"the baseline ran in a process of its own, on {_named(self.version)}")
            return lines
        first = baseline.trials[0].record
        if isinstance(first, TrialRecord) and first.code != self.case.code.digest:
            lines.append(f"the noise floor is that of {baseline.entry.id}, measured before the code was edited")
        return lines


def _named(version: Code) -> str:
    assert version.tree is not None, "a version lies in a copy"
    return version.tree.named


def _edits(checkout: Checkout, captured: Captured) -> str:
    """What differs from the commit: 'kernels.py +3 -1', and how many files more."""
    if captured.patch is None:
        return captured.provenance.patch_note
    lines = checkout.git("apply", "--numstat", "-z", input=captured.patch).decode("utf-8", "replace").split("\0")
    files = [line.split("\t", 2) for line in lines if line.count("\t") == 2]
    shown = [f"{Path(name).name} +{added} -{removed}" for added, removed, name in files[:2]]
    return ", ".join([*shown, *([f"{len(files) - 2} more"] if len(files) > 2 else [])])
