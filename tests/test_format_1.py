"""What the version before schemas were counted apart wrote is read, verified and gone on with, byte for byte."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from research_steps.journal.journal import Journal
from research_steps.journal.store import open_store
from research_steps.records.encoding import store_record
from research_steps.records.model import EntryRecord
from research_steps.records.step_kinds import plain_details

from tests.support.scratch_logbook import git

CORPUS = Path(__file__).parent / "corpus" / "format_1"
REPOSITORY = Path(__file__).resolve().parents[1]
RESEARCH = [sys.executable, "-m", "research_steps"]
# A rerun finds its steps done where it would measure under the recorded conditions, so it is told of those.
RERUN = """
import json, platform, sys
from research_steps.trial import provenance
made = json.loads(sys.argv.pop(1))
provenance._device_class = lambda *_: made["device_class"]
provenance._packages = lambda: made["packages"]
provenance._environment = lambda: made["env"]
platform.python_version = lambda: made["python"]
from experiments.old_series.__main__ import series, thread
import research_steps
research_steps.main(series, thread)
"""


class Old:
    """A new repository with what git held, and the store."""

    def __init__(self, root: Path) -> None:
        self.root, self.store = root, root / "local_store"
        shutil.copytree(CORPUS / "checkout", root)
        shutil.copytree(CORPUS / "store", self.store)
        (root / ".gitignore").write_text("local_store/\n__pycache__/\n")
        (root / ".gitattributes").write_text("* -text\n")
        git(root, "init", "--quiet", "--initial-branch=main")
        git(root, "config", "user.name", "A Person")
        git(root, "config", "user.email", "person@example.org")
        git(root, "add", "--all")
        git(root, "commit", "--quiet", "--message", "as it was")

    @property
    def journal(self) -> Journal:
        return Journal(open_store(str(self.store)), "old_series")

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "WANDB_MODE": "disabled", "PYTHONPATH": str(REPOSITORY / "lib")}
        return subprocess.run(command, cwd=self.root, env=environment, capture_output=True, text=True, timeout=300)

    def answer(self, *arguments: str) -> Any:
        done = self.run(*RESEARCH, *arguments, "--json")
        assert done.stdout, done.stderr
        return json.loads(done.stdout.replace(str(self.store), "<store>"))

    def bytes(self) -> dict[str, bytes]:
        """Every record, intent and attachment, in the store and beside the logbook."""
        folders = [self.store / "journal", self.root / ".agents" / "logbooks" / "old_series"]
        files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
        # Rewritten by design: what is noted of a plan, the brief, and the forest plot; and packages are today's.
        rewritten = ("series.json", "background.md", "forest.svg")
        kept = [
            path for path in files if path.parent.name not in ("plans", "environments") and path.name not in rewritten
        ]
        return {path.relative_to(self.root).as_posix(): path.read_bytes() for path in kept}


@pytest.fixture
def old(tmp_path: Path) -> Old:
    return Old(tmp_path / "checkout")


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("verify", ("verify", "old_series")),
        ("hypothesis list", ("hypothesis", "list", "old_series")),
        ("source list", ("source", "list", "old_series")),
        ("status", ("status", "old_series")),
        ("check", ("check", "old_series", "--closing")),
    ],
)
def test_it_is_read_as_it_was(old: Old, name: str, arguments: tuple[str, ...]) -> None:
    """The commands say of it what they said then."""
    expected = json.loads((CORPUS / "expected.json").read_text())["in a new repository"][name]["said"]
    answer = old.answer(*arguments)
    if name == "status":
        assert answer[0].pop("newer") == []
        assert [plan.pop("told") for plan in answer[0]["plans"]] == [[]]
        assert answer[0].pop("state")["stop"] == "Finished on 2026-11-29 by OLD-035."
    if name == "hypothesis list":
        # What names a hypothesis is evidence on it since.
        for row, then in zip(answer, expected, strict=True):
            assert set(then["evidence"]) <= set(row["evidence"])
            row["evidence"] = then["evidence"]
    if name == "verify":
        assert answer.pop("claims") == {"follow": 0, "by_older_rule": 44} and answer.pop("trust") == []
    if name == "check":
        # This version's head of a logbook says more, so that it is not current before a sync.
        current = next(line for line in answer["lines"] if line["name"] == "TL;DR current")
        assert not current["ok"] and current["mend"] == "research sync old_series"
        current |= next(line for line in expected["lines"] if line["name"] == "TL;DR current")
        answer["failed"] -= 1
    assert answer == expected


def test_every_record_is_encoded_as_it_was(old: Old) -> None:
    """A record that is read and stored again has the same bytes, and its details say all that was recorded."""
    known = old.journal.scan(old.root / ".agents" / "logbooks" / "old_series")
    assert known.problems == [] and known.newer == []
    stored = [*known.entries.values(), *known.trials.values(), *known.interrupted.values()]
    assert len(stored) > 50
    for kept in stored:
        assert store_record(kept.record).line == kept.line
        if isinstance(kept.record, EntryRecord):
            assert plain_details(kept.record.details) == kept.record.config


def test_it_is_gone_on_with(old: Old) -> None:
    """A new entry is appended; no byte of what was there changes, and all of it verifies."""
    before, logbook = old.bytes(), old.root / ".agents" / "logbooks" / "old_series.md"
    log = logbook.read_bytes().partition(b"<!-- research-steps end of living part -->")[2]
    done = old.run(*RESEARCH, "note", "OLD-011", "--interpretation", "read by a later version")
    assert done.returncode == 0, done.stderr
    after = old.bytes()
    assert {name: after.get(name) for name in before} == before
    assert logbook.read_bytes().partition(b"<!-- research-steps end of living part -->")[2].startswith(log)
    assert "OLD-037" in logbook.read_text() and old.answer("verify", "old_series")["problems"] == []


def test_a_rerun_finds_everything_done(old: Old) -> None:
    """Under the recorded conditions no step runs and nothing is measured again. What was left open there is ended."""
    old.journal.attempts.end_orphaned()
    trial = next(stored.record for stored in old.journal.scan().trials.values() if stored.record.mode == "executor")
    made = {name: getattr(trial.provenance, name) for name in ("packages", "env", "python")}
    before = old.bytes()
    done = old.run(sys.executable, "-c", RERUN, json.dumps({**made, "device_class": trial.device_class}))
    assert done.returncode == 0, done.stderr
    after = old.bytes()
    changed = {name for name in {*after, *before} if after.get(name) != before.get(name)}
    # By the first the time is read that the store counts by; by the other git leaves the journal alone.
    assert {Path(name).name for name in changed} <= {"clock", ".gitignore"}
