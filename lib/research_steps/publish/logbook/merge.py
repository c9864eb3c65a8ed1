"""After a merge in git: the logbook and its record files again, from the whole entries of both sides.

Git merges lines, so it leaves conflict markers inside entries, or tears and mixes them where a union merge is set. Here
each whole entry, and each note that people wrote behind one, is folded into one line first; then git's own three-way
merge can't take it apart. No entry of either side is left out, and of text that both sides changed both versions stay.
"""

import os
import tempfile
from collections import Counter
from collections.abc import Container, Mapping
from pathlib import Path

from research_steps.errors import ConflictedLogbook, RepositoryError
from research_steps.files import files_in, read, write_aside
from research_steps.git import Checkout
from research_steps.journal.logbook_place import logbook_of
from research_steps.publish.logbook import format as logbook_format
from research_steps.publish.logbook.file import lock, spoilt
from research_steps.records.encoding import sha256

# How many merges are looked through for the one that did the damage.
MERGES_SEEN = 20
_FOLDED = b"research-steps folded "
_SUMMARY = _FOLDED + b"summary"


def rebuild(checkout: Checkout, topic: str) -> bool:
    """Mend what a merge did to logbook and record files. True when something changed.

    The sides are those of the unfinished merge, rebase or cherry-pick, else the parents of the merge commit that did
    it. The logbook that was replaced is kept in the git directory, as research-steps/<topic>.before-rebuild.md.
    Raises ConflictedLogbook when git has no two sides.
    """
    place = logbook_of(checkout, topic)
    checkout, path = place.checkout, place.path
    with lock(place):
        data = read(path) or b""
        if spoilt(path, data):
            mended = _from_git(checkout, path, data)
        else:
            mended = _mended(checkout, path, data) if any(logbook_format.problems(data)) else data
        if logbook_format.conflicts(mended):
            raise ConflictedLogbook(
                f"{path} has conflict markers, and git has no two sides of a merge to rebuild it from: restore it with "
                f"'git checkout <commit> -- {path}', then run 'research sync {topic}'. Markers that are only quoted "
                "there have to be indented."
            )
        changed = _merge_records(checkout, place.records)
        if mended != data:
            write_aside(checkout.private / f"{topic}.before-rebuild.md", data)
            write_aside(path, mended)
    return changed or mended != data


def _from_git(checkout: Checkout, path: Path, data: bytes) -> bytes:
    """What git would commit, with the whole entries that the spoilt file still has; empty where git has none, so that
    the publisher begins anew from the store."""
    if checkout.git_dir is None:
        return b""
    staged = checkout.file_at("", path.relative_to(checkout.root).as_posix())
    return combine(checkout, staged, staged, staged, data) if logbook_format.is_ours(staged) else b""


def _mended(checkout: Checkout, path: Path, data: bytes) -> bytes:
    name = path.relative_to(checkout.root).as_posix()
    if checkout.file_at("MERGE_HEAD", name):
        return _join(checkout, name, "HEAD", "MERGE_HEAD", data)
    ours, base, theirs = (checkout.file_at(f":{stage}", name) for stage in (2, 1, 3))
    if ours and theirs:
        return combine(checkout, ours, base, theirs, data)
    return _restored(checkout, name, "HEAD", data)


def _restored(checkout: Checkout, name: str, revision: str, data: bytes) -> bytes:
    """What `revision` holds, mended where the merges that led to it did damage."""
    # Without a commit there was no merge.
    if not any(logbook_format.problems(data)) or checkout.commit_of(revision) is None:
        return data
    newest_first = ("rev-list", "--full-history", "--merges", f"--max-count={MERGES_SEEN}")
    for merge in checkout.git(*newest_first, revision, "--", name).decode().split():
        sides = f"{merge}^1", f"{merge}^2"
        after, first, second = (_faults(checkout.file_at(commit, name)) for commit in (merge, *sides))
        if after - (first | second):
            return _join(checkout, name, *sides, data)
    return data


def _join(checkout: Checkout, name: str, first: str, second: str, now: bytes) -> bytes:
    ours, theirs = (_restored(checkout, name, commit, checkout.file_at(commit, name)) for commit in (first, second))
    try:
        base = checkout.file_at(checkout.git("merge-base", first, second).decode().strip(), name)
    except RepositoryError:
        # Not an error here: the two have no history in common.
        base = b""
    return combine(checkout, ours, base, theirs, now)


def _faults(data: bytes) -> "Counter[str]":
    """What is wrong with a logbook, wherever."""
    return Counter(what for _, what in logbook_format.problems(data))


def combine(checkout: Checkout, ours: bytes, base: bytes, theirs: bytes, now: bytes) -> bytes:
    """A three-way merge that keeps every whole entry of both sides, and of the file as it is now, whole and once."""
    if logbook_format.is_ours(theirs) and not logbook_format.is_ours(ours):
        # What people went on writing by hand goes behind the part that the other side adopted.
        ours, theirs = theirs, ours
    chains = [[entry for entry in logbook_format.parse(side).chain if entry.whole] for side in (ours, theirs, now)]
    copies = [(entry, side) for side, chain in zip((ours, theirs, now), chains, strict=True) for entry in chain]
    # Of an entry that one side has in full and the other only by its end marker, the full one counts.
    copies.sort(key=lambda pair: not pair[0].above)
    entries = {entry.link: (entry, side[entry.start : entry.end]) for entry, side in copies}
    # What one side took out is taken out of the base too: then it is new on the other side, and stays.
    common = {entry.link for entry in chains[0]} & {entry.link for entry in chains[1]}
    notes: dict[str, bytes] = {}
    with tempfile.TemporaryDirectory(prefix="research-merge-") as scratch:
        paths = [Path(scratch) / name for name in ("ours", "base", "theirs")]
        for path, side, links in zip(paths, (ours, base, theirs), (entries, common, entries), strict=True):
            path.write_bytes(_fold(side, links, notes))
        merged = checkout.git("merge-file", "--stdout", "--union", *map(str, paths))
    summary = next((side[slice(*span)] for side in (ours, theirs) if (span := logbook_format.summary_span(side))), b"")
    return _unfold(merged, entries, notes, summary)


def _fold(data: bytes, links: Container[str], notes: dict[str, bytes]) -> bytes:
    """The text with one line for each whole entry in `links` and for each stretch of text behind one, which goes to
    `notes`. The text before the first entry stays, but for the summary."""
    chain = [entry for entry in logbook_format.parse(data).chain if entry.whole]
    starts = [*(entry.start for entry in chain), len(data)]
    head = data[: starts[0]]
    if span := logbook_format.summary_span(head):
        head = head[: span[0]] + _SUMMARY + head[span[1] :]
    lines = [head.rstrip(b"\r\n") + b"\n"]
    for entry, following in zip(chain, starts[1:], strict=True):
        names = [entry.link] if entry.link in links else []
        if note := data[entry.end : following].strip(b"\r\n"):
            names.append(f"note {sha256(note)}")
            notes[names[-1]] = note + b"\n"
        lines += [b"%b%b\n" % (_FOLDED, name.encode()) for name in names]
    return b"".join(lines)


def _unfold(
    merged: bytes,
    entries: Mapping[str, tuple[logbook_format.Entry, bytes]],
    notes: Mapping[str, bytes],
    summary: bytes,
) -> bytes:
    """The text with every entry once, and every record shown by one of them."""
    rest = dict(entries)
    shown: set[str] = set()
    data = bytearray()
    for line in [*merged.splitlines(keepends=True), *(_FOLDED + link.encode() for link in entries)]:
        name = line.removeprefix(_FOLDED).strip().decode("ascii", "replace") if line.startswith(_FOLDED) else ""
        if line.strip() == _SUMMARY:
            data += summary + b"\n"
        elif name in notes:
            data += b"\n" + notes[name]
        elif name not in entries:
            data += line
        elif name in rest:
            entry, text = rest.pop(name)
            text = text.rstrip(b"\r\n") + b"\n"
            if entry.above or entry.record in shown:
                data += text if entry.above else logbook_format.shown_above(text)
            else:
                shown.add(entry.record)
                data += b"\n" + text
    return bytes(data)


def _merge_records(checkout: Checkout, folder: Path) -> bool:
    """Put the records of both sides together where git could not. True when something changed."""
    changed = False
    unmerged = set()
    if checkout.git_dir is not None:
        listed = checkout.git("diff", "--name-only", "--diff-filter=U", "-z", "--", str(folder))
        unmerged = {checkout.root / os.fsdecode(name) for name in listed.split(b"\0") if name.endswith(b".jsonl")}
    for file in sorted({*(file for file in files_in(folder) if file.suffix == ".jsonl"), *unmerged}):
        present = read(file) or b""
        if file not in unmerged and not logbook_format.conflicts(b"\n" + present):
            continue
        name = file.relative_to(checkout.root).as_posix()
        versions = (present, *(checkout.file_at(f":{stage}", name) for stage in (2, 3)))
        lines = dict.fromkeys(line for version in versions for line in logbook_format.record_lines(version))
        together = b"".join(line + b"\n" for line in lines)
        if together != present:
            write_aside(file, together)
            changed = True
    return changed
