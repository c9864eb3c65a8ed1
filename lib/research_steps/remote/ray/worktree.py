"""The work tree as it is copied to a node: what git tracks, and what is new and not ignored.

Left out are what changes while a thread runs, other repositories inside this one, and what can't be read. A driver that
is sent to a cluster needs some of what changes, the logbooks with their records; those are listed on their own.
"""

import os
import re
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from zipfile import ZIP_DEFLATED, ZipFile

from research_steps.errors import UsageError
from research_steps.git import LIVING, Checkout
from research_steps.records.series import HERE
from research_steps.remote.ray.node import file_digest

# Ray's own limit on what it takes with a job (bytes), and the variable that changes it.
LIMIT_NAME, LIMIT = "RAY_max_grpc_message_size", 500 << 20
# Ray unpacks no such names; the last are bytes that are no UTF-8.
_UNPACKABLE = re.compile(r"\\|^.:|[\ud800-\udfff]")


def files(checkout: Checkout) -> dict[str, str]:
    """The files of the work tree with their digests. Raises RepositoryError outside a repository."""
    return _listed(checkout, ".", *(f":(exclude,literal){name}" for name in LIVING))


@contextmanager
def packed(checkout: Checkout, names: Iterable[str]) -> Iterator[IO[bytes]]:
    """An archive of these files, to be read from its beginning."""
    with tempfile.TemporaryFile() as archive:
        # Most of a work tree is text; the lowest level takes little time beside the network.
        with tarfile.open(fileobj=archive, mode="w:gz", compresslevel=1) as tar:
            for name in names:
                tar.add(checkout.root / name, arcname=name, recursive=False)
        archive.seek(0)
        yield archive


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
    digests = {name: file_digest(checkout.root / name) for name in checkout.files(*paths)}
    return {name: digest for name, digest in digests.items() if digest}


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.1f} MiB"
