"""The environment that a reproduction runs in: built from the sealed list of packages, or the one that is here."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from research_steps.errors import UsageError
from research_steps.records.conditions import ENVIRONMENT, PLACES
from research_steps.seal.bundle import Bundle

# A cluster's machines don't see a store of this one.
_ELSEWHERE = ("RAY_ADDRESS",)
# Where Python finds more than its environment holds.
_MORE = ("PYTHONPATH", "PYTHONHOME", "PYTHONUSERBASE")


def variables(bundle: Bundle, store: Path, here: bool) -> dict[str, str]:
    """The variables of a reproduction: those here, but for what decides a result, which is as it was sealed."""
    kept = {name: value for name, value in _inherited(here).items() if not _decides(name)}
    sealed = {name: value for name, value in bundle.environment.items() if _decides(name)}
    # Runs that the code itself starts there are nobody's.
    return {**kept, **sealed, "MARIN_PREFIX": str(store), "WANDB_MODE": "disabled"}


def _decides(name: str) -> bool:
    return name.startswith(ENVIRONMENT) and not name.startswith(PLACES)


def _inherited(here: bool) -> dict[str, str]:
    left_out = _ELSEWHERE if here else (*_ELSEWHERE, *_MORE)
    return {name: value for name, value in os.environ.items() if name not in left_out}


def build(bundle: Bundle, requirements: bytes, tree: Path, folder: Path, say: Callable[[str], None]) -> Path:
    """Install exactly the sealed packages into a new virtual environment; returns its interpreter.

    Raises UsageError when they are not known, or can't be had here.
    """
    if not requirements:
        raise UsageError(
            f"{bundle.tag} holds no list of packages, because none was recorded, or it was sealed with another store "
            "than that of the run: reproduce it with --here, in an environment like the one that it names."
        )
    pins = folder / "requirements.txt"
    pins.write_bytes(requirements)
    lines = requirements.decode().splitlines()
    unpinned = [line for line in lines if line.startswith("# ")]
    for line in unpinned:
        say(f"not installed: {line.removeprefix('# ')}")
    beside = Path(sys.executable).with_name("uv")
    uv = str(beside) if beside.exists() else shutil.which("uv")
    if uv is None:
        raise UsageError("The sealed environment is built with uv, which is not on PATH: install it, or give --here.")
    say(f"building the environment of {bundle.tag}: Python {bundle.python}, {len(lines) - len(unpinned)} packages")
    env, version = folder / "env", bundle.python.rpartition(".")[0]
    _run([uv, "venv", "--quiet", "--no-python-downloads", "--python", version, str(env)], tree)
    built = env / "bin" / "python"
    # --no-deps: the list is whole, and says more than what packages say of each other.
    _run([uv, "pip", "install", "--quiet", "--python", str(built), "--no-deps", "--requirement", str(pins)], tree)
    return built


def _run(command: list[str], where: Path) -> None:
    done = subprocess.run(
        command, cwd=where, env=_inherited(here=False), capture_output=True, text=True, errors="replace"
    )
    if done.returncode != 0:
        last = "; ".join(done.stderr.strip().splitlines()[-3:]) or "it said nothing"
        raise UsageError(
            f"uv {command[1]} failed while the sealed environment was built: {last}. See to what it misses, or "
            "reproduce with --here, in an environment of your own."
        )
