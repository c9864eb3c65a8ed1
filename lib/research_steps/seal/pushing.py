"""Pushing the tag of a seal: that one ref, never by force, and only where the user has allowed it.

`git config research.push true` is that word, once for each clone.
"""

import math
import os
import shlex

from research_steps.errors import RepositoryError
from research_steps.git import Checkout
from research_steps.records.redaction import redact

ALLOWED = "research.push"
REMOTE = "origin"
# How long a remote may take to accept a tag (seconds).
PATIENCE_S = 120.0
# How much later git gives up by itself, so that it is always the wait here that is told (seconds).
_LATER_S = 5


def may_push(checkout: Checkout) -> bool:
    """Whether there is a remote, and the user has allowed tags to be pushed to it."""
    return checkout.is_set(ALLOWED) and checkout.origin() is not None


def push(checkout: Checkout, tag: str) -> str:
    """Push a tag and return the remote's address. Raises RepositoryError with what the remote said."""
    ssh = os.environ.get("GIT_SSH_COMMAND") or checkout.setting("core.sshCommand")
    ssh = ssh or shlex.quote(os.environ.get("GIT_SSH", "ssh"))
    # Nobody is there to type a password, and the terminal is the user's.
    ssh += " -oBatchMode=yes -oConnectTimeout=20 -oServerAliveInterval=30"
    env = {"GIT_TERMINAL_PROMPT": "0", "GIT_SSH_COMMAND": ssh}
    # What git starts for a connection outlives it, and ends by itself (bytes a second, seconds).
    slow = ("-c", "http.lowSpeedLimit=1", "-c", f"http.lowSpeedTime={math.ceil(PATIENCE_S) + _LATER_S}")
    ref = f"refs/tags/{tag}"
    alone = ("--no-follow-tags", "--recurse-submodules=no")
    try:
        checkout.git(*slow, "push", "--quiet", *alone, REMOTE, f"{ref}:{ref}", env=env, timeout_s=PATIENCE_S)
    except RepositoryError as error:
        raise RepositoryError(
            f"its tag {tag} is made and could not be pushed: {redact(str(error))} 'research sync "
            f"{tag.partition('/')[0]}' tries again."
        ) from error
    return redact(checkout.origin() or REMOTE)
