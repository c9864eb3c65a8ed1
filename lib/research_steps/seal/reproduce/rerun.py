"""The thread of a tag again: in a work tree of the tag, with a store of its own, publishing nothing."""

import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec

from research_steps.errors import RepositoryError, ResearchError, UsageError
from research_steps.evidence.standing import claims_in
from research_steps.evidence.statistics import place
from research_steps.git import Checkout
from research_steps.journal.journal import Journal
from research_steps.journal.snapshot import Snapshot
from research_steps.journal.store import open_store
from research_steps.records.encoding import canonical
from research_steps.records.series import Series
from research_steps.records.step_kinds import Reproduction
from research_steps.seal.bundle import Bundle
from research_steps.seal.reproduce.commands import runnable
from research_steps.seal.reproduce.judging import deciding
from research_steps.seal.reproduce.sandbox import add_measured, build_environment, left_out, scratch, variables
from research_steps.seal.reproduce.trusted import other_series
from research_steps.seal.tags import files_at
from research_steps.trial.context import CHOICES
from research_steps.trial.launcher.processes import die_with_parent
from research_steps.trial.provenance import ORIGIN, Origin, current_actor, device_class


@dataclass(frozen=True)
class Rerun:
    """What was sealed, of which series, and what the commands recorded this time. `details` say all of it but the
    outcome, and `patch` is what differed from the commit."""

    series: Series
    sealed: Snapshot
    fresh: Snapshot
    details: Reproduction
    patch: bytes


def rerun(checkout: Checkout, bundle: Bundle, here: bool, say: Callable[[str], None]) -> Rerun:
    """Run the thread of a bundle again. Raises ResearchError when that can't be done here."""
    series = bundle.declared
    commands, others = runnable(bundle)
    if not deciding(series, bundle.claims):
        raise UsageError(
            f"{bundle.tag} holds no estimate of {series.primary.name} for any candidate, so there is nothing to compare "
            "with: expected a seal that rests on a sweep."
        )
    sealed = files_at(checkout, bundle.topic, f"refs/tags/{bundle.tag}")
    patch, requirements = (
        sealed.beside.get(name, b"") for name in (f"{bundle.patch}.patch", f"{bundle.id}.requirements.txt")
    )
    if bundle.patch and not patch:
        raise RepositoryError(
            f"{bundle.tag} was measured with edits of commit {bundle.commit[:12]}, and the tag lacks "
            f"{bundle.patch}.patch, which is to hold them: without them it can't be measured again."
        )
    for other in others:
        say(f"not run, because it does not run the thread: {other}")
    if secrets := left_out():
        say(f"not in its environment, because they are secrets by their names or values: {', '.join(secrets)}")
    with scratch(checkout) as (folder, lock):
        tree = add_measured(checkout, bundle, patch, folder / "tree").root
        store, choices = folder / "store", folder / "choices.json"
        env = variables(bundle, store, here)
        python = Path(sys.executable) if here else build_environment(bundle, requirements, tree, folder, env, say)
        choices.write_bytes(canonical(_choices(series, bundle, sealed.records)))
        origin = Origin(bundle.commit, None, bundle.patch, bundle.patch_note, current_actor(checkout), True)
        env |= {ORIGIN: msgspec.json.encode(origin).decode(), CHOICES: str(choices)}
        machine, sealed_on = device_class(env), [kind.device_class for kind in bundle.hardware]
        if machine not in sealed_on:
            say(f"sealed on {', '.join(sealed_on)}, and this machine is {machine}: what it measures can't be compared")
        exits = []
        for command in commands:
            say(f"running {shlex.join(command)}")
            again = [str(python), *command[1:]]
            # Whatever ends this, such as Ctrl-C or a kill, ends it too: its folder goes after it.
            ends = partial(die_with_parent, os.getpid())
            done = subprocess.run(again, cwd=tree, env=env, stdout=sys.stderr, pass_fds=(lock,), preexec_fn=ends)
            exits.append(done.returncode)
        journal = Journal(open_store(str(store)), bundle.topic)
        fresh, declared = journal.scan(), journal.declared()
    if not fresh.entries:
        raise ResearchError(
            f"The commands of {bundle.tag} recorded nothing (exit {', '.join(map(str, exits))}; what they printed "
            "stands above), so there is nothing to compare, and no outcome is recorded."
        )
    if declared is not None and other_series(series, declared):
        differs = other_series(series, declared)[0]
        raise RepositoryError(
            f"The thread of {bundle.tag} is not that of its bundle: {differs}. No outcome is recorded."
        )
    details = Reproduction(
        tag=bundle.tag,
        commit=bundle.commit,
        commands=tuple(map(shlex.join, commands)),
        exits=tuple(exits),
        not_run=tuple(others),
        environment="the one here" if here else "built from the sealed list of packages",
    )
    return Rerun(series, sealed.records, fresh, details, patch)


def _choices(series: Series, bundle: Bundle, sealed: Snapshot) -> dict[str, list[dict[str, object]]]:
    """Each step's candidates from best to worst, as they were sealed: what is measured again depends on that order."""
    entries = (sealed.entries[ref.sha256].record for ref in bundle.records if ref.sha256 in sealed.entries)
    choices = {}
    for entry in (entry for entry in entries if entry.step in ("sweep", "interact")):
        claims = [claim for claim in claims_in(entry) if claim.metric == series.primary.name]
        claims.sort(key=lambda claim: place(series.primary, claim))
        choices[entry.label] = [claim.changes for claim in claims]
    return choices
