"""Threads, notes, decisions, seals and syncs while processes are killed and stopped, and disks, clocks and git fail.

Bar: 500 rounds, 0 violations. Each round has a repository and a store of its own, and a seed that repeats what is drawn:
a driver or two run a thread, people and agents record things beside it, and meanwhile

- drivers are killed (-9), or stopped for longer than a lease and then go on;
- reads and writes of the store and the logbook fail with EIO, and writes whose answer is lost are told as failed;
- the disk is full for a while (a file system of its own, where the user may mount one);
- clocks differ between processes, drift, and jump both ways while they run (libfaketime);
- git's index is locked, what is not committed is stashed, and the branch is reset;
- every other round has its issue on a GitHub that fails a third of the requests, or does them and loses the answer.

Then everything is let alone, the thread is run until it completes, and all is synced. What must always hold is checked
on the journal, the logbook and the issue in the checkout, without the code that writes them where that can be:
nothing that was told as recorded is lost, nothing is there twice, no entry's text changed, nothing failed that did not
fail by itself, no secret is anywhere, and `research verify`, which knows the tags, agrees. What a round violates is
told, with its seed.

    python -m benchmarks.bench_chaos [--rounds 500] [--seed SEED]
"""

import argparse
import errno
import faulthandler
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from research_steps.git import Checkout
from research_steps.journal import leases
from research_steps.journal.journal import Journal
from research_steps.journal.logbook_place import logbook_of
from research_steps.journal.store import open_store
from research_steps.publish.logbook.format import Entry, parse
from research_steps.records.model import EntryRecord

from tests.support.clocks import faked
from tests.support.github_api import Repository, Server, token

# Leases in the processes of a round, so that one that is stopped loses its own soon (seconds).
LEASE_S = 1.5
SECRET = "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"
# What any process of a round may take before it counts as one that hangs (seconds): Marin gives the lock of a driver
# that was ended to the next one after 90 s, and each of four steps may have such a lock.
PATIENCE_S = 420.0
# Has a process of a round print where each of its threads is.
WHERE = signal.SIGUSR2
DISK_MB = 48
BODY = """
    base = steps.baseline(measure, Config())
    one = steps.sweep(base, ("work", [1000, 4000]), label="one", hypothesis="H1")
    two = steps.sweep(base, ("work", [3000, 4000]), label="two")
    steps.seal(steps.interpret(base, one, two))
"""
STEPS = {"baseline": 1, "sweep": 2, "interpret": 1, "seal": 1}
CLOCKS = ("+0", "+120s", "-90s", "+3000s", "-1d", "+0 x1.05")
# Between which a clock jumps.
JUMPS = ("+0", "+600s", "-600s", "+1d")
Draw = random.Random


@dataclass(frozen=True)
class OnGitHub:
    """Where a round's issue is: the truth about its repository, and the proxy through which it fails."""

    repository: Repository
    number: int
    url: str


@dataclass
class Round:
    """One repository under fire. What its processes print is in `log`; `told` is what was told as recorded, `seen` how
    entries of the logbook read, `done` what happened, and it has `tried` something in dev mode."""

    number: int
    seed: int
    root: Path
    store: Path
    issue: OnGitHub | None = None
    draw: Draw = field(init=False)
    children: list[psutil.Process] = field(default_factory=list)
    told: set[str] = field(default_factory=set)
    seen: dict[str, bytes] = field(default_factory=dict)
    done: list[str] = field(default_factory=list)
    tried: bool = False

    def __post_init__(self) -> None:
        self.draw = Draw(f"{self.seed}/{self.number}")

    @property
    def environment(self) -> dict[str, str]:
        issue = {"GITHUB_TOKEN": token("researcher"), "GITHUB_API_URL": self.issue.url} if self.issue else {}
        return {"WANDB_MODE": "disabled", "MARIN_PREFIX": str(self.store), **issue}

    @property
    def log(self) -> Path:
        return self.root.parent / "log"

    @property
    def journal(self) -> Journal:
        return Journal(open_store(str(self.store)), "toy")

    def start(self, module: str, *arguments: str, spoil: Callable[[], None] = lambda: None) -> psutil.Process:
        """A process from this one, which has imported what takes long; `spoil` is called in it first."""
        from tests.support.toy_thread import fork

        def before() -> None:
            faulthandler.register(WHERE)
            leases.LEASE_S = LEASE_S
            spoil()

        environment = {**self.environment, "HF_TOKEN": SECRET}
        with self.log.open("ab") as log:
            pid = fork(self.root, module, arguments, log.fileno(), log.fileno(), environment, before)
        self.children.append(psutil.Process(pid))
        return self.children[-1]

    def drive(self, *arguments: str, spoil: Callable[[], None] = lambda: None) -> psutil.Process:
        return self.start("experiments.toy", *arguments, spoil=spoil)

    def command(self, *arguments: str, spoil: Callable[[], None] = lambda: None) -> psutil.Process:
        return self.start("research_steps", *arguments, spoil=spoil)

    def look(self) -> None:
        """Remember how entries read, without what links them to those before."""
        with suppress(FileNotFoundError):
            data = (self.root / ".agents" / "logbooks" / "toy.md").read_bytes()
            for entry in parse(data).entries:
                self.seen.setdefault(entry.record, _text(data, entry))


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def spoiled(round: Round) -> Callable[[], None]:
    """What is the matter with one process, as drawn: its clock, its disk, or nothing."""
    draw, faults = Draw(round.draw.random()), list[Callable[[], None]]()
    clock = draw.random()
    if clock < 0.4:
        faults.append(lambda: _off(draw.choice(CLOCKS)))
    elif clock < 0.65:
        faults.append(lambda: _jumping(draw))
    if draw.random() < 0.3:
        faults.append(lambda: _broken_disk(draw, round))

    def spoil() -> None:
        for fault in faults:
            fault()

    return spoil


def _off(clock: str) -> None:
    """Have this process's clock be off; libfaketime asks the environment each time."""
    os.environ["FAKETIME"] = clock


def _jumping(draw: Draw) -> None:
    def jump() -> None:
        for _ in range(draw.randrange(1, 4)):
            time.sleep(draw.uniform(0.2, 1.0))
            _off(draw.choice(JUMPS))

    threading.Thread(target=jump, daemon=True).start()


def _broken_disk(draw: Draw, round: Round) -> None:
    """For a while some of what this process does to the store and below .agents fails, and some of what the store was
    asked to create is there and is told as failed."""
    from tests.support.file_operations import before_each

    until, share = time.monotonic() + draw.uniform(0.3, 2.5), draw.choice((0.02, 0.1, 0.3))
    places, link = (str(round.store / "journal"), ".agents/", "research-steps"), os.link

    def fail(path: str) -> None:
        if time.monotonic() < until and draw.random() < share:
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)

    def lose_answer(source: str, target: str) -> None:
        link(source, target)
        fail(target)

    before_each(lambda path: any(place in path for place in places), lambda number, path: fail(path))
    vars(os)["link"] = lose_answer


def kill(round: Round) -> None:
    child = round.draw.choice(round.children)
    with suppress(psutil.NoSuchProcess):
        child.kill()


def freeze(round: Round) -> None:
    """Stop a driver for longer than its lease, with the trial that it runs or without, and have another one go on."""
    from tests.support.toy_thread import age_locks

    child = round.draw.choice(round.children)
    with suppress(psutil.NoSuchProcess):
        frozen = [child, *(child.children(recursive=True) if round.draw.random() < 0.5 else ())]
        for process in frozen:
            process.suspend()
        with suppress(FileNotFoundError):
            age_locks(round.store)
        round.drive(spoil=spoiled(round))
        time.sleep(LEASE_S * round.draw.uniform(0.5, 2.0))
        for process in frozen:
            with suppress(psutil.NoSuchProcess):
                process.resume()
        if round.draw.random() < 0.3:
            with suppress(psutil.NoSuchProcess):
                child.send_signal(signal.SIGINT)


def fill(round: Round) -> None:
    """The disk that the store is on is full for a while."""
    if not os.path.ismount(round.store):
        round.done[-1] += " (not here: no file system could be mounted)"
        return
    ballast = round.store / "ballast"
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 16))
    time.sleep(round.draw.uniform(0.2, 1.0))
    ballast.unlink(missing_ok=True)


def lock_git(round: Round) -> None:
    lock = round.root / ".git" / "index.lock"
    lock.touch()
    time.sleep(round.draw.uniform(0.1, 0.6))
    lock.unlink(missing_ok=True)


def stash(round: Round) -> None:
    """Put away what is not committed, the logbook too."""
    round.look()
    _git(round, "stash", "--include-untracked", "--quiet")


def reset(round: Round) -> None:
    """Commit what is there, and go back to what was before."""
    round.look()
    _git(round, "add", "--all")
    _git(round, "commit", "--quiet", "--allow-empty", "--message", "state")
    _git(round, "reset", "--hard", "--quiet", round.draw.choice(("HEAD", "HEAD~1")))


def merge(round: Round) -> None:
    """What a colleague committed on another branch meanwhile comes in."""
    round.look()
    _git(round, "add", "--all")
    _git(round, "commit", "--quiet", "--allow-empty", "--message", "state")
    _git(round, "branch", "--force", "colleague", "HEAD~1")
    _git(round, "merge", "--quiet", "--no-edit", "colleague")


def say_something(round: Round) -> None:
    """A person or an agent records something; what it is called is told once it is."""
    what = round.draw.choice(("decide", "hypothesis", "note", "sync", "dev", "seal"))
    text = f"said {len(round.done)} {round.draw.randrange(1 << 30)}"
    round.tried |= what == "dev"
    commands: dict[str, tuple[str, ...]] = {
        "decide": ("decide", "toy", text),
        "hypothesis": ("hypothesis", "add", "toy", text, "--next-test", "try it"),
        "note": ("note", "TOY-001", "--next", text),
        "sync": ("sync", "toy"),
        "dev": ("dev", "toy", "work=1500", "--label", text),
        "seal": ("seal", "toy"),
    }
    process = round.command(*commands[what], spoil=spoiled(round))
    with suppress(psutil.TimeoutExpired):
        # Another one may be begun before this one has ended.
        if process.wait(round.draw.uniform(0.5, 6.0)) == 0 and what in ("decide", "hypothesis", "note"):
            round.told.add(text)


EVENTS: tuple[Callable[[Round], None], ...] = (
    *(say_something, say_something, say_something, kill, kill, freeze, freeze),
    *(fill, lock_git, stash, reset, merge),
)


# -- a round -----------------------------------------------------------------------------------------------------------


def prepare(round: Round) -> None:
    from tests.support.toy_thread import Repository, research

    repository = Repository(round.root)
    repository.thread(BODY)
    (round.root / ".gitignore").write_text("local_store/\n__pycache__/\nmeasured\nneeded\n")
    repository.commit()
    issue = round.issue
    where = ("--issue", str(issue.number), "--repository", issue.repository.full_name) if issue else ()
    done = research(round.root, "kickoff", "toy", "--branch", ".", *where, **round.environment)
    assert done.returncode == 0, done.stderr
    repository.commit()


def run(round: Round) -> list[str]:
    """What the round violates."""
    prepare(round)
    fails = round.root.parent.parent / "fails"
    fails.touch()
    round.drive(spoil=spoiled(round))
    for event in round.draw.choices(EVENTS, k=round.draw.randrange(2, 6)):
        time.sleep(round.draw.uniform(0.0, 1.2))
        round.done.append(event.__name__)
        event(round)
        round.look()
    fails.unlink()
    return [*settle(round), *violations(round)]


def settle(round: Round) -> list[str]:
    """Let everything end, run the thread until it completes, and sync; what could not."""
    from tests.support.toy_thread import age_locks

    _, left = psutil.wait_procs(round.children, timeout=PATIENCE_S)
    hung = [f"process {process.pid} hangs:\n{_killed(round, process)}" for process in left if process.is_running()]
    if round.tried:
        _exit_code(round, round.command("dev", "toy", "--stop"))
    (round.root / ".git" / "index.lock").unlink(missing_ok=True)
    _git(round, "stash", "drop", "--quiet")
    codes = []
    for _ in range(3):
        age_locks(round.store)
        codes.append(_exit_code(round, round.drive("--seal", "true")))
        if codes[-1] == 0:
            break
    for _ in range(3):
        synced = _exit_code(round, round.command("sync", "toy"))
        if synced == 0:
            break
        # GitHub may have asked to wait a second or two.
        time.sleep(3.0)
    wrong = [] if codes[-1] == 0 else [f"the thread ended with {codes}"]
    return [*hung, *wrong, *([] if synced == 0 else [f"sync ended with {synced}"])]


def _exit_code(round: Round, process: psutil.Process) -> int | None:
    """What a process ended with; None for one that hangs, which is killed."""
    try:
        code: int = process.wait(PATIENCE_S)
        return code
    except psutil.TimeoutExpired:
        print(_killed(round, process))
        return None


def _killed(round: Round, process: psutil.Process) -> str:
    """Kill a process that hangs; what it printed last, and where each of its threads is."""
    with suppress(psutil.NoSuchProcess):
        process.send_signal(WHERE)
        time.sleep(1.0)
        process.kill()
        process.wait()
    return "\n".join(round.log.read_text(errors="replace").splitlines()[-60:])


def violations(round: Round) -> list[str]:
    return [
        *_of_journal(round),
        *_of_logbook(round),
        *_of_issue(round),
        *_of_secrets(round),
        *_of_verify(round),
    ]


def _of_journal(round: Round) -> Iterator[str]:
    scan = round.journal.scan()
    yield from (f"the journal: {problem}" for problem in scan.problems)
    yield from (f"{attempt.intent.id} is open for ever" for attempt in scan.open)
    entries = [stored.record for stored in scan.entries.values() if not stored.record.late]
    trials = [stored.record for stored in scan.trials.values() if not stored.record.late]
    yield from (f"{record.id} failed: {record.error and record.error.line}" for record in entries if record.error)
    yield from (f"{record.id} failed: {record.error.line}" for record in trials if record.error)
    ok = Counter(record.key for record in trials if record.status == "ok" and not record.contended)
    yield from (f"the trial {key[:12]} was measured {count} times" for key, count in ok.items() if count > 1)
    steps = Counter(record.step for record in entries if record.mode == "executor" and record.step in STEPS)
    keys = Counter(record.step_key for record in entries if record.step in STEPS and record.mode == "executor")
    for step, wanted in STEPS.items():
        of_kind = {record.step_key for record in entries if record.step == step and _of_thread(record)}
        # People seal beside the thread.
        if len(of_kind) < wanted or (len(of_kind) > wanted and step != "seal"):
            yield f"{steps[step]} entries of the kind {step}: expected {wanted}"
    yield from (f"{key} has {count} entries" for key, count in keys.items() if count > 1 and "seal" not in key)
    said = b"".join(stored.line for stored in scan.entries.values())
    yield from (f"{text!r} was told as recorded and is lost" for text in round.told if text.encode() not in said)


def _of_thread(record: EntryRecord) -> bool:
    return record.mode == "executor" and record.status == "ok"


def _of_logbook(round: Round) -> Iterator[str]:
    data = logbook_of(Checkout.find(round.root), "toy").path.read_bytes()
    shown = Counter(entry.record for entry in parse(data).entries)
    ids = Counter(entry.id for entry in parse(data).entries)
    standing = {sha for sha, stored in round.journal.scan().entries.items() if not stored.record.late}
    yield from (f"the logbook lacks {sha[:12]}" for sha in standing - shown.keys())
    yield from (f"the logbook has {sha[:12]}, which is in no journal" for sha in shown.keys() - standing)
    yield from (f"{sha[:12]} stands {count} times in the logbook" for sha, count in shown.items() if count > 1)
    yield from (f"{id} is the ID of {count} entries" for id, count in ids.items() if count > 1)
    for entry in parse(data).entries:
        if _text(data, entry) != round.seen.get(entry.record, _text(data, entry)):
            yield f"{entry.id} changed in the logbook"


def _text(data: bytes, entry: Entry) -> bytes:
    """An entry of the logbook, without the line that names the one before it."""
    return data[entry.start : entry.end].rpartition(b"<!-- research-steps end")[0]


def _of_issue(round: Round) -> Iterator[str]:
    issue = round.issue
    if issue:
        text = "\n".join(comment.body for comment in issue.repository.comments(issue.number))
    else:
        text = (round.root / ".agents" / "issues" / "toy.md").read_text()
    markers = Counter(re.findall(r"<!-- research-steps (record [0-9a-f]{64}) -->", text))
    yield from (f"the issue has {marker[:20]} {count} times" for marker, count in markers.items() if count > 1)
    entries = [stored for stored in round.journal.scan().entries.values() if not stored.record.late]
    wanted = {f"record {stored.sha256}" for stored in entries if stored.record.step in ("interpret", "decision")}
    yield from (f"the issue lacks {marker[:20]}" for marker in wanted - markers.keys())


def _of_secrets(round: Round) -> Iterator[str]:
    for place in (round.store / "journal", round.root / ".agents"):
        for path in place.rglob("*"):
            if path.is_file() and SECRET.encode() in path.read_bytes():
                yield f"a secret is in {path}"


def _of_verify(round: Round) -> Iterator[str]:
    from tests.support.toy_thread import research

    done = research(round.root, "verify", "toy", **round.environment)
    if done.returncode != 0:
        yield f"verify: {done.stdout.strip()[-600:]} {done.stderr.strip()[-200:]}"


def _git(round: Round, *arguments: str) -> None:
    subprocess.run(["git", *arguments], cwd=round.root, capture_output=True)


@contextmanager
def _disk(folder: Path) -> Iterator[Path]:
    """A store on a small file system of its own, or where none can be mounted, without one."""
    store = folder / "store"
    store.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(store)]
    mounted = os.getuid() == 0 and subprocess.run(mount, capture_output=True).returncode == 0
    try:
        yield store
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(store)], check=True)


@contextmanager
def _failing_github(folder: Path, seed: int) -> Iterator[tuple[Server, str]]:
    """A server of a process of its own, and the address of the proxy before it."""
    command = [sys.executable, "-m", "benchmarks.failing_github", str(folder), str(seed)]
    true_time = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=true_time) as process:
        assert process.stdout is not None
        port, pid, url = process.stdout.readline().split()
        yield Server(int(port), int(pid)), url


def rounds(scratch: Path, first: int, count: int, seed: int) -> list[str]:
    """The violations of so many rounds, each with what repeats it."""
    wrong: list[str] = []
    scratch.mkdir(parents=True, exist_ok=True)
    with _failing_github(scratch, seed) as (server, url):
        for number in range(first, first + count):
            issue = _issue(server, url) if number % 2 else None
            wrong += [f"round {number} of seed {seed}: {violation}" for violation in one(scratch, number, seed, issue)]
    return wrong


def _issue(server: Server, url: str) -> OnGitHub:
    repository = server.repository()
    return OnGitHub(repository, repository.create_issue("Experiment: toy"), url)


def one(scratch: Path, number: int, seed: int, issue: OnGitHub | None) -> list[str]:
    """What one round violates, which is told."""
    folder = scratch / str(number)
    folder.mkdir()
    began = time.monotonic()
    with _disk(folder) as store:
        round = Round(number, seed, folder / "checkout", store, issue)
        found = run(round)
        if found:
            shutil.copytree(store, folder / "kept_store")
    where = " on GitHub" if issue else ""
    print(f"round {number}{where}: {', '.join(round.done)}: {time.monotonic() - began:.1f} s", flush=True)
    for violation in found:
        print(f"  VIOLATED: {violation}", flush=True)
    if not found:
        shutil.rmtree(folder)
    return found


def _under_faketime() -> None:
    """Start this process anew with libfaketime, unless it has that."""
    if "FAKETIME" in os.environ:
        return
    clocks = {**faked("+0"), "FAKETIME_NO_CACHE": "1"}
    command = [sys.executable, "-m", "benchmarks.bench_chaos", *sys.argv[1:]]
    os.execve(sys.executable, command, {**os.environ, **clocks})


def quick(folder: Path) -> list[str]:
    """Twenty rounds, in a process of their own whose clocks can be set."""
    command = [sys.executable, "-m", "benchmarks.bench_chaos", "--rounds", "20", "--seed", "1", "--scratch", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    return [] if done.returncode == 0 else [done.stdout[-4000:], done.stderr[-2000:]]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--scratch", type=Path)
    asked = parser.parse_args()
    _under_faketime()
    import tests.support.toy_thread  # noqa: F401  # what every process of a round has imported

    scratch = asked.scratch or Path(tempfile.mkdtemp(prefix="chaos-"))
    print(f"seed {asked.seed}, in {scratch}", flush=True)
    wrong = rounds(scratch, asked.first, asked.rounds, asked.seed)
    print(f"{asked.rounds} rounds, {len(wrong)} violations")
    if wrong:
        sys.exit("bar NOT MET")
    print("bar met")


if __name__ == "__main__":
    main()
