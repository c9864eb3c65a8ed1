"""W&B runs as values, made from records: one for each trial, and one for each measured step with its raw table.

Pure functions: the same records give the same runs. A run's ID comes from its record's hash, or is that of the run that
the trial started, so that a run that is sent twice is one run. What a run says of where it comes from is its commit,
command and device: no host, no user, no environment.
"""

import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import zip_longest
from typing import Any

import msgspec

from research_steps.evidence.effects import medians, own_estimates
from research_steps.records.encoding import Stored
from research_steps.records.model import EntryRecord, Error, Samples, TrialRecord
from research_steps.records.redaction import redact_tree, redactor
from research_steps.records.series import Series
from research_steps.records.times import parse_utc
from research_steps.records.wandb_names import accepted_tags, named
from research_steps.trial.wandb_log import RunLog

LARGEST_TABLE = 10_000_000
_HYPOTHESIS = re.compile(r"H[1-9][0-9]*\b")
_NOT_IN_ARTIFACT_NAMES = re.compile(r"[^A-Za-z0-9_.-]+")
# What a run or a table says itself under these names, and W&B under an empty one or one that begins with an underscore.
_TAKEN = re.compile(
    r"|_.*|(baseline|ratio|ratio_low|ratio_high|difference|absolute|metric)/.*|samples|status|sha256|commit|duration_s"
    r"|trial|label|replicate|record|side|sample",
    re.DOTALL,
)


@dataclass(frozen=True)
class Run:
    """One W&B run, whole. `history` has one row for each pair of samples, or those of a tracker, with their steps; times
    are seconds since 1970; `table` is in W&B's own layout of a table."""

    id: str
    project: str
    name: str
    group: str
    job_type: str
    tags: list[str]
    notes: str
    config: dict[str, Any]
    summary: dict[str, Any]
    started: float
    finished: float
    exit_code: int
    history: Sequence[dict[str, Any]] = ()
    table_name: str = ""
    table: bytes = b""


@dataclass(frozen=True)
class Place:
    """What all runs of a series have in common. `elsewhere` says where the samples are that W&B does not get."""

    series: Series
    project: str
    tags: tuple[str, ...]
    elsewhere: str


def run_id(sha256: str) -> str:
    return sha256[:16]


def of_trial(trial: Stored[TrialRecord], entry: EntryRecord, place: Place) -> Run:
    """The run of one trial, in the group of the step that measured it. A failed trial is a failed run."""
    record = trial.record
    samples = record.samples or _NONE
    return _run(
        trial,
        entry,
        place,
        job_type="trial",
        tags=["contended"] if record.contended else [],
        notes=_error(record.error) if record.error else entry.hypothesis,
        config={
            "config": _text_only(record.config),
            "baseline": _text_only(record.baseline_config),
            "replicate": record.replicate,
            "device": {"class": record.device_class, "seen": [msgspec.to_builtins(device) for device in record.devices]},
            "measure": {"function": record.measure, "code": record.code},
            "contended": record.contended,
        },
        summary={
            **{shown(name): value for name, value in medians(samples.candidate).items()},
            **{f"baseline/{name}": value for name, value in medians(samples.baseline).items()},
            **{f"{own.estimand}/{name}": own.value for name, own in own_estimates(place.series, samples).items()},
            **{f"ratio_low/{name}": ratio.low for name, ratio in record.ratios.items()},
            **{f"ratio_high/{name}": ratio.high for name, ratio in record.ratios.items()},
            "samples": len(samples.order),
        },
        history=_history(samples),
    )


def of_tracked(run: Run, log: RunLog) -> Run:
    """The run that a trial started itself, with what the one from its record would say added: what it named stands, and
    its history is its own. What is called the same in both is 'research/…' of the record."""
    # The names of metrics are the same in each row.
    clean = cache(redactor())

    def beside(theirs: dict[str, Any], ours: dict[str, Any]) -> dict[str, Any]:
        kept = _text_only(redact_tree(theirs, clean))
        return {**kept, **{f"research/{name}" if name in kept else name: value for name, value in ours.items()}}

    return replace(
        run,
        id=log.id,
        project=clean(log.project) or run.project,
        name=clean(log.name) or run.name,
        group=clean(log.group) or run.group,
        job_type=clean(log.job_type) or run.job_type,
        tags=accepted_tags([*map(clean, log.tags), *run.tags]),
        notes="\n".join(filter(None, (clean(log.notes), run.notes))),
        config=beside(log.config, run.config),
        summary=beside(log.summary, run.summary),
        history=[redact_tree(row, clean) for row in log.rows],
    )


def of_entry(entry: Stored[EntryRecord], trials: Sequence[Stored[TrialRecord]], place: Place) -> Run:
    """A measured step's own run: what it found in words, and the raw table of all its trials."""
    record = entry.record
    table = _table(trials)
    table_name = _NOT_IN_ARTIFACT_NAMES.sub("-", f"{record.id}-samples-{entry.sha256[:8]}")
    where = f"{table_name} in this run's artifacts"
    if not table:
        where = f"left out, because it has more than {LARGEST_TABLE // 10**6} MB; {place.elsewhere}"
    return _run(
        entry,
        record,
        place,
        job_type=record.step,
        notes=_notes(record, where),
        config={
            "config": _text_only(record.config),
            "rests on": [ref.id for ref in record.inputs],
            "raw table": where,
        },
        summary={
            "result": record.result,
            "trials": len(record.rows),
            "failed trials": sum(row.status == "failed" for row in record.rows),
            **_best(place.series, trials),
        },
        table_name=table_name,
        table=table,
    )


def _run(
    stored: Stored[TrialRecord] | Stored[EntryRecord],
    entry: EntryRecord,
    place: Place,
    *,
    config: dict[str, Any],
    summary: dict[str, Any],
    tags: Sequence[str] = (),
    **more: Any,
) -> Run:
    """A run with what those of trials and of steps have in common: names, times, and where it comes from."""
    record = stored.record
    provenance = record.provenance
    hypothesis = _HYPOTHESIS.match(entry.hypothesis)
    started, finished = parse_utc(record.started_at), parse_utc(record.finished_at)
    origin = {
        "id": record.id,
        "label": _text_only(record.label),
        "command": _text_only(provenance.command),
        "commit": provenance.commit,
        "branch": provenance.branch,
        "patch": provenance.patch,
        "actor": provenance.actor.kind,
        "python": provenance.python,
        "packages": provenance.packages,
    }
    identity = {"status": record.status, "sha256": stored.sha256, "commit": provenance.commit}
    return Run(
        id=run_id(stored.sha256),
        project=place.project,
        name=named(record.id, record.label),
        group=named(entry.id, entry.label),
        tags=accepted_tags(
            (*place.tags, entry.step, *([hypothesis[0]] if hypothesis else []), record.status, *tags),
        ),
        config={**config, "from": origin},
        summary={**summary, **identity, "duration_s": (finished - started).total_seconds()},
        started=started.timestamp(),
        finished=finished.timestamp(),
        exit_code=0 if record.status == "ok" else 1,
        **more,
    )


def shown(metric: str) -> str:
    """The name of a metric in a run: its own, unless that means something else there."""
    return f"metric/{metric}" if _TAKEN.fullmatch(metric) else metric


def _history(samples: Samples) -> list[dict[str, float]]:
    """One row for each pair: each metric of the candidate, of the baseline, and their quotient where they are pairs."""
    sides = {
        **{shown(name): values for name, values in samples.candidate.items()},
        **{f"baseline/{name}": values for name, values in samples.baseline.items()},
    }
    rows = [
        {name: value for name, value in zip(sides, values, strict=True) if value is not None}
        for values in zip_longest(*sides.values())
    ]
    for row in rows if samples.paired else []:
        for name in samples.candidate:
            mine, other = row.get(shown(name)), row.get(f"baseline/{name}")
            if mine is not None and other and math.isfinite(mine / other):
                row[f"ratio/{name}"] = mine / other
    return rows


def _best(series: Series, trials: Sequence[Stored[TrialRecord]]) -> dict[str, float]:
    """The lowest, median and highest estimate of each metric, of the trials by themselves."""
    estimates: dict[str, list[float]] = {}
    for trial in trials:
        for name, own in own_estimates(series, trial.record.samples).items():
            estimates.setdefault(f"{own.estimand}/{name}", []).append(own.value)
    return {
        f"{what} {name}": pick(values)
        for name, values in estimates.items()
        for what, pick in (("lowest", min), ("median", statistics.median), ("highest", max))
    }


# What a table says of each sample, before its metrics, and of what type.
_COLUMNS = {
    **{"trial": "string", "label": "string", "replicate": "number", "status": "string", "record": "string"},
    **{"side": "string", "sample": "number"},
}


def _table(trials: Sequence[Stored[TrialRecord]]) -> bytes:
    """All samples of a step's trials, one row for each, as `wandb.Table` writes it; empty where that is too large."""
    metrics = sorted({name for trial in trials for name in (trial.record.samples or _NONE).candidate})
    rows: list[list[Any]] = []
    for trial in trials:
        record = trial.record
        start = [record.id, record.label, record.replicate, record.status, trial.sha256]
        samples = record.samples or _NONE
        for side, by_metric in (("candidate", samples.candidate), ("baseline", samples.baseline)):
            values = zip_longest(*(by_metric.get(name, []) for name in metrics))
            rows += [[*start, side, number, *sample] for number, sample in enumerate(values)]
        if record.samples is None:
            rows.append([*start, "candidate", None, *(None for _ in metrics)])
    columns = [*_COLUMNS, *map(shown, metrics)]
    # Each cell takes two bytes at least, so the largest tables need not be written to be known as too large.
    if 2 * len(rows) * len(columns) > LARGEST_TABLE:
        return b""
    types = {
        column: {"params": {"allowed_types": [{"wb_type": "none"}, {"wb_type": kind}]}, "wb_type": "union"}
        for column, kind in {**_COLUMNS, **dict.fromkeys(map(shown, metrics), "number")}.items()
    }
    data = msgspec.json.encode(
        {
            "_type": "table",
            "column_types": {"params": {"type_map": types}, "wb_type": "typedDict"},
            "columns": columns,
            "data": rows,
            "ncols": len(columns),
            "nrows": len(rows),
        }
    )
    return data if len(data) <= LARGEST_TABLE else b""


_NONE = Samples(paired=False, order="", candidate={}, baseline={})


def _text_only(value: Any) -> Any:
    """Plain values in which W&B sees no artifact of its own, to be fetched or refused: a space in front says so."""
    if isinstance(value, str):
        return f" {value}" if value.startswith("wandb-artifact://") else value
    if isinstance(value, dict):
        kept = {name: _text_only(item) for name, item in value.items()}
        return {" _type": kept.pop("_type"), **kept} if kept.get("_type") == "artifactVersion" else kept
    if isinstance(value, list | tuple):
        return [_text_only(item) for item in value]
    return value


def _notes(record: EntryRecord, table: str) -> str:
    parts: Mapping[str, str] = {
        "Hypothesis": record.hypothesis,
        "Result": record.result,
        "Error": _error(record.error) if record.error else "",
        "Interpretation": record.interpretation,
        "Next action": record.next_action,
        "Raw table": table,
    }
    return "\n".join(f"{name}: {text}" for name, text in parts.items() if text)


def _error(error: Error) -> str:
    return "\n".join([f"{error.type}: {error.message}", *error.frames])
