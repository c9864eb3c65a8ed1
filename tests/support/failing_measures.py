"""Measure functions that go wrong, each in a way that a real one could, and a few that go right.

They are run in the process of a trial only. `config["name"]` picks a variant where a function has several.
"""

import ctypes
import faulthandler
import multiprocessing
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path


class Unspeakable(Exception):
    """Its message can't be asked for."""

    def __str__(self):
        raise ValueError("no message")


class Leaving(BaseException):
    """No Exception, so that 'except Exception' lets it through."""


RAISED = {
    "ValueError": ValueError("no such kernel"),
    "SystemExit": SystemExit(3),
    "KeyboardInterrupt": KeyboardInterrupt(),
    "GeneratorExit": GeneratorExit(),
    "Leaving": Leaving("gone"),
    "Unspeakable": Unspeakable(),
    "MemoryError": MemoryError(),
    "long": RuntimeError("x" * (1 << 20)),
    "surrogates": RuntimeError("half a pair \ud800, and \x00"),
}


def steady(config):
    """Nothing goes wrong."""
    while True:
        yield {"time_s": config.get("time_s", 2.0)}


def noisy(config):
    """Two samples of one side have nothing in common."""
    while True:
        yield {"time_s": random.choice([1e-9, 1e9]) / 3}


def raises(config):
    raise RAISED[config["name"]]


def raises_in_baseline(config):
    """Only the side that is no candidate fails."""
    if config.get("fails"):
        raise ValueError("no baseline here")
    while True:
        yield {"time_s": 1.0}


def raises_late(config):
    yield {"time_s": 1.0}
    yield {"time_s": 1.0}
    if config.get("fails"):
        raise ValueError("only now")
    while True:
        yield {"time_s": 1.0}


def crashes(config):
    """The process ends by itself, or by a signal."""
    if config["name"] == "segfault":
        ctypes.string_at(0)
    if config["name"] == "abort":
        os.abort()
    if config["name"].startswith("exit"):
        os._exit(int(config["name"].split()[1]))
    os.kill(os.getpid(), int(config["name"].split()[1]))


def hangs(config):
    """The process does not come to an end, in one way or another."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("about to hang")
    match config["name"]:
        case "in Python":
            while True:
                pass
        case "in C":
            # PyDLL holds the GIL while it calls.
            ctypes.PyDLL(None).pause()
        case "stopped":
            os.kill(os.getpid(), signal.SIGSTOP)
        case "in its clean-up":
            try:
                while True:
                    yield {"time_s": 1.0}
            finally:
                time.sleep(1000)
        case "away from its group":
            os.setpgid(0, os.getppid())
            time.sleep(1000)


def leaves_processes(config):
    """Processes that outlive the trial, hold its files open, and hide in groups and sessions of their own."""
    pids = Path(config["pids"])
    plain = subprocess.Popen(["sleep", "1000"])
    apart = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            pids.write_text(f"{plain.pid} {apart.pid} {os.getpid()}")
            time.sleep(1000)
        os._exit(0)
    while not (pids.exists() and pids.read_text()):
        time.sleep(0.01)
    if config.get("hangs"):
        time.sleep(1000)
    while True:
        yield {"time_s": 1.0}


def returns_twice(config):
    """It forks, and both processes go on measuring."""
    ours = os.fork() != 0
    while True:
        yield {"time_s": 1.0 if ours else 99.0}


def closes_files(config):
    yield {"time_s": 1.0}
    for descriptor in range(config["first"], config["last"]):
        try:
            os.close(descriptor)
        except OSError:
            continue
    while True:
        yield {"time_s": 1.0}


def prints(config):
    """More output than any pipe holds, and output that is no text."""
    line = b"\xff\x00\x1b[31m" * 128 + b"\n"
    for _ in range(config["bytes"] // len(line)):
        os.write(1, line)
    print("the last line")
    raise ValueError("printed")


def tells_a_token(config):
    """What it prints and raises is cut inside of the token."""
    print("x " * 50_000 + config["token"] + " y" * config["behind"], flush=True)
    raise ValueError("z " * config["before"] + config["token"] + " w" * 9_000)


def disturbs_its_process(config):
    """Everything that belongs to the process as a whole is changed."""
    os.chdir("/")
    os.umask(0o777)
    sys.path.clear()
    sys.stdout = sys.stderr = None
    faulthandler.disable()
    os.environ.clear()
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    for _ in range(4):
        threading.Thread(target=time.sleep, args=(1000,)).start()
    while True:
        yield {"time_s": 1.0}


def takes_too_much(config):
    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
    return {"time_s": float(len(bytearray(8 << 30)))}


def _square(number):
    return number * number


def uses_multiprocessing(config):
    with multiprocessing.get_context(config["name"]).Pool(2) as pool:
        return {"time_s": float(sum(pool.map(_square, range(4))))}


def sees(config):
    """What the process of a trial finds when it begins."""
    bridge = sys.modules.get("jax._src.xla_bridge")
    return {
        "time_s": 1.0,
        "preloaded": float("wave" in sys.modules),
        "backends": float(bridge is not None and bridge.backends_are_initialized()),
        "files": float(len(os.listdir("/proc/self/fd"))),
        "signals_blocked": float(len(signal.pthread_sigmask(signal.SIG_BLOCK, []))),
        "reads_nothing": float(sys.stdin.read() == ""),
        "in_cwd": float(os.getcwd() == config["cwd"]),
    }


def sleeps(config):
    time.sleep(config["s"])
    return {"time_s": config["s"]}


def on_devices(config):
    """A program compiled and run by JAX on so many CPU devices."""
    import jax
    import levanter.grug.grug_moe  # noqa: F401  # what a real experiment loads
    from jax.sharding import NamedSharding, PartitionSpec

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", config["devices"])
    mesh = jax.make_mesh((config["devices"],), ("x",))
    numbers = jax.device_put(jax.numpy.arange(8.0), NamedSharding(mesh, PartitionSpec("x")))
    double = jax.jit(lambda values: (values * 2).sum())
    while True:
        yield {"time_s": double(numbers)}
