"""The hypothesis queue: what the series declares, and what was recorded of it since. Pure functions.

Each declared hypothesis starts as active; each entry that holds a HypothesisChange adds one or changes one, and the last
change counts. A hypothesis is known by its ID and its text: two branches that each added an H4 have two of them. What
it rests on is what its changes name, and every step that was run to test it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from research_steps.errors import UsageError
from research_steps.records.model import EntryRecord
from research_steps.records.series import Series
from research_steps.records.step_kinds import STEP_KINDS, HypothesisChange, HypothesisState

# What a change has to say, by the state that it leads to; in the order in which the queue shows them.
SAYS: dict[HypothesisState, str] = {
    "active": "next test",
    "blocked": "resume when",
    "supported": "supported because",
    "promoted": "production decision",
    "falsified": "stopped because",
}


@dataclass(frozen=True)
class Item:
    """One hypothesis of the queue, with the entries that added and changed it, oldest first; and the IDs of the entries
    that were made to test it."""

    id: str
    text: str
    changes: tuple[EntryRecord, ...] = ()
    tests: tuple[str, ...] = ()

    @property
    def last(self) -> HypothesisChange | None:
        return self.changes[-1].details_as(HypothesisChange) if self.changes else None

    @property
    def state(self) -> HypothesisState:
        return self.last.state if self.last else "active"

    @property
    def because(self) -> str:
        """What the last change says: the next test, the resume condition, what supports it, the decision or the stopping
        reason."""
        return self.last.because if self.last else ""

    @property
    def evidence(self) -> tuple[str, ...]:
        """The IDs of all records that it rests on by now."""
        named = (ref.id for change in self.changes for ref in change.inputs)
        return tuple(dict.fromkeys((*self.tests, *named)))

    @property
    def private(self) -> bool:
        return any(change.private is True for change in self.changes)


def queue(series: Series, entries: Sequence[EntryRecord], counting: Sequence[EntryRecord] = ()) -> list[Item]:
    """Every hypothesis, by number. `entries` in the order of their numbers; `counting` are those of them that were not
    retracted, where somebody asks what tests a hypothesis."""
    declared = {hypothesis.id: (hypothesis.id, hypothesis.text) for hypothesis in series.hypotheses}
    changes: dict[tuple[str, str], list[EntryRecord]] = {name: [] for name in declared.values()}
    for entry in entries:
        if is_change(entry):
            change = entry.details_as(HypothesisChange)
            name = (change.hypothesis, change.text)
            # A thread's file may put what it declares in other words later; what a command added never changes.
            if name not in changes and (change.state != "active" or change.again):
                name = declared.get(name[0], name)
            changes.setdefault(name, []).append(entry)
    tests: dict[tuple[str, str], list[str]] = {}
    for entry in counting:
        tested = _tested(entry.hypothesis, list(changes))
        if tested is not None and not is_change(entry):
            tests.setdefault(tested, []).append(entry.id)
    items = [Item(*name, tuple(entries), tuple(tests.get(name, ()))) for name, entries in changes.items()]
    return sorted(items, key=_number)


def is_change(entry: EntryRecord) -> bool:
    """Whether it adds a hypothesis to the queue or changes one."""
    return STEP_KINDS[entry.step].details is HypothesisChange


def kind_of(change: HypothesisChange) -> str:
    """The kind of the entry that says so: what older versions do not know has a kind that they do not know."""
    return "support" if change.state == "supported" else "hypothesis"


def find(items: Sequence[Item], name: str) -> Item:
    """The hypothesis that goes by this ID, or by this text. Raises UsageError that names those there are."""
    named = [item for item in items if name in (item.id, item.text)]
    if not named:
        ids = ", ".join(dict.fromkeys(item.id for item in items)) or "none yet"
        raise UsageError(f"There is no hypothesis {name!r} in the queue: expected one of those there are ({ids}).")
    if len(named) > 1:
        texts = " and ".join(repr(item.text) for item in named)
        raise UsageError(
            f"{name!r} stands for {len(named)} hypotheses, {texts}, because they were added apart: give the text of the "
            "one that you mean instead."
        )
    return named[0]


def spelled_out(items: Sequence[Item], text: str) -> str:
    """A hypothesis in full: 'H3' becomes 'H3: …' when the queue holds one, other text stays."""
    named = [item for item in items if item.id == text]
    return f"{named[0].id}: {named[0].text}" if len(named) == 1 else text


def next_number(items: Sequence[Item]) -> int:
    """The number above all that were declared or recorded."""
    return max(map(_number, items), default=0) + 1


def _tested(spelled: str, names: Sequence[tuple[str, str]]) -> tuple[str, str] | None:
    """The one hypothesis that the words of an entry name: in full, else by its ID alone, whose text may have changed."""
    full = [(id, text) for id, text in names if spelled in (f"{id}: {text}", text)]
    by_id = [(id, text) for id, text in names if spelled.partition(":")[0] == id]
    return next((named[0] for named in (full, by_id) if len(named) == 1), None)


def _number(item: Item) -> int:
    return int(item.id[1:])
