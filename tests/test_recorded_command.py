"""`research record`: a command of the user's own, run as it is, with a record of it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from research_steps import Metric, Series
from research_steps.journal.journal import Journal
from research_steps.journal.snapshot import Snapshot
from research_steps.journal.store import open_store
from research_steps.trial import contention

from tests.support import ssh_server
from tests.support.toy_thread import RESEARCH, Repository, research


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """A checkout whose series was declared before."""
    repository = Repository(tmp_path / "repository")
    journal(repository).declare(Series("toy", "TOY", "see it run", (Metric("time_s", "min"),), contention_wait_s=0))
    return repository


def journal(repository: Repository) -> Journal:
    return Journal(open_store(str(repository.root / "local_store")), "toy")


def recorded(repository: Repository) -> Snapshot:
    return journal(repository).scan()


def test_a_command_is_recorded_as_it_ran(repository: Repository) -> None:
    """Its exit code is that of the command; what it printed passes through; the entry is in the logbook, and says with
    what it was configured, and that it is compared with nothing."""
    script = "echo step 1; echo METRIC time_s=0.25; echo METRIC time_s=0.75; echo beside >&2"
    done = research(repository.root, "record", "toy", "--set", "lr=1e-1", "--", "sh", "-c", script)
    assert (done.returncode, done.stdout) == (0, "step 1\nMETRIC time_s=0.25\nMETRIC time_s=0.75\n"), done.stderr
    assert done.stderr.startswith("beside\n") and "TOY-001: appended to the logbook" in done.stderr
    (trial,) = (stored.record for stored in recorded(repository).trials.values())
    assert trial.samples and trial.samples.candidate == {"time_s": [0.25, 0.75]} and not trial.samples.paired
    assert (trial.config, trial.baseline_config, trial.mode) == ({"lr": 0.1}, {}, "dev")
    assert trial.command and trial.command.argv == ("sh", "-c", script) and trial.command.exit == 0
    assert 0 < trial.command.duration_s < 60 and "beside\n" in trial.command.output
    logbook = (repository.root / ".agents" / "logbooks" / "toy.md").read_text()
    assert "1 attempt recorded, compared with nothing" in logbook and "`lr=0.1`" in logbook


def test_a_failure_is_recorded_and_passed_on(repository: Repository) -> None:
    """The exit code goes on to whoever gave the command; so does that of a signal, as a shell tells it."""
    done = research(repository.root, "record", "toy", "--", "sh", "-c", "echo no such kernel >&2; exit 3")
    assert done.returncode == 3
    assert research(repository.root, "record", "toy", "--", "sh", "-c", "kill -9 $$").returncode == 137
    assert research(repository.root, "record", "toy", "--", "true").returncode == 0
    failed, killed, silent = (stored.record for stored in sorted(recorded(repository).trials.values(), key=_id))
    assert failed.error and failed.error.line.endswith(": no such kernel") and "exit code 3" in failed.error.line
    assert killed.command and killed.command.exit == 137 and killed.status == "failed"
    assert silent.error and "found nothing" in silent.error.message
    assert research(repository.root, "record", "toy", "--", "./no-such").returncode == 127


# Stands for Marin's scripts/iris/dev_tpu.py, which needs a project on Google Cloud: it takes that one's options, and
# runs a command on the host as that one does, by ssh and in a copy of the work tree.
DEV_TPU = """
import shlex, subprocess, sys

before, action, command = sys.argv[1:5], sys.argv[5], sys.argv[7:]
assert before == ["--config", "lib/iris/config/marin.yaml", "--tpu-name", "mine"] and action == "execute"
ssh = ["ssh", "-F", CONFIG, "away"]
subprocess.run(["rsync", "--archive", "--rsh", shlex.join(ssh[:3]), "--exclude", ".git", "./", "away:COPY"], check=True)
sys.exit(subprocess.run([*ssh, "cd COPY && " + shlex.join(command)]).returncode)
"""


def test_a_command_on_a_tpu_that_marins_script_holds_is_a_trial(repository: Repository, tmp_path: Path) -> None:
    """Over a real ssh: what it prints there, what it was configured with and its exit code are recorded here."""
    (repository.root / "bench.py").write_text("import sys\nprint('METRIC time_s=0.5')\nsys.exit(int(sys.argv[1]))\n")
    script = repository.root / "scripts" / "iris" / "dev_tpu.py"
    script.parent.mkdir(parents=True)
    with ssh_server.sshd(tmp_path / "away") as there:
        copy = there.home / "marin"
        script.write_text(DEV_TPU.replace("CONFIG", repr(str(there.config))).replace("COPY", str(copy)))
        held = ("scripts/iris/dev_tpu.py", "--config", "lib/iris/config/marin.yaml", "--tpu-name", "mine")
        for code in ("0", "4"):
            command = (sys.executable, *held, "execute", "--", sys.executable, "bench.py", code)
            done = research(repository.root, "record", "toy", "--label", "bench", "--set", "work=7", "--", *command)
            assert done.returncode == int(code) and "METRIC time_s=0.5" in done.stdout, done.stdout + done.stderr
        assert (copy / "bench.py").is_file()
    ended = [stored.record for stored in recorded(repository).trials.values()]
    ok, failed = sorted(ended, key=lambda trial: trial.id)
    assert ok.samples is not None and ok.samples.candidate == {"time_s": [0.5]} and ok.config == {"work": 7}
    assert failed.status == "failed" and failed.command is not None and failed.command.exit == 4
    assert "bench" in repository.logbook


def _id(stored: object) -> str:
    return str(stored.record.id)  # type: ignore[attr-defined]


def test_what_is_wrong_is_told_before_it_runs(repository: Repository) -> None:
    """A series that is not here, an option that there is none of; a series of which nothing is known yet is told while
    the command runs, which goes on."""
    for given in (["nothing"], ["toy", "--sett", "a=1"], ["toy", "--set"]):
        done = research(repository.root, "record", *given, "--", "touch", "needed")
        assert done.returncode in (1, 2) and not (repository.root / "needed").exists(), done.stderr
    (repository.root / "experiments" / "other").mkdir()
    done = research(repository.root, "record", "other", "--", "sh", "-c", "touch needed; exit 4")
    assert done.returncode == 4 and "is not recorded" in done.stderr and (repository.root / "needed").exists()


def test_a_recorded_command_is_compared_where_it_can_be(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the series' baseline was measured by the same command line, with other settings, by the same files; whatever
    else runs here."""
    monkeypatch.setattr(contention.HERE, "load_cores", 1000)
    (repository.root / "bench.sh").write_text("echo METRIC time_s=$1.5\n")
    repository.thread('    steps.baseline(Command("sh bench.sh {work} {mode}"), Config(work=2))')
    main = repository.experiment / "__main__.py"
    main.write_text(f"from research_steps import Command\n{main.read_text()}")
    repository.commit()
    assert repository.run().code == 0
    arguments = ("record", "toy", "--set", "work=1", "--", "sh", "bench.sh")
    assert research(repository.root, *arguments, "1", "ok").returncode == 0
    assert research(repository.root, *arguments, "1", "other").returncode == 0
    entries = [stored.record for stored in recorded(repository).in_order]
    compared, other = entries[-2:]
    assert compared.claims and compared.claims[0].changes == {"work": 1} and compared.claims[0].estimate == 0.6
    assert compared.claims[0].confidence == "exploratory"
    assert not other.claims and "compared with nothing" in other.result


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_goes_to_the_command(repository: Repository, number: signal.Signals) -> None:
    """It ends as it ends by itself; that it was interrupted is recorded, and no result."""
    script = "trap 'echo saved; exit 5' INT TERM; echo METRIC time_s=1; touch needed; while :; do sleep 0.05; done"
    with subprocess.Popen(
        [*RESEARCH, "record", "toy", "--", "sh", "-c", script],
        cwd=repository.root, stdout=subprocess.PIPE, start_new_session=True,
    ) as running:  # fmt: skip
        while not (repository.root / "needed").exists():
            time.sleep(0.05)
        running.send_signal(number)
        assert running.communicate(timeout=60)[0] == b"METRIC time_s=1\nsaved\n"
    assert running.returncode == 5
    (interrupted,) = recorded(repository).interrupted.values()
    assert f"signal {number.value}" in interrupted.record.reason and not recorded(repository).trials


def test_hostile_output_passes_through_unaltered(repository: Repository) -> None:
    """Whatever the bytes are, and however many without the end of a line; the record stays small, and so does what is
    held of it. Of what is an escape for a terminal the record holds the letters."""
    (repository.root / "hostile.py").write_text(
        "import os\nfor _ in range(200): os.write(1, bytes(range(256)) * 4096)\n"
        "os.write(2, b'\\x1b]0;owned\\x07 token=ghp_' + b'a1B2c3D4e5F6' * 3)"
    )
    argv = [sys.executable, "-S", str(repository.root / "hostile.py")]
    bare = subprocess.run(argv, capture_output=True, check=True)
    # The largest memory of a process is never less than that of the one that has started it.
    small = "import resource, subprocess, sys\ncode = subprocess.run(sys.argv[1:]).returncode\n"
    small += "open('needed', 'w').write(str(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))\nsys.exit(code)"
    command = [sys.executable, "-S", "-c", small, *RESEARCH, "record", "toy", "--", *argv]
    done = subprocess.run(command, cwd=repository.root, capture_output=True, check=False)
    assert done.stdout == bare.stdout and done.stderr.startswith(bare.stderr) and done.returncode == 0
    assert int((repository.root / "needed").read_text()) < 300 << 10
    (trial,) = recorded(repository).trials.values()
    assert len(trial.line) < 60_000 and b"a1B2c3" not in trial.line
    assert b"\\u001b" not in trial.line and b"\\\\x1b" in trial.line


def test_whoever_stops_reading_ends_the_command(repository: Repository) -> None:
    """As in a pipe without a record: `research record … | head` does not print for ever."""
    read, write = os.pipe()
    running = subprocess.Popen([*RESEARCH, "record", "toy", "--", "yes"], cwd=repository.root, stdout=write)
    os.close(write)
    assert os.read(read, 2) == b"y\n"
    os.close(read)
    assert running.wait(timeout=60) == 128 + signal.SIGPIPE
