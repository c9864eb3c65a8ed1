"""The command `research`: parse, call, print. What it reads loads no Marin, JAX or cloud library.

Each command is a function in one of the modules here, which is imported when the command is called for.
"""

import importlib
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from research_steps.errors import ResearchError

# In which module each command is.
_COMMANDS = {
    "status": "status",
    **dict.fromkeys(("verify", "show", "compare"), "reading"),
    **dict.fromkeys(("kickoff", "decide", "note", "attach", "finish"), "writing"),
    **dict.fromkeys(("replicate", "retract", "correct", "rebase"), "evidence"),
    **dict.fromkeys(("sync", "adopt"), "logbook"),
    "dev": "dev",
    **dict.fromkeys(("keep", "confirm"), "keeping"),
    "dev-tpu": "tpu",
    **dict.fromkeys(("submit", "origin"), "submit"),
    **dict.fromkeys(("seal", "reproduce"), "sealing"),
    "doctor": "machine",
    "hypothesis": "queue",
    "source": "sources",
    "check": "checking",
}


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"research_steps.cli.{_COMMANDS[cmd_name]}")
        found: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return found


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="research-steps")
def main() -> None:
    """The record of Marin research threads: what is known, what is open, and whether it is whole.

    Run inside the checkout that holds .agents/logbooks/.
    """


def command(function: Callable[..., Any]) -> click.Command:
    """The function as a command, which tells an error in one line and exits with 1."""

    @wraps(function)
    def wrapped(*arguments: Any, **options: Any) -> None:
        try:
            function(*arguments, **options)
        except ResearchError as error:
            click.echo(f"error: {error}", err=True)
            sys.exit(1)

    return click.command()(wrapped)
