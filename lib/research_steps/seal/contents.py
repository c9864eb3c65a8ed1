"""What goes into a snapshot, worked out from the records that a seal rests on, and why one can't be made."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from research_steps.errors import RepositoryError, UsageError
from research_steps.evidence.founded import claimed, founded
from research_steps.evidence.standing import standing, together
from research_steps.git import Checkout
from research_steps.journal.journal import Journal
from research_steps.journal.snapshot import Snapshot
from research_steps.publish.logbook.verify import Files
from research_steps.records.encoding import Stored, without_secrets
from research_steps.records.model import EntryRecord, Provenance, Ref, TrialRecord
from research_steps.records.series import Series
from research_steps.records.step_kinds import Attachment
from research_steps.seal import bundle, bundle_text
from research_steps.seal.bundle import Elsewhere, Hardware, MeasuredWith
from research_steps.seal.tags import gitlinks, refuse_name_in_the_way, signs_here, tagger_here
from research_steps.trial.code import trace_name
from research_steps.trial.command import Command


@dataclass(frozen=True)
class SealedEvidence:
    """What a seal rests on: its entries, oldest first, the trials of their tables, all that was `known`, the hashes of
    both, the measure functions, and where and at which commit the newest of it was measured."""

    entries: tuple[Stored[EntryRecord], ...]
    trials: tuple[TrialRecord, ...]
    known: Snapshot
    records: tuple[Ref, ...]
    measured: tuple[MeasuredWith, ...]
    provenance: Provenance
    commit: str


def evidence_of(checkout: Checkout, series: Series, known: Snapshot, inputs: Sequence[Ref]) -> SealedEvidence:
    """What a seal with these inputs rests on. Raises RepositoryError when that is not whole, is not what lies in this
    checkout, or can't be sealed here and now."""
    topic = series.topic
    if series.private or any(known.is_private(ref.id) for ref in inputs):
        raise RepositoryError(
            "what is private is not sealed, because a tag is pushed with others. It stays in the store."
        )
    if checkout.head() is None:
        what = "no commit to build on" if checkout.git_dir else "no git repository"
        raise RepositoryError(
            f"{checkout.root} has {what}, so nobody could find what was measured there. Commit the thread's files, run "
            "the thread again, and seal that."
        )
    unfinished = checkout.unfinished() or ("a conflict" if checkout.git("ls-files", "--unmerged", "-z") else None)
    if unfinished is not None:
        # Its end decides what the work tree is.
        raise RepositoryError(
            f"{unfinished} is unfinished in {checkout.root}: finish or abort it first ('git status' says how)."
        )
    refuse_name_in_the_way(checkout, f"{topic}/{series.prefix}-…")
    entries = known.behind(inputs)
    if not entries:
        raise RepositoryError(f"it rests on no entry of {topic} that is known here: name what it is to keep.")
    retracted = known.retracted
    lost = [e.record.id for e in entries if retracted & {e.sha256, *(row.trial.sha256 for row in e.record.rows)}]
    if lost:
        raise RepositoryError(f"{', '.join(lost)} was retracted, or a trial of it: run the thread again, and seal that.")
    refs = tuple(dict.fromkeys(row.trial for entry in entries for row in entry.record.rows))
    unknown = [ref.id for ref in refs if ref.sha256 not in known.trials and ref.sha256 not in known.interrupted]
    if unknown:
        raise RepositoryError(
            f"the records of {', '.join(unknown)}, which it rests on, are neither in the store nor beside the logbook "
            f"of {checkout.root}: 'git pull', or name their store with --prefix, then 'research sync {topic}'."
        )
    for entry, claim, why in founded(known, entries)[1]:
        raise RepositoryError(
            f"{entry.id} claims {claimed(claim)}, and {why}. 'research retract {entry.id}', run the thread again, and "
            "seal that."
        )
    trials = tuple(trial.record for trial in known.trials_of(refs))
    records: list[EntryRecord | TrialRecord] = [*(entry.record for entry in entries), *trials]
    for note, ids in _grouped((r.provenance.patch_note, r.id) for r in records if not r.provenance.is_whole).items():
        withheld = note.startswith("withheld")
        why = "was withheld for a secret" if withheld else f"is not whole ({note})"
        do = "Take the secret out of the work tree" if withheld else "Commit what is missing, or take it back"
        raise RepositoryError(
            f"the patch of {', '.join(sorted({id.partition('.')[0] for id in ids}))} {why}, so nobody could get the "
            f"number again. {do}, 'research retract' each of these, run the thread again, and seal that."
        )
    # What a reproduction measured was measured at what it reproduces.
    measured = [entry.record for entry in entries if entry.record.rows and entry.record.step != "reproduction"]
    newest = (measured or [entry.record for entry in entries])[-1]
    commit = newest.provenance.commit
    if commit is None or checkout.commit_of(commit) is None:
        raise RepositoryError(
            f"{newest.id} was measured at commit {commit}, which is not in {checkout.root}: 'git fetch' it, "
            f"then 'research sync {topic}'; what was measured without a commit has to be measured again."
        )
    return SealedEvidence(
        entries=tuple(entries),
        trials=trials,
        known=known,
        records=(*(entry.ref for entry in entries), *refs),
        measured=tuple(_measured(checkout, topic, trials)),
        provenance=newest.provenance,
        commit=commit,
    )


def code_paths(checkout: Checkout, series: Series, measured: Sequence[MeasuredWith]) -> list[str]:
    """The experiment's code: its folder, the files that its measure functions run, and what the series names as such."""
    functions = [name for function in measured if Command.named(name := function.measure) is None]
    modules = [Path(name.partition(":")[0].replace(".", "/")) for name in functions]
    # What else lies in there is other experiments' business.
    others = [path.parent for path in modules if path.parts[0] == "experiments" and len(path.parts) > 2]
    files = [name for function in measured for name in function.files]
    names = {f"experiments/{series.topic}", *map(str, others), *files, *series.code_paths}
    # By the name under which it runs, and where that leads.
    named = [checkout.root / name for name in names if name]
    led = [path.resolve() for path in named]
    inside = {path.relative_to(checkout.root) for path in (*named, *led) if path.is_relative_to(checkout.root)}
    return sorted(path.as_posix() for path in inside if ".." not in path.parts and (checkout.root / path).exists())


def bundle_files(
    checkout: Checkout,
    journal: Journal,
    series: Series,
    seal: Stored[EntryRecord],
    evidence: SealedEvidence,
    logbook: Files,
    left_out: Sequence[Elsewhere],
) -> dict[str, bytes]:
    """The files of the repro bundle, by where they lie in the tree."""
    id, provenance, trials = seal.record.id, evidence.provenance, evidence.trials
    packages = journal.environment(provenance.environment) if provenance.environment else None
    commands = _grouped((entry.record.provenance.command, entry.record.id) for entry in evidence.entries)
    machines = _grouped((trial.device_class, trial) for trial in trials)
    fields = (item for trial in trials for item in trial.config.items())
    seeds = _grouped(item for item in fields if "seed" in item[0].lower() and isinstance(item[1], str | int))
    made = bundle.Bundle(
        schema=bundle.SCHEMA,
        topic=series.topic,
        id=id,
        tag=f"{series.topic}/{id}",
        seal=seal.ref,
        series=asdict(series),
        commands=tuple(bundle.SealedCommand(command, tuple(ids)) for command, ids in commands.items()),
        commit=evidence.commit,
        branch=checkout.branch(),
        patch=provenance.patch,
        patch_note=provenance.patch_note,
        submodules=_submodules(checkout, evidence.commit, logbook.beside.get(f"{provenance.patch}.patch", b"")),
        measured=evidence.measured,
        seeds={
            "configurations": {name: sorted(set(values), key=str) for name, values in seeds.items()},
            "order of samples": "the first 8 hexadecimal digits of a trial's key",
        },
        hardware=tuple(
            Hardware(
                device_class=kind,
                hosts=tuple(sorted({trial.provenance.host for trial in alike})),
                devices=tuple(dict.fromkeys(device for trial in alike for device in trial.devices)),
            )
            for kind, alike in sorted(machines.items())
        ),
        environment={name: value for trial in trials for name, value in trial.provenance.env.items()},
        python=provenance.python,
        packages=provenance.packages,
        records=evidence.records,
        claims=together(series, standing(entry.record for entry in evidence.entries)),
        logbook=tuple(sorted(logbook.contents.tips)),
        elsewhere=(*left_out, *_linked(journal, evidence.entries), *([] if packages else [bundle.UNLISTED])),
        recorded=bundle_text.recorded(seal.record),
        tagger=tagger_here(checkout),
        signed=signs_here(checkout),
    )
    # What git calls things was never in a record: the branch, paths.
    contents = without_secrets(made)
    files = {
        "bundle.json": bundle.encode(contents),
        "bundle.md": bundle_text.page(contents, series, evidence.entries, evidence.known).encode(),
        "table.csv": bundle_text.table(contents).encode(),
        **({"requirements.txt": packages} if packages else {}),
    }
    return {bundle.name_of(series.topic, id, kind): content for kind, content in files.items()}


def _grouped(pairs: Iterable[tuple[str, Any]]) -> dict[str, list[Any]]:
    groups: dict[str, list[Any]] = {}
    for key, value in pairs:
        groups.setdefault(key, []).append(value)
    return groups


def _measured(checkout: Checkout, topic: str, trials: Iterable[TrialRecord]) -> Iterable[MeasuredWith]:
    """The measure functions as the newest trials ran them. Raises RepositoryError when the checkout holds others."""
    newest = {trial.measure: trial for trial in sorted(trials, key=lambda trial: trial.finished_at)}
    for name, trial in sorted(newest.items()):
        top = checkout.root / name.partition(":")[0].partition(".")[0]
        is_function = Command.named(name) is None
        if is_function and not top.exists() and not top.with_suffix(".py").exists():
            # It lies in a package, whose version is recorded, or somewhere that no commit of this repository has.
            yield MeasuredWith(name, trial.code, {})
            continue
        try:
            code = trace_name(name, checkout.root)
        except UsageError as error:
            raise RepositoryError(f"the code that {trial.id} measured can't be sealed: {error}") from error
        if code.digest != trial.code:
            raise RepositoryError(
                f"the code of {name} in {checkout.root} is not what {trial.id} measured (digest {trial.code[:12]} "
                f"then, {code.digest[:12]} now): run the thread again, or bring the old code back ('research show "
                f"{trial.id}' names its commit, '--patch' its edits), then 'research sync {topic}'."
            )
        yield MeasuredWith(name, trial.code, code.files)


def _submodules(checkout: Checkout, commit: str, patch: bytes) -> dict[str, str]:
    """The submodules by path, as they were when it was measured; which of them are checked out only today tells."""
    now = checkout.submodules()
    if not now:
        return {}
    named, measured = gitlinks(checkout, commit, b""), gitlinks(checkout, commit, patch)
    notes = {path: "not what the tree names, " for path in measured if measured[path] != named.get(path)}
    notes |= {path: "not checked out, " for path, state in now.items() if state.startswith("not checked out")}
    return {path: notes.get(path, "") + measured[path] for path in now if path in measured}


def _linked(journal: Journal, entries: Sequence[Stored[EntryRecord]]) -> Iterable[Elsewhere]:
    """What people attached by its address."""
    ids = {entry.record.id for entry in entries}
    for record in (stored.record for stored in journal.entries().entries.values()):
        details, about = record.details, {ref.id.partition(".")[0] for ref in record.inputs}
        if isinstance(details, Attachment) and details.link and not record.late and about & ids:
            yield Elsewhere(details.link, f"attached by {record.id}", None, None)
