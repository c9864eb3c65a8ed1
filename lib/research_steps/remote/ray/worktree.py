"""The work tree as it is copied to a node: what git tracks, and what is new and not ignored.

Left out are what changes while a thread runs, other repositories inside this one, and what can't be read. A driver that
is sent to a cluster needs some of what changes, the logbooks with their records; those are listed on their own.
"""

import hashlib
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

from research_steps.errors import UsageError
from research_steps.git import LIVING, Checkout
from research_steps.records.series import HERE

# Ray's own limit on what it takes with a job (bytes), and the variable that changes it.
LIMIT_NAME, LIMIT = "RAY_max_grpc_message_size", 500 << 20
# Ray unpacks no such names; the last are bytes that are no UTF-8.
_UNPACKABLE = re.compile(r"\\|^.:|[\ud800-\udfff]")


def files(checkout: Checkout) -> dict[str, str]:
    """The files of the work tree with their digests. Raises RepositoryError outside a repository."""
    return _listed(checkout, ".", *(f":(exclude,literal){name}" for name in LIVING))


def zip_into(path: Path, checkout: Checkout, tree: Mapping[str, str]) -> list[str]:
    """Pack these files, the logbooks and the records that were published as Ray takes them with a job; returns what Ray
    can't take. Raises UsageError above its limit.

    Ray unpacks no links: a link to a file of the tree becomes a copy of it, any other is left out.
    """
    left_out = []
    tree = {**tree, **_listed(checkout, f":(literal){HERE}")}
    with ZipFile(path, "w", ZIP_DEFLATED, compresslevel=1, strict_timestamps=False) as archive:
        for name in tree:
            source = (checkout.root / name).resolve()
            if _UNPACKABLE.search(name) or os.path.relpath(source, checkout.root) not in tree:
                left_out.append(name)
            else:
                archive.write(source, name)
        largest = sorted(archive.infolist(), key=lambda file: file.compress_size, reverse=True)[:3]
    size, limit = path.stat().st_size, int(os.environ.get(LIMIT_NAME, LIMIT))
    if size > limit:
        named = ", ".join(f"{file.filename} ({_mib(file.compress_size)})" for file in largest)
        raise UsageError(
            f"The work tree in {checkout.root} is {_mib(size)} when packed, and Ray takes {_mib(limit)}: keep large "
            f"files in the store, or have git ignore them. The largest are {named}."
        )
    return left_out


def _listed(checkout: Checkout, *paths: str) -> dict[str, str]:
    digests = {name: _digest(checkout.root / name) for name in checkout.files(*paths)}
    return {name: digest for name, digest in digests.items() if digest}


def _digest(path: Path) -> str:
    """What a copy of a file has to be like: its kind, whether it can be run, its content; empty for what is no file."""
    try:
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            return f"link {os.readlink(path)}"
        if not stat.S_ISREG(mode):
            return ""
        with path.open("rb") as file:
            return f"{'run' if mode & stat.S_IXUSR else 'file'} {hashlib.file_digest(file, 'sha256').hexdigest()}"
    except OSError:
        return ""


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.1f} MiB"
