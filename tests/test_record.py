"""Records: what is written is what is read, on every Python; what can't be written or read is told in one sentence.

Also what goes into one: the plain form of a configuration, and text without secrets.
"""

import dataclasses
import enum
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import draccus
import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from research_steps.errors import UnreadableObject, UsageError
from research_steps.records.configurations import differences, plain, type_name
from research_steps.records.encoding import Stored, canonical, decode, decode_record, encode, sha256, store_record
from research_steps.records.model import Error, InterruptedRecord, Owner
from research_steps.records.objects import IDReservation, Intent, Seal
from research_steps.records.redaction import redact
from research_steps.records.secret_names import level

from tests.support.records import PROVENANCE, WHEN, entry, trial

OWNER = Owner(machine="laptop/boot/pid:[1]", host="laptop", pid=7, process_started=12.34)
INTERRUPTED = InterruptedRecord(
    schema=1, series="moe_hc", subject="trial", key="0" * 64, attempt=0, id="MOE-HC-002.01", label="", started_at=WHEN,
    finished_at=WHEN, reason="its process ended",
)  # fmt: skip
INTENT = Intent(
    schema=1, series="moe_hc", subject="trial", key="0" * 64, attempt=0, id="MOE-HC-002.01", label="", started_at=WHEN,
    lease_until=WHEN, owner=OWNER, nonce="00", config={"tokens": 512},
)  # fmt: skip

# What stands under the name of a secret is withheld.
names = st.text().filter(lambda name: not level(name))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4),
    max_leaves=12,
)


def read(line: bytes) -> Any:
    return decode_record(line, "trials/records/k-0.json")


@pytest.mark.parametrize("record", [trial(), entry(), INTERRUPTED], ids=lambda record: type(record).__name__)
def test_a_record_comes_back_as_it_was_written(record: Any) -> None:
    """Reading gives the same values and the same hash, whatever line ends follow."""
    stored = store_record(record)
    again = read(stored.line + b"\n")
    assert again.record == record == stored.record
    assert again.sha256 == stored.sha256 == sha256(stored.line)
    assert store_record(again.record).line == stored.line


def test_a_record_is_one_line_of_canonical_json() -> None:
    """ASCII, keys in order, no spaces, one line: the same values always make the same bytes."""
    line = store_record(trial(label="größer\n\u2028 \x00")).line
    assert line.isascii()
    assert b"\n" not in line
    assert line == canonical(json.loads(line))
    assert list(json.loads(line)) == sorted(json.loads(line))


def test_records_written_by_the_first_release_keep_their_hash() -> None:
    """The hash is the identity of what was published; this Python writes the very bytes that any other does."""
    numbers = {"time_s": [0.1, 1 / 3, 1e16, 1e-7, 123456789.123, -0.0, 5e-324, 1.7976931348623157e308]}
    samples = trial().samples
    assert samples is not None
    record = trial(
        schema=1,
        config={"seed": 2**63, "big": 10**30, "text": 'é😀\x00/\\"', "nested": [None, True, {"b": 1, "a": 2}]},
        samples=msgspec.structs.replace(samples, candidate=numbers),
    )
    assert store_record(record).sha256 == "d51094f9233847209dc11ed84c7a1db897804a0a6a2cbcef4a8f029f3f4d32f1"
    assert store_record(entry(schema=1)).sha256 == "b4c9ac1991d9e49c97c8a67c39abe18aca43c8ae2f86ab8ba29b7f2629d3303a"


def test_a_record_can_not_be_changed() -> None:
    """What was measured stays what it was, also in memory."""
    with pytest.raises(AttributeError):
        trial().status = "failed"  # type: ignore[misc]


@given(config=st.dictionaries(names, json_values, max_size=4), text=st.text())
@example(config={"seed": -(2**63) - 1, "big": 10**4000}, text="\x00")
def test_any_plain_config_and_text_survive(config: dict[str, Any], text: str) -> None:
    """NUL, huge integers, every float, every character: nothing is changed on the way."""
    again = read(store_record(trial(config=config, label=text)).line).record
    assert again.config == config
    assert again.label == text
    assert json.dumps(again.config, sort_keys=True) == json.dumps(config, sort_keys=True)


@given(text=st.text(st.characters(categories=["Cs", "Ll"])))
@example(text="caf\udce9.txt")
def test_half_a_surrogate_pair_is_spelled_out(text: str) -> None:
    """A file name that is no UTF-8, in an exception's message, must not make the record unreadable."""
    error = Error(type="OSError", message=text, frames=(text,), where="candidate", output_tail="")
    line = store_record(trial(error=error)).line
    again = read(line).record.error
    assert again.message == again.frames[0] == text.encode("utf-8", "backslashreplace").decode()


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_none_is_refused(number: float) -> None:
    """JSON has no NaN; a record with one could not be read."""
    with pytest.raises(ValueError, match="not JSON compliant"):
        store_record(trial(config={"x": number}))


def _without(line: bytes, name: str) -> bytes:
    return canonical({key: value for key, value in json.loads(line).items() if key != name})


def _with(line: bytes, **fields: Any) -> bytes:
    return canonical({**json.loads(line), **fields})


LINE = store_record(trial()).line


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"", "is not a record"),
        (LINE[: len(LINE) // 2], "is not a record"),
        (LINE + LINE, "is not a record"),
        (b"\x00" * 4096, "is not a record"),
        (b"\xff\xfe" + LINE, "is not a record"),
        (LINE.replace(b"implementation=dense", b"implementation=\xff"), "is not a record"),
        (LINE.replace(b'"tokens":512', b'"tokens":NaN'), "is not a record"),
        (LINE.replace(b'"tokens":512', b'"tokens":' + b"[" * 100_000), "is not a record"),
        (b"[]", "is not a record"),
        (b"{}", "missing required field `schema`"),
        (_without(LINE, "key"), "missing required field `key`"),
        (_with(LINE, surprise=1), "unknown field `surprise`"),
        (_with(LINE, status="splendid"), "Invalid enum value 'splendid'"),
        (_with(LINE, started_at="yesterday"), r"Expected text of another form at `\$\.started_at`"),
        (_with(LINE, kind="intent"), "Invalid value 'intent'"),
        (_with(LINE, schema=0), "is not a record"),
        (_with(LINE, schema=6, surprise=1), "has schema 6, and this version reads up to 5.*install the newest"),
    ],
)
def test_what_is_no_record_is_named_in_one_sentence(line: bytes, reason: str) -> None:
    """The sentence names the object and what is wrong with it; nothing is guessed."""
    with pytest.raises(UnreadableObject, match=reason) as told:
        read(line)
    assert str(told.value).startswith("trials/records/k-0.json ")
    assert "\n" not in str(told.value)
    assert len(str(told.value)) < 400


@given(place=st.integers(0, len(LINE) - 1), byte=st.integers(0, 255))
def test_a_flipped_byte_is_told_or_changes_the_hash(place: int, byte: int) -> None:
    """A damaged disk can't pass another record off as the one that was meant."""
    damaged = bytearray(LINE)
    damaged[place] = byte
    try:
        again: Stored[Any] = read(bytes(damaged))
    except UnreadableObject:
        return
    assert (again.sha256 == sha256(LINE)) == (bytes(damaged) == LINE)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Intent, INTENT),
        (IDReservation, IDReservation(schema=1, id="MOE-HC-007", step_key="s", claimed_at=WHEN, by=OWNER)),
        (Seal, Seal(schema=1, id="MOE-HC-009", tag="moe_hc/MOE-HC-009", commit="c" * 40, sealed_at=WHEN, host="laptop")),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_intents_claims_and_seals_are_as_strict_as_records(kind: type, value: Any) -> None:
    """They come back equal, and are refused with a missing, unknown or newer part."""
    line = encode(value)
    assert decode(kind, line + b"\n", "it") == value
    for damaged in (_without(line, "id"), _with(line, surprise=1), _with(line, schema=3), line[:-1]):
        with pytest.raises(UnreadableObject, match=r"^it "):
            decode(kind, damaged, "it")


# -- secrets ---------------------------------------------------------------------------------------------------------

SECRETS = [
    "ghp_" + "aB3" * 12,
    "github_pat_" + "11ABCDEFG0" * 5,
    "glpat-" + "x1Y2" * 5,
    "hf_" + "abcdefghij" * 3 + "ABCD",
    "wandb_v1_" + "a1" * 20,
    "sk-ant-api03-" + "aB3-" * 10,
    "sk-proj-" + "aB3_" * 10,
    "sk-" + "aB3" * 16,
    "AKIAIOSFODNN7EXAMPLE",
    "AIza" + "aB3-_" * 7,
    "ya29." + "a0Af" * 8,
    "xoxb-1234567890-abcdefghij",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl",
    "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXk\n-----END OPENSSH PRIVATE KEY-----",
]

HARMLESS = [
    "</s>",
    "<|endoftext|>",
    "eos_token=<|im_end|>",
    "token_count: 16777216 of max_tokens=4096",
    "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "da39a3ee5e6b4b0d3255bfef95601890afd80709",
    "c2VlZDogMTIzNDU2Nzg5MGFiY2RlZmdoaWprbG1ub3A=",
    "mask-attention-with-blocked-rows-and-Columns-2",
    "task-level_Mixture-of-experts-v2-baseline",
    "gs://bucket/path:with/colon@2",
    "http://localhost:8080/metrics and http://[::1]:80/",
    "hf_checkpoint_converter",
    "s3://bucket/checkpoints/step-1000",
    "password must not be empty",
]


@pytest.mark.parametrize("secret", SECRETS, ids=lambda secret: secret[:12])
def test_a_known_kind_of_secret_never_reaches_a_record(secret: str) -> None:
    """In a message, a config, a key, or the end of a child's output."""
    error = Error(type="E", message=f"401 for {secret}!", frames=(), where="child", output_tail=f"using {secret}\n")
    line = store_record(trial(error=error, config={"header": f"x {secret}", secret: [secret]})).line
    assert json.dumps(secret)[1:-1].encode() not in line
    assert b"401 for [redacted]!" in line
    assert redact(f"a {secret} b") == "a [redacted] b"


@pytest.mark.parametrize("text", HARMLESS)
def test_what_only_looks_a_little_like_a_secret_stays(text: str) -> None:
    """Hashes, seeds, special tokens, addresses and long names are results, and must be readable later."""
    assert redact(text) == text
    assert redact(f"a ({text}), b") == f"a ({text}), b"


def test_a_private_key_that_is_cut_off_is_redacted_to_the_end() -> None:
    """Only the end of a long output is kept, and a key may begin in it."""
    assert redact("key:\n-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkq\nhkiG9w0B") == "key:\n[redacted]"


def test_the_password_in_a_url_is_redacted_and_the_rest_stays() -> None:
    """Also one with signs in it."""
    assert redact("postgres://ada:p@ss:w0rd@db:5432/x") == "postgres://[redacted]@db:5432/x"
    assert redact("redis://:hunter22@cache") == "redis://[redacted]@cache"


def test_secrets_of_the_environment_never_reach_a_record(monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables with a secret's name; one that begins with another leaves nothing of itself."""
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef")
    monkeypatch.setenv("OTHER_API_KEY", "0123456789abcdef-and-more")
    monkeypatch.setenv("DB_PASSWORD", "correct horse")
    monkeypatch.setenv("EOS_TOKEN", "<|endoftext|>")
    monkeypatch.setenv("MAX_TOKEN", "16777216")
    line = store_record(
        trial(label="0123456789abcdef-and-more 0123456789abcdef correct horse <|endoftext|> 16777216")
    ).line
    assert json.loads(line)["label"] == "[redacted] [redacted] [redacted] <|endoftext|> 16777216"


def test_a_password_that_is_one_of_our_words_breaks_no_record(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fields, kinds and IDs are never taken for secrets, so the record can be read and found again."""
    for number, word in enumerate(("baseline", "finished_at", "executor", "MOE-HC-002.01", "candidate")):
        monkeypatch.setenv(f"NUMBER_{number}_PASSWORD", word)
    record = trial(label="the baseline")
    again = read(store_record(record).line).record
    assert again.label == "the [redacted]"
    assert msgspec.structs.replace(again, label="the baseline") == record


def test_a_config_field_with_a_secrets_name_is_redacted_by_its_name() -> None:
    """Whatever it holds; what language models call a token stays."""
    config = {
        "api_key": "abc",
        "hub": {"token": "0000", "password": "x", "credentials": {"user": "ada"}},
        "eos_token": "</s>",
        "pad_token": "eos",
        "max_tokens": 4096,
        "tokens_per_s": 1.5,
        "api_key_file": "/run/key",
        "password": "",
    }
    assert read(store_record(trial(config=config)).line).record.config == {
        **config,
        "api_key": "[redacted]",
        "hub": {"token": "[redacted]", "password": "[redacted]", "credentials": "[redacted]"},
    }


def test_what_is_in_memory_is_what_was_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that follows in the same process can carry on a secret that the record left out."""
    monkeypatch.setenv("HF_TOKEN", "very-secret-value")
    stored = store_record(trial(label="very-secret-value"))
    assert stored.record == read(stored.line).record


# -- configurations --------------------------------------------------------------------------------------------------


class Precision(enum.Enum):
    LOW = "bf16"
    HIGH = "f32"


class Level(enum.IntEnum):
    FIRST = 1
    SECOND = 2


class Routing(enum.StrEnum):
    RANDOM = "draw"
    RUNS = "in runs"


@dataclasses.dataclass(frozen=True)
class Inner:
    sizes: tuple[int, ...] = (1, 2)
    path: Path = Path("/data")


@dataclasses.dataclass(frozen=True)
class Outer:
    precision: Precision = Precision.LOW
    level: Level = Level.FIRST
    routing: Routing = Routing.RANDOM
    inner: Inner = Inner()
    many: tuple[Inner, ...] = (Inner((3,)), Inner())
    pair: tuple[str, float] = ("a", 1.0)
    named: dict[str, float] = dataclasses.field(default_factory=lambda: {"b": 1.0, "a": 0.1})
    chosen: set[str] = dataclasses.field(default_factory=lambda: {"b", "c", "a"})
    maybe: int | None = None
    mode: Literal["x", "y"] = "x"
    rate: float = 1.0
    anything: Any = None
    computed: int = dataclasses.field(init=False, default=3)


def test_a_config_comes_back_from_its_plain_form() -> None:
    """Enums, paths, tuples, sets and nested dataclasses: the child builds the very same configuration."""
    config = Outer(
        precision=Precision.HIGH, level=Level.SECOND, routing=Routing.RUNS, inner=Inner((5, 6), Path("a/../b")),
        maybe=2**70, mode="y", rate=3, anything=[1, {"a": None}],
    )  # fmt: skip
    recorded = plain(config, "it")
    assert draccus.decode(Outer, json.loads(canonical(recorded))) == config
    assert recorded["precision"] == "HIGH"
    assert recorded["inner"] == {"sizes": [5, 6], "path": "a/../b"}


def test_a_set_is_recorded_in_the_same_order_in_every_process() -> None:
    """Otherwise the same trial would have another key each time, and be measured again."""
    code = (
        "from research_steps.records.configurations import plain; from research_steps.records.encoding import canonical;"
        "print(canonical(plain({'names': set('abcdefgh')}, 'it')))"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(printed) == 1


UNRECORDABLE = {
    "nan": (math.nan, "nan"),
    "inf": (math.inf, "inf"),
    "int of 5000 digits": (10**5000, "0x"),
    "no UTF-8": ("caf\udce9", "udce9"),
    "object": (object(), "<object object"),
    "bytes": (b"bytes", "b'bytes'"),
    "complex": (1j, "1j"),
    "function": (len, "<built-in function len>"),
    "class": (Inner, "<class"),
    "key that is no string": ({1: 2}, "1 is 0x1 (int)"),
    "key that is no UTF-8": ({"caf\udce9": 2}, "udce9"),
}


@pytest.mark.parametrize(("value", "shown"), UNRECORDABLE.values(), ids=UNRECORDABLE)
def test_a_value_that_can_not_be_recorded_is_named_with_its_field(value: Any, shown: str) -> None:
    """The sentence says which field of which step holds what; nothing is measured before."""
    for config, where in (({"a": {"b": [0, value]}}, r"a\.b\[1\]"), (Outer(anything=value), "anything")):
        with pytest.raises(UsageError, match=rf"The configuration of sweep 'x' can't be recorded: {where}") as told:
            plain(config, "sweep 'x'")
        assert "\n" not in str(told.value)
        assert len(str(told.value)) < 400
        assert shown in str(told.value)


@pytest.mark.parametrize(
    ("changes", "field"), [({"maybe": "5"}, "maybe is '5'"), ({"mode": "z"}, "mode"), ({"inner": {"no": 1}}, "inner")]
)
def test_a_config_that_would_come_back_otherwise_is_refused(changes: dict[str, Any], field: str) -> None:
    """What the record says was measured is what the child measures, or nothing is."""
    with pytest.raises(
        UsageError, match=f"The configuration of it can't be read back from its record: .*{field}"
    ) as told:
        plain(dataclasses.replace(Outer(), **changes), "it")
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("config", [5, "text", None, [1], Outer])
def test_a_config_without_fields_is_refused(config: Any) -> None:
    """A sweep varies fields, so there must be some."""
    with pytest.raises(UsageError, match="expected a dataclass or a dict"):
        plain(config, "it")


def test_a_config_that_holds_itself_is_refused() -> None:
    """It has no plain form."""
    config: dict[str, Any] = {}
    config["self"] = config
    with pytest.raises(UsageError, match="holds itself"):
        plain(config, "it")


def test_a_placeholder_is_replaced_before_it_is_recorded() -> None:
    """Values that Marin fills in later are stood in for, wherever they are."""
    assert plain({"a": [b"later"]}, "it", lambda value: "stands in" if value == b"later" else value) == {
        "a": ["stands in"]
    }


def test_differences_name_the_fields_that_differ() -> None:
    """Fields that only one of two configurations has count as well."""
    assert differences({"a": 1, "b": 2, "c": 3}, {"a": 1, "b": 3, "d": 4}) == {
        "b": (2, 3),
        "c": (3, None),
        "d": (None, 4),
    }


def test_a_config_class_that_a_child_can_not_import_is_refused() -> None:
    """It has to stand at the top level of a module."""

    @dataclasses.dataclass
    class Local:
        x: int = 1

    with pytest.raises(UsageError, match="defined inside a function"):
        type_name(Local())
    assert type_name({}) == "dict"
    assert type_name(Outer()) == "tests.test_record:Outer"


@pytest.mark.parametrize("how", [["script.py"], ["-m", "script"]])
def test_a_config_class_of_the_program_itself_has_a_name_to_import(tmp_path: Path, how: list[str]) -> None:
    """A thread may be one plain script that holds its configuration too."""
    (tmp_path / "script.py").write_text(
        "from dataclasses import dataclass\nfrom research_steps.records.configurations import type_name\n"
        "@dataclass\nclass Config:\n    x: int = 1\nprint(type_name(Config()))\n"
    )
    done = subprocess.run([sys.executable, *how], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "script:Config"
    assert PROVENANCE.commit
