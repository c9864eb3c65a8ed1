"""The parent of trials, a process of its own: `Launcher` has one for itself, `Daemon` is one that is kept.

One thread, one loop over file descriptors, none of which it blocks on. Whoever connects asks for one trial; trials
take turns, in the order of their requests. For each the parent forks a child, keeps its time limit, collects its
result, kills whatever it left behind, and answers with how it ended. A connection that closes early gives up its
trial. It forks workers too, which do on the connection what was asked for.

It ends when its standard input does (its owner is gone), or, when it is kept, after it was idle for long or is told to.
Everything below it ends with it. It imports libraries on request, never the experiment, and starts no backend.
"""

import gc
import importlib
import os
import resource
import selectors
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

import msgspec
import psutil

from research_steps.trial.launcher import child
from research_steps.trial.launcher.daemon import Daemon, short_base
from research_steps.trial.launcher.parent_connections import Client, Connections
from research_steps.trial.launcher.persistent_child import PersistentChild
from research_steps.trial.launcher.processes import adopt_orphans, die_with_parent, kill_descendants
from research_steps.trial.launcher.protocol import (
    SOCKET,
    AskedOfParent,
    Output,
    ParentConfig,
    Request,
    Shutdown,
    Stale,
    StartWorker,
    Waiting,
)
from research_steps.trial.launcher.running_trial import RunningTrial
from research_steps.trial.launcher.staleness import Sources, stamp

# How often a trial's output is looked at for somebody who reads along. Not oftener, because it wakes up a core.
LOOK_S = 0.25


class Parent:
    """The loop of one that listens in `folder`, which is open to its user alone."""

    def __init__(self, listener: socket.socket, folder: Path, config: ParentConfig) -> None:
        self._result = folder / "result"
        self._root, self._idle_s = Path(config.root), config.idle_s
        self._env = {name: value for name, value in os.environ.items() if name not in config.env}
        self._stamp = stamp(self._root, os.environ)
        self._pid = os.getpid()
        self._waiting: list[tuple[Client, Request]] = []
        self._workers: set[int] = set()
        self._trial: RunningTrial | None = None
        self._persistent: PersistentChild | None = None
        self._sources = Sources()
        self._tried: set[str] = set()
        self._used_before_s = 0.0
        self._ending = False
        self._retiring = False
        self._woken, self._wake = socket.socketpair()
        # A child says here at what it is. What does not fit is not said.
        self._stages, self._stage = os.pipe()
        for descriptor in (self._woken.fileno(), self._wake.fileno(), self._stages, self._stage):
            os.set_blocking(descriptor, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake.fileno())
        adopt_orphans()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._woken, selectors.EVENT_READ, lambda: self._woken.recv(4096))
        self._selector.register(self._stages, selectors.EVENT_READ, self._tell_stage)
        if self._idle_s is None:
            self._selector.register(0, selectors.EVENT_READ, self._end)
        self._connections = Connections(self._selector, listener, self._asked, self._left)
        self._idle_since = time.monotonic()

    def serve(self) -> None:
        """Serve until it is over, then leave no process behind."""
        while not self._ending:
            for key, _ in self._selector.select(self._patience()):
                key.data()
            self._reap()
            self._look()
            while self._trial is None and self._waiting and not self._ending:
                self._start(*self._waiting.pop(0))
        kill_descendants()

    def _end(self) -> None:
        self._ending = True

    def _patience(self) -> float | None:
        now = time.monotonic()
        if self._trial is not None and not self._trial.timed_out:
            left = max(0.0, self._trial.deadline - now)
            return min(left, LOOK_S) if self._trial.request.live else left
        if self._idle_s is not None and not self._busy():
            return max(0.0, self._idle_since + self._idle_s - now)
        return None

    def _busy(self) -> bool:
        return bool(self._trial or self._waiting or self._workers or self._connections.clients)

    def _look(self) -> None:
        """What comes with time: output to show, a trial that ran too long, the end of a parent that nobody needs."""
        now = time.monotonic()
        if self._trial is not None:
            self._show_output(self._trial)
            if not self._trial.timed_out and now >= self._trial.deadline:
                self._trial.timed_out = True
                self._trial.kill()
        if self._retiring and not (self._trial or self._waiting or self._workers):
            self._ending = True
        if self._busy():
            self._idle_since = now
        elif self._idle_s is not None and now - self._idle_since >= self._idle_s:
            self._ending = True

    def _asked(self, client: Client, asked: AskedOfParent) -> None:
        match asked:
            case Request():
                # What was used before is none of this trial's, but for the start of a parent that it was started for.
                self._used_before_s = _cpu_s() if self._tried else 0.0
                self._waiting.append((client, asked))
            case StartWorker():
                self._start_worker(client, asked)
            case Shutdown(when_done):
                self._retiring = True
                self._ending = not when_done or self._ending

    def _left(self, client: Client) -> None:
        self._waiting = [waiting for waiting in self._waiting if waiting[0] is not client]
        if self._trial is not None and self._trial.client is client:
            self._trial.kill()

    def _start_worker(self, client: Client, wanted: StartWorker) -> None:
        env = {**self._env, **wanted.env}
        changed = self._sources.changed()
        if not changed and (self._retiring or stamp(self._root, env) != self._stamp):
            changed = "the environment, or what is installed,"
        if changed:
            self._connections.answer(client, Stale(changed))
        elif self._preload(client, wanted.libraries):
            work = partial(_work, wanted, env, client.connection)
            self._workers.add(self._fork(work, sys.stderr.fileno(), keep=client.connection))
            self._connections.drop(client)

    def _start(self, client: Client, request: Request) -> None:
        if not self._preload(client, request.libraries):
            return
        # A file, because pipes are held open by others and fill up; by name, because a child may close everything.
        self._result.write_bytes(b"")
        deadline = time.monotonic() + request.time_limit_s
        # What a worker has left running, such as a session of ssh, is none of the trial's.
        others = {process.pid for process in psutil.Process().children()}
        if request.in_process:
            self._persistent = self._persistent or self._start_persistent()
            self._persistent.order(request)
            pid, output = self._persistent.pid, self._persistent.output
        else:
            if self._persistent is not None:
                # It holds the accelerator that this trial's process needs for itself.
                self._end_persistent(self._persistent)
            output = tempfile.TemporaryFile()  # noqa: SIM115  # closed when the trial has ended
            pid = self._fork(partial(child.serve, request, self._result, self._stage), output.fileno())
        self._trial = RunningTrial(client, request, pid, output, deadline, others)

    def _start_persistent(self) -> PersistentChild:
        output = tempfile.TemporaryFile()  # noqa: SIM115  # closed when the child has ended
        mine, orders = socket.socketpair()
        self._selector.register(mine, selectors.EVENT_READ, self._persistent_said)
        with orders:
            pid = self._fork(partial(child.serve_many, orders, self._result, self._stage), output.fileno())
        return PersistentChild(pid, mine, output)

    def _fork(self, work: Callable[[], None], output: int, keep: socket.socket | None = None) -> int:
        """The process ID of a child that does this work and then ends. What it prints goes to `output`."""
        pid = os.fork()
        if pid:
            return pid
        status = 1
        try:
            die_with_parent(self._pid)
            # A measure function may signal its own process group.
            os.setpgid(0, 0)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            with open(os.devnull) as nothing:
                os.dup2(nothing.fileno(), 0)
            os.dup2(output, 1)
            os.dup2(output, 2)
            # Whoever is connected sees the end of the parent only when nobody else holds the connection.
            for key in list(self._selector.get_map().values()):
                if isinstance(key.fileobj, socket.socket) and key.fileobj is not keep:
                    key.fileobj.close()
            self._wake.close()
            self._selector.close()
            work()
            status = 0
        except BaseException:  # noqa: BLE001  # into the output's tail; nothing else would tell why there is no result
            traceback.print_exc()
        finally:
            # Never return into the parent's loop, and never run its exit handlers.
            os._exit(status)

    def _reap(self) -> None:
        """Take note of every child that has ended, also of those that it got from others."""
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            self._workers.discard(pid)
            trial, persistent = self._trial, self._persistent
            if persistent is not None and pid == persistent.pid:
                self._forget_persistent(persistent)
            if trial is not None and pid == trial.pid:
                before_s = persistent.used_s if trial.request.in_process and persistent else 0.0
                cpu_s = usage.ru_utime + usage.ru_stime - before_s
                rss = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
                self._finish(trial, os.waitstatus_to_exitcode(status), cpu_s, rss)
                trial.output.close()

    def _persistent_said(self) -> None:
        """The persistent child is done with a trial; or it ended, which its exit tells."""
        persistent, trial = self._persistent, self._trial
        if persistent is None:
            return
        if not persistent.is_done():
            self._selector.unregister(persistent.orders)
        elif trial is not None and trial.pid == persistent.pid:
            self._finish(trial, 0, *persistent.usage())

    def _finish(self, trial: RunningTrial, code: int, cpu_s: float, rss: int) -> None:
        self._trial = None
        # What the child started may live on; it must not disturb the next trial.
        kill_descendants(spare=trial.others | self._workers | ({self._persistent.pid} if self._persistent else set()))
        self._show_output(trial)
        launcher_cpu_s = _cpu_s() - self._used_before_s + (cpu_s if self._persistent else 0.0)
        outcome = trial.outcome(self._result.read_bytes(), code, cpu_s, launcher_cpu_s, rss)
        self._connections.answer(trial.client, outcome)

    def _end_persistent(self, persistent: PersistentChild) -> None:
        os.kill(persistent.pid, signal.SIGKILL)
        os.waitpid(persistent.pid, 0)
        self._forget_persistent(persistent)

    def _forget_persistent(self, persistent: PersistentChild) -> None:
        self._persistent = None
        with suppress(KeyError):
            self._selector.unregister(persistent.orders)
        persistent.orders.close()

    def _tell_stage(self) -> None:
        for stage in os.read(self._stages, 4096).decode("utf-8", "replace").splitlines():
            if self._trial is not None:
                self._connections.tell(self._trial.client, Waiting(stage))

    def _show_output(self, trial: RunningTrial) -> None:
        for text in trial.new_output() if trial.request.live else ():
            self._connections.tell(trial.client, Output(text))

    def _preload(self, client: Client, libraries: tuple[str, ...]) -> bool:
        """Import what is new of these. False when that is for nothing: the client left, or was told what changed."""
        began = time.time()
        new = [name for name in libraries if name not in self._tried]
        self._tried.update(new)
        for name in new:
            if name not in sys.modules:
                self._connections.tell(client, Waiting(f"importing {name}"))
            # Names of a library that are no module, and libraries that don't import: the child gives the true error.
            with suppress(Exception, SystemExit):
                importlib.import_module(name)
        if new:
            # The children collect no garbage among what is imported here, and so share its memory.
            gc.freeze()
            self._sources.take(began)
        changed = self._sources.changed()
        if changed:
            self._connections.answer(client, Stale(changed))
        return not changed and client in self._connections.clients


def _work(wanted: StartWorker, env: Mapping[str, str], connection: socket.socket) -> None:
    """What a worker does."""
    module, _, function = wanted.function.partition(":")
    os.environ.clear()
    os.environ.update(env)
    with connection:
        connection.setblocking(True)
        getattr(importlib.import_module(module), function)(connection, bytes(wanted.order))


def _cpu_s() -> float:
    """What this process and the children that it has seen end have used since it began."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _listen(config: ParentConfig) -> None:
    """Serve in a folder, and say on standard output where that is."""
    daemon = Daemon(Path(config.root)) if config.idle_s is not None else None
    # Created for its user alone, which is what guards the socket inside.
    folder = daemon.folder if daemon else Path(tempfile.mkdtemp(prefix="research-launcher-", dir=short_base()))
    with socket.socket(socket.AF_UNIX) as listener:
        (folder / SOCKET).unlink(missing_ok=True)
        listener.bind(str(folder / SOCKET))
        listener.listen()
        if daemon:
            daemon.note_start()
            os.chdir("/")
        parent = Parent(listener, folder, config)
        # If the owner is gone by now, standard input has ended too.
        with suppress(BrokenPipeError):
            os.write(1, os.fsencode(folder) + b"\n")
        # Nobody reads standard output from here on; a library that prints while it is imported must not block on it.
        os.dup2(2, 1)
        parent.serve()
        if daemon:
            daemon.note_end()
    if not daemon:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    """Be a parent, as a line on standard input says."""
    first = sys.stdin.buffer.readline()
    # Else whoever started it is gone already.
    if first.endswith(b"\n"):
        _listen(msgspec.json.decode(first, type=ParentConfig))
    # The exit handlers of the libraries have nothing here to end.
    os._exit(0)
