"""What a forked child does: import the experiment as it is on disk, sample, and report one result."""

import faulthandler
import os
import resource
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal

import draccus
import msgspec

from research_steps.errors import CodeChanged, DevicesDiffer, FailedElsewhere, SideFailed
from research_steps.records.model import Device, Error
from research_steps.trial.code import Code
from research_steps.trial.launcher.importing import import_from, is_below, load
from research_steps.trial.launcher.protocol import ChildResult, Request, Used, line, received
from research_steps.trial.launcher.sampling import alone, sample
from research_steps.trial.launcher.second_process import SecondProcess
from research_steps.trial.launcher.staleness import edited
from research_steps.trial.measured import TrialSpec
from research_steps.trial.provenance import describe_error

LONGEST_MESSAGE = 10_000


def serve(request: Request, result: Path, stage: int) -> None:
    """Run one trial here and write its result; say on `stage`, a descriptor, at what it is."""
    # A crash in C then says where it was, in the output's tail.
    faulthandler.enable()
    process = os.getpid()
    encoded = msgspec.json.encode(run(request, stage))
    # A measure function that forks may come back here twice; the trial is what was forked first.
    if os.getpid() == process:
        result.write_bytes(encoded)


def serve_many(orders: socket.socket, result: Path, stage: int) -> None:
    """Run one trial after the other here, on the code as it then is on disk, and keep the backend."""
    before = set(sys.modules)
    with orders, orders.makefile("rb") as lines:
        for request in received(lines, Request):
            for name in sys.modules.keys() - before:
                if is_below(request.spec.code.root, getattr(sys.modules[name], "__file__", None) or ""):
                    del sys.modules[name]
            serve(request, result, stage)
            sys.stdout.flush()
            sys.stderr.flush()
            orders.sendall(line(Used.of(resource.getrusage(resource.RUSAGE_SELF))))


def run(request: Request, stage: int) -> ChildResult:
    """Run one trial here. Whatever the measure function raises is in the result; nothing is raised."""
    started = time.perf_counter()
    import_s = 0.0
    spec, code, series = request.spec, request.spec.code, request.series
    root = Path(code.root)
    other: SecondProcess | None = None

    def say(what: str) -> None:
        # Nobody reads along, or the measure function has closed it.
        with suppress(OSError):
            os.write(stage, what.encode() + b"\n")

    try:
        if request.env is not None:
            os.environ.clear()
            os.environ.update(request.env)
        os.chdir(request.cwd)
        say(f"importing {code.name.partition(':')[0]}")
        if spec.baseline_code is not None:
            # Before anything is imported here, and a backend started.
            other = _second_process(request, spec.baseline_code)
        measure = _imported(code)
        candidate, baseline = (_config(spec, fields) for fields in (spec.config, spec.baseline_config))
        import_s = time.perf_counter() - started
        say("setting up: compiling, checking, warming up")
        sampling = f"sampling, up to {series.sampling_s:g} s"
        result = sample(measure, candidate, other or baseline, series, request.seed, lambda: say(sampling))
        if other is not None and result.samples is not None and result.samples.paired:
            _check_same_devices(other.devices())
    except BaseException as raised:  # noqa: BLE001  # whatever it is, it is the trial's result
        result = ChildResult(error=_described(raised, root), setup_s=time.perf_counter() - started - import_s)
    finally:
        if other is not None:
            other.end()
    # Nobody edits a copy.
    sources = sorted(map(str, edited())) if code.tree is None else []
    return msgspec.structs.replace(result, devices=_devices(), import_s=import_s, sources=tuple(sources))


def _imported(code: Code) -> Any:
    """The measure function, from its code as that was when the run started. Raises CodeChanged."""
    import_from(code)
    measure = load(code.name)
    digest = code.now().digest
    if digest != code.digest:
        raise CodeChanged(
            f"The code of {code.name} changed on disk after the run had started "
            f"(digest {code.digest[:12]} then, {digest[:12]} now): run the thread again."
        )
    return measure


def _second_process(request: Request, code: Code) -> SecondProcess:
    """The process that measures the baseline by another version of the code."""
    spec = request.spec

    def begin() -> Iterator[dict[str, float]]:
        measure = _imported(code)
        return alone(measure, _config(spec, spec.baseline_config), request.series)

    described = partial(describe_error, where="baseline", root=Path(code.root))
    return SecondProcess(begin, _devices, lambda raised: _shortened(described(raised)))


def _check_same_devices(theirs: tuple[Device, ...]) -> None:
    """A backend that can't have an accelerator for a second process may take another one in silence."""
    mine = _devices()
    # A side that started no backend says nothing of its devices.
    if mine and theirs and mine != theirs:
        told = [", ".join(map(str, devices)) or "none" for devices in (mine, theirs)]
        raise DevicesDiffer(
            f"The candidate ran on {told[0]} and the baseline, in its own process, on {told[1]}: expected the same. "
            "An accelerator that admits one process at a time can't hold both versions."
        )


def _config(spec: TrialSpec, fields: dict[str, Any]) -> Any:
    return fields if spec.config_type == "dict" else draccus.decode(load(spec.config_type), fields)


def _devices() -> tuple[Device, ...]:
    # Only ask when the measure function started a backend; starting one here would be a measurement of its own.
    bridge = sys.modules.get("jax._src.xla_bridge")
    if bridge is None or not bridge.backends_are_initialized():
        return ()
    import jax

    counts = Counter((device.platform, device.device_kind) for device in jax.devices())
    return tuple(Device(backend=backend, kind=kind, count=count) for (backend, kind), count in counts.items())


def _described(raised: BaseException, root: Path) -> Error:
    if isinstance(raised, SideFailed) and isinstance(raised.error, FailedElsewhere):
        described: Error = raised.error.described
        return described
    where: Literal["candidate", "baseline", "child"] = raised.side if isinstance(raised, SideFailed) else "child"
    return _shortened(describe_error(raised.error if isinstance(raised, SideFailed) else raised, where, root))


def _shortened(described: Error) -> Error:
    message = described.message
    if len(message) > LONGEST_MESSAGE:
        message = f"{message[:LONGEST_MESSAGE]}… ({len(message)} characters)"
    # Half of a surrogate pair, which JSON can't carry, is spelled out.
    message = message.encode("utf-8", "backslashreplace").decode()
    return msgspec.structs.replace(described, message=message)
