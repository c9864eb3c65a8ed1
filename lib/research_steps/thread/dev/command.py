"""The command's side of dev mode: it finds or starts the kept parent, orders attempts, and shows what is said.

It stays light: what takes long to import is in the kept parent already.
"""

import os
import secrets
from contextlib import closing

import msgspec

from research_steps.errors import LauncherError
from research_steps.files import users_folder
from research_steps.git import Checkout
from research_steps.thread.dev.messages import DevRequest
from research_steps.trial.launcher.conversation import Conversation, Hear, value_of
from research_steps.trial.launcher.daemon import STARTS, Daemon, stop_at
from research_steps.trial.launcher.protocol import Stale, StartWorker, Waiting

# What a worker imports before it can begin.
LIBRARIES = ("research_steps.thread.dev.preload",)


def new_occasion() -> str:
    """A step key under which an attempt claims its experiment ID."""
    return f"dev/{secrets.token_hex(8)}"


def order(checkout: Checkout, request: DevRequest, hear: Hear) -> bytes:
    """Have the kept parent of the checkout make an attempt, and return its answer; `hear` what is said meanwhile.

    Raises ResearchError with what is refused, LauncherError when the parent can't be reached or ended.
    """
    daemon = Daemon(checkout.root)
    wanted = StartWorker(
        function="research_steps.thread.dev.attempt:serve",
        libraries=LIBRARIES,
        order=msgspec.Raw(msgspec.json.encode(request)),
        env=environment(),
    )
    for _ in range(STARTS):
        if daemon.state() is None:
            hear(Waiting("starting the kept parent of this checkout"))
        daemon.ensure(wanted.env)
        hear(Waiting("waiting for the kept parent of this checkout"))
        with closing(Conversation(daemon.socket)) as conversation:
            answer = conversation.ask(wanted, hear)
        if not isinstance(answer, Stale):
            return value_of(answer)
        hear(Waiting(f"{answer.what} changed: starting anew, once what runs for others has ended"))
        stop_at(daemon.socket, when_done=True)
    raise LauncherError(f"The kept parent was started {STARTS} times, and each time something changed: try again.")


def environment() -> dict[str, str]:
    """This process's environment, with JAX's persistent compilation cache on unless it is set already."""
    cache = users_folder("XDG_CACHE_HOME", ".cache") / "research-steps" / "jax"
    on = {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    return {**on, **os.environ}
