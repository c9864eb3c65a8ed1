"""The launcher, with real processes: whatever a trial does, its outcome says so and the next trial is not hurt."""

import contextlib
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
from research_steps.errors import LauncherError
from research_steps.records.series import Metric
from research_steps.trial.launcher.launcher import Launcher
from research_steps.trial.launcher.protocol import TrialOutcome

from tests.support import failing_measures
from tests.support.planted_secrets import planted
from tests.support.trial_requests import REPOSITORY, SOON_S, request


def next_trial_is_fine(launcher: Launcher, parent: int) -> None:
    """The next trial has its samples, and the same parent ran it."""
    ended = launcher.run(request("steady"))
    assert ended.error is None
    assert ended.samples is not None
    assert ended.samples.candidate == {"time_s": [2.0] * 5}
    assert ended.launch.parent_pid == parent


def soon(condition: Any) -> bool:
    """Whether the condition comes to hold."""
    deadline = time.monotonic() + SOON_S
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def folder_of(parent: int) -> Path:
    """The folder of the socket that a parent listens on."""
    return next(
        Path(connection.laddr).parent
        for connection in psutil.Process(parent).net_connections("unix")
        if connection.laddr
    )


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    """A launcher for the trials of many tests; what they leave in the temporary folder is pytest's to remove."""
    with pytest.MonkeyPatch.context() as environment, Launcher() as launcher:
        environment.setenv("TMPDIR", str(tmp_path_factory.mktemp("trials")))
        yield launcher


@pytest.fixture
def launcher() -> Iterator[Launcher]:
    with Launcher() as launcher:
        yield launcher


@pytest.fixture
def running(launcher: Launcher, tmp_path: Path) -> Iterator[tuple[Any, int, list[int]]]:
    """A trial that hangs with processes of its own: the future of its outcome, its parent and all processes below."""
    parent = launcher.run(request("steady")).launch.parent_pid
    pids = tmp_path / "pids"
    with ThreadPoolExecutor() as pool:
        future = pool.submit(launcher.run, request("leaves_processes", {"pids": str(pids), "hangs": True}))
        assert soon(lambda: pids.exists() and pids.read_text())
        yield future, parent, [process.pid for process in psutil.Process(parent).children(recursive=True)]
        launcher.close()


# -- what a trial may do -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", failing_measures.RAISED)
def test_any_exception_is_the_trials_failure(shared: Launcher, name: str) -> None:
    """Whatever class it is and whatever its message holds, it comes back as data, with the side and the line."""
    ended = shared.run(request("raises", {"name": name}))
    error = ended.error
    assert error is not None
    assert error.type == type(failing_measures.RAISED[name]).__name__
    assert error.where == "candidate"
    assert len(error.message) < 20_000
    msgspec.json.decode(msgspec.json.encode(error))
    next_trial_is_fine(shared, ended.launch.parent_pid)


def test_a_failure_names_its_line_and_says_what_was_said(shared: Launcher) -> None:
    """Type, message and frame are enough to find the fault without running it again."""
    error = shared.run(request("raises", {"name": "ValueError"})).error
    assert error.message == "no such kernel"
    assert error.frames[-1].startswith("tests/support/failing_measures.py:")
    assert error.frames[-1].endswith(" in raises")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Unspeakable", "<exception str() failed>"),
        ("surrogates", "half a pair \\ud800, and \x00"),
        ("long", "x" * 10_000 + "… (1048576 characters)"),
    ],
)
def test_a_message_that_can_not_be_shown_says_so(shared: Launcher, name: str, message: str) -> None:
    """An exception whose own text fails, is no text or is too long still has its type, line and what can be said."""
    error = shared.run(request("raises", {"name": name})).error
    assert error.message == message
    assert error.frames[-1].endswith(" in raises")


@pytest.mark.parametrize(
    ("function", "changes", "where", "message"),
    [
        ("raises_in_baseline", {"baseline_config": {"fails": True}}, "baseline", "no baseline here"),
        ("raises_late", {"config": {"fails": True}, "baseline_config": {}}, "candidate", "only now"),
        ("no_such_function", {}, "child", "no_such_function"),
        ("steady", {"cwd": "/no/such/folder"}, "child", "/no/such/folder"),
        ("steady", {"config_type": "tests.support.failing_measures:NoSuchConfig"}, "child", "NoSuchConfig"),
    ],
)
def test_a_failure_says_where_it_was(
    shared: Launcher, function: str, changes: dict[str, Any], where: str, message: str
) -> None:
    """A broken baseline is not blamed on the candidate, nor what went wrong before either began."""
    error = shared.run(request(function, **changes)).error
    assert error.where == where
    assert message in error.message


@pytest.mark.parametrize(
    ("name", "exit"),
    [
        ("segfault", "signal SIGSEGV"),
        ("abort", "signal SIGABRT"),
        ("exit 3", "exit code 3"),
        ("exit 0", "exit code 0"),
        ("kill 40", "signal 40"),
    ],
)
def test_a_process_that_ends_by_itself_is_an_outcome(shared: Launcher, name: str, exit: str) -> None:
    """There is no result then, and the outcome says by what the process ended."""
    ended = shared.run(request("crashes", {"name": name}))
    assert ended.samples is None
    assert ended.error.type == ("Crash" if "signal" in exit else "Exit")
    assert ended.launch.exit == exit
    next_trial_is_fine(shared, ended.launch.parent_pid)


@pytest.mark.parametrize(("name", "signal"), [("kill 9", "SIGKILL"), ("kill 15", "SIGTERM"), ("kill 1", "SIGHUP")])
def test_a_process_that_others_end_is_interrupted(shared: Launcher, name: str, signal: str) -> None:
    """By the signals that people, schedulers and the system send: no fault of what was measured."""
    ended = shared.run(request("crashes", {"name": name}))
    assert (ended.samples, ended.error) == (None, None)
    assert ended.interrupted == f"Its process was ended by signal {signal}, as by the system or a person."
    next_trial_is_fine(shared, ended.launch.parent_pid)


@pytest.mark.parametrize("name", ["segfault", "abort"])
def test_a_crash_in_c_says_where_it_was(shared: Launcher, name: str) -> None:
    """The output's end has Python's own frames at the moment of the crash."""
    assert "in crashes" in shared.run(request("crashes", {"name": name})).error.output_tail


@pytest.mark.parametrize("name", ["in Python", "in C", "stopped", "in its clean-up", "away from its group"])
def test_a_trial_that_hangs_is_killed_at_its_time_limit(shared: Launcher, name: str) -> None:
    """However it hangs: SIGTERM ignored, the GIL held, stopped, after its last sample, or hidden from its group."""
    ended = shared.run(request("hangs", {"name": name}, time_limit_s=3.0))
    assert ended.error.type == "TimeLimit"
    assert ended.samples is None
    assert ended.launch.exit == "signal SIGKILL"
    assert "about to hang" in ended.error.output_tail
    next_trial_is_fine(shared, ended.launch.parent_pid)


def test_processes_that_a_trial_leaves_behind_end_with_it(shared: Launcher, tmp_path: Path) -> None:
    """Also those that hide in sessions of their own, so that they don't disturb the next trial's timing."""
    ended = shared.run(request("leaves_processes", {"pids": str(tmp_path / "pids")}))
    assert ended.samples is not None
    left = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert len(left) == 3
    assert all(gone(pid) for pid in left)
    next_trial_is_fine(shared, ended.launch.parent_pid)


def test_a_measure_function_that_forks_gives_one_result(shared: Launcher) -> None:
    """The process that was started for the trial counts, and not its copy."""
    for _ in range(5):
        ended = shared.run(request("returns_twice"))
        assert set(ended.samples.candidate["time_s"]) == {1.0}
    next_trial_is_fine(shared, ended.launch.parent_pid)


@pytest.mark.parametrize(("first", "last"), [(1, 3), (3, 4096), (0, 4096)])
def test_a_trial_that_closes_files_has_its_result_all_the_same(shared: Launcher, first: int, last: int) -> None:
    """Standard output, everything above it, or all descriptors that it has."""
    ended = shared.run(request("closes_files", {"first": first, "last": last}))
    assert ended.samples is not None
    next_trial_is_fine(shared, ended.launch.parent_pid)


def test_what_is_cut_holds_no_part_of_a_secret(shared: Launcher, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the output its end is kept, of a message its beginning, and either may cut a token in two."""
    token = planted(1)["Neptune"] * 3
    told = shared.run(request("tells_a_token", {"token": token, "behind": 1990, "before": 4975})).error
    assert 4000 < len(told.output_tail) <= 4096
    assert 10_000 <= len(told.message) < 10_100
    for text in (told.output_tail, told.message):
        assert not any(token[at : at + 20] in text for at in range(len(token) - 20))


def test_output_of_any_size_and_kind_is_kept_by_its_end(shared: Launcher) -> None:
    """100 MB of bytes that are no text fill no pipe and no memory; what was said last can be read."""
    before = psutil.Process(shared.run(request("steady")).launch.parent_pid).memory_info().rss
    ended = shared.run(request("prints", {"bytes": 100_000_000}))
    assert ended.error.message == "printed"
    assert ended.error.output_tail.endswith("the last line\n")
    assert len(ended.error.output_tail) <= 4096
    assert psutil.Process(ended.launch.parent_pid).memory_info().rss < before + 50_000_000
    next_trial_is_fine(shared, ended.launch.parent_pid)


def test_what_a_trial_does_to_its_process_stays_there(shared: Launcher) -> None:
    """Working directory, umask, import path, streams, environment, signals, limits and threads: it still has a result,
    and the next trial finds its own."""
    ended = shared.run(request("disturbs_its_process"))
    assert ended.samples is not None
    next_trial_is_fine(shared, ended.launch.parent_pid)


def test_memory_that_a_limit_refuses_is_a_failure(shared: Launcher) -> None:
    """The trial fails by MemoryError, nothing else does."""
    ended = shared.run(request("takes_too_much"))
    assert ended.error.type == "MemoryError"
    next_trial_is_fine(shared, ended.launch.parent_pid)


@pytest.mark.parametrize("name", ["fork", "spawn", "forkserver"])
def test_a_trial_may_use_multiprocessing(shared: Launcher, name: str) -> None:
    """Each of its three ways to start processes works in a trial's process."""
    ended = shared.run(request("uses_multiprocessing", {"name": name}))
    assert ended.error is None, ended.error
    assert ended.samples.candidate == {"time_s": [14.0]}
    next_trial_is_fine(shared, ended.launch.parent_pid)


# -- what a trial finds ------------------------------------------------------------------------------------------------


def seen(launcher: Launcher, *libraries: str) -> dict[str, float]:
    ended = launcher.run(request("sees", {"cwd": str(REPOSITORY)}, libraries=libraries))
    assert ended.error is None
    return {name: values[0] for name, values in ended.samples.candidate.items()}


def test_libraries_are_there_and_the_process_is_clean(launcher: Launcher) -> None:
    """A library is imported before the fork, once it was asked for; no backend, input, signal mask or file is left over
    from anybody else."""
    first = seen(launcher)
    assert first["preloaded"] == 0.0
    second = seen(launcher, "wave", "wave.no_module", "no_library")
    assert second == {**first, "preloaded": 1.0}
    assert first["backends"] == first["signals_blocked"] == 0.0
    assert first["reads_nothing"] == first["in_cwd"] == 1.0
    # Input, output twice, the folder being listed, and those of the loop that forked: nothing that grows.
    with ThreadPoolExecutor(8) as pool:
        counts = pool.map(lambda _: seen(launcher)["files"], range(8))
    assert set(counts) == {first["files"]}


def test_a_library_that_exits_when_imported_is_the_trials_failure_only(
    launcher: Launcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parent tries to import it, says nothing, and goes on; the trial gets the true error."""
    (tmp_path / "library").mkdir()
    (tmp_path / "library" / "leaver.py").write_text("import sys\nprint('leaving')\nsys.exit('not on this machine')\n")
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "kernel.py").write_text("def measure(config):\n    import leaver\n")
    root = tmp_path / "experiment"
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "library"), prepend=os.pathsep)
    ended = launcher.run(request("kernel:measure", root=root, libraries=("leaver",)))
    assert ended.error.type == "SystemExit"
    assert ended.error.message == "not on this machine"
    next_trial_is_fine(launcher, ended.launch.parent_pid)


def test_jax_runs_on_as_many_devices_as_each_trial_wants(launcher: Launcher) -> None:
    """With JAX and Levanter imported before the fork, a trial on four devices is followed by one on one."""
    libraries = ("jax", "jax.numpy", "levanter.grug.grug_moe")
    parents = set()
    for devices in (4, 1, 4):
        ended = launcher.run(request("on_devices", {"devices": devices}, libraries=libraries, time_limit_s=200.0))
        assert ended.error is None, ended.error
        assert [(device.backend, device.count) for device in ended.devices] == [("cpu", devices)]
        assert set(ended.samples.candidate["time_s"]) == {56.0}
        parents.add(ended.launch.parent_pid)
    assert len(parents) == 1
    assert seen(launcher, *libraries)["backends"] == 0.0


# -- code as it is on disk now -----------------------------------------------------------------------------------------


def kernel(value: int) -> str:
    return f"def measure(config):\n    import helper\n    return {{'time_s': helper.value, 'version': {value}}}\n"


def test_an_edited_kernel_is_what_the_next_trial_runs(launcher: Launcher, tmp_path: Path) -> None:
    """Also when the edits come within one second and keep the file's size, which bytecode caches can't tell."""
    measured = []
    for value in (1, 2, 3):
        for name, text in (("kernel.py", kernel(value)), ("helper.py", f"value = {value}\n")):
            (tmp_path / name).write_text(text)
            os.utime(tmp_path / name, ns=(0, 1_700_000_000_000_000_000 + value))
        if not measured:
            # As a driver does: import the code, and so leave its bytecode beside it.
            writing = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
            subprocess.run([sys.executable, "-c", "import kernel, helper"], cwd=tmp_path, env=writing, check=True)
            assert (tmp_path / "__pycache__").exists()
        ended = launcher.run(request("kernel:measure", root=tmp_path, metrics=(Metric("time_s"), Metric("version"))))
        measured.append((ended.samples.candidate, ended.launch.parent_pid))
    assert [values for values, _ in measured] == [{"time_s": [v], "version": [v]} for v in (1.0, 2.0, 3.0)]
    assert len({parent for _, parent in measured}) == 1


def test_code_that_changed_after_the_run_began_is_refused(launcher: Launcher, tmp_path: Path) -> None:
    """A record never names other code than what was measured."""
    (tmp_path / "helper.py").write_text("value = 1\n")
    (tmp_path / "kernel.py").write_text(kernel(1))
    begun = request("kernel:measure", root=tmp_path)
    (tmp_path / "helper.py").write_text("value = 2\n")
    ended = launcher.run(begun)
    assert ended.error is None and ended.samples is None
    assert "run the thread again" in ended.interrupted


@pytest.mark.parametrize("does", ["goes on", "fails"])
def test_code_that_is_saved_while_it_is_set_up_is_refused(launcher: Launcher, tmp_path: Path, does: str) -> None:
    """What a measure function imports only when it is called for was saved after the first look at it: what comes of
    that, an error too, is none of the code that the trial was begun for."""
    (tmp_path / "helper.py").write_text("value = 1\n")
    saved = "value = 2\n" if does == "goes on" else "value = \n"
    (tmp_path / "kernel.py").write_text(
        "def measure(config):\n"
        "    from pathlib import Path\n"
        f"    Path(__file__).with_name('helper.py').write_text({saved!r})\n"
        "    import helper\n"
        "    while True:\n"
        "        yield {'time_s': helper.value}\n"
    )
    ended = launcher.run(request("kernel:measure", root=tmp_path))
    assert ended.error is None and ended.samples is None
    assert "The code of kernel:measure changed on disk" in ended.interrupted


def test_a_disk_that_the_measure_function_finds_full_is_no_result(launcher: Launcher, tmp_path: Path) -> None:
    """Whether it says so itself or a library does: that tells nothing of the configuration."""
    for raised in ("open('/dev/full', 'w').write('x' * 100000)", "raise RuntimeError('write: No space left on device')"):
        (tmp_path / "kernel.py").write_text(f"def measure(config):\n    {raised}\n")
        ended = launcher.run(request("kernel:measure", root=tmp_path))
        assert ended.error is None and ended.samples is None
        assert "No space left on device" in ended.interrupted


def test_a_trial_that_finds_no_room_for_its_result_is_none(tmp_path: Path) -> None:
    """The disk of temporary files is full once it has measured: it is interrupted, and says what the matter is."""
    # A path that is short enough for the sockets of the trial's parent.
    small = Path(tempfile.mkdtemp(prefix="small-", dir="/tmp"))
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(small)]
    if os.getuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("a file system of its own can't be mounted here")
    try:
        (tmp_path / "kernel.py").write_text(
            "import os, tempfile\n"
            "def measure(config):\n"
            "    big = open(os.path.join(tempfile.gettempdir(), 'big'), 'wb', buffering=0)\n"
            "    try:\n"
            "        while True: big.write(bytes(4096))\n"
            "    except OSError:\n"
            "        return {'time_s': 1.0}\n"
        )
        wanted = request("kernel:measure", root=tmp_path)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TMPDIR", str(small))
            with Launcher() as launcher:
                ended = launcher.run(wanted)
        assert ended.error is None and ended.samples is None
        assert ended.interrupted.startswith("Its process could not report what it did: ")
        assert ended.interrupted.endswith("No space left on device")
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)
        small.rmdir()


def test_an_edited_library_is_imported_anew(launcher: Launcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that people edit (not in site-packages) makes the launcher start another parent by itself."""
    library = tmp_path / "library"
    library.mkdir()
    root = tmp_path / "experiment"
    root.mkdir()
    (root / "kernel.py").write_text("def measure(config):\n    import edited\n    return {'time_s': edited.value}\n")
    monkeypatch.setenv("PYTHONPATH", str(library), prepend=os.pathsep)
    measured = []
    for value, edited in ((1, True), (1, False), (2, True)):
        if edited:
            (library / "edited.py").write_text(f"value = {value}  # {'.' * value}\n")
        ended = launcher.run(request("kernel:measure", root=root, libraries=("edited",)))
        measured.append((ended.samples.candidate["time_s"][0], ended.launch.parent_pid))
    assert [value for value, _ in measured] == [1.0, 1.0, 2.0]
    assert measured[0][1] == measured[1][1] != measured[2][1]
    assert gone(measured[0][1])


def test_a_library_that_is_saved_while_it_is_imported_is_imported_again(
    launcher: Launcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read before the save must not pass for what is there now."""
    library = tmp_path / "library"
    library.mkdir()
    (library / "saved.py").write_text(
        "import time\nfrom pathlib import Path\nhere = Path(__file__).parent\n(here / 'importing').touch()\n"
        "while not (here / 'go').exists():\n    time.sleep(0.01)\nvalue = 1\n"
    )
    (tmp_path / "kernel.py").write_text("def measure(config):\n    import saved\n    return {'time_s': saved.value}\n")
    monkeypatch.setenv("PYTHONPATH", str(library), prepend=os.pathsep)
    with ThreadPoolExecutor() as pool:
        running = pool.submit(launcher.run, request("kernel:measure", root=tmp_path, libraries=("saved",)))
        assert soon((library / "importing").exists)
        (library / "saved.py").write_text("value = 2\n")
        (library / "go").touch()
        ended = running.result(60)
    assert ended.samples.candidate == {"time_s": [2]}


# -- lives and deaths --------------------------------------------------------------------------------------------------

DRIVER = """
import json, sys
from research_steps.trial.launcher.launcher import Launcher
from tests.support.trial_requests import request
with Launcher() as launcher:
    print(launcher.run(request("steady")).launch.parent_pid, flush=True)
    launcher.run(request(sys.argv[1], json.loads(sys.argv[2]), time_limit_s=1000.0))
"""


@contextlib.contextmanager
def driver(function: str, config: dict[str, Any]) -> Iterator[tuple["subprocess.Popen[str]", int]]:
    """A driver that is killed in the end, in the middle of a trial, and its launcher's parent."""
    command = [sys.executable, "-c", DRIVER, function, json.dumps(config)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
        yield process, int(process.stdout.readline())
        process.kill()


def test_nothing_is_left_when_the_driver_is_killed(tmp_path: Path) -> None:
    """After kill -9 of the driver its parent, the trial and what that had started are gone, and so is the socket."""
    pids = tmp_path / "pids"
    with driver("leaves_processes", {"pids": str(pids), "hangs": True}) as (_, parent):
        folder = folder_of(parent)
        assert soon(lambda: pids.exists() and pids.read_text())
        processes = [parent, *(process.pid for process in psutil.Process(parent).children(recursive=True))]
        assert len(processes) >= 5
    assert soon(lambda: all(gone(pid) for pid in processes))
    assert soon(lambda: not folder.exists())


def test_a_trial_ends_when_driver_and_parent_are_killed_together() -> None:
    """Nobody is left then who could end it: the kernel does."""
    with driver("hangs", {"name": "in C"}) as (process, parent):
        assert soon(lambda: psutil.Process(parent).children())
        (trial,) = psutil.Process(parent).children()
        folder = folder_of(parent)
        process.send_signal(signal.SIGSTOP)
        os.kill(parent, signal.SIGKILL)
    assert soon(lambda: gone(trial.pid))
    shutil.rmtree(folder)


def test_a_parent_whose_driver_is_killed_while_it_starts_leaves_nothing() -> None:
    """It ends as soon as it has started, in silence, and leaves no file."""
    command = [sys.executable, "-c", DRIVER, "steady", "{}"]
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "TMPDIR": folder}
        with subprocess.Popen(command, cwd=REPOSITORY, env=environment, stderr=subprocess.PIPE) as process:
            assert soon(lambda: psutil.Process(process.pid).children())
            (parent,) = psutil.Process(process.pid).children()
            process.kill()
            assert soon(lambda: gone(parent.pid))
            assert process.stderr.read() == b""
        assert list(Path(folder).iterdir()) == []


def test_a_killed_parent_is_told_and_takes_its_trial_along(
    launcher: Launcher, running: tuple[Any, int, list[int]]
) -> None:
    """The trial has no result then; its process and what it started in the session end; the launcher goes on."""
    future, parent, processes = running
    folder = folder_of(parent)
    apart = [pid for pid in processes if os.getsid(pid) != parent]
    os.kill(parent, signal.SIGKILL)
    with pytest.raises(LauncherError, match=rf"{parent} is gone \(exit code -9"):
        future.result(SOON_S)
    assert soon(lambda: all(gone(pid) for pid in processes if pid not in apart))
    assert not folder.exists()
    for pid in apart:
        # Nobody is left who could know of them: they are this test's to end. One had ended before, and may be reaped.
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    ended = launcher.run(request("steady"))
    assert ended.launch.parent_pid != parent
    next_trial_is_fine(launcher, ended.launch.parent_pid)


def test_closing_the_launcher_ends_the_trial_that_runs(launcher: Launcher, running: tuple[Any, int, list[int]]) -> None:
    """The one who waits for it is told why; nothing is left, and nothing can be begun any more."""
    future, parent, processes = running
    folder = folder_of(parent)
    launcher.close()
    with pytest.raises(LauncherError, match="closed because the run is ending"):
        future.result(SOON_S)
    assert all(gone(pid) for pid in (parent, *processes))
    assert not folder.exists()
    with pytest.raises(LauncherError, match="closed because the run is ending"):
        launcher.run(request("steady"))


def test_trials_of_several_threads_take_turns(launcher: Launcher) -> None:
    """Each thread gets the outcome of its own trial, and no two trials run at once."""
    launcher.run(request("steady"))
    asked = [0.2, 0.21, 0.22, 0.23]
    requests = [request("sleeps", {"s": s}) for s in asked]
    began = time.monotonic()
    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(launcher.run, requests))
    assert [ended.samples.candidate["time_s"] for ended in outcomes] == [[s] for s in asked]
    assert time.monotonic() - began >= sum(asked)


def test_two_hundred_trials_leave_no_trace_in_the_parent(launcher: Launcher) -> None:
    """With crashes among them, it lives on with the same files, no zombie and the same memory."""

    def rounds(count: int) -> TrialOutcome:
        for number in range(count):
            ended = launcher.run([steady, steady, segfault, steady, exits][number % 5])
        return ended

    steady = request("steady")
    segfault, exits = (request("crashes", {"name": name}) for name in ("segfault", "exit 1"))

    parent = psutil.Process(launcher.run(request("steady")).launch.parent_pid)
    # Standard input, output and error, the listener, and five of the loop; a connection is closed after its answer.
    assert soon(lambda: parent.num_fds() == 9)
    rounds(20)
    memory = parent.memory_info().rss
    assert rounds(200).launch.parent_pid == parent.pid
    assert soon(lambda: parent.num_fds() == 9)
    assert parent.num_threads() == 1
    assert parent.children(recursive=True) == []
    assert parent.memory_info().rss < memory * 1.03


# -- the socket --------------------------------------------------------------------------------------------------------


def test_only_its_user_can_reach_the_socket(shared: Launcher) -> None:
    """Whoever could would run code as this user."""
    folder = folder_of(shared.run(request("steady")).launch.parent_pid)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert folder.stat().st_uid == os.getuid()


def test_a_deep_temporary_folder_does_not_stop_the_launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket's path may not be long, TMPDIR may."""
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setenv("TMPDIR", str(deep))
    with Launcher() as launcher:
        next_trial_is_fine(launcher, launcher.run(request("steady")).launch.parent_pid)


@pytest.mark.parametrize("sent", [b"", b'{"measure": "tests', b"\x00\xffgarbage\n", b"{}\n", b"x" * 1_000_000])
def test_a_client_that_asks_for_nothing_holds_nobody_up(shared: Launcher, sent: bytes) -> None:
    """Silence, half a line, garbage and a request without its fields: others are served meanwhile and after."""
    parent = shared.run(request("steady")).launch.parent_pid
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(folder_of(parent) / "socket"))
        connection.sendall(sent)
        next_trial_is_fine(shared, parent)
    next_trial_is_fine(shared, parent)


def test_a_client_that_does_not_take_its_answer_holds_nobody_up(shared: Launcher) -> None:
    """An answer larger than a socket's buffer waits for its reader; the next trial and its time limit do not."""
    parent = shared.run(request("steady")).launch.parent_pid
    large = request("noisy", max_pairs=20_000, sampling_s=SOON_S)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(folder_of(parent) / "socket"))
        connection.sendall(msgspec.json.encode(large) + b"\n")
        assert shared.run(request("hangs", {"name": "in Python"}, time_limit_s=3.0)).error.type == "TimeLimit"
        next_trial_is_fine(shared, parent)
        with connection.makefile("rb") as lines:
            answer = msgspec.json.decode(list(lines)[-1], type=TrialOutcome)
    assert len(answer.samples.order) == 40_000


def test_a_client_that_leaves_gives_up_its_trial(shared: Launcher) -> None:
    """The trial of a client that is gone is killed, and those waiting behind it have their turn."""
    parent = shared.run(request("steady")).launch.parent_pid
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(folder_of(parent) / "socket"))
        connection.sendall(msgspec.json.encode(request("sleeps", {"s": 1000}, time_limit_s=1000)) + b"\n")
        assert soon(lambda: psutil.Process(parent).children())
        with ThreadPoolExecutor() as pool:
            waiting = pool.submit(next_trial_is_fine, shared, parent)
            time.sleep(0.1)
            assert not waiting.done()
            connection.close()
            waiting.result(SOON_S)


def test_a_parent_that_can_not_start_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A broken installation is named as what it is, and nothing hangs or is left."""
    (tmp_path / "sitecustomize.py").write_text("import os\nos._exit(7)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    with Launcher() as launcher:
        with pytest.raises(LauncherError, match=r"did not start \(exit code 7"):
            launcher.run(request("steady"))


# -- how it ran --------------------------------------------------------------------------------------------------------


def test_an_outcome_tells_what_the_trial_used(shared: Launcher) -> None:
    """Its processor time and memory are its own, and its launcher's account of both has no gap."""
    ended = shared.run(request("hangs", {"name": "in Python"}, time_limit_s=3.0))
    assert 0.0 < ended.launch.cpu_s <= ended.launcher_cpu_s
    assert ended.launch.peak_rss_bytes > 1_000_000
    assert ended.launch.child_pid not in (0, ended.launch.parent_pid, os.getpid())
    assert ended.launch.parent_threads >= 1
    assert ended.launch.preloaded_modules > 50


def test_the_first_trial_is_not_charged_for_starting_the_parent(launcher: Launcher) -> None:
    """What starting and importing used is in the launcher's account and not in the trial's, so that neither is taken
    for somebody else's disturbance."""
    ended = launcher.run(request("steady", libraries=("jax", "numpy")))
    assert ended.launcher_cpu_s > 2 * ended.launch.cpu_s
    with contextlib.suppress(psutil.NoSuchProcess):
        used = psutil.Process(ended.launch.parent_pid).cpu_times()
        assert ended.launcher_cpu_s == pytest.approx(used.user + used.system + ended.launch.cpu_s, abs=0.2)
    again = launcher.run(request("steady", libraries=("jax", "numpy")))
    assert again.launcher_cpu_s < ended.launcher_cpu_s / 2
