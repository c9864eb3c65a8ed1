"""Keeps secrets out of records: tokens by their shape, what stands where a password does, and values by their name.

Applied to every text on its way into a record, so that no projection has to think of it. What was taken out is said
in place. The shapes are those of detect-secrets, and a few that it doesn't know; its detectors of entropy and keywords
are left out, because every hash, seed and `eos_token` is a secret to them. Here a hash without a telling name is only
a hash.
"""

import os
import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any
from urllib.parse import quote

REDACTED = "[redacted]"
# A shorter value of the environment is a part of too many words to be looked for in a text.
SHORTEST = 8
# What language models read is called a token too, so a text that only says 'token: …' has to say more.
LONG_ENOUGH = 16

# Those of detect-secrets that go by a token's shape alone. Its others take names, addresses or hashes for secrets, or
# find only a part: the first line of a private key, a token of a form that has changed since.
_DETECTORS = frozenset(
    (
        *("AzureStorageKeyDetector", "GitHubTokenDetector", "JwtTokenDetector", "MailchimpDetector"),
        *("PypiTokenDetector", "SendGridDetector", "SlackDetector", "SquareOAuthDetector", "StripeDetector"),
        "TwilioKeyDetector",
    )
)
_SHAPES = (
    # GitHub, GitLab, Docker, npm, Hugging Face.
    r"github_pat_\w{22,}|gl(?:pat|rt|dt|soat)-[\w-]{20,}(?:\.\w{2}\.\w{7,})?|dckr_pat_[\w-]{20,}|(?:hf|npm)_[A-Za-z0-9]{30,}",
    # W&B, Neptune, OpenAI, Anthropic, OpenRouter, Groq, NVIDIA, Replicate.
    r"wandb_v1_\w{20,}|eyJhcGlf[\w+/-]{40,}=*|sk-(?:ant|proj|svcacct|admin|or)-[\w-]{20,}|sk-(?=[A-Za-z]{0,80}\d)[A-Za-z0-9]{20,}",
    r"gsk_[A-Za-z0-9]{30,}|nvapi-[\w-]{20,}|r8_[A-Za-z0-9]{30,}",
    # AWS, Google, Databricks, DigitalOcean, Vault, age.
    r"(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Za-z0-9])|AIza[\w-]{35}|ya29\.[\w-]{20,}|GOCSPX-[\w-]{20,}|1//0[\w-]{40,}",
    r"(?:dapi|dop_v1_)[0-9a-f]{32,}|hvs\.[\w-]{20,}|AGE-SECRET-KEY-1[A-Z0-9]{30,}",
    # Slack, Stripe, Telegram; Discord's begin with a number in base64.
    r"(?:xox[a-z]|xapp)-(?=[\w-]{0,80}\d)[\w-]{10,}|(?:[rs]k_test_|whsec_)[A-Za-z0-9+/]{24,}|\d{8,10}:AA[\w-]{33}(?![\w-])",
    r"(?:[MNO][DTjz][AEIMQUYcgk][w-z0-5]){5}\w*\.[\w-]{6}\.[\w-]{27,}",
)
# A shape begins a word; so does what an escaped character or a colour of the terminal stands before.
_BEGIN = r"(?:(?<![A-Za-z0-9])|(?<=\\[nrt])|(?<=%[0-9A-Fa-f]{2})|(?<=[\[;]\dm)|(?<=\d\dm))"
# Secrets of any look, by what stands around them. Of a key that was cut off, the rest of the text is taken.
_PLACES = (
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----(?=[\s\S]{0,200}?[\w+/=]{15})[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
    r"(?<=://)[^/\s:@{$<]*:[^/\s{$<][^/\s]*(?=@(?!sha\d))",
    r"(?i:(?<=bearer )|(?<=basic ))(?=\S{0,80}[0-9=])[\w.~+/=-]{16,}",
    r"(?<=-Signature=)\w{16,}|(?<=wandb login )[0-9a-f]{40}",
)
_SECRET_NAME = re.compile(
    r"(?i)(?:^|[^a-z0-9]|(?<=[a-z])(?-i:(?=[A-Z])))(?:token|secret|password|passwd|passphrase|credentials?"
    r"|(?:api|access|account|private|secret)[_-]?key)$"
)
# What language models read is called a token too.
_MODEL_TOKEN = re.compile(
    r"(?i)(?:^|[^a-z0-9])(?:[bes]os|[es]ot|pad|unk|mask|sep|cls|stop|start|end|begin|image|audio|special|first|last|next"
    r"|prev|per|max|min|num|n|total)[_-]?token$"
)
# 'HF_TOKEN=…', '"api_key": "…"', '?access_token=…' and '--token …' inside a text; 'arn:…:secret:…' is an address.
_NAMED = re.compile(
    r"(?<![\w.:-])(?P<name>(?P<option>--)?[\w.-]{0,80}?(?i:token|secret|passw(?:or)?d|passphrase|credentials?|key))(?![\w.-])"
    r"(?:\\?[\"']?\]?\s*[=:]\s*\\?[\"']?|(?(option)[ ]+|(?!)))(?P<value>[^\s\"'\\,;&)}\]]+)"
)
# What programs write where a value would be: a path, a call, another name.
_NO_VALUE = re.compile(r"[/$<>({\[].*|.*[(\[{].*|[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+")


def is_secret_name(name: str) -> bool:
    """Whether what goes by this name is a secret: 'WANDB_API_KEY', '--hub.token'; 'eos_token' is none."""
    return bool(_SECRET_NAME.search(name)) and not _MODEL_TOKEN.search(name)


def redactor() -> Callable[[str], str]:
    """What replaces secrets in a text by '[redacted]', for the environment as it is now.

    Half of a surrogate pair, which JSON can't carry, is spelled out as well.
    """
    secrets = {value for name, value in os.environ.items() if len(value) >= SHORTEST and is_secret_name(name)}
    secrets |= {quote(value, safe="") for value in secrets}
    # The longest first: one secret may begin with another.
    values = re.compile("|".join(map(re.escape, sorted(secrets, key=lambda value: (-len(value), value)))) or r"(?!)")

    # A record says the same words many times.
    @cache
    def clean(text: str) -> str:
        text = text.encode("utf-8", "backslashreplace").decode("utf-8")
        if len(text) < SHORTEST:
            return text
        text = _pattern().sub(REDACTED, values.sub(REDACTED, text))
        return _NAMED.sub(_without_value, text)

    return clean


def redact(text: str) -> str:
    """The text with everything that looks like a secret replaced by '[redacted]'."""
    return redactor()(text)


def redact_tree(value: Any, clean: Callable[[str], str]) -> Any:
    """Plain JSON-like values with every string in them cleaned, keys included, and what a secret's name holds."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, dict):
        cleaned: dict[str, Any] = {}
        for name, item in value.items():
            shown = clean(name)
            # Two names that held secrets are still two.
            while shown in cleaned:
                shown += " (another)"
            secret = item and isinstance(item, str | dict) and is_secret_name(name)
            cleaned[shown] = REDACTED if secret else redact_tree(item, clean)
        return cleaned
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


def _without_value(match: re.Match[str]) -> str:
    # Prose and code name secrets without holding any: a value has letters and digits.
    name, value = match["name"], match["value"]
    long_enough = len(value) >= (LONG_ENOUGH if name.lower() == "token" else SHORTEST)
    mixed = re.search(r"\d", value) and re.search(r"[A-Za-z]", value)
    if not (is_secret_name(name) and long_enough and mixed) or _NO_VALUE.fullmatch(value):
        return match[0]
    return match[0][: -len(value)] + REDACTED


@cache
def _pattern() -> re.Pattern[str]:
    """All shapes and places in one pattern. A shape takes the rest of its word along."""
    # It takes a third of a second to import, and who only asks for the status has no record to write.
    from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class

    shapes = list(_SHAPES)
    detectors: list[Any] = [*get_mapping_from_secret_type_to_class().values()]
    for detector in sorted(detectors, key=lambda detector: detector.__name__):
        rest = r"[\w.=-]*" if detector.__name__ == "JwtTokenDetector" else ""
        for shape in detector().denylist if detector.__name__ in _DETECTORS else ():
            shapes.append(f"(?i:{shape.pattern}){rest}" if shape.flags & re.IGNORECASE else shape.pattern + rest)
    together = "|".join(f"(?:{shape})" for shape in shapes)
    return re.compile("|".join([rf"{_BEGIN}(?:{together})[\w-]*", *_PLACES]))
