"""What a forked child does: import the experiment as it is on disk, sample, and report one result."""

import faulthandler
import importlib
import os
import resource
import socket
import sys
import time
from collections import Counter
from contextlib import suppress
from importlib.machinery import (
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    SourceFileLoader,
)
from operator import attrgetter
from pathlib import Path
from types import CodeType
from typing import Any, Literal

import draccus
import msgspec

from research_steps.errors import CodeChanged, SideFailed
from research_steps.records.model import Device, Error
from research_steps.trial.launcher.protocol import ChildResult, Request, Used, line, received
from research_steps.trial.launcher.sampling import sample
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
                if _is_below(request.spec.code.root, getattr(sys.modules[name], "__file__", None) or ""):
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

    def say(what: str) -> None:
        # Nobody reads along, or the measure function has closed it.
        with suppress(OSError):
            os.write(stage, what.encode() + b"\n")

    try:
        if request.env is not None:
            os.environ.clear()
            os.environ.update(request.env)
        os.chdir(request.cwd)
        _import_from(code.root)
        say(f"importing {code.name.partition(':')[0]}")
        measure = load(code.name)
        candidate, baseline = (_config(spec, fields) for fields in (spec.config, spec.baseline_config))
        digest = code.now().digest
        if digest != code.digest:
            raise CodeChanged(
                f"The code of {code.name} changed on disk after the run had started "
                f"(digest {code.digest[:12]} then, {digest[:12]} now): run the thread again."
            )
        import_s = time.perf_counter() - started
        say("setting up: compiling, checking, warming up")
        sampling = f"sampling, up to {series.sampling_s:g} s"
        result = sample(measure, candidate, baseline, series, request.seed, lambda: say(sampling))
    except BaseException as raised:  # noqa: BLE001  # whatever it is, it is the trial's result
        result = ChildResult(error=_described(raised, root), setup_s=time.perf_counter() - started - import_s)
    return msgspec.structs.replace(
        result, devices=_devices(), import_s=import_s, sources=tuple(sorted(str(path) for path in edited()))
    )


class _FromSource(SourceFileLoader):
    """Compiles a module's source each time. Cached bytecode is told apart by whole seconds and the file's size, so
    that it can be older than an edit."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


def _import_from(root: str) -> None:
    """Have the experiment's modules, which lie below `root`, imported from their sources as they are now."""
    if root in sys.path:
        return
    sys.path.insert(0, root)
    finder = FileFinder.path_hook((ExtensionFileLoader, EXTENSION_SUFFIXES), (_FromSource, SOURCE_SUFFIXES))

    def hook(entry: str) -> Any:
        if not _is_below(root, entry):
            raise ImportError(f"{entry} is not the experiment's")
        return finder(entry)

    sys.path_hooks.insert(0, hook)
    sys.path_importer_cache.clear()


def _is_below(root: str, path: str) -> bool:
    return (path == root or path.startswith(f"{root.rstrip(os.sep)}{os.sep}")) and "site-packages" not in path


def load(name: str) -> Any:
    """What 'module:name' names."""
    module, _, attribute = name.partition(":")
    return attrgetter(attribute)(importlib.import_module(module))


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
    where: Literal["candidate", "baseline", "child"] = raised.side if isinstance(raised, SideFailed) else "child"
    described = describe_error(raised.error if isinstance(raised, SideFailed) else raised, where, root)
    message = described.message
    if len(message) > LONGEST_MESSAGE:
        message = f"{message[:LONGEST_MESSAGE]}… ({len(message)} characters)"
    # Half of a surrogate pair, which JSON can't carry, is spelled out.
    message = message.encode("utf-8", "backslashreplace").decode()
    return msgspec.structs.replace(described, message=message)
