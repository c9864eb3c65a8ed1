"""What is written of background research: sources, checks of their claims, and the brief, each as an entry."""

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from research_steps.errors import UsageError
from research_steps.evidence import background, hypotheses
from research_steps.evidence.state import thread_state
from research_steps.evidence.visibility import belongs_in_logbook
from research_steps.files import write_aside
from research_steps.journal.entries import Finding
from research_steps.journal.logbook_place import logbook_of
from research_steps.journal.snapshot import Snapshot, entries_of, find
from research_steps.publish import background_text
from research_steps.publish.entry_writer import EntryWriter, digest, key_after, refuse_empty, short
from research_steps.publish.logbook.file import lock
from research_steps.records.encoding import Stored
from research_steps.records.model import EntryRecord
from research_steps.records.names import HYPOTHESIS
from research_steps.records.step_kinds import Brief, ContradictionCheck, NextExperiment, Source, plain_details


def add_source(writer: EntryWriter, source: Source) -> Stored[EntryRecord]:
    """A source with its claim, and what that supports and contradicts: hypotheses, other sources, or any claim. Raises
    UsageError."""
    for name in ("where", "version", "claim"):
        refuse_empty(getattr(source, name), f"--{name}", "the ledger needs it")
    snapshot = writer.scan()
    items = hypotheses.queue(writer.series, entries_of(snapshot))
    named = [*source.supports, *source.contradicts]
    for name in named:
        refuse_empty(name, "What is supported or contradicted", "name a hypothesis, a source or a claim")
        if re.fullmatch(HYPOTHESIS, name):
            hypotheses.find(items, name)
    about = {name: _the_source(snapshot, name) for name in named if _is_id(writer, name)}
    claims = {name: stored.record.details_as(Source).claim for name, stored in about.items()}
    rests_on = [*about.values(), *([find(snapshot, source.where)] if _is_id(writer, source.where) else [])]
    supports, contradicts = (
        tuple(claims.get(name, name) for name in names) for names in (source.supports, source.contradicts)
    )
    details = msgspec.structs.replace(source, supports=supports, contradicts=contradicts)
    private = any(item.private for item in items if item.id in named or item.text in named)
    inputs = tuple({stored.sha256: stored.ref for stored in rests_on}.values())
    key, label = f"source/{digest(plain_details(details))}", short(source.claim)
    return writer.write(snapshot, "source", key, label, details, Finding(source.claim), inputs, private=private)


def check_claim(writer: EntryWriter, id: str, contradiction: str, nowhere: str) -> Stored[EntryRecord]:
    """Somebody looked for what contradicts a source's claim: the `contradiction`, or, if nothing, where they looked."""
    if bool(contradiction.strip()) == bool(nowhere.strip()):
        raise UsageError("Expected either what contradicts the claim, with --found, or where you looked, with --none.")
    snapshot = writer.scan()
    source = _the_source(snapshot, id)
    claim = source.record.details_as(Source).claim
    details = ContradictionCheck(claim=claim, found=contradiction, looked=nowhere)
    result = f"Contradicted: {contradiction}" if contradiction else f"No contradiction found. Looked in: {nowhere}"
    key = f"source/{digest(source.sha256, plain_details(details))}"
    return writer.write(
        snapshot, "source", key, f"contradiction pass over {id}", details, Finding(result), (source.ref,)
    )


def brief(writer: EntryWriter, question: str, ranked: Sequence[str]) -> tuple[Stored[EntryRecord], str]:
    """The question of the brief, and the next experiments in order of rank, each as 'experiment :: falsifier'.

    What isn't given is as it was in the brief before. Returns the text as well, which background.md beside the logbook
    has from now on: made from the records that may be in git.
    """
    snapshot = writer.scan()
    ledger = background.ledger(entries_of(snapshot))
    question = question or ledger.brief.question
    refuse_empty(question, "The question of the brief", "give it with --question")
    experiments = tuple(_experiment(text) for text in ranked) or ledger.brief.next
    details = Brief(question=question, next=experiments)
    key = key_after(ledger.briefs, f"source/{digest(plain_details(details))}")
    finding = Finding(question, next_action=experiments[0].experiment if experiments else "")
    entry = writer.write(snapshot, "source", key, "background brief", details, finding)
    series = writer.series
    shown = writer.scan().only(lambda entry: belongs_in_logbook(entry.record, series))
    text = background_text.brief(thread_state(series, shown))
    if writer.journal.dry_run:
        return entry, text
    place = logbook_of(writer.checkout, series.topic)
    with lock(place):
        write_aside(place.records / "background.md", text.encode())
    return entry, text


def _the_source(snapshot: Snapshot, id: str) -> Stored[EntryRecord]:
    stored = find(snapshot, id)
    if not _is_source(stored):
        raise UsageError(f"{id} is no source: expected the ID of one; 'research source list' tells them.")
    return stored


def _is_source(stored: Stored[Any]) -> bool:
    return isinstance(stored.record, EntryRecord) and isinstance(stored.record.details, Source)


def _is_id(writer: EntryWriter, text: str) -> bool:
    return re.fullmatch(rf"{re.escape(writer.series.prefix)}-\d+(\.\d+)?(@[0-9a-f]+)?", text) is not None


def _experiment(text: str) -> NextExperiment:
    experiment, _, falsifier = (part.strip() for part in text.partition("::"))
    if not experiment or not falsifier:
        raise UsageError(
            f"--next {text!r} names no falsifier: expected 'experiment :: falsifier', what to run and what result would "
            "speak against the hypothesis."
        )
    return NextExperiment(experiment=experiment, falsifier=falsifier)
