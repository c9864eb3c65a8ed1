"""What people and agents say themselves about a series: kickoff, decisions, notes, hypotheses, and the end.

Each becomes an entry. The same thing said twice is one entry, so a command that was killed may simply be given again.
"""

from collections.abc import Sequence
from itertools import count
from pathlib import Path

import msgspec

from research_steps.actions.check.reading import CheckedThread
from research_steps.errors import UsageError
from research_steps.evidence import hypotheses
from research_steps.evidence.hypotheses import SAYS
from research_steps.evidence.state import production_pr as named_pull
from research_steps.journal.attachments import check_address, read_attachment
from research_steps.journal.entries import Finding
from research_steps.journal.leases import this_process
from research_steps.journal.snapshot import Snapshot, entries_of, find, find_all
from research_steps.publish.entry_writer import EntryWriter, digest, key_after, refuse_empty, short, standing_entry
from research_steps.publish.issue.linked_issue import linked_issue
from research_steps.publish.issue.text import confidence
from research_steps.records.encoding import Stored, sha256
from research_steps.records.model import EntryRecord, Ref
from research_steps.records.objects import IDReservation
from research_steps.records.step_kinds import (
    Attachment,
    Decision,
    Details,
    Finish,
    HypothesisChange,
    HypothesisState,
    Kickoff,
    plain_details,
)
from research_steps.records.times import utc
from research_steps.seal.contents import evidence_of
from research_steps.trial.provenance import current_actor


def kickoff(writer: EntryWriter, branch: str | None, project: str) -> Stored[EntryRecord]:
    """The series as it starts: why, what for, where, and when to stop."""
    series, issue = writer.series, linked_issue(writer.checkout, writer.journal)
    details = Kickoff(
        motivation=series.motivation,
        problem=series.problem,
        success_metrics=(
            *(f"{metric.name} ({metric.direction})" for metric in series.metrics),
            *([series.success] if series.success else []),
        ),
        hypotheses=tuple(f"{hypothesis.id}: {hypothesis.text}" for hypothesis in series.hypotheses),
        first_experiment_matrix=tuple(series.matrix),
        baseline_case=series.baseline_case,
        stop=series.stop,
        code_paths=tuple(series.code_paths),
        references=tuple(series.references),
        tags=series.shared_tags(issue.number if issue else None),
        wandb_project=project,
        branch=branch or "",
        issue=f"{issue.repository}#{issue.number}" if issue else f".agents/issues/{series.topic}.md",
    )
    finding = Finding(result=f"The series starts: {series.goal}", next_action="Measure the baseline case.")
    return writer.write(writer.scan(), "kickoff", "kickoff", "kickoff", details, finding)


def decide(
    writer: EntryWriter, text: str, evidence: Sequence[str], owner: str, scope: bool, production_pr: str = ""
) -> Stored[EntryRecord]:
    """A decision, with the records that it rests on, who answers for it, and the pull request that brings it to
    production, if there is one; or a change of the scope."""
    refuse_empty(text, "The decision", "say in a sentence what was decided")
    snapshot = writer.scan()
    details = Decision(
        owner=owner or current_actor(writer.checkout).name, scope=scope, production_pr=_address(production_pr)
    )
    key = f"decision/{digest(text, list(evidence), plain_details(details))}"
    return writer.write(
        snapshot, "decision", key, short(text), details, Finding(result=text), find_all(snapshot, evidence)
    )


def note(writer: EntryWriter, id: str, interpretation: str, next_action: str) -> Stored[EntryRecord]:
    """What somebody makes of a record, beside what the rules say of it, or what they would do next."""
    refuse_empty(interpretation + next_action, "The note", "give --interpretation, --next, or both")
    snapshot = writer.scan()
    about = find(snapshot, id)
    finding = Finding(f"On {id}: {about.record.label}", interpretation=interpretation, next_action=next_action)
    key = f"note/{digest(about.sha256, interpretation, next_action)}"
    return writer.write(snapshot, "note", key, f"note on {id}", Details(), finding, (about.ref,))


def attach(writer: EntryWriter, id: str, file: Path | None, link: str, note: str) -> Stored[EntryRecord]:
    """A file that belongs to a record, kept in the journal and published with the entry; or a link to one."""
    if (file is None) == (not link):
        raise UsageError("Nothing is attached: expected a FILE, or the address of one with --link URL; not both.")
    snapshot = writer.scan()
    about = find(snapshot, id)
    details = Attachment(link=check_address(link)) if file is None else _kept(writer, file)
    finding = Finding(f"Attached to {id}: {about.record.label}", interpretation=note)
    key = f"attachment/{digest(about.sha256, plain_details(details), note)}"
    return writer.write(snapshot, "attachment", key, f"attachment to {id}", details, finding, (about.ref,))


def log(writer: EntryWriter, text: str, file: Path | None, label: str) -> Stored[EntryRecord]:
    """What happened, in somebody's own words, with the file that shows it."""
    refuse_empty(text, "The entry", "say what happened")
    snapshot = writer.scan()
    details = _kept(writer, file) if file is not None else Attachment()
    earlier = [entry for entry in entries_of(snapshot) if entry.step == "log"]
    key = key_after(earlier, f"log/{digest(text, label, plain_details(details))}")
    return writer.write(snapshot, "log", key, short(label or text), details, Finding(text))


def add_hypothesis(writer: EntryWriter, text: str, next_test: str, evidence: Sequence[str]) -> Stored[EntryRecord]:
    """A new hypothesis under the next free number."""
    refuse_empty(text, "The hypothesis", "say in a sentence what you expect")
    snapshot = writer.scan()
    key = f"hypothesis/{digest(text, next_test, list(evidence))}"
    entry = standing_entry(snapshot, key)
    if entry is not None:
        return entry
    items = hypotheses.queue(writer.series, entries_of(snapshot))
    same = [item for item in items if item.text == text]
    if same:
        raise UsageError(f"That is {same[0].id} of {writer.series.topic} already, which is {same[0].state}.")
    inputs = find_all(snapshot, evidence)
    # Others may add one to the same store right now.
    for number in count(hypotheses.next_number(items)):
        mine = IDReservation(id=f"H{number}", step_key=key, claimed_at=utc(), by=this_process())
        if writer.journal.decide(f"hypotheses/H{number}", mine).step_key == key:
            break
    change = HypothesisChange(hypothesis=mine.id, text=text, state="active", because=next_test)
    return _change(writer, snapshot, key, change, inputs, private=False)


def change_hypothesis(
    writer: EntryWriter, name: str, state: HypothesisState, because: str, evidence: Sequence[str]
) -> Stored[EntryRecord]:
    """A hypothesis is blocked, supported, falsified or promoted from now on."""
    refuse_empty(because, "The reason", "say it in a sentence")
    snapshot = writer.scan()
    item = hypotheses.find(hypotheses.queue(writer.series, entries_of(snapshot)), name)
    change = HypothesisChange(hypothesis=item.id, text=item.text, state=state, because=because)
    key = _key_of(item, change, evidence)
    return _change(writer, snapshot, key, change, find_all(snapshot, evidence), item.private)


def next_test(
    writer: EntryWriter, state: HypothesisState, name: str, because: str, evidence: Sequence[str]
) -> Stored[EntryRecord]:
    """A hypothesis that is in this state, active or blocked, is active with this as its next test."""
    refuse_empty(because, "The next test", "say in a sentence what to measure")
    snapshot = writer.scan()
    item = hypotheses.find(hypotheses.queue(writer.series, entries_of(snapshot)), name)
    change = HypothesisChange(hypothesis=item.id, text=item.text, state="active", because=because, again=True)
    key = _key_of(item, change, evidence)
    if item.state != state and standing_entry(snapshot, key) is None:
        do = {"blocked": "resume", "active": "next"}.get(item.state)
        command = f"give 'research hypothesis {do} {writer.series.topic} {item.id} …'" if do else "add another one"
        raise UsageError(f"{item.id} is {item.state}, expected one that is {state}: {command}.")
    return _change(writer, snapshot, key, change, find_all(snapshot, evidence), item.private)


def seal(writer: EntryWriter, ids: Sequence[str]) -> Stored[EntryRecord]:
    """Ask for a snapshot of what these records rest on, or of what the newest interpretation does. Raises
    ResearchError when that can't be sealed as it is."""
    snapshot = writer.scan()
    inputs = find_all(snapshot, ids) if ids else _newest(snapshot)
    below = evidence_of(writer.checkout, writer.series, snapshot, inputs)
    result = f"sealed on request: {', '.join(ref.id for ref in inputs)}"
    # Who took a seal back may want another one.
    sealed = [entry for entry in snapshot.entries.values() if entry.record.step == "seal"]
    again = sorted({entry.sha256 for entry in sealed if entry.record.inputs == inputs} & snapshot.retracted)
    rests_on = [entry.sha256 for entry in below.entries]
    key = f"seal/{digest([ref.sha256 for ref in inputs], rests_on, *([again] if again else []))}"
    return writer.write(snapshot, "seal", key, "seal", Details(), Finding(result), inputs)


def finish(writer: EntryWriter, conclusion: str, parts: Finish) -> Stored[EntryRecord]:
    """The final summary, of these parts. Of the pull requests that decisions name it takes the newest, unless it is
    given one. Raises UsageError that names what is missing."""
    thread = CheckedThread(writer.checkout, writer.journal, writer.series)
    # What is private is not sealed.
    wanted = "result that was interpreted" if writer.series.private else "sealed snapshot"
    ends = thread.succeeded("interpret") if writer.series.private else thread.seals
    needed = {
        "what worked (--worked)": parts.worked.strip(),
        "what did not (--did-not)": parts.did_not.strip(),
        "limitations (--limitations)": parts.limitations.strip(),
        "next steps (--next, once for each, in order)": all(map(str.strip, parts.next_steps)) and parts.next_steps,
        "a conclusion (--conclusion)": conclusion.strip(),
        f"a {wanted} (run the thread with --seal true)": ends,
        "a measured baseline": thread.succeeded("baseline"),
    }
    missing = [name for name, is_there in needed.items() if not is_there]
    missing += [f"the end of {', '.join(thread.running)}, which still runs"] if thread.running else []
    if missing:
        raise UsageError(f"{writer.series.topic} can't be finished yet. Missing: {'; '.join(missing)}.")
    last = ends[-1]
    details = msgspec.structs.replace(
        parts,
        confidence=confidence(writer.series, last.record, [stored.record for stored in thread.snapshot.below(last)]),
        snapshot="" if writer.series.private else f"{writer.series.topic}/{last.record.id}",
        production_pr=_address(parts.production_pr or named_pull(thread.entries)),
    )
    text = f"What worked: {parts.worked} What did not: {parts.did_not} Limitations: {parts.limitations}"
    steps = " ".join(f"{number}. {step}" for number, step in enumerate(parts.next_steps, 1))
    finding = Finding(result=conclusion, interpretation=text, next_action=steps)
    key = f"finish/{digest(plain_details(details), conclusion)}"
    return writer.write(thread.snapshot, "finish", key, "final summary", details, finding, (last.ref,))


def _change(
    writer: EntryWriter, snapshot: Snapshot, key: str, change: HypothesisChange, inputs: tuple[Ref, ...], private: bool
) -> Stored[EntryRecord]:
    id, state, because = change.hypothesis, change.state, change.because
    result = f"{id} is {state}{f'; {SAYS[state]}: {because}' if because else ''}"
    finding, text = Finding(result, next_action=because if state == "active" else ""), f"{id}: {change.text}"
    kind = hypotheses.kind_of(change)
    return writer.write(snapshot, kind, key, f"{id} {state}", change, finding, inputs, hypothesis=text, private=private)


def _kept(writer: EntryWriter, file: Path) -> Attachment:
    """A file in the journal."""
    name, data = read_attachment(file)
    writer.journal.keep_attachment(name, data)
    return Attachment(file=name, sha256=sha256(data), bytes=len(data))


def _key_of(item: hypotheses.Item, change: HypothesisChange, evidence: Sequence[str]) -> str:
    said = digest(item.id, item.text, change.state, change.because, list(evidence))
    return key_after(item.changes, f"hypothesis/{said}")


def _newest(snapshot: Snapshot) -> tuple[Ref, ...]:
    """The newest interpretation that counts."""
    read = [stored for stored in snapshot.counting if stored.record.step == "interpret" and stored.record.status == "ok"]
    if not read:
        raise UsageError("Nothing was interpreted yet: name the record to seal, such as MOE-HC-007, or run the thread.")
    return (read[-1].ref,)


def _address(text: str) -> str:
    """A web address that was given, empty where none was. Raises UsageError for anything else."""
    return check_address(text) if text else ""
