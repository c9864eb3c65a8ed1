"""Running a thread: builds its steps, hands them to Marin's executor, and publishes what they record while they run."""

import json
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from research_steps.errors import ResearchError, UsageError
from research_steps.git import Checkout
from research_steps.journal.journal import Journal
from research_steps.journal.store import AWAY_S, open_store, store_url
from research_steps.records.encoding import Stored, sha256
from research_steps.records.series import Series
from research_steps.remote.ray.task import as_driver

if TYPE_CHECKING:
    from research_steps.thread.builders import Steps
    from research_steps.thread.marin.executor_steps import ExecutorPlan

RETRIES = ("failed", "contended", "orphaned")
# Marin's own: how many steps run at once, and how long it waits for the lock of a driver that may be gone (seconds).
STEPS_AT_ONCE, LOCK_S = 8, 90


@dataclass(frozen=True)
class RunOptions:
    """Options of a thread's command line; the first six are Marin's own."""

    prefix: str | None = None
    """The store: where steps' outputs and the journal lie. Default: MARIN_PREFIX, else local_store/ in the checkout."""

    executor_info_base_path: str | None = None
    """Where the executor's own info is written. Default: experiments/ under the prefix."""

    dry_run: bool = False
    """Say what would run; record and publish nothing."""

    force_run_failed: bool = True
    """Run steps again that failed before."""

    run_only: list[str] | None = None
    """Run only the steps whose names match these regular expressions, and what they need."""

    max_concurrent: int | None = None
    """How many steps may run at once. Trials take turns on a machine in any case."""

    retry: str = ""
    """Measure again what ended as failed, contended or orphaned; several with commas between."""

    skip_known: bool = False
    """Don't measure what failed or did not help before; its old result stands in the table."""

    force: bool = False
    """Let steps.interact take axes that were not swept alone; that is recorded."""

    seal: bool = False
    """Run the thread's seal steps: commit the relevant files and tag the commit. Without it, where stop_at holds."""


def run(series: Series, thread: "Callable[[Steps], Any]", options: RunOptions) -> None:
    """Run a thread through Marin's executor. Raises ResearchError; a failed step is in the journal by then."""
    retry = _retries(options.retry)
    as_driver()
    checkout = Checkout.find()
    prefix = store_url(checkout.root, options.prefix)
    journal = Journal(open_store(prefix, AWAY_S), series.topic)
    _say(f"{series.topic}: store {prefix}; loading Marin")
    import research_steps.thread.builders  # noqa: F401  # what takes long, before the cluster waits for it

    logging.getLogger("jax").setLevel(logging.WARNING)
    with _engine(checkout):
        _run(series, thread, options, checkout, journal, retry)


def _run(
    series: Series,
    thread: "Callable[[Steps], Any]",
    options: RunOptions,
    checkout: Checkout,
    journal: Journal,
    retry: frozenset[str],
) -> None:
    from research_steps.thread.builders import Steps
    from research_steps.thread.marin import executor_steps as marin

    steps = Steps(series)
    thread(steps)
    seals = [step for step in steps.all if getattr(step.config, "kind", "") == "seal"]
    chosen = [step for step in steps.all if options.seal or step not in seals]
    if not chosen:
        raise UsageError(f"The thread of {series.topic} built no steps: expected it to call steps.baseline and others.")
    asked = {resources for step in chosen if (resources := _resources(step)) is not None}
    for resources in asked:
        marin.check(resources)
    whole, plan, sealing = (
        marin.plan(journal.store.url, options.executor_info_base_path, series.goal, some)
        for some in (steps.all, chosen, seals)
    )
    flags = {
        "run_only": options.run_only,
        "force_run_failed": options.force_run_failed,
        # What waits for a cluster needs a thread each, and nothing else.
        "max_concurrent": options.max_concurrent or STEPS_AT_ONCE + sum(_resources(step) is not None for step in chosen),
    }
    if options.dry_run:
        logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
        plan.run(dry_run=True, **flags)
        return
    _run_recorded(series, checkout, journal, whole, plan, sealing, options, retry, flags)


def _run_recorded(
    series: Series,
    checkout: Checkout,
    journal: Journal,
    whole: "ExecutorPlan",
    plan: "ExecutorPlan",
    sealing: "ExecutorPlan",
    options: RunOptions,
    retry: frozenset[str],
    flags: dict[str, Any],
) -> None:
    from research_steps.publish.logbook.surface import numbers_used
    from research_steps.publish.publisher import Publisher
    from research_steps.publish.wandb.surface import check_project
    from research_steps.thread.marin import executor_steps as marin
    from research_steps.thread.surfaces import surfaces_of
    from research_steps.trial import provenance
    from research_steps.trial.context import CHOICES, Session, use
    from research_steps.trial.launcher.client import Launcher
    from research_steps.trial.launcher.local import Here

    check_project(journal, series)
    captured = provenance.capture(checkout, provenance.command_line())
    if captured.patch is not None and captured.provenance.patch is not None:
        journal.keep_patch(captured.provenance.patch, captured.patch)
    packages = provenance.installed(checkout.root)
    journal.keep_environment(sha256(packages), packages)
    captured = captured.with_environment(sha256(packages))
    journal.declare(series)
    with Launcher() as launcher:
        # Such a work tree goes when its run is over: what is recorded there is published from a checkout.
        shipped = provenance.shipped(checkout) is not None
        publisher = Publisher(journal, [] if shipped else surfaces_of(checkout, journal, series), _say)
        session = Session(
            series=series,
            journal=journal,
            host=Here(launcher),
            captured=captured,
            repository=checkout.logbooks / series.topic,
            used_numbers=frozenset(numbers_used(checkout, series.topic, series.prefix)),
            retry=retry,
            skip_known=options.skip_known,
            force=options.force,
            say=_say,
            changed=publisher.changed,
            choices=json.loads(Path(os.environ[CHOICES]).read_bytes()) if CHOICES in os.environ else {},
        )
        _prepare(session, whole)
        failed: BaseException | None = None
        with publisher, use(session):
            try:
                plan.run(**flags)
                if not options.seal and sealing.steps and _has_reached(session):
                    sealing.run(**flags)
            except KeyboardInterrupt as error:
                launcher.close()
                marin.end_jobs()
                journal.store.give_up()
                failed = error
            except RuntimeError as error:
                failed = error
    if shipped and checkout.git_dir is None:
        _say(
            f"{series.topic}: the records are in {journal.store.url}; 'research sync {series.topic} --prefix …' in a "
            "checkout publishes them"
        )
    elif not shipped:
        _tell(len(publisher.done), publisher.problems, checkout, series)
    if isinstance(failed, KeyboardInterrupt):
        raise ResearchError("The run was stopped; start it again to go on where it was.")
    if failed is not None:
        raise ResearchError(_reasons(failed)) from failed


@contextmanager
def _engine(checkout: Checkout) -> Iterator[None]:
    """Have steps with resources run on the Ray cluster that RAY_ADDRESS names, where it does. Fray finds others."""
    address = os.environ.get("RAY_ADDRESS", "")
    if not address:
        yield
        return
    from research_steps.remote.ray.joining import joined
    from research_steps.thread.marin import executor_steps as marin

    with joined(address, checkout) as client, marin.using(client):
        yield


def _prepare(session: Any, plan: "ExecutorPlan") -> None:
    """Tell shards whose they are, and clear the steps that a retry measures again, that rest on what is retracted, or
    that have sealed what was measured again since."""
    from research_steps.thread.configs import StepConfig, step_key

    ours = [step for step in plan.executor.steps if isinstance(step.config, StepConfig)]
    keys = {id(step): step_key(plan.output_path(step), session.journal) for step in ours}
    shards: dict[int, list[Any]] = {}
    for step in ours:
        if step.config.kind == "sweep":
            shards[id(step)] = [given for given in step.config.inputs if given.config.kind == "shard"]
            for shard in shards[id(step)]:
                session.shard_of[plan.output_path(shard)] = (keys[id(step)], step.config.label)
    begun = {claim.step_key for claim in session.journal.ids.reserved()}
    locked = [step.name for step in ours if keys[id(step)] in begun and plan.locked(step)]
    if locked:
        _say(f"another driver has {', '.join(locked)}; if it is gone, Marin gives them up after {LOCK_S:g} s")
    session.retracted = session.journal.published(session.repository).retracted
    statuses = {{"orphaned": "interrupted"}.get(name, name) for name in session.retry}
    cleared = []
    for step in ours if session.retry or session.retracted else [one for one in ours if one.config.kind == "seal"]:
        held = session.journal.ids.latest_entry(keys[id(step)])
        # Of a sweep that was not put together yet only the shards know what came of its trials.
        unknown = held is None and id(step) in shards and bool(session.retry)
        if unknown or (held is not None and (_has_outcome(held, statuses) or _rests_on(held, session.retracted))):
            cleared += [step, *shards.get(id(step), [])]
        elif held is not None and step.config.kind == "seal":
            now = [session.journal.ids.latest_entry(keys[id(given)]) for given in step.config.inputs]
            if any(one is not None and one.ref not in held.record.inputs for one in now):
                cleared.append(step)
    again = plan.dependents(cleared)
    for step in again:
        plan.forget(step)
    session.redo = frozenset(step_key(plan.output_path(step), session.journal) for step in again)


def _has_reached(session: Any) -> bool:
    """Whether the series has what it was started for, which is told."""
    from research_steps.evidence.claims import current_claims, reached, told

    entries = session.journal.published(session.repository).in_order
    found = reached(session.series, current_claims(session.series, entries))
    if found is not None:
        _say(f"{session.series.topic}: the stop criterion holds ({found.metric} {told(found)}); it is to be sealed")
    return found is not None


def _resources(step: Any) -> Any:
    """What a step asks of the machine that a cluster's engine finds, None where it doesn't."""
    return getattr(getattr(step.config, "measured", None), "resources", None)


def _has_outcome(entry: Stored[Any], statuses: set[str]) -> bool:
    rows = entry.record.rows
    return any(row.status in statuses or (row.contended and "contended" in statuses) for row in rows)


def _rests_on(entry: Stored[Any], gone: frozenset[str]) -> bool:
    refs = (*entry.record.inputs, *(row.trial for row in entry.record.rows))
    return entry.sha256 in gone or any(ref.sha256 in gone for ref in refs)


def _retries(text: str) -> frozenset[str]:
    names = frozenset(name.strip() for name in text.split(",") if name.strip())
    unknown = sorted(names - set(RETRIES))
    if unknown:
        raise UsageError(f"--retry was given {unknown[0]!r}: expected {', '.join(RETRIES)}, or several with commas.")
    return names


def _reasons(error: BaseException) -> str:
    reasons = []
    current: BaseException | None = error
    while current is not None:
        reasons.append(str(current))
        current = current.__cause__
    return ": ".join(reasons)


def _tell(done: int, problems: Sequence[str], checkout: Checkout, series: Series) -> None:
    from research_steps.publish.logbook.surface import path_of

    path = path_of(checkout, series.topic)
    shown = path.relative_to(checkout.root) if path.is_relative_to(checkout.root) else path
    _say(f"{series.topic}: the logbook is {shown}" if done else f"{series.topic}: nothing new for {shown}")
    for problem in problems:
        _say(f"not published: {problem} Run 'research sync {series.topic}' once it is mended.")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
