"""Requests for one trial, as a launcher gets them."""

import functools
from dataclasses import fields, replace
from pathlib import Path
from secrets import token_hex
from tempfile import gettempdir
from typing import Any

from research_steps.records.series import Metric, Series
from research_steps.trial.code import Code, trace_name
from research_steps.trial.launcher.protocol import Request
from research_steps.trial.measured import TrialSpec

REPOSITORY = Path(__file__).resolve().parents[2]
# A generous bound on things that happen soon; only a hang takes as long.
SOON_S = 30.0
SERIES = Series("trials", "TRIALS", "", (Metric("time_s"),), max_pairs=5, sampling_s=0.1, time_limit_s=SOON_S)


@functools.cache
def traced(name: str) -> Code:
    return trace_name(name, REPOSITORY)


def request(function: str, config: dict[str, Any] | None = None, root: Path = REPOSITORY, **changes: Any) -> Request:
    """A request for one trial of one of `failing_measures`, or of 'module:function' under another root."""
    name = function if ":" in function else f"tests.support.failing_measures:{function}"
    traced_code = traced(name) if root == REPOSITORY else trace_name(name, root)
    code = replace(traced_code, libraries=("multiprocessing", "subprocess"))
    spec = TrialSpec(code, "dict", config or {}, config or {})
    changed: dict[type, dict[str, Any]] = {
        kind: {name: changes[name] for name in changes.keys() & {field.name for field in fields(kind)}}
        for kind in (Code, TrialSpec, Series)
    }
    return Request(
        spec=replace(spec, code=replace(code, **changed[Code]), **changed[TrialSpec]),
        series=replace(SERIES, **changed[Series]),
        directory=changes.get("directory") or str(Path(gettempdir(), "research-trials", "trials", token_hex(8))),
        prefix=changes.get("prefix", gettempdir()),
        cwd=changes.get("cwd", str(root)),
        seed=1,
    )
