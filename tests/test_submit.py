"""`research submit`, as a person uses it, on a real Ray cluster whose head was started as `make cluster` does."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from fray.types import ResourceConfig
from research_steps.errors import LauncherError, UsageError
from research_steps.git import Checkout
from research_steps.journal.journal import Journal
from research_steps.journal.store import open_store
from research_steps.remote.ray import jobs
from research_steps.remote.ray.config import read_cluster
from research_steps.trial.provenance import capture

from tests.support.ray_cluster import AUTHENTICATED, LOCAL, Cluster, eventually
from tests.support.toy_thread import RESEARCH, Repository, research

INFRA = Path(__file__).parents[1] / "infra"
SOON_S = 240

# A driver that needs no Marin: it says what it finds, does what it is told, and records a decision as a thread would.
THREAD = """
import json, os, sys, time
from pathlib import Path
from research_steps import Metric, Series

series = Series(topic="toy", prefix="TOY", goal="see it sent", metrics=(Metric("time_s", "min"),))


def decide(text):
    from research_steps.git import Checkout
    from research_steps.journal.journal import Journal
    from research_steps.actions import notes
    from research_steps.journal.store import open_store
    from research_steps.publish.entry_writer import EntryWriter

    writer = EntryWriter(Checkout.find(), Journal(open_store(os.environ["MARIN_PREFIX"]), "toy"), series)
    notes.decide(writer, text, [], "", False)


if __name__ == "__main__":
    for word in sys.argv[1:]:
        does, _, value = word.partition("=")
        if does == "look":
            files = {str(path): os.access(path, os.X_OK) for path in Path(".").rglob("*") if path.is_file()}
            print(json.dumps({"files": files, "env": dict(os.environ)}))
        elif does == "decide":
            decide(value)
        elif does == "wait":
            print("waiting")
            while not Path(value).exists():
                time.sleep(0.1)
        elif does == "count":
            for number in range(int(value)):
                print("line", number)
                time.sleep(0.1)
        elif does == "exit":
            sys.exit(int(value))
"""


class Sender(Repository):
    """A checkout with a thread that is sent, and a published entry in it."""

    def __init__(self, root: Path, job_server: str) -> None:
        super().__init__(root)
        self.job_server = job_server
        self.store = root.parent / "store"
        (self.experiment / "__main__.py").write_text(THREAD)
        assert research(root, "kickoff", "toy", "--branch", ".").returncode == 0
        self.commit()

    def start(self, *arguments: str, options: tuple[str, ...] = (), **environment: str) -> "subprocess.Popen[str]":
        """`research submit … -- python -m experiments.toy ARGUMENTS` as a process."""
        argv = [*RESEARCH, "submit", "--cluster", str(LOCAL), "--prefix", str(self.store), *options]
        argv += ["--", "python", "-m", "experiments.toy", *arguments]
        # Where RAY_ADDRESS leads, nobody is: the job server has an address of its own.
        addresses = {"RAY_API_SERVER_ADDRESS": self.job_server, "RAY_ADDRESS": "127.0.0.1:1"}
        environment = {**os.environ, "WANDB_MODE": "disabled", **addresses, **environment}
        pipe = subprocess.PIPE
        return subprocess.Popen(argv, cwd=self.root, env=environment, stdout=pipe, stderr=pipe, text=True)

    @property
    def journal(self) -> Journal:
        return Journal(open_store(str(self.store)), "toy")


def ended(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    """Its exit code and what else it printed on both streams."""
    printed, told = process.communicate(timeout=SOON_S)
    assert "Traceback" not in told, told
    return process.returncode, printed, told


@pytest.fixture
def sender(tmp_path: Path, ray: Cluster) -> Sender:
    return Sender(tmp_path / "checkout", ray.jobs)


def test_a_driver_runs_on_the_work_tree_as_it_is_and_the_logbook_follows(sender: Sender, tmp_path: Path) -> None:
    """Its output and exit code are the caller's; edits and new files are there, ignored ones are not; the record names
    the commit and the patch, whose bytes are kept; its number follows those that are published; the variables that were
    named are set; and its entry is in the logbook here before it has ended."""
    root, go = sender.root, tmp_path / "go"
    (root / "needed").write_text("ignored")
    (root / "new.sh").write_text("#!/bin/sh\n")
    (root / "new.sh").chmod(0o755)
    (sender.experiment / "new.txt").write_text("new")
    (root / "link").symlink_to("new.sh")
    (root / "away").symlink_to("/etc/hostname")
    (root / os.fsdecode(b"not \xff UTF-8")).touch()
    (root / "infra").mkdir()
    shutil.copy(INFRA / "environments.yaml", root / "infra")
    options = ("--env", "MINE", "--env", "GIVEN=a b", "--environment", "cpu")
    process = sender.start("look", "decide=It works.", f"wait={go}", "exit=3", options=options, MINE="from here")
    try:
        eventually(lambda: "TOY-002 It works." in sender.logbook or process.poll() is not None, SOON_S)
    finally:
        go.touch()
    code, printed, told = ended(process)
    assert code == 3, told

    seen = json.loads(next(line for line in printed.splitlines() if line.startswith("{")))
    files, env = seen["files"], seen["env"]
    assert {"experiments/toy/__main__.py", ".agents/logbooks/toy/TOY-001.jsonl", "new.sh", "link"} <= set(files)
    assert not {"needed", "away"} & set(files) and not any(name.startswith(".git/") for name in files)
    assert "left out, because Ray takes no such links or names: 'away', 'not \\udcff UTF-8'" in told
    assert files["new.sh"] and files["link"] and not files[".gitignore"]
    assert (env["MINE"], env["GIVEN"], env["JAX_PLATFORMS"]) == ("from here", "a b", "cpu")
    assert env["MARIN_PREFIX"] == str(sender.store)

    (entry,) = (stored.record for stored in sender.journal.scan().entries.values())
    made = entry.provenance
    assert (made.commit, made.branch) == (sender.git("rev-parse", "HEAD").strip(), "main")
    assert made.actor.name == "A Person" and made.command.startswith("python -m experiments.toy look")
    assert made.patch is not None
    patch = sender.journal.patch(made.patch)
    assert patch is not None and b"new.txt" in patch and b"new.sh" not in patch

    id = id_in(told)
    for options in ("", f" --log {id}", f" --stop {id}"):
        assert f"research jobs --cluster {LOCAL}{options}\n" in told
    assert research(root, "verify", "toy", "--prefix", str(sender.store)).returncode == 0


def id_in(told: str) -> str:
    """The ID of the job that is told of."""
    return next(word for word in told.split() if word.startswith("toy-")).rstrip(":")


def wait_for(process: "subprocess.Popen[str]", line: str) -> None:
    """Read what a process prints up to this line."""
    assert process.stdout is not None
    assert any(printed == line for printed in process.stdout)


def test_a_thread_is_running_once(sender: Sender, tmp_path: Path) -> None:
    """Of two who submit it at the same moment one starts the job, and both follow it; with another command, tree or
    environment it is refused; Ctrl-C ends following alone; who comes back gets the whole log; and when the job is
    stopped by the command that was printed, that is told."""
    command = f"wait={tmp_path / 'never'}"
    first, second = sender.start(command), sender.start(command)
    wait_for(first, "waiting\n")
    wait_for(second, "waiting\n")

    second.send_signal(signal.SIGINT)
    other, left = ended(sender.start("count=1")), ended(second)
    (sender.experiment / "new.txt").write_text("edited")
    edited = ended(sender.start(command, options=("--env", "A=1")))
    (sender.experiment / "new.txt").unlink()
    third = sender.start(command)
    wait_for(third, "waiting\n")

    id = id_in(left[2])
    stop = f"research jobs --cluster {LOCAL} --stop {id}"
    assert left[0] == 130 and f"detached: {id} runs on" in left[2] and f"stop: {stop}\n" in left[2]
    assert other[0] == 1 and f"{id} runs this thread with another command (" in other[2]
    assert edited[0] == 1 and f"{id} runs this thread with another work tree and another environment (" in edited[2]
    assert f"'{stop}'" in edited[2]

    address = {"RAY_API_SERVER_ADDRESS": sender.job_server, "RAY_ADDRESS": "127.0.0.1:1"}
    assert research(sender.root, *stop.split()[1:], **address).returncode == 0
    stayed, back = ended(first), ended(third)
    assert (stayed[0], back[0]) == (1, 1)
    assert all(f"error: {id} stopped without an exit code" in told for told in (stayed[2], back[2]))
    attached = f"{id} is running already: attached to it"
    assert attached in back[2] and [attached in told for told in (left[2], stayed[2])].count(True) == 1


def test_jobs_are_listed_followed_and_stopped(sender: Sender, tmp_path: Path) -> None:
    """With what runs and what has ended."""
    environment = {**os.environ, "RAY_API_SERVER_ADDRESS": sender.job_server, "RAY_ADDRESS": "127.0.0.1:1"}

    def jobs_command(*arguments: str) -> "subprocess.CompletedProcess[str]":
        argv = [*RESEARCH, "jobs", "--cluster", str(LOCAL), *arguments]
        return subprocess.run(argv, cwd=sender.root, env=environment, capture_output=True, text=True, timeout=SOON_S)

    code, _, told = ended(sender.start("count=1", f"wait={tmp_path / 'never'}", options=("--no-wait",)))
    assert code == 0, told
    id = id_in(told)
    eventually(lambda: f"{id}: running, since " in jobs_command().stdout, SOON_S)
    assert jobs_command("--stop", id).stdout == f"{id} was told to end\n"
    log = jobs_command("--log", id)
    assert log.returncode == 1 and f"{id} stopped without an exit code" in log.stderr, log.stderr
    assert "\nline 0\n" in log.stdout
    assert f"{id}: stopped, since " in jobs_command().stdout
    assert "knows no job nothing-1" in jobs_command("--stop", "nothing-1").stderr


def test_nobody_has_to_wait(sender: Sender) -> None:
    """--no-wait ends at once, and `research sync` brings the logbook up to date as it says."""
    code, printed, told = ended(sender.start("decide=Nobody waits.", options=("--no-wait",)))
    assert (code, printed) == (0, ""), told
    eventually(lambda: sender.journal.scan().entries, SOON_S)
    assert "Nobody waits." not in sender.logbook
    command = told.split("; 'research ")[1].partition("'")[0].split()
    assert research(sender.root, *command).returncode == 0
    assert "TOY-002 Nobody waits." in sender.logbook


class Cutter:
    """Forwards connections to a server, until they are cut, and unless they ask for what is `refused`."""

    refused, refusals = b"", 0

    def __init__(self, address: str) -> None:
        self._to = ("127.0.0.1", int(address.rpartition(":")[2]))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.address = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        for connection in self._open:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, server = self._listener.accept()[0], socket.create_connection(self._to)
                self._open += [client, server]
                for source, target in ((client, server), (server, client)):
                    threading.Thread(target=self._forward, args=(source, target), daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if self.refused and self.refused in data:
                    self.refusals += 1
                    source.shutdown(socket.SHUT_RDWR)
                    break
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


def test_a_cluster_that_knows_the_job_no_more_is_told_at_once(ray: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was started anew under who follows: nothing more comes, and to submit again is the way on."""
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", ray.jobs)
    with pytest.raises(LauncherError, match="knows no job toy-1: the cluster was started anew"):
        jobs.Server(read_cluster(LOCAL)).follow("toy-1")


def test_a_log_goes_on_where_its_connection_broke(sender: Sender) -> None:
    """Cut twice, every line comes once and in order, and the exit code is the driver's."""
    cutter = Cutter(sender.job_server)
    try:
        process = sender.start("count=30", "exit=5", RAY_API_SERVER_ADDRESS=cutter.address)
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line in ("line 9\n", "line 19\n"):
                cutter.cut()
        code, _, told = ended(process)
    finally:
        cutter.close()
    assert code == 5, told
    assert [line for line in lines if line.startswith("line")] == [f"line {number}\n" for number in range(30)]


def test_the_end_of_a_log_is_not_lost(sender: Sender, tmp_path: Path) -> None:
    """Also where the log can't be had at the time when the job ends, while the server tells that it has ended."""
    cutter, go = Cutter(sender.job_server), tmp_path / "go"
    try:
        process = sender.start(f"wait={go}", "count=3", "exit=5", RAY_API_SERVER_ADDRESS=cutter.address)
        wait_for(process, "waiting\n")
        cutter.refused = b"/logs/tail"
        cutter.cut()
        go.touch()
        eventually(lambda: statuses(sender) == ["FAILED"], SOON_S)
        before = cutter.refusals
        eventually(lambda: cutter.refusals > before + 2 or process.poll() is not None, SOON_S)
        cutter.refused = b""
        code, printed, told = ended(process)
    finally:
        cutter.close()
    assert code == 5, told
    assert printed.endswith("line 0\nline 1\nline 2\n")


def statuses(sender: Sender) -> list[str]:
    """What became of the jobs that this checkout submitted."""
    token = {"Authorization": f"Bearer {AUTHENTICATED['RAY_AUTH_TOKEN']}"}
    with urllib.request.urlopen(urllib.request.Request(f"{sender.job_server}/api/jobs/", headers=token)) as answer:
        jobs = json.load(answer)
    return [job["status"] for job in jobs if job["metadata"].get("store") == sender.journal.store.url]


def test_a_work_tree_that_ray_does_not_take_is_told(sender: Sender) -> None:
    """The largest files are named, and nothing is sent. The limit is Ray's, and lowered here by Ray's own variable."""
    (sender.root / "large.bin").write_bytes(os.urandom(300_000))
    code, _, told = ended(sender.start("exit=0", RAY_max_grpc_message_size="200000"))
    assert code == 1 and "Ray takes 0.2 MiB" in told and "The largest are large.bin (0.3 MiB)" in told


@pytest.mark.parametrize(
    ("config", "options", "argv", "told"),
    [
        (
            "local",
            ("--env", "WANDB_API_KEY=x"),
            "python -m experiments.toy",
            "WANDB_API_KEY looks like a secret",
        ),
        ("local", ("--env", "NOT_SET"), "python -m experiments.toy", "--env NOT_SET is not set here"),
        ("local", ("--env", "MARIN_PREFIX=x"), "python -m experiments.toy", "the store is named with --prefix"),
        ("local", ("--environment", "x"), "python -m experiments.toy", "expected one of default"),
        ("local", (), "python -m experiments.nothing", "There is no thread experiments/nothing/__main__.py"),
        ("local", (), "python -m experiments.toy --prefix=x", "give it to 'research submit'"),
        ("local", (), "python train.py", "expected 'python -m experiments.TOPIC …'"),
        ("local", (), "python -m experiments.toy", "There is no Ray cluster at http://127.0.0.1:1 ("),
        ("elsewhere", (), "python -m experiments.toy", "is on this machine's disk, and elsewhere runs on others"),
        (
            "cloud",
            ("--prefix", "s3://b/p"),
            "python -m experiments.toy",
            "'ray dashboard cloud.yaml' in another",
        ),
    ],
)
def test_what_can_not_be_sent_is_told(
    tmp_path: Path, config: str, options: tuple[str, ...], argv: str, told: str
) -> None:
    """One sentence, before anything is sent."""
    repository = Repository(tmp_path / "checkout")
    shutil.copy(LOCAL, repository.root)
    (repository.root / "elsewhere.yaml").write_text(
        "cluster_name: elsewhere\nprovider: {type: local, head_ip: 192.0.2.77}"
    )
    (repository.root / "cloud.yaml").write_text("cluster_name: cloud\nprovider: {type: gcp}")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MARIN_"))}
    if config == "local":
        environment["RAY_API_SERVER_ADDRESS"] = "http://127.0.0.1:1"
    command = [*RESEARCH, "submit", "--cluster", f"{config}.yaml", *options, "--", *argv.split()]
    done = subprocess.run(command, cwd=repository.root, env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert told in done.stderr
    assert not (repository.root / "local_store").exists()


def test_another_engine_is_told_where_a_tree_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `research origin` prints is what a run records where there is no git, and the patch is in the store."""
    repository = Repository(tmp_path / "checkout")
    (repository.experiment / "new.txt").write_text("edited")
    done = research(repository.root, "origin", "toy", "--prefix", str(tmp_path / "store"))
    assert done.returncode == 0 and done.stdout.count("\n") == 1, done.stderr
    here = capture(Checkout.find(repository.root), ["x"], "toy")
    shipped = tmp_path / "shipped"
    shipped.mkdir()
    monkeypatch.setenv("RESEARCH_ORIGIN", done.stdout)
    there = capture(Checkout.find(shipped), ["x"], "toy")
    assert there.provenance == here.provenance and there.patch is None
    assert here.provenance.patch is not None
    assert Journal(open_store(str(tmp_path / "store")), "toy").patch(here.provenance.patch) == here.patch
    assert capture(Checkout.find(repository.root), ["x"], "toy").patch == here.patch, "git tells more, where it is"

    monkeypatch.setenv("RESEARCH_ORIGIN", '{"commit": 1}')
    with pytest.raises(UsageError, match="expected the line that 'research origin TOPIC' prints"):
        capture(Checkout.find(shipped), ["x"], "toy")


def test_cluster_files_are_in_rays_own_format() -> None:
    """`ray up` takes each of them as it is, and the templates name a TPU type of one host and all that it has."""
    code = (
        "import sys, yaml\n"
        "from ray.autoscaler._private.util import prepare_config, validate_config\n"
        "for path in sys.argv[1:]:\n"
        "    validate_config(prepare_config(yaml.safe_load(open(path))))\n"
    )
    paths = [path for path in sorted(INFRA.glob("*.yaml")) if "cluster_name" in path.read_text()]
    assert {path.stem for path in paths} == {"local", "tpu-v4", "tpu-v5e"}
    done = subprocess.run([sys.executable, "-c", code, *map(str, paths)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

    from research_steps.remote.ray.client import amounts

    for path in paths:
        for kind in yaml.safe_load(path.read_text()).get("available_node_types", {}).values():
            if tpu := kind["node_config"].get("acceleratorType"):
                asked = amounts("step", ResourceConfig.with_tpu(tpu), 1)
                assert {name: value for name, value in asked.items() if "TPU" in name}.items() <= kind[
                    "resources"
                ].items()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "can't be read as a cluster's configuration"),
        ("cluster_name: [", "can't be read as a cluster's configuration"),
        ("- a", "expected a mapping"),
        ("cluster_name: x", "provider in"),
        ("cluster_name: x\nprovider: {type: local}", "head_ip in"),
        ("cluster_name: x\nprovider: {type: gcp}", "doesn't say where the job server of x is (provider 'gcp')"),
        ("cluster_name: x\nprovider: {type: local, head_ip: 127.0.0.99}", "127.0.0.99:8265"),
    ],
)
def test_a_configuration_that_leads_to_no_cluster_is_told(tmp_path: Path, text: str | None, told: str) -> None:
    """One sentence, at once."""
    config = tmp_path / "x.yaml"
    if text is not None:
        config.write_text(text)
    environment = {name: value for name, value in os.environ.items() if name != "RAY_API_SERVER_ADDRESS"}
    argv = [*RESEARCH, "jobs", "--cluster", str(config)]
    done = subprocess.run(argv, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and told in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_the_local_cluster_is_in_rays_own_format(monkeypatch: pytest.MonkeyPatch) -> None:
    """`ray up` takes the file, and it leads to the job server on this machine unless the variable says otherwise."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(yaml.safe_load(LOCAL.read_text())))
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    assert read_cluster(LOCAL).job_server == "http://127.0.0.1:8265"
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://elsewhere:1")
    assert read_cluster(LOCAL).job_server == "http://elsewhere:1"
