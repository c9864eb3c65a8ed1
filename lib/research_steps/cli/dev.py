"""The commands of dev mode."""

import sys

import click
import msgspec

from research_steps.cli.common import in_store
from research_steps.cli.main import command
from research_steps.errors import UsageError
from research_steps.git import Checkout
from research_steps.journal.store import store_url
from research_steps.records.series import check_topic
from research_steps.thread.dev.command import new_occasion, order
from research_steps.thread.dev.messages import Attempted, DevRequest
from research_steps.thread.dev.progress_line import ProgressLine
from research_steps.trial.launcher.daemon import Daemon
from research_steps.trial.provenance import command_line


@command
@click.argument("topic", required=False)
@click.argument("more", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change the baseline case, as draccus reads it."
)
@click.option("--baseline", default="", metavar="LABEL", help="Which baseline. Default: the first of the thread.")
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
@in_store
def dev(
    topic: str | None,
    more: tuple[str, ...],
    settings: tuple[str, ...],
    baseline: str,
    processes: int,
    label: str,
    hypothesis: str,
    in_process: bool,
    watch: bool,
    host: str,
    env: tuple[str, ...],
    show: bool,
    stop: bool,
    prefix: str | None,
) -> None:
    """Measure one configuration of TOPIC against its baseline, without the executor; recorded, and exploratory.

    The code is what is on disk now. The first call starts a parent process that keeps what is imported.
    """
    checkout = Checkout.find()
    if show or stop:
        _about(Daemon(checkout.root), stop)
        return
    if topic is None:
        raise UsageError("No topic was given: expected 'research dev TOPIC'; 'research status' tells which there are.")
    if env and not host:
        raise UsageError("--env was given without --host: here, what is measured sees the whole environment.")
    asked = DevRequest(
        cwd=str(checkout.root),
        store=store_url(checkout.root, prefix),
        topic=check_topic(topic),
        command=tuple(command_line()),
        occasion=new_occasion(),
        baseline=baseline,
        settings=(*settings, *more),
        processes=processes,
        label=label,
        hypothesis=hypothesis,
        in_process=in_process,
        host=host,
        env=env,
    )
    if watch:
        _watch(checkout, asked)
        return
    with ProgressLine() as progress:
        answer = msgspec.json.decode(order(checkout, asked, progress.hear), type=Attempted)
    if answer.status != "ok":
        sys.exit(1)


def _watch(checkout: Checkout, asked: DevRequest) -> None:
    from research_steps.thread.dev.watch import watch

    if asked.label or asked.hypothesis:
        raise UsageError(
            "--watch was given with --label or --hypothesis: its attempts are scratch until you keep them as one entry. "
            "Leave these out; 'research keep' takes them when the session has ended."
        )
    if not watch(checkout, asked):
        sys.exit(130)


def _about(kept: Daemon, stop: bool) -> None:
    state = kept.state()
    if state is None:
        click.echo(f"No kept parent runs for {kept.root}.")
        return
    said = f"The kept parent of {state.root}: process {state.pid} since {state.since}, {state.python}"
    click.echo(f"{said}; log: {kept.folder / 'log'}")
    if stop:
        kept.stop()
        click.echo("It was stopped.")
