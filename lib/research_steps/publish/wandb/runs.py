"""W&B runs as values, made from records: one for each trial, and one for each measured step with its raw table.

Pure functions: the same records give the same runs. A run's ID comes from its record's hash, so that a run that is
sent twice is one run. What a run says of where it comes from is its commit, command and device: no host, no user, no
environment.
"""

import math
import re
import statistics
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

import msgspec

from research_steps.evidence.statistics import medians
from research_steps.records.encoding import Stored
from research_steps.records.model import EntryRecord, Error, Provenance, Row, Samples, TrialRecord
from research_steps.records.series import LONGEST_TAG
from research_steps.records.times import parse_utc

# The kinds of steps that measure, whose own run carries the raw table.
MEASURED = frozenset(("baseline", "sweep", "replicate", "interact", "dev"))
# W&B refuses longer names of runs.
LONGEST_NAME = 64
LARGEST_TABLE = 10_000_000
_HYPOTHESIS = re.compile(r"H[1-9][0-9]*\b")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_NOT_IN_ARTIFACT_NAMES = re.compile(r"[^A-Za-z0-9_.-]+")


class Table(msgspec.Struct, frozen=True):
    """All samples of a step's trials: one row for each sample, in W&B's own layout of a table."""

    name: str
    columns: list[str]
    types: list[str]
    data: list[list[Any]]

    def encode(self) -> bytes:
        """As `wandb.Table` writes it, without what its checks cost for each row."""
        kinds = {
            column: {"params": {"allowed_types": [{"wb_type": "none"}, {"wb_type": kind}]}, "wb_type": "union"}
            for column, kind in zip(self.columns, self.types, strict=True)
        }
        return msgspec.json.encode(
            {
                "_type": "table",
                "column_types": {"params": {"type_map": kinds}, "wb_type": "typedDict"},
                "columns": self.columns,
                "data": self.data,
                "ncols": len(self.columns),
                "nrows": len(self.data),
            }
        )


class Run(msgspec.Struct, frozen=True):
    """One W&B run, whole. `history` has one row for each pair of samples; times are seconds since 1970."""

    id: str
    project: str
    name: str
    group: str
    job_type: str
    tags: list[str]
    notes: str
    config: dict[str, Any]
    summary: dict[str, Any]
    history: list[dict[str, float]]
    started: float
    finished: float
    exit_code: int
    table: Table | None = None


class Place(msgspec.Struct, frozen=True):
    """What all runs of a series have in common. `elsewhere` says where the samples are that W&B does not get."""

    project: str
    tags: tuple[str, ...]
    elsewhere: str


def run_id(sha256: str) -> str:
    return sha256[:16]


def of_trial(trial: Stored[TrialRecord], entry: EntryRecord, place: Place) -> Run:
    """The run of one trial, in the group of the step that measured it. A failed trial is a failed run."""
    record = trial.record
    samples = record.samples
    return Run(
        id=run_id(trial.sha256),
        project=place.project,
        name=named(record.id, record.label),
        group=group_of(entry),
        job_type="trial",
        tags=tags((*place.tags, *_tags_of(entry), record.status, *(["contended"] if record.contended else []))),
        notes=_error(record.error) if record.error else entry.hypothesis,
        config={
            "config": _text_only(record.config),
            "baseline": _text_only(record.baseline_config),
            "replicate": record.replicate,
            "device": {"class": record.device_class, "seen": [msgspec.to_builtins(device) for device in record.devices]},
            "measure": {"function": record.measure, "code": record.code},
            "from": _origin(record.provenance, record.id, record.label),
            "contended": record.contended,
        },
        summary={
            **(_summary(samples) if samples else {}),
            **{f"ratio/{name}": ratio.median for name, ratio in record.ratios.items()},
            **{f"ratio_low/{name}": ratio.low for name, ratio in record.ratios.items()},
            **{f"ratio_high/{name}": ratio.high for name, ratio in record.ratios.items()},
            "samples": len(samples.order) if samples else 0,
            **_identity(record.status, trial.sha256, record.provenance, record.started_at, record.finished_at),
        },
        history=_history(samples) if samples else [],
        started=parse_utc(record.started_at).timestamp(),
        finished=parse_utc(record.finished_at).timestamp(),
        exit_code=0 if record.status == "ok" else 1,
    )


def of_entry(entry: Stored[EntryRecord], trials: Sequence[Stored[TrialRecord]], place: Place) -> Run:
    """A measured step's own run: what it found in words, and the raw table of all its trials."""
    record = entry.record
    table = _table(entry, trials)
    # Each cell takes two bytes at least, so the largest tables need not be written to be known as too large.
    size = 2 * len(table.data) * len(table.columns)
    size = len(table.encode()) if size <= LARGEST_TABLE else size
    fits = size <= LARGEST_TABLE
    where = f"{table.name} in this run's artifacts"
    told = where if fits else f"left out, because it has more than {LARGEST_TABLE // 10**6} MB; {place.elsewhere}"
    return Run(
        id=run_id(entry.sha256),
        project=place.project,
        name=named(record.id, record.label),
        group=group_of(record),
        job_type=record.step,
        tags=tags((*place.tags, *_tags_of(record), record.status)),
        notes=_notes(record, told),
        config={
            "config": _text_only(record.config),
            "rests on": [ref.id for ref in record.inputs],
            "from": _origin(record.provenance, record.id, record.label),
            "raw table": told,
        },
        summary={
            "result": record.result,
            "trials": len(record.rows),
            "failed trials": sum(row.status == "failed" for row in record.rows),
            **_best(record.rows),
            **_identity(record.status, entry.sha256, record.provenance, record.started_at, record.finished_at),
        },
        history=[],
        started=parse_utc(record.started_at).timestamp(),
        finished=parse_utc(record.finished_at).timestamp(),
        exit_code=0 if record.status == "ok" else 1,
        table=table if fits else None,
    )


def group_of(entry: EntryRecord) -> str:
    """The group of all runs of a step."""
    return named(entry.id, entry.label)


def named(id: str, label: str) -> str:
    """An experiment ID and its label on one line, as long as W&B allows; a trial without a label is its ID."""
    return shortened(id if label in ("", id) else f"{id} {label}", LONGEST_NAME)


def tags(wanted: Sequence[str]) -> list[str]:
    """Tags as W&B takes them: each once, on one line, 1 to 64 characters."""
    return list(dict.fromkeys(tag for text in wanted if (tag := shortened(text, LONGEST_TAG))))


def shortened(text: str, longest: int) -> str:
    line = _CONTROL.sub(" ", text).strip()
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


def _tags_of(entry: EntryRecord) -> list[str]:
    hypothesis = _HYPOTHESIS.match(entry.hypothesis)
    return [entry.step, *([hypothesis[0]] if hypothesis else [])]


def _history(samples: Samples) -> list[dict[str, float]]:
    """One row for each pair: each metric of the candidate, of the baseline, and their quotient where they are pairs."""
    sides = {**samples.candidate, **{f"baseline/{name}": values for name, values in samples.baseline.items()}}
    rows = [
        {name: value for name, value in zip(sides, values, strict=True) if value is not None}
        for values in zip_longest(*sides.values())
    ]
    for row in rows if samples.paired else []:
        for name in samples.candidate:
            mine, other = row.get(name), row.get(f"baseline/{name}")
            if mine is not None and other and math.isfinite(mine / other):
                row[f"ratio/{name}"] = mine / other
    return rows


def _summary(samples: Samples) -> dict[str, float]:
    return {
        **medians(samples.candidate),
        **{f"baseline/{name}": value for name, value in medians(samples.baseline).items()},
    }


def _best(rows: Sequence[Row]) -> dict[str, float]:
    """The lowest, median and highest ratio of each metric over the rows that were measured."""
    found: dict[str, list[float]] = {}
    for row in rows:
        for name, ratio in row.ratios.items() if row.status == "ok" else ():
            found.setdefault(name, []).append(ratio.median)
    return {
        f"{what}/{name}": pick(values)
        for name, values in found.items()
        for what, pick in (("lowest ratio", min), ("median ratio", statistics.median), ("highest ratio", max))
    }


def _table(entry: Stored[EntryRecord], trials: Sequence[Stored[TrialRecord]]) -> Table:
    names = sorted({name for trial in trials for name in (trial.record.samples or _NONE).candidate})
    data = []
    for trial in trials:
        record = trial.record
        start = [record.id, record.label, record.replicate, record.status, trial.sha256]
        samples = record.samples or _NONE
        for side, columns in (("candidate", samples.candidate), ("baseline", samples.baseline)):
            values = zip_longest(*(columns.get(name, []) for name in names))
            data += [[*start, side, number, *sample] for number, sample in enumerate(values)]
        if record.samples is None:
            data.append([*start, "candidate", None, *(None for _ in names)])
    return Table(
        name=_NOT_IN_ARTIFACT_NAMES.sub("-", f"{entry.record.id}-samples-{entry.sha256[:8]}"),
        columns=["trial", "label", "replicate", "status", "record", "side", "sample", *names],
        types=["string", "string", "number", "string", "string", "string", "number", *("number" for _ in names)],
        data=data,
    )


_NONE = Samples(paired=False, order="", candidate={}, baseline={})


def _identity(status: str, sha256: str, provenance: Provenance, started: str, finished: str) -> dict[str, Any]:
    seconds = (parse_utc(finished) - parse_utc(started)).total_seconds()
    return {"status": status, "sha256": sha256, "commit": provenance.commit, "duration_s": seconds}


def _origin(provenance: Provenance, id: str, label: str) -> dict[str, Any]:
    return {
        "id": id,
        "label": _text_only(label),
        "command": _text_only(provenance.command),
        "commit": provenance.commit,
        "branch": provenance.branch,
        "patch": provenance.patch,
        "actor": provenance.actor.kind,
        "python": provenance.python,
        "packages": provenance.packages,
    }


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
