"""What a forked child does: import the experiment as it is on disk, sample, and report one result."""

import faulthandler
import math
import os
import resource
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal

import draccus
import msgspec

from research_steps.errors import CodeChanged, Diverged, FailedElsewhere, LauncherError, Side, SideFailed, lacking
from research_steps.evidence.effects import LARGEST
from research_steps.records.configurations import step_paths
from research_steps.records.model import Device, Error
from research_steps.records.redaction import redact
from research_steps.trial.code import Code
from research_steps.trial.command import Command
from research_steps.trial.directory import enter
from research_steps.trial.launcher.command_measure import CommandMeasure
from research_steps.trial.launcher.importing import import_from, is_below, load
from research_steps.trial.launcher.protocol import ChildResult, Request, Used, line, received
from research_steps.trial.launcher.sampling import sample
from research_steps.trial.launcher.side_process import SideProcess, SideRun, SideWork
from research_steps.trial.launcher.staleness import edited
from research_steps.trial.launcher.two_versions import TwoVersions
from research_steps.trial.progress import curves, first_beyond, hear_levanter
from research_steps.trial.provenance import describe_error
from research_steps.trial.tracked import end_open_run, tell_runs

LONGEST_MESSAGE = 10_000
# By its name, because only what runs a step needs Marin.
RUN_STEP = "research_steps.thread.measured_step:run"
# What Marin calls the place of its steps' outputs.
PREFIX = "MARIN_PREFIX"


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
    versions: TwoVersions | None = None
    measure: Any = None
    late: list[str] = []

    def say(what: str) -> None:
        # Nobody reads along, or the measure function has closed it.
        with suppress(OSError):
            os.write(stage, what.encode() + b"\n")

    try:
        if request.env is not None:
            os.environ.clear()
            os.environ.update(request.env)
        os.chdir(request.cwd)
        enter(request.directory, "candidate")
        hear_levanter()
        os.environ[PREFIX] = request.prefix
        tell_runs(request.tracker, request.directory)
        say(f"importing {code.name.partition(':')[0]}")
        sampling = partial(say, f"sampling, up to {series.sampling_s:g} s")
        if spec.baseline_code is not None:
            # Nothing is imported here, and no backend started: each side has a process of its own.
            say("importing and setting up both versions of the code")
            versions = TwoVersions(partial(_side_process, request), series, request.seed)
            result = versions.sample(sampling)
        else:
            measure = _imported(code, late, series.sampling_s)
            candidate, baseline = (_config(request, fields) for fields in (spec.config, spec.baseline_config))
            import_s = time.perf_counter() - started
            say("setting up: compiling, checking, warming up")
            turn = partial(enter, request.directory)
            result = sample(measure, candidate, baseline, series, request.seed, sampling, turn)
    except BaseException as raised:  # noqa: BLE001  # whatever it is, it is the trial's result
        why = _interrupted(raised)
        error = None if why else _diverged(request, raised) or _described(raised, root)
        result = ChildResult(error=error, interrupted=why, setup_s=time.perf_counter() - started - import_s)
    end_open_run()
    ran = versions.ran if versions is not None else _ran(code, late, measure)
    # What is imported only when it is called for may have been saved after the first look, and be why it failed.
    if changed := _changed(code, ran.late):
        result = ChildResult(interrupted=changed)
    parts = {
        "devices": ran.devices,
        "sources": ran.sources,
        "import_s": ran.import_s or import_s,
        "curves": curves(Path(request.directory, "candidate"), [metric.name for metric in series.metrics]),
        "command": ran.command,
    }
    return msgspec.structs.replace(result, **parts)


def _imported(code: Code, late: list[str], budget_s: float) -> Any:
    """The measure function, from its code as that was when the run started, and in `late` the files of it that are not
    imported yet. Runs of a command that take longer than the budget stand alone. Raises CodeChanged."""
    command = Command.named(code.name)
    if command is None:
        import_from(code)
    measure = load(code.name) if command is None else CommandMeasure(command, Path(code.root), budget_s)
    if changed := _changed(code, code.files):
        raise CodeChanged(changed)
    imported = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
    late += [file for file in code.files if str(Path(code.root, file)) not in imported]
    return measure if command is not None else partial(_measured, measure)


def _measured(measure: Any, config: Any) -> Any:
    """What the measure function gives. A step of Marin that it returns is run, for its metrics."""
    returned = measure(config)
    return load(RUN_STEP)(returned) if type(returned).__name__ in ("ExecutorStep", "ArtifactStep") else returned


def _changed(code: Code, files: Iterable[str]) -> str:
    """That one of these files is not what it was when the trial was begun, empty where all are."""
    now = code.now()
    changed = [file for file in files if now.files.get(file) != code.files[file]]
    if not changed:
        return ""
    return (
        f"The code of {code.name} changed on disk after the run had started ({changed[0]}; "
        f"digest {code.digest[:12]} then, {now.digest[:12]} now): run the thread again."
    )


def _side_process(request: Request, side: Side) -> SideProcess:
    """The process that measures a side by its own version of the code."""
    spec = request.spec
    mine = spec.code if side == "candidate" else spec.baseline_code
    assert mine is not None, "there are two versions"
    code, fields = mine, spec.config if side == "candidate" else spec.baseline_config

    late: list[str] = []
    measure: Any = None

    def load() -> Callable[[], Any]:
        nonlocal measure
        enter(request.directory, side)
        # Whether runs stand alone, the candidate's side tells.
        measure = _imported(code, late, request.series.sampling_s if side == "candidate" else math.inf)
        return partial(measure, _config(request, fields))

    described = partial(describe_error, where=side, root=Path(code.root))
    return SideProcess(
        side,
        SideWork(
            request.series,
            load,
            lambda: _ran(code, late, measure),
            lambda raised: _interrupted(raised) or _shortened(described(raised)),
        ),
    )


def _config(request: Request, fields: dict[str, Any]) -> Any:
    placed, kind = step_paths(fields, request.prefix), request.spec.config_type
    if kind == "dict" or Command.named(request.spec.code.name) is not None:
        return placed
    return draccus.decode(load(kind), placed)


def _ran(code: Code, late: Iterable[str], measure: Any) -> SideRun:
    """What this process ran on, and the files of the code that people edit; nobody edits a copy."""
    sources = {*map(str, edited()), *(str(Path(code.root, file)) for file in late)} if code.tree is None else ()
    command = measure.ran if isinstance(measure, CommandMeasure) else None
    return SideRun(_devices(), tuple(sorted(sources)), late=tuple(late), command=command)


def _devices() -> tuple[Device, ...]:
    # Only ask when the measure function started a backend; starting one here would be a measurement of its own.
    bridge = sys.modules.get("jax._src.xla_bridge")
    if bridge is None or not bridge.backends_are_initialized():
        return ()
    import jax

    counts = Counter((device.platform, device.device_kind) for device in jax.devices())
    return tuple(Device(backend=backend, kind=kind, count=count) for (backend, kind), count in counts.items())


def _interrupted(raised: BaseException) -> str:
    """Why there is no result, where what was raised is no fault of what was measured; empty where it may be."""
    error = raised.error if isinstance(raised, SideFailed) else raised
    if isinstance(error, CodeChanged | LauncherError):
        return str(error)
    why = lacking(error)
    return f"The machine could not do it: {_short(why)}." if why else ""


def _diverged(request: Request, raised: BaseException) -> Error | None:
    """What was raised as a divergence, with the step of it as far as that was told; None where it is none."""
    side: Side = raised.side if isinstance(raised, SideFailed) else "candidate"
    error: BaseException | None = raised.error if isinstance(raised, SideFailed) else raised
    described = error.described if isinstance(error, FailedElsewhere) else None
    if described is not None and described.type != Diverged.__name__:
        return None
    while error is not None and described is None and not _tells_divergence(error):
        error = error.__cause__ or error.__context__
    if error is None:
        return None
    primary = request.series.primary
    bound = LARGEST if primary.diverged_above is None else primary.diverged_above
    since, last = first_beyond(Path(request.directory, side), primary.name, bound)
    when = f" It has been so since step {since}." if since is not None else ""
    when = when or (f" The last step that was told is {last}." if last is not None else "")
    message = described.message if described is not None else str(error)
    return Error(Diverged.__name__, _short(message) + when, (), side, "")


def _tells_divergence(error: BaseException) -> bool:
    """Whether this is how this package, JAX or Levanter tells that a number is none any more."""
    if isinstance(error, RuntimeError):
        return str(error) in ("Loss is NaN", "Loss is Inf")
    return isinstance(error, Diverged | FloatingPointError)


def _described(raised: BaseException, root: Path) -> Error:
    if isinstance(raised, SideFailed) and isinstance(raised.error, FailedElsewhere):
        described: Error = raised.error.described
        return described
    where: Literal["candidate", "baseline", "child"] = raised.side if isinstance(raised, SideFailed) else "child"
    return _shortened(describe_error(raised.error if isinstance(raised, SideFailed) else raised, where, root))


def _shortened(described: Error) -> Error:
    return msgspec.structs.replace(described, message=_short(described.message))


def _short(message: str) -> str:
    if len(message) > LONGEST_MESSAGE:
        message = redact(message)
    if len(message) > LONGEST_MESSAGE:
        message = f"{message[:LONGEST_MESSAGE]}… ({len(message)} characters)"
    # Half of a surrogate pair, which JSON can't carry, is spelled out.
    return message.encode("utf-8", "backslashreplace").decode()
