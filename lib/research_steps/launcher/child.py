"""What a forked child does: import the experiment as it is on disk, sample, and report one result."""

import ctypes
import importlib
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, Literal

from research_steps.code import trace_name
from research_steps.launcher.protocol import Request, Result
from research_steps.launcher.sampling import SideFailed, sample
from research_steps.provenance import describe_error
from research_steps.record import Device

_PR_SET_PDEATHSIG = 1


class CodeChanged(Exception):
    """The files on disk are not the ones that the attempt was begun for."""


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent dies. Linux only; elsewhere the parent's end is not noticed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


def run(request: Request) -> Result:
    """Run one trial here. Whatever the measure function raises is in the result; nothing is raised."""
    started = time.perf_counter()
    import_s = 0.0
    try:
        sys.path.insert(0, request.root)
        os.chdir(request.cwd)
        importlib.invalidate_caches()
        measure = _load(request.measure)
        candidate, baseline = (_config(request, fields) for fields in (request.config, request.baseline_config))
        found = trace_name(request.measure, Path(request.root)).digest
        if found != request.code:
            raise CodeChanged(
                f"The code of {request.measure} changed on disk after the run had started "
                f"(digest {request.code[:12]} then, {found[:12]} now): run the thread again."
            )
        import_s = time.perf_counter() - started
        sampled = sample(
            measure,
            candidate,
            baseline,
            metrics=request.metrics,
            max_pairs=request.max_pairs,
            sampling_s=request.sampling_s,
            seed=request.seed,
        )
    except SideFailed as failed:
        assert failed.__cause__ is not None, "SideFailed is raised from what the measure function raised"
        return _failed(failed.__cause__, failed.side, Path(request.root), import_s, time.perf_counter() - started)
    except (Exception, SystemExit) as error:  # noqa: BLE001  # whatever it is, it is the trial's result
        return _failed(error, "child", Path(request.root), import_s, time.perf_counter() - started)
    return Result(
        samples=sampled.samples,
        error=None,
        devices=_devices(),
        import_s=import_s,
        setup_s=sampled.setup_s,
        sampling_s=sampled.sampling_s,
    )


def _load(name: str) -> Any:
    module, _, attribute = name.partition(":")
    found: Any = importlib.import_module(module)
    for part in attribute.split("."):
        found = getattr(found, part)
    return found


def _config(request: Request, fields: dict[str, Any]) -> Any:
    if request.config_type == "dict":
        return fields
    import draccus

    return draccus.decode(_load(request.config_type), fields)


def _devices() -> tuple[Device, ...]:
    # Only ask when the measure function started a backend; starting one here would be a measurement of its own.
    bridge = sys.modules.get("jax._src.xla_bridge")
    if bridge is None or not bridge.backends_are_initialized():
        return ()
    import jax

    counts: dict[tuple[str, str], int] = {}
    for device in jax.devices():
        counts[device.platform, device.device_kind] = counts.get((device.platform, device.device_kind), 0) + 1
    return tuple(Device(backend=backend, kind=kind, count=count) for (backend, kind), count in counts.items())


def _failed(
    error: BaseException, where: Literal["candidate", "baseline", "child"], root: Path, import_s: float, s: float
) -> Result:
    described = describe_error(error, where, root)
    return Result(
        samples=None, error=described, devices=_devices(), import_s=import_s, setup_s=s - import_s, sampling_s=0.0
    )
