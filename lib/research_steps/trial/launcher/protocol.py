"""What a client, the parent of trials and the processes below it say to each other: one JSON object a line.

A client says one thing on a connection (a trial, a worker to fork, or to stop), and hears messages until the answer,
which is a `TrialOutcome` for a trial, `Done` or `Refused` for a worker, or `Stale`. What else it says to a worker is
between these two.
"""

import sys
from collections.abc import Iterator
from contextlib import suppress
from resource import struct_rusage
from typing import IO, Any

import msgspec

from research_steps.records.model import CommandRun, Device, Error, Launch, Samples, TrackedRun
from research_steps.records.series import Series
from research_steps.trial.measured import TrialSpec
from research_steps.trial.progress import Reached

# The socket's name in the parent's folder.
SOCKET = "socket"


class ParentConfig(msgspec.Struct, frozen=True):
    """What a parent is started with: for which checkout, and its environment on top of that of whoever starts it.

    A kept one ends when it was idle for `idle_s` seconds, any other one with its standard input.
    """

    root: str
    env: dict[str, str]
    idle_s: float | None = None


class Request(msgspec.Struct, frozen=True, kw_only=True, tag="trial"):
    """One trial, sampled as the series says, in the order that the `seed` gives.

    `directory` is what every attempt at it finds, `prefix` where Marin's steps have their output, `cwd` its working
    directory, `env` the whole environment of the child (default: the parent's). `live` asks for its output while it
    runs. `in_process` runs it in a child that stays, with its backend. `tracker` are variables for the W&B runs that it
    starts.
    """

    spec: TrialSpec
    series: Series
    directory: str
    prefix: str
    cwd: str
    seed: int
    env: dict[str, str] | None = None
    tracker: dict[str, str] = {}
    live: bool = False
    in_process: bool = False


class StartWorker(msgspec.Struct, frozen=True, kw_only=True, tag="worker"):
    """Fork a worker, which speaks on this connection from then on: `function` ('module:name') is called with it and
    the `order`, under the environment of the parent with `env` in it. One that was started under another is stale."""

    function: str
    libraries: tuple[str, ...]
    order: msgspec.Raw
    env: dict[str, str]


class Shutdown(msgspec.Struct, frozen=True, tag="stop"):
    """End the parent and everything below it; `when_done` with what runs, and begin nothing more."""

    when_done: bool = False


class Waiting(msgspec.Struct, frozen=True, tag="waiting"):
    """What is being waited for from now on."""

    what: str


class Progress(msgspec.Struct, frozen=True, tag="progress"):
    """How far the trial is, as it told itself."""

    reached: Reached


class Silent(msgspec.Struct, frozen=True, tag="silent"):
    """For so long (seconds) the trial has told and printed nothing; `tail` is the end of what it had printed."""

    for_s: float
    tail: str


class Output(msgspec.Struct, frozen=True, tag="output"):
    """What the measure function printed."""

    text: str


class Begun(msgspec.Struct, frozen=True, tag="begun"):
    """The trials of an experiment up to this number may have records from now on."""

    number: int


class Said(msgspec.Struct, frozen=True, tag="said"):
    """A line for a person."""

    text: str


class Stale(msgspec.Struct, frozen=True, tag="stale"):
    """Nothing was begun, because the parent is older than `what` changed: start another one, and ask that."""

    what: str


class Done(msgspec.Struct, frozen=True, tag="done"):
    """A worker's answer."""

    value: msgspec.Raw


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """Why a worker could not do what it was asked for."""

    message: str


class ChildResult(msgspec.Struct, frozen=True, kw_only=True):
    """What the child itself reports: samples, or an error, or why there is neither, for no fault of what was measured
    (`interrupted`). `without` tells of metrics beside the primary one what they
    were when they were no finite number. `sources` are the files that people edit among those of the
    modules that it had imported, `curves` what it told by step, `command` is the last run of the one that was measured.
    Times are in seconds."""

    samples: Samples | None = None
    error: Error | None = None
    interrupted: str = ""
    without: dict[str, str] = {}
    devices: tuple[Device, ...] = ()
    sources: tuple[str, ...] = ()
    curves: dict[str, list[tuple[int, float]]] = {}
    command: CommandRun | None = None
    import_s: float = 0.0
    setup_s: float = 0.0
    sampling_s: float = 0.0


class Used(msgspec.Struct, frozen=True):
    """What a process has used: its CPU time (seconds), and the most memory that it ever had (bytes)."""

    cpu_s: float
    peak_rss_bytes: int

    @staticmethod
    def of(usage: struct_rusage) -> "Used":
        rss = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        return Used(usage.ru_utime + usage.ru_stime, rss)


class TrialOutcome(ChildResult, frozen=True, kw_only=True, tag="outcome"):
    """How a trial ended: what the child reported, or else an error that says how its process ended.

    `launcher_cpu_s` is what the child used, and what its parent used since the request, or its own start. The machine
    on which it ran adds between which times that was, and who disturbed it: empty when nobody was seen to. `runs`
    are the W&B runs that all attempts have started.
    """

    launch: Launch
    launcher_cpu_s: float
    runs: tuple[TrackedRun, ...] = ()
    started_at: str = ""
    finished_at: str = ""
    contended: str = ""


AskedOfParent = Request | StartWorker | Shutdown
Answer = TrialOutcome | Done | Refused | Stale
Message = Waiting | Progress | Silent | Output | Begun | Said | Answer


def line(message: msgspec.Struct) -> bytes:
    return msgspec.json.encode(message) + b"\n"


def received(lines: IO[bytes], kind: Any) -> Iterator[Any]:
    """What comes on a connection, as it comes, until that ends. Half a line is nothing."""
    with suppress(OSError):
        for data in lines:
            if data.endswith(b"\n"):
                yield msgspec.json.decode(data, type=kind)


def done(value: object) -> Done:
    return Done(msgspec.Raw(msgspec.json.encode(value)))
