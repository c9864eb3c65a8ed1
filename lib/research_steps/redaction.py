"""Keeps secrets out of records: known token shapes, private keys, and the values of secret-named variables.

Applied to every string on its way into a record, so that no projection has to think of it. What was taken out is
said in place.
"""

import os
import re
from typing import Any

REDACTED = "[redacted]"

_TOKENS = re.compile(
    r"""
      gh[pousr]_[A-Za-z0-9]{20,} | github_pat_[A-Za-z0-9_]{22,}            # GitHub
    | hf_[A-Za-z0-9]{20,}                                                  # Hugging Face
    | wandb_v1_[A-Za-z0-9_]{20,}                                           # Weights & Biases
    | sk-(?:ant-|proj-)?[A-Za-z0-9_-]{20,}                                 # Anthropic, OpenAI
    | (?:AKIA|ASIA)[A-Z0-9]{16} | AIza[A-Za-z0-9_-]{35} | ya29\.[A-Za-z0-9_-]{20,}   # AWS, Google
    | xox[abeoprs]-[A-Za-z0-9-]{10,}                                       # Slack
    | glpat-[A-Za-z0-9_-]{20,}                                             # GitLab
    | -----BEGIN\ [A-Z ]*PRIVATE\ KEY-----.*?(?:-----END\ [A-Z ]*PRIVATE\ KEY-----|\Z)
    | (?<=://)[^/\s:@]+:[^/\s@]+(?=@)                                      # user:password in a URL
    """,
    re.VERBOSE | re.DOTALL,
)
_SECRET_NAME = re.compile(r"(?i)(_|\b)(token|secret|password|passwd|api_?key|access_key|credentials?)$")


def redact(text: str) -> str:
    """The text with everything that looks like a secret replaced by '[redacted]'."""
    for value in _environment_secrets():
        text = text.replace(value, REDACTED)
    return _TOKENS.sub(REDACTED, text)


def redact_tree(value: Any) -> Any:
    """Plain JSON-like values with every string in them redacted, keys included."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {redact_tree(key): redact_tree(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact_tree(item) for item in value]
    return value


def _environment_secrets() -> list[str]:
    return [value for name, value in os.environ.items() if len(value) >= 8 and _SECRET_NAME.search(name)]
