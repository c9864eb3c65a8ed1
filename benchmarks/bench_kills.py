"""Kills (-9) at random moments of a run below the executor: its driver, the launcher's parent, a trial's process.

Bar: 100 kills, nothing lost, nothing doubled, nothing left. One checkout, one store; a driver measures one short sweep
after another (`record_step` around `measure_trial`), each fourth step is a seal, a `Publisher` appends what they record.
It is killed and started again until the kills are used up, and then runs to its end. `--kills` and `--seed` make it
shorter or repeat it.
"""

import argparse
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from research_steps.git import Checkout
from research_steps.journal.entries import About, Finding
from research_steps.journal.journal import Journal
from research_steps.journal.logbook_place import logbook_of
from research_steps.journal.snapshot import Snapshot
from research_steps.journal.store import open_store
from research_steps.publish.publisher import Publisher
from research_steps.records.model import Ref, Row, TrialRecord
from research_steps.records.series import Metric, Series, trial_id
from research_steps.records.step_kinds import Details, Measurement
from research_steps.thread.step_body import record_step
from research_steps.thread.surfaces import surfaces_of
from research_steps.trial import contention, trials
from research_steps.trial.code import trace_name
from research_steps.trial.context import Session
from research_steps.trial.launcher.host import LocalHost
from research_steps.trial.launcher.launcher import Launcher
from research_steps.trial.measured import TrialSpec
from research_steps.trial.provenance import capture

SERIES = Series(
    topic="kills",
    prefix="KILL",
    goal="survive",
    metrics=(Metric("time_s"),),
    max_pairs=5,
    sampling_s=0.1,
    contention_wait_s=0,
)
# The third of each sweep fails in its own way, the others have samples.
MEASURE = """
import os, time


def measure(config):
    if config["work"] % 3 == 2:
        raise ValueError("no such kernel") if config["work"] % 2 else os._exit(3)
    while True:
        start = time.perf_counter()
        sum(range(1000 + config["work"]))
        yield {"time_s": time.perf_counter() - start}
"""
TRIALS = 3
SEAL_EVERY = 4
# How many steps a driver is given more than are finished, so that it is never out of work when it is killed.
AHEAD = 4
LONGEST_LIFE_S = 1.6
# How long there may be nothing below a driver to kill.
PATIENCE_S = 20.0
LIMIT_S = 120.0


@dataclass
class Seen:
    """What was on disk after one kill or another, none of which may ever change or go."""

    records: dict[str, bytes] = field(default_factory=dict)
    entries: dict[str, bytes] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def look(self, root: Path) -> None:
        for kind, known, now in (
            ("record", self.records, dict(files(root / "store", "*/records/*.json"))),
            ("entry", self.entries, dict(entries_of(root))),
        ):
            self.problems += [f"{kind} {name} changed" for name in known if now.get(name, known[name]) != known[name]]
            self.problems += [f"{kind} {name} is lost" for name in known if name not in now]
            known.update(now)


def files(store: Path, pattern: str) -> Iterator[tuple[str, bytes]]:
    for path in sorted((store / "journal" / SERIES.topic).glob(pattern)):
        yield "/".join(path.parts[-3:]), path.read_bytes()


def entries_of(root: Path) -> Iterator[tuple[str, bytes]]:
    """The logbook's entries by their markers, read without the code that wrote them."""
    path = root / ".agents" / "logbooks" / "kills.md"
    data = path.read_bytes() if path.exists() else b""
    pattern = re.compile(rb"^<!-- research-steps entry (\S+) -->\n.*?^<!-- research-steps end \1 .*?-->\n", re.M | re.S)
    for number, match in enumerate(pattern.finditer(data)):
        yield f"{number} {match[1].decode()}", match[0]


# -- the driver --------------------------------------------------------------------------------------------------------


def prepare(root: Path) -> None:
    folder = root / "experiments" / "kills"
    folder.mkdir(parents=True)
    (folder / "measure.py").write_text(MEASURE)
    (root / ".gitignore").write_text("store/\ntmp/\n__pycache__/\n")
    (root / "tmp").mkdir()
    git = ["git", "-c", "user.name=bench", "-c", "user.email=bench@localhost"]
    for command in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "-m", "start"]):
        subprocess.run([*git, *command], cwd=root, check=True)


def drive(root: Path, steps: int) -> None:
    """Run so many steps of the series; those that the journal holds cost nothing."""
    checkout = Checkout.find(root)
    journal = Journal(open_store(str(root / "store")), SERIES.topic)
    journal.declare(SERIES)
    with Launcher() as launcher:
        publisher = Publisher(journal, surfaces_of(checkout, journal, SERIES), print)
        session = Session(
            series=SERIES,
            journal=journal,
            host=LocalHost(launcher),
            captured=capture(checkout, ["bench_kills"], "bench"),
            repository=logbook_of(checkout, SERIES.topic).records,
            retry=frozenset(),
            say=print,
            changed=publisher.changed,
        )
        done: list[Ref] = []
        with publisher:
            for step in range(steps):
                done.append(run_step(session, root, step, done))
    print(f"complete: {publisher.problems or 'no problems'}")


def run_step(session: Session, root: Path, step: int, done: list[Ref]) -> Ref:
    if step % SEAL_EVERY == SEAL_EVERY - 1:
        about = About("seal", f"step-{step}", f"seal {step}", "", Details(), inputs=tuple(done[-1:]))
        return record_step(session, about, lambda id: Finding("sealed on request")).ref
    about = About("sweep", f"step-{step}", f"sweep {step}", "", Measurement(measure="experiments.kills.measure:measure"))
    return record_step(session, about, lambda id: Finding("measured", tuple(measured(session, root, step, id)))).ref


def measured(session: Session, root: Path, step: int, id: str) -> Iterator[Row]:
    code = trace_name("experiments.kills.measure:measure", root)
    for number in range(TRIALS):
        work = step * TRIALS + number
        spec = TrialSpec(code, "dict", {"work": work}, {"work": 0})
        trial = trials.measure_trial(session, spec, id=trial_id(id, number + 1), label=f"work={work}")
        assert trial is not None, "it was waited for"
        record = trial.stored.record
        yield Row(
            trial=trial.stored.ref,
            changes={"work": work},
            replicate=0,
            status=record.status,
            values={},
            ratios=record.ratios if isinstance(record, TrialRecord) else {},
            note="",
            contended=False,
            measured_here=trial.measured_here,
        )


def start(root: Path, steps: int) -> int:
    """A driver in a process of its own, forked from this one because that has imported Marin; returns its ID."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            log = os.open(root / "tmp" / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            sys.stdout = os.fdopen(1, "w", buffering=1)
            os.chdir(root)
            # Marks everything that the driver starts, and keeps its trials apart from others on this machine.
            os.environ["TMPDIR"] = tempfile.tempdir = str(root / "tmp")
            contention.HERE = contention.Machine(tmp=root / "tmp")
            drive(root, steps)
            code = 0
        except BaseException:  # noqa: BLE001  # this is the top of the process
            traceback.print_exc()
        finally:
            os._exit(code)
    return pid


# -- killing it --------------------------------------------------------------------------------------------------------


def kill_below(driver: int, depth: int) -> bool:
    """Kill the launcher's parent (depth 1) or the process of a trial (depth 2), if there is one right now."""
    with suppress(psutil.Error):
        process = psutil.Process(driver)
        for _ in range(depth):
            # Not git, nor what writes for W&B.
            children = [child for child in process.children() if "research_steps.trial" in " ".join(child.cmdline())]
            if not children:
                return False
            process = children[0]
        process.kill()
        return True
    return False


def hit(root: Path, steps: int, moments: random.Random, kills: Counter[str], wanted: int) -> None:
    """One life of a driver: in every second one something below is killed first, and then the driver."""
    driver = start(root, steps)
    time.sleep(moments.uniform(0.0, LONGEST_LIFE_S))
    if moments.random() < 0.5:
        # The one that was killed less often, so that neither is left out: a trial may be over before it is hit.
        depth = 1 if kills["parent"] <= kills["trial"] else 2
        until = time.monotonic() + PATIENCE_S
        while not (done := kill_below(driver, depth)) and time.monotonic() < until and runs(driver):
            time.sleep(0.002)
        kills["parent" if depth == 1 else "trial"] += done
        time.sleep(moments.uniform(0.0, LONGEST_LIFE_S / 2))
    if kills.total() < wanted and os.waitpid(driver, os.WNOHANG)[0] == 0:
        os.kill(driver, signal.SIGKILL)
        kills["driver"] += 1
    driver_ended(driver)


def runs(driver: int) -> bool:
    return psutil.Process(driver).status() != psutil.STATUS_ZOMBIE


def driver_ended(driver: int) -> int:
    """Wait for a driver, unless that was done before, and return its exit code."""
    with suppress(ChildProcessError):
        return os.waitstatus_to_exitcode(os.waitpid(driver, 0)[1])
    return 0


def left_processes(root: Path) -> list[int]:
    """Processes that a driver started, by the temporary folder in their environment."""
    left = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("TMPDIR") == str(root / "tmp") and process.status() != psutil.STATUS_ZOMBIE:
                left.append(process.pid)
    return left


def check(root: Path, steps: int, seen: Seen) -> list[str]:
    """Everything that is not as it should be after the last run."""
    journal = Journal(open_store(str(root / "store")), SERIES.topic)
    snapshot = journal.scan()
    problems = [*seen.problems, *snapshot.problems]
    for folder in ("trials", "entries"):
        intents = {name.rsplit("/", 1)[-1] for name, _ in files(root / "store", f"{folder}/intents/*.json")}
        records = {name.rsplit("/", 1)[-1] for name, _ in files(root / "store", f"{folder}/records/*.json")}
        problems += [f"{folder}: intent {name} has no record" for name in intents - records]
        problems += [f"{folder}: record {name} has no intent" for name in records - intents]
    sweeps = sum(step % SEAL_EVERY != SEAL_EVERY - 1 for step in range(steps))
    measured = Counter(stored.record.key for stored in snapshot.trials.values() if not stored.record.late)
    recorded = Counter(stored.record.step_key for stored in snapshot.entries.values() if not stored.record.late)
    problems += [f"trial {key} has {count} results" for key, count in measured.items() if count != 1]
    problems += [f"step {key} has {count} entries" for key, count in recorded.items() if count != 1]
    if len(measured) != sweeps * TRIALS or len(recorded) != steps:
        problems.append(f"{len(measured)} trials and {len(recorded)} entries; expected {sweeps * TRIALS} and {steps}")
    shown = Counter(name.split()[1] for name, _ in entries_of(root))
    wanted = {stored.record.id for stored in snapshot.entries.values() if not stored.record.late}
    problems += [f"entry {id} is in the logbook {count} times" for id, count in shown.items() if count != 1]
    problems += [f"entry {id} is in one of journal and logbook only" for id in wanted ^ set(shown)]
    rows = Counter(row.trial.sha256 for stored in snapshot.entries.values() for row in stored.record.rows)
    problems += [f"the rows name {sha[:12]} {count} times" for sha, count in rows.items() if count != 1]
    problems += [f"no row names {sha[:12]}" for sha in snapshot.trials if sha not in rows]
    problems += verify(root, snapshot)
    return problems


def verify(root: Path, snapshot: Snapshot) -> list[str]:
    command = [sys.executable, "-m", "research_steps", "verify", SERIES.topic, "--prefix", str(root / "store")]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    if done.returncode != 0 or f" {len(snapshot.entries)} entries, " not in done.stdout:
        return [f"research verify: {done.stdout}{done.stderr}"]
    return []


def run(root: Path, wanted: int, moments: random.Random) -> list[str]:
    prepare(root)
    kills: Counter[str] = Counter()
    seen = Seen()
    steps = lives = 0
    began = time.monotonic()
    while kills.total() < wanted:
        finished = sum(1 for name in seen.records if name.startswith("entries/"))
        steps = max(steps, finished + AHEAD)
        hit(root, steps, moments, kills, wanted)
        lives += 1
        seen.look(root)
    last = start(root, steps)
    code = driver_ended(last)
    seen.look(root)
    problems = check(root, steps, seen)
    problems += [f"no {kind} was killed" for kind in ("driver", "parent", "trial") if not kills[kind]]
    if code != 0:
        problems.append(f"the last run ended with {code}:\n{(root / 'tmp' / 'log').read_text()[-4000:]}")
    deadline = time.monotonic() + LIMIT_S
    while (left := left_processes(root)) and time.monotonic() < deadline:
        time.sleep(0.1)
    problems += [f"process {pid} is left" for pid in left]
    snapshot = Journal(open_store(str(root / "store")), SERIES.topic).scan()
    late = [trial.record.late for trial in snapshot.trials.values()] + [
        entry.record.late for entry in snapshot.entries.values()
    ]
    litter = [path for path in [*root.rglob(".*.tmp"), *(root / "tmp").iterdir()] if path.name[:3] != "log"]
    print(f"kills: {dict(kills)} in {lives} lives and {time.monotonic() - began:.0f} s")
    recorded = f"{len(snapshot.trials)} trials, {len(snapshot.entries)} entries"
    print(f"{recorded}, {len(snapshot.interrupted)} interrupted, {sum(late)} late")
    print(f"{len(litter)} temporary files left: {sorted({re.sub('[0-9a-f-]{4,}', '…', p.name) for p in litter})}")
    return problems


def quick(folder: Path) -> list[str]:
    """Twelve kills of driver, parent and trials, then a run to the end."""
    return run(folder, 12, random.Random(1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    root = Path(tempfile.mkdtemp(prefix="bench-kills-"))
    try:
        problems = run(root, options.kills, random.Random(options.seed))
    finally:
        shutil.rmtree(root, ignore_errors=True)
    for problem in problems:
        print(problem)
    print(f"{options.kills} kills: {len(problems) or 'no'} problems")
    sys.exit("bar NOT MET" if problems else 0)


if __name__ == "__main__":
    main()
