"""The commands that send a thread's driver elsewhere: to a Ray cluster, or with the command line of another engine."""

import sys
from pathlib import Path

import click

from research_steps.cli.common import in_store, journal_of
from research_steps.cli.main import command
from research_steps.git import Checkout
from research_steps.thread.loading import load_series

# What a shell gives a command that Ctrl-C ended.
DETACHED = 130


@command
@click.option(
    "--cluster", "file", type=click.Path(path_type=Path), required=True, help="The cluster, such as infra/local.yaml."
)
@click.option(
    "--environment", default="default", show_default=True, help="A runtime environment of infra/environments.yaml."
)
@click.option("--env", "given", multiple=True, metavar="NAME[=VALUE]", help="Set this variable; may be repeated.")
@in_store
@click.option("--no-wait", is_flag=True, help="End when the cluster has taken the job.")
@click.argument("argv", metavar="-- python -m experiments.TOPIC...", nargs=-1, required=True)
def submit(
    file: Path, environment: str, given: tuple[str, ...], prefix: str | None, no_wait: bool, argv: tuple[str, ...]
) -> None:
    """Run a thread's driver on a Ray cluster, follow its log, and exit as it does.

    Sent are files that git tracks or doesn't ignore. While the thread is running there, the same command attaches to it.
    Ctrl-C detaches: the job runs on.
    """
    from research_steps.publish.publisher import Publisher
    from research_steps.remote.ray import jobs
    from research_steps.remote.ray.config import read_cluster
    from research_steps.thread.surfaces import surfaces_of

    checkout, cluster = Checkout.find(), read_cluster(file)
    driver = jobs.driver_of(checkout, cluster, argv, environment, given, prefix)
    journal = driver.journal
    series = load_series(checkout, journal.topic)
    server = jobs.Server(cluster)
    id = server.submit(checkout, driver, _say)
    for what, verb, arguments in (("jobs", "list", ()), ("log", "logs", ("--follow", id)), ("stop", "stop", (id,))):
        _say(f"{what}: {server.command(verb, *arguments)}")
    catch_up = f"'research sync {journal.topic} --prefix {journal.store.url}' brings the logbook up to date"
    if no_wait:
        _say(f"{id} runs without you; {catch_up}")
        return
    with Publisher(journal, surfaces_of(checkout, journal, series), _say):
        try:
            code = server.follow(id)
        except KeyboardInterrupt:
            _say(f"\ndetached: {id} runs on; submit it again to attach; {catch_up}")
            code = DETACHED
    sys.exit(code)


@command
@click.argument("topic")
@in_store
def origin(topic: str, prefix: str | None) -> None:
    """Print where this work tree comes from, as RESEARCH_ORIGIN takes it, for engines that ship it without git.

    The patch of what differs from the commit is kept in the store.
    """
    from research_steps.remote.ray.jobs import keep_origin

    checkout = Checkout.find()
    load_series(checkout, topic)
    click.echo(keep_origin(checkout, journal_of(checkout, topic, prefix)))


def _say(text: str) -> None:
    click.echo(text, err=True)
