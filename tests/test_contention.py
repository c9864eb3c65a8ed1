"""What disturbs a timing: seen where it is there, named, and not taken for it where it is our own or of no harm.

The processes are real; they hold files in folders that stand for /dev and /tmp. Others may load the machine that these
tests run on at any time, so that none of them rests on its being quiet.
"""

import fcntl
import json
import math
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner
from research_steps.cli.inspect import doctor
from research_steps.trial import contention
from research_steps.trial.contention import CpuWatch, Machine

from tests.support.other_processes import SPIN, busy_cores, holding


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """One with two TPU chips, on which no load counts, as the one that trials and `doctor` look at."""
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for name in ("dev", "tmp"):
        (tmp_path / name).mkdir()
    for name in ("accel0", "accel1"):
        (tmp_path / "dev" / name).touch()
    here = Machine(dev=tmp_path / "dev", tmp=tmp_path / "tmp", load_cores=math.inf)
    monkeypatch.setattr(contention, "HERE", here)
    assert here.expected == 2
    return here


def told(machine: Machine) -> list[str]:
    return [disturbance.what for disturbance in machine.disturbances()]


def of_somebody_else(path: Path) -> Path:
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    path.touch()
    os.chown(path, 65534, 65534)
    return path


def test_others_that_keep_cores_busy_are_load(machine: Machine) -> None:
    """Before a trial and during one, told in cores of those that there are."""
    machine.load_cores = 0.25
    watch = CpuWatch(machine)
    with subprocess.Popen(SPIN) as other:
        time.sleep(1.0)
        during = watch.contended(0.0)
        (before,) = machine.load()
        other.kill()
    assert during.startswith("other processes kept ") and during.endswith(f" of {os.cpu_count()} cores busy")
    assert before.what.startswith("other processes keep ") and before.passes


def test_load_is_held_against_the_cores_that_the_trial_uses(tmp_path: Path) -> None:
    """A core of others is load beside a trial of two cores on a machine of any size, and none beside one of sixteen."""
    watch = CpuWatch(Machine(processors=tmp_path))
    watch._busy, watch._wall = watch._busy - 100.0, watch._wall - 10.0
    assert watch.contended(20.0).startswith("other processes kept ")
    watch._busy -= 70.0
    assert watch.contended(160.0) == ""


def test_a_processor_that_is_throttled_disturbs(tmp_path: Path) -> None:
    """As far as the machine counts it, whatever core it was."""
    for core in (0, 1):
        (tmp_path / f"cpu{core}" / "thermal_throttle").mkdir(parents=True)
        (tmp_path / f"cpu{core}" / "thermal_throttle" / "core_throttle_count").write_text("7\n")
    watch = CpuWatch(Machine(processors=tmp_path, load_cores=math.inf))
    assert watch.contended(0.0) == ""
    (tmp_path / "cpu1" / "thermal_throttle" / "core_throttle_count").write_text("9\n")
    assert watch.contended(0.0) == "the processor was throttled 2 times"
    assert CpuWatch(Machine(processors=tmp_path / "none", load_cores=math.inf)).contended(0.0) == ""


def test_what_this_process_and_its_children_use_is_not_load() -> None:
    """Of all that keeps the cores busy, our own work is left out."""
    watch = CpuWatch(Machine())
    psutil.cpu_percent()
    began, own = time.monotonic(), time.process_time()
    while time.process_time() < own + 1.0:
        pass
    others, busy = watch.others_cores(0.0), psutil.cpu_percent() / 100 * (os.cpu_count() or 1)
    assert others == pytest.approx(busy - 1.0 / (time.monotonic() - began), abs=0.2)
    assert watch.others_cores(1000.0) == 0.0


def test_a_quiet_machine_is_seen_at_a_glance(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial of milliseconds does not wait for the longer look when nobody runs."""
    monkeypatch.setattr(Machine, "others_cores", lambda machine: pytest.fail("it had the longer look"))
    assert machine.load() == []


@pytest.mark.parametrize("name", ["accel1", "vfio/3", "nvidia-uvm"])
def test_a_process_that_holds_an_accelerator_is_named(machine: Machine, name: str) -> None:
    """With its number, its name and the device: a TPU of either kind, or what every user of CUDA holds."""
    path = machine.dev / name
    path.parent.mkdir(exist_ok=True)
    path.touch()
    (machine.dev / "nvidia0").touch()
    del machine.expected
    assert told(machine) == []
    with holding(path) as other:
        assert told(machine) == [f"process {other.pid} ({other.name()}) holds {path}"]
    assert told(machine) == []


def test_who_only_watches_a_gpu_does_not_disturb(machine: Machine) -> None:
    """Monitors and display servers have its own node open all the time."""
    (machine.dev / "nvidia0").touch()
    del machine.expected
    with holding(machine.dev / "nvidia0"):
        assert told(machine) == []


def test_what_we_have_started_ourselves_does_not_disturb(machine: Machine) -> None:
    """Neither this process nor its children, of which a trial is one."""
    code = "import sys, time; file = open(sys.argv[1]); print(flush=True); time.sleep(600)"
    child = [sys.executable, "-c", code, str(machine.dev / "accel0")]
    with (machine.dev / "accel0").open(), subprocess.Popen(child, stdout=subprocess.PIPE) as started:
        assert started.stdout is not None
        started.stdout.readline()
        assert told(machine) == []
        started.kill()


def test_a_run_on_the_cpu_is_not_disturbed_by_users_of_a_tpu(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """With JAX on the CPU it does not matter who holds a TPU."""
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    with holding(machine.dev / "accel0"):
        assert machine.devices() == []
        assert not any("holds" in what for what in told(machine))


def test_a_device_that_went_away_is_told(machine: Machine) -> None:
    """The count is compared with that at the start; it is nothing that waiting would mend."""
    (machine.dev / "accel1").unlink()
    (disturbance,) = machine.disturbances()
    assert disturbance.what == "accelerator devices that are there: 1; expected: 2, as when the run began"
    assert not disturbance.passes


def test_a_lock_file_that_somebody_left_behind_is_told(machine: Machine) -> None:
    """libtpu can't open one of another user, which no waiting mends."""
    path = of_somebody_else(machine.tpu_lock)
    (disturbance,) = machine.disturbances()
    assert disturbance.what == f"{path} is held by nobody and belongs to user 65534: a stale lock file"
    assert disturbance.mend == "remove it, as user 65534 or root"
    assert not disturbance.passes
    assert path.exists()


def test_a_lock_file_that_is_held_is_not_stale(machine: Machine) -> None:
    """It names who is on the TPU, also where the devices that another user holds can't be seen."""
    path = of_somebody_else(machine.tpu_lock)
    with holding(path, locked=True) as other:
        assert told(machine) == [f"process {other.pid} ({other.name()}) holds {path}"]


def test_a_lock_file_of_no_harm_is_not_told(machine: Machine) -> None:
    """Our own, which every trial leaves and libtpu takes over, and any on a machine without a TPU."""
    machine.tpu_lock.touch()
    assert told(machine) == []
    of_somebody_else(machine.tpu_lock)
    for path in machine.devices():
        path.unlink()
    del machine.expected
    assert told(machine) == []


def test_who_has_the_device_lock_is_named(machine: Machine) -> None:
    """As long as it is held, and looking does not keep it."""
    assert machine.lock_holder(machine.device_lock) == ""
    with machine.device_lock.open("w") as lock:
        assert machine.lock_holder(machine.device_lock) == ""
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert machine.lock_holder(machine.device_lock).startswith(f"process {os.getpid()} (")


def test_nobody_has_one_turn_after_the_other_while_somebody_waits(machine: Machine) -> None:
    """A shard that goes from trial to trial without a pause leaves the machine to the others in between."""
    turns: list[str] = []

    def work(name: str) -> None:
        for _ in range(6):
            with contention.device_lock(machine, name, lambda: False, lambda line: None):
                turns.append(name)
                time.sleep(0.5)

    with ThreadPoolExecutor() as pool:
        list(pool.map(work, "ab"))
    # Whoever is left at the end is alone.
    assert max(len(list(group)) for _, group in groupby(turns[:9])) <= 2, turns


def test_doctor_shows_what_a_trial_would_see(machine: Machine) -> None:
    """What is there, who has the device lock, and each problem with how to mend it; 1 while there is one."""
    runner = CliRunner()
    well = runner.invoke(doctor)
    assert well.exit_code == 0, well.output
    assert f"accelerator devices: {machine.dev}/accel0, {machine.dev}/accel1" in well.output
    assert f"device lock {machine.device_lock}: free" in well.output
    assert "Nothing would disturb a trial now." in well.output

    with holding(machine.dev / "accel0") as other, machine.device_lock.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        what = f"process {other.pid} ({other.name()}) holds {machine.dev}/accel0"
        ill = runner.invoke(doctor)
        report = json.loads(runner.invoke(doctor, "--json").stdout)
    assert ill.exit_code == 1
    assert f"problem: {what}; to mend it, wait until it has ended, or end it\n" in ill.output
    assert [problem["what"] for problem in report["problems"]] == [what]
    assert report["device_lock"].startswith(f"process {os.getpid()} (")


def test_doctor_tells_of_load_and_loads_no_jax() -> None:
    """As a person types it, on the machine as it is, beside processes that keep cores busy."""
    code = "import sys; from research_steps.cli.main import main; main(['doctor'], standalone_mode=False)"
    watching = f"import atexit, sys; atexit.register(lambda: print('jax' in sys.modules)); {code}"
    with busy_cores():
        done = subprocess.run([sys.executable, "-c", watching], capture_output=True, text=True)
    assert "cores busy; to mend it, end them" in done.stdout, done.stderr
    assert done.stdout.endswith("False\n")
    assert done.returncode == 1
