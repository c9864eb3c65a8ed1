"""Commands on a Ray cluster, which a thread's driver is sent to."""

import sys
from pathlib import Path

import click

from research_steps.cli.common import INTERRUPTED, ResearchCommand, print_result
from research_steps.errors import UsageError
from research_steps.git import Checkout
from research_steps.journal.logbook_place import settle
from research_steps.terminal import say
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
