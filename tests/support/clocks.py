"""Processes whose clock is off, by libfaketime: what they take for the time of day, not how long they wait."""

import os
from pathlib import Path

_HERE = Path(__file__).parent / "real_durations"


def faked(off: str) -> dict[str, str]:
    """The environment of a process whose clock is so far off ('+3500s', '-90s'). Raises FileNotFoundError where
    libfaketime is not installed."""
    libraries = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    if not libraries:
        raise FileNotFoundError("libfaketime is not installed (Debian: faketime)")
    path = os.pathsep.join([str(_HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    # Files are dated by the clock of the kernel.
    clocks = {"LD_PRELOAD": str(libraries[0]), "FAKETIME": off, "NO_FAKE_STAT": "1", "PYTHONPATH": path}
    return {**clocks, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
