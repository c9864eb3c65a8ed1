"""What goes into a snapshot, worked out from the records that a seal rests on, and why one can't be made."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from research_steps.claims import retracted, spelled, standing, together, told
from research_steps.code import trace_name
from research_steps.errors import RepositoryError, UsageError
from research_steps.git import Checkout
from research_steps.holdings import Snapshot
from research_steps.journal import Journal
from research_steps.record import Claim, EntryRecord, Provenance, Ref, Seal, Stored, TrialRecord
from research_steps.series import Series
from research_steps.sinks import logbook_file
from research_steps.sinks.markdown import code, one_line, prose
from research_steps.sinks.rendering import entry as render_entry
from research_steps.sinks.rendering import rows as render_rows
from research_steps.snapshot.bundle import SCHEMA, Bundle, Command, Elsewhere, Hardware, Measured, encode, name_of


@dataclass(frozen=True)
class Evidence:
    """What a seal rests on: its entries, oldest first, the trials of their tables, what counts after all of them, the
    measure functions, and where and at which commit the newest of it was measured."""

    entries: tuple[Stored[EntryRecord], ...]
    trials: tuple[Stored[TrialRecord], ...]
    claims: tuple[Claim, ...]
    measured: tuple[Measured, ...]
    provenance: Provenance
    commit: str


def evidence(checkout: Checkout, series: Series, known: Snapshot, inputs: Sequence[Ref]) -> Evidence:
    """What a seal with these inputs rests on. Raises RepositoryError when that is not whole, or is not what lies in this
    checkout."""
    topic = series.topic
    entries = known.behind(inputs)
    if not entries:
        raise RepositoryError(f"it rests on no entry of {topic} that is known here: name what it is to keep.")
    gone = retracted(one.record for one in known.entries.values())
    lost = [one.record.id for one in entries if gone & {one.sha256, *(row.trial.sha256 for row in one.record.rows)}]
    if lost:
        raise RepositoryError(f"{', '.join(lost)} was retracted, or a trial of it: run the thread again, and seal that.")
    withheld = [one.record.id for one in entries if one.record.provenance.patch_note.startswith("withheld")]
    if withheld:
        raise RepositoryError(
            f"the patch of {', '.join(withheld)} was withheld for a secret, so nobody could get the number again. Take "
            "the secret out of the work tree, run the thread again, and seal that."
        )
    measured = [one.record for one in entries if one.record.rows] or [one.record for one in entries]
    made = measured[-1].provenance
    if made.commit is None or checkout.commit_of(made.commit) is None:
        raise RepositoryError(
            f"{measured[-1].id} was measured at commit {made.commit}, which is not in {checkout.root}: 'git fetch' it, "
            f"then 'research sync {topic}'; what was measured without a commit has to be measured again."
        )
    trials = {row.trial.sha256: known.trials.get(row.trial.sha256) for one in entries for row in one.record.rows}
    held = tuple(one for one in trials.values() if one is not None)
    return Evidence(
        entries=tuple(entries),
        trials=held,
        claims=together(series, standing(one.record for one in entries)),
        measured=tuple(_measured(checkout, topic, held)),
        provenance=made,
        commit=made.commit,
    )


def code_paths(checkout: Checkout, series: Series, found: Evidence) -> list[str]:
    """The experiment's code: its folder, the files that its measure functions run, and what the series names as such."""
    folders = [
        f"experiments/{series.topic}",
        *(one.measure.partition(":")[0].rpartition(".")[0] for one in found.measured),
    ]
    files = [name for one in found.measured for name in one.files]
    paths = dict.fromkeys((*(folder.replace(".", "/") for folder in folders), *files, *series.code_paths))
    inside = (Path(path) for path in paths if path and not Path(path).is_absolute())
    return sorted(path.as_posix() for path in inside if ".." not in path.parts and (checkout.root / path).exists())


def bundle(
    checkout: Checkout,
    journal: Journal,
    series: Series,
    stored: Stored[EntryRecord],
    found: Evidence,
    left_out: Sequence[Elsewhere],
) -> dict[str, bytes]:
    """The files of the repro bundle, by where they lie in the tree."""
    logbook = checkout.logbooks / f"{series.topic}.md"
    chain = logbook_file.parse(logbook.read_bytes()).chain if logbook.exists() else []
    followed = {link for entry in chain for link in entry.prev}
    id, made = stored.record.id, found.provenance
    environment = next((env for one in reversed(found.entries) if (env := one.record.provenance.environment)), None)
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
        submodules=checkout.submodules(),
        measured=found.measured,
        seeds=_seeds(found.trials),
        hardware=tuple(_hardware(found.trials)),
        environment={name: value for one in found.trials for name, value in one.record.provenance.env.items()},
        python=made.python,
        packages=made.packages,
        records=(*(one.ref for one in found.entries), *(one.ref for one in found.trials)),
        claims=found.claims,
        logbook=tuple(sorted({entry.link for entry in chain} - followed)),
        elsewhere=(*left_out, *_linked(journal, found.entries)),
    )
    files = {
        "bundle.json": encode(bundle),
        "bundle.md": _readable(bundle, series, found).encode(),
        "table.csv": _table(bundle).encode(),
        "requirements.txt": (journal.environment(environment) if environment else None) or b"",
    }
    return {name_of(series.topic, id, kind): content for kind, content in files.items() if content}


def tag_message(series: Series, stored: Stored[EntryRecord], seal: Seal) -> str:
    """What `git show` says of a seal."""
    record = stored.record
    made = record.provenance
    return (
        f"{series.topic}: {one_line(record.result)}\n\n{one_line(series.goal)}\n\n"
        f"Experiment {record.id}, recorded {record.finished_at} by {one_line(made.actor.name)} ({made.actor.kind}).\n"
        f"Command: {one_line(made.command)}\n"
        f"Bundle: {name_of(series.topic, record.id, 'bundle.md')}\n"
        f"Check it: research verify {series.topic} --tag {seal.tag}\n"
        f"Measure it again: research reproduce {seal.tag}\n"
    )


def _measured(checkout: Checkout, topic: str, trials: Iterable[Stored[TrialRecord]]) -> Iterable[Measured]:
    """The measure functions as the newest trials ran them. Raises RepositoryError when the checkout holds others."""
    newest = {one.record.measure: one.record for one in sorted(trials, key=lambda one: one.record.finished_at)}
    for name, record in sorted(newest.items()):
        try:
            held = trace_name(name, checkout.root)
        except UsageError:
            # It lies in a package, whose version is recorded, or somewhere that no commit of this repository has.
            yield Measured(name, record.code, {})
            continue
        if held.digest != record.code:
            raise RepositoryError(
                f"the code of {name} in {checkout.root} is not what {record.id} measured (digest {record.code[:12]} "
                f"then, {held.digest[:12]} now): run the thread again, or bring the old code back ('research show "
                f"{record.id}' names its commit, '--patch' its edits), then 'research sync {topic}'."
            )
        yield Measured(name, record.code, held.files)


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
        link = attached.record.config.get("link") if attached.record.step == "attachment" else None
        about = {ref.id.partition(".")[0] for ref in attached.record.inputs}
        if link and not attached.record.late and about & {one.record.id for one in entries}:
            yield Elsewhere(str(link), f"attached by {attached.record.id}", None, None)


def _table(bundle: Bundle) -> str:
    """The primary comparison, one line a claim."""
    out = io.StringIO()
    wanted = ("metric", "estimand", "estimate", "low", "high", "processes", "verdict", "confidence", "why")
    writer = csv.DictWriter(out, ("candidate", "case", *wanted, "baseline", "trials"), lineterminator="\n")
    writer.writeheader()
    for claim in bundle.claims:
        writer.writerow(
            {
                "candidate": spelled(claim.changes),
                "case": spelled(claim.case),
                **{name: getattr(claim, name) for name in wanted},
                "baseline": claim.baseline.id,
                "trials": " ".join(ref.id for ref in claim.trials),
            }
        )
    return out.getvalue()


def _readable(bundle: Bundle, series: Series, found: Evidence) -> str:
    rows = [row for one in found.entries for row in one.record.rows if row.changes]
    devices = {f"{one.count} × {one.backend} {one.kind}": None for kind in bundle.hardware for one in kind.devices}
    hosts = ", ".join(host for kind in bundle.hardware for host in kind.hosts)
    state = [f"Commit: {code(bundle.commit)}"]
    state += [f"Patch: {code(f'{bundle.patch}.patch')}, apply it to the commit"] if bundle.patch else []
    state += [f"Not in the patch: {prose(bundle.patch_note)}"] if bundle.patch_note else []
    state += [f"Submodule {code(path)} at {code(commit)}" for path, commit in bundle.submodules.items()]
    lines = [
        f"# {bundle.tag}",
        "",
        f"Goal: {prose(series.goal)}",
        "",
        "## Measure it again",
        "",
        f"    research reproduce {bundle.tag}",
        "",
        "It runs these commands, in a work tree and an environment of their own, with a store of their own:",
        "",
        *(f"- {code(one.command)} ({', '.join(one.entries)})" for one in bundle.commands),
        "",
        "## What it ran on",
        "",
        *(f"- {line}" for line in state),
        *(f"- Machine: {code(kind.device_class)}" for kind in bundle.hardware),
        f"- Devices: {prose(', '.join(devices)) or 'not told'}",
        f"- Hosts: {prose(hosts)}",
        f"- Python {bundle.python}; {code(_spelled(bundle.packages))}",
        f"- Environment: {code(_spelled(bundle.environment)) if bundle.environment else 'nothing that matters was set'}",
        f"- Seeds: {code(str(bundle.seeds))}",
        *(f"- Not in here: {code(one.where)} ({prose(one.why)})" for one in bundle.elsewhere),
        "",
        "## What it found",
        "",
        *(f"- {prose(_claimed(claim, bundle))}" for claim in bundle.claims if claim.metric == series.primary.name),
        "",
        *([render_rows(rows, bundle.claims, series.primary, ""), ""] if rows else []),
        "## The entries",
        "",
    ]
    lines += [render_entry(one.record, series, None).replace("### ", "#### ", 1) + "\n" for one in found.entries]
    return "\n".join(lines).rstrip("\n") + "\n"


def _claimed(claim: Claim, bundle: Bundle) -> str:
    cases = {ref.id: ref for ref in bundle.records}
    against = f"against {claim.baseline.id}" if claim.baseline.id in cases else ""
    return f"{spelled(claim.changes)} ({spelled(claim.case)}): {claim.metric} {told(claim)} {against}"


def _spelled(values: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in sorted(values.items()))
