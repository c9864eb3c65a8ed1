"""Other users of the machine: what they prepare at a path that they can guess is told, never spoken to or believed.

A second user really is one: a process of another uid, which only root can start, as CI does.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import msgspec
import psutil
import pytest
from research_steps.errors import LauncherError
from research_steps.git import Checkout
from research_steps.remote.ssh.session import name_there
from research_steps.thread.dev.messages import Attempted
from research_steps.trial import contention
from research_steps.trial.launcher.daemon import Daemon
from research_steps.trial.launcher.protocol import Shutdown, done, line

from tests.support.dev_checkout import DevCheckout, checkout
from tests.support.other_user import NOBODY, Listener, listening, other_user, removed, said_to
from tests.support.ssh_server import MISSING, There, soon, sshd

FORGED = Attempted(
    id="TOY-001", ids="TOY-001.01", what="work=1000", status="ok", told="0.1 ×", verdict="improved", gain=0.9
)
SECRET = "not-for-others"


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DevCheckout]:
    """A checkout whose user has no runtime folder, so that the kept parent lies where others can be faster."""
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setenv("HUB_TOKEN", SECRET)
    with checkout(tmp_path) as made:
        yield made


@contextmanager
def forging(path: Path) -> Iterator[Listener]:
    with listening(path, line(done(FORGED))) as listener:
        yield listener


@contextmanager
def own_folder(folder: Path) -> Iterator[Listener]:
    """He makes the folder first, and listens in it."""
    with forging(folder / "socket") as listener:
        yield listener


@contextmanager
def linked_folder(folder: Path) -> Iterator[Listener]:
    """He leads from there to a folder of his own."""
    elsewhere = folder.with_name(f"{folder.name}-his")
    with forging(elsewhere / "socket") as listener:
        folder.symlink_to(elsewhere)
        os.lchown(folder, NOBODY, NOBODY)
        try:
            yield listener
        finally:
            removed(elsewhere)


@contextmanager
def open_folder(folder: Path) -> Iterator[Listener]:
    """The user's own folder is open, and he listens in it."""
    folder.mkdir()
    folder.chmod(0o777)
    with forging(folder / "socket") as listener:
        yield listener


@contextmanager
def open_above(folder: Path) -> Iterator[Listener]:
    """The folder is the user's own and private, and all the same it is he who listens there."""
    elsewhere = folder.with_name(f"{folder.name}-his")
    folder.mkdir(mode=0o700)
    with forging(elsewhere / "socket") as listener:
        (elsewhere / "socket").rename(folder / "socket")
        try:
            yield listener
        finally:
            removed(elsewhere)


PREPARED = [own_folder, linked_folder, open_folder, open_above]


@pytest.mark.parametrize("prepared", PREPARED)
def test_who_prepared_the_kept_parents_path_hears_nothing(
    repository: DevCheckout, prepared: Callable[[Path], AbstractContextManager[Listener]]
) -> None:
    """Not one byte of the environment; his answer is not believed, and one sentence says what is wrong."""
    folder = Daemon(repository.root).folder
    try:
        with prepared(folder) as listener:
            for command in (["toy", "--set", "work=1000"], ["--status"], ["--stop"]):
                with repository.start("dev", *command) as process:
                    output, told = process.communicate(timeout=120)
                assert process.returncode == 1, output + told
                assert "0.1 ×" not in output + told
                (message,) = [text for text in told.splitlines() if str(folder) in text]
                assert message.startswith("error: ") and "nothing was s" in message, message
        assert listener.heard == b""
    finally:
        removed(folder)
    assert repository.trials() == [] and not repository.journal.ids.reserved()
    assert "improved" in repository.dev("--set", "work=1000"), "once it is gone, all is well"


def test_the_kept_parent_serves_no_other_user(repository: DevCheckout) -> None:
    """Even where the way to its socket is open: he can neither have it run anything nor end it."""
    repository.dev("--set", "work=1000")
    parent, folder = repository.parent, Daemon(repository.root).folder
    folder.chmod(0o755)
    (folder / "socket").chmod(0o777)
    assert said_to(folder / "socket", line(Shutdown())) == b""
    assert psutil.pid_exists(parent)
    folder.chmod(0o700)
    assert repository.parent == parent
    assert "improved" in repository.dev("--set", "work=1000")


@pytest.mark.parametrize("mode", [0o700, 0o755])
def test_the_runtime_folder_is_used_where_it_is_private(
    repository: DevCheckout, monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    """Where others can open it, the kept parent lies in a folder of its own in the temporary one."""
    with tempfile.TemporaryDirectory() as runtime:
        Path(runtime).chmod(mode)
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
        assert "improved" in repository.dev("--set", "work=1000")
        assert (len(list(Path(runtime).glob("research-*/socket"))) == 1) is (mode == 0o700)
        repository.research("dev", "--stop")


def test_a_runtime_folder_that_goes_takes_no_trial_along(
    repository: DevCheckout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes when the last session of its user ends, as where a connection to a dev host is cut off."""
    with tempfile.TemporaryDirectory() as runtime:
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
        repository.dev("--set", "work=1000")
        parent = repository.parent
        (repository.root / "hold").write_text("0")
        with repository.start("dev", "toy", "work=1500") as process:
            assert soon(lambda: repository.status()["open"])
            assert soon(lambda: psutil.Process(parent).children(recursive=True)[1:])
            shutil.rmtree(next(Path(runtime).glob("research-*")))
            (repository.root / "hold").unlink()
            output, told = process.communicate(timeout=60)
        assert process.returncode == 0, output + told
        assert "improved" in output and repository.trials()[-1].config["work"] == 1500
        assert "improved" in repository.dev("work=1600")
        assert repository.parent != parent
        psutil.Process(parent).kill()
        repository.research("dev", "--stop")


def test_a_pipe_in_the_place_of_the_device_lock_holds_nobody_up(tmp_path: Path) -> None:
    """All users share the lock, so any of them can put one there: it is told, and not waited for."""
    machine = contention.Machine(tmp=tmp_path)
    tmp_path.chmod(0o1777)
    for folder in tmp_path.parents:
        if folder.parent != folder and str(folder).startswith("/tmp/"):
            folder.chmod(folder.stat().st_mode | 0o011)

    def prepare(told: int) -> None:
        os.mkfifo(machine.device_lock)
        os.mkfifo(machine.tpu_lock)
        os.write(told, b"!")

    with other_user(prepare) as (_, reading):
        assert os.read(reading, 1) == b"!"
    assert machine.lock_holder(machine.tpu_lock) == ""
    with (
        pytest.raises(LauncherError, match=r"device.lock can't be opened: it is no regular file\..* remove it"),
        contention.device_lock(machine, "TOY-001.01", lambda: False, print),
    ):
        pass


# -- on a dev host -----------------------------------------------------------------------------------------------------


@pytest.fixture
def there(tmp_path: Path) -> Iterator[There]:
    if MISSING:
        pytest.skip(MISSING)
    with sshd(tmp_path / "sshd") as made:
        yield made


def known(repository: DevCheckout, there: There, **more: str) -> None:
    """Have the checkout know the machine."""
    host = {"python": sys.executable, "ssh_config": str(there.config), **more}
    (repository.root / "infra").mkdir(exist_ok=True)
    (repository.root / "infra" / "dev_hosts.yaml").write_bytes(msgspec.yaml.encode({"away": host}))


def test_who_prepared_the_path_on_a_dev_host_hears_nothing(repository: DevCheckout, there: There) -> None:
    """What is run there is as safe from its other users."""
    known(repository, there)
    folder = Daemon(there.home / "research-steps" / name_there(Checkout.find(repository.root))).folder
    try:
        with own_folder(folder) as listener:
            told = repository.dev("work=1000", "--host", "away", code=1)
        assert f"error: On away: {folder} is not a folder that only you can open" in told
        assert listener.heard == b""
    finally:
        removed(folder)
    assert repository.trials() == []
    assert "improved" in repository.dev("work=1000", "--host", "away")


def test_a_folder_of_another_user_on_a_dev_host_gets_no_code(
    repository: DevCheckout, there: There, tmp_path: Path
) -> None:
    """He could change what runs there."""
    theirs = tmp_path / "theirs"
    theirs.mkdir(mode=0o777)
    if os.getuid() != 0:
        pytest.skip("only root can give files away")
    os.chown(theirs, NOBODY, NOBODY)
    known(repository, there, root=str(theirs))
    told = repository.dev("work=1000", "--host", "away", code=1)
    assert f"error: On away: {theirs} belongs to another user" in told
    assert list(theirs.iterdir()) == []
