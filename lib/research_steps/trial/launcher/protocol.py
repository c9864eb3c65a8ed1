"""What the launcher's client, parent and child say to each other: one JSON object a line.

A client says one thing on a connection (a trial, a helper to fork, or to stop), and hears messages until the last one,
which is `Ended` for a trial, `Done` or `Refused` for a helper, or `Stale`. With a helper on another machine it goes on:
each thing that is said to it is answered by `Done` or `Refused`, but for `Release`.
"""

from typing import Any, Literal

import msgspec

from research_steps.records.model import Device, Error, Samples
from research_steps.records.series import Metric

# The socket's name in the parent's folder.
SOCKET = "socket"
# The path of a socket has at most 103 bytes on some systems.
LONGEST_BASE = 60


class Request(msgspec.Struct, frozen=True, kw_only=True, tag="trial"):
    """One trial. `measure` and `config_type` are 'module:name' under `root`; the latter is 'dict' for plain dicts.

    `code` is the digest that the intent was written for, of these `files` below the root. Sampling goes on until the
    `primary` metric is known well enough, or the budget is spent. Times are in seconds. `env` is the whole environment
    of the child (default: the parent's). `live` asks for its output while it runs. `in_process` runs it in a child that
    stays, with its backend.
    """

    measure: str
    root: str
    cwd: str
    code: str
    files: tuple[str, ...]
    libraries: tuple[str, ...]
    config_type: str
    config: dict[str, Any]
    baseline_config: dict[str, Any]
    metrics: tuple[str, ...]
    primary: Metric
    max_pairs: int
    sampling_s: float
    time_limit_s: float
    seed: int
    env: dict[str, str] | None = None
    live: bool = False
    in_process: bool = False


class Help(msgspec.Struct, frozen=True, kw_only=True, tag="help"):
    """Fork a helper, which speaks on this connection from then on: `function` ('module:name') is called with it and
    the `order`, under the environment of the parent with `env` in it. One that was started under another is stale."""

    function: str
    libraries: tuple[str, ...]
    order: msgspec.Raw
    env: dict[str, str]


class Shutdown(msgspec.Struct, frozen=True, tag="stop"):
    """End the parent and everything below it; `when_done` with what runs, and begin nothing more."""

    when_done: bool = False


class TakeTurn(msgspec.Struct, frozen=True, kw_only=True, tag="turn"):
    """Have a turn for one trial, as `Host.turn` says. The answer is what is left of the time to wait (seconds)."""

    id: str
    timed: bool
    wait_s: float


class Measure(msgspec.Struct, frozen=True, kw_only=True, tag="measure"):
    """Run a trial in the turn. The answer is its outcome, which is also kept under the `nonce`."""

    nonce: str
    request: Request


class Quiet(msgspec.Struct, frozen=True, tag="quiet"):
    """Wait in the turn until the machine is quiet. The answer is whether it is, and what is left of the time."""

    left_s: float


class Release(msgspec.Struct, frozen=True, tag="release"):
    """End the turn, and the trial that runs in it."""


class Waiting(msgspec.Struct, frozen=True, tag="waiting"):
    """What is being waited for from now on."""

    what: str


class Output(msgspec.Struct, frozen=True, tag="output"):
    """What the measure function printed."""

    text: str


class Stale(msgspec.Struct, frozen=True, tag="stale"):
    """Nothing was begun, because the parent is older than `what` changed: start another one, and ask that."""

    what: str


class Begun(msgspec.Struct, frozen=True, tag="begun"):
    """The trials of an experiment up to this number may have records from now on."""

    number: int


class Said(msgspec.Struct, frozen=True, tag="said"):
    """A line for a person."""

    text: str


class Done(msgspec.Struct, frozen=True, tag="done"):
    """A helper's answer."""

    value: msgspec.Raw


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """Why a helper could not do what it was asked for."""

    message: str


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What the child itself reports: either samples or an error. `sources` are the files that people edit among those
    of the modules that it had imported."""

    samples: Samples | None
    error: Error | None
    devices: tuple[Device, ...]
    import_s: float
    setup_s: float
    sampling_s: float
    sources: tuple[str, ...] = ()


class Ended(msgspec.Struct, frozen=True, kw_only=True, tag="ended"):
    """How the child ended, as its parent saw it. `result` is None when the child gave none.

    `cpu_s` is what the child used, `launcher_cpu_s` that and what the parent used since the request, or its own start.
    """

    how: Literal["forked", "in-process"]
    result: Result | None
    exit: str
    timed_out: bool
    parent_pid: int
    parent_threads: int
    preloaded_modules: int
    child_pid: int
    cpu_s: float
    launcher_cpu_s: float
    peak_rss_bytes: int
    output_tail: str


Asked = Request | Help | Shutdown
AskedAway = TakeTurn | Measure | Quiet | Release
Message = Waiting | Output | Begun | Said | Stale | Ended | Done | Refused


def line(message: msgspec.Struct) -> bytes:
    return msgspec.json.encode(message) + b"\n"
