"""What the commands share: how they end, the options that repeat, and the series that one is about."""

import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem
from click.types import StringParamType

from research_steps.errors import ResearchError, StoreError, UsageError
from research_steps.files import files_in, is_there
from research_steps.git import Checkout
from research_steps.journal.journal import Journal
from research_steps.journal.logbook_place import logbook_of, topics_elsewhere
from research_steps.journal.snapshot import Snapshot
from research_steps.journal.store import RehearsalStore, open_store, store_url
from research_steps.records.encoding import Stored
from research_steps.records.model import EntryRecord
from research_steps.records.names import named
from research_steps.records.series import HERE, Series, check_topic, format_id
from research_steps.terminal import print_json, print_lines, say

if TYPE_CHECKING:
    from research_steps.publish.entry_writer import EntryWriter

# What a shell gives a command that Ctrl-C ended.
INTERRUPTED = 130
_ASK = "'research status' tells what is here."
_ID_IN_SHORT = re.compile(r"(?:([A-Za-z](?:[A-Za-z0-9-]{0,30}[A-Za-z0-9])?)-)?([0-9]{1,9})(?:\.([0-9]{1,9}))?", re.ASCII)
_PREFIX = click.Option(["--prefix"], help="The store. Default: MARIN_PREFIX, else local_store/ in the checkout.")
_JSON = click.Option(["--json", "json_output"], is_flag=True, help="Print one JSON document instead of text.")
_DRY_RUN = click.Option(["--dry-run"], is_flag=True, help="Tell what would be written and what follows; write nothing.")
_TOPIC = click.Option(["--topic"], help="The series. Default: every series of this checkout is searched.")


@dataclass(frozen=True)
class OpenSeries:
    """A series in the checkout around a command and in the store that it names, each part opened when it is first asked
    for."""

    checkout: Checkout
    topic: str
    prefix: str | None
    json_output: bool = False
    dry_run: bool = False

    @cached_property
    def journal(self) -> Journal:
        store = open_store(store_url(self.checkout.root, self.prefix))
        return Journal(RehearsalStore(store) if self.dry_run else store, self.topic)

    @property
    def records(self) -> Path:
        """Where its records are published."""
        return logbook_of(self.checkout, self.topic).records

    @cached_property
    def series(self) -> Series:
        return self.journal.series(self.records)

    @cached_property
    def declared(self) -> Series | None:
        """The series, None where neither the store nor git can tell how it was declared."""
        try:
            return self.series
        except StoreError:
            return None

    @cached_property
    def snapshot(self) -> Snapshot:
        return self.journal.scan(self.records)

    def may_hold(self, id: str) -> bool:
        """Whether the series reserved this experiment ID or published it."""
        return is_there(self.records / f"{id}.jsonl") or self.journal.ids.may_hold(id)

    @cached_property
    def writer(self) -> "EntryWriter":
        from research_steps.publish.entry_writer import EntryWriter

        return EntryWriter(self.checkout, self.journal, self.series)

    def tell(self, entry: Stored[EntryRecord], code: int = 0, **more: Any) -> None:
        """Say what was written, and publish it; exits with this code where it is not 0. In a dry run say all of it."""
        if self.dry_run:
            return self._tell_of_dry_run(entry, **more)
        if not self.json_output:
            print_lines(f"{entry.record.id}: {entry.record.label}")
        self.publish(code, entry=entry.record.id, **more)

    def _tell_of_dry_run(self, entry: Stored[EntryRecord], **more: Any) -> None:
        from research_steps.publish.terminal.records import record_lines

        lines = [*record_lines(entry.record, self.series), "A dry run: nothing was written."]
        data = {"topic": self.topic, **more, "entry": entry.record.id, "dry_run": True, "record": json.loads(entry.line)}
        print_result(self.json_output, data, lines)

    def publish(self, code: int = 0, **about: Any) -> None:
        """One pass over all surfaces, told; exits with 1 when something is left to publish, unless with another code."""
        from research_steps.publish.publisher import publish
        from research_steps.thread.surfaces import surfaces_of

        published = publish(self.journal, surfaces_of(self.checkout, self.journal, self.journal.series()))
        changes = [asdict(change) for change in published.done]
        lines = [f"{change.id}: {change.what}" for change in published.done] or [f"{self.topic}: nothing new"]
        data = {"topic": self.topic, **about, "done": changes, "problems": published.problems}
        print_result(self.json_output, data, lines)
        if not self.json_output:
            for problem in published.problems:
                say(f"not published: {problem}")
            for text in published.left_out:
                say(f"left out: {text}")
        if code or published.problems:
            click.get_current_context().exit(code or 1)


def series_here(
    topic: str | None = None, prefix: str | None = None, json_output: bool = False, dry_run: bool = False
) -> list[OpenSeries]:
    """The series with this topic; without one, each that has a logbook here or a journal in the store. Raises UsageError
    for a topic of which there is nothing here, not even its folder in experiments/."""
    checkout = Checkout.find()
    topic = topic if topic is None else check_topic(topic)
    store = open_store(store_url(checkout.root, prefix))
    folders = (checkout.root / "experiments", checkout.root / HERE)
    if topic is not None and any((folder / topic).is_dir() for folder in folders):
        return [OpenSeries(checkout, topic, prefix, json_output, dry_run)]
    logbooks = _logbooks(checkout)
    journals = {name.rsplit("/", 1)[-1]: f"{store.url}/{name}" for name in store.names("journal")}
    topics = []
    for name in sorted({*logbooks, *journals}):
        try:
            check_topic(name)
        except UsageError:
            say(f"skipped: {logbooks.get(name) or journals[name]} has a name that no series has")
            continue
        try:
            if topic is None:
                logbook_of(checkout, name)
            topics.append(name)
        except ResearchError as error:
            say(f"skipped: {error}")
    if topic is not None:
        if topic not in topics:
            raise UsageError(
                f"There is no series {topic!r}: no {checkout.root / HERE / topic}.md, no journal in {store.url}, no "
                f"experiments/{topic}. {_did_you_mean(topic, topics) or _ASK}"
            )
        topics = [topic]
    return [OpenSeries(checkout, name, prefix, json_output, dry_run) for name in topics]


def _logbooks(checkout: Checkout) -> dict[str, Path]:
    """The logbooks of a checkout by the topics that name them."""
    here = {path.stem: path for path in files_in(checkout.root / HERE) if path.suffix == ".md"}
    return here | {topic: checkout.private for topic in topics_elsewhere(checkout)}


def with_record(
    id: str, everywhere: Sequence[OpenSeries], read: Callable[[OpenSeries], Snapshot]
) -> list[tuple[OpenSeries, Snapshot]]:
    """The series that hold a record with this ID, each with what was read of it. Raises UsageError when none does, with
    the nearest ID that there is."""
    snapshots = [(series, read(series)) for series in reserving(id, everywhere)]
    holding = [(series, snapshot) for series, snapshot in snapshots if snapshot.find(id)]
    if not holding:
        known = [stored.record.id for _, snapshot in snapshots for stored in snapshot.everything]
        known += [
            row.trial.id for _, snapshot in snapshots for stored in snapshot.in_order for row in stored.record.rows
        ]
        near = _did_you_mean(named(id)[0], known)
        raise UsageError(f"No record has the ID {id!r}: expected one such as MOE-HC-007. {near or _ASK}")
    return holding


def whole_id(id: str, everywhere: Sequence[OpenSeries]) -> str:
    """The ID that is meant, as records spell it: in any case, without zeros in front, and without the prefix where one
    series here fits: MOE-HC-044 for '44' and 'moe-hc-44'. What is no such ID stays as it is."""
    name, sha256 = named(id)
    match = _ID_IN_SHORT.fullmatch(name)
    if match is None:
        return id
    prefix, number, trial = match.groups(default="")
    prefixes = {series.declared.prefix for series in everywhere if series.declared is not None}
    if not prefix and len(prefixes) != 1:
        here = f"as here are several series: {', '.join(sorted(prefixes))}" if prefixes else "as here is no series"
        raise UsageError(f"{id!r} names no prefix: expected an ID such as MOE-HC-007, {here}.")
    whole = format_id(prefix.upper() or next(iter(prefixes)), int(number))
    below = f".{int(trial):02d}" if trial else ""
    return f"{whole}{below}@{sha256}" if sha256 else f"{whole}{below}"


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    """A question that names what is nearest to a name; empty where nothing is near."""
    near = get_close_matches(name.lower(), folded := {other.lower(): other for other in known}, n=3)
    return f"Did you mean {' or '.join(folded[other] for other in near)}?" if near else ""


def reserving(id: str, everywhere: Sequence[OpenSeries]) -> list[OpenSeries]:
    """The series that reserved an experiment ID or published it; all of them where none did."""
    owner = named(id)[0].partition(".")[0]
    return [series for series in everywhere if series.may_hold(owner)] or list(everywhere)


class _Topic(StringParamType):
    """The topic of a series, which a shell completes by the names of the logbooks here: no store is asked."""

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(topic) for topic in _logbooks(Checkout.find()) if topic.startswith(incomplete)]


class _RecordId(StringParamType):
    """The ID of a record, which a shell completes by the names of the files beside the logbooks."""

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        checkout = Checkout.find()
        topic = ctx.params.get("topic")
        folders = []
        for name in (name for name in _logbooks(checkout) if topic in (None, name)):
            # A shell shows no errors; whatever is asked of that series tells this one.
            with suppress(ResearchError):
                folders.append(logbook_of(checkout, name).records)
        ids = [path.stem for folder in folders for path in files_in(folder) if path.suffix == ".jsonl"]
        # The newest is what somebody most likely means.
        return [CompletionItem(id) for id in reversed(ids) if id.startswith(incomplete)]


# What parameters are that every command calls by these names.
_COMPLETED = {"topic": _Topic(), **dict.fromkeys(("id", "ids", "first", "second", "evidence"), _RecordId())}


class ResearchCommand(click.Command):
    """A command that tells an error in one line and exits with 1."""

    def __init__(
        self, *, params: list[click.Parameter], prefix: bool = False, json: bool = False, dry_run: bool = False,
        **attributes: Any,
    ) -> None:  # fmt: skip
        shared = [*([_PREFIX] if prefix else []), *([_DRY_RUN] if dry_run else []), *([_JSON] if json else [])]
        super().__init__(params=[*params, *shared], **attributes)
        for param in self.params:
            param.type = _COMPLETED.get(param.name or "", param.type)

    def given(self, options: dict[str, Any]) -> dict[str, Any]:
        """What its function is called with."""
        return options

    def invoke(self, ctx: click.Context) -> Any:
        try:
            ctx.params = self.given(ctx.params)
            return super().invoke(ctx)
        except ResearchError as error:
            say(f"error: {error}")
            sys.exit(1)


class SeriesCommand(ResearchCommand):
    """A command whose function is called with the series TOPIC."""

    def __init__(self, *, params: list[click.Parameter], json: bool = True, **attributes: Any) -> None:
        super().__init__(params=[click.Argument(["topic"]), *params], prefix=True, json=json, **attributes)

    def given(self, options: dict[str, Any]) -> dict[str, Any]:
        return {"series": series_here(**_where(options))[0], **options}


class SearchCommand(ResearchCommand):
    """A command whose function is called with the series that there are `everywhere` here, or the one of --topic."""

    def __init__(self, *, params: list[click.Parameter], json: bool = True, **attributes: Any) -> None:
        super().__init__(params=[*params, _TOPIC], prefix=True, json=json, **attributes)

    def given(self, options: dict[str, Any]) -> dict[str, Any]:
        return {"everywhere": series_here(**_where(options)), **options}


class RecordCommand(SearchCommand):
    """A command whose function is called with the ID of a record, and with the series that holds it."""

    def __init__(self, *, params: list[click.Parameter], **attributes: Any) -> None:
        super().__init__(params=[click.Argument(["id"]), *params], **attributes)

    def given(self, options: dict[str, Any]) -> dict[str, Any]:
        everywhere = series_here(**_where(options))
        options["id"] = whole_id(options["id"], everywhere)
        # Whoever writes about a record reads all of its series.
        holding = with_record(options["id"], everywhere, lambda series: series.snapshot)
        return {"series": holding[0][0], **options}


def _where(options: dict[str, Any]) -> dict[str, Any]:
    """Takes from the options those that tell which series is meant."""
    return {name: options.pop(name) for name in ("topic", "prefix", "json_output", "dry_run") if name in options}


def print_result(json_output: bool, data: Any, lines: Iterable[str] = (), failed: bool = False) -> None:
    """Print what a command has to say, as data or for people; exits with 1 when it is about something that failed."""
    if json_output:
        print_json(data)
    else:
        print_lines(*lines)
    if failed:
        sys.exit(1)
