"""Dev mode on another machine: a real sshd on loopback, and one in a network namespace whose link goes down."""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from research_steps.git import Checkout
from research_steps.remote.ssh.host import SshHost
from research_steps.trial import contention

from tests.support.dev_checkout import DevCheckout, checkout, checkout_at
from tests.support.ssh_server import MISSING, There, soon, sshd
from tests.support.untimed_thread import MEASURE

pytestmark = pytest.mark.skipif(MISSING != "", reason=MISSING)
SOON_S = 60.0


@contextmanager
def known(folder: Path, there: There) -> Iterator[DevCheckout]:
    """A checkout that knows the machine, and in which the noise floor there is known."""
    with checkout(folder) as made:
        (made.root / "infra").mkdir()
        lines = [
            f"away: {{python: {sys.executable}, ssh_config: {there.config}, env: [MKL_NUM_THREADS]}}",
            f"nowhere: {{python: {sys.executable}, ssh_config: {there.config}}}",
            f"pythonless: {{ssh: away, python: ~/no/python, ssh_config: {there.config}}}",
            f"bare: {{ssh: away, python: ~/bare, ssh_config: {there.config}}}",
            "odd: {path: /tmp}",
        ]
        (made.root / "infra" / "dev_hosts.yaml").write_text("\n".join(lines))
        (there.home / "bare").write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
        (there.home / "bare").chmod(0o755)
        made.commit()
        made.dev("work=1500", "--host", "away")
        assert there.root.is_dir()
        yield made


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[There]:
    with sshd(tmp_path_factory.mktemp("there") / "sshd") as made:
        yield made


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory, there: There) -> Iterator[DevCheckout]:
    """One for all tests, each of which leaves its code as it was."""
    with known(tmp_path_factory.mktemp("here"), there) as made:
        yield made


def session(made: DevCheckout) -> list[psutil.Process]:
    """The ssh sessions of a checkout that stay."""
    sessions = []
    for process in psutil.Process(made.parent).children():
        with suppress(psutil.NoSuchProcess):
            if process.name() == "ssh" and process.status() != psutil.STATUS_ZOMBIE:
                sessions.append(process)
    return sessions


# -- an attempt --------------------------------------------------------------------------------------------------------


def test_an_attempt_is_recorded_here_as_measured_there(here: DevCheckout, there: There) -> None:
    """With the environment of that machine and the commit of this checkout; nothing is claimed or recorded there."""
    output = here.dev("work=1000", "--host", "away", MKL_NUM_THREADS="2", OPENBLAS_NUM_THREADS="5")
    assert "work=1000: cost " in output and "improved, exploratory" in output
    record = here.trials()[-1]
    env = record.provenance.env
    assert (env["OMP_NUM_THREADS"], env["MKL_NUM_THREADS"], env.get("OPENBLAS_NUM_THREADS")) == ("3", "2", None)
    assert env["JAX_COMPILATION_CACHE_DIR"] == str(there.root / ".agents" / "jax-cache")
    assert record.provenance.commit == here.git("rev-parse", "HEAD").strip()
    assert record.provenance.command == "python -m research_steps dev toy work=1000 --host away"
    assert "1000 1 paired" in there.measured
    assert here.measured == []
    assert not (there.root / "local_store").exists()
    assert sorted(path.name for path in (there.root / ".agents").iterdir()) == ["outcomes", "trials"]


def test_a_command_line_is_measured_there(here: DevCheckout) -> None:
    """Its runs take turns on that machine, by the script that this checkout has."""
    tools, thread = here.root / "tools", here.experiment / "__main__.py"
    before = thread.read_text()
    tools.mkdir()
    (tools / "bench.py").write_text("import os, sys\nprint(f'METRIC cost={sys.argv[1]}')\nprint('in', os.getcwd())\n")
    command = 'steps.baseline(Command("python -S tools/bench.py {work}"),'
    imported = before.replace("from research_steps import ", "from research_steps import Command, ")
    thread.write_text(imported.replace("steps.baseline(measure,", command))
    try:
        here.dev("work=1000", "--host", "away")
        record = here.trials()[-1]
    finally:
        thread.write_text(before)
        shutil.rmtree(tools)
    assert record.command and record.command.argv[2:] == ("tools/bench.py", "1000"), record.error
    assert record.samples and record.samples.candidate["cost"][0] == 1000
    assert "in " in record.command.output and str(here.root) not in record.command.output


def test_files_follow_the_checkout(here: DevCheckout, there: There) -> None:
    """What was edited or added arrives before it is measured, what was deleted goes, what git ignores stays here."""
    extra = here.experiment / "extra one.py"
    extra.write_text("1\n")
    (here.root / ".gitignore").open("a").write("*.secret\n")
    (here.root / "my.secret").write_text("s")
    here.measure(MEASURE.replace('yield {"cost": config.work', 'yield {"cost": 3 * config.work'))
    here.dev("work=1000", "--host", "away")
    samples = here.trials()[-1].samples
    assert samples is not None and samples.candidate["cost"][0] == pytest.approx(3000, rel=0.1)
    assert (there.root / "experiments" / "toy" / extra.name).read_text() == "1\n"
    assert not (there.root / "my.secret").exists()
    extra.unlink()
    here.git("checkout", "--quiet", ".")
    here.dev("work=1000", "--host", "away")
    assert not (there.root / "experiments" / "toy" / extra.name).exists()
    assert (there.root / "experiments" / "toy" / "measure.py").read_text() == MEASURE


def test_an_edit_that_leaves_size_and_time_arrives(here: DevCheckout, there: There) -> None:
    """Two edits within a second, and a file that was put back with its time: the content decides."""
    other = MEASURE.replace('yield {"cost": config.work', 'yield {"cost": -config.work', 1)
    for text in (other, other.replace("-config.work", "+config.work")):
        here.measure(text)
        os.utime(here.experiment / "measure.py", (1_800_000_000, 1_800_000_000))
        here.dev("work=1000", "--host", "away")
        assert (there.root / "experiments" / "toy" / "measure.py").read_text() == text
    here.git("checkout", "--quiet", ".")


def test_checkouts_of_one_name_have_folders_of_their_own(here: DevCheckout, there: There, tmp_path: Path) -> None:
    """Another clone, and a copy of this one with all that git keeps: each is measured as it is itself."""
    shutil.copytree(here.root, tmp_path / "copy" / "checkout", symlinks=True)
    subprocess.run(["git", "clone", "--quiet", here.root, tmp_path / "clone" / "checkout"], check=True)
    for number, name in enumerate(("copy", "clone"), 3):
        with checkout_at(tmp_path / name / "checkout") as other:
            other.measure(MEASURE.replace('yield {"cost": config.work', f'yield {{"cost": {number} * config.work'))
            other.dev("work=1000", "--host", "away")
            samples = other.trials()[-1].samples
            assert samples is not None and samples.candidate["cost"][0] == pytest.approx(number * 1000, rel=0.1)
    assert len(there.roots) == 3
    here.dev("work=1000", "--host", "away")
    samples = here.trials()[-1].samples
    assert samples is not None and samples.candidate["cost"][0] == pytest.approx(1000, rel=0.1)


def test_a_folder_takes_the_place_of_a_file_and_gives_it_back(here: DevCheckout, there: There) -> None:
    """Whatever became of a name, the other machine has the same."""
    name, away = here.root / "odd name\n", there.root / "odd name\n"
    name.write_text("a file\n")
    here.dev("work=1000", "--host", "away")
    assert away.read_text() == "a file\n"
    name.unlink()
    name.mkdir()
    (name / "below").write_text("below\n")
    here.dev("work=1000", "--host", "away")
    assert (away / "below").read_text() == "below\n"
    shutil.rmtree(name)
    name.write_text("a file again\n")
    here.dev("work=1000", "--host", "away")
    assert away.read_text() == "a file again\n"
    name.unlink()


def test_the_value_of_a_variable_is_on_no_command_line(here: DevCheckout) -> None:
    """It is there in what is measured, though whoever lists processes never sees it."""
    value = secrets.token_hex()
    here.measure(
        MEASURE.replace(
            "    if config.work == BROKEN:",
            "    print('seen', os.environ.get('MY_TOKEN'))\n    if config.work == BROKEN:",
        )
    )
    lines: set[str] = set()
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(0.005):
            for process in psutil.process_iter():
                with suppress(psutil.Error):
                    lines.add(" ".join(process.cmdline()))

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        output = here.dev("work=1000", "--host", "away", "--env", "MY_TOKEN", MY_TOKEN=value)
        assert "seen None" in here.dev("work=1000", "--host", "away", MY_TOKEN=value)
    finally:
        ended.set()
        watcher.join()
        here.git("checkout", "--quiet", ".")
    assert f"seen {value}" in output
    assert any("rsync" in line for line in lines)
    assert not [line for line in lines if value in line]


def test_one_session_and_one_parent_there_serve_all_attempts(here: DevCheckout) -> None:
    """The next attempt finds both, and no second machine in a record."""
    here.dev("work=1000", "--host", "away")
    (before,) = session(here)
    here.dev("work=1100", "--host", "away", "-n", "2")
    assert session(here) == [before]
    assert len({trial.launch.parent_pid for trial in here.trials()[-3:]}) == 1
    assert here.trials()[-1].launch.parent_pid != here.parent


def test_a_parent_there_that_is_gone_is_started_again(here: DevCheckout) -> None:
    """Killed, or stopped when it was idle: the next attempt is an ordinary one."""
    here.dev("work=1000", "--host", "away")
    first = here.trials()[-1].launch.parent_pid
    os.kill(first, signal.SIGKILL)
    here.dev("work=1000", "--host", "away")
    assert here.trials()[-1].launch.parent_pid != first


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host", "nowhere"], "nowhere can't be reached: ssh: connect to host 127.0.0.1 port 1: Connection refused. "),
        (["--host", "pythonless"], "There is no Python ~/no/python on pythonless ("),
        (["--host", "bare"], "research_steps does not import in ~/bare on bare: install it there"),
        (["--host", "odd"], "can't be used for 'odd': Object contains unknown field `path`. Expected lines such as"),
        (["--host", "away", "--env", "NO_SUCH"], "--env was given NO_SUCH, which is not set here"),
        (["--env", "HOME"], "--env was given without --host"),
    ],
)
def test_what_can_not_be_reached_or_used_is_told_in_a_sentence(
    here: DevCheckout, arguments: list[str], message: str
) -> None:
    """No ID is taken for it."""
    before = here.journal.ids.reserved()
    told = here.dev("work=1000", *arguments, code=1)
    assert "error: " in told and message in told
    assert "Traceback" not in told
    assert here.journal.ids.reserved() == before


# -- what is cut off ---------------------------------------------------------------------------------------------------


def begun(there: There, before: int) -> bool:
    return soon(lambda: len(there.measured) > before)


def test_ctrl_c_ends_the_trial_there(here: DevCheckout, there: There) -> None:
    """It stands as interrupted, and the parent there serves the next attempt."""
    here.dev("work=1000", "--host", "away")
    parent = psutil.Process(here.trials()[-1].launch.parent_pid)
    interrupted = here.status()["interrupted"]
    with there.held():
        count = len(there.measured)
        with here.start("dev", "toy", "work=1500", "--host", "away") as process:
            assert begun(there, count)
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=60)
        assert soon(lambda: not parent.children())
    assert soon(lambda: here.status()["interrupted"] == interrupted + 1)
    assert here.status()["open"] == []
    here.dev("work=1500", "--host", "away")
    assert here.trials()[-1].launch.parent_pid == parent.pid


def cut_session(here: DevCheckout, there: There) -> None:
    session(here)[0].kill()


def cut_sshd(here: DevCheckout, there: There) -> None:
    for process in psutil.Process(there.sshd.pid).children():
        process.kill()


def let_go(there: There) -> None:
    """In one step: the trial there reads it again and again."""
    aside = there.root / "hold.new"
    aside.write_text("9999")
    aside.rename(there.root / "hold")


@pytest.mark.parametrize("cut", [cut_session, cut_sshd])
@pytest.mark.parametrize("ends", ["while cut off", "later"])
def test_a_connection_that_is_cut_off_in_mid_trial_loses_nothing(
    here: DevCheckout, there: There, cut: Callable[[DevCheckout, There], None], ends: str
) -> None:
    """The trial goes on there, and is the one record; it is not run again."""
    here.dev("work=1000", "--host", "away")
    records, count = len(here.known().trials), len(there.measured)
    with there.held(), here.start("dev", "toy", "work=1200", "--host", "away") as process:
        assert begun(there, count)
        if ends == "later":
            cut(here, there)
            time.sleep(1)
            let_go(there)
        else:
            let_go(there)
            cut(here, there)
        output, told = process.communicate(timeout=60)
    assert process.returncode == 0, output + told
    assert len(here.known().trials) == records + 1
    assert there.measured[count:] == ["1200 1 paired", "2000 1 paired"]
    record = here.trials()[-1]
    assert (record.config["work"], record.attempt, record.status) == (1200, 0, "ok")
    parent = psutil.Process(record.launch.parent_pid)
    assert soon(lambda: not parent.children()), "who held the conversation there ends when it was cut off"


def test_a_trial_that_died_while_it_was_cut_off_is_begun_again(here: DevCheckout, there: There) -> None:
    """Nothing waits forever for what will never come: the attempt is interrupted, and the next one is measured."""
    here.dev("work=1000", "--host", "away")
    parent = here.trials()[-1].launch.parent_pid
    with there.held():
        count = len(there.measured)
        with here.start("dev", "toy", "work=1300", "--host", "away") as process:
            assert begun(there, count)
            cut_session(here, there)
            os.kill(parent, signal.SIGKILL)
            let_go(there)
            output, told = process.communicate(timeout=60)
    assert process.returncode == 0, output + told
    assert "was cut off, and the trial has no result there. It is begun again." in output
    assert here.trials()[-1].attempt == 1


def test_a_turn_that_is_cut_off_before_its_trial_is_free_again(
    here: DevCheckout, there: There, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others on that machine don't wait for somebody who is gone, and who was cut off gets another turn."""
    monkeypatch.chdir(here.root)
    host = SshHost("away", Checkout.find(), tmp_path, (), False, lambda message: None)
    messages: list[str] = []
    for _ in range(2):
        with host.turn("TOY-900", True, 0.0, messages.append) as turn:
            assert turn.left_s == 0.0
            assert turn.is_quiet is False
            control = next(tmp_path.glob("*.ssh"))
            subprocess.run(["ssh", "-F", there.config, "-S", control, "-O", "exit", "away"], check=True)
            with contention.device_lock(contention.Machine(), "probe", lambda: False, messages.append):
                pass


# -- a network that is gone for a while --------------------------------------------------------------------------------

NEAR, FAR = "10.213.97.1", "10.213.97.2"


@pytest.fixture
def link() -> Iterator[tuple[str, str]]:
    """A network namespace, and the end of the link to it that can be set down here."""
    if os.getuid() != 0 or shutil.which("ip") is None:
        pytest.skip("a network namespace needs root and the command 'ip': apt-get install iproute2")
    name = f"rs-{secrets.token_hex(3)}"

    def ip(*arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True, capture_output=True)

    try:
        ip("netns", "add", name)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespace can be made here: {error.stderr.decode().strip()}")
    try:
        ip("link", "add", f"{name}-a", "type", "veth", "peer", "name", f"{name}-b", "netns", name)
        ip("addr", "add", f"{NEAR}/30", "dev", f"{name}-a")
        ip("link", "set", f"{name}-a", "up")
        ip("-n", name, "addr", "add", f"{FAR}/30", "dev", f"{name}-b")
        ip("-n", name, "link", "set", f"{name}-b", "up")
        yield name, f"{name}-a"
    finally:
        ip("netns", "del", name)


def test_a_network_that_is_gone_for_longer_than_the_session_loses_nothing(tmp_path: Path, link: tuple[str, str]) -> None:
    """Nobody is told that the connection is gone; it is noticed, the host is tried until it answers, and the record
    comes, once."""
    name, end = link
    with (
        sshd(tmp_path / "sshd", FAR, ("ip", "netns", "exec", name)) as there,
        known(tmp_path, there) as here,
        there.held(),
    ):
        count = len(there.measured)
        with here.start("dev", "toy", "work=1200", "--host", "away") as process:
            assert begun(there, count)
            subprocess.run(["ip", "link", "set", end, "down"], check=True)
            assert soon(lambda: not session(here))
            let_go(there)
            assert process.stderr is not None
            assert any("can't be reached: ssh: connect to host" in line for line in process.stderr)
            subprocess.run(["ip", "link", "set", end, "up"], check=True)
            output, told = process.communicate(timeout=120)
        assert process.returncode == 0, output + told
        assert there.measured[count:] == ["1200 1 paired", "2000 1 paired"]
        (record,) = [trial for trial in here.trials() if trial.config["work"] == 1200]
        assert (record.attempt, record.status) == (0, "ok")
