"""One command on a held TPU: the work tree is sent as far as it differs, what the command prints is printed here as it
comes, and its exit code is the result. Whoever asks for it gets an entry that says so in a series' log."""

import os
import signal
import sys
import time
from contextlib import suppress
from dataclasses import dataclass

from research_steps.errors import MachineLost, UsageError
from research_steps.git import LIVING, Checkout
from research_steps.records.redaction import LONGEST, redact_end, redactor
from research_steps.records.times import utc
from research_steps.remote.ray import worktree
from research_steps.remote.ray.tpu import HeldTpu, Say, answer, me
from research_steps.terminal import pass_on

PART = 4 << 20
TAIL = 4000
# The exit code of a command whose TPU was lost, as ssh has it.
LOST = 255
# After a signal, how long a command may take to end by itself.
STOP_S = 10.0


@dataclass(frozen=True)
class CommandOutcome:
    """How a command ended: its exit code as a shell tells it, its time in seconds, the end of its output.

    `edited` says that the work tree is no longer the one that was copied. `lost` says why nobody saw it end.
    """

    started_at: str
    code: int
    seconds: float
    tail: str
    edited: bool
    lost: str = ""


def execute(
    tpu: HeldTpu, checkout: Checkout, argv: list[str], env: dict[str, str], stop: list[int], say: Say
) -> CommandOutcome:
    """Run a command on a held TPU in a copy of the work tree, and print what it prints. Raises UsageError when another
    one runs there, MachineLost when it could not begin."""
    tree = worktree.files(checkout)
    token, other = answer(tpu.name, tpu.actor.begin.remote(f"{me()}, with {argv[0]!r}"))
    if not token:
        raise UsageError(f"{tpu.name} is in use by {other}: one command runs at a time, so wait until it has ended.")
    try:
        _send(tpu, token, checkout, tree, say)
        started_at, began, lost = utc(), time.monotonic(), ""
        try:
            code, tail = _run(tpu, token, argv, env, stop)
        except MachineLost as error:
            code, tail, lost = LOST, "", str(error)
    except BaseException:
        with suppress(MachineLost):
            answer(tpu.name, tpu.actor.end.remote(token))
        raise
    return CommandOutcome(started_at, code, time.monotonic() - began, tail, worktree.files(checkout) != tree, lost)


def stamps(checkout: Checkout) -> dict[str, tuple[int, int]]:
    """When each file that would be sent was changed last (nanoseconds), and its size."""
    states = {}
    for name in checkout.files(".", *(f":(exclude,literal){name}" for name in LIVING)):
        with suppress(OSError):
            status = (checkout.root / name).lstat()
            states[name] = status.st_ctime_ns, status.st_size
    return states


def _send(tpu: HeldTpu, token: str, checkout: Checkout, tree: dict[str, str], say: Say) -> None:
    missing = answer(tpu.name, tpu.actor.missing.remote(token, tree))
    if not missing:
        return
    with worktree.packed(checkout, missing) as archive:
        size = os.fstat(archive.fileno()).st_size
        say(f"sending {len(missing)} of {len(tree)} files to {tpu.about['node']}, {size} bytes")
        while part := archive.read(PART):
            answer(tpu.name, tpu.actor.send.remote(token, part))


def _run(tpu: HeldTpu, token: str, argv: list[str], env: dict[str, str], stop: list[int]) -> tuple[int, str]:
    """Run the command to its end; its exit code and the end of its output. A signal goes on to it; a second one, or
    STOP_S, kills it."""
    answer(tpu.name, tpu.actor.start.remote(token, argv, env))
    tail, passed_on, kill_at = b"", 0, float("inf")
    while True:
        out, err, status = answer(tpu.name, tpu.actor.output.remote(token))
        if status is not None:
            # As a shell tells the death by a signal.
            return status if status >= 0 else 128 - status, redact_end(tail, TAIL, redactor({**os.environ, **env}))
        pass_on(out, sys.stdout)
        pass_on(err, sys.stderr)
        tail = (tail + out + err)[-(TAIL + 2 * LONGEST) :]
        if len(stop) > passed_on or time.monotonic() > kill_at:
            number = signal.SIGKILL if passed_on else stop[0]
            passed_on, kill_at = len(stop), time.monotonic() + STOP_S
            answer(tpu.name, tpu.actor.signal.remote(token, number))
