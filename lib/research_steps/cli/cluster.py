"""Commands on a Ray cluster: a thread's driver is sent there, and a TPU is held there."""

import re
import sys
import time
from contextlib import redirect_stdout, suppress
from functools import partial
from pathlib import Path

import click

from research_steps.cli.common import INTERRUPTED, ResearchCommand, print_result, series_here
from research_steps.errors import MachineLost, UsageError
from research_steps.git import Checkout
from research_steps.journal.logbook_place import settle
from research_steps.terminal import pass_on, print_lines, say
from research_steps.thread.loading import load_series

_cluster = click.option(
    "--cluster", "file", type=click.Path(path_type=Path), required=True, help="The cluster, such as infra/local.yaml."
)


@click.command(cls=ResearchCommand, prefix=True)
@_cluster
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
    settle(checkout, series)
    server = jobs.Server(cluster)
    id = server.submit(checkout, driver, say)
    for what, options in (("jobs", ()), ("log", ("--log", id)), ("stop", ("--stop", id))):
        say(f"{what}: {server.command(*options)}")
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


@click.command(cls=ResearchCommand, json=True)
@_cluster
@click.option("--log", metavar="ID", help="Follow the log of this job, from its beginning.")
@click.option("--stop", metavar="ID", help="End this job.")
def jobs(file: Path, log: str | None, stop: str | None, json_output: bool) -> None:
    """What was submitted to a Ray cluster, and what became of it."""
    from research_steps.remote.ray.config import read_cluster
    from research_steps.remote.ray.jobs import Server

    if log and json_output:
        raise UsageError("--log follows a log as it is printed: leave --json out.")
    server = Server(read_cluster(file))
    if stop:
        server.stop(stop)
        print_result(json_output, {"id": stop, "told_to_end": True}, [f"{stop} was told to end"])
    elif log:
        code = server.follow(log)
        sys.exit(code)
    else:
        listed = server.listed()
        lines = [f"{job['id']}: {job['status']}, since {job['since']}, {job['command']}" for job in listed]
        print_result(json_output, listed, lines or ["No thread was submitted."])


# How often the files are looked at (seconds).
WATCH_S = 0.5


def duration(text: str) -> float:
    """Seconds, written as '90s', '10m' or '4h'."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    if match is None:
        raise click.BadParameter(f"{text!r} is no duration: expected one such as 90s, 10m or 4h.")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]


_tpu_name = partial(click.option, "--tpu-name", "name", help="The name that it is held under.")
_tpu_config = partial(
    click.option, "--config", type=click.Path(path_type=Path), help="The cluster, such as infra/local.yaml."
)


@click.group("dev-tpu")
@_tpu_name()
@_tpu_config()
@click.pass_context
def dev_tpu(ctx: click.Context, /, **given: str | Path | None) -> None:
    """Hold a TPU of a Ray cluster, and run commands on it.

    They run in a copy of the work tree. The cluster is where RAY_ADDRESS says; else where the configuration says. These
    options may also stand behind the command.
    """
    set_here = {name: value for name, value in given.items() if value}
    ctx.default_map = {command: set_here for command in dev_tpu.commands}


@dev_tpu.command(cls=ResearchCommand)
@_tpu_name(required=True)
@_tpu_config(required=True)
@click.option("--tpu-type", default="", help="The type of a single host, such as v4-8.")
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
        command = f"research dev-tpu --tpu-name {name} --config {config}"
        print_lines(f"{name}: use it with '{command} connect', or '{command} execute -- COMMAND'")
        print_lines(f"{name} is free again: {tpu.hold(allocation, for_s, stop, say)}")


@dev_tpu.command(cls=ResearchCommand, prefix=True)
@_tpu_name(required=True)
@_tpu_config(required=True)
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
@_tpu_name(required=True)
@_tpu_config(required=True)
@click.option("--env", "names", multiple=True, metavar="NAME", help="Send this variable along; may be repeated.")
@click.argument("argv", metavar="-- COMMAND...", nargs=-1, required=True)
def watch(name: str, config: Path, names: tuple[str, ...], argv: tuple[str, ...]) -> None:
    """Run a command on a held TPU, and again at each save."""
    from research_steps.remote.ray import execution, tpu
    from research_steps.remote.ray.config import environment

    env, checkout = environment(names), Checkout.find()
    _open_cluster(name, config)
    allocation = tpu.find(name)
    with tpu.signals() as stop:
        while not stop:
            before = execution.stamps(checkout)
            outcome = execution.execute(allocation, checkout, list(argv), env, stop, say)
            if outcome.lost:
                raise MachineLost(outcome.lost)
            say(f"{name}: exit code {outcome.code} after {outcome.seconds:.1f} s; again when a file is saved")
            while not stop and execution.stamps(checkout) == before:
                time.sleep(WATCH_S)


@dev_tpu.command(cls=ResearchCommand)
@_tpu_name(required=True)
@_tpu_config(required=True)
def connect(name: str, config: Path) -> None:
    """Run the lines that you type on a held TPU, until Ctrl-D.

    Each is run by 'sh' at the root of a copy of the work tree as it is then. Ctrl-C ends the command that runs.
    """
    from research_steps.remote.ray import execution, tpu

    checkout = Checkout.find()
    _open_cluster(name, config)
    allocation = tpu.find(name)
    say(tpu.told(allocation))
    with tpu.signals() as stop:
        while True:
            pass_on(f"{name}> ", sys.stderr)
            line = sys.stdin.readline()
            if not line:
                return
            stop.clear()
            if line.strip():
                outcome = execution.execute(allocation, checkout, ["sh", "-c", line], {}, stop, say)
                if outcome.lost:
                    raise MachineLost(outcome.lost)
                if outcome.code:
                    say(f"exit code {outcome.code}")


@dev_tpu.command(cls=ResearchCommand)
@_tpu_name()
@_tpu_config(required=True)
def status(name: str | None, config: Path) -> None:
    """Tell which TPUs are held, where, by whom, and for what command."""
    from research_steps.remote.ray import tpu
    from research_steps.remote.ray.config import read_cluster

    tpu.open_cluster(read_cluster(config), say)
    names = [tpu.check_name(name)] if name else tpu.names()
    print_lines(*(tpu.told(tpu.find(held)) for held in names) if names else ("No TPU is held.",))


@dev_tpu.command(cls=ResearchCommand)
@_tpu_name(required=True)
@_tpu_config(required=True)
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
