"""`research dev-tpu`, as a person uses it, on a real Ray cluster, one node of which says that it has a TPU."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from research_steps.errors import UsageError
from research_steps.journal.journal import Journal
from research_steps.journal.store import open_store
from research_steps.remote.ray.config import read_cluster
from research_steps.remote.ray.tpu import resources_of

from tests.support import ray_cluster
from tests.support.ray_cluster import LOCAL, eventually
from tests.support.scratch_logbook import git
from tests.support.toy_thread import RESEARCH, Repository, started

# Shorter than how long an actor goes on without its holder.
SOON_S = 15
# How long what ends may take to, where a machine has much else to do.
END_S = 60


# In a process of its own: the one of the tests forks others, which Ray's threads would not survive.
OBSERVER = """
import sys, ray
ray.init(sys.argv[1], logging_level="CRITICAL", log_to_driver=False)
for _ in sys.stdin:
    free = ray.available_resources()
    print(free.get("TPU") == 4 and free.get("TPU-v4-8-head") == 1, flush=True)
"""


class Cluster(ray_cluster.Cluster):
    """A running cluster, and whether its TPU is free, as a client of its own sees it."""

    observer: "subprocess.Popen[str] | None" = None

    def free(self) -> bool:
        if self.observer is None:
            argv = [sys.executable, "-c", OBSERVER, self.address]
            self.observer = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.observer.stdin is not None and self.observer.stdout is not None
        print(file=self.observer.stdin, flush=True)
        return self.observer.stdout.readline() == "True\n"


@pytest.fixture(scope="module")
def cluster(ray: ray_cluster.Cluster) -> Iterator[Cluster]:
    cluster = Cluster(ray.address, ray.client, ray.jobs)
    yield cluster
    if cluster.observer is not None:
        cluster.observer.communicate()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A work tree with tracked, new and ignored files."""
    root = tmp_path / "checkout"
    (root / "kernels").mkdir(parents=True)
    (root / "kernels" / "a.txt").write_text("first\n")
    (root / "kept.txt").write_text("kept\n")
    (root / ".gitignore").write_text("ignored\n")
    (root / "ignored").write_text("x")
    git(root, "init", "--quiet")
    git(root, "add", "--all")
    (root / "new.sh").write_text("#!/bin/sh\necho new\n")
    (root / "new.sh").chmod(0o755)
    (root / "link").symlink_to("kept.txt")
    return root


class Holder:
    """`research dev-tpu allocate` in its own process, and what it said."""

    def __init__(self, process: "subprocess.Popen[str]", log: Path) -> None:
        self.process = process
        self.log = log

    def said(self) -> str:
        return self.log.read_text()


@contextmanager
def holding(cluster: Cluster, where: Path, *options: str, name: str = "mine", **environment: str) -> Iterator[Holder]:
    """A TPU that is held; whatever happens, it is free afterwards."""
    log = where.parent / f"{name}-{time.monotonic_ns()}.log"
    argv = [*RESEARCH, "dev-tpu", "allocate", "--tpu-name", name, "--config", str(LOCAL), "--tpu-type", "v4-8", *options]
    with log.open("w") as file:
        process = subprocess.Popen(argv, cwd=where, env=cluster.environment(**environment), stdout=file, stderr=file)
    try:
        eventually(lambda: "is held on" in log.read_text() or process.poll() is not None, 120)
        assert process.poll() is None, log.read_text()
        yield Holder(process, log)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(END_S)
        eventually(cluster.free, END_S)


def dev_tpu(
    cluster: Cluster, where: Path, action: str, *arguments: str, name: str = "mine", **environment: str
) -> "subprocess.CompletedProcess[str]":
    argv = [*RESEARCH, "dev-tpu", action, "--tpu-name", name, "--config", str(LOCAL), *arguments]
    done = subprocess.run(argv, cwd=where, env=cluster.environment(**environment), capture_output=True, text=True)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def test_a_held_tpu_runs_commands_in_a_copy_of_the_work_tree(cluster: Cluster, checkout: Path) -> None:
    """The resources are taken; a command sees the tree as it is, with its links and modes, without what is ignored; its
    output and exit code are the caller's; what changed since is sent, what was deleted is gone; a variable travels by
    name; nobody else gets the name."""
    with holding(cluster, checkout) as holder:
        assert not cluster.free()
        assert "for 8 h, until Ctrl-C" in holder.said() and socket.gethostname() in holder.said()

        script = "find . -type f -o -type l | sort; ./new.sh; cat link kernels/a.txt; echo told >&2; exit 7"
        done = dev_tpu(cluster, checkout, "execute", "--", "sh", "-c", script)
        assert done.returncode == 7
        files = ["./.gitignore", "./kept.txt", "./kernels/a.txt", "./link", "./new.sh"]
        assert done.stdout.splitlines() == [*sorted(files), "new", "kept", "first"]
        assert "told" in done.stderr and "sending 5 of 5 files" in done.stderr

        (checkout / "kernels" / "a.txt").unlink()
        (checkout / "kept.txt").write_text("edited\n")
        script = "find . -type f | sort; cat link; echo $TOKEN_OF_MINE $NOT_SENT"
        done = dev_tpu(
            cluster, checkout, "execute", "--env", "TOKEN_OF_MINE", "--", "sh", "-c", script,
            TOKEN_OF_MINE="s e'c", NOT_SENT="x",
        )  # fmt: skip
        assert done.stdout.splitlines() == ["./.gitignore", "./kept.txt", "./new.sh", "edited", "s e'c"]
        assert "sending 1 of 4 files" in done.stderr
        assert "s e'c" not in " ".join(_command_lines()), "the value is on no command line"

        second = dev_tpu(cluster, checkout, "allocate", "--tpu-type", "v4-8")
        assert second.returncode == 1
        assert "'mine' is held by" in second.stderr and f"process {holder.process.pid}, since" in second.stderr


def _command_lines() -> list[str]:
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_bytes().decode("utf-8", "replace"))
        except OSError:
            continue
    return lines


def test_output_is_live_and_ctrl_c_ends_the_command_alone(cluster: Cluster, checkout: Path) -> None:
    """The first line is here while the command runs; meanwhile another command is refused; Ctrl-C ends the command with
    all that it started, and the TPU stays held until its holder has one."""
    with holding(cluster, checkout) as holder:
        argv = [*RESEARCH, "dev-tpu", "execute", "--tpu-name", "mine", "--config", str(LOCAL), "--"]
        script = "sleep 1000 & echo $!; wait"
        with subprocess.Popen(
            [*argv, "bash", "-c", script], cwd=checkout, env=cluster.environment(), stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            sleeping = int(process.stdout.readline())
            other = dev_tpu(cluster, checkout, "execute", "--", "true")
            assert other.returncode == 1 and "one command runs at a time" in other.stderr
            assert f"process {process.pid}, with 'bash'" in other.stderr
            process.send_signal(signal.SIGINT)
            assert process.wait(END_S) == 128 + signal.SIGINT
        eventually(lambda: not Path(f"/proc/{sleeping}").exists(), END_S)
        assert dev_tpu(cluster, checkout, "execute", "--", "no-such-command").returncode == 127
        holder.process.send_signal(signal.SIGINT)
        assert holder.process.wait(END_S) == 0
        assert "mine is free again: SIGINT was received" in holder.said()


def test_options_stand_before_the_command_too(cluster: Cluster, checkout: Path) -> None:
    """As Marin's own script takes them; and who holds what is told with and without a name."""
    before = [*RESEARCH, "dev-tpu", "--config", str(LOCAL), "--tpu-name", "mine"]

    def run(*arguments: str, input: str = "") -> "subprocess.CompletedProcess[str]":
        environment = cluster.environment()
        return subprocess.run(
            [*before, *arguments],
            cwd=checkout,
            env=environment,
            input=input,
            capture_output=True,
            text=True,
            timeout=120,
        )

    with holding(cluster, checkout):
        done = run("execute", "--", "cat", "kept.txt")
        assert (done.returncode, done.stdout) == (0, "kept\n"), done.stderr
        assert "held by " in run("status").stdout and "no command runs" in dev_tpu(cluster, checkout, "status").stdout
        taken = run("allocate")
        assert taken.returncode == 1 and "use it with 'research dev-tpu connect'" in taken.stderr
        lines = run("connect", input="cat kept.txt | tr k K\n\nfalse\n")
        assert (lines.returncode, lines.stdout) == (0, "Kept\n"), lines.stderr
        assert "exit code 1" in lines.stderr
    assert "expected one such as v4-8" in run("allocate").stderr
    nothing = [*RESEARCH, "dev-tpu", "status", "--config", str(LOCAL)]
    told = subprocess.run(nothing, cwd=checkout, env=cluster.environment(), capture_output=True, text=True, timeout=120)
    assert told.stdout == "No TPU is held.\n"


def test_a_command_is_run_again_when_a_file_is_saved(cluster: Cluster, checkout: Path) -> None:
    """On the files as they are then, until Ctrl-C."""
    argv = [*RESEARCH, "dev-tpu", "watch", "--tpu-name", "mine", "--config", str(LOCAL), "--", "cat", "kept.txt"]
    with holding(cluster, checkout):
        pipe = subprocess.PIPE
        watching = subprocess.Popen(
            argv, cwd=checkout, env=cluster.environment(), stdout=pipe, stderr=subprocess.DEVNULL, text=True
        )
        assert watching.stdout is not None
        assert watching.stdout.readline() == "kept\n"
        (checkout / "kept.txt").write_text("next\n")
        assert watching.stdout.readline() == "next\n"
        watching.send_signal(signal.SIGINT)
        assert watching.wait(END_S) == 0


def test_release_frees_it_and_its_holder_says_so(cluster: Cluster, checkout: Path) -> None:
    """Anybody may release it; the holder ends and says who did; releasing it again is an error."""
    with holding(cluster, checkout) as holder:
        done = dev_tpu(cluster, checkout, "release")
        assert done.returncode == 0 and "held by" in done.stdout, done.stderr
        assert holder.process.wait(END_S) == 0
        assert "mine is free again: it was released by" in holder.said()
        eventually(cluster.free, SOON_S)
    again = dev_tpu(cluster, checkout, "release")
    assert again.returncode == 1 and "No TPU is held as 'mine'" in again.stderr


# Between two beats, for longer than a second.
LATE = """
import sys, time, ray
from research_steps.remote.ray import tpu
ray.init(sys.argv[1], namespace=tpu.NAMESPACE, logging_level="CRITICAL", log_to_driver=False)
allocated = tpu.allocate("late", "v4-8", 60, [], print)
ray.get(allocated.actor.release.remote("somebody"))
time.sleep(4)
print(tpu.hold(allocated, 60, [], print))
"""


def test_a_holder_that_is_late_hears_who_released_it(cluster: Cluster) -> None:
    """What was released stays until its holder was told, however busy the holder's machine is."""
    done = subprocess.run([sys.executable, "-c", LATE, cluster.address], capture_output=True, text=True)
    assert done.stdout.endswith("it was released by somebody\n"), done.stderr
    eventually(cluster.free, SOON_S)


def test_a_closed_terminal_frees_it(cluster: Cluster, checkout: Path) -> None:
    """The holder of a terminal that is closed frees it at once, and tells that where it still can."""
    with holding(cluster, checkout) as holder:
        holder.process.send_signal(signal.SIGHUP)
        assert holder.process.wait(END_S) == 0
        assert "mine is free again: SIGHUP was received" in holder.said()
        eventually(cluster.free, SOON_S)


def test_the_time_limit_frees_it(cluster: Cluster, checkout: Path) -> None:
    """Held for ten seconds and no longer."""
    with holding(cluster, checkout, "--for", "10s") as holder:
        assert holder.process.wait(END_S) == 0
        assert "mine is free again: its time of 10 s is over" in holder.said()
        eventually(cluster.free, SOON_S)


@contextmanager
def endless(cluster: Cluster, where: Path) -> Iterator[None]:
    """`execute` of a command that starts another and doesn't end by itself. At the end it is gone, with all that it
    started and with the copy of the tree, and its caller was told."""
    argv = [*RESEARCH, "dev-tpu", "execute", "--tpu-name", "mine", "--config", str(LOCAL), "--", "bash", "-c"]
    script = "sleep 1000 & echo $!; pwd; wait; true"
    with subprocess.Popen(
        [*argv, script], cwd=where, env=cluster.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        sleeping, copy = int(process.stdout.readline()), Path(process.stdout.readline().strip())
        assert Path(f"/proc/{sleeping}").exists() and (copy / "kept.txt").exists()
        yield
        assert process.wait(END_S) == 255
        assert process.stderr is not None and "error: mine is lost" in process.stderr.read()
        eventually(lambda: not Path(f"/proc/{sleeping}").exists() and not copy.exists(), END_S)


def test_a_killed_holder_frees_it(cluster: Cluster, checkout: Path) -> None:
    """Killed outright: the TPU is free, what ran on it is gone, and its caller is told."""
    with holding(cluster, checkout) as holder:
        with endless(cluster, checkout):
            holder.process.kill()
            eventually(cluster.free, END_S)


def test_a_silent_holder_loses_it(cluster: Cluster, checkout: Path) -> None:
    """Nothing is heard of a holder that came through Ray Client, as when the network is cut: the TPU is free soon and
    what ran on it is gone; when the holder is back, it says that it lost it."""
    with holding(cluster, checkout, RAY_ADDRESS=cluster.client) as holder:
        with endless(cluster, checkout):
            holder.process.send_signal(signal.SIGSTOP)
            try:
                eventually(cluster.free, END_S)
            finally:
                holder.process.send_signal(signal.SIGCONT)
        assert holder.process.wait(END_S) == 1
        assert "error: mine is lost" in holder.said()


def test_what_the_cluster_does_not_have_is_told(cluster: Cluster, checkout: Path) -> None:
    """Asked for another type, it waits, says what the cluster has, and gives up at the limit."""
    done = dev_tpu(cluster, checkout, "allocate", "--tpu-type", "v5p-8", "--wait", "4s")
    assert done.returncode == 1
    assert "waiting for TPU: 4, TPU-v5p-8-head: 1" in done.stderr
    assert "No v5p-8 within 4 s" in done.stderr and "TPU 4 (4 free), TPU-v5p-8-head 0 (0 free)" in done.stderr


def test_a_recorded_command_is_an_entry(cluster: Cluster, tmp_path: Path) -> None:
    """What ran, where, how it ended and what it printed last is in the journal and the logbook, without secrets; stdout
    and exit code stay the command's."""
    repository: Repository = started(tmp_path / "checkout")
    root = repository.root
    script = "echo 'a ### b <!-- x'; exit 3"
    with holding(cluster, root):
        done = dev_tpu(
            cluster, root, "execute", "--record", "toy", "--label", "a try", "--env", "MY_TOKEN",
            "--", "sh", "-c", script, "--token", "s3cret-Value-of-mine", MY_TOKEN="t0ken-of-mine",
        )  # fmt: skip
    assert (done.returncode, done.stdout) == (3, "a ### b <!-- x\n")
    assert "TOY-002: a try" in done.stderr
    entry = repository.logbook.split("\n### ")[-1]
    assert "TOY-002 a try" in entry and "failed: exit code 3" in entry and "output_tail" in entry
    assert "s3cret-Value" not in entry and "t0ken-of-mine" not in entry and "MY_TOKEN" in entry
    verified = subprocess.run([*RESEARCH, "verify", "toy"], cwd=root, capture_output=True, text=True)
    assert verified.returncode == 0, verified.stdout


def test_a_command_on_a_held_tpu_is_a_trial_by_research_record(cluster: Cluster, tmp_path: Path) -> None:
    """It is a command like any other: its metrics, what it was configured with and its exit code are recorded here."""
    repository: Repository = started(tmp_path / "checkout")
    script = "print('METRIC time_s=0.5')"
    execute = [*RESEARCH, "dev-tpu", "execute", "--tpu-name", "mine", "--config", str(LOCAL), "--", "python", "-c"]
    record = [*RESEARCH, "record", "toy", "--label", "on the TPU", "--set", "work=7", "--"]
    with holding(cluster, repository.root):
        done = subprocess.run(
            [*record, *execute, script],
            cwd=repository.root, env=cluster.environment(), capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        failed = subprocess.run(
            [*record, *execute, "raise SystemExit(4)"],
            cwd=repository.root, env=cluster.environment(), capture_output=True, text=True, timeout=120,
        )  # fmt: skip
    assert done.returncode == 0 and "METRIC time_s=0.5" in done.stdout, done.stdout + done.stderr
    snapshot = Journal(open_store(str(repository.root / "local_store")), "toy").scan()
    trials = [stored.record for stored in snapshot.trials.values()]
    ok = next(trial for trial in trials if trial.status == "ok")
    assert ok.samples is not None and ok.samples.candidate == {"time_s": [0.5]} and ok.config == {"work": 7}
    assert failed.returncode == 4 and [trial.status for trial in trials].count("failed") == 1
    assert "on the TPU" in repository.logbook


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "can't be read as a cluster's configuration"),
        ("cluster_name: [", "can't be read as a cluster's configuration"),
        ("- a", "expected a mapping"),
        ("cluster_name: x", "provider in"),
        ("cluster_name: x\nprovider: {type: local}", "head_ip in"),
        ("cluster_name: x\nprovider: {type: gcp}", "doesn't say where the head of x is (provider 'gcp')"),
        ("cluster_name: x\nprovider: {type: local, head_ip: 127.0.0.99}", "There is no Ray cluster at 127.0.0.99:6379"),
    ],
)
def test_a_configuration_that_leads_to_no_cluster_is_told(tmp_path: Path, text: str | None, told: str) -> None:
    """One sentence, at once."""
    config = tmp_path / "x.yaml"
    if text is not None:
        config.write_text(text)
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    argv = [*RESEARCH, "dev-tpu", "release", "--tpu-name", "x", "--config", str(config)]
    done = subprocess.run(argv, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and told in done.stderr and "Traceback" not in done.stderr, done.stderr


@pytest.mark.parametrize("name", ["../up", "two words", "", "x" * 64, "-x"])
def test_a_name_that_is_no_file_name_is_told(tmp_path: Path, name: str) -> None:
    """Refused before anything is connected to."""
    argv = [*RESEARCH, "dev-tpu", "release", f"--tpu-name={name}", "--config", str(LOCAL)]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("error: --tpu-name") and "expected" in done.stderr


def test_a_tpu_host_is_asked_for_as_ray_names_it() -> None:
    """All chips of the host and the head of its slice; types of several hosts are refused."""
    assert resources_of("v4-8") == {"TPU": 4, "TPU-v4-8-head": 1}
    assert resources_of("v5litepod-8") == {"TPU": 8, "TPU-v5litepod-8-head": 1}
    assert resources_of("v6e-4") == {"TPU": 4, "TPU-v6e-4-head": 1}
    for several in ("v4-16", "v5litepod-16", "v4-0", "v4", "a100"):
        with pytest.raises(UsageError):
            resources_of(several)


def test_the_local_cluster_is_in_rays_own_format(monkeypatch: pytest.MonkeyPatch) -> None:
    """`ray up` takes the file, and it leads to the head on this machine unless RAY_ADDRESS says otherwise."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(yaml.safe_load(LOCAL.read_text())))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert read_cluster(LOCAL).address == "127.0.0.1:6379"
    monkeypatch.setenv("RAY_ADDRESS", "ray://elsewhere:10001")
    assert read_cluster(LOCAL).address == "ray://elsewhere:10001"
