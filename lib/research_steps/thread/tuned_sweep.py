"""A sweep in which each value has its own best value of another field, such as the learning rate, and the baseline too.

All of them are tried at the same values of that field, which is an equal budget, and the best of each is chosen by these
trials. What is claimed rests on trials that chose nothing: at further repetitions, both sides beside each other.
"""

from collections.abc import Sequence
from itertools import product
from typing import Any

from research_steps.evidence.claim_text import changes_text, claim_text
from research_steps.evidence.claims import Baseline, Candidate, make_claims
from research_steps.evidence.error_spending import next_table
from research_steps.evidence.interpretation import interpret_rows
from research_steps.evidence.standing import best
from research_steps.evidence.statistics import gain, ranked
from research_steps.evidence.table import Trial, noted, row_of
from research_steps.journal.entries import Finding
from research_steps.journal.snapshot import entries_of
from research_steps.records.configurations import changes_in
from research_steps.records.encoding import Stored
from research_steps.records.model import EntryRecord, Row, TrialRecord
from research_steps.records.series import Series, trial_id
from research_steps.thread.configs import StepConfig
from research_steps.thread.table_trials import at_repetition, baseline_of, measure, values_beside
from research_steps.trial.batch import Wanted
from research_steps.trial.context import Session


def tuned_sweep(session: Session, config: StepConfig, inputs: list[Stored[EntryRecord]], id: str) -> Finding:
    """Tune the baseline and each value of the axis, then compare best-tuned with best-tuned."""
    series, base = session.series, baseline_of(session, config, inputs[0], config.case)
    field, values = next(iter(config.tuned_over.items()))
    sides = [{}, *(point for point in config.points if changes_in(config.changed(point), config.case))]
    settings = [{**side, field: value} for side in sides for value in values]
    tried = measure(session, config, id, _tuning(config, id, settings))
    each = len(config.what.repetitions)
    candidates = [
        Candidate(changes_in(config.changed(setting), config.case), [trial.stored for trial in tried[at : at + each]])
        for setting, at in zip(settings, range(0, len(tried), each), strict=True)
    ]
    tuned = [_best_of(series, base, candidates[at : at + len(values)]) for at in range(0, len(candidates), len(values))]
    tuning_rows = [noted(_row(config, trial), "tuning") for trial in tried]
    if tuned[0] is None:
        why = f"nothing was compared: the baseline succeeded at no {field} of {', '.join(map(str, values))}"
        return Finding(why, tuple(tuning_rows), claims=())
    chosen = [side for side in tuned if side is not None]
    judged = measure(session, config, id, _judging(config, id, [side.changes for side in chosen], len(tried)))
    return _compared(session, config, base, chosen, judged, tuning_rows)


def _tuning(config: StepConfig, id: str, settings: Sequence[dict[str, Any]]) -> list[Wanted]:
    """Each setting at each repetition of the thread, against the baseline case as it is."""
    return [
        Wanted(
            id=trial_id(id, number),
            label=f"tuning {changes_text({**setting, **repetition})}",
            config=config.changed({**setting, **repetition}),
            case=config.changed(repetition),
        )
        for number, (setting, repetition) in enumerate(product(settings, config.what.repetitions), 1)
    ]


def _best_of(series: Series, base: Baseline, candidates: Sequence[Candidate]) -> Candidate | None:
    """The best setting of one side by what tuned it, before all one of which no trial failed; None where all did."""
    ranks = []
    for number, candidate in enumerate(candidates):
        claim = make_claims(series, base, [candidate])[0]
        whole = all(trial.record.status == "ok" for trial in candidate.trials)
        ranks += [(whole, gain(series.primary, claim), -number)] if claim.estimate is not None else []
    return candidates[-max(ranks)[2]] if ranks else None


def _judging(config: StepConfig, id: str, sides: Sequence[dict[str, Any]], after: int) -> list[Wanted]:
    """Each side at repetitions that tuned nothing, against the baseline as that was tuned, which is the first side."""
    wanted: list[Wanted] = []
    for side, number in product(sides, config.replicates):
        at = config.what.further(number)
        label = f"{changes_text({**side, **at})} tuned {number}"
        mine, theirs = config.changed({**side, **at}), config.changed({**sides[0], **at})
        own = trial_id(id, after + len(wanted) + 1)
        wanted.append(Wanted(id=own, label=label, config=mine, case=theirs, replicate=number))
    return wanted


def _compared(
    session: Session,
    config: StepConfig,
    base: Baseline,
    sides: Sequence[Candidate],
    judged: Sequence[Trial],
    tuning_rows: Sequence[Row],
) -> Finding:
    """What is said of the tuned sides, the first of which is the baseline's."""
    series, count, mine = session.series, len(config.replicates), sides[0].changes
    case, parts = config.changed(mine), [judged[at : at + count] for at in range(0, len(judged), count)]
    named = config.what.named(case)
    baseline = Baseline(named, base.entry, [trial.stored for trial in parts[0]], beside=True, over=base.over)
    control_rows = [_row(config, trial) for trial in parts[0]]
    rows, candidates = list[Row](), list[Candidate]()
    for side, trials in zip(sides[1:], parts[1:], strict=True):
        changes, chose = changes_in(config.changed(side.changes), case), side.trials
        candidates.append(Candidate(changes, [trial.stored for trial in trials], chose))
        rows += [
            at_repetition(config, trial, row_of(trial, changes, theirs))
            for trial, theirs in values_beside(config, control_rows, trials)
        ]
    entries = entries_of(session.journal.published(session.repository))
    claims = make_claims(series, baseline, candidates, next_table(series, entries))
    rows = [*ranked(series.primary, rows, claims), *control_rows, *tuning_rows]
    text, next_action = interpret_rows(series, rows, claims)
    if mine:
        text = f"The baseline is better with {changes_text(mine)} too, and all are compared with that. {text}"
    winner = best(series, claims)
    top = f"best {changes_text(winner.changes)}: {series.primary.name} {claim_text(winner)}" if winner else ""
    result = f"{len(judged)} trials of what {len(tuning_rows)} trials tuned, {top or 'none improved'}"
    return Finding(result, tuple(rows), text, next_action, claims=claims)


def _row(config: StepConfig, trial: Trial) -> Row:
    """The row of a trial that no claim is about: of the baseline as it was tuned, or one that tuned."""
    record = trial.stored.record
    changes = changes_in(record.config, record.baseline_config) if isinstance(record, TrialRecord) else {}
    return at_repetition(config, trial, row_of(trial, changes))
