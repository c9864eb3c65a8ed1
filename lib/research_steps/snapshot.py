"""Sealing: an annotated tag over a commit of only the relevant files, with a bundle to reproduce the claim from.

The commit is made beside the branch, with an index of its own: the user's index, work tree, branch and stash stay as
they are, and only the tag `<topic>/<experiment ID>` holds it. Which commit an entry was sealed with is decided once, in
the journal; the tag is the receipt in this repository.
"""

import json
import os
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from research_steps.errors import RepositoryError
from research_steps.git import Checkout
from research_steps.holdings import Snapshot
from research_steps.journal import Journal
from research_steps.record import SCHEMA, EntryRecord, Seal, Stored, utc
from research_steps.series import Series
from research_steps.sinks import Published
from research_steps.sinks.rendering import entry as render_entry


class Sealer:
    """Makes the commit and the tag of every seal that was asked for in this series."""

    def __init__(self, checkout: Checkout, journal: Journal, series: Series) -> None:
        self._checkout = checkout
        self._journal = journal
        self._series = series

    def publish(self, entries: Snapshot, final: bool) -> Published:
        """Seal what waits for it. Raises RepositoryError with the reason when that can't be done here."""
        problems = []
        for stored in entries.entries.values():
            if stored.record.step != "seal" or stored.record.late:
                continue
            seal = self._journal.decided(f"seals/{stored.record.id}", Seal)
            if seal is not None:
                # Who decided may have been killed before the tag was made, and a tag may have been lost since.
                if final and self._has(seal.commit):
                    self._tag(stored, seal)
                continue
            withheld = _withheld(stored, entries)
            if withheld:
                problems.append(
                    f"{stored.record.id} can't be sealed: the patch of {withheld} was withheld for a secret."
                )
                continue
            seal = self._decide(stored, entries)
            if seal.host == stored.record.provenance.host or self._has(seal.commit):
                self._tag(stored, seal)
        return Published(problems=tuple(problems))

    def _decide(self, stored: Stored[EntryRecord], entries: Snapshot) -> Seal:
        head = self._checkout.head()
        if head is None:
            raise RepositoryError(
                f"{stored.record.id} can't be sealed: {self._checkout.root} has no commit to build on. Commit the "
                f"thread's files, then run 'research sync {self._series.topic}'."
            )
        commit = self._commit(stored, entries, head)
        tag = f"{self._series.topic}/{stored.record.id}"
        made = Seal(
            schema=SCHEMA,
            id=stored.record.id,
            tag=tag,
            commit=commit,
            sealed_at=utc(),
            host=stored.record.provenance.host,
        )
        return self._journal.decide(f"seals/{stored.record.id}", made)

    def _commit(self, stored: Stored[EntryRecord], entries: Snapshot, head: str) -> str:
        topic = self._series.topic
        folder = f".agents/logbooks/{topic}"
        wanted = [f".agents/logbooks/{topic}.md", folder, *_code_folders(self._checkout, entries)]
        with tempfile.TemporaryDirectory(prefix="research-seal-") as scratch:
            env = {"GIT_INDEX_FILE": str(Path(scratch) / "index")}
            self._checkout.git("read-tree", head, env=env)
            present = [name for name in wanted if (self._checkout.root / name).exists()]
            self._checkout.git("add", "--", *present, env=env)
            attached = f"{folder}/attachments"
            if not self._series.private and (self._checkout.root / attached).exists():
                # A plot belongs to its entry, also where git is told to ignore plots.
                self._checkout.git("add", "--force", "--", attached, env=env)
            for name, content in _bundle(stored, entries, self._series).items():
                blob = self._checkout.git("hash-object", "-w", "--stdin", input=content).decode().strip()
                path = f"{folder}/{stored.record.id}.{name}"
                self._checkout.git("update-index", "--add", "--cacheinfo", f"100644,{blob},{path}", env=env)
            tree = self._checkout.git("write-tree", env=env).decode().strip()
        message = f"Seal {topic}/{stored.record.id}\n\nThe logbook, its records, the experiment's code and a bundle.\n"
        # The seal's own time, so that sealing twice by accident makes the same commit.
        when = f"{int(datetime.fromisoformat(stored.record.finished_at).astimezone(UTC).timestamp())} +0000"
        dates = {"GIT_AUTHOR_DATE": when, "GIT_COMMITTER_DATE": when, **_identity(self._checkout)}
        made = self._checkout.git("commit-tree", tree, "-p", head, "-F", "-", env=dates, input=message.encode())
        return made.decode().strip()

    def _tag(self, stored: Stored[EntryRecord], seal: Seal) -> None:
        if self._has(f"refs/tags/{seal.tag}"):
            return
        record = stored.record
        message = (
            f"{self._series.topic}: {record.result}\n\nExperiment {record.id}, recorded {record.finished_at} by "
            f"{record.provenance.actor.name}.\nCommand: {record.provenance.command}\n"
        )
        self._checkout.git(
            "tag",
            "--annotate",
            "--file=-",
            seal.tag,
            seal.commit,
            env=_identity(self._checkout),
            input=message.encode(),
        )

    def _has(self, name: str) -> bool:
        try:
            self._checkout.git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")
        except RepositoryError:
            # Not an error here: the name is not known in this repository.
            return False
        return True


def _bundle(stored: Stored[EntryRecord], entries: Snapshot, series: Series) -> dict[str, bytes]:
    """The repro bundle: what was run, on what, with what result; as JSON for programs and Markdown for people."""
    rests_on = entries.below(stored)
    latest = rests_on[-1].record if rests_on else stored.record
    bundle = {
        "schema": 1,
        "series": series.topic,
        "id": stored.record.id,
        "goal": series.goal,
        "commands": sorted({entry.record.provenance.command for entry in rests_on}),
        "provenance": msgspec.to_builtins(latest.provenance),
        "entries": [
            {"id": entry.record.id, "sha256": entry.sha256, "label": entry.record.label, "result": entry.record.result}
            for entry in rests_on
        ],
        "trials": [msgspec.to_builtins(row.trial) for entry in rests_on for row in entry.record.rows],
    }
    text = [f"# {series.topic}: what {stored.record.id} sealed", "", f"Goal: {series.goal}", ""]
    text += [render_entry(entry.record, series, None).replace("### ", "## ", 1) + "\n" for entry in rests_on]
    return {
        "bundle.json": (json.dumps(bundle, indent=2, sort_keys=True) + "\n").encode(),
        "bundle.md": "\n".join(text).encode(),
    }


def _withheld(stored: Stored[EntryRecord], entries: Snapshot) -> str:
    records = [entry.record for entry in [*entries.below(stored), stored]]
    return ", ".join(record.id for record in records if record.provenance.patch_note.startswith("withheld"))


def _code_folders(checkout: Checkout, entries: Snapshot) -> list[str]:
    """The folders of the measure functions' modules, as far as they lie in this checkout."""
    names = {
        str(entry.record.config["measure"]) for entry in entries.entries.values() if "measure" in entry.record.config
    }
    folders = set()
    for name in names:
        folder = Path(*name.partition(":")[0].split(".")[:-1])
        if folder.parts and (checkout.root / folder).is_dir():
            folders.add(folder.as_posix())
    return sorted(folders)


def _identity(checkout: Checkout) -> dict[str, str]:
    """An identity for git where the user has set none: sealing must not fail for that."""
    if checkout.user() is not None:
        return {}
    name = os.environ.get("GIT_AUTHOR_NAME", "research-steps")
    email = os.environ.get("GIT_AUTHOR_EMAIL", "research-steps@localhost")
    return {
        "GIT_AUTHOR_NAME": name,
        "GIT_AUTHOR_EMAIL": email,
        "GIT_COMMITTER_NAME": name,
        "GIT_COMMITTER_EMAIL": email,
    }
