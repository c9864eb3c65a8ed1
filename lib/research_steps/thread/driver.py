"""The driver of a run: Marin's executor runs the steps that a thread builds, and a publisher shows what they record."""

import json
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec

from research_steps.errors import ResearchError, UsageError
from research_steps.evidence.claim_text import claim_text
from research_steps.evidence.state import thread_state
from research_steps.files import is_there
from research_steps.git import Checkout
from research_steps.journal.journal import Journal
from research_steps.journal.logbook_place import logbook_of
from research_steps.journal.wandb_project import check_project
from research_steps.publish.logbook.numbers import CheckoutNumbers
from research_steps.publish.publisher import Publisher
from research_steps.publish.report.files import write_report
from research_steps.publish.terminal.headline import headline, look_at
from research_steps.publish.terminal.live import drawn
from research_steps.records.encoding import sha256
from research_steps.records.model import Captured
from research_steps.records.resources import Resources
from research_steps.records.series import Series
from research_steps.thread.builders import StepBuilder
from research_steps.thread.configs import research_config
from research_steps.thread.lock_watch import LockWatch
from research_steps.thread.marin import binding, jobs
from research_steps.thread.marin.protocols import Plan
from research_steps.thread.options import RunOptions
from research_steps.thread.redo import prepare
from research_steps.thread.surfaces import surfaces_of
from research_steps.trial import provenance
from research_steps.trial.board import Board
from research_steps.trial.context import CHOICES, Session, use
from research_steps.trial.launcher.host import LocalHost
from research_steps.trial.launcher.launcher import Launcher
from research_steps.trial.trust import Trust
from research_steps.trial.versions import version_named

# Marin's own: how many steps run at once.
STEPS_AT_ONCE = 8


@dataclass(frozen=True)
class ThreadRun:
    """What is fixed in one run of a thread. `retry` are the outcomes that are measured again; `say` prints a line."""

    series: Series
    options: RunOptions
    retry: frozenset[str]
    checkout: Checkout
    journal: Journal
    say: Callable[[str], None]

    def drive(self, thread: Callable[[StepBuilder], object]) -> None:
        """Run the steps that the thread builds. Raises ResearchError."""
        everything, chosen, seals = self._plan(thread)
        if self.options.dry_run:
            logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
            self._run_plan(chosen)
            return
        check_project(self.journal, self.series)
        captured = self._capture()
        self.journal.declare(self.series)
        self.journal.attempts.end_orphaned()
        board = Board()
        with drawn(board), Launcher() as launcher:
            surfaces = [] if self._is_shipped else surfaces_of(self.checkout, self.journal, self.series)
            publisher = Publisher(self.journal, surfaces, self.say)
            session = self._session(captured, launcher, publisher.changed, board)
            prepare(session, everything)
            with publisher, use(session):
                failure = self._run(chosen, seals, session, launcher)
        self._tell(publisher)
        if isinstance(failure, KeyboardInterrupt):
            raise ResearchError("The run was stopped; start it again to go on where it was.")
        try:
            self._tell_answer(bool(publisher.done))
        finally:
            # Why a step failed is told whatever can't be read.
            if failure is not None:
                raise ResearchError(_reasons(failure)) from failure

    def _plan(self, thread: Callable[[StepBuilder], object]) -> list[Plan]:
        """What the executor makes of all steps, of those that run now, and of the seals, which may run then."""
        builder = StepBuilder(self.series, partial(version_named, self.checkout, self.journal))
        with binding.building(self.options):
            thread(builder)
        configs = {step: config for step in builder.built if (config := research_config(step)) is not None}
        for measured in (config.measured for config in configs.values()):
            if measured is not None:
                Trust(self.checkout).add_measure(measured.name, measured.config_type)
        seals = [step for step, config in configs.items() if config.kind == "seal"]
        chosen = [step for step in builder.built if self.options.seal or step not in seals]
        if self.options.seal and not seals:
            raise UsageError(
                f"--seal was given, and the thread of {self.series.topic} builds no seal step: expected steps.seal(…) "
                f"in it; 'research seal {self.series.topic}' seals without one."
            )
        if not chosen:
            raise UsageError(
                f"The thread of {self.series.topic} built no steps: expected it to call steps.baseline and others."
            )
        for resources in {resources for step in chosen if (resources := _resources(step)) is not None}:
            jobs.check(resources)
        measuring = [configs[step] for step in chosen if step in configs and configs[step].measured is not None]
        here = [config.label for config in measuring if config.what.resources is None]
        if here and jobs.has_engine():
            self.say(
                f"{self.series.topic}: measured by this driver, on {os.uname().nodename}, and by no other machine of "
                f"the cluster: {', '.join(here)}. For others: steps.baseline(…, resources=Resources(…))"
            )
        return [
            binding.plan(self.journal.store.url, self.options, self.series.goal, steps)
            for steps in (builder.built, chosen, seals)
        ]

    def _run_plan(self, plan: Plan) -> None:
        # What waits for a cluster needs a thread each, and nothing else.
        waiting = sum(_resources(step) is not None for step in plan.steps)
        plan.run(self.options, self.options.max_concurrent or STEPS_AT_ONCE + waiting)

    def _capture(self) -> Captured:
        """Where the run's records come from; patch and packages are in the journal then."""
        captured = provenance.capture(self.checkout, provenance.command_line(), self.series.topic)
        Trust(self.checkout).add_code(captured.provenance.version)
        self.journal.keep_patch(captured.provenance.patch, captured.patch)
        packages = provenance.installed(self.checkout.root)
        self.journal.keep_environment(packages)
        return Captured(msgspec.structs.replace(captured.provenance, environment=sha256(packages)), None)

    def _session(self, captured: Captured, launcher: Launcher, changed: Callable[[], None], board: Board) -> Session:
        return Session(
            series=self.series,
            journal=self.journal,
            host=LocalHost(launcher),
            captured=captured,
            repository=logbook_of(self.checkout, self.series.topic).records,
            numbers=CheckoutNumbers(self.checkout, self.series.topic, self.series.prefix),
            retry=self.retry,
            skip_known=self.options.skip_known,
            force=self.options.force,
            say=self.say,
            changed=changed,
            board=board,
            choices=json.loads(Path(os.environ[CHOICES]).read_bytes()) if CHOICES in os.environ else {},
        )

    def _run(self, chosen: Plan, seals: Plan, session: Session, launcher: Launcher) -> BaseException | None:
        """Run the chosen steps, then the seals where stop_at holds. A failure is returned, so that all is published."""
        try:
            with LockWatch(self.journal, chosen, self.say).watching():
                self._run_plan(chosen)
            if not self.options.seal and seals.steps and self._has_reached(session):
                with LockWatch(self.journal, seals, self.say).watching():
                    self._run_plan(seals)
        except KeyboardInterrupt as error:
            launcher.close()
            session.processes.close()
            jobs.end_jobs()
            self.journal.store.give_up()
            return error
        except RuntimeError as error:
            return error
        return None

    def _has_reached(self, session: Session) -> bool:
        """Whether the series has what it was started for, which is told."""
        claim = thread_state(self.series, self.journal.with_trials(session.repository)).reached
        if claim is not None:
            self.say(
                f"{self.series.topic}: the stop criterion holds ({claim.metric} {claim_text(claim)}); it is to be sealed"
            )
        return claim is not None

    @cached_property
    def _is_shipped(self) -> bool:
        """Whether its work tree goes when the run is over: what is recorded there is published from a checkout."""
        return provenance.shipped(self.checkout) is not None

    def _tell(self, publisher: Publisher) -> None:
        """Say where to read what was found."""
        topic = self.series.topic
        if self._is_shipped:
            if self.checkout.git_dir is None:
                self.say(
                    f"{topic}: the records are in {self.journal.store.url}; 'research sync {topic} --prefix …' in a "
                    "checkout publishes them"
                )
            return
        place = logbook_of(self.checkout, topic)
        shown = f"the logbook is {place.shown}" if place.kind != "none" else "what is new is published"
        if is_there(place.path):
            self.say(f"{topic}: {shown}" if publisher.done else f"{topic}: nothing new for {place.shown}")
        for problem in publisher.problems:
            self.say(f"not published: {problem} Run 'research sync {topic}' once it is mended.")

    def _tell_answer(self, is_new: bool) -> None:
        """Say what is known by now, and what to look at next, from what is recorded. For somebody who sits there what is
        new is on the report's page, too."""
        if self._is_shipped:
            return
        repository = logbook_of(self.checkout, self.series.topic).records
        state = thread_state(self.series, self.journal.with_trials(repository))
        for line in headline(state):
            self.say(line)
        report = ""
        if is_new and sys.stderr.isatty() and find_spec("vl_convert") is not None:
            path = write_report(self.checkout, self.journal, self.series, self.journal.scan(repository))
            report = str(path.relative_to(self.checkout.root))
        self.say(look_at(state, report))


def _resources(step: Any) -> Resources | None:
    """What a step asks of the machine that a cluster's engine finds, None where it doesn't."""
    config = research_config(step)
    return config.measured.resources if config is not None and config.measured is not None else None


def _reasons(error: BaseException) -> str:
    reasons = []
    current: BaseException | None = error
    while current is not None:
        reasons.append(str(current))
        current = current.__cause__
    return ": ".join(reasons)
