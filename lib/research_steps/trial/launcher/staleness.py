"""Whether a process that holds imported libraries is still what a fresh one would be."""

import os
import sys
import sysconfig
import time
from collections.abc import Mapping
from pathlib import Path

from research_steps.records.conditions import ENVIRONMENT
from research_steps.records.encoding import canonical, sha256

# What libraries read while they are imported; the rest of the environment is given to each child anew.
_READ_AT_IMPORT = (*ENVIRONMENT, "PYTHON", "LD_", "VIRTUAL_ENV")
# How far the time of a save may lie behind the clock (seconds).
GRAIN_S = 0.01
_UNKNOWN = -1
_LOCKS = ("uv.lock", "requirements.lock", "pylock.toml")


def stamp(root: Path, env: Mapping[str, str]) -> str:
    """Under what libraries are imported for a checkout: the environment that they read, what is installed, its lock."""
    read = {name: value for name, value in env.items() if name.startswith(_READ_AT_IMPORT)}
    installed = {
        path: _changed_at(Path(path)) for path in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))
    }
    locks = {name: sha256((root / name).read_bytes()) for name in _LOCKS if (root / name).is_file()}
    return sha256(canonical([read, installed, locks, sys.version]))


class Sources:
    """The imported modules that people edit, as they were when they were imported."""

    def __init__(self) -> None:
        self._times: dict[Path, int] = {}

    def take(self, began: float) -> None:
        """Take what was imported since then (seconds since the epoch) as up to date, unless it was known before.

        What was saved meanwhile counts as changed, because nobody knows which of the two was imported.
        """
        first, last = int((began - GRAIN_S) * 1e9), time.time_ns()
        for path in edited():
            changed_at = _changed_at(path)
            if changed_at is not None:
                self._times.setdefault(path, _UNKNOWN if first <= changed_at <= last else changed_at)

    def changed(self) -> str:
        """The first file that changed since, empty when none did."""
        return next((str(path) for path, taken in self._times.items() if _changed_at(path) != taken), "")


def edited() -> set[Path]:
    """The files of imported modules that people edit: all but those of installed packages and the standard library."""
    sources = {getattr(module, "__file__", None) or "" for module in list(sys.modules.values())} - {""}
    fixed = tuple(sysconfig.get_path(name) for name in ("stdlib", "platstdlib"))
    return {
        Path(source)
        for source in sources
        if "site-packages" not in source and "dist-packages" not in source and not source.startswith(fixed)
    }


def _changed_at(path: Path) -> int | None:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return None
