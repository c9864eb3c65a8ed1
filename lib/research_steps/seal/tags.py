"""Sealed tags as they lie in git: what a commit holds of a logbook, and whether a tag is whole."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from research_steps.git import Checkout
from research_steps.publish.logbook.verify import Files, check_files
from research_steps.seal.bundle import SCHEMA, Bundle, name_of


@dataclass(frozen=True)
class Tag:
    """A sealed tag: the commit that was sealed as far as it is here, else the one that it names, and what lies there.

    `bundle` is None where an older version made it.
    """

    name: str
    id: str
    commit: str
    files: Files
    bundle: Bundle | None


def read(checkout: Checkout, topic: str, name: str, commit: str) -> Tag | str | None:
    """What was sealed as a tag, at its commit; why that can't be read; None when the commit is no snapshot of it."""
    id = name.rpartition("/")[2]
    path, folder = f".agents/logbooks/{topic}.md", f".agents/logbooks/{topic}/"
    tree = _tree(checkout, commit, path, folder)
    data = tree.get(name_of(topic, id, "bundle.json"))
    if data is None or path not in tree:
        return None
    try:
        schema = msgspec.json.decode(data, type=dict[str, object]).get("schema")
        if isinstance(schema, int) and schema > SCHEMA:
            return f"its bundle has schema {schema}, this version reads up to {SCHEMA}: install the newer research-steps"
        bundle = msgspec.json.decode(data, type=Bundle) if schema == SCHEMA else None
    except msgspec.MsgspecError as error:
        return f"its bundle can't be read ({error}): it was changed, or the tag was"
    beside = {name.removeprefix(folder): data for name, data in tree.items() if name.startswith(folder)}
    return Tag(name, id, commit, Files(tree[path], beside), bundle)


def receipt(checkout: Checkout, topic: str, id: str) -> Path:
    """What says, in the work tree that sealed an entry, with which commit it did."""
    return checkout.private / f"{topic}.{id}.sealed"


def damage(tag: Tag, topic: str) -> Iterator[str]:
    """In what a tag does not agree with itself."""
    yield from (f"tag {tag.name}, in its own tree: {problem}" for problem in check_files(tag.files))
    bundle = tag.bundle
    if bundle is None:
        return
    if (bundle.topic, bundle.id, bundle.tag, bundle.seal.id) != (topic, tag.id, tag.name, tag.id):
        yield f"tag {tag.name}: its bundle says that it belongs to {bundle.tag}"
    chain = tag.files.contents.chain
    tips = {entry.link for entry in chain} - {link for entry in chain for link in entry.prev}
    if tips != set(bundle.logbook):
        yield f"tag {tag.name}: its logbook does not end where its bundle says that it does"
    for ref in bundle.records:
        if ref.sha256 not in tag.files.hashes:
            yield f"tag {tag.name}: its bundle rests on record {ref.sha256[:12]} of {ref.id}, which is not in the tag"


def blobs(checkout: Checkout, names: Iterable[str]) -> Iterator[bytes | None]:
    """The contents of objects in their order, None for one that is not there."""
    out = checkout.git("cat-file", "--batch", input="".join(f"{name}\n" for name in names).encode())
    at = 0
    while at < len(out):
        head, at = out[at : out.index(b"\n", at)], out.index(b"\n", at) + 1
        if head.endswith(b" missing"):
            yield None
            continue
        size = int(head.rpartition(b" ")[2])
        yield out[at : at + size]
        at += size + 1


def _tree(checkout: Checkout, commit: str, *paths: str) -> dict[str, bytes]:
    """What a commit holds of a logbook, and of what lies beside it, by path."""
    listed = checkout.git("ls-tree", "-r", "-z", commit, "--", *paths).decode("utf-8", "surrogateescape")
    named = {name: meta.split()[2] for meta, _, name in (line.partition("\t") for line in listed.split("\0") if line)}
    return {name: data or b"" for name, data in zip(named, blobs(checkout, named.values()), strict=True)}
