"""The command `research`: parse, call, print. What it reads loads no Marin, JAX or cloud library.

Each command is a function in the module of its group, which is imported when one of them is called for.
"""

import importlib

import click

# The groups of `research --help`: their headings, and the commands of each module.
_GROUPS: dict[str, dict[str, tuple[str, ...]]] = {
    "Where does it stand": {
        "inspect": ("status", "brief", "show", "compare", "check", "verify", "doctor"),
        "questions": ("undecided", "ask"),
    },
    "Try something": {
        "measure": ("dev", "keep", "confirm", "replicate"),
        "record": ("record",),
        "cluster": ("submit", "jobs"),
    },
    "Say something": {
        "annotate": ("hypothesis", "source", "note", "log", "attach", "decide", "correct", "retract", "rebase"),
    },
    "Hand it over": {"hand_over": ("seal", "reproduce", "badge", "finish")},
    "Set up and publish": {
        "begin": ("new", "skill"),
        "set_up": ("kickoff", "adopt", "sync", "report", "origin", "trust"),
    },
}
_MODULES = {name: module for group in _GROUPS.values() for module, names in group.items() for name in names}


class _Groups(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_MODULES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return _command(cmd_name) if cmd_name in _MODULES else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, _MODULES))
        # Two spaces before and behind the names, as elsewhere in the help, and room at the end.
        left = formatter.width - width - 6
        for heading, group in _GROUPS.items():
            names = [name for commands in group.values() for name in commands]
            with formatter.section(heading):
                formatter.write_dl([(name.ljust(width), _command(name).get_short_help_str(left)) for name in names])


def _command(name: str) -> click.Command:
    module = importlib.import_module(f"research_steps.cli.{_MODULES[name]}")
    command: click.Command = getattr(module, name.replace("-", "_"))
    return command


@click.group(cls=_Groups, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="research-steps")
def main() -> None:
    """The record of Marin research threads: what is known, what is open, and whether it is whole.

    Run inside the checkout that holds .agents/logbooks/.
    """
