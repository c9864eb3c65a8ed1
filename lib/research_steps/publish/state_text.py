"""The state of a thread in sentences: what the first screen of every surface says, in the same words and digits.

Each function gives the lines about one question. A surface chooses which it shows, and how text and code are spelled.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import msgspec

from research_steps.evidence.claim_text import (
    changes_text,
    claim_text,
    estimate_text,
    relative_text,
    repetitions_text,
    verdict_text,
)
from research_steps.evidence.state import MeasuredBaseline, ThreadState, Winner, is_contended
from research_steps.evidence.statistics import gain
from research_steps.records.configurations import changes_in
from research_steps.records.model import Claim
from research_steps.records.numbers import percent, quantity
from research_steps.records.step_kinds import Reproduction

# How often a dead end is named by its IDs.
_IDS = 2
# How many candidates are named that the best one isn't separated from.
CLOSE = 3


@dataclass(frozen=True)
class Words:
    """How a surface spells what records say, as text, what is code, and the ID of a record."""

    say: Callable[[str], str]
    code: Callable[[str], str]
    link: Callable[[str], str] = str


PLAIN = Words(str, str)


@dataclass(frozen=True)
class Answer:
    """What is best against one baseline on one kind of machine, or that nothing is. `against` are the lines that speak
    against it: what it makes worse, and what it isn't separated from; `more` what else is known of it."""

    best: str
    against: tuple[str, ...] = ()
    more: tuple[str, ...] = ()

    @property
    def lines(self) -> list[str]:
        return [f"- {self.best}", *(f"  - {line}" for line in (*self.against, *self.more))]


def answers(state: ThreadState, words: Words) -> list[Answer]:
    """What is best by now, for each baseline in force and kind of machine; those of the newest machine first."""
    found = [_answer(state, winner, words) for winner in state.winners]
    won = [winner.claim.case for winner in state.winners]
    return found + [Answer(_nothing(state, baseline, words)) for baseline in state.baselines if baseline.case not in won]


def _answer(state: ThreadState, winner: Winner, words: Words) -> Answer:
    claim = winner.claim
    against = [
        f"It makes {words.say(other.metric)} worse: {_numbers(other)}."
        for other in winner.also
        if other.verdict == "regressed"
    ]
    against += [f"It is not separated from {_what(other, words)}: {_numbers(other)}." for other in winner.close[:CLOSE]]
    if len(winner.close) > CLOSE:
        against.append(f"Nor is it from {len(winner.close) - CLOSE} more.")
    more = [
        f"{words.say(other.metric)}: {_numbers(other)}{_because(other, words)}."
        for other in winner.also
        if other.verdict != "regressed"
    ]
    for other in winner.variants:
        more.append(f"At {words.code(changes_text(changes_in(other.case, claim.case)))}: {_numbers(other)}.")
    # Such a claim stands as it was made, and 'research replicate' makes it anew.
    more += [] if claim.level else ["It was made by the older rule, which judged each look alone."]
    where = f" on {words.say(winner.machine)}" if winner.machine else ""
    best = f"Best against {_baseline(state, claim, words)}{where}: {_what(claim, words)} with {words.say(claim.metric)}"
    return Answer(f"{best} {_numbers(claim)} ({claim.trials[0].id}).", tuple(against), tuple(more))


def _nothing(state: ThreadState, baseline: MeasuredBaseline, words: Words) -> str:
    name = f"{baseline.entry.id} ({words.say(baseline.label)})"
    if baseline.entry.step == "rebase":
        return f"The baseline was moved by {name} to {words.code(changes_text(baseline.case))}, not measured there yet."
    claims = state.against(baseline.case, baseline.machine)
    if not claims:
        return f"Nothing was measured against {name} yet."
    several = f"of {len(claims)} candidates " if len(claims) > 1 else ""
    if all(map(is_contended, claims)):
        return f"No verdict against {name}: every candidate's trials ran beside other load ({_counted(claims)})."
    return f"Nothing measured is better than {name}: {several}{_counted(claims)}."


def _counted(claims: Sequence[Claim]) -> str:
    counts = Counter("contended" if is_contended(claim) else claim.verdict for claim in claims)
    return ", ".join(f"{count} {verdict}" for verdict, count in counts.most_common())


def _baseline(state: ThreadState, claim: Claim, words: Words) -> str:
    label = next((baseline.label for baseline in state.baselines if baseline.case == claim.case), "")
    return f"{claim.baseline.id} ({words.say(label)})" if label else claim.baseline.id


def _what(claim: Claim, words: Words) -> str:
    return words.code(changes_text(claim.changes))


def _numbers(claim: Claim) -> str:
    return f"{estimate_text(claim)}{relative_text(claim)}, {verdict_text(claim)}, {repetitions_text(claim)}"


def _because(claim: Claim, words: Words) -> str:
    return f" ({words.say(claim.why)})" if claim.why else ""


def sure(winner: Winner, words: Words) -> str:
    """What the confidence of a claim means here, in words."""
    claim = winner.claim
    match claim.confidence:
        case "stable":
            claims = (claim, *(other for other in winner.variants if other.verdict == claim.verdict))
            names = sorted({name for other in winner.variants for name in changes_in(other.case, claim.case)})
            at = " and ".join(words.code(f"{name}={claim.case[name]}") for name in names)
            others = (words.code(changes_text(changes_in(other.case, claim.case))) for other in claims[1:])
            return f"stable: repeated, and the same at {', '.join((at, *others))}"
        case "replicated":
            return f"replicated: {repetitions_text(claim)} agree, not tried at other variants"
        case _:
            return f"exploratory: {repetitions_text(claim)}, not repeated yet"


def table(state: ThreadState, words: Words, most: int) -> tuple[list[str], list[list[str]]]:
    """The candidates against the baseline of the best one, on its machine, best first, then what failed: the header and
    at most so many lines."""
    if not state.winners:
        return [], []
    winner = state.winners[0].claim
    name = state.series.primary.name
    alike = state.against(winner.case, state.winners[0].machine)
    shown = sorted(
        (claim for claim in alike if claim.estimate is not None), key=lambda claim: -gain(state.series.primary, claim)
    )
    # What others gave up was measured against no baseline of this thread.
    failed = [end for end in state.dead_ends if end.claim is None and not end.by_others]
    more = len(shown) + len(failed) - most
    lines = [
        [_what(claim, words), estimate_text(claim), verdict_text(claim), str(claim.processes)] for claim in shown[:most]
    ]
    lines += [[words.code(end.what), "failed", words.code(end.why), str(len(end.ids))] for end in failed[:most]]
    if more > 0:
        lines = [*lines[: most - 1], [f"{more + 1} more in the logbook", "", "", ""]]
    return [f"against {winner.baseline.id}", words.say(name), "verdict", "processes"], lines


def baselines(state: ThreadState, words: Words) -> list[str]:
    """The baselines in force in a line each: their numbers, noise, date and machine."""
    lines = []
    for baseline in state.baselines:
        entry, floor = baseline.entry, baseline.entry.floor or {}
        numbers = []
        for name, value in sorted(baseline.numbers.items(), key=lambda item: item[0] != state.series.primary.name):
            noise = f" (noise {percent(floor[name].spread)})" if name in floor else ""
            numbers.append(f"{words.say(name)} {quantity(name, value)}{noise}")
        what = ", ".join(numbers) or "not measured since it was moved"
        where = f" on {words.say(baseline.machine)}" if baseline.machine else ""
        lines.append(f"{entry.id} {words.say(baseline.label)}: {what}, {entry.started_at[:10]}{where}")
    return lines


def stop(state: ThreadState, words: Words) -> str:
    """The stop criterion, and whether it is reached."""
    series, reached = state.series, state.reached
    if state.finish is not None:
        return f"Finished on {state.finish.finished_at[:10]} by {state.finish.id}."
    if series.stop_at is None:
        wanted = words.say(series.stop.rstrip(".")) or "none"
        return f"Stop criterion: {wanted}; nothing computes whether it is reached."
    wanted = f"{100 * series.stop_at.improvement:.3g} % better, {series.stop_at.confidence}"
    by = f"reached by {_what(reached, words)} ({reached.trials[0].id})" if reached else "not reached"
    return f"Stop criterion ({wanted}): {by}."


def unsettled(state: ThreadState, words: Words) -> list[str]:
    """What nothing can be said of yet, and why; contended evidence first."""
    claims = sorted(state.unsettled, key=lambda claim: not is_contended(claim))
    return [
        f"{_what(claim, words)} against {claim.baseline.id}: {'no verdict, contended: ' if is_contended(claim) else ''}"
        f"{words.say(claim.metric)} {claim_text(claim)}{_because(claim, words)} ({claim.trials[0].id})."
        for claim in claims
    ]


def dead_ends(state: ThreadState, words: Words, most: int | None = None) -> list[str]:
    """What failed or did not help, each once; the first so many."""
    lines = []
    for end in state.dead_ends[:most]:
        first, last = words.link(end.ids[0]), words.link(end.ids[-1])
        ids = first if len(end.ids) == 1 else f"{len(end.ids)} times, {first} to {last}"
        if end.by_others:
            lines.append(f"Tried before, by others, and given up ({ids}), {words.say(end.why)}: {words.say(end.what)}")
        elif end.claim is None:
            lines.append(f"{words.code(end.what)} failed ({ids}): {words.code(end.why)}")
        else:
            lines.append(f"{words.code(end.what)}: {words.say(end.claim.metric)} {claim_text(end.claim)} ({first})")
    return lines


def reading(state: ThreadState, words: Words) -> list[str]:
    """What the final summary concludes; and what has changed since that, or the last interpretation, was written."""
    last = state.reading
    if last is None:
        return []
    lines = []
    if last.entry.step == "finish":
        lines = [f"Concluded in {last.entry.id}: {words.say(last.text)} Next: {words.say(last.entry.next_action)}"]
    lost = ", ".join(last.retracted)
    lines += [f"{last.entry.id} rests on {lost}, retracted since."] if lost else []
    return lines + ([f"{last.entry.id} was written before {', '.join(last.before)}."] if last.before else [])


def sealed(state: ThreadState, words: Words) -> str:
    """The newest tag, and what came of measuring it again."""
    if not state.sealed:
        return "Nothing is sealed."
    newest = state.sealed[-1]
    again = [entry for entry in state.reproduced if entry.details_as(Reproduction).tag == newest]
    outcome = f"{again[-1].id}: {again[-1].details_as(Reproduction).outcome}" if again else "not reproduced yet"
    older = f"; {len(state.sealed) - 1} older" if len(state.sealed) > 1 else ""
    return f"Sealed as {words.code(newest)} ({words.say(outcome)}){older}."


def only_here(state: ThreadState, words: Words) -> list[str]:
    """What nobody else has."""
    waiting = state.unpublished
    more = f" and {len(waiting) - _IDS} more" if len(waiting) > _IDS else ""
    missing = [f"not in the logbook yet: {', '.join(waiting[:_IDS])}{more}"] if waiting else []
    return [*missing, *map(words.say, state.only_here)]


def next_commands(state: ThreadState, words: Words) -> list[str]:
    """What to do next."""
    return [words.code(command) for command in state.next_commands]


def as_data(state: ThreadState) -> dict[str, Any]:
    """What is known of a thread, for programs: the claims as they are recorded, and all else in sentences."""
    given = answers(state, PLAIN)
    claims = [winner.claim for winner in state.winners]
    return {
        "goal": state.series.goal,
        "stop": stop(state, PLAIN),
        "reached": state.reached is not None,
        "best": [
            {"text": answer.best, "against": answer.against, "more": answer.more}
            | ({"claim": msgspec.to_builtins(claim)} if claim else {})
            for answer, claim in zip_longest(given, claims)
        ],
        "unsettled": unsettled(state, PLAIN),
        "not_counted": list(state.unfounded),
        "baselines": baselines(state, PLAIN),
        "hypotheses": [
            {"id": item.id, "state": item.state, "text": item.text, "because": item.because, "evidence": item.evidence}
            for item in state.hypotheses
        ],
        "dead_ends": dead_ends(state, PLAIN),
        "sealed": list(state.sealed),
        "sealed_text": sealed(state, PLAIN),
        "only_here": only_here(state, PLAIN),
        "next": list(state.next_commands),
    }
