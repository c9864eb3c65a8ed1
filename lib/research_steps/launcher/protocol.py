"""What the launcher's client, parent and child say to each other: one line of JSON each way."""

from typing import Any

import msgspec

from research_steps.record import Device, Error, Samples
from research_steps.series import Metric

# The socket's name in the parent's folder, which the parent says once, as a line on its standard output.
SOCKET = "socket"
# Its answer in place of `Ended` when a library changed on disk after it was imported: start another parent.
STALE = b"stale\n"


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One trial. `measure` and `config_type` are 'module:name' under `root`; the latter is 'dict' for plain dicts.

    `code` is the digest that the intent was written for. Sampling goes on until the `primary` metric is known well
    enough, or the budget is spent. Times are in seconds.
    """

    measure: str
    root: str
    cwd: str
    code: str
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


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What the child itself reports: either samples or an error."""

    samples: Samples | None
    error: Error | None
    devices: tuple[Device, ...]
    import_s: float
    setup_s: float
    sampling_s: float


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """How the child ended, as its parent saw it. `result` is None when the child gave none.

    `cpu_s` is what the child used, `launcher_cpu_s` that and what the parent used since its last answer, or its start.
    """

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
