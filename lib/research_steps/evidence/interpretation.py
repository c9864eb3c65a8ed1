"""What can be said of measured entries by rule, in sentences, and what to do next; each function returns both.

It reads claims and rows and adds no judgement of its own: the winner with its size, interval, verdict and confidence,
what failed, what is still unknown, and the next action that these imply (replicate, extend, interact, stop).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from research_steps.evidence.claim_text import (
    candidate_text,
    changes_text,
    claim_text,
    effect_text,
    repetitions_text,
    verdict_text,
)
from research_steps.evidence.judgement import CONTENDED, ROUTINE_NOTE
from research_steps.evidence.standing import best, claims_in, on_primary
from research_steps.evidence.statistics import gain
from research_steps.records.model import Claim, EntryRecord, Floor, Row
from research_steps.records.numbers import ratio
from research_steps.records.series import Series
from research_steps.records.step_kinds import BaselineMeasurement, Sweep

# Between the best and the worst value of one axis: what changes a result so much has to be named with it.
SENSITIVE = 2.0
QUIET = "Run again with --retry contended once 'research doctor' finds the machine quiet."


def interpret_baseline(series: Series, rows: Sequence[Row], floor: Mapping[str, Floor]) -> tuple[str, str]:
    """What the baseline against itself says about the noise."""
    sentences = []
    for metric in series.metrics:
        noise = floor.get(metric.name)
        if noise is None:
            continue
        sentences.append(
            f"Noise floor of {metric.name}: {noise.spread:.2%} between {noise.processes} processes, so one process of a "
            f"candidate shows effects above {noise.smallest:.2%}."
        )
        if noise.smallest > metric.min_effect:
            sentences.append(
                f"That is more than min_effect, {metric.min_effect:.2%}: effects in between take replicates, or longer "
                "sampling."
            )
    if series.primary.name not in floor:
        sentences.append(
            f"There is no noise floor of {series.primary.name}: it takes two undisturbed, paired processes."
        )
    return " ".join(sentences + _disturbed(rows)), "Sweep one axis against this case."


def interpret_rows(series: Series, rows: Sequence[Row], claims: Sequence[Claim]) -> tuple[str, str]:
    """One sweep or interaction, whose rows come best first."""
    primary = on_primary(series, claims)
    sentences = [_winner(series, primary), _count(primary), *_sensitivity(series, primary), *_weaknesses(rows)]
    return " ".join(filter(None, sentences)), _after_table(series, primary)


def interpret_replicates(
    series: Series, rows: Sequence[Row], claims: Sequence[Claim], case: Mapping[str, Any]
) -> tuple[str, str]:
    """One candidate measured again, perhaps at several variants of the baseline `case`."""
    primary = on_primary(series, claims)
    sentences = []
    for claim in primary:
        what = f"{candidate_text(claim, case)} is {verdict_text(claim)}"
        if claim.look:
            what += f" (confirmation {claim.confirmation}, look {claim.look})"
        if claim.confidence == "exploratory":
            what += f": {claim.why or 'nothing measured it through the executor'}"
        sentences.append(f"{what}.")
    sentences += _weaknesses(rows)
    return " ".join(sentences), _after(series, best(series, primary) or (primary[0] if primary else None))


def interpret_entries(series: Series, entries: Sequence[EntryRecord], claims: Sequence[Claim]) -> tuple[str, str]:
    """Several entries together; `claims` are those that count after all of them."""
    primary = on_primary(series, claims)
    if not primary:
        return "Nothing was measured against the baseline.", "Measure candidates in a sweep."
    bases = {entry.id: entry for entry in entries if entry.step == "baseline"}
    sentences: list[str] = []
    actions: dict[str, str] = {}
    for id in dict.fromkeys(claim.baseline.id for claim in primary):
        case = bases[id].details_as(BaselineMeasurement).baseline_case if id in bases else {}
        against = [claim for claim in primary if claim.baseline.id == id]
        main = [claim for claim in against if claim.case == case] or against
        name = f"{id} ({bases[id].label})" if id in bases else id
        sentences += [f"Against {name}: {_winner(series, main)} {_count(main)}"]
        sentences += [f"{candidate_text(c, case)}: {claim_text(c)}." for c in against if c not in main]
        sentences += _unknown(series, against)
        actions[name] = _interaction(series, entries, id) or _after_several(series, main)
    sentences += _weaknesses([row for entry in entries for row in entry.rows])
    several = len(actions) > 1
    return " ".join(sentences), " ".join(f"Against {name}: {do}" if several else do for name, do in actions.items())


def _winner(series: Series, claims: Sequence[Claim]) -> str:
    winner = best(series, claims)
    if winner is None and claims and all(claim.why.startswith(CONTENDED) for claim in claims):
        return f"Nothing can be said of {series.primary.name}: every candidate's trials ran beside other load."
    if winner is None:
        return f"No candidate improves {series.primary.name} over the baseline."
    later = (
        f"; {effect_text(winner.estimand, winner.expected, winner.metric)} expected on replication"
        if winner.expected
        else ""
    )
    told = f"{claim_text(winner)}, from {repetitions_text(winner)}{later}"
    return f"{changes_text(winner.changes)} is best: {winner.metric} {told}."


def _count(claims: Sequence[Claim]) -> str:
    counts = Counter(claim.verdict for claim in claims)
    if not claims:
        return "Nothing but the baseline case was measured."
    return f"Of {len(claims)} candidates: {', '.join(f'{count} {verdict}' for verdict, count in counts.most_common())}."


def _sensitivity(series: Series, claims: Sequence[Claim]) -> list[str]:
    """That a result hangs on the value of one axis is a result."""
    ratios = sorted(
        (claim.estimate, changes_text(claim.changes))
        for claim in claims
        if claim.estimand == "ratio" and claim.estimate is not None and claim.low is not None
    )
    if len(ratios) < 2 or ratios[-1][0] < SENSITIVE * ratios[0][0]:
        return []
    (least, at), (most, then) = ratios[0], ratios[-1]
    return [f"{series.primary.name} is sensitive to this choice: {ratio(least)} × at {at}, {ratio(most)} × at {then}."]


def _weaknesses(rows: Sequence[Row]) -> list[str]:
    sentences = {}
    for row in rows:
        if row.status == "failed":
            slip = row.note.startswith(ROUTINE_NOTE)
            how = "failed by a slip in its code, which says nothing of it" if slip else "failed"
            note = row.note.removeprefix(ROUTINE_NOTE).rstrip(".")
            sentences[row.trial.id] = f"{row.trial.id} ({changes_text(row.changes)}) {how}: {note}."
    return [*sentences.values(), *_disturbed(rows)]


def _disturbed(rows: Sequence[Row]) -> list[str]:
    disturbed = dict.fromkeys(row.trial.id for row in rows if row.status == "ok" and row.contended)
    return [f"Measured beside other load, so no evidence on times: {', '.join(disturbed)}."] if disturbed else []


def _unknown(series: Series, claims: Sequence[Claim]) -> list[str]:
    """What the thread does not know yet."""
    sentences = []
    unsettled = [claim for claim in claims if claim.verdict in ("inconclusive", "not comparable")]
    if unsettled:
        sentences.append(f"Unknown: {'; '.join(f'{changes_text(claim.changes)} ({claim.why})' for claim in unsettled)}.")
    winner = best(series, claims)
    if winner is not None and series.variants and winner.confidence != "stable":
        sentences.append(f"Unknown: whether {changes_text(winner.changes)} holds at other {', '.join(series.variants)}.")
    return sentences


def _after_table(series: Series, claims: Sequence[Claim]) -> str:
    winner = best(series, claims)
    if winner is not None:
        return _edge(series, claims) or _after(series, winner)
    if any(claim.why.startswith(CONTENDED) for claim in claims):
        return QUIET
    if not any(claim.estimate is not None for claim in claims):
        return "Mend what failed, or sweep other values."
    if any(claim.verdict == "inconclusive" for claim in claims):
        closest = max(claims, key=lambda claim: gain(series.primary, claim))
        return f"Replicate {closest.trials[0].id}, the closest to an improvement, or stop."
    return "Nothing beat the baseline: try other values, or stop."


def _edge(series: Series, claims: Sequence[Claim]) -> str:
    """When the best of three or more numbers is the outermost one, the baseline's own too, the best of all may lie
    beyond."""
    winner = best(series, claims)
    if winner is None or any(len(claim.changes) > 1 for claim in claims):
        return ""
    ((axis, value),) = winner.changes.items()
    numbers = [winner.case.get(axis), *(claim.changes[axis] for claim in claims)]
    enough = len(claims) >= 3 and all(type(number) in (int, float) for number in numbers)
    outermost = enough and value in (min(numbers), max(numbers))
    return f"Extend {axis} beyond {value}, where it is best, then replicate the winner." if outermost else ""


def _after_several(series: Series, claims: Sequence[Claim]) -> str:
    """What to do with the best candidate of several; where there is none that may be for no fault of theirs."""
    winner = best(series, claims)
    disturbed = winner is None and any(claim.why.startswith(CONTENDED) for claim in claims)
    return QUIET if disturbed else _after(series, winner)


def _after(series: Series, claim: Claim | None) -> str:
    """What to do with the best candidate."""
    if claim is None:
        return "Nothing beat the baseline: try other candidates, or stop."
    name, id = changes_text(claim.changes), claim.trials[0].id
    if claim.why.startswith(CONTENDED):
        return QUIET
    if claim.verdict != "improved":
        return f"Let {name} go, or replicate {id} once more if it matters."
    if claim.confidence == "exploratory":
        return f"Replicate {id} ({name}) before anything rests on it."
    if claim.confidence == "replicated" and series.variants:
        return f"Extend {name} across {' or '.join(series.variants)} with steps.replicate(…, across=…)."
    return f"Stop here and seal, or move the baseline to {name} with 'research rebase'."


def _interaction(series: Series, entries: Sequence[EntryRecord], baseline: str) -> str:
    """Axes that won alone against a baseline and were not measured together."""
    mine = [entry for entry in entries if any(ref.id == baseline for ref in entry.inputs)]
    if any(entry.step == "interact" for entry in mine):
        return ""
    winners = {
        entry.details_as(Sweep).axis: winner.trials[0].id
        for entry in mine
        if entry.step == "sweep" and (winner := best(series, claims_in(entry))) is not None
    }
    return f"Interact {' and '.join(winners.values())}, which won alone." if len(winners) > 1 else ""
