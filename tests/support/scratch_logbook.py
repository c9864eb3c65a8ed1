"""A checkout with a real git repository, a store and a series, and the records that a thread would leave there."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from research_steps.git import Checkout
from research_steps.journal.journal import Journal
from research_steps.journal.logbook_place import logbook_of
from research_steps.journal.store import open_store
from research_steps.publish.logbook import format as logbook_format
from research_steps.publish.logbook.merge import rebuild
from research_steps.publish.logbook.numbers import CheckoutNumbers
from research_steps.publish.logbook.surface import LogbookSurface
from research_steps.publish.logbook.verify import check, read
from research_steps.publish.publisher import Published, publish
from research_steps.records.encoding import Stored, sha256
from research_steps.records.model import Actor, EntryRecord, Error, Provenance, Ratio, Row, TrialRecord
from research_steps.records.series import Metric, Series
from research_steps.records.times import utc

SERIES = Series(topic="toy", prefix="TOY", goal="see it published", metrics=(Metric("time_s", "min"),))
PROVENANCE = Provenance(
    command="python -m experiments.toy",
    actor=Actor(name="A Person", kind="person"),
    commit="c" * 40,
    branch="main",
    patch=None,
    patch_note="",
    host="here",
    python="3.11.0",
    packages={},
    env={},
)


class Desk:
    """One checkout, and the store that its threads use."""

    def __init__(self, root: Path, store: Path) -> None:
        self.root = root
        self.checkout = Checkout.find(root)
        self.store = store
        self.journal = Journal(open_store(str(store)), SERIES.topic)
        self.path = logbook_of(self.checkout, SERIES.topic).path
        self.surface = LogbookSurface(self.checkout, self.journal, SERIES)

    @staticmethod
    def make(where: Path, attributes: str = "") -> "Desk":
        """A new repository with one commit, and an empty store."""
        root = where / "checkout"
        root.mkdir(parents=True)
        git(root, "init", "--quiet", "--initial-branch=main")
        git(root, "config", "user.name", "A Person")
        git(root, "config", "user.email", "person@example.org")
        (root / ".gitattributes").write_text(f"* -text\n{attributes}\n")
        git(root, "add", "--all")
        git(root, "commit", "--quiet", "--message", "start")
        return Desk(root, where / "store")

    def with_store(self, name: str) -> "Desk":
        """The same checkout with another store, as on another machine."""
        return Desk(self.root, self.store.with_name(name))

    def git(self, *arguments: str) -> str:
        return git(self.root, *arguments)

    def commit(self, message: str = "state") -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", message)

    def merge(self, branch: str) -> bool:
        """Merge a branch; False when git stops at a conflict."""
        done = subprocess.run(["git", "merge", "--quiet", "--no-edit", branch], cwd=self.root, capture_output=True)
        return done.returncode == 0

    def record(self, label: str = "a step", trials: int = 1, **changes: Any) -> Stored[EntryRecord]:
        """Let a step claim an ID, measure and end: what a driver does, without the measurement."""
        # Branches and stores stand for the checkouts of several people, of which none knows what another was given.
        (self.checkout.private / "numbers" / SERIES.topic).unlink(missing_ok=True)
        numbers = CheckoutNumbers(self.checkout, SERIES.topic, SERIES.prefix)
        step_key = f"toy/{os.urandom(8).hex()}"
        id = self.journal.ids.reserve(SERIES.prefix, step_key, numbers)
        rows = tuple(self._measure(f"{id}.{index:02d}") for index in range(1, trials + 1))
        with self.journal.attempts.begin("entry", id, 0, id=id, label=label, config={}) as begun:
            assert begun
            return self.journal.attempts.finish(
                "entry", entry(id, **{"step_key": step_key, "label": label, "rows": rows, **changes})
            )

    def _measure(self, id: str) -> Row:
        key = sha256(f"{id} {os.urandom(8).hex()}".encode())
        with self.journal.attempts.begin("trial", key, 0, id=id, label=id, config={}) as begun:
            assert begun
            return row(self.journal.attempts.finish("trial", trial(id, key)))

    def publish(self, final: bool = True) -> Published:
        """One pass of the logbook, by a publisher that has seen nothing before."""
        return publish(self.journal, [LogbookSurface(self.checkout, self.journal, SERIES)], final)

    def sync(self) -> tuple[bool, Published]:
        """What `research sync` does."""
        return rebuild(self.checkout, SERIES.topic), self.publish()

    def problems(self, journal: bool = True) -> list[str]:
        """What `research verify` names."""
        fresh = Journal(open_store(str(self.store)), SERIES.topic)
        return check(read(self.checkout, SERIES.topic), fresh if journal else None).problems

    @property
    def data(self) -> bytes:
        return self.path.read_bytes()

    @property
    def ids(self) -> list[str]:
        """The experiment IDs of the logbook's entries, in order."""
        return [entry.id for entry in logbook_format.parse(self.data).entries]

    @property
    def labels(self) -> list[str]:
        """What the headings of the logbook's entries say, in order."""
        lines = self.data.decode("utf-8", "replace").splitlines()
        headings = [line for line in lines if line.startswith("### ") and " - " in line]
        return [heading.partition(" - ")[2].partition(" ")[2] for heading in headings]

    def records(self, id: str) -> list[bytes]:
        return (self.path.with_suffix("") / f"{id}.jsonl").read_bytes().splitlines()


def git(where: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=where, capture_output=True, text=True, check=True)
    return done.stdout


def entry(id: str, **changes: Any) -> EntryRecord:
    now = utc()
    values: dict[str, Any] = {
        "series": SERIES.topic, "key": id, "attempt": 0, "id": id, "step": "sweep",
        "step_key": f"toy/{id}", "label": "a step", "hypothesis": "", "started_at": now, "finished_at": now,
        "status": "ok", "mode": "executor", "config": {"measure": "experiments.toy.measure:measure"}, "rows": (),
        "inputs": (), "result": "measured", "interpretation": "", "next_action": "", "error": None,
        "provenance": PROVENANCE,
    }  # fmt: skip
    return EntryRecord(**{**values, **changes})


def trial(id: str, key: str) -> TrialRecord:
    now = utc()
    return TrialRecord(
        series=SERIES.topic, key=key, attempt=0, id=id, label=id, started_at=now, finished_at=now,
        status="ok", mode="executor", measure="experiments.toy.measure:measure", code="0" * 64, config_type="Config",
        config={"work": 1}, baseline_config={"work": 2}, device_class="cpu", replicate=0, devices=(), samples=None,
        ratios={}, error=None, contended="", launch=None, provenance=PROVENANCE,
    )  # fmt: skip


def row(stored: Stored[TrialRecord], changes: Mapping[str, Any] | None = None, note: str = "") -> Row:
    return Row(
        trial=stored.ref, changes=dict(changes or {"work": 1}), replicate=0, status="ok", values={"time_s": 0.5},
        ratios={"time_s": Ratio(median=0.5, low=0.4, high=0.6, pairs=9)}, note=note, contended=False,
        measured_here=True,
    )  # fmt: skip


def error(message: str, *frames: str) -> Error:
    return Error(type="ValueError", message=message, frames=frames, where="step", output_tail="")
