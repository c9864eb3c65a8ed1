"""The logbook sink: entries appended to `.agents/logbooks/<topic>.md`, their records beside it in git.

For each entry first its records are made to last in `<topic>/<ID>.jsonl`, then the entry is appended. A publisher that
is killed in between leaves a records file that the next one finds. One publisher at a time for each work tree, by a
lock in its git directory; what is already there is told by the logbook's own markers.
"""

import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from research_steps.errors import ConflictedLogbook, LogbookError, RepositoryError, StoreError, UsageError
from research_steps.git import Checkout
from research_steps.journal import Journal, Snapshot
from research_steps.record import EntryRecord, Stored, decode_record, sha256
from research_steps.series import Series, check_prefix
from research_steps.sinks import Published, logbook_file, rendering
from research_steps.sinks.logbook_file import LogbookFile, write_aside

LIVING_EVERY_S = 60.0


class LogbookSink:
    """One series' logbook in one checkout."""

    def __init__(self, checkout: Checkout, journal: Journal, series: Series) -> None:
        self.series = series
        self.journal = journal
        self.path = path_of(checkout, series.topic)
        self.records = self.path.with_suffix("")
        self._checkout = checkout
        self._file = LogbookFile(self.path)
        self._lived = 0.0
        self._stale = True

    def publish(self, entries: Snapshot, final: bool) -> Published:
        """Append what the logbook does not hold yet, in the order in which it was finished."""
        with lock(self._checkout, self.series.topic):
            if not self.path.exists():
                write_aside(self.path, scaffold(self.series))
            self._file.refresh()
            waiting = [stored for stored in entries.entries.values() if not self._file.holds(stored.sha256)]
            waiting = [stored for stored in waiting if not stored.record.late]
            done, problems = [], []
            for stored in sorted(waiting, key=lambda stored: (stored.record.finished_at, stored.record.id)):
                seal = self.journal.seal(stored.record.id) if stored.record.step == "seal" else None
                if stored.record.step == "seal" and seal is None:
                    # Its entry names the tag, so it waits for it; what holds the tag up is told by who makes it.
                    continue
                try:
                    self._keep_records(stored)
                except StoreError as error:
                    problems.append(f"{stored.record.id} is not published: {error}")
                    continue
                text = rendering.entry(stored.record, self.series, seal)
                self._file.append(stored.record.id, stored.sha256, text)
                done.append(stored.record.id)
            self._stale = self._stale or bool(done)
            if self._stale and (final or time.monotonic() - self._lived >= LIVING_EVERY_S):
                shown = [stored.record for stored in entries.entries.values() if self._file.holds(stored.sha256)]
                shown.sort(key=lambda record: (record.finished_at, record.id))
                self._file.replace_living(rendering.living(self.series, shown))
                self._lived, self._stale = time.monotonic(), False
        return Published(tuple(done), tuple(problems))

    def _keep_records(self, entry: Stored[EntryRecord]) -> None:
        lines = [entry.line]
        for row in entry.record.rows:
            owner = row.trial.id.partition(".")[0]
            if owner == entry.record.id or row.trial.sha256 not in _hashes(self.records / f"{owner}.jsonl"):
                lines.append(self.journal.load("trial", row.trial).line)
        path = self.records / f"{entry.record.id}.jsonl"
        held = path.read_bytes() if path.exists() else b""
        known = set(held.splitlines())
        new = [line for line in lines if line not in known]
        if new:
            write_aside(path, held + b"".join(line + b"\n" for line in new))
        sha = entry.record.provenance.patch
        if sha is not None and not (self.records / f"{sha}.patch").exists():
            patch = self.journal.patch(sha)
            if patch is not None:
                write_aside(self.records / f"{sha}.patch", patch)


def path_of(checkout: Checkout, topic: str) -> Path:
    return checkout.logbooks / f"{topic}.md"


@contextmanager
def lock(checkout: Checkout, topic: str) -> Iterator[None]:
    """Holds off other publishers of this work tree's logbook."""
    checkout.private.mkdir(parents=True, exist_ok=True)
    with FileLock(checkout.private / f"{topic}.lock").acquire(poll_interval=0.02):
        yield


def scaffold(series: Series) -> bytes:
    """A new logbook for a series: front matter, Scope, the living part, and the log without entries."""
    metrics = ", ".join(f"{metric.name} ({metric.direction})" for metric in series.metrics)
    lines = [
        "---",
        f"topic: {series.topic}",
        f"prefix: {series.prefix}",
        f"tags: [{', '.join(series.tags)}]",
        "---",
        f"# {series.topic}: Research Logbook",
        "",
        "## Scope",
        f"- Goal: {series.goal}",
        f"- Primary metric(s): {metrics}",
        f"- Constraints: {series.constraints or '–'}",
        f"- Stop criteria: {series.stop or '–'}",
        "",
    ]
    return "\n".join(lines).encode() + _log(rendering.living(series, []), "## Experiment Log")


def adopt(checkout: Checkout, topic: str, prefix: str) -> int:
    """Have entries follow at the end of a logbook that people wrote; returns how many bytes stay as they were.

    Whatever would hide what follows (a fence or a comment that is still open) is closed first.
    """
    check_prefix(topic, prefix)
    path = path_of(checkout, topic)
    with lock(checkout, topic):
        if not path.is_file():
            raise UsageError(f"There is no logbook {path} to adopt: expected one that people wrote by hand.")
        old = path.read_bytes()
        if logbook_file.is_ours(old):
            raise UsageError(f"{path} needs no adoption: research-steps made or adopted it before.")
        if logbook_file.conflicts(old):
            raise ConflictedLogbook(f"{path} has conflict markers of a git merge: resolve them, then adopt it.")
        closing = _closing(old)
        marker = logbook_file.adoption_marker(old)
        front = f"<!-- research-steps topic={topic} prefix={prefix} -->\n".encode()
        write_aside(path, old + closing + marker + front + _log(rendering.NOTHING_YET, "## Recorded experiment log"))
    return len(old)


def numbers_used(checkout: Checkout, topic: str, prefix: str) -> set[int]:
    """The experiment numbers that this checkout knows: in record files, and in the headings of its logbook."""
    used = set()
    pattern = re.compile(re.escape(prefix) + r"-(\d{1,9})(?![\d])")
    path = path_of(checkout, topic)
    if path.is_file():
        data = path.read_bytes()
        entries = [entry.id for entry in logbook_file.parse(data).entries]
        adopted = data[: logbook_file.adopted_end(data)]
        headings = list(_headings(adopted)) if adopted else []
        used |= {int(number) for text in (*entries, *headings) for number in pattern.findall(text)}
    for file in path.with_suffix("").glob("*.jsonl"):
        used |= {int(number) for number in pattern.findall(file.stem)}
    return used


def verify(checkout: Checkout, topic: str, journal: Journal | None) -> tuple[int, list[str]]:
    """How many entries were checked, and everything that does not agree: logbook, record files and journal."""
    path = path_of(checkout, topic)
    if not path.is_file():
        raise UsageError(f"There is no logbook {path}: expected one; run the thread, or 'research sync {topic}'.")
    data = path.read_bytes()
    found = list(logbook_file.problems(data))
    contents = logbook_file.parse(data)
    lines: dict[str, dict[str, bytes]] = {}
    for file in sorted(path.with_suffix("").glob("*.jsonl")):
        lines[file.stem] = {sha256(line): line for line in file.read_bytes().splitlines()}
    published = Snapshot()
    for stem, held in lines.items():
        for sha, line in held.items():
            try:
                published.add(decode_record(line, f"{stem}.jsonl, record {sha[:12]}"))
            except StoreError as error:
                found.append(str(error))
    wanted: set[str] = set()
    everything = {sha for held in lines.values() for sha in held}
    for entry in contents.entries:
        if entry.record not in lines.get(entry.id, {}):
            found.append(f"{entry.id}: its record {entry.record[:12]} is not in {entry.id}.jsonl, or was changed there")
            continue
        record = published.entries.get(entry.record)
        if record is None or record.record.id != entry.id:
            found.append(f"{entry.id}: the record that its marker names is of something else")
            continue
        wanted.add(entry.record)
        for row in record.record.rows:
            wanted.add(row.trial.sha256)
            if row.trial.sha256 not in everything:
                found.append(f"{entry.id}: the record of its trial {row.trial.id} is missing or was changed")
    for stem, held in lines.items():
        found += [f"{stem}.jsonl: no entry rests on record {sha[:12]}" for sha in held if sha not in wanted]
    if journal is not None:
        found += _against_journal(published, journal)
    return len(contents.entries), found


def rebuild(checkout: Checkout, topic: str) -> bool:
    """After a merge: rebuild logbook and record files from the whole entries of both sides. True when it changed.

    The sides are the two stages of an unfinished merge, else the parents of the merge commit that is checked out.
    """
    path = path_of(checkout, topic)
    with lock(checkout, topic):
        data = path.read_bytes() if path.is_file() else b""
        if not logbook_file.conflicts(data) and not logbook_file.parse(data).torn and not _torn_records(path):
            return False
        ours, theirs = _sides(checkout, path)
        if ours is None or theirs is None:
            raise ConflictedLogbook(
                f"{path} is torn and git has no two sides of a merge to rebuild it from: restore it with "
                f"'git checkout <commit> -- {path}', then run 'research sync {topic}'."
            )
        held = logbook_file.parse(ours)
        known = {entry.link for entry in held.entries}
        rebuilt = ours if ours.endswith(b"\n") else ours + b"\n"
        for entry in logbook_file.parse(theirs).entries:
            if entry.link not in known:
                rebuilt += b"\n" + theirs[entry.start : entry.end]
        _merge_records(checkout, path.with_suffix(""))
        if rebuilt != data:
            write_aside(path, rebuilt)
    return True


def _log(living: str, heading: str) -> bytes:
    begin, end = logbook_file.LIVING_BEGIN.decode(), logbook_file.LIVING_END.decode()
    return f"{begin}\n{living}\n{end}\n\n{heading}\n".encode()


def _closing(old: bytes) -> bytes:
    """What has to come between old text and ours so that ours is read as Markdown of its own."""
    from markdown_it import MarkdownIt

    sentinel = "research-steps-sentinel"
    parser = MarkdownIt("commonmark")
    text = old.decode("utf-8", "replace")
    gap = "\n" if old.endswith(b"\n") or not old else "\n\n"
    fences = [token.markup for token in parser.parse(text) if token.type == "fence"]
    closers = [
        gap,
        *(f"{gap}{fence}\n\n" for fence in fences[-1:]),
        f"{gap}-->\n\n",
        f"{gap}</pre>\n\n",
        f"{gap}]]>\n\n",
    ]
    for closer in closers:
        tokens = parser.parse(f"{text}{closer}## {sentinel}\n")
        opened = [index for index, token in enumerate(tokens) if token.type == "heading_open" and token.level == 0]
        if any(tokens[index + 1].content == sentinel for index in opened):
            return closer.encode()
    raise LogbookError("The logbook ends inside a construct that hides what follows: close it by hand, then adopt it.")


def _headings(data: bytes) -> Iterable[str]:
    from markdown_it import MarkdownIt

    tokens = MarkdownIt("commonmark").parse(data.decode("utf-8", "replace"))
    return (tokens[index + 1].content for index, token in enumerate(tokens) if token.type == "heading_open")


def _hashes(path: Path) -> set[str]:
    return {sha256(line) for line in path.read_bytes().splitlines()} if path.is_file() else set()


def _against_journal(published: Snapshot, journal: Journal) -> list[str]:
    held = journal.scan()
    begun = {
        (stored.record.key, stored.record.attempt, stored.record.started_at): stored.sha256
        for stored in _results(held)
        if not stored.record.late
    }
    found = []
    for stored in _results(published):
        record = stored.record
        sha = begun.get((record.key, record.attempt, record.started_at))
        if sha not in (None, stored.sha256):
            found.append(f"{record.id}: the journal holds it with hash {sha[:12]}, git with {stored.sha256[:12]}")
    return found


def _results(snapshot: Snapshot) -> list[Stored[Any]]:
    return [*snapshot.entries.values(), *snapshot.trials.values()]


def _torn_records(path: Path) -> bool:
    return any(b"\n<<<<<<< " in b"\n" + file.read_bytes() for file in path.with_suffix("").glob("*.jsonl"))


def _sides(checkout: Checkout, path: Path) -> tuple[bytes | None, bytes | None]:
    name = path.relative_to(checkout.root).as_posix()
    staged = _show(checkout, f":2:{name}"), _show(checkout, f":3:{name}")
    if None not in staged:
        return staged
    return _show(checkout, f"HEAD^1:{name}"), _show(checkout, f"HEAD^2:{name}")


def _show(checkout: Checkout, revision: str) -> bytes | None:
    try:
        return checkout.git("cat-file", "blob", revision)
    except RepositoryError:
        # Not an error here: that side does not have the file.
        return None


def _merge_records(checkout: Checkout, folder: Path) -> None:
    for file in folder.glob("*.jsonl"):
        if b"\n<<<<<<< " not in b"\n" + file.read_bytes():
            continue
        ours, theirs = _sides(checkout, file)
        lines = dict.fromkeys([*(ours or b"").splitlines(), *(theirs or b"").splitlines()])
        write_aside(file, b"".join(line + b"\n" for line in lines))
