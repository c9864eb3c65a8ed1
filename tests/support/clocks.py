"""Processes whose clock is off, by libfaketime."""

from pathlib import Path

import pytest


def faked(off: str) -> dict[str, str]:
    """The environment of a process whose clock is so far off ('+3500s', '-90s')."""
    libraries = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    if not libraries:
        pytest.skip("faketime is not installed")
    # Files are dated by the clock of the kernel.
    return {"LD_PRELOAD": str(libraries[0]), "FAKETIME": off, "NO_FAKE_STAT": "1"}
