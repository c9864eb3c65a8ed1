"""A series with every kind of step, in whose records every field that takes any text holds a hostile one.

Made from the corpus: each text is replaced by one of a few, the same by the same, each mapping gets one more name, and
what names records by their hashes is made to fit, as somebody would who writes to the store by hand.
"""

import json
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

from msgspec import inspect
from research_steps.records.encoding import canonical, sha256
from research_steps.records.model import EntryRecord, InterruptedRecord, TrialRecord
from research_steps.records.objects import IDReservation, Intent, Seal, TrialPlan
from research_steps.records.series import LONGEST_TAG
from research_steps.records.step_kinds import STEP_KINDS

CORPUS = Path(__file__).parents[1] / "corpus" / "format_1"
# Forges a heading, an entry's marker and a line of a table; mentions, refers to, closes, links and loads; opens HTML and
# code; asks a terminal for its clipboard, a title, an empty screen and a link, with eight and seven bits; reorders and
# hides. In one line as well as over several.
HOSTILE = (
    "</details> [l](javascript:alert(1)) ![i](http://evil.example/i.png) <http://evil.example> www.evil.example `c` |\n"
    "### 2026-01-01 00:00 - OLD-999 forged\n<!-- research-steps entry OLD-999 -->\n@someone fixes #1, GH-7 and o/r#2\r\n"
    "- [ ] item\n| a | b |\n| --- | --- |\n```\n<script>alert(1)</script> <!-- hidden\n\n# Title\n\n"
    "\x1b]52;c;Zm9yZ2Vk\x07 \x1b]0;title\x07 \x1b[2J \x1b]8;;http://evil.example\x07 \x9b31m \x9d0;t\x9c \x08\x7f\x00 "
    "\u202e\u2066\u200f\u061c\u200b\u200d\u2060\ufeff\u2028\u2029\U000e0041 end"
)
# Each of these would act at the beginning of a line, or at the end of one.
HOSTILES = (
    *(HOSTILE, "# x", "> x", "- x", "1. x", "    x", "| a | b |\n| --- | --- |", "```\nx", "~~~", "---", "x\n==="),
    *("[x]: http://y", "<b>x</b>", "<!-- research-steps end tldr -->\n## TL;DR", "@someone", "#1", "closes #2"),
    *("https://evil.example/x", "<https://evil.example>", "![x](data:image/png;base64,AA==)", "[x](file:///etc/passwd)"),
    *("`x", "\\", "x#", "&#64;someone"),
)
HARMLESS = tuple(f"plain words {number}" for number in range(len(HOSTILES)))
# What a terminal would obey, or a reader not see.
FORBIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f\ud800-\udfff]"
)
_KINDS: dict[str, type] = {
    **dict.fromkeys(("trials/records", "trials/late"), TrialRecord),
    **dict.fromkeys(("entries/records", "entries/late"), EntryRecord),
    **dict.fromkeys(("entries/intents", "trials/intents"), Intent),
    **{"seals": Seal, "claims": IDReservation, "plans": TrialPlan},
}
# In the order in which one names another.
_RECORDS = ("trials/records", "trials/late", "entries/records", "entries/late")
_HASH = re.compile(r'(?<=")[0-9a-f]{64}(?=")')


def write_store(store: Path, texts: Sequence[str]) -> None:
    """The journal of the series old_series, with these texts in place of all others."""

    def text(was: str) -> str:
        return texts[crc32(was.encode()) % len(texts)]

    shutil.copytree(CORPUS / "store", store)
    journal = store / "journal" / "old_series"
    shutil.rmtree(journal / "postings")
    renamed: dict[str, str] = {}
    paths = [path for folder in _RECORDS for path in (journal / folder).glob("*.json")]
    read = {path: json.loads(path.read_bytes()) for path in paths}
    for path in sorted(paths, key=lambda path: (read[path]["kind"] != "trial", read[path]["finished_at"])):
        kind = InterruptedRecord if read[path]["kind"] == "interrupted" else _KINDS[f"{path.parts[-3]}/{path.parts[-2]}"]
        record = filled(inspect.type_info(kind), read[path], text)
        if kind is EntryRecord:
            details = inspect.type_info(STEP_KINDS[record["step"]].details)
            record["config"] = filled(details, read[path]["config"], text)
        line = _HASH.sub(lambda match: renamed.get(match[0], match[0]), canonical(record).decode()).encode()
        renamed[sha256(path.read_bytes().rstrip(b"\n"))] = sha256(line)
        _replace(path, line)
    for folder in _KINDS.keys() - _RECORDS:
        for path in (journal / folder).glob("*.json"):
            _replace(path, canonical(filled(inspect.type_info(_KINDS[folder]), json.loads(path.read_bytes()), text)))
    series = json.loads((journal / "series.json").read_bytes())
    for name in ("goal", "constraints", "stop", "motivation", "problem", "success", "baseline_case"):
        series[name] = text(name)
    for name in ("matrix", "code_paths", "references", "variants"):
        series[name] = [text(name)]
    series["tags"] = [texts[0][-LONGEST_TAG:]]
    series["hypotheses"] = [{**hypothesis, "text": text(hypothesis["text"])} for hypothesis in series["hypotheses"]]
    _replace(journal / "series.json", canonical(series))


def filled(kind: inspect.Type, value: Any, text: Callable[[str], str]) -> Any:
    """The value with a text wherever its type takes any."""
    match kind, value:
        case inspect.StrType(pattern=None), str():
            return text(value)
        case inspect.StructType(), dict():
            types = {field.encode_name: field.type for field in kind.fields}
            # Which kind an entry is, is not said in anybody's words.
            return {
                name: filled(types[name], item, text) if name in types and name != "step" else item
                for name, item in value.items()
            }
        case inspect.UnionType(), _:
            fitting = [inner for inner in kind.types if _fits(inner, value)]
            return filled(fitting[0], value, text) if fitting else value
        case ((inspect.VarTupleType() | inspect.ListType()), list()):
            return [filled(kind.item_type, item, text) for item in value]
        case inspect.DictType(), dict():
            items = {name: filled(kind.value_type, item, text) for name, item in value.items()}
            free = isinstance(kind.key_type, inspect.StrType) and kind.key_type.pattern is None
            return {**items, **({text(name): items[name] for name in list(items)[:1]} if free else {})}
        case inspect.AnyType(), _:
            return _plain(value, text)
    return value


def _fits(kind: inspect.Type, value: Any) -> bool:
    if isinstance(kind, inspect.StructType) and isinstance(value, dict):
        return kind.tag is None or value.get(kind.tag_field or "type") == kind.tag
    wanted = {str: inspect.StrType, list: inspect.VarTupleType, dict: inspect.DictType}.get(type(value), ())
    return isinstance(kind, wanted) or (isinstance(kind, inspect.AnyType) and value is not None)


def _plain(value: Any, text: Callable[[str], str]) -> Any:
    if isinstance(value, dict):
        return {**{name: _plain(item, text) for name, item in value.items()}, text("".join(value)): text("")}
    if isinstance(value, list):
        return [_plain(item, text) for item in value]
    return text(value) if isinstance(value, str) else value


def _replace(path: Path, line: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(line + b"\n")
