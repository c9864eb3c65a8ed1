"""Whether a process that holds imported libraries is still what a fresh one would be."""

import os
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

from research_steps.provenance import ENVIRONMENT
from research_steps.record import canonical, sha256

# What libraries read while they are imported; the rest of the environment is given to each child anew.
_READ_AT_IMPORT = (*ENVIRONMENT, "PYTHON", "LD_", "VIRTUAL_ENV")
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

    def take(self) -> None:
        """Take what is imported now as up to date, unless it was known before."""
        for path in edited():
            found = _changed_at(path)
            if found is not None:
                self._times.setdefault(path, found)

    def changed(self) -> str:
        """The first file that changed since, empty when none did."""
        return next((str(path) for path, time in self._times.items() if _changed_at(path) != time), "")


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
