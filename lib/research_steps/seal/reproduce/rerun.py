"""The sealed commands again: in a work tree of the tag, with a store of their own, publishing nothing."""

import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from research_steps.errors import ResearchError, UsageError
from research_steps.evidence.standing import claims_in
from research_steps.evidence.statistics import place
from research_steps.git import Checkout
from research_steps.journal.journal import Journal
from research_steps.journal.snapshot import Snapshot, add_published
from research_steps.journal.store import open_store
from research_steps.records.encoding import canonical
from research_steps.records.series import Series
from research_steps.seal.bundle import Bundle, name_of
from research_steps.seal.reproduce import environment
from research_steps.seal.reproduce.commands import runnable
from research_steps.seal.reproduce.judging import deciding
from research_steps.seal.reproduce.work_tree import add_sealed, make_measured, scratch
from research_steps.trial.context import CHOICES
from research_steps.trial.provenance import ORIGIN, Origin, current_actor, device_class

Say = Callable[[str], None]


@dataclass(frozen=True)
class Rerun:
    """What was sealed, of which series, and what the commands recorded this time. `exits` are their exit codes,
    `not_run` the commands that run no thread, and `patch` is what differed from the commit."""

    series: Series
    sealed: Snapshot
    fresh: Snapshot
    commands: tuple[str, ...]
    exits: tuple[int, ...]
    not_run: tuple[str, ...]
    patch: bytes


def rerun(checkout: Checkout, bundle: Bundle, here: bool, say: Say) -> Rerun:
    """Run the commands of a bundle again. Raises ResearchError when that can't be done here."""
    series = msgspec.convert(bundle.series, Series)
    commands, others = runnable(bundle)
    if not deciding(series, bundle.claims):
        raise UsageError(
            f"{bundle.tag} holds no estimate of {series.primary.name} for any candidate, so there is nothing to compare "
            "with: expected a seal that rests on a sweep."
        )
    for other in others:
        say(f"not run, because it runs no thread: {other}")
    with scratch(checkout) as (folder, lock):
        there = add_sealed(checkout, bundle, folder / "tree")
        sealed = Snapshot()
        add_published(sealed, there.logbooks / bundle.topic)
        requirements = there.file_at("HEAD", name_of(bundle.topic, bundle.id, "requirements.txt"))
        patch = make_measured(there, bundle)
        python = Path(sys.executable) if here else environment.build(bundle, requirements, there.root, folder, say)
        store, choices = folder / "store", folder / "choices.json"
        choices.write_bytes(canonical(_choices(series, bundle, sealed)))
        origin = Origin(bundle.commit, None, bundle.patch, bundle.patch_note, current_actor(checkout), True)
        env = {
            **environment.variables(bundle, store, here),
            ORIGIN: msgspec.json.encode(origin).decode(),
            CHOICES: str(choices),
        }
        machine, sealed_on = device_class(env), [kind.device_class for kind in bundle.hardware]
        if machine not in sealed_on:
            say(f"sealed on {', '.join(sealed_on)}, and this machine is {machine}: what it measures can't be compared")
        exits = []
        for command in commands:
            say(f"running {shlex.join(command)}")
            again = [str(python), *command[1:]]
            process = subprocess.Popen(again, cwd=there.root, env=env, stdout=sys.stderr, pass_fds=(lock,))
            try:
                exits.append(process.wait())
            finally:
                # Whatever ends this, such as Ctrl-C: its folder goes after it.
                process.kill()
                process.wait()
        fresh = Journal(open_store(str(store)), bundle.topic).scan()
    if not fresh.entries:
        raise ResearchError(
            f"The commands of {bundle.tag} recorded nothing (exit {', '.join(map(str, exits))}; what they printed "
            "stands above), so there is nothing to compare, and no outcome is recorded."
        )
    return Rerun(series, sealed, fresh, tuple(map(shlex.join, commands)), tuple(exits), tuple(others), patch)


def _choices(series: Series, bundle: Bundle, sealed: Snapshot) -> dict[str, list[dict[str, object]]]:
    """Each step's candidates from best to worst, as they were sealed: what is measured again depends on that order."""
    found = {}
    for stored in (sealed.entries[ref.sha256] for ref in bundle.records if ref.sha256 in sealed.entries):
        claims = [one for one in claims_in(stored.record) if one.metric == series.primary.name]
        claims.sort(key=lambda one: place(series.primary, one))
        if stored.record.step in ("sweep", "interact"):
            found[stored.record.label] = [one.changes for one in claims]
    return found
