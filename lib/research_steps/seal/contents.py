"""What goes into a snapshot, worked out from the records that a seal rests on, and why one can't be made."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from research_steps.errors import RepositoryError, UsageError
from research_steps.evidence.standing import standing, together
from research_steps.git import Checkout
from research_steps.journal.journal import Journal
from research_steps.journal.snapshot import Snapshot
from research_steps.publish.logbook import format as logbook_format
from research_steps.publish.logbook.disk import path_of
from research_steps.publish.logbook.verify import read_files
from research_steps.records.encoding import Stored
from research_steps.records.model import Claim, EntryRecord, Provenance, Ref, TrialRecord
from research_steps.records.series import Series
from research_steps.records.step_kinds import Attachment
from research_steps.seal import text as seal_text
from research_steps.seal.bundle import (
    SCHEMA,
    UNLISTED,
    Bundle,
    Command,
    Elsewhere,
    Hardware,
    MeasuredWith,
    encode,
    name_of,
)
from research_steps.seal.commits import gitlinks
from research_steps.trial.code import trace_name


@dataclass(frozen=True)
class SealedEvidence:
    """What a seal rests on: its entries, oldest first, the trials of their tables, the hashes of all of these, what
    counts after all of them, the measure functions, and where and at which commit the newest of it was measured."""

    entries: tuple[Stored[EntryRecord], ...]
    trials: tuple[Stored[TrialRecord], ...]
    records: tuple[Ref, ...]
    claims: tuple[Claim, ...]
    measured: tuple[MeasuredWith, ...]
    provenance: Provenance
    commit: str


def evidence(checkout: Checkout, series: Series, known: Snapshot, inputs: Sequence[Ref]) -> SealedEvidence:
    """What a seal with these inputs rests on. Raises RepositoryError when that is not whole, or is not what lies in this
    checkout."""
    topic = series.topic
    entries = known.behind(inputs)
    if not entries:
        raise RepositoryError(f"it rests on no entry of {topic} that is known here: name what it is to keep.")
    gone = known.retracted
    lost = [one.record.id for one in entries if gone & {one.sha256, *(row.trial.sha256 for row in one.record.rows)}]
    if lost:
        raise RepositoryError(f"{', '.join(lost)} was retracted, or a trial of it: run the thread again, and seal that.")
    refs = tuple(dict.fromkeys(row.trial for one in entries for row in one.record.rows))
    unknown = [ref.id for ref in refs if ref.sha256 not in known.trials and ref.sha256 not in known.interrupted]
    if unknown:
        raise RepositoryError(
            f"the records of {', '.join(unknown)}, which it rests on, are neither in the store nor beside the logbook "
            f"of {checkout.root}: 'git pull', or name their store with --prefix, then 'research sync {topic}'."
        )
    trials = tuple(known.trials_of(refs))
    came: list[EntryRecord | TrialRecord] = [*(one.record for one in entries), *(one.record for one in trials)]
    withheld = sorted({one.id.partition(".")[0] for one in came if one.provenance.patch_note.startswith("withheld")})
    if withheld:
        raise RepositoryError(
            f"the patch of {', '.join(withheld)} was withheld for a secret, so nobody could get the number again. Take "
            "the secret out of the work tree, 'research retract' each of these, run the thread again, and seal that."
        )
    # What a reproduction measured was measured at what it reproduces.
    measured = [one.record for one in entries if one.record.rows and one.record.step != "reproduction"]
    measured = measured or [one.record for one in entries]
    made = measured[-1].provenance
    if made.commit is None or checkout.commit_of(made.commit) is None:
        raise RepositoryError(
            f"{measured[-1].id} was measured at commit {made.commit}, which is not in {checkout.root}: 'git fetch' it, "
            f"then 'research sync {topic}'; what was measured without a commit has to be measured again."
        )
    return SealedEvidence(
        entries=tuple(entries),
        trials=trials,
        records=(*(one.ref for one in entries), *refs),
        claims=together(series, standing(one.record for one in entries)),
        measured=tuple(_measured(checkout, topic, trials)),
        provenance=made,
        commit=made.commit,
    )


def code_paths(checkout: Checkout, series: Series, found: SealedEvidence) -> list[str]:
    """The experiment's code: its folder, the files that its measure functions run, and what the series names as such."""
    modules = [Path(one.measure.partition(":")[0].replace(".", "/")) for one in found.measured]
    # What else lies in there is other experiments' business.
    others = [path.parent for path in modules if path.parts[0] == "experiments" and len(path.parts) > 2]
    folders = [f"experiments/{series.topic}", *map(str, others)]
    files = [name for one in found.measured for name in one.files]
    paths = dict.fromkeys((*folders, *files, *series.code_paths))
    # By the name under which it runs, and where that leads.
    named = [checkout.root / path for path in paths if path]
    led = [path.resolve() for path in named]
    inside = {path.relative_to(checkout.root) for path in (*named, *led) if path.is_relative_to(checkout.root)}
    return sorted(path.as_posix() for path in inside if ".." not in path.parts and (checkout.root / path).exists())


@dataclass(frozen=True)
class Logbook:
    """Where the logbook and its records lie, and what lies beside them under the hash of its bytes, which no filter of
    git may change: patches and attachments."""

    names: tuple[str, ...]
    exact: Mapping[str, bytes]


def logbook(checkout: Checkout, topic: str, found: SealedEvidence) -> Logbook:
    """The logbook with all that belongs to it. Raises RepositoryError when the records that a seal rests on are not
    among it."""
    files = read_files(path_of(checkout, topic))
    missing = [ref.id for ref in found.records if ref.sha256 not in files.hashes]
    where = f".agents/logbooks/{topic}"
    if missing:
        raise RepositoryError(
            f"{', '.join(missing)}, which it rests on, is not beside the logbook in {checkout.root / where} yet: "
            f"'research sync {topic}' appends it, or says why it can't."
        )
    # What is being written has a name with a dot in front.
    names = sorted(name for name in (*(f"{id}.jsonl" for id in files.lines), *files.bundles) if name[0] != ".")
    exact = {f"{where}/{name}": data for name, data in files.attached.items()}
    return Logbook((f"{where}.md", *(f"{where}/{name}" for name in names)), exact)


def bundle(
    checkout: Checkout,
    journal: Journal,
    series: Series,
    stored: Stored[EntryRecord],
    found: SealedEvidence,
    left_out: Sequence[Elsewhere],
) -> dict[str, bytes]:
    """The files of the repro bundle, by where they lie in the tree."""
    chain = logbook_format.parse((checkout.logbooks / f"{series.topic}.md").read_bytes()).chain
    followed = {link for entry in chain for link in entry.prev}
    id, made = stored.record.id, found.provenance
    packages = journal.environment(made.environment) if made.environment else None
    bundle = Bundle(
        schema=SCHEMA,
        topic=series.topic,
        id=id,
        tag=f"{series.topic}/{id}",
        seal=stored.ref,
        series=asdict(series),
        commands=tuple(_commands(found.entries)),
        commit=found.commit,
        branch=checkout.branch(),
        patch=made.patch,
        patch_note=made.patch_note,
        submodules=_submodules(checkout, series.topic, made, found.commit),
        measured=found.measured,
        seeds=_seeds(found.trials),
        hardware=tuple(_hardware(found.trials)),
        environment={name: value for one in found.trials for name, value in one.record.provenance.env.items()},
        python=made.python,
        packages=made.packages,
        records=found.records,
        claims=found.claims,
        logbook=tuple(sorted({entry.link for entry in chain} - followed)),
        elsewhere=(*left_out, *_linked(journal, found.entries), *([] if packages else [UNLISTED])),
    )
    files = {
        "bundle.json": encode(bundle),
        "bundle.md": seal_text.page(bundle, series, found.entries).encode(),
        "table.csv": seal_text.table(bundle).encode(),
        **({"requirements.txt": packages} if packages else {}),
    }
    return {name_of(series.topic, id, kind): content for kind, content in files.items()}


def _measured(checkout: Checkout, topic: str, trials: Iterable[Stored[TrialRecord]]) -> Iterable[MeasuredWith]:
    """The measure functions as the newest trials ran them. Raises RepositoryError when the checkout holds others."""
    newest = {one.record.measure: one.record for one in sorted(trials, key=lambda one: one.record.finished_at)}
    for name, record in sorted(newest.items()):
        top = checkout.root / name.partition(":")[0].partition(".")[0]
        if not top.exists() and not top.with_suffix(".py").exists():
            # It lies in a package, whose version is recorded, or somewhere that no commit of this repository has.
            yield MeasuredWith(name, record.code, {})
            continue
        try:
            held = trace_name(name, checkout.root)
        except UsageError as error:
            raise RepositoryError(f"the code that {record.id} measured can't be sealed: {error}") from error
        if held.digest != record.code:
            raise RepositoryError(
                f"the code of {name} in {checkout.root} is not what {record.id} measured (digest {record.code[:12]} "
                f"then, {held.digest[:12]} now): run the thread again, or bring the old code back ('research show "
                f"{record.id}' names its commit, '--patch' its edits), then 'research sync {topic}'."
            )
        yield MeasuredWith(name, record.code, held.files)


def _submodules(checkout: Checkout, topic: str, made: Provenance, commit: str) -> dict[str, str]:
    """The submodules by path, as they were when it was measured; which of them are checked out only today tells."""
    now = checkout.submodules()
    if not now:
        return {}
    patch = checkout.logbooks / topic / f"{made.patch}.patch"
    named = gitlinks(checkout, commit, b"")
    measured = gitlinks(checkout, commit, patch.read_bytes()) if patch.is_file() else named
    found = {}
    for path, state in now.items():
        note = state.rpartition(" ")[0]
        if path in measured and not note.startswith("not checked out"):
            note = "" if measured[path] == named.get(path) else "not what the tree names,"
        if path in measured:
            found[path] = f"{note} {measured[path]}".strip()
    return found


def _commands(entries: Iterable[Stored[EntryRecord]]) -> Iterable[Command]:
    made: dict[str, list[str]] = {}
    for one in entries:
        made.setdefault(one.record.provenance.command, []).append(one.record.id)
    return (Command(command, tuple(ids)) for command, ids in made.items())


def _hardware(trials: Iterable[Stored[TrialRecord]]) -> Iterable[Hardware]:
    kinds: dict[str, list[TrialRecord]] = {}
    for one in trials:
        kinds.setdefault(one.record.device_class, []).append(one.record)
    for kind, records in sorted(kinds.items()):
        hosts = sorted({record.provenance.host for record in records})
        devices = dict.fromkeys(device for record in records for device in record.devices)
        yield Hardware(kind, tuple(hosts), tuple(devices))


def _seeds(trials: Iterable[Stored[TrialRecord]]) -> dict[str, Any]:
    """The fields of configurations that are seeds, with their values, and what the order of samples comes from."""
    found: dict[str, set[Any]] = {}
    for one in trials:
        for name, value in one.record.config.items():
            if "seed" in name.lower() and isinstance(value, str | int):
                found.setdefault(name, set()).add(value)
    order = "the first 8 hexadecimal digits of a trial's key"
    return {
        "configurations": {name: sorted(values, key=str) for name, values in found.items()},
        "order of samples": order,
    }


def _linked(journal: Journal, entries: Sequence[Stored[EntryRecord]]) -> Iterable[Elsewhere]:
    """What people attached by its address."""
    for attached in journal.entries().entries.values():
        details = attached.record.details
        link = details.link if isinstance(details, Attachment) else ""
        about = {ref.id.partition(".")[0] for ref in attached.record.inputs}
        if link and not attached.record.late and about & {one.record.id for one in entries}:
            yield Elsewhere(str(link), f"attached by {attached.record.id}", None, None)
