"""A thread as a notebook reads it: `research_steps.load(topic)`, which writes nothing."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from research_steps.errors import UsageError
from research_steps.journal.logbook_place import logbook_of
from research_steps.records.series import Series, check_topic

if TYPE_CHECKING:
    from research_steps.evidence.state import ThreadState
    from research_steps.journal.snapshot import Snapshot
    from research_steps.records.encoding import Stored
    from research_steps.records.model import Claim, TrialRecord


@dataclass(frozen=True)
class LoadedThread:
    """What is known of a thread: `records` has its entries and trials by their hashes, `state` is what follows."""

    series: Series
    records: "Snapshot"
    state: "ThreadState"

    @property
    def claims(self) -> "tuple[Claim, ...]":
        """The claims that count now, against a baseline case in force."""
        return self.state.claims

    def table(self) -> Any:
        """The trials as a pandas DataFrame, one row each, in the order in which they began.

        Columns 'config.<field>' hold the configuration, 'metric.<name>' the median of a metric's samples, 'ratio.<name>'
        what the trial's pairs with the baseline say by the estimate of claims ('difference.<name>' or 'absolute.<name>'
        where they go by that), and 'ratio.<name>.low' and '.high' the middle half of the pairs. Times are in UTC.
        Raises UsageError where pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise UsageError(
                "The table is a DataFrame of pandas, which isn't installed: 'pip install pandas'."
            ) from error
        trials = [trial for trial in self.records.trials.values() if not trial.record.late]
        trials.sort(key=lambda trial: (trial.record.started_at, trial.record.id))
        frame = pandas.DataFrame([self._row(trial) for trial in trials])
        for name in ("started_at", "finished_at") if trials else ():
            frame[name] = pandas.to_datetime(frame[name])
        return frame

    def _row(self, trial: "Stored[TrialRecord]") -> dict[str, Any]:
        from research_steps.evidence.claim_text import changes_text
        from research_steps.evidence.effects import medians, own_estimates
        from research_steps.records.configurations import changes_in

        record = trial.record
        row: dict[str, Any] = {
            "id": record.id,
            "entry": record.id.partition(".")[0],
            "label": record.label,
            "changes": changes_text(changes_in(record.config, record.baseline_config)),
            "replicate": record.replicate,
            "status": record.status,
            "error": f"{record.error.type}: {record.error.message}" if record.error is not None else "",
            "contended": record.contended,
            "retracted": trial.sha256 in self.state.retracted,
            "mode": record.mode,
            "device_class": record.device_class,
            "started_at": record.started_at,
            "finished_at": record.finished_at,
            "host": record.provenance.host,
            "actor": record.provenance.actor.name,
            "commit": record.provenance.commit,
            "patch": record.provenance.patch,
            "baseline_version": str(record.baseline_version) if record.baseline_version else "",
        }
        row |= _flat("config", record.config)
        row |= _flat("metric", medians(record.samples.candidate) if record.samples is not None else {})
        for name, own in own_estimates(self.series, record.samples).items():
            row[f"{own.estimand}.{name}"] = own.value
        for name, ratio in record.ratios.items():
            row |= {f"ratio.{name}.low": ratio.low, f"ratio.{name}.high": ratio.high}
        return row


def load(topic: str, prefix: str | None = None) -> LoadedThread:
    """What is known of the thread `topic`, in the store and in git, from the checkout that this runs in.

    `prefix` is the store (default: MARIN_PREFIX, else local_store/ in the checkout). Raises ResearchError.
    """
    from research_steps.evidence.state import thread_state
    from research_steps.files import read
    from research_steps.git import Checkout
    from research_steps.journal.journal import Journal
    from research_steps.journal.progress import under_way
    from research_steps.journal.store import open_store, store_url
    from research_steps.publish.logbook import format as logbook_format

    checkout = Checkout.find()
    journal = Journal(open_store(store_url(checkout.root, prefix)), check_topic(topic))
    series = journal.series(logbook_of(checkout, topic).records)
    records = journal.scan(logbook_of(checkout, topic).records)
    state = thread_state(
        series,
        records,
        running=under_way(journal, records),
        shown=logbook_format.parse(read(logbook_of(checkout, topic).path) or b"").records,
    )
    return LoadedThread(series, records, state)


def _flat(name: str, value: Any) -> dict[str, Any]:
    """Nested fields by their path, such as config.model.hidden."""
    if not isinstance(value, Mapping):
        return {name: value}
    return {path: leaf for field, inner in value.items() for path, leaf in _flat(f"{name}.{field}", inner).items()}
