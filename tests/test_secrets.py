"""Secrets reach no surface: not the journal, the logbook, the issue, W&B or a tag; and what is none stays readable."""

import base64
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from research_steps.records.redaction import REDACTED, redact, redact_arguments, redact_tree, redactor

from tests.support import github_api
from tests.support.github_api import Proxy
from tests.support.issue_thread import environment
from tests.support.planted_secrets import named, planted
from tests.support.secret_corpus import MUST_GO, secrets
from tests.support.toy_thread import Repository, research

ROOT = Path(__file__).parents[1]

MEASURE = """
import json, os, time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Config:
    work: int = 2000
    note: str = ""
    plants: str = ""


def measure(config):
    if config.work == 3000:
        text = Path(config.plants).read_text()
        print(text)
        raise ValueError("failed with " + text)
    while True:
        start = time.perf_counter()
        sum(range(config.work))
        yield {"time_s": time.perf_counter() - start}
"""
BODY = """
    import os
    from pathlib import Path
    plants = os.environ["PLANTS"]
    base = steps.baseline(measure, Config(plants=plants))
    works = steps.sweep(base, ("work", [1000, 3000]), label=Path(plants).with_name("label").read_text())
    notes = steps.sweep(base, ("note", Path(plants).with_name("notes").read_text().split("|")))
    steps.seal(steps.interpret(base, works, notes))
"""


@pytest.mark.parametrize("kind", planted(1))
def test_each_kind_is_taken_out_whole(kind: str) -> None:
    """Alone, in a sentence, in quotes, in JSON, as an argument; what stands around it stays."""
    secret = planted(1)[kind]
    assert redact(secret) == REDACTED
    assert redact(f"401 for {secret}, again") == f"401 for {REDACTED}, again"
    assert redact(f"key='{secret}'") == f"key='{REDACTED}'"
    assert secret not in redact(json.dumps({"a": [secret]}))
    for before in ("\x1b[32m", "\x1b[0m", "\x1b[1;31m", "\\n", "%20", "b'", "_", "token="):
        assert secret not in redact(f"{before}{secret}\x1b[0m and more")
    name = "AccountKey=" if secret.startswith("AccountKey=") else ""
    assert redact_arguments(["run", secret, "--x"]) == ["run", f"{name}{REDACTED}", "--x"]


@pytest.mark.parametrize("text", named(2), ids=[kind for _, kind in named(2).values()])
def test_a_value_is_taken_out_by_what_stands_around_it(text: str) -> None:
    """Only the value; its name stays, so that a reader knows what was there."""
    secret, _ = named(2)[text]
    assert redact(text) == text.replace(secret if "://ada" not in text else f"ada:{secret}", REDACTED)
    assert secret not in redact(f"before {text} after")


def test_nothing_of_real_configurations_is_taken_for_a_secret() -> None:
    """The YAML and JSON of the packages that are installed, the tests' corpus, this repository's own records."""
    packages = Path(pytest.__file__).parents[1]
    files = [path for name in ("*.yaml", "*.yml", "*config*.json", "*.toml") for path in packages.rglob(name)]
    files += [*(ROOT / ".agents" / "logbooks").rglob("*.jsonl"), *(ROOT / "tests" / "corpus").rglob("*")]
    files = [path for path in files if path.is_file() and path.stat().st_size < 1 << 20]
    assert len(files) > 100
    wrong = []
    for path in files:
        text = path.read_text(errors="replace")
        if redact(text) != text:
            wrong.append(path)
    assert wrong == []


@settings(max_examples=300)
@given(data=st.binary(max_size=200), text=st.text(max_size=80))
def test_hashes_seeds_and_words_stay(data: bytes, text: str) -> None:
    """Hex and base64 of anything, and any text, read as they were; cleaning twice is cleaning once."""
    for shown in (data.hex(), f"sha256:{data.hex()}", f"seed={data.hex()}", f"key: {data.hex()}"):
        assert redact(shown) == shown
    assert redact(redact(text)) == redact(text)
    encoded = base64.b64encode(data).decode()
    assert redact(f"PRNG {encoded}") == f"PRNG {encoded}"


def test_names_and_addresses_are_no_secrets() -> None:
    """What code and documents write where a secret would be, and two keys that held one."""
    for text in (
        "docker://ubuntu:22.04@sha256:" + "ab" * 32,
        'f"https://{user}:{password}@{host}"',
        "arn:aws:secretsmanager:us-east-1:123456789012:secret:name-1a2b3c4d",
        "Client(token=self.settings.hf_token2, retries=3)",
        "a file that begins with -----BEGIN PRIVATE KEY----- is a key, and the rest of this stays",
        "token = load_token_v2(path)",
        "password: ${DB_PASSWORD_1}",
    ):
        assert redact(text) == text
    secret, other = planted(6)["GitHub"], planted(7)["GitHub"]
    assert redact_tree({secret: 1, other: 2}, redactor()) == {REDACTED: 1, f"{REDACTED} (another)": 2}


def test_a_long_text_costs_no_more_than_its_length() -> None:
    """Patterns that try each beginning again would take minutes for the tail of an output."""
    for text in ("x" * 100_000, "key " * 25_000, "a.b-" * 25_000, "--x-" * 25_000, "sk-" * 30_000, "://" * 30_000):
        assert redact(text) == text


@pytest.fixture
def surfaces(
    tmp_path: Path, github_proxy: Proxy, github_repository: github_api.Repository, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Repository, Path]]:
    for name, value in {**environment(github_proxy), "GITHUB_REPOSITORY": github_repository.full_name}.items():
        monkeypatch.setenv(name, value)
    outside = tmp_path / "outside"
    outside.mkdir()
    repository = Repository(tmp_path / "checkout")
    repository.measure(MEASURE)
    repository.thread(BODY)
    thread = repository.experiment / "__main__.py"
    expression = "(Path(os.environ['PLANTS']).with_name('series').read_text() if 'PLANTS' in os.environ else '')"
    text = thread.read_text().replace(
        'goal="see it run"', f'goal="see it run " + {expression}, stop={expression}, references=({expression},)'
    )
    thread.write_text(f"import os\nfrom pathlib import Path\n{text}")
    repository.commit()
    yield repository, outside


def test_none_of_many_planted_secrets_reaches_a_surface(
    surfaces: tuple[Repository, Path], github_repository: github_api.Repository
) -> None:
    """In arguments, the environment, labels, configurations, an exception, output, a decision, a patch and the branch's
    name: a search of every byte that is left behind, the tag's too, finds none of them."""
    repository, outside = surfaces
    shaped = [secret for secret in planted(3).values() if "\n" not in secret]
    corpus = secrets(MUST_GO, 6)
    # The end of the output begins inside of this one.
    long = planted(8)["W&B"] * 40
    plants = [*planted(4).values(), *corpus, *named(5), long, "x " * 1500]
    (outside / "plants").write_text("\n".join(plants))
    (outside / "label").write_text(f"work {shaped[0]}")
    (outside / "notes").write_text("|".join(shaped[1:12]))
    (outside / "series").write_text(shaped[16])
    variables = {
        "SOME_API_KEY": "from-the-environment-1",
        "DB_PASSWORD": "correct horse battery",
        "XLA_NOTE": shaped[12],
        "OPENAI_KEY": "from-the-environment-2",
        "SMTP_PASS": "from-the-environment-3",
        "DATABASE_URL": "postgres://ada:from-the-environment-4@db/x",
    }
    branch = planted(7)["GitHub"]
    repository.git("switch", "--create", f"try-{branch}")
    hidden = [*shaped[:17], *planted(4).values(), *(value for value, _ in named(5).values())]
    hidden += [f"from-the-environment-{number}" for number in (1, 2, 3, 4)] + ["correct horse battery", branch]
    hidden += [long[at : at + 60] for at in range(0, len(long), 60)]
    hidden += [part for parts in corpus.values() for part in parts]
    # Of a key of several lines each line is one.
    hidden = [line for secret in hidden for line in secret.splitlines() if "PRIVATE KEY" not in line]
    assert len(hidden) >= 250

    assert research(repository.root, "kickoff", "toy", "--create-issue", "--branch", ".").returncode == 0
    run = {
        "PLANTS": str(outside / "plants"),
        "WANDB_MODE": "offline",
        "JAX_NOTE": f"https://ada:{shaped[13]}@x/",
        **variables,
    }
    done = repository.run("--seal", "true", **run)
    assert done.code == 0, done.output
    (repository.experiment / "dirty.py").write_text(f"key = '{shaped[14]}'\n")
    decided = research(
        repository.root, "decide", "toy", f"Rotate {shaped[15]} now.", "--owner", "me", WANDB_MODE="offline"
    )
    assert decided.returncode == 0, decided.stderr
    assert "withheld" in repository.logbook

    searched = 0
    everything = {"issue": json.dumps(_issue(github_repository)).encode()}
    # Beside the journal Marin keeps its own account of the steps in the store, with their configurations as they are.
    for name in (".agents", ".git/research-steps", "local_store/journal"):
        left = (repository.root / name).rglob("*")
        everything |= {str(path): path.read_bytes() for path in left if path.is_file()}
    for name in repository.git("rev-list", "--objects", "--all").splitlines():
        content = subprocess.run(
            ["git", "cat-file", "-p", name.split()[0]], cwd=repository.root, capture_output=True, check=True
        ).stdout
        everything[f"git {name}"] = content
    for where, data in everything.items():
        searched += len(data)
        for secret in hidden:
            assert secret.encode() not in data, (where, secret)
            assert json.dumps(secret)[1:-1].encode() not in data, (where, secret)
    assert searched > 100_000
    assert any(b'"branch": "try-[redacted]"' in data for data in everything.values()), "so is the bundle"
    assert any(".wandb" in where for where in everything), "W&B runs are among what was searched"
    assert any(REDACTED.encode() in data for where, data in everything.items() if where == "issue")


def _issue(repository: github_api.Repository) -> list[str]:
    (number,) = repository.issues()
    return [repository.issue(number).body, *(comment.body for comment in repository.comments(number))]
