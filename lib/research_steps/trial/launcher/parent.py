"""The parent of trials, a process of its own: `Launcher` has one for itself, `Daemon` is one that is kept.

One thread, one event loop, which nothing blocks but imports. Whoever connects asks for one trial; trials take turns, in
the order of their requests. For each the parent forks a child, keeps its time limit, collects its result, kills whatever
it left behind, and answers with how it ended. A connection that closes early gives up its trial. It forks workers too,
which do on the connection what was asked for.

It ends when its standard input does (its owner is gone), or, when it is kept, after it was idle for long or is told to.
Everything below it ends with it. It imports libraries on request, never the experiment, and starts no backend.
"""

import asyncio
import gc
import importlib
import os
import resource
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

from research_steps.trial.directory import open_output, tidy
from research_steps.trial.launcher import child
from research_steps.trial.launcher.daemon import Daemon, short_base
from research_steps.trial.launcher.importing import load
from research_steps.trial.launcher.private_socket import is_own, require_private
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
    Used,
    Waiting,
    line,
)
from research_steps.trial.launcher.running_trial import PersistentChild, RunningTrial
from research_steps.trial.launcher.staleness import Sources, stamp

# How often a trial's output is looked at for somebody who reads along. Not oftener, because it wakes up a core.
LOOK_S = 0.25
# And how often at how far it is, whoever reads along.
NEWS_S = 5.0
LARGEST_REQUEST = 64 << 20


class Parent:
    """One whose trials leave their results in `folder`. Both that and where it listens are open to its user alone."""

    def __init__(self, listener: socket.socket, folder: Path, config: ParentConfig) -> None:
        self._listener = listener
        self._result = folder / "result"
        self._root, self._idle_s = Path(config.root), config.idle_s
        self._env = {name: value for name, value in os.environ.items() if name not in config.env}
        self._stamp = stamp(self._root, os.environ)
        self._pid = os.getpid()
        self._clients: set[asyncio.StreamWriter] = set()
        # How many trials run or wait for that.
        self._requests = 0
        self._workers: set[int] = set()
        self._trial: RunningTrial | None = None
        self._persistent: PersistentChild | None = None
        self._sources = Sources()
        self._tried: set[str] = set()
        self._turn, self._over = asyncio.Lock(), asyncio.Event()
        self._retiring = False
        self._idle: asyncio.TimerHandle | None = None
        # A child says here at what it is. What does not fit is not said.
        self._stages, self._stage = os.pipe()
        os.set_blocking(self._stages, False)
        os.set_blocking(self._stage, False)

    async def serve(self) -> None:
        """Serve until it is over, then leave no process behind."""
        adopt_orphans()
        self._loop = asyncio.get_running_loop()
        self._loop.add_signal_handler(signal.SIGCHLD, self._reap)
        self._loop.add_reader(self._stages, self._tell_stage)
        if self._idle_s is None:
            self._loop.add_reader(0, self._over.set)
        await asyncio.start_unix_server(self._serve, sock=self._listener, limit=LARGEST_REQUEST)
        self._look()
        await self._over.wait()
        kill_descendants()

    def _look(self) -> None:
        """Have it end when it is told to and nothing runs, or when nobody has needed it for long."""
        if self._idle is not None:
            self._idle.cancel()
        if self._retiring and not self._requests and not self._workers:
            self._over.set()
        if self._idle_s is not None and not self._clients and not self._workers:
            self._idle = self._loop.call_later(self._idle_s, self._over.set)

    async def _serve(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        """Do what a client asks for."""
        if not is_own(client.get_extra_info("socket")):
            client.close()
            return
        self._clients.add(client)
        self._look()
        asked: AskedOfParent | None = None
        # Else it is gone before it has asked, or none of ours.
        with suppress(OSError, ValueError, msgspec.MsgspecError):
            asked = msgspec.json.decode(await reader.readline(), type=AskedOfParent)
        try:
            match asked:
                case Request():
                    await self._measure(asked, reader, client)
                case StartWorker():
                    self._start_worker(asked, client)
                case Shutdown(when_done):
                    self._retiring = True
                    self._look() if when_done else self._over.set()
                    await _leaving(reader)
        finally:
            client.close()
            with suppress(OSError):
                await client.wait_closed()
            self._clients.discard(client)
            self._look()

    def _start_worker(self, wanted: StartWorker, client: asyncio.StreamWriter) -> None:
        env = {**self._env, **wanted.env}
        changed = self._sources.changed()
        if not changed and (self._retiring or stamp(self._root, env) != self._stamp):
            changed = "the environment, or what is installed,"
        if changed:
            client.write(line(Stale(changed)))
        elif self._preload(wanted.libraries, client):
            connection = int(client.get_extra_info("socket").fileno())
            self._workers.add(self._fork(partial(_work, wanted, env, connection), sys.stderr.fileno(), keep=connection))

    async def _measure(self, request: Request, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        """Run a trial for a client when it has its turn; it is given up when the client goes."""
        # What was used before is none of this trial's, but for the start of a parent that it was started for.
        used_before_s = _cpu_s() if self._tried else 0.0
        self._requests += 1
        leaving = asyncio.ensure_future(_leaving(reader))
        async with self._turn:
            if not leaving.done() and self._preload(request.spec.code.libraries, client):
                trial = self._trial = await self._start(request, client)
                leaving.add_done_callback(lambda _: trial.kill())
                limit_s, asked = request.series.time_limit_s, time.monotonic()
                limit = self._loop.call_later(limit_s, trial.time_out) if limit_s is not None else None
                while not trial.ended.done():
                    await asyncio.wait([trial.ended], timeout=LOOK_S if request.live else NEWS_S)
                    self._show_output(trial)
                    if time.monotonic() - asked >= NEWS_S:
                        asked, news = time.monotonic(), trial.news()
                        if news is not None:
                            client.write(line(news))
                if limit is not None:
                    limit.cancel()
                self._finish(trial, used_before_s)
        leaving.cancel()
        self._requests -= 1

    async def _start(self, request: Request, client: asyncio.StreamWriter) -> RunningTrial:
        # A file, because pipes are held open by others and fill up; by name, because a child may close everything.
        self._result.write_bytes(b"")
        # What a worker has left running, such as a session of ssh, is none of the trial's.
        others = {process.pid for process in psutil.Process().children()}
        if request.in_process:
            if self._persistent is None:
                self._persistent = await self._start_persistent()
            persistent = self._persistent
            trial = RunningTrial(request, client, persistent.pid, persistent.output, others | {persistent.pid})
            self._order = asyncio.ensure_future(persistent.run(trial))
            return trial
        if self._persistent is not None:
            # It holds the accelerator that this trial's process needs for itself.
            os.kill(self._persistent.pid, signal.SIGKILL)
            os.waitpid(self._persistent.pid, 0)
            self._forget_persistent(self._persistent)
        output = open_output(request.directory)
        start = os.fstat(output.fileno()).st_size
        pid = self._fork(partial(child.serve, request, self._result, self._stage), output.fileno())
        return RunningTrial(request, client, pid, output, others, start)

    def _finish(self, trial: RunningTrial, used_before_s: float) -> None:
        self._trial = None
        # What the child started may live on; it must not disturb the next trial.
        kill_descendants(trial.others | self._workers)
        self._show_output(trial)
        # A child that stays is in no account of this process.
        launcher_cpu_s = _cpu_s() - used_before_s + (trial.ended.result()[1].cpu_s if self._persistent else 0.0)
        outcome = trial.outcome(self._result.read_bytes(), launcher_cpu_s)
        if self._persistent is None:
            trial.output.close()
        tidy(trial.request.directory)
        trial.client.write(line(outcome))

    async def _start_persistent(self) -> PersistentChild:
        output = tempfile.TemporaryFile()  # noqa: SIM115  # closed when the child has ended
        mine, orders = socket.socketpair()
        with orders:
            pid = self._fork(partial(child.serve_many, orders, self._result, self._stage), output.fileno())
        return PersistentChild(pid, *await asyncio.open_unix_connection(sock=mine), output)

    def _fork(self, work: Callable[[], None], output: int, keep: int = -1) -> int:
        """The process ID of a child that does this work and then ends. What it prints goes to `output`."""
        pid = os.fork()
        if pid:
            return pid
        # Whatever the measure function raises is a result, so that what is raised here is a fault around it.
        status = os.EX_IOERR
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
            for connection in _bound_to(self._listener.getsockname()) - {keep}:
                os.close(connection)
            work()
            status = 0
        except BaseException:  # noqa: BLE001  # into the output's tail; nothing else would tell why there is no result
            traceback.print_exc()
        finally:
            # Never return into the parent's loop, and never run its exit handlers.
            os._exit(status)

    def _reap(self) -> None:
        """Take note of every child that has ended, also of those that it got from others."""
        with suppress(ChildProcessError):
            while (reaped := os.wait4(-1, os.WNOHANG))[0]:
                self._ended(*reaped)
        self._look()

    def _ended(self, pid: int, status: int, usage: resource.struct_rusage) -> None:
        self._workers.discard(pid)
        used_before_s = 0.0
        if self._persistent is not None and pid == self._persistent.pid:
            used_before_s = self._persistent.used_s
            self._forget_persistent(self._persistent)
        if self._trial is not None and pid == self._trial.pid:
            used = Used.of(usage)
            self._trial.end(os.waitstatus_to_exitcode(status), Used(used.cpu_s - used_before_s, used.peak_rss_bytes))

    def _forget_persistent(self, persistent: PersistentChild) -> None:
        self._persistent = None
        persistent.orders.close()

    def _tell_stage(self) -> None:
        for stage in os.read(self._stages, 4096).decode("utf-8", "replace").splitlines():
            if self._trial is not None:
                self._trial.client.write(line(Waiting(stage)))

    def _show_output(self, trial: RunningTrial) -> None:
        for text in trial.new_output() if trial.request.live else ():
            trial.client.write(line(Output(text)))

    def _preload(self, libraries: tuple[str, ...], client: asyncio.StreamWriter) -> bool:
        """Import what is new of these. False when that is for nothing: the client was told what changed."""
        began = time.time()
        new = [name for name in libraries if name not in self._tried]
        self._tried.update(new)
        for name in new:
            if name not in sys.modules:
                client.write(line(Waiting(f"importing {name}")))
            # Names of a library that are no module, and libraries that don't import: the child gives the true error.
            with suppress(Exception, SystemExit):
                importlib.import_module(name)
        if new:
            # The children collect no garbage among what is imported here, and so share its memory.
            gc.freeze()
            self._sources.take(began)
        changed = self._sources.changed()
        if changed:
            client.write(line(Stale(changed)))
        return not changed


async def _leaving(reader: asyncio.StreamReader) -> None:
    """Wait until a client that has asked goes. It has nothing more to say, so anything to read is its end."""
    with suppress(OSError):
        await reader.read(1)


def _bound_to(address: str) -> set[int]:
    """The descriptors of the sockets with this address, also of those that the loop has accepted and not served yet."""
    bound = set()
    for name in os.listdir("/dev/fd"):
        with suppress(OSError):
            connection = socket.socket(fileno=int(name))
            try:
                if connection.getsockname() == address:
                    bound.add(connection.fileno())
            finally:
                # It belongs to whoever opened it.
                connection.detach()
    return bound


def _work(wanted: StartWorker, env: Mapping[str, str], connection: int) -> None:
    os.environ.clear()
    os.environ.update(env)
    with socket.socket(fileno=connection) as speaking:
        speaking.setblocking(True)
        load(wanted.function)(speaking, bytes(wanted.order))


def _cpu_s() -> float:
    """What this process and the children that it has seen end have used since it began."""
    return sum(Used.of(resource.getrusage(who)).cpu_s for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def main() -> None:
    """Be a parent, as a line on standard input says: serve in a folder, and say on standard output where that is."""
    first = sys.stdin.buffer.readline()
    if not first.endswith(b"\n"):
        # Whoever started it is gone already.
        os._exit(0)
    config = msgspec.json.decode(first, type=ParentConfig)
    daemon = Daemon(Path(config.root)) if config.idle_s is not None else None
    # Its own, even where it is kept: a runtime folder goes when the last session of its user ends, a trial goes on.
    folder = Path(tempfile.mkdtemp(prefix="research-launcher-", dir=short_base()))
    door = daemon.folder if daemon else folder
    require_private(door)
    with socket.socket(socket.AF_UNIX) as listener:
        (door / SOCKET).unlink(missing_ok=True)
        listener.bind(str(door / SOCKET))
        listener.listen()
        if daemon:
            daemon.note_start()
            os.chdir("/")
        parent = Parent(listener, folder, config)
        # If the owner is gone by now, standard input has ended too.
        with suppress(BrokenPipeError):
            os.write(1, os.fsencode(door) + b"\n")
        # Nobody reads standard output from here on; a library that prints while it is imported must not block on it.
        os.dup2(2, 1)
        asyncio.new_event_loop().run_until_complete(parent.serve())
        if daemon:
            daemon.note_end()
    shutil.rmtree(folder, ignore_errors=True)
    # The exit handlers of the libraries have nothing here to end.
    os._exit(0)
