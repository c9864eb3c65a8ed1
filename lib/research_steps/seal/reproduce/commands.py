"""What a reproduction runs: `python -m experiments.<topic>`, and never what a record says that was run.

Of the sealed commands only the options are taken. They go to the thread of the tag, which refuses those that it does not
have.
"""

import argparse
import shlex

from research_steps.errors import UsageError
from research_steps.seal.bundle import Bundle

# Places of the run that was sealed, and files of its machine; and what would take the sealed results in place of
# measuring.
_LEFT_OUT = (
    *("--prefix", "--executor_info_base_path", "--executor-info-base-path", "--config_path", "--config-path"),
    *("--skip_known", "--skip-known"),
)


def runnable(bundle: Bundle) -> tuple[list[list[str]], list[str]]:
    """The thread with the options of each sealed command that ran it, as a store of its own takes them; and the other
    commands. Raises UsageError when none ran it."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(*_LEFT_OUT, nargs="?")
    thread = ["python", "-m", f"experiments.{bundle.topic}"]
    commands, others = list[list[str]](), list[str]()
    for given in bundle.commands:
        words = _words(given.command)
        if words[:3] == thread and not {"--dev", "--dev=true"} & {*words}:
            _, options = parser.parse_known_args(words[3:])
            commands += [[*thread, *options]] if [*thread, *options] not in commands else []
        else:
            others.append(given.command)
    if not commands:
        raise UsageError(
            f"{bundle.tag} rests on no command that runs its thread ({'; '.join(others)}): expected "
            f"'{shlex.join(thread)}', with or without options. Run the thread, and seal what it finds."
        )
    return commands, others


def _words(command: str) -> list[str]:
    """The words of a command, none where a shell could not read it."""
    try:
        return shlex.split(command)
    except ValueError:
        return []
