"""The environment that a reproduction runs in: built from the sealed list of packages, or the one that is here."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from research_steps.errors import UsageError
from research_steps.provenance import ENVIRONMENT
from research_steps.snapshot.bundle import Bundle

# What these name are places on the machine that sealed.
_PLACES = ("MARIN_", "JAX_COMPILATION_CACHE", "JAX_PERSISTENT_CACHE")


def variables(bundle: Bundle, store: Path) -> dict[str, str]:
    """The variables of a reproduction: those here, but for what decides a result, which is as it was sealed."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ENVIRONMENT)}
    sealed = {name: value for name, value in bundle.environment.items() if not name.startswith(_PLACES)}
    # Runs that the code itself starts there are nobody's.
    return {**kept, **sealed, "MARIN_PREFIX": str(store), "WANDB_MODE": "disabled"}


def build(bundle: Bundle, requirements: bytes, tree: Path, folder: Path, say: Callable[[str], None]) -> Path:
    """Install exactly the sealed packages into a new virtual environment; returns its interpreter.

    Raises UsageError when they are not known, or can't be had here.
    """
    if not requirements:
        raise UsageError(
            f"{bundle.tag} holds no list of packages, because what it rests on was recorded without one: reproduce it "
            "with --here, in an environment like the one that it names."
        )
    pins = folder / "requirements.txt"
    pins.write_bytes(requirements)
    unpinned = [line[2:] for line in requirements.decode().splitlines() if line.startswith("# ")]
    for line in unpinned:
        say(f"not installed: {line}")
    python = _interpreter(bundle.python)
    say(f"building the environment of {bundle.tag} with {python} ({len(requirements.splitlines())} packages)")
    _run([python, "-m", "venv", str(folder / "env")], tree)
    built = folder / "env" / "bin" / "python"
    # --no-deps: the list is whole, and says more than what packages say of each other.
    install = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--requirement", str(pins))
    _run([str(built), *install], tree)
    return built


def _interpreter(version: str) -> str:
    """A Python of the sealed minor version."""
    minor = version.rpartition(".")[0]
    if minor == f"{sys.version_info.major}.{sys.version_info.minor}":
        return str(getattr(sys, "_base_executable", sys.executable))
    found = shutil.which(f"python{minor}")
    if found is None:
        raise UsageError(f"It was sealed with Python {version}, and there is no python{minor} on PATH: install one.")
    return found


def _run(command: list[str], where: Path, env: Mapping[str, str] | None = None) -> None:
    done = subprocess.run(command, cwd=where, env=env, capture_output=True, text=True, errors="replace")
    if done.returncode != 0:
        last = "; ".join(done.stderr.strip().splitlines()[-3:])
        raise UsageError(
            f"{' '.join(command[1:4])} failed while the sealed environment was built: {last}. See to what it misses, or "
            "reproduce with --here, in an environment of your own."
        )
