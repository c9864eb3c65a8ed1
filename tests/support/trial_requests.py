"""Requests for one trial, as a launcher gets them."""

import functools
from pathlib import Path
from typing import Any

from research_steps.records.series import Metric
from research_steps.trial.code import Code, trace_name
from research_steps.trial.launcher.protocol import Request

REPOSITORY = Path(__file__).resolve().parents[2]
# A generous bound on things that happen soon; only a hang takes as long.
SOON_S = 30.0


@functools.cache
def traced(name: str) -> Code:
    return trace_name(name, REPOSITORY)


def request(function: str, config: dict[str, Any] | None = None, root: Path = REPOSITORY, **changes: Any) -> Request:
    """A request for one trial of one of `failing_measures`, or of 'module:function' under another root."""
    name = function if ":" in function else f"tests.support.failing_measures:{function}"
    code = traced(name) if root == REPOSITORY else trace_name(name, root)
    values: dict[str, Any] = {
        "measure": name,
        "root": str(root),
        "cwd": str(root),
        "code": code.digest,
        "files": tuple(code.files),
        "libraries": ("multiprocessing", "subprocess"),
        "config_type": "dict",
        "config": config or {},
        "baseline_config": config or {},
        "metrics": ("time_s",),
        "primary": Metric("time_s"),
        "max_pairs": 5,
        "sampling_s": 0.1,
        "time_limit_s": SOON_S,
        "seed": 1,
    }
    return Request(**{**values, **changes})
