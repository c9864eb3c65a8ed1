"""What can be attached is what could be looked into, and holds no secret in any layer of it."""

import bz2
import gzip
import io
import lzma
import random
import zipfile
from pathlib import Path

import numpy as np
import pytest
from research_steps.errors import UsageError
from research_steps.journal.attachments import read_attachment

from tests.support.planted_secrets import planted

TOKEN = planted(1)["GitHub"]
TEXT = f"epoch 1\nusing {TOKEN} now\n"


def _zipped(content: bytes, name: str = "a/notes.txt") -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("first", b"nothing")
        archive.writestr(name, content)
    return file.getvalue()


NOISE = random.Random(1).randbytes(100_000)
HIDDEN = {
    "UTF-8": TEXT.encode(),
    "UTF-16": TEXT.encode("utf-16"),
    "UTF-16, big": TEXT.encode("utf-16-be"),
    "UTF-16 at an odd place": b"x" + TEXT.encode("utf-16-le"),
    "UTF-16 among Greek": ("Ελληνικά " + TEXT).encode("utf-16"),
    "UTF-32": TEXT.encode("utf-32"),
    "Latin-1": ("é " + TEXT).encode("latin-1"),
    "one bad byte": b"\xff" + TEXT.encode(),
    "binary": NOISE + b"\x12\x28" + TOKEN.encode() + b"\x00\x01" + NOISE,
    "gzip": gzip.compress(TEXT.encode()),
    "gzip of UTF-16": gzip.compress(TEXT.encode("utf-16")),
    "bzip2": bz2.compress(TEXT.encode()),
    "xz": lzma.compress(TEXT.encode()),
    "zip": _zipped(TEXT.encode()),
    "gzip in zip": _zipped(gzip.compress(TEXT.encode())),
    "name in zip": _zipped(b"nothing", f"{TOKEN}.txt"),
}


@pytest.mark.parametrize("kind", HIDDEN)
def test_a_secret_in_any_layer_is_refused(tmp_path: Path, kind: str) -> None:
    """The sentence says where, with what stands around it, and not the secret."""
    path = tmp_path / "file"
    path.write_bytes(HIDDEN[kind])
    with pytest.raises(UsageError, match=r"holds what looks like a secret, in ") as told:
        read_attachment(path)
    assert TOKEN not in str(told.value)
    assert "[redacted]" in str(told.value)


def test_a_private_key_in_a_compressed_log_is_refused(tmp_path: Path) -> None:
    """Of several lines, behind much else."""
    path = tmp_path / "log.gz"
    path.write_bytes(gzip.compress(b"step 1 loss 2.5\n" * 10_000 + planted(1)["private key"].encode()))
    with pytest.raises(UsageError, match=r"in the text of what is packed with gzip"):
        read_attachment(path)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (gzip.compress(b"some text " * 99)[:-30], "can't be unpacked"),
        (b"\x28\xb5\x2f\xfd" + bytes(50), "packed with zstd"),
        (gzip.compress(bytes(70_000_000)), "unpacks to more than 64000000 bytes"),
        (gzip.compress(gzip.compress(gzip.compress(gzip.compress(b"x")))), "packed too often"),
    ],
    ids=["broken", "zstd", "bomb", "deep"],
)
def test_what_can_not_be_secrets_in_files_is_refused(tmp_path: Path, content: bytes, why: str) -> None:
    """In one sentence that says why, and what to do."""
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=rf"can't be checked for secrets, because .*{why}.*unpack it"):
        read_attachment(path)


def test_what_people_attach_is_taken(tmp_path: Path) -> None:
    """Arrays, plots, profiles, text of any language: binary files without a secret in them."""
    np.savez_compressed(tmp_path / "a.npz", w=np.random.default_rng(0).normal(size=100_000), token=np.arange(9))
    png = b"\x89PNG\r\n\x1a\n" + NOISE
    profile = b"\n\x0cjit_step/key\x12\x08fusion.1" * 500 + NOISE
    for name, content in (("p.png", png), ("t.xplane.pb", profile), ("g.json.gz", gzip.compress(b'{"token": "<s>"}'))):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "greek.txt").write_bytes("loss 2.5 Ελληνικά".encode("utf-16"))
    for path in tmp_path.iterdir():
        assert read_attachment(path)[1] == path.read_bytes()


def test_a_name_is_looked_at_whole(tmp_path: Path) -> None:
    """Also where it is cut, because names in git are short."""
    path = tmp_path / f"{TOKEN}{'x' * 60}.txt"
    path.write_text("nothing")
    with pytest.raises(UsageError, match="name holds what looks like a secret") as told:
        read_attachment(path)
    assert TOKEN not in str(told.value)
