"""Where a record comes from: commit and patch, command, actor, host, versions; and what it was measured on.

Captured once for a run; a trial adds what its child saw. Strict and lenient are told apart: capturing never refuses
a dirty tree, it records it.
"""

import getpass
import os
import platform
import re
import shlex
import socket
import subprocess
import sys
import traceback
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import unquote, urlsplit

import msgspec

from research_steps.errors import UsageError
from research_steps.git import Checkout
from research_steps.records.conditions import ENVIRONMENT, PACKAGES, UNRECORDED, Facts
from research_steps.records.encoding import sha256
from research_steps.records.model import Actor, Captured, Error, Provenance
from research_steps.records.names import Commit, Hash
from research_steps.records.redaction import redact, redact_arguments, redactor
from research_steps.records.resources import Resources
from research_steps.trial.thread_files import thread_files

if TYPE_CHECKING:
    from importlib.metadata import Distribution

_NAMED = re.compile(r"^(Name|Version):\s*(\S+)", re.MULTILINE)
# Set where a work tree was shipped without git, or copied for one run: its `Origin`, as JSON.
ORIGIN = "RESEARCH_ORIGIN"
FRAMES_KEPT = 5
_ABOVE_US = Path(__file__).resolve().parents[2]


class Origin(msgspec.Struct, frozen=True):
    """Which code a run is of, and who started it. `patch` is the sha256 of what differs from the commit. It is believed
    of a `copy` that was made for one run, also where git is there; whoever made the copy publishes what is recorded."""

    commit: Commit | None
    branch: str | None
    patch: Hash | None
    patch_note: str
    actor: Actor
    copy: bool = False


def shipped(checkout: Checkout) -> Origin | None:
    """Where a work tree comes from that is not its own checkout, by RESEARCH_ORIGIN; None for one that is.

    Raises UsageError when that can't be read.
    """
    given = os.environ.get(ORIGIN)
    if not given:
        return None
    try:
        origin = msgspec.json.decode(given, type=Origin)
    except msgspec.DecodeError as error:
        if checkout.git_dir is not None:
            # Git tells more.
            return None
        raise UsageError(
            f"{ORIGIN} is {given!r} ({error}): expected the line that 'research origin TOPIC' prints in the checkout."
        ) from error
    return origin if checkout.git_dir is None or origin.copy else None


def origin_of(checkout: Checkout, topic: str) -> tuple[Origin, bytes | None]:
    """Where this work tree comes from, and the bytes of its patch when it is dirty: what differs from the commit in
    files that git tracks, and new files that the thread of this topic is made of.

    Of a tree that was shipped, whoever shipped it has kept the patch. Raises UsageError when RESEARCH_ORIGIN can't be
    read.
    """
    origin = shipped(checkout)
    if origin is not None:
        return origin, None
    commit, branch = checkout.head(), checkout.branch()
    patch, note = None, ""
    if checkout.git_dir is None:
        note = f"{checkout.root} is not in a git repository"
    elif commit is None:
        note = "the repository has no commit yet"
    else:
        patch, note = checkout.patch(commit, partial(thread_files, checkout.root, topic))
        text = patch.decode("utf-8", "replace")
        if redact(text) != text:
            patch, note = None, "withheld: the patch holds what looks like a secret"
    return Origin(commit, branch, sha256(patch) if patch else None, note, current_actor(checkout)), patch or None


def capture(checkout: Checkout, argv: Sequence[str], topic: str) -> Captured:
    """Record where this run of a thread comes from. A tree without git or without a commit is recorded as such."""
    origin, patch = origin_of(checkout, topic)
    here = facts_here()
    return Captured(
        Provenance(
            command=shlex.join(redact_arguments(argv)),
            actor=origin.actor,
            commit=origin.commit,
            branch=origin.branch,
            patch=origin.patch,
            patch_note=origin.patch_note,
            host=here.host,
            python=here.python,
            packages=here.packages,
            env=here.env,
        ),
        patch,
    )


def facts_here(variables: Collection[str] = ()) -> Facts:
    """The facts of this machine, for what this process starts; these `variables` are read by the code that it
    measures."""
    counting = (name for name in os.environ if name.startswith(ENVIRONMENT) or name in variables)
    env = {name: os.environ[name] for name in sorted({*counting} - UNRECORDED)}
    return Facts(socket.gethostname(), device_class(), platform.python_version(), _packages(), env)


def command_line() -> list[str]:
    """The command that started this process, as a person would type it again."""
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    if spec is None:
        return [Path(sys.argv[0]).name, *sys.argv[1:]] if sys.argv[0] else ["python"]
    return ["python", "-m", spec.name.removesuffix(".__main__"), *sys.argv[1:]]


def installed(root: Path) -> bytes:
    """Every installed package, pinned, in the form that pip reads; one that lies in the checkout at `root` by its path.

    What another folder of this machine provides can be named and not pinned.
    """
    import importlib.metadata

    clean, lines = redactor(), dict[str, str]()
    for package in importlib.metadata.distributions():
        # Read by themselves, because to parse all that a package says of itself takes many times as long.
        about = next(filter(None, map(package.read_text, ("METADATA", "PKG-INFO", ""))), "")
        fields = dict(_NAMED.findall(about.partition("\n\n")[0]))
        name = fields.get("Name")
        # The first one is what an import finds. A folder that an installation left half has no name.
        if name and name not in ("pip", "setuptools", "wheel", "uv"):
            pinned = _pinned(package, name, fields.get("Version", ""), root)
            lines.setdefault(name.lower().replace("_", "-"), pinned)
    return "".join(f"{clean(lines[name])}\n" for name in sorted(lines)).encode()


def _pinned(package: "Distribution", name: str, version: str, root: Path) -> str:
    # PEP 610: where it came from, unless that was an index.
    direct = msgspec.json.decode(package.read_text("direct_url.json") or "{}")
    url = str(direct.get("url", ""))
    if not url:
        return f"{name}=={version}"
    below = f"#subdirectory={direct['subdirectory']}" if "subdirectory" in direct else ""
    if "vcs_info" in direct:
        return f"{name} @ {direct['vcs_info']['vcs']}+{url}@{direct['vcs_info']['commit_id']}{below}"
    if not url.startswith("file:"):
        return f"{name} @ {url}{below}"
    path = Path(unquote(urlsplit(url).path))
    if "dir_info" in direct and path.is_relative_to(root):
        return f"-e ./{path.relative_to(root)}".removesuffix("/.")
    return f"# {name}=={version} was installed from a file or folder of {socket.gethostname()}"


def current_actor(checkout: Checkout) -> Actor:
    """Who runs this: RESEARCH_ACTOR ('agent:NAME' or 'person:NAME'), else git's user, else the login name.

    Raises UsageError when RESEARCH_ACTOR is set to anything else.
    """
    given = os.environ.get("RESEARCH_ACTOR", "")
    kind, _, name = given.partition(":")
    if not given:
        return Actor(name=checkout.user() or _login(), kind="person")
    if kind not in ("agent", "person") or not name:
        raise UsageError(f"RESEARCH_ACTOR is {given!r}: expected agent:NAME or person:NAME.")
    return Actor(name=name, kind="agent" if kind == "agent" else "person")


def device_class(environment: Mapping[str, str] = os.environ) -> str:
    """The kind of machine that a timing counts for, without starting an accelerator: 'cpu/<model>/<cores>', say."""
    return _device_class(*map(environment.get, ("JAX_PLATFORMS", "CUDA_VISIBLE_DEVICES")))


def nvidia_smi(*arguments: str) -> list[str]:
    """The lines that nvidia-smi prints; none where it is missing or hangs."""
    command = ["nvidia-smi", *arguments, "--format=csv,noheader"]
    try:
        listing = subprocess.run(command, capture_output=True, text=True, timeout=20).stdout
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return []
    return [line.strip() for line in listing.splitlines() if line.strip()]


def check_here(resources: Resources) -> None:
    """Raise UsageError when this machine lacks the kind of accelerator that is asked for."""
    kind = "tpu" if resources.tpu else "gpu" if resources.gpu else ""
    if kind and not device_class().startswith(f"{kind}/"):
        raise UsageError(
            f"A step asks for {resources.tpu or resources.gpu}, and this machine is {device_class()}: expected one that "
            "has it, or a cluster ('research submit')."
        )


@cache
def _device_class(platforms: str | None, visible: str | None) -> str:
    platform_asked_for = (platforms or "").split(",")[0]
    if platform_asked_for in ("", "tpu"):
        chips = [*Path("/dev").glob("accel*"), *Path("/dev/vfio").glob("[0-9]*")]
        if chips:
            return f"tpu/{os.environ.get('TPU_ACCELERATOR_TYPE', 'unknown')}/{len(chips)}"
    if platform_asked_for in ("", "cuda", "gpu"):
        gpus = _nvidia_gpus(visible)
        if gpus:
            return f"gpu/{gpus[0]}/{len(gpus)}"
    return f"cpu/{_cpu_model()}/{len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()}"


def describe_error(error: BaseException, where: Literal["candidate", "baseline", "child", "step"], root: Path) -> Error:
    """An exception as data, with its innermost frames. Files are named as they are found on any machine: below the
    import root, or below site-packages."""
    frames = []
    # Unlike str(), this survives an exception whose own message fails.
    described = traceback.TracebackException.from_exception(error, lookup_lines=False)
    for frame in described.stack[-FRAMES_KEPT:]:
        name = frame.filename.rpartition("/site-packages/")[2].removeprefix(f"{root}/").removeprefix(f"{_ABOVE_US}/")
        frames.append(f"{name}:{frame.lineno} in {frame.name}")
    return Error(
        type=type(error).__qualname__, message=str(described), frames=tuple(frames), where=where, output_tail=""
    )


@cache
def _packages() -> dict[str, str]:
    import importlib.metadata

    versions = {}
    for name in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def _login() -> str:
    with suppress(KeyError, OSError):
        return getpass.getuser()
    # A container may run under a number that no user has.
    return f"uid {os.getuid()}"


def _nvidia_gpus(visible: str | None) -> list[str]:
    if visible in ("", "-1"):
        return []
    listings = [path.read_text() for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))]
    models = [model.strip() for text in listings for model in re.findall(r"(?m)^Model:(.*)", text)]
    if not models and Path("/dev/nvidiactl").exists():
        models = nvidia_smi("--query-gpu=name")
    return models[: len(visible.split(","))] if visible else models


def _cpu_model() -> str:
    with suppress(OSError):
        if model := re.search(r"(?m)^model name\s*:(.*)", Path("/proc/cpuinfo").read_text()):
            return model[1].strip()
    return platform.processor() or platform.machine()
