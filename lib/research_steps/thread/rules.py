"""The rules of a thread, held before anything is measured: one axis first, and a baseline that stays where it is."""

from collections.abc import Collection, Iterable
from typing import Any

from research_steps.errors import UsageError
from research_steps.evidence.claim_text import changes_text
from research_steps.evidence.standing import fixed_cases
from research_steps.records.configurations import CODE, code_name, configuration_of, differences
from research_steps.records.encoding import Stored
from research_steps.records.model import EntryRecord
from research_steps.records.step_kinds import Sweep
from research_steps.thread.configs import StepConfig
from research_steps.trial.context import Session


def check(session: Session, config: StepConfig) -> list[str]:
    """Raises UsageError when a step breaks a rule; returns what was forced."""
    if config.kind == "baseline":
        _check_baseline(session, config)
    if config.kind == "interact":
        return _check_axes(session, config)
    return []


def check_case(
    entries: Iterable[Stored[EntryRecord]], label: str, case: dict[str, Any], placed: Collection[str] = ()
) -> None:
    """A baseline case, once measured under its label, moves only by a rebase. Raises UsageError.

    The fields `placed` by the executor are nothing that the thread gives.
    """
    fixed = fixed_cases(entries).get(label)
    if fixed is None:
        return
    differ = differences(configuration_of(fixed.case, case), case)
    apart = {name: pair for name, pair in differ.items() if name not in placed}
    if apart:
        expected, now = (changes_text({name: pair[side] for name, pair in apart.items()}) for side in (0, 1))
        raise UsageError(
            f"The baseline {label!r} is fixed since {fixed.entry.record.id} with {expected}; the thread gives {now}. "
            "Move it with 'research rebase' and replicated evidence, or give the other case a label of its own."
        )


def name_of_code(session: Session, config: StepConfig) -> str:
    """What the case of a baseline step calls its code: nothing, until a rebase moved it to other code; then as that
    did, for as long as it is that code."""
    fixed = fixed_cases(_entries(session)).get(config.label)
    if fixed is None or CODE not in fixed.case:
        return ""
    if fixed.digest == config.what.digest:
        return str(fixed.case[CODE])
    source = session.captured.provenance
    return code_name(source.commit or config.what.digest, source.patch)


def _check_baseline(session: Session, config: StepConfig) -> None:
    case, declared = config.case, config.version["case"]
    # Where the executor puts a path changes with the code and the store.
    placed = {name for name in {**declared, **case} if declared.get(name) != case.get(name)}
    check_case(_entries(session), config.label, case, placed)


def _check_axes(session: Session, config: StepConfig) -> list[str]:
    """Axes that come without a sweep must have been swept alone before."""
    sweeps = [
        stored.record.details_as(Sweep)
        for stored in _entries(session)
        if stored.record.step == "sweep" and stored.record.status == "ok" and stored.sha256 not in session.retracted
    ]
    swept = {sweep.axis for sweep in sweeps if sweep.baseline_case == config.what.named(config.case)}
    missing = [axis for axis, _ in config.axes if axis not in swept]
    if not missing:
        return []
    broken = f"not swept alone before: {', '.join(missing)}"
    if session.force:
        return [broken]
    raise UsageError(
        f"The interaction {config.label!r} takes axes that were {broken}. Sweep each first with steps.sweep, so that "
        "its own effect is known, or run with --force true, which is recorded."
    )


def _entries(session: Session) -> Collection[Stored[EntryRecord]]:
    return session.journal.published(session.repository).entries.values()
