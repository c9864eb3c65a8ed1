"""Keeps secrets out of records: known token shapes, private keys, and values that go by a secret's name.

Applied to every text on its way into a record, so that no projection has to think of it. What was taken out is said
in place. Names count in the environment, in fields of a configuration and in options of a command; a hash without a
telling name is only a hash.
"""

import os
import re
from collections.abc import Callable, Sequence
from typing import Any

REDACTED = "[redacted]"
# A shorter value of the environment is a part of too many words to be looked for in a text.
SHORTEST = 8

_TOKENS = r"""
    (?<![A-Za-z0-9])(?:
        gh[pousr]_[A-Za-z0-9]{20,} | github_pat_[A-Za-z0-9_]{22,}          # GitHub
      | glpat-[\w-]{20,}                                                   # GitLab
      | hf_[A-Za-z0-9]{30,}                                                # Hugging Face
      | wandb_v1_[A-Za-z0-9_]{20,}                                         # Weights & Biases
      | sk-(?:ant|proj)-[\w-]{20,} | sk-(?=[\w-]*[0-9])(?=[\w-]*[A-Z])[\w-]{20,}   # Anthropic, OpenAI
      | (?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Za-z0-9])                           # AWS
      | AIza[\w-]{35} | ya29\.[\w-]{20,}                                  # Google
      | xox[abeoprs]-[A-Za-z0-9-]{10,}                                     # Slack
      | eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}                         # JSON web token
    )
    | -----BEGIN\ [A-Z ]*PRIVATE\ KEY-----.*?(?:-----END\ [A-Z ]*PRIVATE\ KEY-----|\Z)
    | (?<=://)[^/\s:@]*:[^/\s]+(?=@)                                       # user:password in a URL
    | (?<=Bearer\ )(?=\S*[0-9])[\w.~+/=-]{16,}
"""
_SECRET_NAME = re.compile(
    r"(?i)(?:^|[^a-z0-9])(?:token|secret|password|passwd|passphrase|(?:api|access|private|secret)[_-]?key|credentials?)$"
)
# What language models read is called a token too.
_MODEL_TOKEN = re.compile(
    r"(?i)(?:^|[^a-z0-9])(?:[bes]os|[es]ot|pad|unk|mask|sep|cls|stop|start|end|begin|image|audio|special|first|last|next"
    r"|prev|per|max|min|num|n|total)[_-]token$"
)


def is_secret_name(name: str) -> bool:
    """Whether what goes by this name is a secret: 'WANDB_API_KEY', '--hub.token'; 'eos_token' is none."""
    return bool(_SECRET_NAME.search(name)) and not _MODEL_TOKEN.search(name)


def redactor() -> Callable[[str], str]:
    """What replaces secrets in a text by '[redacted]', for the environment as it is now.

    Half of a surrogate pair, which JSON can't carry, is spelled out as well.
    """
    held = {value for name, value in os.environ.items() if len(value) >= SHORTEST and is_secret_name(name)}
    # The longest first: one secret may begin with another.
    values = sorted(held, key=lambda value: (-len(value), value))
    pattern = re.compile("|".join([*map(re.escape, values), _TOKENS]), re.VERBOSE | re.DOTALL)
    return lambda text: pattern.sub(REDACTED, text.encode("utf-8", "backslashreplace").decode("utf-8"))


def redact(text: str) -> str:
    """The text with everything that looks like a secret replaced by '[redacted]'."""
    return redactor()(text)


def redact_tree(value: Any, clean: Callable[[str], str]) -> Any:
    """Plain JSON-like values with every string in them cleaned, keys included, and what a secret's name holds."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, dict):
        return {clean(name): _under(name, item, clean) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact_tree(item, clean) for item in value]
    return value


def redact_arguments(arguments: Sequence[str]) -> list[str]:
    """A command's arguments without secrets, those behind an option with a secret's name included."""
    clean = redactor()
    shown: list[str] = []
    hide = False
    for argument in arguments:
        name, separator, value = argument.partition("=")
        if hide and not argument.startswith("-"):
            shown.append(REDACTED)
        elif separator and value and is_secret_name(name):
            shown.append(f"{clean(name)}={REDACTED}")
        else:
            shown.append(clean(argument))
        hide = not separator and argument.startswith("-") and is_secret_name(argument)
    return shown


def _under(name: str, value: Any, clean: Callable[[str], str]) -> Any:
    if value and isinstance(value, str | dict) and is_secret_name(name):
        return REDACTED
    return redact_tree(value, clean)
