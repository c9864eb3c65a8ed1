"""What is taken for a secret and what is not, how long that takes, and what is left where a text is cut."""

import random
import time

import pytest
from research_steps.records.redaction import (
    LONGEST,
    REDACTED,
    redact,
    redact_arguments,
    redact_end,
    redact_tree,
    redactor,
)

from tests.support.planted_secrets import planted
from tests.support.secret_corpus import FRESH_GO, FRESH_STAY, MUST_GO, MUST_STAY, secrets

clean = redactor({})


def test_every_form_of_a_secret_goes() -> None:
    """Each of more than 150, as a researcher meets them, alone, in a sentence, behind a colour, in a long log."""
    assert len(MUST_GO) >= 150
    log = "step 100 loss 2.345\n" * 20
    left = []
    for seed in (1, 2, 3):
        for text, parts in secrets([*MUST_GO, *FRESH_GO], seed).items():
            for shown in (
                text,
                f"{log}{text}\n{log}",
                f"failed: ({text})",
                f"\x1b[31m{text}\x1b[0m",
                text.replace(r"\n", "\n"),
            ):
                left += [(text, part) for part in parts if part in clean(shown)]
    assert left == []


def test_what_is_no_secret_stays_as_it_is() -> None:
    """Each of more than 150: hashes, seeds, special tokens, XLA's text, keys of JAX, addresses, code."""
    assert len(MUST_STAY) >= 150
    texts = [*MUST_STAY, *FRESH_STAY]
    assert [text for text in texts if clean(text) != text] == []
    together = "\n".join(texts)
    assert clean(together) == together


def test_arguments_are_read_as_one_command() -> None:
    """What stands behind an option, or behind the command that takes a secret there; JSON in one argument, too."""
    for command, secret in (
        (["curl", "-u", "ada:{}", "https://x"], "sw0rdfish"),
        (["wandb", "login", "--relogin", "{}"], "0123456789abcdef" * 2 + "01234567"),
        (["docker", "login", "-u", "ada", "-p", "{}"], "sw0rdfish"),
        (["run", "--config", '{"api_key": "{}", "steps": 3}'], "correct&horse,9"),
        (["run", "--password", "{}"], "two words"),
        (["env", "DB_PASSWORD={}", "run"], "two words"),
        (["curl", "-H", "Authorization: token {}"], "0123456789abcdef"),
    ):
        shown = redact_arguments(
            [argument.replace("{}", secret.split()[0] if "ada" in argument else secret) for argument in command]
        )
        assert secret.split()[0] not in " ".join(shown), shown
        assert len(shown) == len(command)
        assert shown[0] == command[0]
    plain = ["python", "-m", "x", "--token", "eos", "--tokenizer", "gpt2", "--key", "a=b", "--eos_token", "</s>"]
    assert redact_arguments(plain) == plain


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("think_token", ["<think>", "<|think|>", "think"]),
        ("token", ["<s>", "</s>", "the", "Ġthe", "eos", 128009, 128010]),
        ("prng_key", [[0, 42], [0, 43]]),
        ("key", ["layer_1", "layer_2", "a1b2c3d4e5f6a7b8c9d0", 7]),
        ("cache_key", ["9f86d081884c7d65" * 4, "da39a3ee5e6b4b0d" * 4]),
        ("forward_pass", ["fused_v2", "split_v3"]),
        ("auth", ["none", "basic", "oauth2"]),
        ("session", ["warm", "cold"]),
        ("num_tokens", [1, 2]),
    ],
)
def test_swept_values_stay_apart(name: str, values: list[object]) -> None:
    """A field whose name only looks like a secret's keeps words, special tokens, numbers and hashes."""
    for value in values:
        assert redact_tree({name: value}, clean) == {name: value}
    assert redact_tree({name: values}, clean) == {name: values}


def test_numbers_and_lists_under_a_secrets_name_go() -> None:
    """By a name that is a secret's for certain, whatever it is; by one that may be, what looks like one."""
    config = {
        "password": 12345678,
        "api_key": ["abc", "def"],
        "hub": {"access_token": 7, "db_pass": "x"},
        "token": ["x7" * 12, "<s>"],
        "OPENAI_KEY": "0123456789abcdef" * 2,
        "DB_PWD": "hunter2",
    }
    assert redact_tree(config, clean) == {
        "password": REDACTED,
        "api_key": REDACTED,
        "hub": {"access_token": REDACTED, "db_pass": REDACTED},
        "token": [REDACTED, "<s>"],
        "OPENAI_KEY": REDACTED,
        "DB_PWD": REDACTED,
    }


def test_variables_with_a_secrets_name_are_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """By name, as they are, as an address or as JSON spells them; of an address the password; of a key each line."""
    key = planted(1)["private key"]
    for name, value in (
        ("OPENAI_KEY", "q8z7plain4looking9value"),
        ("SMTP_PASS", "Tr0ub4dor&3"),
        ("DB_PWD", 'with"quote7and space'),
        ("AZURE_DEVOPS_EXT_PAT", "kz8v2m5c7x1b9n3q"),
        ("DATABASE_URL", "postgres://ada:n0t-in-text@db/x"),
        ("SENTRY_DSN", "https://abcdef0123456789abcdef0123456789@o1.ingest.sentry.io/2"),
        ("ODBC", "Server=x;Uid=ada;Pwd=swordfish;"),
        ("DEPLOY_KEY", key),
    ):
        monkeypatch.setenv(name, value)
    line = key.splitlines()[2]
    assert redact("a q8z7plain4looking9value b Tr0ub4dor&3 c Tr0ub4dor%263 d kz8v2m5c7x1b9n3q") == (
        f"a {REDACTED} b {REDACTED} c {REDACTED} d {REDACTED}"
    )
    assert redact(r"it is with\"quote7and space") == f"it is {REDACTED}"
    assert redact("n0t-in-text and swordfish") == f"{REDACTED} and {REDACTED}"
    assert redact(f"rank 0 | {line}") == f"rank 0 | {REDACTED}"


def test_harmless_variables_leave_a_text_readable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A path, a word, a number, `true`, a special token, a hash, an address without a password."""
    for name, value in (
        ("SSH_KEY", "/home/ada/.ssh/id_ed25519"),
        ("GOOGLE_APPLICATION_CREDENTIALS", "/home/ada/key-1.json"),
        ("SORT_KEY", "created_at"),
        ("CACHE_KEY", "9f86d081884c7d65"),
        ("FORWARD_PASS", "measured"),
        ("OLDPWD", "/home/ada/marin"),
        ("USE_TOKEN", "true"),
        ("PAD_TOKEN", "<|endoftext|>"),
        ("THINK_TOKEN", "<|thinking|>"),
        ("RUN_PASS", "16777216"),
        ("DB_PASSWORD", "20260101"),
        ("TRACKING_KEY", "baseline"),
        ("METRICS_DSN", "https://metrics.example/x"),
    ):
        monkeypatch.setenv(name, value)
    text = (
        "/home/ada/.ssh/id_ed25519 /home/ada/key-1.json created_at 9f86d081884c7d65 measured /home/ada/marin/x true "
        "<|endoftext|> <|thinking|> 16777216 20260101 baseline https://metrics.example/x"
    )
    assert redact(text) == text


@pytest.mark.parametrize("lines", [1, 7, 13, 27])
def test_the_rest_of_a_key_goes_that_was_cut(lines: int) -> None:
    """Wherever the end of an output begins in it, also behind the prefix of a log."""
    chance = random.Random(lines)
    body = ["".join(chance.choices("abcdefXYZ0123456789+/", k=64)) for _ in range(28)]
    kind = "PRIVATE KEY-----"
    rest = "\n".join([*body[-lines:], f"-----END RSA {kind}", "after it"])
    assert clean(rest) == f"{REDACTED}\nafter it"
    key = "\n".join([f"-----BEGIN RSA {kind}", *body, f"-----END RSA {kind}"])
    for shown in (key, key.replace("\n", "\n[rank0] ")):
        longest = len(shown) - shown.index(body[-lines])
        tail = redact_end(f"{'before ' * 20_000}{shown}\n".encode(), longest, clean)
        assert not any(line in tail for line in body)


def test_the_end_of_an_output_holds_no_rest_of_a_secret() -> None:
    """Cut anywhere, behind however many secrets; and it is as long as was asked for where there are none."""
    token = planted(1)["Anthropic"]
    for count in (1, 40, 4000):
        output = ("x " * 40_000 + f"{token} " * count).encode()
        for longest in range(20, 140, 7):
            tail = redact_end(output, longest, clean)
            assert token[-12:] not in tail
            assert len(tail) <= longest
    assert redact_end(b"ab " * 40_000, 100, clean) == ("ab " * 40_000)[-100:]
    assert redact_end(b"short", 100, clean) == "short"
    assert LONGEST > 13_000


# What begins like a secret again and again and never is one, or is one without an end.
HOSTILE = (
    *("-eyJa", "eyJ.", "_MTIzNDU2Nzg5MDEyMzQ1Njc4", "x", "key ", "key=", "a.b-", "--x-", "sk-", "://", "://a:"),
    *(
        "password=",
        "token=a1",
        "key='a1",
        "token: ",
        "PRIVATE KEY ",
        "curl -s ",
        "wandb login --x ",
        "machine a password ",
    ),
    *("Cookie: a=", 'password=["a", ', "api_key=['a',", "api_key=,,,,", ";pwd=", "&sig=", "a:5432:", "bearer "),
    *("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdef\n", "0123456789abcdef", "https://hooks.slack.com/services/T_", "glcbt-"),
    *('key\\\\\\"', "password\n value:", "name KEY,   ", "--token ", "docker login -a ", "Authorization: Basic ", "pat"),
    *(
        "-----BEGIN PRIVATE KEY-----\n",
        "-----END PRIVATE KEY-----\n",
        "://abcdefgh1",
        '"username": "',
        "MTIa1.",
        "auth=(",
    ),
    *(
        "-----BEGIN ",
        "xoxb-1-",
        "$argon2",
        "dp.pt.",
        "AKIA",
        "Private-Lines: 1 a ",
        'api_key="',
        "<token>",
        " " * 30 + "key",
    ),
)


@pytest.mark.parametrize("family", range(8))
def test_time_is_proportional_to_the_size_whatever_a_text_says(family: int) -> None:
    """Four times the text takes at most eight times the time of the processor, where a square would take sixteen."""
    for unit in HOSTILE[family::8]:
        sizes = (8_000, 32_000)
        spent = [min(_seconds(unit * (size // len(unit))) for _ in range(2)) for size in sizes]
        # Below that the clock's own steps would count.
        assert spent[1] <= 8 * max(spent[0], 0.003), unit


def _seconds(text: str) -> float:
    fresh = redactor({})
    fresh("warm it up")
    begun = time.process_time()
    fresh(text)
    return time.process_time() - begun
