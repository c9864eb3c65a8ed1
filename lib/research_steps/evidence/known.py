"""What is known of one configuration before it is measured: its claims, its failures, or nothing. Pure functions."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from research_steps.errors import UsageError
from research_steps.evidence.others import tried
from research_steps.evidence.state import MeasuredBaseline, ThreadState
from research_steps.journal.snapshot import Snapshot
from research_steps.records.configurations import as_typed, configuration_of, nearest
from research_steps.records.model import Claim, TrialRecord
from research_steps.records.times import parse_utc

# How many processes take a new candidate to its first claim, and that to a replicated one.
FIRST, REPLICATES = 1, 3


@dataclass(frozen=True)
class Known:
    """What is known of a configuration against one `baseline`: `changes` are what it changes there. `failed` are trials
    on the baseline's own code; `trials` counts those, and those that succeeded. `further` processes would have it
    replicated, in about `cost_s` seconds by the median of this series' trials; None where there are none. `by_others` is
    what logs of others say of it."""

    baseline: MeasuredBaseline
    changes: dict[str, Any]
    claims: tuple[Claim, ...]
    trials: tuple[TrialRecord, ...]
    further: int
    cost_s: float | None
    by_others: tuple[str, ...]

    @property
    def failed(self) -> tuple[TrialRecord, ...]:
        return tuple(trial for trial in self.trials if trial.status == "failed")


def known(state: ThreadState, snapshot: Snapshot, settings: Sequence[str]) -> list[Known]:
    """Against each baseline case in force what is known of the configuration. Raises UsageError for another field."""
    if not state.baselines:
        raise UsageError(
            f"{state.series.topic} has no baseline yet, so that nothing can be asked of it: run 'python -m experiments."
            f"{state.series.topic}'."
        )
    retracted = snapshot.retracted
    standing = [kept for kept in snapshot.trials.values() if kept.sha256 not in retracted and not kept.record.late]
    trials = [kept.record for kept in standing]
    times = [(parse_utc(t.finished_at) - parse_utc(t.started_at)).total_seconds() for t in trials if t.status == "ok"]
    counting = [entry.record for entry in state.entries if entry.sha256 not in state.retracted]
    each_s = statistics.median(times) if times else None
    answers = []
    for baseline in state.baselines:
        asked = _given(settings, baseline.case)
        changes = {name: value for name, value in asked.items() if value != baseline.case[name]}
        alike = [claim for claim in state.claims if (claim.case, claim.changes) == (baseline.case, changes)]
        claims = tuple(claim for claim in alike if claim.verdict != "failed")
        found = tuple(sorted(_of(trials, baseline.case, changes), key=lambda trial: trial.started_at))
        further = _further(claims, found, state.series.primary.name)
        cost_s = None if each_s is None else further * each_s
        by_others = tuple(tried(counting, baseline.case, asked))
        answers.append(Known(baseline, changes, claims, found, further, cost_s, by_others))
    return answers


def _given(settings: Sequence[str], case: Mapping[str, Any]) -> dict[str, Any]:
    given = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or name not in case:
            hint = nearest(name, case) if equals else ""
            raise UsageError(f"{setting!r} sets no field: expected FIELD=VALUE with one of {', '.join(case)}.{hint}")
        given[name] = as_typed(value, case[name])
    return given


def _of(trials: Iterable[TrialRecord], case: Mapping[str, Any], changes: Mapping[str, Any]) -> Iterable[TrialRecord]:
    """Those of exactly this configuration, on the code of the baseline's side."""
    for trial in trials:
        fixed = configuration_of(case, trial.baseline_config)
        asked = trial.config == {**fixed, **changes} and trial.baseline_config == fixed
        if asked and trial.code == trial.baseline_code:
            yield trial


def _further(claims: Sequence[Claim], trials: Sequence[TrialRecord], primary: str) -> int:
    own = [claim for claim in claims if claim.metric == primary]
    if any(claim.confidence != "exploratory" for claim in own):
        return 0
    return REPLICATES if own or any(trial.status == "ok" for trial in trials) else FIRST + REPLICATES
