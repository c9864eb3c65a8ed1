"""The commands about a TPU of a Ray cluster that is held for one person's work: allocate, execute, release."""

import re
import sys
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

import click

from research_steps.cli.common import in_store, tell, writer_of
from research_steps.cli.main import command
from research_steps.git import Checkout
from research_steps.records.times import duration


class _Duration(click.ParamType[float]):
    """Seconds, written as '90s', '10m' or '4h'."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", str(value))
        if match is None:
            self.fail(f"{value!r} is no duration: expected one such as 90s, 10m or 4h.", param, ctx)
        return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]


@click.group("dev-tpu")
def dev_tpu() -> None:
    """Hold a TPU of a Ray cluster, run commands on it in a copy of the work tree, and give it back.

    The cluster is where RAY_ADDRESS says; else where the configuration says.
    """


def _of(function: Callable[..., Any]) -> Callable[..., Any]:
    function = click.option(
        "--config", type=click.Path(path_type=Path), required=True, help="The cluster, such as infra/local.yaml."
    )(function)
    return click.option("--tpu-name", "name", required=True, help="The name that it is held under.")(function)


@command
@_of
@click.option("--tpu-type", required=True, help="The type of a single host, such as v4-8.")
@click.option("--for", "for_s", type=_Duration(), default="8h", show_default=True, help="How long to hold it.")
@click.option("--wait", "wait_s", type=_Duration(), default="10m", show_default=True, help="How long to wait for it.")
def allocate(name: str, config: Path, tpu_type: str, for_s: float, wait_s: float) -> None:
    """Hold a TPU until Ctrl-C, the time limit, or `release`."""
    from research_steps.remote.ray import tpu

    _open(name, config)
    with tpu.signals() as stop:
        held = tpu.allocate(name, tpu_type, wait_s, stop, _say)
        if held is None:
            return
        about = held.about
        where = f"{about['node']} ({about['ip']})"
        click.echo(f"{name}: {about['type']} is held on {where} for {duration(for_s)}, until Ctrl-C")
        click.echo(f"{name}: use it with 'research dev-tpu execute --tpu-name {name} --config {config} -- COMMAND'")
        click.echo(f"{name} is free again: {tpu.hold(held, for_s, stop, _say)}")


@command
@_of
@click.option("--env", "names", multiple=True, metavar="NAME", help="Send this variable along; may be repeated.")
@click.option("--record", "topic", metavar="TOPIC", help="Leave an entry in the log of this series.")
@click.option("--label", default="", help="What the entry is called. Default: the command.")
@in_store
@click.argument("argv", metavar="-- COMMAND...", nargs=-1, required=True)
def execute(
    name: str,
    config: Path,
    names: tuple[str, ...],
    topic: str | None,
    label: str,
    prefix: str | None,
    argv: tuple[str, ...],
) -> None:
    """Run a command on a held TPU, at the root of a copy of the work tree, and exit as it does.

    Sent are files that git tracks or doesn't ignore, as far as they differ from the copy. Ctrl-C ends the command.
    """
    from research_steps.actions.executions import record
    from research_steps.remote.ray import execution, tpu

    env = execution.environment(names)
    writer = writer_of(topic, prefix) if topic else None
    _open(name, config)
    held = tpu.find(name)
    with tpu.signals() as stop:
        outcome = execution.execute(held, Checkout.find(), list(argv), env, stop, _say)
    if writer is not None:
        # What is printed to stdout is the command's, and so is the exit code; what wasn't published is told.
        with redirect_stdout(sys.stderr), suppress(SystemExit):
            tell(writer, record(writer, label, held, list(argv), env, outcome), False)
    if outcome.lost:
        _say(f"error: {outcome.lost}")
    sys.exit(outcome.code)


@command
@_of
def release(name: str, config: Path) -> None:
    """Free a TPU, whoever holds it."""
    from research_steps.remote.ray import tpu

    _open(name, config)
    held = tpu.find(name)
    tpu.release(held)
    click.echo(f"{name} is free again; it was held by {held.about['by']}")


for _command, _name in ((allocate, "allocate"), (execute, "execute"), (release, "release")):
    dev_tpu.add_command(_command, _name)


def _open(name: str, config: Path) -> None:
    from research_steps.remote.ray import tpu
    from research_steps.remote.ray.config import read_cluster

    tpu.check_name(name)
    tpu.open_cluster(read_cluster(config), _say)


def _say(text: str) -> None:
    click.echo(text, err=True)
