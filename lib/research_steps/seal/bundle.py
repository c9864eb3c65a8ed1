"""The repro bundle of a seal: what was run, where, with what result, and which records say so.

It lies in the tag, beside the logbook, as `<ID>.bundle.json` for programs, `<ID>.bundle.md` for people, `<ID>.table.csv`
(the primary comparison) and `<ID>.requirements.txt` (the pinned packages). Everything in it is small and made from
records; large files are named by address and hash.
"""

from typing import Any

import msgspec

from research_steps.errors import RepositoryError, UnreadableObject
from research_steps.git import Checkout
from research_steps.records import names
from research_steps.records.encoding import canonical, decode_series
from research_steps.records.model import Claim, Device, Ref, Strict
from research_steps.records.series import Series

SCHEMA = 4
# One of schema 2 does not tell when and by whom it was sealed, nor of its tag.
_READ = (2, 3, SCHEMA)
# From this schema on a tag's message says what a candidate makes worse.
SAYS_WORSE = 4


class SealedCommand(Strict, frozen=True):
    """A command as it was given, and the entries that it made."""

    command: str
    entries: tuple[names.ExperimentID, ...]


class Hardware(Strict, frozen=True):
    """One kind of machine that trials ran on: its hosts, and the devices that JAX saw there."""

    device_class: str
    hosts: tuple[str, ...]
    devices: tuple[Device, ...]


class MeasuredWith(Strict, frozen=True):
    """A measure function ('module:function'), the digest of its code, and the hashes of the files that this covers."""

    measure: str
    code: names.Hash
    files: dict[names.InnerPath, names.Hash]


class Elsewhere(Strict, frozen=True):
    """What belongs to the snapshot and is not in it: where it is, with size (bytes) and hash where they are known."""

    where: str
    why: str
    bytes: int | None
    sha256: names.Hash | None


UNLISTED = Elsewhere("a list of all installed packages", "with the store of the run, if there is one", None, None)


class Bundle(Strict, frozen=True):
    """What a seal rests on.

    `series` is the series as its thread declared it. `commit` and `patch` are what the newest of the records was
    measured at, `branch` what was checked out when it was sealed. `environment` is what matters of it and is no secret,
    `python` and `packages` the interpreter and the packages that decide a result. `records` are the entries that the
    seal rests on, oldest first, then their trials; `claims` what counts after all of them. `logbook` names the last
    entries of the logbook as it was sealed, by the hash that later entries name them by. `recorded` says when and by
    whom, `tagger` is who made the tag ('Name <address>'), `signed` whether git was told to sign it.
    """

    schema: int
    topic: names.Topic
    id: names.ExperimentID
    tag: names.TagName
    seal: Ref
    series: dict[str, Any]
    commands: tuple[SealedCommand, ...]
    commit: names.Commit
    branch: str | None
    patch: names.Hash | None
    patch_note: str
    submodules: dict[names.InnerPath, names.SubmoduleState]
    measured: tuple[MeasuredWith, ...]
    seeds: dict[str, Any]
    hardware: tuple[Hardware, ...]
    environment: dict[str, str]
    python: names.PythonVersion
    packages: dict[str, str]
    records: tuple[Ref, ...]
    claims: tuple[Claim, ...]
    logbook: tuple[names.Hash, ...]
    elsewhere: tuple[Elsewhere, ...]
    recorded: str = ""
    tagger: str = ""
    signed: bool = False

    @property
    def declared(self) -> Series:
        """The series as its thread declared it. Raises UnreadableObject."""
        return decode_series(canonical(self.series), self.topic, f"the series in the bundle of {self.tag}")


def encode(bundle: Bundle) -> bytes:
    return msgspec.json.format(canonical(msgspec.to_builtins(bundle)), indent=2) + b"\n"


def name_of(topic: str, id: str, kind: str) -> str:
    """Where a file of a bundle lies in the tag's tree; `kind` is what its name ends with, such as 'bundle.json'."""
    return f".agents/logbooks/{topic}/{id}.{kind}"


def decode(tag: str, data: bytes) -> Bundle | None:
    """The bundle of a tag from its bytes, None where an older version made it. Raises RepositoryError for one that can't
    be read."""
    try:
        schema = msgspec.json.decode(data, type=dict[str, object]).get("schema")
        bundle = msgspec.json.decode(data, type=Bundle) if schema in _READ else None
        _ = bundle and bundle.declared
    except (msgspec.MsgspecError, UnreadableObject) as error:
        raise RepositoryError(f"tag {tag}: its bundle can't be read ({error}): it, or the tag, was changed") from error
    if isinstance(schema, int) and schema > SCHEMA:
        reads = f"this version reads up to {SCHEMA}: install the newer research-steps"
        raise RepositoryError(f"tag {tag}: its bundle has schema {schema}, {reads}")
    return bundle


def read(checkout: Checkout, tag: str, commit: str = "") -> Bundle:
    """The bundle of a tag, as it lies in a commit or, without one, in what the tag names here. Raises RepositoryError
    where there is none that can be read."""
    topic, _, id = tag.rpartition("/")
    name = name_of(topic, id, "bundle.json")
    data = checkout.file_at(commit or f"refs/tags/{tag}", name)
    bundle = decode(tag, data) if data else None
    if bundle is None:
        raise RepositoryError(
            f"The tag {tag} of {checkout.root} holds no {name} of schema {' or '.join(map(str, _READ))}: expected a tag "
            "that a seal made, such as moe_hc/MOE-HC-009; 'git fetch --tags' brings those of the remote. One that was "
            "made by another version of research-steps is read by that."
        )
    return bundle
