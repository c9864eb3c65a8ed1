"""Names of secrets, and which values under them are some.

A name says it for certain ('WANDB_API_KEY', '--hub.token', 'db.password') or perhaps ('token', 'OPENAI_KEY'). What has
a certain name is a secret whatever it is, where it is a value of its own: a field, an argument, a variable. What only
perhaps has one is a secret when it looks like one: a special token of a language model, a word, a number or a hash does
not, so that two values of a sweep stay two. In running text and code, which name secrets without holding any, a value
must look like one under either.
"""

import re
from enum import IntEnum
from functools import lru_cache
from typing import Any

# A shorter value is a part of too many words to be looked for in a text.
SHORTEST = 8
# What only perhaps has a secret's name has to be long to look like one.
LONG_ENOUGH = 16


class Level(IntEnum):
    """How surely a name is a secret's."""

    NO = 0
    PERHAPS = 1
    CERTAIN = 2


_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_PARTS = re.compile(r"[^a-z0-9]+")
_CERTAIN = re.compile(
    r".*(?:password|passwd|passphrase)s?|secret|credentials?|cookies?|authorization|pgpass|sharedaccesssignature"
    r"|(?:x|my|the)?(?:api|access|account|private|secret|auth|refresh|session|sharedaccess|client|user|bearer|hub|hf|identity)"
    r"(?:key|token|secret)s?|(?:j|php)sessi?onid|jsessionid|phpsessid|sessionid|csrftoken|xsrftoken"
)
_ACCOUNTS = "db database user smtp mysql postgres pg redis admin root ftp mail email mongo ssh http proxy login sudo"
# With these before it a key, a token, a pass is one for certain.
_SURE = {
    "key": """
        api access account private secret encryption signing ssh deploy license master shared service admin auth
        client storage subscription hmac aes rsa webhook consumer application bot""",
    "token": """
        api access auth refresh bearer session csrf xsrf security oauth oauth2 hf hub huggingface github gh
        gitlab git wandb bot personal deploy service app user secret private jwt ci npm pypi slack discord
        telegram registry login identity gcp aws azure admin pat client vault""",
    "keys": "api access",
    "pass": _ACCOUNTS,
    "pwd": _ACCOUNTS,
}
# With these before it, it is none: what models, JAX, caches and tables call so.
_NEVER = {
    "token": """
        bos eos sot eot pad unk mask sep cls stop start end begin image audio video special first last next prev
        per max min num n total vocab new think space newline current target draft""",
    "key": """
        prng rng random jax public primary foreign sort sorting partition group grouping dict cache compile
        trace attention attn max min num n idempotency routing config step trial record lookup index hash object
        event dedup sub subkey new old query cross self memory state param params tree batch shard layer head
        join row col column unique composite natural feature data example metric run output input print image
        sample label text prompt""",
    "pass": """
        forward backward first second num n single two one by multi full warmup opt hlo xla compiler""",
    "session": "tmux",
}
_PERHAPS = frozenset(
    ("token", "key", "pass", "pat", "auth", "dsn", "sig", "signature", "sas", "webhook", "session", "sid", "pw", "pwd")
)
_MARK = re.compile(r"<.*>|\[.*\]|\{.*\}|\W*|.*[^\x00-\x7f].*|.*\s.*", re.DOTALL)
_WORDS = re.compile(r"(?!0\d*\Z)(?:[A-Za-z]{0,20}\d{0,4}[ _.:/@+-]++)*[A-Za-z]{0,20}\d{0,4}")
_NUMBER = re.compile(r"[+-]?(?:0|[1-9]\d*)(?:\.\d+)?(?:e[+-]?\d+)?")
_HEX = re.compile(r"(?:0x)?[0-9a-fA-F]+")
# What stands where a value would be: a place to fill, a path or an address, a version, a type, a name of several words.
_NO_VALUE = re.compile(
    r"[$<{].*|(?:[\w.-]+/)+[\w-]+\.\w{1,6}|[a-z][a-z0-9+]*://[^@]*|[=<>~!^]*v?\d+(?:\.\d+)+\w*|[*.xX_-]+"
    r"|(?i:sha|md|u?int|float|bf|f)\d+|[A-Za-z]+(?:_[A-Za-z]+)+_?\d{0,2}|[A-Z][A-Z_]+\d?",
    re.DOTALL,
)
# What code has there, without quotes: a call, a list, a name with dots.
_CODE = re.compile(r"[>(\[].*|.*[(\[{].*|[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+", re.DOTALL)


@lru_cache(4096)
def level(name: str) -> Level:
    """How surely a secret goes by this name: for certain by 'WANDB_API_KEY', perhaps by 'token', not by 'eos_token'."""
    parts = [part for part in _PARTS.split(_CAMEL.sub("_", name[-120:]).lower()) if part]
    if not parts:
        return Level.NO
    last, before = parts[-1], parts[-2] if len(parts) > 1 else ""
    if _CERTAIN.fullmatch(last) or before in _SURE.get(last, "").split():
        return Level.CERTAIN
    if last not in _PERHAPS or before in _NEVER.get(last, "").split() or (last == "key" and not before):
        return Level.NO
    return Level.PERHAPS


def names_a_secret(name: str) -> bool:
    """Whether a secret may go by this name, whatever its value looks like: of a variable that others would see."""
    return level(name) is not Level.NO


def is_secret(name: str, value: Any) -> bool:
    """Whether a value of its own under this name is a secret: of a field, an argument, a variable."""
    if value is None or isinstance(value, bool) or not value:
        return False
    match level(name):
        case Level.CERTAIN:
            return True
        case Level.PERHAPS:
            return isinstance(value, str) and not _is_plain(name, value)
    return False


def is_secret_in_text(name: str, value: str, quoted: bool) -> bool:
    """Whether what stands behind this name in running text, or in code, is a secret and no prose."""
    sure = level(name)
    if not sure or _NO_VALUE.fullmatch(value) or _is_path(value) or (not quoted and _CODE.fullmatch(value)):
        return False
    letters, digits = re.search(r"[A-Za-z]", value), re.search(r"\d", value)
    if sure is Level.PERHAPS and not re.fullmatch(r"[\w.~+/=:%-]+", value):
        return False
    if sure is Level.PERHAPS and not name.lower().endswith(("pwd", "pw")):
        return len(value) >= LONG_ENOUGH and bool(letters and digits) and not _is_plain(name, value)
    if not letters:
        return len(value) >= 6 and value.isdigit()
    return len(value) >= 6 and bool(digits or (len(value) >= SHORTEST and re.search(r"[!@#%^&]", value)))


def is_plain_value(value: str) -> bool:
    """Whether a variable with a secret's name holds what other text is full of: a path, an address, a short number."""
    if value.isdigit():
        return len(value) < LONG_ENOUGH - 4
    return _is_path(value) or bool(re.fullmatch(r"[$<{].*[>}]|[a-z][a-z0-9+]*://[^@?]*", value))


def _is_path(value: str) -> bool:
    # Base64 has slashes, and seldom so many.
    parts = value.split("/")
    return bool(re.match(r"[/~]|\.{1,2}/", value)) and all(
        len(part) < LONG_ENOUGH or "." in part or _WORDS.fullmatch(part) for part in parts
    )


def _is_plain(name: str, value: str) -> bool:
    """Whether a value is plainly none, where the name doesn't say for certain."""
    if len(value) > 4096 or _MARK.fullmatch(value) or _NUMBER.fullmatch(value) or _WORDS.fullmatch(value):
        return True
    if _NO_VALUE.fullmatch(value) or _is_path(value):
        return True
    if name.lower().rpartition("_")[2].endswith("token"):
        return False
    # A hash is what many things go by, but hardly what a variable in capitals holds.
    return len(value) < SHORTEST or (bool(_HEX.fullmatch(value)) and not name.isupper())
