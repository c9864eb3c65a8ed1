"""Keeps secrets out of records: tokens by their shape, what stands where a password does, and values by their name.

Applied to every text on its way into a record, so that no projection has to think of it. What was taken out is said in
place. `secret_shapes` knows what secrets look like and what of that is detect-secrets', `secret_names` what they are
called; here a text, a tree, a command, the end of an output is gone through. Who cuts a text redacts it first: what is
left of a secret looks like none.
"""

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any
from urllib.parse import quote, quote_plus, unquote

from research_steps.records.secret_names import SHORTEST, Level, is_plain_value, is_secret, is_secret_in_text, level
from research_steps.records.secret_shapes import rules

REDACTED = "[redacted]"
# The largest secret that has no end in the text (a private key of 16,384 bits takes 13 kB), in bytes.
LONGEST = 20_000
# How much of a value is looked at to tell whether it is a secret; one that is may be longer.
_LOOKED_AT = 128
# How long what stands in quotes may be.
_LONGEST_QUOTED = 4096

_QUOTE = r"\\{0,3}[\"'`]"
# In a text 'HF_TOKEN=…', '"api_key": "…"', 'password: str = …', '?access_token=…', 'setdefault("API_KEY", "…"' and
# 'name: KEY, value: …', from the last word of the name; so written that its first letter is all that is searched for.
_NAMED = re.compile(
    r"[tscpkawdTSCPKAWD](?i:(?<=t)oken|(?<=s)ecret|(?<=s)ession(?:id)?|(?<=s)essid|(?<=s)id|(?<=s)ig|(?<=s)as|(?<=s)ignature"
    r"|(?<=p)assw(?:or)?d|(?<=p)assphrase|(?<=p)ass|(?<=p)wd?|(?<=p)at|(?<=c)redentials?|(?<=c)ookie|(?<=k)ey|(?<=d)sn"
    r"|(?<=a)uth(?:orization)?|(?<=w)ebhook)s?+(?P<end>)(?![\w.-])"
    rf"(?:(?:{_QUOTE})?\]?\s{{0,8}}(?:=>|:=|:\s?(?:str|bytes|SecretStr)(?:\s?\|\s?None)?\s?=|[=:])\s{{0,8}}"
    rf"|(?:{_QUOTE})?,?(?:\s|\\n){{1,40}}(?:{_QUOTE})?value(?:{_QUOTE})?\s?[:=]\s{{0,4}}|{_QUOTE}\s?,\s?(?=[bru]?{_QUOTE})"
    r"|(?P<option>\s{1,4}))"
)
_NAME = re.compile(r"[\w.-]*+")
_SCHEME = re.compile(r"(?i:bearer|basic|token|apikey|api-key|bot|key|digest)\s{1,4}")
_OPEN = re.compile(r"[bru]{0,2}(?P<quote>\\{0,3}(?:\"\"\"|'''|[\"'`]))|")
# Ends at a space or a quote, and at other marks where something else begins behind them.
_BARE = re.compile(
    r"(?:[^\s\"'`\\<>,;&)}\]|\x1b]|[,;&)}\]|]++(?!\s|$|[\"'`\\<>\x1b]|[\w.%-]{1,40}[=:]))++",
)
_APART = re.compile(r"(?=[\w+/-]{0,80}\d)(?=[\w+/-]{0,80}[A-Za-z])[\w+/=-]{20,}+(?![.(])")
_LIST = re.compile(r"[\[(]\s{0,8}(?:(?:[bru]?[\"'][^\"'\n]{0,400}+[\"']|[\w.+-]{1,80}+)\s{0,4},?\s{0,8}){1,64}+[\])]")
_ITEM = re.compile(r"[\"']([^\"'\n]*)[\"']")
_COOKIES = re.compile(r"\\{0,3}[\"']?(?P<cookies>(?=[^\n\r\"'`]{0,256}\d)[\w.-]{1,60}=[^\n\r\"'`;]{4}[^\n\r\"'`]*+)")
_PASSWORD_OF = re.compile(r"://[^/\s:@]*:([^\s/]+)@|(?i:password|pwd)=([^;\s\"']+)")
_KEY_END = re.compile(r"-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----")
# As long as a line of a secret of several lines must be to be looked for alone.
_LONG_LINE = 16
_BASE64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=\\ \t\r\n"
# Arguments of one command are one text with this between them, which patterns take for a space.
_BETWEEN = "\x1f"


def redactor(environment: Mapping[str, str] | None = None) -> Callable[[str], str]:
    """What replaces secrets in a text by '[redacted]', for this environment (default: as it is now).

    Half of a surrogate pair, which JSON can't carry, is spelled out as well.
    """
    secrets = set(_values(os.environ if environment is None else environment))
    spelled = {spell(value) for value in secrets for spell in (quote_plus, lambda v: quote(v, safe=""), quote, _in_json)}
    # The longest first: one secret may begin with another.
    ordered = sorted(secrets | spelled, key=lambda value: (-len(value), value))
    values = re.compile("|".join(map(re.escape, ordered)) or r"(?!)")

    # A record says the same words many times.
    @cache
    def clean(text: str) -> str:
        text = text.encode("utf-8", "backslashreplace").decode("utf-8")
        if len(text) < SHORTEST:
            return text
        text = _without_key_ends(values.sub(REDACTED, text))
        for literals, pattern in rules():
            if any(literal in text for literal in literals):
                text = pattern.sub(rf"\g<keep>{REDACTED}", text)
        return _without_named(text)

    return clean


def redact(text: str) -> str:
    """The text with everything that looks like a secret replaced by '[redacted]'."""
    return redactor()(text)


def redact_end(data: bytes, longest: int, clean: Callable[[str], str]) -> str:
    """The end of an output, `longest` characters of it, without secrets and without the rest of one that began before.

    `data` is all of it, or at least `longest + 2 * LONGEST` bytes of its end.
    """
    begun = len(data) >= longest + 2 * LONGEST
    text = clean(data[-(longest + 2 * LONGEST) :].decode("utf-8", "replace"))
    return (text[LONGEST:] if begun else text)[-longest:]


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
            cleaned[shown] = REDACTED if is_secret(name, item) else _under(name, item, clean)
        return cleaned
    if isinstance(value, list | tuple):
        return [redact_tree(item, clean) for item in value]
    return value


def redact_arguments(arguments: Sequence[str]) -> list[str]:
    """A command's arguments without secrets, those behind an option with a secret's name included."""
    shown: list[str] = []
    hide = ""
    for argument in arguments:
        name, separator, value = argument.partition("=")
        if hide and not argument.startswith("-") and is_secret(hide, argument):
            shown.append(REDACTED)
        elif separator and re.fullmatch(r"[\w.-]+", name) and is_secret(name, value):
            shown.append(f"{name}={REDACTED}")
        else:
            shown.append(argument.replace(_BETWEEN, " "))
        hide = argument if not separator and argument.startswith("-") else ""
    return redact(_BETWEEN.join(shown)).split(_BETWEEN)


def _under(name: str, value: Any, clean: Callable[[str], str]) -> Any:
    """A value that is none itself; what a list holds goes by the list's name."""
    if isinstance(value, list | tuple):
        return [REDACTED if is_secret(name, item) else _under(name, item, clean) for item in value]
    return redact_tree(value, clean)


def _values(environment: Mapping[str, str]) -> list[str]:
    """What secrets variables hold, by their names; of an address or a connection string the password, too."""
    found = []
    for name, value in environment.items():
        sure = level(name)
        plain = is_plain_value(value) if sure is Level.CERTAIN else not is_secret(name, value)
        if sure and not plain:
            found += [value, *(line for line in value.splitlines() if len(line) >= _LONG_LINE and "-----" not in line)]
        for match in _PASSWORD_OF.finditer(value[:_LONGEST_QUOTED]):
            password = match[1] or match[2]
            found += [password, unquote(password), value]
    return [value for value in found if len(value) >= SHORTEST]


def _without_key_ends(text: str) -> str:
    """Without the rest of a private key that was cut off at its beginning."""
    parts, done, before = list[str](), 0, 0
    for end in _KEY_END.finditer(text) if "PRIVATE KEY" in text else ():
        head = text[max(before, end.start() - LONGEST) : end.start()]
        body = head[len(head.rstrip(_BASE64)) :]
        if "-----BEGIN " not in head and re.search(r"[\w+/=]{30}", body):
            parts += [text[done : end.start() - len(body)], REDACTED]
            done = end.end()
        before = end.end()
    return "".join((*parts, text[done:]))


def _without_named(text: str) -> str:
    parts, done = list[str](), 0
    for match in _NAMED.finditer(text):
        if match.start() >= done and (value := _value(text, match)):
            parts += [text[done : value.start], REDACTED]
            done = value.stop
    return "".join((*parts, text[done:]))


def _value(text: str, named: re.Match[str]) -> slice | None:
    """Where the secret behind a name is; None where it is none."""
    end = named.end("end")
    # Backwards from its end.
    before = text[max(0, named.start() - 80) : end][::-1]
    found = _NAME.match(before)
    name = found[0][::-1] if found else ""
    lead = before[len(name) : len(name) + 1]
    if lead == "[":
        # The colour that a terminal was told.
        name = re.sub(r"\A\d{1,3}m", "", name)
    # 'arn:…:secret:…' is an address.
    apart = named["option"] is not None and not name.startswith("--")
    if apart and before[len(name) :].lower().startswith((" ipa", " sseca", " terces", " htua")):
        name = f"api_{name}"
    if not level(name) or (lead == ":" and not name.startswith("_")):
        return None
    if apart:
        # In a sentence it has to look like one whatever the name says.
        found = _APART.match(text, named.end())
        sure = level(name) is Level.CERTAIN and found and is_secret_in_text("token", found[0], False)
        return slice(*found.span()) if found and sure else None
    begin = named.end()
    if name.lower().endswith("cookie"):
        return _line(text, begin)
    if found := _LIST.match(text, begin, begin + _LONGEST_QUOTED):
        items = _ITEM.findall(found[0])
        return slice(begin, found.end()) if any(is_secret_in_text(name, item, True) for item in items) else None
    opened = _OPEN.match(text, begin)
    quote = opened["quote"] if opened else None
    if opened and quote:
        begin = opened.end()
    scheme = _SCHEME.match(text, begin) if name.lower().endswith("authorization") else None
    begin = scheme.end() if scheme else begin
    stop = _closing(text, quote, begin) if quote else -1
    bare = _BARE.match(text, begin, begin + _LOOKED_AT) if stop < 0 else None
    if bare:
        stop = bare.end()
    seen = text[begin : min(stop, begin + _LOOKED_AT)] if stop > begin else ""
    schemed = scheme and len(seen) >= SHORTEST and re.search(r"[\d=]", seen)
    if not schemed and not is_secret_in_text(name, seen, quote is not None):
        return None
    if bare and len(seen) == _LOOKED_AT:
        bare = _BARE.match(text, begin)
    return slice(begin, bare.end() if bare else stop)


def _line(text: str, begin: int) -> slice | None:
    """The rest of a line, or of what is in quotes, where it says what cookies hold."""
    found = _COOKIES.match(text, begin)
    return slice(found.start("cookies"), found.end()) if found else None


def _closing(text: str, quote: str, begin: int) -> int:
    """Where what began with this quote ends, -1 where it doesn't."""
    end = text.find(quote, begin, begin + _LONGEST_QUOTED)
    while end > begin and quote[0] != "\\" and text[end - 1] == "\\":
        end = text.find(quote, end + 1, begin + _LONGEST_QUOTED)
    return end


def _in_json(value: str) -> str:
    return json.dumps(value)[1:-1]
