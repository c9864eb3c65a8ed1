"""The work tree as it is copied to a node: what git tracks, and what is new and not ignored.

Left out are what changes while a thread runs, other repositories inside this one, and what can't be read.
"""

import os
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import IO

from research_steps.cluster.node import file_digest
from research_steps.errors import RepositoryError
from research_steps.git import LIVING, Checkout


def files(checkout: Checkout) -> dict[str, str]:
    """The files of the work tree with their digests. Raises RepositoryError outside a repository."""
    if checkout.git_dir is None:
        raise RepositoryError(f"{checkout.root} is not in a git repository: expected one, whose work tree is copied.")
    living = (f":(exclude,literal){name}" for name in LIVING)
    listed = checkout.git("ls-files", "--cached", "--others", "--exclude-standard", "-z", "--", ".", *living)
    names = {os.fsdecode(name) for name in listed.split(b"\0") if name}
    found = {name: file_digest(checkout.root / name) for name in sorted(names)}
    return {name: digest for name, digest in found.items() if digest}


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
