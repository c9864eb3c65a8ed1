"""Reproducing a sealed tag: real repositories, real seals, and the commands run again from the tag."""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
from research_steps.errors import RepositoryError, ResearchError, UsageError
from research_steps.evidence.claims import remade
from research_steps.evidence.prediction import Repeat, common_shift, expected
from research_steps.git import Checkout
from research_steps.journal.journal import Journal
from research_steps.journal.snapshot import Snapshot
from research_steps.journal.store import open_store
from research_steps.publish.entry_writer import EntryWriter
from research_steps.publish.wandb.runs import run_id
from research_steps.publish.wandb.runs_on_disk import folder_of, runs_in
from research_steps.records.encoding import Stored
from research_steps.records.model import Claim, EntryRecord, Error, InterruptedRecord, Samples, TrialRecord
from research_steps.records.series import HERE, Metric, Series
from research_steps.seal.bundle import Bundle, SealedCommand, name_of, read
from research_steps.seal.bundle_text import tag_message
from research_steps.seal.reproduce.commands import runnable
from research_steps.seal.reproduce.reporting import report
from research_steps.seal.reproduce.rerun import Rerun, rerun
from research_steps.seal.reproduce.sandbox import add_measured, build_environment, variables
from research_steps.seal.reproduce.trusted import other_series
from research_steps.seal.tags import Paths, make_commit, make_tag, make_tree

from tests.support import records, toy_thread
from tests.support.ray_cluster import eventually
from tests.support.toy_thread import Repository, research

BODY = """
    base = steps.baseline(measure, Config())
    works = steps.sweep(base, ("work", [1000, 1001, 4000]))
    again = steps.replicate(works, n=3)
    steps.seal(steps.interpret(base, works, again))
"""
# A time that no other load changes, and that scatters by far less than counts, so that a second run reproduces the
# first; and what it rests on besides its own folder was edited, and added, at sealing.
MEASURE = """
import random
from dataclasses import dataclass
from tools.even import EVEN
from tools.odd import ODD


@dataclass(frozen=True)
class Config:
    work: int = 2000


def spend(work):
    return work * random.gauss(1, 0.002)


def measure(config):
    assert (ODD, EVEN) == ("edited", "new")
    while True:
        yield {"time_s": spend(config.work)}
"""
# One candidate takes half as long again, though its code is the same.
SLOW = """
import os, sys
from importlib.machinery import PathFinder

class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        spec = PathFinder.find_spec(name, path, target) if name == "experiments.toy.measure" else None
        if spec is not None:
            load = spec.loader.exec_module

            def exec_module(module):
                load(module)
                spend = module.spend
                module.spend = lambda work: spend(work) * (1.5 if str(work) == os.environ["SLOW_WORK"] else 1)

            spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Finder)
"""


@dataclass(frozen=True)
class Sealed:
    """A repository with a sealed tag."""

    repository: Repository
    tag: str

    @property
    def checkout(self) -> Checkout:
        return Checkout.find(self.repository.root)

    @property
    def bundle(self) -> Bundle:
        return read(self.checkout, self.tag)

    @property
    def desk(self) -> EntryWriter:
        journal = Journal(open_store(str(self.repository.root / "local_store")), "toy")
        return EntryWriter(self.checkout, journal, journal.series())

    @property
    def best(self) -> dict[str, Any]:
        return next(claim.changes for claim in self.bundle.claims if claim.confidence == "replicated")

    def state(self) -> dict[str, str]:
        """All that a reproduction must leave as it is."""
        git = self.repository.git
        asked = {
            "refs": ["for-each-ref"],
            "work trees": ["worktree", "list", "--porcelain"],
            "status": ["status", "--porcelain", "--untracked-files=all", "--", ".", ":(exclude).agents"],
            "stash": ["stash", "list"],
            "configuration": ["config", "--list", "--local"],
            "head": ["symbolic-ref", "HEAD"],
        }
        return {name: git(*arguments) for name, arguments in asked.items()}

    def light(self, main: str, files: Mapping[str, str] | None = None) -> Bundle:
        """The bundle as if it had sealed a thread that does only this, and needs no Marin, beside these other files."""
        commit = self.commit("HEAD", {"experiments/toy/__main__.py": main, **(files or {})})
        self.repository.git("update-ref", "refs/keep/light", commit)
        return msgspec.structs.replace(self.bundle, commit=commit, patch=None, measured=())

    def commit(self, base: str, files: Mapping[str, str]) -> str:
        """A commit upon another one that holds these files besides. Nothing that is checked out changes."""
        upon = self.repository.git("rev-parse", f"{base}^{{commit}}").strip()
        added = {name: text.encode() for name, text in files.items()}
        tree = make_tree(self.checkout, upon, Paths((), (), ()), added)
        return make_commit(self.checkout, tree, upon, "light", "1700000000 +0000")


@pytest.fixture(scope="module", autouse=True)
def no_secrets() -> Iterator[None]:
    """A reproduction tells which of the environment it leaves out: those of other tests' clusters are not meant here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_AUTH_TOKEN", raising=False)
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Sealed:
    """A thread that was sealed from a dirty tree on a branch that is gone; since then everything has changed."""
    root = tmp_path_factory.mktemp("sealed") / "checkout"
    root.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        main = toy_thread.MAIN.replace('"min")', '"min", timed=False)').replace("floor_processes=1", "floor_processes=3")
        patch.setattr(toy_thread, "MAIN", main)
        repository = Repository(root)
        repository.measure(MEASURE)
        repository.thread(BODY)
    tools = root / "tools"
    tools.mkdir()
    (tools / "odd.py").write_text("ODD = 'committed'\n")
    repository.commit()
    repository.git("switch", "--quiet", "--create", "trial")
    repository.git("commit", "--quiet", "--allow-empty", "--message", "on a branch")
    (tools / "odd.py").write_text("ODD = 'edited'\n")
    (tools / "even.py").write_text("EVEN = 'new'\n")
    done = repository.run("--seal", "true", "--prefix", str(root / "local_store"))
    assert done.code == 0, done.output
    (tag,) = repository.git("tag").split()
    repository.git("switch", "--quiet", "--force", "main")
    (tools / "even.py").unlink()
    repository.git("branch", "--quiet", "--delete", "--force", "trial")
    repository.measure(MEASURE.replace("0.002", "0.004"))
    repository.thread("    raise SystemExit('this thread is another one now')")
    repository.git("commit", "--quiet", "--all", "--message", "gone on")
    return Sealed(repository, tag)


def copy_of(made: Sealed, where: Path) -> Sealed:
    shutil.copytree(made.repository.root, where, symlinks=True)
    repository = object.__new__(Repository)
    repository.root, repository.experiment = where, where / "experiments" / "toy"
    return Sealed(repository, made.tag)


@pytest.fixture
def sealed(made: Sealed, tmp_path: Path) -> Sealed:
    return copy_of(made, tmp_path / "checkout")


@dataclass(frozen=True)
class Again:
    """What the commands did when they were run again, and what they were said to do."""

    run: Rerun
    messages: list[str]


@pytest.fixture(scope="module")
def again(made: Sealed, tmp_path_factory: pytest.TempPathFactory) -> Again:
    sealed = copy_of(made, tmp_path_factory.mktemp("again") / "checkout")
    before, messages = sealed.state(), list[str]()
    files = {path: path.read_bytes() for path in sealed.repository.root.rglob("*") if path.is_file()}
    run = rerun(sealed.checkout, sealed.bundle, True, messages.append)
    assert sealed.state() == before
    now = {path: path.read_bytes() for path in sealed.repository.root.rglob("*") if path.is_file()}
    outside = {path for path, data in now.items() if files.get(path) != data and ".git" not in path.parts}
    assert not outside and not files.keys() - now.keys(), outside
    return Again(run, messages)


def entry_of(sealed: Sealed, id: str) -> dict[str, Any]:
    done = research(sealed.repository.root, "show", id, "--json")
    assert done.returncode == 0, done.stderr
    entry: dict[str, Any] = json.loads(done.stdout)[0]
    return entry


def judged(sealed: Sealed, again: Rerun) -> EntryRecord:
    """The entry of an outcome."""
    return report(sealed.desk, sealed.bundle, again).record


def changed(again: Rerun, change: Callable[[TrialRecord], TrialRecord | InterruptedRecord]) -> Rerun:
    """The run as it would have been, had its trials ended so; by the same rules."""
    fresh = Snapshot()
    for trial in again.fresh.trials.values():
        fresh.add(Stored(change(trial.record), trial.line))
    for sha, entry in again.fresh.entries.items():
        claims = remade(again.series, fresh, entry.record.claims or (), frozenset())
        fresh.entries[sha] = Stored(msgspec.structs.replace(entry.record, claims=claims), entry.line)
    return replace(again, fresh=fresh)


def sealed_as(again: Rerun, change: Callable[[TrialRecord], TrialRecord]) -> Rerun:
    """The run, had the trials that were sealed ended so."""
    trials = {sha: Stored(change(trial.record), trial.line) for sha, trial in again.sealed.trials.items()}
    return replace(again, sealed=Snapshot(entries=again.sealed.entries, trials=trials))


def of_candidate(
    change: Callable[[TrialRecord], TrialRecord | InterruptedRecord],
) -> Callable[[TrialRecord], TrialRecord | InterruptedRecord]:
    return lambda trial: change(trial) if trial.config["work"] in (1000, 1001) else trial


def slower(share: float) -> Callable[[TrialRecord], TrialRecord | InterruptedRecord]:
    def change(trial: TrialRecord) -> TrialRecord:
        assert trial.samples is not None
        times = {name: [value * (1 + share) for value in values] for name, values in trial.samples.candidate.items()}
        return msgspec.structs.replace(trial, samples=msgspec.structs.replace(trial.samples, candidate=times))

    return of_candidate(change)


# -- as it is -------------------------------------------------------------------------------------------------------


def test_a_tag_is_measured_again_as_it_was_sealed(made: Sealed, again: Again, sealed: Sealed) -> None:
    """Branch gone, thread rewritten, edits reverted: the tag alone says what to run, and nothing here changes."""
    run = again.run
    assert run.details.exits == (0,)
    assert run.details.commands == ("python -m experiments.toy --seal true",), "without the store that it named"
    assert again.messages == [f"running {run.details.commands[0]}"]
    steps = sorted(entry.record.step for entry in run.fresh.entries.values())
    assert steps == ["baseline", "interpret", "replicate", "seal", "sweep"]
    for trial in run.fresh.trials.values():
        assert trial.record.error is None
        assert trial.record.provenance.commit == sealed.bundle.commit
        assert trial.record.provenance.patch == sealed.bundle.patch is not None
    before = sealed.state()
    told = judged(sealed, run)
    assert sealed.state() == before
    assert told.config["outcome"] == "reproduced", told.result
    assert told.inputs == (sealed.bundle.seal,)
    assert [row.trial.id for row in told.rows] == [f"{told.id}.0{number}" for number in range(1, 8)]


def test_the_outcome_is_an_entry_like_any_other(again: Again, sealed: Sealed) -> None:
    """Logbook, issue, W&B and checks take it, and what was there before stays as it was."""
    root = sealed.repository.root
    old = sealed.repository.logbook.partition("## Experiment Log")[2]
    # The plot shows what is claimed now.
    files = [path for path in (root / ".agents" / "logbooks" / "toy").iterdir() if path.suffix != ".svg"]
    contents = {path: path.read_bytes() for path in files}
    told = judged(sealed, again.run)
    done = research(root, "sync", "toy", "--json", WANDB_MODE="offline")
    assert done.returncode == 0 and not json.loads(done.stdout)["problems"], done.stderr
    assert sealed.repository.logbook.partition("## Experiment Log")[2].startswith(old)
    assert all(path.read_bytes() == data for path, data in contents.items())
    assert f"{told.id} TOY-005 reproduced" in sealed.repository.logbook
    issue = (root / ".agents" / "issues" / "toy.md").read_text()
    assert issue.count(f"Update: {told.id} ") == 1 and told.result in issue
    assert {run_id(row.trial.sha256) for row in told.rows} <= runs_in(folder_of(sealed.checkout, "toy")).keys()
    assert sealed.repository.git("tag").split() == [sealed.tag]
    for command in (["verify", "toy"], ["status", "toy"], ["show", told.id]):
        shown = research(root, *command)
        assert shown.returncode == 0, (command, shown.stdout, shown.stderr)
    lines = json.loads(research(root, "check", "toy", "--json").stdout)["lines"]
    assert lines and [f"{line['name']}: {line['found']}" for line in lines if not line["ok"]] == []


def test_the_claim_rests_on_fresh_trials(again: Again, sealed: Sealed) -> None:
    """It is one more look: the fresh processes, with those that replicated the candidate before it was sealed; the one
    that chose it counts neither then nor now but by being asked whether it agrees."""
    told = judged(sealed, again.run)
    (claim,) = told.claims or ()
    assert claim.changes == sealed.best and (claim.processes, claim.confirmation, claim.look) == (7, 1, 2)
    assert {ref.id.partition(".")[0] for ref in claim.trials} == {"TOY-003", told.id}
    before = {ref.sha256 for ref in claim.also}
    assert before and before <= {ref.sha256 for ref in sealed.bundle.records}
    assert claim.confidence == "replicated"
    assert told.interpretation == (
        f"work={sealed.best['work']} was sealed as improved, replicated, and is improved, replicated now."
    )


# -- the outcome by rule --------------------------------------------------------------------------------------------


def test_a_slower_kernel_is_not_reproduced(again: Again, sealed: Sealed) -> None:
    """It says what was sealed, what it is now and what was expected; and nothing counts as replicated by that."""
    told = judged(sealed, changed(again.run, slower(0.8)))
    assert told.config["outcome"] == "not reproduced"
    assert "expected: " in told.result and "outside of what was expected of 4 processes" in told.result
    (claim,) = told.claims or ()
    assert (claim.verdict, claim.confidence) == ("inconclusive", "exploratory"), "with what was sealed it is unclear"
    assert claim.why.startswith("not reproduced: ")
    assert told.interpretation.endswith("was sealed as improved, replicated, and is inconclusive now.")


@pytest.mark.parametrize(
    "share, outcome, confidence", [(0, "reproduced", "replicated"), (0.8, "not reproduced", "exploratory")]
)
def test_a_reproduced_exploratory_claim_is_replicated(
    again: Again, sealed: Sealed, share: float, outcome: str, confidence: str
) -> None:
    """One process was sealed, and fresh ones agree with it or don't."""
    run = again.run
    sweep = next(entry.record for entry in run.sealed.entries.values() if entry.record.step == "sweep")
    bundle = msgspec.structs.replace(sealed.bundle, claims=sweep.claims)
    assert {claim.confidence for claim in bundle.claims} == {"exploratory"}
    told = report(sealed.desk, bundle, changed(run, slower(share))).record
    assert told.config["outcome"] == outcome, told.result
    assert {claim.confidence for claim in told.claims or ()} == {confidence}


def test_what_dev_mode_found_stays_exploratory(again: Again, sealed: Sealed) -> None:
    """However often it is reproduced."""
    told = judged(sealed, changed(again.run, lambda trial: msgspec.structs.replace(trial, mode="dev")))
    assert told.config["outcome"] == "reproduced", told.result
    assert {claim.confidence for claim in told.claims or ()} == {"exploratory"}


@pytest.mark.parametrize(
    "change, outcome, says",
    [
        (lambda trial: msgspec.structs.replace(trial, device_class="cpu/other/1"), "not comparable", "cpu/other/1 here"),
        (
            lambda trial: msgspec.structs.replace(
                trial, provenance=msgspec.structs.replace(trial.provenance, env={"XLA_FLAGS": "--x"})
            ),
            "not comparable",
            "XLA_FLAGS: None sealed, --x here",
        ),
        (
            of_candidate(
                lambda trial: msgspec.structs.replace(
                    trial,
                    status="failed",
                    samples=None,
                    error=Error(type="ValueError", message="no\nsuch", frames=(), where="candidate", output_tail=""),
                )
            ),
            "not reproduced",
            "it failed: ValueError: no",
        ),
    ],
    ids=["another machine", "another environment", "a failure"],
)
def test_what_can_not_be_compared_says_why(
    again: Again, sealed: Sealed, change: Callable[[TrialRecord], TrialRecord], outcome: str, says: str
) -> None:
    """Other conditions are told with both values; a failure under the same ones is an outcome."""
    told = judged(sealed, changed(again.run, change))
    assert told.config["outcome"] == outcome, told.result
    assert says in told.result
    if outcome == "not comparable":
        assert not told.claims


def test_a_timed_metric_that_was_disturbed_is_not_compared(again: Again, sealed: Sealed) -> None:
    """Nothing follows from what was measured beside other load."""
    timed = replace(again.run.series, metrics=(replace(again.run.series.primary, timed=True),))
    loaded = changed(
        replace(again.run, series=timed), lambda trial: msgspec.structs.replace(trial, contended="2 other processes")
    )
    told = judged(sealed, loaded)
    assert told.config["outcome"] == "not comparable"
    assert "2 other processes" in told.result and not told.claims


def test_a_candidate_that_was_not_measured_is_told_with_the_reason(again: Again, sealed: Sealed) -> None:
    """A baseline that fails ends the run, and the entry says both."""
    run = again.run
    fresh = Snapshot(trials=run.fresh.trials)
    for sha, entry in run.fresh.entries.items():
        if entry.record.step == "baseline":
            error = Error(type="ValueError", message="broken", frames=(), where="step", output_tail="")
            fresh.entries[sha] = Stored(msgspec.structs.replace(entry.record, status="failed", error=error), entry.line)
    told = judged(sealed, replace(run, fresh=fresh, details=msgspec.structs.replace(run.details, exits=(1,))))
    assert told.config["outcome"] == "not comparable"
    assert "the commands measured no such candidate this time (the baseline failed: ValueError: broken)" in told.result
    assert told.interpretation == f"'{run.details.commands[0]}' ended with exit code 1."


def test_an_order_that_turned_round_is_not_reproduced(again: Again, sealed: Sealed) -> None:
    """Within what was expected of it, and yet clearly behind another candidate that it was clearly ahead of."""
    run = again.run

    def change(trial: TrialRecord) -> TrialRecord:
        if trial.config["work"] != 4000 or trial.samples is None:
            return trial
        times = {name: [value / 20 for value in values] for name, values in trial.samples.candidate.items()}
        return msgspec.structs.replace(trial, samples=msgspec.structs.replace(trial.samples, candidate=times))

    told = judged(sealed, changed(run, change))
    assert told.config["outcome"] == "not reproduced"
    assert "its order with work=4000 has turned round" in told.result


def test_a_candidate_that_was_only_interrupted_is_not_comparable(again: Again, sealed: Sealed) -> None:
    """No trial of it ended, which says nothing about it."""

    def interrupted(trial: TrialRecord) -> InterruptedRecord:
        names = ("series", "key", "attempt", "id", "label", "started_at", "finished_at")
        kept = {name: getattr(trial, name) for name in names}
        return InterruptedRecord(subject="trial", reason="its launcher died", **kept)

    told = judged(sealed, changed(again.run, of_candidate(interrupted)))
    assert told.config["outcome"] == "not comparable", told.result
    assert not told.claims


def test_unpaired_trials_are_held_against_their_own_baseline(again: Again, sealed: Sealed) -> None:
    """On a machine that takes longer for both sides, the candidate is as much faster as it was."""

    def alone(seconds: float) -> Callable[[TrialRecord], TrialRecord]:
        def change(trial: TrialRecord) -> TrialRecord:
            share = {2000: 1.0, 4000: 2.0}.get(trial.config["work"], 0.9)
            time_s = seconds * share * (1 + (-0.001, 0.001, 0.0)[trial.replicate % 3])
            return with_samples(trial, Samples(paired=False, order="A", candidate={"time_s": [time_s]}, baseline={}))

        return change

    run = changed(sealed_as(again.run, alone(1.0)), alone(1.1))
    bundle = msgspec.structs.replace(sealed.bundle, claims=claims_of(sealed.bundle, run))
    told = report(sealed.desk, bundle, run).record
    assert told.config["outcome"] == "reproduced", told.result
    (claim,) = told.claims or ()
    assert (claim.verdict, claim.confidence) == ("improved", "replicated")
    assert claim.estimate == pytest.approx(0.9, abs=0.001)


# -- several claims at once -----------------------------------------------------------------------------------------

WORKS = (1000, 1001, 4000)
# What processes show that measure the baseline against itself.
SCATTER = (-0.05, 0.05, 0.0)


def with_samples(trial: TrialRecord, taken: Samples) -> TrialRecord:
    return msgspec.structs.replace(trial, samples=taken, ratios={})


def with_effect(taken: Samples, effect: float) -> Samples:
    """These samples, had each of the candidate's differed by exactly so much from the baseline's."""
    times = {name: [value * math.exp(effect) for value in values] for name, values in taken.baseline.items()}
    return msgspec.structs.replace(taken, candidate=times)


def claims_of(bundle: Bundle, run: Rerun) -> tuple[Claim, ...]:
    """The claims of a bundle, as they follow from what the run says was sealed."""
    return remade(run.series, run.sealed, bundle.claims, frozenset())


def moved(again: Rerun, shifts: Mapping[int, float]) -> Rerun:
    """The run, had the baseline scattered so both times, and candidates shown by their work alone how long they take;
    and now these effects besides."""

    def ended(shifts: Mapping[int, float]) -> Callable[[TrialRecord], TrialRecord]:
        def change(trial: TrialRecord) -> TrialRecord:
            work = trial.config["work"]
            effect = SCATTER[trial.replicate % 3] if work == 2000 else math.log(work / 2000) + shifts.get(work, 0.0)
            assert trial.samples is not None
            return with_samples(trial, with_effect(trial.samples, effect))

        return change

    series = replace(again.series, metrics=(replace(again.series.primary, min_effect=0.001),))
    return changed(sealed_as(replace(again, series=series), ended({})), ended(shifts))


def told_of_three(sealed: Sealed, run: Rerun) -> tuple[EntryRecord, dict[int, str]]:
    """The entry of an outcome that three replicated claims decide, and what it tells of each by its work."""
    claims = [msgspec.structs.replace(claim, confidence="replicated") for claim in claims_of(sealed.bundle, run)]
    assert sorted(claim.changes["work"] for claim in claims) == [*WORKS]
    told = report(sealed.desk, msgspec.structs.replace(sealed.bundle, claims=tuple(claims)), run).record
    outcomes = re.findall(r"work=(\d+): time_s .*?\): (not reproduced|reproduced)", told.result)
    return told, {int(work): outcome for work, outcome in outcomes}


def a_shift_that_only_all_three_tell() -> float:
    """In the middle between what they may have moved by together, and what the surest of them may have by itself."""
    metric, same = Metric("t", min_effect=0.001), records.samples([1.0], [1.0])
    floors = [[with_effect(same, effect) for effect in SCATTER] for _ in range(2)]
    # The best one was replicated three times, and now the process that chose it counts as well.
    alike = [Repeat([same] * before, [same] * now, *floors) for before, now in ((3, 4), (1, 1), (1, 1))]
    alone, together = min(expected(metric, repeat, alike).high for repeat in alike), common_shift(metric, alike)[1].high
    assert 1.05 * together < alone
    return (alone + together) / 2


def test_several_claims_are_reproduced_when_each_of_them_is(again: Again, sealed: Sealed) -> None:
    """Each is told by itself."""
    told, each = told_of_three(sealed, moved(again.run, {}))
    assert told.config["outcome"] == "reproduced", told.result
    assert each == dict.fromkeys(WORKS, "reproduced")


def test_several_claims_that_moved_together_are_not_reproduced(again: Again, sealed: Sealed) -> None:
    """Each by less than it may show alone, and all by more than they may have in common."""
    shift = a_shift_that_only_all_three_tell()
    told, each = told_of_three(sealed, moved(again.run, dict.fromkeys(WORKS, shift)))
    assert told.config["outcome"] == "not reproduced", told.result
    assert each == dict.fromkeys(WORKS, "not reproduced")
    assert told.result.count("all 3 of them together have moved by") == 3 and "outside of what" not in told.result


def test_one_of_several_claims_that_moved_does_not_speak_for_the_others(again: Again, sealed: Sealed) -> None:
    """It is not reproduced, and so what was sealed is not; the others are told to be."""
    told, each = told_of_three(sealed, moved(again.run, {4000: math.log(1.5)}))
    assert told.config["outcome"] == "not reproduced", told.result
    assert each == {1000: "reproduced", 1001: "reproduced", 4000: "not reproduced"}
    assert "together" not in told.result


# -- from the command line ------------------------------------------------------------------------------------------


def test_a_clone_with_nothing_but_the_tag_reproduces_it(made: Sealed, tmp_path: Path) -> None:
    """No store, no logbook on the branch: the entry gets the number after the tag's, and the logbook is sound."""
    where = tmp_path / "a clone"
    made.repository.git("clone", "--quiet", str(made.repository.root), str(where))
    repository = object.__new__(Repository)
    repository.root, repository.experiment = where, where / "experiments" / "toy"
    clone = Sealed(repository, made.tag)
    before = clone.state()
    secret = {"RESEARCH_ACTOR": "agent:tester", "HF_TOKEN": "a-token-of-somebody"}
    done = research(where, "reproduce", made.tag, "--here", "--json", **secret)
    assert done.returncode == 0, done.stderr
    for line in (
        "neither the store nor the logbook here names its commit: that it was sealed so rests on whoever gave it\n",
        "not in its environment, because they are secrets by their names or values: HF_TOKEN\n",
        "running python -m experiments.toy --seal true\n",
    ):
        assert f"{made.tag}: {line}" in done.stderr
    told = json.loads(done.stdout)
    assert told["outcome"] == "reproduced", told
    assert told["entry"] == "TOY-006" and not told["problems"]
    assert clone.state() == before
    entry = entry_of(clone, "TOY-006")
    assert entry["config"]["outcome"] == told["outcome"]
    assert entry["provenance"]["actor"] == {"name": "tester", "kind": "agent"}
    verified = research(where, "verify", "toy")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    patch = where / ".agents" / "logbooks" / "toy" / f"{made.bundle.patch}.patch"
    assert patch.is_file(), "the fresh trials name it"


def test_a_kernel_that_got_slower_is_found_from_the_command_line(sealed: Sealed, tmp_path: Path) -> None:
    """Neither code nor environment differ, only the time; the candidate that was sealed is measured again, though now
    another one is best."""
    (tmp_path / "slow").mkdir()
    (tmp_path / "slow" / "sitecustomize.py").write_text(SLOW)
    changes = {"PYTHONPATH": str(tmp_path / "slow"), "SLOW_WORK": str(sealed.best["work"])}
    done = research(sealed.repository.root, "reproduce", sealed.tag, "--here", **changes)
    assert done.returncode == 3, done.stderr
    assert done.stdout.startswith(f"{sealed.tag}: not reproduced. "), done.stdout + done.stderr
    entry = entry_of(sealed, "TOY-006")
    assert [row["changes"] for row in entry["rows"][:3]] == [sealed.best] * 3
    (claim,) = entry["claims"]
    assert claim["confidence"] == "exploratory"


@pytest.mark.parametrize("tag", ["toy/TOY-004", "v1", "plain"])
def test_what_is_no_seal_is_refused_in_a_sentence(sealed: Sealed, tag: str) -> None:
    """An entry that is no seal, a tag that is not there, and one of people."""
    sealed.repository.git("tag", "plain")
    done = research(sealed.repository.root, "reproduce", tag, "--here")
    assert done.returncode == 1
    assert "expected a tag that a seal made" in done.stderr and "Traceback" not in done.stderr


def test_the_bundle_of_another_version_is_refused_in_a_sentence(sealed: Sealed) -> None:
    """Which says that a version that reads it is needed."""
    git, path = sealed.repository.git, sealed.repository.root / name_of("toy", "TOY-009", "bundle.json")
    old = {**json.loads(git("show", f"{sealed.tag}:{name_of('toy', 'TOY-005', 'bundle.json')}")), "schema": 1}
    del old["series"]
    path.write_text(json.dumps(old))
    git("add", "--force", str(path))
    git("commit", "--quiet", "--message", "old")
    git("tag", "toy/TOY-009")
    done = research(sealed.repository.root, "reproduce", "toy/TOY-009", "--here")
    assert done.returncode == 1
    assert "made by another version" in done.stderr and "Traceback" not in done.stderr


# -- the tag is checked first ---------------------------------------------------------------------------------------


def forged(sealed: Sealed, change: Callable[[dict[str, Any]], Any]) -> None:
    """The tag moved to a commit whose bundle was changed, with the message that follows from it."""
    name = name_of("toy", "TOY-005", "bundle.json")
    bundle = json.loads(sealed.checkout.file_at(sealed.tag, name))
    change(bundle)
    # Somebody who looks closely writes the message anew, too.
    data = json.dumps(bundle)
    commit = sealed.commit(sealed.tag, {name: data})
    made = msgspec.json.decode(data, type=Bundle)
    sealed.repository.git("tag", "--delete", sealed.tag)
    series = msgspec.convert(made.series, Series)
    make_tag(sealed.checkout, made, commit, tag_message(made, series), "1700000000 +0000")


def rewrite(**fields: Any) -> Callable[[dict[str, Any]], None]:
    def change(bundle: dict[str, Any]) -> None:
        for claim in bundle["claims"]:
            claim |= fields

    return change


def other_metric(bundle: dict[str, Any]) -> None:
    bundle["series"]["metrics"][0]["direction"] = "max"


@pytest.mark.parametrize(
    "change, says",
    [
        (
            rewrite(estimate=0.1),
            r"its bundle claims work=1000: time_s 0\.100 × .*: no entry that it rests on makes this",
        ),
        (rewrite(confidence="stable"), "improved, stable, .*: what it rests on does not make it so sure"),
        (lambda bundle: bundle["claims"].pop(), "its bundle leaves out 1 of the claims that its records make"),
        (
            lambda bundle: bundle["commands"].append({"command": "python -m timeit", "entries": ["TOY-001"]}),
            "its bundle names other commands than its records",
        ),
        (
            lambda bundle: bundle.update(commit="0" * 40),
            "its bundle says that it was measured at 000000000000, and its records",
        ),
        (other_metric, "its claim work=.*: its trials say .*regressed"),
    ],
    ids=["estimate", "confidence", "left out", "command", "commit", "direction"],
)
def test_a_changed_bundle_is_refused_before_anything_runs(
    sealed: Sealed, tmp_path: Path, change: Callable[[dict[str, Any]], Any], says: str
) -> None:
    """One sentence names what differs, in a clone that has nothing else; nothing is measured, no outcome recorded."""
    forged(sealed, change)
    clone = tmp_path / "clone"
    sealed.repository.git("clone", "--quiet", str(sealed.repository.root), str(clone))
    done = research(clone, "reproduce", sealed.tag, "--here")
    assert done.returncode == 1 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert re.search(rf"tag {sealed.tag}: .*{says}", line) and "So nothing of it is measured" in line, line
    assert not (clone / "local_store").exists() and not (clone / ".agents" / "logbooks" / "toy.md").exists()
    told = research(sealed.repository.root, "verify", "toy", "--tag", sealed.tag)
    assert told.returncode == 1 and f"tag {sealed.tag} names " in told.stdout


def test_a_bundle_of_another_series_is_refused(sealed: Sealed) -> None:
    """Nothing of it is read further."""
    forged(sealed, lambda bundle: bundle["series"].update(topic="other"))
    done = research(sealed.repository.root, "reproduce", sealed.tag, "--here")
    assert done.returncode == 1 and "its bundle can't be read" in done.stderr
    assert "is the series other, expected toy" in done.stderr


def test_a_tag_that_was_moved_is_refused_where_its_commit_is_known(sealed: Sealed) -> None:
    """By the store, or by the logbook alone: whatever else of it agrees, with a tagger and a message as they were."""
    forged(sealed, lambda bundle: bundle.update(branch="another"))
    store = sealed.repository.root / "local_store" / "journal" / "toy" / "seals"
    for known in ("by the store", "by the logbook"):
        done = research(sealed.repository.root, "reproduce", sealed.tag, "--here")
        assert done.returncode == 1 and f"tag {sealed.tag} names " in done.stderr, (known, done.stderr)
        shutil.rmtree(store, ignore_errors=True)
    assert "TOY-006" not in sealed.repository.logbook


def test_a_thread_that_is_not_that_of_the_bundle_is_refused(again: Again, sealed: Sealed) -> None:
    """What the thread of the tag declares is what the claims are about."""
    metric = replace(again.run.series.primary, direction="max")
    assert other_series(again.run.series, again.run.series) == []
    (differs,) = other_series(again.run.series, replace(again.run.series, metrics=(metric,)))
    assert differs == "its series has time_s ('min', None), and here ('max', None)"


# -- the commands ---------------------------------------------------------------------------------------------------


def with_commands(bundle: Bundle, *commands: str) -> Bundle:
    return msgspec.structs.replace(bundle, commands=tuple(SealedCommand(command, ("TOY-001",)) for command in commands))


def test_only_the_thread_of_the_tag_is_run_again(sealed: Sealed) -> None:
    """With the options of each command that ran it, once, without the places that they named, and measuring all of it;
    whatever else a record says that was run is told, and is not run."""
    bundle = with_commands(
        sealed.bundle,
        "python -m experiments.toy --prefix 's3://a b' --seal true",
        "python -m experiments.toy --seal true --executor-info-base-path=/x --skip_known true --config_path=/y",
        "python -m experiments.toy --dev true --set work=1",
        "research replicate TOY-002",
        "python -m research_steps confirm TOY-002.01",
        "python -m timeit -n1 -r1 pass",
        "python -m experiments.other",
        "python -m experiments.toy.measure",
        "python -m 'unbalanced",
    )
    commands, others = runnable(bundle)
    assert commands == [["python", "-m", "experiments.toy", "--seal", "true"]]
    assert others == [command.command for command in bundle.commands[2:]]
    with pytest.raises(UsageError, match=r"rests on no command that runs its thread \(research replicate TOY-002\)"):
        runnable(with_commands(sealed.bundle, "research replicate TOY-002"))


def test_what_a_record_says_that_was_run_is_not_run(sealed: Sealed, tmp_path: Path) -> None:
    """Neither a module of Python beside the thread, nor a word that the thread does not know: it refuses that itself."""
    planted = tmp_path / "planted"
    write = f"open({str(planted)!r}, 'w')"
    main = "from research_steps import Metric, Series, main\n"
    main += "main(Series('toy', 'TOY', 'goal', (Metric('time_s'),)), lambda steps: None)\n"
    bundle = with_commands(
        sealed.light(main), f'python -m timeit -n1 -r1 "{write}"', "python -m experiments.toy --evil 1"
    )
    messages: list[str] = []
    with pytest.raises(ResearchError, match=r"recorded nothing \(exit 2; "):
        rerun(sealed.checkout, bundle, True, messages.append)
    assert messages[0].startswith("not run, because it does not run the thread: python -m timeit ")
    assert messages[-1] == "running python -m experiments.toy --evil 1" and not planted.exists()
    with pytest.raises(UsageError, match="rests on no command that runs its thread"):
        rerun(sealed.checkout, with_commands(bundle, f'python -m timeit "{write}"'), True, messages.append)
    assert not planted.exists()


def test_commands_that_record_nothing_leave_no_entry(sealed: Sealed) -> None:
    """One sentence says so, and nothing of the attempt stays."""
    before = sealed.state()
    bundle = sealed.light("raise SystemExit(3)")
    with pytest.raises(ResearchError, match=r"recorded nothing \(exit 3; what they printed"):
        rerun(sealed.checkout, bundle, True, lambda line: None)
    after = sealed.state()
    after["refs"] = "".join(line for line in after["refs"].splitlines(keepends=True) if "refs/keep" not in line)
    assert after == before


def test_a_seal_without_an_estimate_is_refused_before_anything_runs(sealed: Sealed) -> None:
    """Where every candidate failed there is nothing to measure again."""
    bundle = msgspec.structs.replace(sealed.bundle, claims=())
    messages: list[str] = []
    with pytest.raises(UsageError, match="no estimate of time_s for any candidate"):
        rerun(sealed.checkout, bundle, True, messages.append)
    assert messages == []


def test_another_machine_is_told_before_anything_runs(sealed: Sealed) -> None:
    """Where none of the sealed trials ran on such a one, so that hours of measuring are not for nothing."""
    here = sealed.light("")
    (machine,) = here.hardware
    messages: list[list[str]] = []
    for kind in (machine, msgspec.structs.replace(machine, device_class="tpu/v5p/4")):
        messages.append([])
        with pytest.raises(ResearchError, match="recorded nothing"):
            rerun(sealed.checkout, msgspec.structs.replace(here, hardware=(kind,)), True, messages[-1].append)
    told = f"sealed on tpu/v5p/4, and this machine is {machine.device_class}: what it measures can't be compared"
    assert messages[1] == [told, *messages[0]]


def test_what_decides_a_result_is_as_it_was_sealed(
    sealed: Sealed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Variables of the sealed run, none of those here; places, and what is nobody's business, as they are here."""
    here = {
        "XLA_FLAGS": "--here", "OMP_NUM_THREADS": "7", "CUDA_VISIBLE_DEVICES": "3", "MARIN_PREFIX": "s3://mine",
        "RAY_ADDRESS": "ray://somewhere", "RESEARCH_CHOICES": "/nowhere", "WANDB_MODE": "online", "MINE": "kept",
    }  # fmt: skip
    for name, value in here.items():
        monkeypatch.setenv(name, value)
    out = tmp_path / "environment.json"
    main = WRITES_ENVIRONMENT.format(str(out))
    sealed_there = {"XLA_FLAGS": "--sealed", "CUDA_VISIBLE_DEVICES": "0", "MARIN_PREFIX": "s3://theirs"}
    bundle = msgspec.structs.replace(sealed.light(main), environment=sealed_there)
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    with pytest.raises(ResearchError, match="recorded nothing"):
        rerun(sealed.checkout, bundle, True, lambda line: None)
    environment = json.loads(out.read_text())
    assert environment["XLA_FLAGS"] == "--sealed" and "OMP_NUM_THREADS" not in environment
    assert (
        environment["CUDA_VISIBLE_DEVICES"] == "3"
        and environment["MINE"] == "kept"
        and environment["WANDB_MODE"] == "disabled"
    )
    assert "RAY_ADDRESS" not in environment
    assert environment["MARIN_PREFIX"].endswith("/store") and environment["RESEARCH_CHOICES"].endswith("/choices.json")


WRITES_ENVIRONMENT = "import json, os\njson.dump(dict(os.environ), open({!r}, 'w'))\n"


def test_no_secret_is_in_its_environment(sealed: Sealed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither by its name, nor by its value under an innocent one; each is named in one line, and what it is nowhere."""
    here = {
        "HF_TOKEN": "a-token-of-somebody", "MY_API_KEY": "k", "HARMLESS": f"ghp_{'a1B2' * 9}",
        "INDEX": "https://somebody:password-1@example.org/simple", "MINE": "kept",
    }  # fmt: skip
    for name, value in here.items():
        monkeypatch.setenv(name, value)
    out, messages = tmp_path / "environment.json", list[str]()
    with pytest.raises(ResearchError, match="recorded nothing"):
        rerun(sealed.checkout, sealed.light(WRITES_ENVIRONMENT.format(str(out))), True, messages.append)
    environment = json.loads(out.read_text())
    assert environment["MINE"] == "kept" and not {name for name in here if name != "MINE"} & environment.keys()
    (told,) = [line for line in messages if line.startswith("not in its environment")]
    for name, value in here.items():
        assert (name in told) == (name != "MINE")
        assert not [
            line for line in (*messages, *environment.values()) if name != "MINE" and len(value) > 1 and value in line
        ]


# -- killed, stopped, at once ---------------------------------------------------------------------------------------

ONE = """
import sys
from pathlib import Path
from research_steps.git import Checkout
from research_steps.seal.reproduce.rerun import rerun
from research_steps.seal.bundle import Bundle
import msgspec
rerun(Checkout.find(), msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Bundle), True, print)
"""
# A process that its command has started, and that outlives it.
LEAVES = "import os, time\nif os.fork() == 0:\n    open({!r}, 'a').write(f'{{os.getpid()}}\\n')\ntime.sleep(60)\n"
WAITS = "import os, time\nopen({!r}, 'a').write(f'{{os.getpid()}}\\n')\ntime.sleep(60)\n"


@contextmanager
def started(
    sealed: Sealed, tmp_path: Path, number: int = 1, command: str = WAITS
) -> Iterator[tuple["subprocess.Popen[bytes]", list[int]]]:
    """A reproduction whose command waits, in a process of its own; and the processes of all such commands. It ends with
    the block, and so does its command."""
    pids, bundle = tmp_path / "pids", tmp_path / "bundle.json"
    if number == 1:
        bundle.write_bytes(msgspec.json.encode(sealed.light(command.format(str(pids)))))
    reproduce = [sys.executable, "-c", ONE, str(bundle)]
    process = subprocess.Popen(reproduce, cwd=sealed.repository.root, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        deadline = time.monotonic() + 60
        while not pids.exists() or pids.read_text().count("\n") < number:
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.05)
        yield process, list(map(int, pids.read_text().split()))
    finally:
        # Its command is of the same group, and outlives it.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def trees(sealed: Sealed) -> int:
    return sealed.repository.git("worktree", "list", "--porcelain").count("worktree ") - 1


def test_what_a_killed_one_left_is_removed_by_the_next(sealed: Sealed, tmp_path: Path) -> None:
    """But not while something of it still runs there."""
    with started(sealed, tmp_path, command=LEAVES) as (process, (left_over,)):
        process.kill()
        process.wait()
        listed = sealed.repository.git("worktree", "list", "--porcelain").splitlines()
        left = Path(next(line for line in listed if "research-reproduce-" in line).removeprefix("worktree ")).parent
        assert left.is_dir()
        quick = sealed.light("pass")
        with pytest.raises(ResearchError, match="recorded nothing"):
            rerun(sealed.checkout, quick, True, lambda line: None)
        os.kill(left_over, 0)
        assert left.is_dir() and trees(sealed) == 1, "something that its command has started still runs"
    deadline = time.monotonic() + 10
    while left.is_dir() and time.monotonic() < deadline:
        with pytest.raises(ResearchError, match="recorded nothing"):
            rerun(sealed.checkout, quick, True, lambda line: None)
    assert not left.exists() and trees(sealed) == 0


def test_a_killed_one_takes_its_command_with_it(sealed: Sealed, tmp_path: Path) -> None:
    """It measures no longer for nobody."""
    with started(sealed, tmp_path) as (process, (command,)):
        measuring = psutil.Process(command)
        process.kill()
        process.wait()
        # Who has it then need not ask how it ended.
        eventually(lambda: not measuring.is_running() or measuring.status() == psutil.STATUS_ZOMBIE, 10)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_two_at_once_and_what_ends_them(sealed: Sealed, tmp_path: Path, number: signal.Signals) -> None:
    """Each has its own folder; who stops one ends its command and leaves nothing."""
    with started(sealed, tmp_path) as (first, _), started(sealed, tmp_path, 2) as (other, commands):
        assert trees(sealed) == 2
        for process, left in ((first, 1), (other, 0)):
            process.send_signal(number)
            assert process.wait(timeout=60) != 0
            assert trees(sealed) == left
        for pid in commands:
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)


# -- the work tree and its environment ------------------------------------------------------------------------------


def test_a_patch_that_the_tag_lacks_is_told(sealed: Sealed) -> None:
    """It is not measured without the edits, and nothing stays behind."""
    bundle = msgspec.structs.replace(sealed.bundle, patch="0" * 64)
    with pytest.raises(RepositoryError, match=r"was measured with edits .* the tag lacks .*0000\.patch"):
        rerun(sealed.checkout, bundle, True, lambda line: None)
    assert trees(sealed) == 0


def test_measured_code_in_no_commit_and_no_patch_is_in_the_tag(sealed: Sealed, tmp_path: Path) -> None:
    """As a file that git is told to ignore. What is there stays as measured, and the logbook is as it was sealed."""
    bundle = msgspec.structs.replace(sealed.bundle, patch=None)
    there = add_measured(sealed.checkout, bundle, b"", tmp_path / "tree")
    assert (there.root / "tools" / "even.py").read_text() == "EVEN = 'new'\n"
    assert (there.root / "tools" / "odd.py").read_text() == "ODD = 'committed'\n"
    logbook = sealed.checkout.file_at(sealed.tag, ".agents/logbooks/toy.md")
    assert logbook and (there.root / HERE / "toy.md").read_bytes() == logbook


def test_submodules_are_at_their_commits_and_the_configuration_stays(
    sealed: Sealed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that has its tree's commit, and one that had another checked out; one that was not checked out stays empty."""
    for name, value in (("COUNT", "1"), ("KEY_0", "protocol.file.allow"), ("VALUE_0", "always")):
        monkeypatch.setenv(f"GIT_CONFIG_{name}", value)
    git = sealed.repository.git
    inner = tmp_path / "inner"
    inner.mkdir()
    for arguments in (
        ["init", "--quiet"],
        ["config", "user.name", "A"],
        ["config", "user.email", "a@example.org"],
        ["commit", "--quiet", "--allow-empty", "--message", "one"],
        ["commit", "--quiet", "--allow-empty", "--message", "two"],
    ):
        subprocess.run(["git", *arguments], cwd=inner, check=True)
    for name in ("moved", "named", "absent"):
        git("submodule", "--quiet", "add", str(inner), name)
    git("commit", "--quiet", "--message", "with submodules")
    git("-C", "moved", "checkout", "--quiet", "HEAD~1")
    git("submodule", "--quiet", "deinit", "absent")
    commits = {name: git("-C", name, "rev-parse", "HEAD").strip() for name in ("moved", "named")}
    assert commits["moved"] != commits["named"]
    submodules = sealed.checkout.submodules()
    bundle = msgspec.structs.replace(
        sealed.bundle, commit=git("rev-parse", "HEAD").strip(), patch=None, submodules=submodules
    )
    before = sealed.state()
    there = add_measured(sealed.checkout, bundle, b"", tmp_path / "tree")
    assert {name: there.git("-C", name, "rev-parse", "HEAD").decode().strip() for name in commits} == commits
    assert list((there.root / "absent").iterdir()) == []
    git("worktree", "remove", "--force", str(tmp_path / "tree"))
    assert sealed.state() == before


BACKEND = """
import zipfile

def build_editable(folder, config_settings=None, metadata_directory=None):
    name = "own-1.0-py3-none-any.whl"
    with zipfile.ZipFile(f"{folder}/{name}", "w") as file:
        file.writestr("own.py", "WHERE = 'from the tree'\\n")
        file.writestr("own-1.0.dist-info/METADATA", "Metadata-Version: 2.1\\nName: own\\nVersion: 1.0\\n")
        file.writestr("own-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        file.writestr("own-1.0.dist-info/RECORD", "")
    return name
"""
PROJECT = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'


def test_the_sealed_packages_make_an_environment_of_their_own(
    sealed: Sealed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exactly those, and the checkout's own from the tree; nothing of the environment here is seen in it."""
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "backend.py").write_text(BACKEND)
    (tree / "pyproject.toml").write_text(PROJECT)
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "only_here.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "here"))
    messages: list[str] = []
    pins = b"click==8.1.8\n-e ./\n# other==1.0 was installed from a file or folder of elsewhere\n"
    env = variables(sealed.bundle, tmp_path / "store", here=False)
    built = build_environment(sealed.bundle, pins, tree, tmp_path, env, messages.append)
    assert messages[0] == "not installed: other==1.0 was installed from a file or folder of elsewhere"
    assert messages[1].endswith(", 2 packages")
    ask = "import importlib.metadata as m, importlib.util as u, own, click; print(m.version('click'), own.WHERE, "
    ask += "u.find_spec('only_here'), u.find_spec('research_steps'))"
    printed = subprocess.run([str(built), "-c", ask], env=env, capture_output=True, text=True, check=True).stdout
    assert printed.split("\n")[0] == "8.1.8 from the tree None None"


def test_the_interpreter_that_runs_is_taken(sealed: Sealed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where PATH, as of a version manager, has none of that version."""
    bundle = sealed.bundle
    for name, value in (("PATH", str(tmp_path)), ("UV_PYTHON_INSTALL_DIR", str(tmp_path)), ("VIRTUAL_ENV", "")):
        monkeypatch.setenv(name, value)
    built = build_environment(bundle, b"# none\n", tmp_path, tmp_path, os.environ, lambda line: None)
    asked = subprocess.run(
        [str(built), "-c", "import sys; print(sys.version)"], capture_output=True, text=True, check=True
    )
    assert asked.stdout.strip() == sys.version


def elsewhere(trial: TrialRecord) -> TrialRecord:
    return msgspec.structs.replace(trial, device_class="cpu/other/1")


@pytest.mark.parametrize(
    "change, outcome, code",
    [(slower(0.0), "reproduced", 0), (slower(0.8), "not reproduced", 3), (elsewhere, "not comparable", 4)],
    ids=["reproduced", "not reproduced", "not comparable"],
)
def test_the_outcome_is_the_exit_code(
    sealed: Sealed,
    again: Again,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[TrialRecord], TrialRecord | InterruptedRecord],
    outcome: str,
    code: int,
) -> None:
    """Each has its own, which the help of the command names."""
    run = changed(again.run, change)
    monkeypatch.setattr("research_steps.seal.reproduce.rerun.rerun", lambda *given: run)
    done = research(sealed.repository.root, "reproduce", sealed.tag, "--json")
    assert (json.loads(done.stdout)["outcome"], done.returncode) == (outcome, code), done.stderr
    told = " ".join(research(sealed.repository.root, "reproduce", "--help").stdout.split())
    assert f"{code} {outcome}" in told


def test_the_commands_run_in_the_environment_that_was_sealed(sealed: Sealed, tmp_path: Path) -> None:
    """Unless told to take the one here: built from the tag's list, in the reproduction's own folder, of the tree's own
    code."""
    out = tmp_path / "where.json"
    main = "import importlib.util, json, sys, own\n"
    main += "found = own.WHERE, sys.prefix, importlib.util.find_spec('research_steps') is not None\n"
    main += f"json.dump(found, open({str(out)!r}, 'w'))\n"
    bundle = sealed.light(main, {"backend.py": BACKEND, "pyproject.toml": PROJECT})
    listed = sealed.commit(sealed.tag, {name_of("toy", bundle.id, "requirements.txt"): "-e ./\n"})
    sealed.repository.git("tag", "--force", "--annotate", "--message", "sealed", sealed.tag, listed)
    messages: list[str] = []
    with pytest.raises(ResearchError, match="recorded nothing"):
        rerun(sealed.checkout, bundle, False, messages.append)
    assert messages[0].endswith(", 1 packages") and messages[1:] == ["running python -m experiments.toy --seal true"]
    where, prefix, has_ours = json.loads(out.read_text())
    assert (where, has_ours) == ("from the tree", False)
    assert Path(prefix).parent.name.startswith("research-reproduce-")


@pytest.mark.parametrize(
    "requirements, python, says",
    [
        (b"", "3.11.1", "holds no list of packages.*--here"),
        (b"# research-steps==0.1.0 was installed from a file or folder of here\n", None, "be built: research-steps==0"),
        (b"./nowhere-at-all\n", None, "uv pip failed while the sealed environment was built: .*nowhere-at-all"),
        (b"click==8.1.8\n", "3.99.1", "uv venv failed while the sealed environment was built: .*3.99"),
    ],
    ids=["no list", "without research-steps", "not to be had", "another Python"],
)
def test_an_environment_that_can_not_be_built_is_told(
    sealed: Sealed, tmp_path: Path, requirements: bytes, python: str | None, says: str
) -> None:
    """In one sentence: what is missing, and what to do."""
    bundle = msgspec.structs.replace(sealed.bundle, python=python or sealed.bundle.python)
    with pytest.raises(UsageError, match=says):
        build_environment(bundle, requirements, tmp_path, tmp_path, os.environ, lambda line: None)
