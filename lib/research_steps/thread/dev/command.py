"""The command's side of dev mode: it finds or starts the kept parent, orders attempts, and shows what is said.

It stays light: what takes long to import is in the kept parent already.
"""

import os
import secrets
import socket
from pathlib import Path

import msgspec

from research_steps.git import Checkout
from research_steps.trial.launcher.daemon import Daemon, Hear, asked_of, have_done
from research_steps.trial.launcher.protocol import SOCKET, Help, Waiting

# What a helper imports before it can begin.
LIBRARIES = ("research_steps.thread.dev.warm",)


def new_occasion() -> str:
    """A step key under which an attempt claims its experiment ID."""
    return f"dev/{secrets.token_hex(8)}"


def order(checkout: Checkout, asked: msgspec.Struct, hear: Hear) -> bytes:
    """Have the kept parent of the checkout make an attempt, and return its answer; `hear` what is said meanwhile. Raises
    ResearchError."""
    kept, env = Daemon(checkout.root), environment()

    def ask_for(wanted: Help) -> socket.socket:
        if kept.state() is None:
            hear(Waiting("starting the kept parent of this checkout"))
        connection = asked_of(kept.ensure(env) / SOCKET, wanted)
        hear(Waiting("waiting for the kept parent of this checkout"))
        return connection

    wanted = Help(
        function="research_steps.thread.dev.attempt:serve",
        libraries=LIBRARIES,
        order=msgspec.Raw(msgspec.json.encode(asked)),
        env=env,
    )
    return have_done(ask_for, kept.retire, wanted, hear)


def environment() -> dict[str, str]:
    """This process's environment, with JAX's persistent compilation cache on unless it is set already."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "research-steps" / "jax"
    on = {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    return {**on, **os.environ}
