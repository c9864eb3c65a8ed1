"""A TPU of a Ray cluster that is held under a name for one person's work: allocate, execute, release.

The holder is a process in somebody's terminal. It asks for an actor that takes a whole TPU host (`node`), and says to it
that it lives until it is stopped, its time is over, or somebody releases the TPU. Who runs a command on it (`execution`)
or releases it is another process, on any machine that reaches the cluster and knows the name.
"""

import getpass
import os
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from research_steps.errors import MachineLost, UsageError
from research_steps.records.redaction import redact
from research_steps.records.times import duration
from research_steps.remote.ray import node
from research_steps.remote.ray.config import Cluster, connect, imported

ray = imported()
NAMESPACE = "research-dev-tpu"
ANSWER_S = 60.0
# How long an actor that was given may take to answer where a machine has much else to do.
GIVEN_S = 30.0
TELL_WAITING_S = 15.0
# From Cloud TPU's names: these count chips, up to eight on one host; all others count cores, two a chip, four chips.
_BY_CHIPS = ("v5litepod", "v5e", "v6e")

Say = Callable[[str], None]


@dataclass(frozen=True)
class HeldTpu:
    """A TPU that is held: the actor, and what it says about itself (by, node, ip, type)."""

    name: str
    actor: Any
    about: dict[str, str]


def check_name(name: str) -> str:
    """The name of an allocation. Raises UsageError for one that is no safe file name."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,62}", name):
        raise UsageError(
            f"--tpu-name {name!r} can't be used: expected at most 63 of a to z, 0 to 9 and '-', such as 'will-v4'."
        )
    return name


def resources_of(tpu_type: str) -> dict[str, int]:
    """What Ray calls a whole TPU host of this type. Raises UsageError for what isn't one."""
    match = re.fullmatch(r"((?:v|tpu)\d+[a-z]*)-(\d+)", tpu_type)
    if match is None:
        raise UsageError(f"--tpu-type {tpu_type!r} is no TPU type: expected one such as v4-8, v5litepod-8 or v6e-4.")
    by_chips = match[1] in _BY_CHIPS
    chips = int(match[2]) if by_chips else int(match[2]) // 2
    if not 1 <= chips <= (8 if by_chips else 4):
        raise UsageError(f"--tpu-type {tpu_type} is {chips} chips: expected the type of a single host, such as v4-8.")
    return {"TPU": chips, f"TPU-{tpu_type}-head": 1}


@contextmanager
def signals() -> Iterator[list[int]]:
    """Collects the signals that ask to stop, so that none of them cuts a call to the cluster in two."""
    received: list[int] = []
    asked = [s for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if signal.getsignal(s) != signal.SIG_IGN]
    before = {number: signal.signal(number, lambda number, _: received.append(number)) for number in asked}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def open_cluster(cluster: Cluster, say: Say) -> None:
    say(f"connecting to {cluster.name} at {cluster.address}")
    options = {"namespace": NAMESPACE, "logging_level": "CRITICAL", "log_to_driver": False}
    connect(f"the cluster {cluster.name}", cluster.address, ("", "ray"), **options)


def allocate(name: str, tpu_type: str, wait_s: float, stop: list[int], say: Say) -> HeldTpu | None:
    """Wait until the cluster gives a TPU host; None when it was stopped before. Raises UsageError."""
    _refuse_taken(name)
    resources = resources_of(tpu_type)
    # The node need not have this package.
    ray.cloudpickle.register_pickle_by_value(node)
    kind = ray.remote(node.Allocation).options(name=name, num_cpus=0, resources=resources, max_concurrency=16)
    try:
        actor = kind.remote(me(), tpu_type)
    except ValueError:
        _refuse_taken(name)
        raise
    about = actor.about.remote()
    began = time.monotonic()
    # The first time soon.
    said_at = began - TELL_WAITING_S + 3
    while not ray.wait([about], timeout=1)[0]:
        now = time.monotonic()
        if stop:
            ray.kill(actor)
            return None
        if now - said_at > TELL_WAITING_S:
            said_at = now
            say(f"waiting for {_counted(resources)}, since {duration(now - began)}; {_offered(resources)}")
        if now - began > wait_s:
            ray.kill(actor)
            raise UsageError(
                f"No {tpu_type} within {duration(wait_s)}: asked for {_counted(resources)}; {_offered(resources)}. "
                "Check --tpu-type, or wait longer with --wait."
            )
    return HeldTpu(name, actor, answer(name, about))


def hold(tpu: HeldTpu, for_s: float, stop: list[int], say: Say) -> str:
    """Keep a TPU until something ends that; returns what, after it is free. Raises MachineLost."""
    until = time.monotonic() + for_s
    tell_below = for_s / 2
    ended = ""
    beat = tpu.actor.beat.remote()
    while not ended:
        if ray.wait([beat], timeout=1)[0]:
            by = answer(tpu.name, beat)
            ended = f"it was released by {by}" if by else ""
            beat = tpu.actor.beat.remote()
        left = until - time.monotonic()
        if stop:
            ended = ended or f"{signal.Signals(stop[0]).name} was received"
        elif left <= 0:
            ended = ended or f"its time of {duration(for_s)} is over"
        elif left < tell_below:
            tell_below = left / 2 if left > 120 else 0
            say(f"{tpu.name}: {duration(left)} left")
    ray.kill(tpu.actor)
    return ended


def find(name: str) -> HeldTpu:
    """The TPU that is held under a name. Raises UsageError when there is none."""
    actor = _look_up(name)
    if actor is None:
        raise UsageError(f"No TPU is held as {name!r}: 'research dev-tpu allocate' holds one until it is stopped.")
    about = actor.about.remote()
    if not ray.wait([about], timeout=GIVEN_S)[0]:
        raise UsageError(
            f"{name!r} was asked for by somebody, and has not answered within {duration(GIVEN_S)}: most likely the "
            "cluster has not given it yet."
        )
    return HeldTpu(name, actor, answer(name, about))


def names() -> list[str]:
    """The names under which TPUs are held."""
    return sorted(ray.util.list_named_actors())


def told(tpu: HeldTpu) -> str:
    """What a TPU is, where, who holds it, and what runs on it, in one line."""
    user = answer(tpu.name, tpu.actor.user.remote())
    use = f"in use by {user}" if user else "no command runs"
    about = tpu.about
    return f"{tpu.name}: {about['type']} on {about['node']} ({about['ip']}), held by {about['by']}; {use}"


def release(tpu: HeldTpu) -> None:
    """Free a TPU, whoever holds it; its holder is told."""
    try:
        answer(tpu.name, tpu.actor.release.remote(me()))
    except MachineLost:
        # Its holder may have been told, and have ended it, before the answer was here.
        if _look_up(tpu.name) is not None:
            raise
    until = time.monotonic() + ANSWER_S
    while _look_up(tpu.name) is not None:
        if time.monotonic() > until:
            raise MachineLost(f"{tpu.name} was told to end and is still there after {duration(ANSWER_S)}.")
        time.sleep(0.2)


def answer(name: str, call: Any) -> Any:
    """What the node answers. Raises MachineLost when it is gone or silent."""
    try:
        return ray.get(call, timeout=ANSWER_S)
    except (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError, ConnectionError) as error:
        # Of Ray's explanations the last line says why, in its first sentence.
        why = (redact(str(error)).strip() or type(error).__name__).splitlines()[-1].partition(". ")[0]
        raise MachineLost(
            f"{name} is lost: it was released, its holder ended, its node went away, or nothing was heard from here for "
            f"{node.HEARD_S:g} s ({why})."
        ) from error
    except (OSError, LookupError) as error:
        raise MachineLost(f"{name} stopped on the node: {getattr(error, 'cause', error)}.") from error


def me() -> str:
    """Who asks, for others to read."""
    return f"{getpass.getuser()}@{socket.gethostname()}, process {os.getpid()}"


def _look_up(name: str) -> Any:
    try:
        return ray.get_actor(name, namespace=NAMESPACE)
    except ValueError:
        return None


def _refuse_taken(name: str) -> None:
    if _look_up(name) is not None:
        tpu = find(name)
        raise UsageError(
            f"{name!r} is held by {tpu.about['by']}, on {tpu.about['node']}: use it with 'research dev-tpu connect', "
            f"free it with 'research dev-tpu release --tpu-name {name}', or take another name."
        )


def _offered(resources: dict[str, int]) -> str:
    there, free = ray.cluster_resources(), ray.available_resources()
    parts = [f"{name} {there.get(name, 0):g} ({free.get(name, 0):g} free)" for name in resources]
    return f"the cluster has {', '.join(parts)}"


def _counted(resources: dict[str, int]) -> str:
    return ", ".join(f"{name}: {count}" for name, count in resources.items())
