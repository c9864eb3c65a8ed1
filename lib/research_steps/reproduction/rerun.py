"""The sealed commands again: in a work tree of the tag, with a store of their own, publishing nothing."""

import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from research_steps.claims import claims_in
from research_steps.comparison import gain
from research_steps.errors import RepositoryError, ResearchError, UsageError
from research_steps.git import Checkout
from research_steps.holdings import Snapshot, add_published
from research_steps.journal import Journal
from research_steps.provenance import ORIGIN, Origin, current_actor
from research_steps.record import canonical
from research_steps.reproduction import environment
from research_steps.series import Series
from research_steps.snapshot.bundle import Bundle, name_of
from research_steps.steps.session import CHOICES
from research_steps.store import open_store

Say = Callable[[str], None]


@dataclass(frozen=True)
class Rerun:
    """What was sealed, and what the commands recorded this time. `exits` are the exit codes of the commands."""

    sealed: Snapshot
    fresh: Snapshot
    commands: tuple[str, ...]
    exits: tuple[int, ...]


def rerun(checkout: Checkout, bundle: Bundle, series: Series, here: bool, say: Say) -> Rerun:
    """Run the commands of a bundle again. Raises ResearchError when that can't be done here."""
    commands = _commands(bundle)
    with tempfile.TemporaryDirectory(prefix="research-reproduce-") as scratch:
        folder = Path(scratch)
        with _work_tree(checkout, bundle, folder / "tree") as (tree, sealed, requirements):
            (folder / "choices.json").write_bytes(canonical(_choices(series, sealed)))
            python = Path(sys.executable) if here else environment.build(bundle, requirements, tree, folder, say)
            store = folder / "store"
            origin = Origin(bundle.commit, None, bundle.patch, bundle.patch_note, current_actor(checkout))
            env = {
                **environment.variables(bundle, store),
                ORIGIN: msgspec.json.encode(origin).decode(),
                CHOICES: str(folder / "choices.json"),
            }
            exits = []
            for command in commands:
                say(f"running {shlex.join(command)}")
                done = subprocess.run([str(python), *command[1:]], cwd=tree, env=env, stdout=sys.stderr)
                exits.append(done.returncode)
            fresh = Journal(open_store(str(store)), bundle.topic).scan()
    if not fresh.entries:
        raise ResearchError(
            f"The commands of {bundle.tag} recorded nothing (exit {', '.join(map(str, exits))}; what they printed "
            "stands above), so there is nothing to compare."
        )
    return Rerun(sealed, fresh, tuple(map(shlex.join, commands)), tuple(exits))


@contextmanager
def _work_tree(checkout: Checkout, bundle: Bundle, tree: Path) -> Iterator[tuple[Path, Snapshot, bytes]]:
    """The tag in a work tree, then in it the code as it was measured; with the sealed records, and packages."""
    checkout.quietly("worktree", "add", "--quiet", "--detach", str(tree), f"refs/tags/{bundle.tag}")
    try:
        there = Checkout.find(tree)
        sealed = Snapshot()
        add_published(sealed, there.logbooks / bundle.topic)
        requirements = there.file_at("HEAD", name_of(bundle.topic, bundle.id, "requirements.txt"))
        patch = there.file_at("HEAD", f".agents/logbooks/{bundle.topic}/{bundle.patch}.patch") if bundle.patch else b""
        if bundle.patch and not patch:
            raise RepositoryError(
                f"{bundle.tag} was measured with the patch {bundle.patch}, which the tag does not hold."
            )
        there.quietly("checkout", "--quiet", "--detach", bundle.commit)
        if patch:
            there.quietly("apply", "--binary", "--whitespace=nowarn", "-", input=patch)
        if bundle.submodules:
            there.git("submodule", "update", "--init", "--quiet")
        yield tree, sealed, requirements
    finally:
        checkout.quietly("worktree", "remove", "--force", str(tree))


def _commands(bundle: Bundle) -> list[list[str]]:
    """The commands that run the thread, without the store that they named."""
    found = []
    for given in bundle.commands:
        words = shlex.split(given.command)
        if words[:2] == ["python", "-m"] and words[2:] and not words[2].startswith("research_steps"):
            found.append(_without(words, "--prefix", "--executor_info_base_path"))
    if not found:
        named = "; ".join(one.command for one in bundle.commands)
        raise UsageError(
            f"{bundle.tag} rests on no command that runs a thread ({named}): expected one such as "
            "'python -m experiments.moe_hc'."
        )
    return list({tuple(words): words for words in found}.values())


def _without(words: Sequence[str], *options: str) -> list[str]:
    kept: list[str] = []
    skip = False
    for word in words:
        if not skip and word not in options and not word.startswith(tuple(f"{option}=" for option in options)):
            kept.append(word)
        skip = not skip and word in options
    return kept


def _choices(series: Series, sealed: Snapshot) -> dict[str, list[dict[str, object]]]:
    """Each step's candidates from best to worst, as they were sealed: what is measured again depends on that order."""
    found = {}
    for stored in sorted(sealed.entries.values(), key=lambda one: one.record.finished_at):
        claims = [one for one in claims_in(stored.record) if one.metric == series.primary.name]
        claims.sort(key=lambda one: -gain(series.primary, one))
        if stored.record.step in ("sweep", "interact"):
            found[stored.record.label] = [one.changes for one in claims]
    return found
