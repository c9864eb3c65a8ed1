"""The commands of a bundle that a reproduction gives again, and those that it can't."""

import shlex
from collections.abc import Sequence

from research_steps.errors import UsageError
from research_steps.seal.bundle import Bundle

# Places of the run that was sealed; and what would take the sealed results in place of measuring.
_LEFT_OUT = (
    *("--prefix", "--executor_info_base_path", "--executor-info-base-path"),
    *("--skip_known", "--skip-known"),
)


def runnable(bundle: Bundle) -> tuple[list[list[str]], list[str]]:
    """The commands that run a thread, as a store of its own takes them, and the others. Raises UsageError when none
    does."""
    found: dict[tuple[str, ...], None] = {}
    others = []
    for given in bundle.commands:
        words = shlex.split(given.command)
        if _runs_thread(words):
            found[tuple(_without(words, *_LEFT_OUT))] = None
        else:
            others.append(given.command)
    if not found:
        raise UsageError(
            f"{bundle.tag} rests on no command that runs a thread ({'; '.join(others)}): expected one such as "
            "'python -m experiments.moe_hc'. Run the thread, and seal what it finds."
        )
    return [list(words) for words in found], others


def _runs_thread(words: Sequence[str]) -> bool:
    is_module = list(words[:2]) == ["python", "-m"] and len(words) > 2
    in_dev = any(word in ("--dev", "--dev=true") for word in words)
    return is_module and not in_dev and words[2].partition(".")[0] != "research_steps"


def _without(words: Sequence[str], *options: str) -> list[str]:
    kept: list[str] = []
    skip = False
    for word in words:
        if not skip and word not in options and not word.startswith(tuple(f"{option}=" for option in options)):
            kept.append(word)
        skip = not skip and word in options
    return kept
