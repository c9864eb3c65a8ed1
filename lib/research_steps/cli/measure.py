"""Commands that measure: in dev mode, through Marin's executor, on a cluster or on a TPU that is held there."""

import re
import sys
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from research_steps.cli.common import OpenSeries, RecordCommand, ResearchCommand, SearchCommand, series_here
from research_steps.errors import UsageError
from research_steps.git import Checkout
from research_steps.journal.store import store_url
from research_steps.records.model import TrialRecord
from research_steps.records.names import named
from research_steps.records.series import check_topic
from research_steps.terminal import print_lines, say
from research_steps.thread.dev.messages import Attempted, DevRequest
from research_steps.thread.loading import load_series, load_thread
from research_steps.thread.options import RunOptions

if TYPE_CHECKING:
    from research_steps.thread.builders import StepBuilder

# What a shell gives a command that Ctrl-C ended.
INTERRUPTED = 130

_processes = click.option(
    "-n", "count", type=click.IntRange(min=1), default=3, help="In how many processes. Default: 3."
)


@click.command(cls=ResearchCommand, prefix=True)
@click.argument("topic", required=False)
@click.argument("more", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change the baseline case, as draccus reads it."
)
@click.option("--baseline", default="", metavar="LABEL", help="Which baseline. Default: the first of the thread.")
@click.option(
    "--against", default="", metavar="REF", help="Run the baseline on this commit, or trial. Default: as it was fixed."
)
@click.option("-n", "processes", type=click.IntRange(min=1), default=1, help="In how many processes. Default: 1.")
@click.option("--label", default="", help="Make it an entry of this name at once; without, it is scratch.")
@click.option("--hypothesis", default="", help="Make it an entry that tests this, such as H2.")
@click.option(
    "--in-process", is_flag=True, help="In a process that stays, with the accelerator's backend that it has started."
)
@click.option("--watch", is_flag=True, help="Again whenever a file that it imports is saved, until Ctrl-C.")
@click.option("--host", default="", metavar="NAME", help="On another machine: of infra/dev_hosts.yaml, or of ssh.")
@click.option("--env", multiple=True, metavar="NAME", help="A variable that --host is given, with its value here.")
@click.option("--status", "show", is_flag=True, help="Tell what the kept parent of this checkout is.")
@click.option("--stop", is_flag=True, help="End the kept parent of this checkout.")
def dev(
    topic: str | None,
    more: tuple[str, ...],
    settings: tuple[str, ...],
    watch: bool,
    show: bool,
    stop: bool,
    prefix: str | None,
    **asked: Any,
) -> None:
    """Measure one configuration of TOPIC now, against its baseline. Without the executor; recorded, and exploratory.

    The code is what is on disk now; the baseline keeps its own, so that without --set this asks whether an edit is
    better. The first call starts a parent process that keeps what is imported.
    """
    from research_steps.thread.dev.command import new_occasion, order
    from research_steps.thread.dev.progress_line import ProgressLine
    from research_steps.trial.provenance import command_line

    checkout = Checkout.find()
    if show or stop:
        _tell_of(checkout, stop)
        return
    if topic is None:
        raise UsageError("No topic was given: expected 'research dev TOPIC'; 'research status' tells which there are.")
    if asked["env"] and not asked["host"]:
        raise UsageError("--env was given without --host: here, what is measured sees the whole environment.")
    request = DevRequest(
        cwd=str(checkout.root),
        store=store_url(checkout.root, prefix),
        topic=check_topic(topic),
        command=tuple(command_line()),
        occasion=new_occasion(),
        settings=(*settings, *more),
        **asked,
    )
    if watch:
        _watch(checkout, request)
        return
    with ProgressLine() as progress:
        answer = msgspec.json.decode(order(checkout, request, progress.hear), type=Attempted)
    if answer.status != "ok":
        sys.exit(1)


def _watch(checkout: Checkout, request: DevRequest) -> None:
    from research_steps.thread.dev.watch import watch

    if request.label or request.hypothesis:
        raise UsageError(
            "--watch was given with --label or --hypothesis: its attempts are scratch until you keep them as one entry. "
            "Leave these out; 'research keep' takes them when the session has ended."
        )
    if not watch(checkout, request):
        sys.exit(INTERRUPTED)


def _tell_of(checkout: Checkout, stop: bool) -> None:
    from research_steps.trial.launcher.daemon import Daemon

    daemon = Daemon(checkout.root)
    state = daemon.state()
    if state is None:
        return print_lines(f"No kept parent runs for {daemon.root}.")
    who = f"process {state.pid} since {state.since}, {state.python}"
    print_lines(f"The kept parent of {state.root}: {who}; log: {daemon.folder / 'log'}")
    if stop:
        daemon.stop()
        print_lines("It was stopped.")


@click.command(cls=SearchCommand)
@click.argument("id")
@click.option("--hypothesis", required=True, help="What it tests, such as H2.")
@click.option("--interpretation", default="", help="What it means. Default: what follows by rule.")
@click.option("--next", "next_action", default="", help="What to do next. Default: what follows by rule.")
@click.option("--label", default="", help="What the entry is called. Default: what the last attempt changed.")
def keep(everywhere: list[OpenSeries], id: str, hypothesis: str, **texts: str) -> None:
    """Make an entry of what dev mode found under ID. That is one such as MOE-HC-031; or of one attempt there,
    MOE-HC-031.02, beside the others that were tried."""
    from research_steps.evidence import hypotheses
    from research_steps.journal.snapshot import entries_of
    from research_steps.thread.dev.evidence import DevEvidence
    from research_steps.thread.dev.keep import KeptAttempt
    from research_steps.thread.dev.keep import keep as make_entry

    experiment, _, trial = named(id)[0].partition(".")
    series, occasion = _reserved(everywhere, experiment)
    snapshot = series.journal.published(series.checkout.logbooks / series.topic)
    attempt = KeptAttempt(
        series.checkout,
        DevEvidence(series.series, series.journal, snapshot.counting, snapshot.retracted),
        experiment,
        occasion,
        chosen=named(id)[0] if trial else "",
        hypothesis=hypotheses.spelled_out(hypotheses.queue(series.series, entries_of(snapshot)), hypothesis),
        **texts,
    )
    series.tell(make_entry(attempt))


@click.command(cls=SearchCommand, json=False)
@click.argument("id")
@_processes
def confirm(everywhere: list[OpenSeries], id: str, count: int) -> None:
    """Measure what dev mode found through Marin's executor. ID is that of its trial, such as MOE-HC-031.02, whose
    baseline is measured with it.

    Both run the code that the trial ran, whatever the work tree holds by now.
    """
    from research_steps.actions.revisions import next_numbers
    from research_steps.journal.snapshot import find
    from research_steps.thread.dev.cases import declared
    from research_steps.thread.dev.evidence import DevEvidence
    from research_steps.thread.dev.keep import changes_of
    from research_steps.thread.run import run

    series, _ = _reserved(everywhere, named(id)[0].partition(".")[0])
    trial = find(series.snapshot, id).record
    if not isinstance(trial, TrialRecord) or trial.mode != "dev" or trial.status != "ok":
        raise UsageError(f"{id} is no trial of dev mode that succeeded: expected one such as MOE-HC-031.02.")
    snapshot = series.snapshot
    evidence = DevEvidence(series.series, series.journal, snapshot.counting, snapshot.retracted)
    changes, case, numbers = changes_of(trial), evidence.case(trial), next_numbers(snapshot, count)

    def confirming(builder: "StepBuilder") -> None:
        from research_steps.thread import command_steps

        _refuse_other_conditions(trial, "Confirm")
        again = command_steps.Again(series.checkout, series.journal, trial, changes, case, numbers)
        if again.is_on_disk:
            thread = load_thread(series.checkout, series.topic)[1]
            compared_with = f"with the case that {id} was compared with"
            baseline = declared(thread, lambda case: case.case == trial.baseline_config, compared_with)
            base = builder.baseline(baseline.measure, baseline.config, label=baseline.label)
            command_steps.confirm(builder, again, base)
            return
        fixed = evidence.fixed(trial.baseline_config)
        if fixed is None:
            raise UsageError(
                f"The baseline that {id} was compared with is in no entry yet: run 'python -m experiments."
                f"{series.topic}' on the code that it has, so that claims can rest on it."
            )
        command_steps.confirm_version(builder, again, fixed.entry.ref)

    run(series.series, confirming, RunOptions(prefix=series.prefix))


def _reserved(everywhere: list[OpenSeries], id: str) -> tuple[OpenSeries, str]:
    """The series in which dev mode holds an experiment ID, and the step key of that. Raises UsageError."""
    for series in everywhere:
        for reserved in reversed(series.journal.ids.reserved()):
            if reserved.id == id and reserved.step_key.startswith("dev/"):
                return series, reserved.step_key
    raise UsageError(f"{id} is no experiment ID of dev mode here: 'research status' tells what is scratch.")


@click.command(cls=RecordCommand, json=False)
@_processes
def replicate(series: OpenSeries, id: str, count: int) -> None:
    """Measure a candidate again, in processes of their own. This is the way from exploratory to replicated.

    ID is that of its row, or of the entry, whose best candidate is taken. Runs through Marin's executor, on the code
    that was measured.
    """
    from research_steps.actions.revisions import claim_of, next_numbers
    from research_steps.thread.run import run

    claim, entry, trial = claim_of(series.snapshot, id, series.series.primary)
    numbers = next_numbers(series.snapshot, count)

    def thread(builder: "StepBuilder") -> None:
        from research_steps.thread.command_steps import Again, replicate_again

        # Only now, because conditions are those that Marin leaves behind when it is imported.
        _refuse_other_conditions(trial, "Replicate")
        again = Again(series.checkout, series.journal, trial, claim.changes, claim.case, numbers)
        replicate_again(builder, again, claim, entry)

    run(series.series, thread, RunOptions(prefix=series.prefix))


def _refuse_other_conditions(trial: TrialRecord, do: str) -> None:
    """Raises UsageError when a trial was measured under other conditions than those here."""
    from research_steps.records.conditions import conditions
    from research_steps.records.configurations import differences
    from research_steps.trial.provenance import facts_here

    apart = differences(conditions(trial), facts_here(trial.provenance.env).conditions)
    if apart:
        changes = "; ".join(f"{name} was {was} and is {now}" for name, (was, now) in apart.items())
        raise UsageError(f"{trial.id} was measured under other conditions: {changes}. {do} it under the same ones.")


@click.command(cls=ResearchCommand, prefix=True)
@click.option(
    "--cluster", "file", type=click.Path(path_type=Path), required=True, help="The cluster, such as infra/local.yaml."
)
@click.option(
    "--environment", default="default", show_default=True, help="A runtime environment of infra/environments.yaml."
)
@click.option("--env", multiple=True, metavar="NAME[=VALUE]", help="Set this variable; may be repeated.")
@click.option("--no-wait", is_flag=True, help="End when the cluster has taken the job.")
@click.argument("argv", metavar="-- python -m experiments.TOPIC...", nargs=-1, required=True)
def submit(
    file: Path, environment: str, env: tuple[str, ...], no_wait: bool, argv: tuple[str, ...], prefix: str | None
) -> None:
    """Run a thread's driver on a Ray cluster, and follow its log.

    Exits as it does. Sent are files that git tracks or doesn't ignore. While the thread is running there, the same
    command attaches to it. Ctrl-C detaches: the job runs on.
    """
    from research_steps.publish.publisher import Publisher
    from research_steps.remote.ray import jobs
    from research_steps.remote.ray.config import read_cluster
    from research_steps.thread.surfaces import surfaces_of

    checkout, cluster = Checkout.find(), read_cluster(file)
    driver = jobs.driver_of(checkout, cluster, argv, environment, env, prefix)
    journal = driver.journal
    series = load_series(checkout, journal.topic)
    server = jobs.Server(cluster)
    id = server.submit(checkout, driver, say)
    for what, verb, arguments in (("jobs", "list", ()), ("log", "logs", ("--follow", id)), ("stop", "stop", (id,))):
        say(f"{what}: {server.command(verb, *arguments)}")
    catch_up = f"'research sync {journal.topic} --prefix {journal.store.url}' brings the logbook up to date"
    if no_wait:
        say(f"{id} runs without you; {catch_up}")
        return
    with Publisher(journal, surfaces_of(checkout, journal, series), say):
        try:
            code = server.follow(id)
        except KeyboardInterrupt:
            say("")
            say(f"detached: {id} runs on; submit it again to attach; {catch_up}")
            code = INTERRUPTED
    sys.exit(code)


def duration(text: str) -> float:
    """Seconds, written as '90s', '10m' or '4h'."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    if match is None:
        raise click.BadParameter(f"{text!r} is no duration: expected one such as 90s, 10m or 4h.")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]


@click.group("dev-tpu")
def dev_tpu() -> None:
    """Hold a TPU of a Ray cluster, and run commands on it.

    They run in a copy of the work tree. The cluster is where RAY_ADDRESS says; else where the configuration says.
    """


_tpu_name = click.option("--tpu-name", "name", required=True, help="The name that it is held under.")
_tpu_config = click.option(
    "--config", type=click.Path(path_type=Path), required=True, help="The cluster, such as infra/local.yaml."
)


@dev_tpu.command(cls=ResearchCommand)
@_tpu_name
@_tpu_config
@click.option("--tpu-type", required=True, help="The type of a single host, such as v4-8.")
@click.option("--for", "for_s", type=duration, default="8h", show_default=True, help="How long to hold it.")
@click.option("--wait", "wait_s", type=duration, default="10m", show_default=True, help="How long to wait for it.")
def allocate(name: str, config: Path, tpu_type: str, for_s: float, wait_s: float) -> None:
    """Hold a TPU until Ctrl-C, the time limit, or `release`."""
    from research_steps.records import times
    from research_steps.remote.ray import tpu

    _open_cluster(name, config)
    with tpu.signals() as stop:
        allocation = tpu.allocate(name, tpu_type, wait_s, stop, say)
        if allocation is None:
            return
        about = allocation.about
        where = f"{about['node']} ({about['ip']})"
        print_lines(f"{name}: {about['type']} is held on {where} for {times.duration(for_s)}, until Ctrl-C")
        print_lines(f"{name}: use it with 'research dev-tpu execute --tpu-name {name} --config {config} -- COMMAND'")
        print_lines(f"{name} is free again: {tpu.hold(allocation, for_s, stop, say)}")


@dev_tpu.command(cls=ResearchCommand, prefix=True)
@_tpu_name
@_tpu_config
@click.option("--env", "names", multiple=True, metavar="NAME", help="Send this variable along; may be repeated.")
@click.option("--record", "topic", metavar="TOPIC", help="Leave an entry in the log of this series.")
@click.option("--label", default="", help="What the entry is called. Default: the command.")
@click.argument("argv", metavar="-- COMMAND...", nargs=-1, required=True)
def execute(
    name: str,
    config: Path,
    names: tuple[str, ...],
    topic: str | None,
    label: str,
    argv: tuple[str, ...],
    prefix: str | None,
) -> None:
    """Run a command on a held TPU, and exit as it does.

    It runs at the root of a copy of the work tree. Sent are files that git tracks or doesn't ignore, as far as they
    differ from the copy. Ctrl-C ends the command.
    """
    from research_steps.actions.executions import record
    from research_steps.remote.ray import execution, tpu
    from research_steps.remote.ray.config import environment

    env = environment(names)
    series = series_here(topic, prefix)[0] if topic else None
    # A series that can't be written to is told before the command runs.
    writer = series.writer if series else None
    _open_cluster(name, config)
    allocation = tpu.find(name)
    with tpu.signals() as stop:
        outcome = execution.execute(allocation, Checkout.find(), list(argv), env, stop, say)
    if series is not None and writer is not None:
        # What is printed to stdout is the command's, and so is the exit code; what wasn't published is told.
        with redirect_stdout(sys.stderr), suppress(SystemExit):
            series.tell(record(writer, label, allocation, list(argv), env, outcome))
    if outcome.lost:
        say(f"error: {outcome.lost}")
    sys.exit(outcome.code)


@dev_tpu.command(cls=ResearchCommand)
@_tpu_name
@_tpu_config
def release(name: str, config: Path) -> None:
    """Free a TPU, whoever holds it."""
    from research_steps.remote.ray import tpu

    _open_cluster(name, config)
    allocation = tpu.find(name)
    tpu.release(allocation)
    print_lines(f"{name} is free again; it was held by {allocation.about['by']}")


def _open_cluster(name: str, config: Path) -> None:
    from research_steps.remote.ray import tpu
    from research_steps.remote.ray.config import read_cluster

    tpu.check_name(name)
    tpu.open_cluster(read_cluster(config), say)
