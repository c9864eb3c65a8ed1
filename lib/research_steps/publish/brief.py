"""A thread's state for whoever goes on with it, person or agent: as much as fits a number of tokens.

What would mislead where it is missing is never left out: the best claims with what speaks against them, contended
evidence, what runs, and the next commands. Of the rest the least useful goes first, and how much is told.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from research_steps.errors import UsageError
from research_steps.evidence.hypotheses import SAYS
from research_steps.evidence.state import ThreadState, is_contended
from research_steps.publish import state_text
from research_steps.publish.markdown import one_line
from research_steps.publish.state_text import PLAIN
from research_steps.publish.terminal.watch import step_line
from research_steps.records.model import EntryRecord
from research_steps.records.series import number_of
from research_steps.records.times import parse_utc

# Tokenizers of language models take 3 to 4 bytes of such text for a token; a number or an ID takes more than its share.
BYTES_PER_TOKEN = 2.5
# Characters of one line.
LONGEST = 400
NEWEST = 8
# So many of a heading's lines come before what is said in more words elsewhere.
FIRST = 3
# How useful a line is: KEPT ones stay, and the highest goes first.
KEPT = 0
# What the title and the last line take, and how a heading tells what it left out (bytes).
_BESIDE, _LEFT_OUT = 100, 30


@dataclass(frozen=True)
class Line:
    """One line below a heading, and its rank."""

    heading: str
    text: str
    rank: int = KEPT


@dataclass(frozen=True)
class FittedBrief:
    """The lines that fit, how many of each heading were left out, and about how many tokens that is."""

    topic: str
    lines: tuple[Line, ...]
    left_out: dict[str, int]
    budget: int

    @property
    def text(self) -> str:
        """The brief, with its own size at the end."""
        parts = [f"# {self.topic}"]
        for heading in dict.fromkeys([*(line.heading for line in self.lines), *self.left_out]):
            parts.append(f"{heading}:")
            parts += [f"- {line.text}" for line in self.lines if line.heading == heading]
            missing = self.left_out.get(heading)
            parts += [f"- … {missing} more left out"] if missing else []
        body = "\n".join([*parts, ""])
        size = tokens(body) + math.ceil(_BESIDE / BYTES_PER_TOKEN / 2)
        over = f", over the budget of {self.budget}: all of it has to be known" if size > self.budget else ""
        return f"{body}(about {size} tokens, {BYTES_PER_TOKEN:g} bytes each{over})\n"


def tokens(text: str) -> int:
    """About how many tokens a text is."""
    return math.ceil(len(text.encode()) / BYTES_PER_TOKEN)


def _bytes(text: str) -> int:
    """What a line takes, with its dash and line feed."""
    return len(text.encode()) + 3


def brief(state: ThreadState, budget: int, since: str) -> FittedBrief:
    """What fits so many tokens; with `since`, an ID or a time, all that was recorded after it comes before other detail.

    Raises UsageError for what is neither.
    """
    lines = [replace(line, text=_cut(line.text)) for line in _lines(state, since)]
    room = int(budget * BYTES_PER_TOKEN) - _BESIDE
    taken = {number for number, line in enumerate(lines) if line.rank == KEPT}
    room -= sum(_bytes(lines[number].text) for number in taken)
    room -= sum(_bytes(heading) + _LEFT_OUT for heading in {line.heading for line in lines})
    for number in sorted(range(len(lines)), key=lambda number: (lines[number].rank, number)):
        size = _bytes(lines[number].text)
        if number not in taken and size <= room:
            taken.add(number)
            room -= size
    left_out = Counter(line.heading for number, line in enumerate(lines) if number not in taken)
    shown = tuple(line for number, line in enumerate(lines) if number in taken)
    return FittedBrief(state.series.topic, shown, dict(left_out), budget)


def as_data(made: FittedBrief) -> dict[str, Any]:
    """The brief for programs: its lines by their headings."""
    texts: dict[str, list[str]] = {}
    for line in made.lines:
        texts.setdefault(line.heading, []).append(line.text)
    return {"topic": made.topic, "brief": texts, "left_out": made.left_out, "tokens": tokens(made.text)}


def _lines(state: ThreadState, since: str) -> Iterable[Line]:
    series = state.series
    yield Line("Question", series.goal)
    yield Line("Question", state_text.stop(state, PLAIN))
    for answer in state_text.answers(state, PLAIN):
        yield Line("Answer", answer.best)
        yield from (Line("Answer", f"BUT: {text}") for text in answer.against)
        yield from (Line("Answer", text, 4) for text in answer.more)
    machines = ", ".join(dict.fromkeys(filter(None, state.machines)))
    if machines:
        yield Line("Answer", f"Measured on {machines} alone: nothing is known of others.")
    yield from (Line("Running", step_line(step)) for step in state.running)
    if not state.running:
        yield Line("Running", "nothing")
    yield from (Line("Next commands", text) for text in state.next_commands[:5])
    contended = sum(map(is_contended, state.unsettled))
    for number, text in enumerate(state_text.unsettled(state, PLAIN)):
        yield Line("Not settled", text, KEPT if number < min(contended, 2 * FIRST) else 2 if number < FIRST else 4)
    yield from (Line("Not counted", text, 2) for text in state.unfounded)
    for number, text in enumerate(state_text.baselines(state, PLAIN)):
        yield Line("Baselines", text, 1 if number < FIRST else 3)
    for number, item in enumerate(state.hypotheses):
        because = f"; {SAYS[item.state]}: {item.because}" if item.because else f"; {SAYS[item.state]}: none named"
        evidence = f"; evidence: {', '.join(item.evidence)}" if item.evidence else "; evidence: none"
        text = f"{item.id} {item.state}: {item.text}{because}{evidence}"
        yield Line("Hypotheses", text, 1 if number < 2 * FIRST else 4)
    for number, text in enumerate(state_text.dead_ends(state, PLAIN)):
        yield Line("Dead ends", text, 1 if number < FIRST else 5)
    yield Line("Sealed", state_text.sealed(state, PLAIN))
    yield from (Line("Only here", text, 2) for text in state_text.only_here(state, PLAIN))
    yield from (Line("Remarks", text, 1) for text in state_text.reading(state, PLAIN))
    yield from (Line("Decisions", f"{entry.id}: {entry.result}", 3) for entry in state.decisions[-3:])
    records = [stored.record for stored in state.entries]
    if since:
        yield from (Line(f"Since {since}", _entry(record), 3) for record in _after(records, since))
    else:
        yield from (Line("Newest entries", _entry(record), 6) for record in records[: -NEWEST - 1 : -1])


def _after(records: Sequence[EntryRecord], since: str) -> list[EntryRecord]:
    """The entries after an ID or a time, oldest first."""
    known = {record.id: record for record in records}
    if since in known:
        return [record for record in records if number_of(record.id) > number_of(since)]
    try:
        when = parse_utc(since) if since.endswith("Z") else datetime.fromisoformat(since).astimezone()
    except ValueError:
        raise UsageError(
            f"--since {since!r} is neither an entry of this series nor a time: expected an ID such as MOE-HC-007, or a "
            "time such as 2026-11-30 or 2026-11-30T12:00:00Z."
        ) from None
    return [record for record in records if parse_utc(record.finished_at) > when]


def _entry(record: EntryRecord) -> str:
    failed = "failed, " if record.status == "failed" else ""
    return f"{record.id} {record.step} {record.label}: {failed}{record.result}"


def _cut(text: str) -> str:
    line = one_line(text)
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…"
